/* Owns berth-docker's process, its socket and the daemon in front of it, for one test. */
#include "docker_rig.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"
#include "child.h"
#include "folder.h"
#include "sandbox_spec.h"

int64_t soon(void)
{
    return clock_now_ns() + WAIT_S * CLOCK_NS_PER_S;
}

const char *below(const char *name, char path[static 108])
{
    (void)snprintf(path, 108, "%s/%s", folder, name);
    return path;
}

static void on_gone(void *context, const char *id, enum kill_cause cause)
{
    struct rig *rig = context;
    (void)pthread_mutex_lock(&rig->lock);
    if (rig->gone_count < GONE_MAX) {
        (void)snprintf(rig->gone[rig->gone_count], sizeof(rig->gone[0]), "%s", id);
        rig->causes[rig->gone_count++] = cause;
    }
    (void)pthread_mutex_unlock(&rig->lock);
}

static int listen_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)below(name, address.sun_path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 4) != 0)
        return -1;
    return fd;
}

void start_engine(struct rig *rig)
{
    char host[128];
    char path[108];
    char layers[108];
    char home[108];
    (void)below("layers", layers);
    (void)below("home", home);
    (void)snprintf(host, sizeof(host), "unix://%s", below("docker.sock", path));
    rig->pid = fork();
    if (rig->pid != 0)
        return;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    require(dup2(rig->listen_fd, 9) == 9);
    (void)setenv("DOCKER_HOST", rig->searches ? "" : host, 1);
    (void)setenv("XDG_RUNTIME_DIR", folder, 1);
    (void)setenv("HOME", home, 1);
    (void)setenv("DOCKER_BASE_IMAGE", "base:1", 1);
    (void)setenv("BERTH_DOCKER_IMAGES", "other:2", 1);
    (void)setenv("BERTH_TESTING", "1", 1);
    (void)setenv("BERTH_SWEEP_MS", "200", 1);
    (void)execl(getenv("BERTH_DOCKER"), "berth-docker", "--instance", INSTANCE, "--listen-fd", "9",
                "--client-uid", "65534", "--layers", layers, (char *)NULL);
    require(!"the engine starts");
}

void stop_engine(struct rig *rig, int number)
{
    if (rig->pid > 0) {
        (void)kill(rig->pid, number);
        (void)waitpid(rig->pid, NULL, 0);
    }
    rig->pid = 0;
}

void replace_engine(struct rig *rig)
{
    enum engine_state seen = ENGINE_STATE_RUNNING;
    stop_engine(rig, SIGKILL);
    start_engine(rig);
    wait_for(engine_inspect(rig->engine, "nobody", soon(), &seen, NULL) == -ERR_NOT_FOUND);
}

int rig_open(void **state)
{
    static struct rig rig;
    char path[108];
    const struct engine_events events = {.context = &rig, .gone = on_gone};
    if (folder_make(state) != 0 || !getenv("BERTH_DOCKER"))
        return -1;
    memset(&rig, 0, sizeof(rig));
    (void)signal(SIGPIPE, SIG_IGN); /* the daemon writes to clients that went */
    (void)pthread_mutex_init(&rig.lock, NULL);
    *state = &rig;
    rig.listen_fd = listen_at("engine.sock");
    rig.docker = fake_docker_start(below("docker.sock", path));
    if (rig.listen_fd < 0 || !rig.docker)
        return -1;
    start_engine(&rig);
    return engine_process_new("docker", below("engine.sock", path), &events, &rig.engine, NULL);
}

int rig_close(void **state)
{
    struct rig *rig = *state;
    engine_free(rig->engine);
    stop_engine(rig, SIGTERM);
    fake_docker_stop(rig->docker);
    fd_close(&rig->listen_fd);
    (void)pthread_mutex_destroy(&rig->lock);
    return folder_remove(state);
}

struct engine_create spec_of(const char *id)
{
    struct engine_create spec = small_sandbox;
    (void)snprintf(spec.id, sizeof(spec.id), "%s", id);
    spec.image[0] = '\0';
    spec.disk = true;
    return spec;
}

int create(struct rig *rig, const char *id, int *out_fd, struct err *err)
{
    const struct engine_create spec = spec_of(id);
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    FD_AUTO int fd = -1;
    int result = engine_create(rig->engine, &spec, soon(), &fd, nonce, err);
    if (out_fd)
        *out_fd = fd_take(&fd);
    return result;
}

void assert_says_hi(int fd)
{
    char text[3] = "";
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, WAIT_S * 1000), 1);
    assert_int_equal(read(fd, text, 2), 2);
    assert_string_equal(text, "hi");
}

void assert_closes(int fd)
{
    char byte = 0;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, WAIT_S * 1000), 1);
    assert_true(read(fd, &byte, 1) <= 0);
}

size_t count_sandboxes(struct rig *rig)
{
    char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
    size_t count = 0;
    struct err err = ERR_INIT;
    assert_ok(engine_list(rig->engine, soon(), &ids, &count, &err), err);
    free(ids);
    return count;
}

size_t gone_count(struct rig *rig)
{
    (void)pthread_mutex_lock(&rig->lock);
    size_t count = rig->gone_count;
    (void)pthread_mutex_unlock(&rig->lock);
    return count;
}

bool is_available(struct rig *rig)
{
    struct engine_info info;
    char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
    size_t count = 0;
    bool lists = engine_list(rig->engine, soon(), &ids, &count, NULL) == 0;
    free(ids);
    return lists && engine_probe(rig->engine, soon(), &info, NULL) == 0 &&
           info.unavailable[0] == '\0';
}
