/* Owns the standard streams of init in a container that somebody else made. Refuses to know what
 * goes through them. */
#include "init/carried.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/encoding.h"
#include "base/fd.h"
#include "init/group.h"
#include "init/identity.h"

enum { CONFIG_SIZE_MAX = 4096, HIGH_FD = 10, READS_MAX = 16 };
#define CHUNK (64U * 1024U)
#define PAUSE_NS (200 * CLOCK_NS_PER_MS) /* poll(2) would say ever again that nobody is there */
#define SILENCE_NS (CARRIER_SILENCE_MS * CLOCK_NS_PER_MS)

/* ---- the configuration ---- */

/* Of the variable, which is wiped whether it is wanted or not: it is seen in /proc. */
static size_t take_variable(uint8_t out[static CONFIG_SIZE_MAX])
{
    char *text = getenv(INIT_CARRIED_VARIABLE);
    size_t size = text ? strlen(text) : 0;
    size_t used = 0;
    for (size_t i = 0; i + 1 < size && used < CONFIG_SIZE_MAX; i += 2) {
        int high = hex_digit(text[i]);
        int low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0)
            break; /* what is decoded then is cut short, and no configuration */
        out[used++] = (uint8_t)(high << 4 | low);
    }
    if (text)
        explicit_bzero(text, size);
    return used;
}

/* The file comes first: it is of a container that is started again. */
static int read_settings(struct init_config *config, struct err *err)
{
    uint8_t bytes[CONFIG_SIZE_MAX];
    size_t used = take_variable(bytes);
    int result = 0;
    FD_AUTO int fd = open(INIT_CARRIED_CONFIG, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0)
        result = init_config_read(fd, config, err);
    else if (errno != ENOENT || used == 0)
        result = err_sys(err, errno, "open " INIT_CARRIED_CONFIG);
    else
        result = init_config_decode(bytes, used, config, err);
    explicit_bzero(bytes, sizeof(bytes));
    if (result == 0 && !config->carried)
        result = err_set(err, ERR_PROTOCOL, "the settings hold no secret");
    return result;
}

/* Neither the secret nor the nonce is the code's to see. The program may be a bind mount, which
 * stays; so does the folder then. */
static int remove_config(struct err *err)
{
    if (unlink(INIT_CARRIED_CONFIG) != 0 && errno != ENOENT &&
        truncate(INIT_CARRIED_CONFIG, 0) != 0)
        return err_sys(err, errno, "remove " INIT_CARRIED_CONFIG);
    (void)unlink(INIT_CARRIED_PROGRAM);
    (void)rmdir(INIT_CARRIED_FOLDER);
    (void)rmdir(INIT_CARRIED_TMP_MARK);
    return 0;
}

static int open_folder(const char *path)
{
    return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* The container's own group, by the mounts that it is given (cgroups(7)); what is not there is -1,
 * and is counted as 0. */
static void find_cgroups(struct init_config *config)
{
    config->cgroup_mode = INIT_CGROUP_NONE;
    if (access("/sys/fs/cgroup/cgroup.controllers", R_OK) == 0) {
        config->cgroup_mode = INIT_CGROUP_V2;
        config->memory_dir_fd = open_folder("/sys/fs/cgroup");
        config->pids_dir_fd = config->cpu_dir_fd = config->cpuacct_dir_fd = config->memory_dir_fd;
        config->oom_event_fd =
            open("/sys/fs/cgroup/memory.events", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        return;
    }
    /* Without these two init counts by itself what it can. */
    if (access("/sys/fs/cgroup/memory/memory.oom_control", R_OK) != 0 ||
        access("/sys/fs/cgroup/cpuacct/cpuacct.usage", R_OK) != 0)
        return;
    config->cgroup_mode = INIT_CGROUP_V1;
    config->memory_dir_fd = open_folder("/sys/fs/cgroup/memory");
    config->pids_dir_fd = open_folder("/sys/fs/cgroup/pids");
    config->cpu_dir_fd = open_folder("/sys/fs/cgroup/cpu");
    config->cpuacct_dir_fd = open_folder("/sys/fs/cgroup/cpuacct");
}

/* A group for the code alone. What the engine counts on is there, or init does not start. */
static int make_pids_group(struct init_config *config, struct err *err)
{
    static const char folder[] = INIT_CARRIED_PIDS "/code";
    char text[16];
    if (access(INIT_CARRIED_PIDS, F_OK) != 0)
        return 0;
    if (mount("cgroup", INIT_CARRIED_PIDS, "cgroup", 0, "pids") != 0 || mkdir(folder, 0700) != 0)
        return err_sys(err, errno, "make %s", folder);
    (void)snprintf(text, sizeof(text), "%" PRIu32, config->pids_max);
    config->pids_dir_fd = open_folder(folder);
    config->pids_max_fd = openat(config->pids_dir_fd, "pids.max", O_WRONLY | O_CLOEXEC);
    config->procs_fds[0] = openat(config->pids_dir_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    config->procs_count = 1;
    if (config->procs_fds[0] < 0 || config->pids_max_fd < 0 ||
        pwrite(config->pids_max_fd, text, strlen(text), 0) < 0)
        return err_sys(err, errno, "limit %s", folder);
    /* Our descriptors stay; there is no way to it by a name any more. */
    if (umount2(INIT_CARRIED_PIDS, MNT_DETACH) != 0)
        return err_sys(err, errno, "take %s away", INIT_CARRIED_PIDS);
    return 0;
}

int carried_read_config(struct init_config *config, struct err *err)
{
    if (getpid() != 1)
        return err_set(err, ERR_UNSUPPORTED, "not PID 1: the code could not be ended as a whole");
    int result = read_settings(config, err);
    int removed = remove_config(result == 0 ? err : NULL);
    if (result == 0)
        result = removed;
    if (result == 0 && config->cgroup_mode == INIT_CGROUP_SEEN)
        find_cgroups(config);
    return result == 0 ? make_pids_group(config, err) : result;
}

/* ---- the stream ---- */

static void on_opened(void *context, int fd)
{
    struct carried *carried = context;
    if (carried->waiting_count < CARRIED_WAITING_MAX)
        carried->waiting[carried->waiting_count++] = fd;
    else
        (void)close(fd);
}

/* Out of the way of a child's standard streams. */
static int move_high(int from, struct err *err)
{
    FD_AUTO int fd = fcntl(from, F_DUPFD_CLOEXEC, HIGH_FD);
    if (fd < 0)
        return err_sys(err, errno, "descriptor %d", from);
    int result = fd_set_nonblocking(fd, true, err);
    return result == 0 ? fd_take(&fd) : result;
}

static int put_null(struct err *err)
{
    FD_AUTO int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0)
        return err_sys(err, errno, "open /dev/null");
    for (int i = 0; i < 3; i++) {
        if (dup2(null_fd, i) < 0)
            return err_sys(err, errno, "/dev/null as descriptor %d", i);
    }
    return 0;
}

/* In a child: whether the code could open init's end of the stream by its name. Linux asks for the
 * right to trace init, which nobody has; gVisor goes by the owner of the pipe alone, so that root
 * may. Whoever opens it hears the engine and speaks as init. */
static _Noreturn void try_as_code(const struct carried *carried, const struct init_config *config)
{
    const int fds[2] = {carried->in_fd, carried->out_fd};
    if (identity_become_code(config, false))
        _exit(2);
    for (int i = 0; i < 2; i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "/proc/1/fd/%d", fds[i]);
        if (open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) >= 0 ||
            open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC) >= 0)
            _exit(1);
    }
    _exit(0);
}

/* Before there is any code, so that the child can be waited for. */
static int check_closed(const struct carried *carried, const struct init_config *config,
                        struct err *err)
{
    int status = 0;
    pid_t pid = group_fork(config);
    if (pid == 0)
        try_as_code(carried, config);
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return err_sys(err, errno, "try what the code may open");
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
        return err_set(err, ERR_INTERNAL, "can't become the code: status %d", status);
    if (WEXITSTATUS(status) == 1)
        return err_set(err, ERR_UNSUPPORTED,
                       "under this kernel the code could open init's standard streams by /proc");
    return 0;
}

int carried_open(struct carried *carried, const struct init_config *config, struct err *err)
{
    const struct carrier_events events = {.context = carried, .opened = on_opened};
    memset(carried, 0, sizeof(*carried));
    carried->in_fd = move_high(STDIN_FILENO, err);
    carried->out_fd = carried->in_fd >= 0 ? move_high(STDOUT_FILENO, err) : carried->in_fd;
    if (carried->out_fd < 0)
        return carried->out_fd;
    int result = carrier_new_inner(config->secret, &events, &carried->carrier, err);
    if (result == 0)
        result = check_closed(carried, config, err);
    if (result == 0) /* from here on nothing is said on standard error */
        result = put_null(err);
    carried->heard_ns = clock_now_ns();
    return result;
}

short carried_in_events(const struct carried *carried, int64_t now_ns)
{
    return carried->carrier && now_ns >= carried->paused_until ? POLLIN : 0;
}

short carried_out_events(const struct carried *carried, int64_t now_ns)
{
    return carried->carrier && carried->out_full && now_ns >= carried->paused_until ? POLLOUT : 0;
}

int64_t carried_wakeup_ns(const struct carried *carried)
{
    if (!carried->carrier)
        return INT64_MAX;
    if (carried->paused_until > 0)
        return carried->paused_until;
    return carrier_has_beaten(carried->carrier) ? carried->heard_ns + SILENCE_NS : INT64_MAX;
}

/* Nobody holds the other end. A new engine may open it again, where it is a FIFO. */
static void lose_engine(struct carried *carried, int64_t now_ns)
{
    carrier_drop(carried->carrier);
    carried->paused_until = now_ns + PAUSE_NS;
}

static bool read_stream(struct carried *carried, int64_t now_ns)
{
    static uint8_t chunk[CHUNK];
    bool heard = false;
    for (int i = 0; i < READS_MAX; i++) {
        ssize_t got = read(carried->in_fd, chunk, sizeof(chunk));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        if (got <= 0) {
            lose_engine(carried, now_ns);
            break;
        }
        heard = true;
        carried->heard_ns = now_ns;
        /* What is no carrier's closes the channels; the next reset is waited for. */
        (void)carrier_take(carried->carrier, chunk, (size_t)got, NULL);
    }
    return heard;
}

bool carried_read(struct carried *carried, short seen, int64_t now_ns)
{
    if (!carried->carrier)
        return false;
    if (now_ns >= carried->paused_until)
        carried->paused_until = 0;
    bool heard = seen != 0 && read_stream(carried, now_ns);
    if (carrier_has_beaten(carried->carrier) && now_ns - carried->heard_ns >= SILENCE_NS)
        carrier_drop(carried->carrier);
    carrier_step(carried->carrier);
    return heard;
}

int carried_take_connection(struct carried *carried)
{
    if (carried->waiting_count == 0)
        return -1;
    int fd = carried->waiting[0];
    carried->waiting_count--;
    memmove(carried->waiting, carried->waiting + 1,
            carried->waiting_count * sizeof(carried->waiting[0]));
    return fd;
}

void carried_write(struct carried *carried, int64_t now_ns)
{
    if (!carried->carrier)
        return;
    carrier_step(carried->carrier);
    carried->out_full = false;
    for (;;) {
        size_t size = 0;
        const uint8_t *bytes = carrier_pending(carried->carrier, &size);
        if (size == 0 || now_ns < carried->paused_until)
            return;
        ssize_t sent = write(carried->out_fd, bytes, size);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            carried->out_full = true;
            return;
        }
        if (sent < 0) {
            lose_engine(carried, now_ns);
            return;
        }
        carrier_sent(carried->carrier, (size_t)sent);
    }
}
