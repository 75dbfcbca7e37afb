/* init/identity: who the code is after the way down, in both profiles, seen with the kernel's own
 * eyes (capget(2), /proc/self/status); what init keeps. Each in a child, as root, in user
 * namespaces made for it. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>

#include "base/fd.h"
#include "child.h"
#include "init/child.h"
#include "init/identity.h"

/* What `docker run` gives: the mask that /proc/self/status shows there. */
#define DOCKER_CAPS UINT64_C(0xa80425fb)
#define FIRST_ID 7000000U
#define PIDS_MAX 6

static struct init_config make_config(enum init_profile profile, uint32_t id)
{
    struct init_config config;
    init_config_clear(&config);
    config.profile = profile;
    config.uid = config.gid = id;
    config.open_files_max = 64;
    config.file_size_max = 1U << 20;
    config.pids_max = PIDS_MAX;
    return config;
}

/* A line of /proc/self/status, read without libc's buffers. */
static void read_status(const char *name, char *out, size_t size)
{
    char text[4096];
    require(fd_read_file_at(AT_FDCWD, "/proc/self/status", text, sizeof(text), NULL) > 0);
    const char *line = strstr(text, name);
    require(line);
    line += strlen(name) + 1;
    size_t length = strcspn(line, "\n");
    require(length < size);
    memcpy(out, line, length);
    out[length] = '\0';
}

static uint64_t status_number(const char *name, int base)
{
    char text[64];
    read_status(name, text, sizeof(text));
    return strtoull(text, NULL, base);
}

static void require_caps(uint64_t effective, uint64_t bounding)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    require(syscall(SYS_capget, &header, data) == 0);
    require((data[0].effective | (uint64_t)data[1].effective << 32) == effective);
    require((data[0].permitted | (uint64_t)data[1].permitted << 32) == effective);
    require((data[0].inheritable | data[1].inheritable) == 0);
    require(status_number("\nCapBnd:", 16) == bounding);
    require(status_number("\nCapAmb:", 16) == 0);
    require(prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) == 0);
}

static void require_ids(uint32_t id)
{
    uid_t uid[3];
    gid_t gid[3];
    require(getresuid(&uid[0], &uid[1], &uid[2]) == 0 && getresgid(&gid[0], &gid[1], &gid[2]) == 0);
    for (int i = 0; i < 3; i++)
        require(uid[i] == id && gid[i] == id);
    require(getgroups(0, NULL) == 0);
}

/* Its holder ends at once: the descriptor keeps the namespace, and who has become the code may not
 * signal it any more, not even by dying. */
static int open_userns(void)
{
    pid_t holder = 0;
    int fd = child_open_userns(FIRST_ID, &holder);
    require(kill(holder, SIGKILL) == 0 && waitpid(holder, NULL, 0) == holder);
    return fd;
}

static void become(struct init_config *config)
{
    if (config->userns_fd < 0 && !config->carried)
        config->userns_fd = open_userns();
    const char *failed = identity_become_code(config, true);
    if (failed)
        (void)fprintf(stderr, "# %s: %s\n", failed, strerror(errno));
    require(!failed);
}

static void strict(void *context)
{
    (void)context;
    struct init_config config = make_config(INIT_PROFILE_STRICT, 1000);
    become(&config);
    require_ids(1000);
    require_caps(0, 0);
    require(status_number("\nNoNewPrivs:", 10) == 1);
    require(status_number("\nSeccomp:", 10) == 2);
}

static void container_root(void *context)
{
    (void)context;
    struct init_config config = make_config(INIT_PROFILE_CONTAINER, 0);
    become(&config);
    require_ids(0);
    require_caps(DOCKER_CAPS, DOCKER_CAPS);
    require(status_number("\nNoNewPrivs:", 10) == 0);
    require(status_number("\nSeccomp:", 10) == 2);
    /* apt's way down, and su's */
    const gid_t groups[] = {4, 60000};
    require(setgroups(2, groups) == 0);
    require(setresgid(33, 33, 33) == 0 && setresuid(33, 33, 33) == 0);
    require_caps(0, DOCKER_CAPS);
    require(setuid(0) == -1 && errno == EPERM);
}

/* The same after a program was started: the kernel computes root's capabilities anew. */
static void container_root_executes(void *context)
{
    (void)context;
    struct init_config config = make_config(INIT_PROFILE_CONTAINER, 0);
    become(&config);
    (void)execl("/bin/sh", "sh", "-c",
                "while read -r name value; do case $name in"
                " CapInh:|CapAmb:) [ $value = 0000000000000000 ] || exit 1;;"
                " CapPrm:|CapEff:|CapBnd:) [ $value = 00000000a80425fb ] || exit 2;;"
                " esac; done < /proc/self/status; exit 42",
                (char *)NULL);
    require(!"sh starts");
}

static void container_user(void *context)
{
    (void)context;
    struct init_config config = make_config(INIT_PROFILE_CONTAINER, 1000);
    become(&config);
    require_ids(1000);
    require_caps(0, DOCKER_CAPS);
    require(status_number("\nNoNewPrivs:", 10) == 0);
    require(status_number("\nSeccomp:", 10) == 2);
}

/* Whether a set-user-id program of the sandbox's root makes an ordinary user root: 42 when it does,
 * 43 when not. */
static void set_user_id(void *context)
{
    struct init_config config = make_config(*(enum init_profile *)context, 1000);
    struct err err = ERR_INIT;
    config.userns_fd = open_userns();
    child_leave_mounts();
    require(mount("tmpfs", "/mnt", "tmpfs", 0, "mode=0755") == 0);
    FD_AUTO int from = open("/usr/bin/id", O_RDONLY | O_CLOEXEC);
    FD_AUTO int to = open("/mnt/id", O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    char chunk[65536];
    ssize_t got = 0;
    while ((got = read(from, chunk, sizeof(chunk))) > 0)
        require_ok(fd_write_all(to, chunk, (size_t)got, &err), err);
    require(got == 0 && fchown(to, FIRST_ID, FIRST_ID) == 0 && fchmod(to, 04755) == 0);
    fd_close(&to);
    become(&config);
    (void)execl("/bin/sh", "sh", "-c", "[ $(/mnt/id -u) = 0 ] && exit 42; exit 43", (char *)NULL);
    require(!"sh starts");
}

/* What the filter and the capabilities of the container allow together, and what not. */
static void container_calls(void *context)
{
    (void)context;
    struct init_config config = make_config(INIT_PROFILE_CONTAINER, 0);
    child_leave_mounts();
    require(mount("tmpfs", "/mnt", "tmpfs", 0, "mode=0777") == 0);
    become(&config);
    FD_AUTO int fd = open("/mnt/file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    require(fd >= 0 && fchown(fd, 33, 60000) == 0 && fchmod(fd, 06755) == 0);
    require(mkfifo("/mnt/fifo", 0600) == 0);
    require(mknod("/mnt/null", S_IFCHR | 0666, makedev(1, 3)) == -1 && errno == EPERM);
    require(unshare(CLONE_NEWUSER) == -1 && errno == ENOSYS);
    require(mount("tmpfs", "/mnt", "tmpfs", 0, NULL) == -1 && errno == ENOSYS);
    require(sethostname("x", 1) == -1 && errno == ENOSYS);
    require(setpriority(PRIO_PROCESS, 0, -5) == -1 && errno == EACCES);
    require(setns(config.userns_fd, CLONE_NEWUSER) == -1 && errno == ENOSYS);
    require(chroot("/mnt") == 0);
}

/* A namespace like the one that an ordinary user can make; groups: as many ids as that. */
static int open_denied(unsigned first, unsigned count)
{
    int ready[2];
    char byte = 0;
    char path[64];
    char map[64];
    static const char *const files[] = {"setgroups", "uid_map", "gid_map"};
    require(pipe2(ready, O_CLOEXEC) == 0);
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0L, 0L, 0L, 0L);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        require(write(ready[1], "R", 1) == 1);
        for (;;)
            (void)pause();
    }
    require(pid > 0 && read(ready[0], &byte, 1) == 1);
    (void)snprintf(map, sizeof(map), "0 %u %u\n", first, count);
    for (int i = 0; i < 3; i++) {
        struct err err = ERR_INIT;
        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, files[i]);
        require_ok(fd_write_file_at(AT_FDCWD, path, i == 0 ? "deny" : map, &err), err);
    }
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    require(fd >= 0);
    require(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    return fd;
}

static void groups_that_cannot_be_dropped(void *context)
{
    (void)context;
    struct init_config config = make_config(INIT_PROFILE_STRICT, 0);
    const gid_t outside[] = {FIRST_ID + 70000};
    config.userns_fd = open_denied(FIRST_ID, 1);
    require(setgroups(1, outside) == 0);
    require(!identity_become_code(&config, true));
    require(getuid() == 0 && getgid() == 0);
    gid_t groups[4];
    require(getgroups(4, groups) == 1 && groups[0] == 65534);
}

static void a_group_that_would_stay(void *context)
{
    (void)context;
    struct init_config config = make_config(INIT_PROFILE_STRICT, 0);
    const gid_t inside[] = {FIRST_ID + 5};
    config.userns_fd = open_denied(FIRST_ID, 65536);
    require(setgroups(1, inside) == 0);
    const char *failed = identity_become_code(&config, true);
    require(failed && strcmp(failed, "drop groups") == 0 && errno == EPERM);
}

/* Without cgroups the number of processes is RLIMIT_NPROC, counted in the inner namespace. */
static void processes_without_cgroups(void *context)
{
    enum init_profile profile = *(enum init_profile *)context;
    struct init_config config = make_config(profile, profile == INIT_PROFILE_STRICT ? 1000 : 0);
    become(&config);
    child_set_limits(&config);
    pid_t pids[2 * PIDS_MAX];
    int made = 0;
    while (made < 2 * PIDS_MAX && (pids[made] = fork()) > 0)
        made++;
    for (; made < 2 * PIDS_MAX && pids[made] == 0;)
        (void)pause();
    int refused = errno;
    for (int i = 0; i < made; i++) {
        (void)kill(pids[i], SIGKILL);
        (void)waitpid(pids[i], NULL, 0);
    }
    require(made == PIDS_MAX - 1 && refused == EAGAIN); /* and this process */
}

/* What init is after it has shed: nothing, but for the way into the namespace that it owns. */
static void shed(void *context)
{
    enum init_profile profile = *(enum init_profile *)context;
    struct init_config config = make_config(profile, profile == INIT_PROFILE_STRICT ? 1000 : 0);
    struct err err = ERR_INIT;
    config.userns_fd = open_userns();
    FD_AUTO int net_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    require_ok(identity_shed(profile, &err), err);
    require_caps(0, 0);
    require(status_number("\nNoNewPrivs:", 10) == (profile == INIT_PROFILE_STRICT));
    require(status_number("\nSeccomp:", 10) == 2);
    require(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
    require(setns(net_fd, CLONE_NEWNET) == -1 && errno == ENOSYS);
    require(setns(config.userns_fd, 0) == -1 && errno == ENOSYS);
    require(unshare(CLONE_NEWNS) == -1 && errno == ENOSYS);
    require(unshare(CLONE_NEWUSER) == -1 && errno == ENOSYS);
    require(syscall(SYS_bpf, 0, NULL, 0) == -1 && errno == ENOSYS);
    become(&config);
    require_ids(config.uid);
    uint64_t caps = profile == INIT_PROFILE_STRICT ? 0 : DOCKER_CAPS;
    require_caps(caps, caps);
    require(status_number("\nNoNewPrivs:", 10) == (profile == INIT_PROFILE_STRICT));
    require(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
}

/* What the engine of a container gives: root with so much, and no more. */
static void be_in_container(uint64_t caps)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    memset(data, 0, sizeof(data));
    for (int cap = 0; cap < 64; cap++) {
        if ((caps >> cap & 1) == 0)
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    }
    data[0].effective = data[0].permitted = (uint32_t)caps;
    data[1].effective = data[1].permitted = (uint32_t)(caps >> 32);
    require(syscall(SYS_capset, &header, data) == 0);
}

#define NEEDED_CAPS                                                                                \
    (UINT64_C(1) << CAP_SETUID | UINT64_C(1) << CAP_SETGID | UINT64_C(1) << CAP_KILL)

static void carried_strict(void *context)
{
    (void)context;
    struct err err = ERR_INIT;
    struct init_config config = make_config(INIT_PROFILE_STRICT, 1000);
    config.carried = true;
    be_in_container(NEEDED_CAPS | UINT64_C(1) << CAP_SETPCAP);
    require_ok(identity_shed_carried(config.profile, &err), err);
    require_caps(NEEDED_CAPS, 0);
    require(status_number("\nNoNewPrivs:", 10) == 1);
    require(status_number("\nSeccomp:", 10) == 2);
    require(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
    become(&config);
    require_ids(1000);
    require_caps(0, 0);
    require(setresuid(0, 0, 0) == -1 && errno == EPERM);
}

/* A filter is not to be had; one capability less than Docker gives is one less for the code. */
static void carried_container(void *context)
{
    (void)context;
    const uint64_t given = DOCKER_CAPS & ~(UINT64_C(1) << CAP_MKNOD);
    struct err err = ERR_INIT;
    struct init_config config = make_config(INIT_PROFILE_CONTAINER, 0);
    config.carried = true;
    be_in_container(given);
    require_ok(identity_shed_carried(config.profile, &err), err);
    require_caps(given, given);
    require(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
    become(&config);
    require_ids(0);
    require_caps(given, given);
    require(status_number("\nNoNewPrivs:", 10) == 0);
    require(status_number("\nSeccomp:", 10) == 0);
}

static void carried_with_too_little(void *context)
{
    (void)context;
    struct err err = ERR_INIT;
    be_in_container(NEEDED_CAPS & ~(UINT64_C(1) << CAP_KILL));
    require(identity_shed_carried(INIT_PROFILE_STRICT, &err) == -ERR_UNSUPPORTED);
}

static void run(void (*fn)(void *context), void *context, int wanted)
{
    skip_unless_root();
    assert_int_equal(child_run(fn, context), wanted);
}

static enum init_profile profiles[] = {INIT_PROFILE_STRICT, INIT_PROFILE_CONTAINER};

static void test_strict(void **state)
{
    (void)state;
    run(strict, NULL, 0);
}

static void test_container_root(void **state)
{
    (void)state;
    run(container_root, NULL, 0);
    run(container_root_executes, NULL, 42);
}

static void test_container_user(void **state)
{
    (void)state;
    run(container_user, NULL, 0);
}

static void test_set_user_id_programs(void **state)
{
    (void)state;
    run(set_user_id, &profiles[0], 43);
    run(set_user_id, &profiles[1], 42);
}

static void test_container_calls(void **state)
{
    (void)state;
    run(container_calls, NULL, 0);
}

static void test_groups_that_cannot_be_dropped(void **state)
{
    (void)state;
    run(groups_that_cannot_be_dropped, NULL, 0);
    run(a_group_that_would_stay, NULL, 0);
}

static void test_processes_without_cgroups(void **state)
{
    (void)state;
    run(processes_without_cgroups, &profiles[0], 0);
    run(processes_without_cgroups, &profiles[1], 0);
}

static void test_shed(void **state)
{
    (void)state;
    run(shed, &profiles[0], 0);
    run(shed, &profiles[1], 0);
}

static void test_in_a_container(void **state)
{
    (void)state;
    run(carried_strict, NULL, 0);
    run(carried_container, NULL, 0);
    run(carried_with_too_little, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strict),
        cmocka_unit_test(test_container_root),
        cmocka_unit_test(test_container_user),
        cmocka_unit_test(test_set_user_id_programs),
        cmocka_unit_test(test_container_calls),
        cmocka_unit_test(test_groups_that_cannot_be_dropped),
        cmocka_unit_test(test_processes_without_cgroups),
        cmocka_unit_test(test_shed),
        cmocka_unit_test(test_in_a_container),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
