/* Owns every change of identity in init and its children. */
#include "init/identity.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init/filter.h"

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif

enum { CAP_NUMBER_MAX = 63, GROUPS_CHECKED_MAX = 64, OVERFLOW_GID = 65534, OTHER_GID = 1 };

/* What root has in a container of Docker. They count in the inner user namespace only: none of them
 * reaches a network interface, a device node or an id of the host. */
#define CAP(name) (UINT64_C(1) << (name))
static const uint64_t container_caps =
    CAP(CAP_CHOWN) | CAP(CAP_DAC_OVERRIDE) | CAP(CAP_FSETID) | CAP(CAP_FOWNER) | CAP(CAP_MKNOD) |
    CAP(CAP_NET_RAW) | CAP(CAP_SETGID) | CAP(CAP_SETUID) | CAP(CAP_SETFCAP) | CAP(CAP_SETPCAP) |
    CAP(CAP_NET_BIND_SERVICE) | CAP(CAP_SYS_CHROOT) | CAP(CAP_KILL) | CAP(CAP_AUDIT_WRITE);

static void bound_capabilities(uint64_t kept)
{
    for (int cap = 0; cap <= CAP_NUMBER_MAX; cap++) {
        if ((kept & CAP(cap)) == 0)
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* EINVAL past the kernel's last one */
    }
}

/* Inheritable ones stay empty: with them, files that grant some to whoever inherits them would work
 * for everybody in the sandbox (CVE-2022-24769). */
static int set_capabilities(uint64_t caps)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    memset(data, 0, sizeof(data));
    for (int i = 0; i < 2; i++)
        data[i].effective = data[i].permitted = (uint32_t)(caps >> (32 * i));
    return (int)syscall(SYS_capset, &header, data);
}

int identity_shed(enum init_profile profile, struct err *err)
{
    if (profile == INIT_PROFILE_STRICT && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_sys(err, errno, "no_new_privs");
    if (filter_install(FILTER_INIT) != 0)
        return err_sys(err, errno, "init's seccomp filter");
    bound_capabilities(0);
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (set_capabilities(0) != 0)
        return err_sys(err, errno, "drop the capabilities");
    /* Also for the children, up to their execve(2): they hold descriptors of the code's cgroup and
     * a copy of our memory, and the code may have their user id and the right to trace. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return err_sys(err, errno, "dumpable");
    return 0;
}

static int read_capabilities(uint64_t *out)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    memset(data, 0, sizeof(data));
    if (syscall(SYS_capget, &header, data) != 0)
        return -1;
    *out = data[0].permitted | (uint64_t)data[1].permitted << 32;
    return 0;
}

int identity_shed_carried(enum init_profile profile, struct err *err)
{
    const uint64_t needed = CAP(CAP_SETUID) | CAP(CAP_SETGID) | CAP(CAP_KILL);
    bool strict = profile == INIT_PROFILE_STRICT;
    uint64_t has = 0;
    if (read_capabilities(&has) != 0)
        return err_sys(err, errno, "capget");
    if ((has & needed) != needed)
        return err_set(err, ERR_UNSUPPORTED, "the container lacks capabilities: it has %llx",
                       (unsigned long long)has);
    if (strict && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_sys(err, errno, "no_new_privs");
    if (filter_install(FILTER_INIT) != 0 && (strict || errno != EACCES))
        return err_sys(err, errno, "init's seccomp filter");
    /* prlimit(2) of another process asks for a caller whose real group is all three of its own ones
     * (kernel/sys.c, check_prlimit_permission()): so nobody has it of init, root of the container
     * included, which could take its limits so far down that it keeps no deadline any more. */
    if (setresgid(0, 0, OTHER_GID) != 0)
        return err_sys(err, errno, "init's groups");
    bound_capabilities(strict ? 0 : container_caps);
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (set_capabilities(has & (strict ? needed : container_caps)) != 0)
        return err_sys(err, errno, "drop the capabilities");
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return err_sys(err, errno, "dumpable");
    return 0;
}

uid_t identity_seen(const struct init_config *config, uint32_t id)
{
    return config->nests ? id + 1 : id;
}

static int enter_namespace(const struct init_config *config)
{
    if (setns(config->userns_fd, CLONE_NEWUSER) != 0)
        return -1;
    /* From here /proc/self/cgroup says "/", whatever the host calls the group. */
    if (unshare(CLONE_NEWCGROUP) != 0 && config->cgroup_mode != INIT_CGROUP_NONE)
        return -1;
    return 0;
}

/* A namespace that an ordinary user of the host mapped one id into denies setgroups(2) for good
 * (user_namespaces(7)): the groups of that user stay, and show as the overflow id. That is no gain
 * for the code, which has no more of the host than its user; a group that has a name in here would
 * be one. */
static int drop_groups(gid_t own)
{
    gid_t groups[GROUPS_CHECKED_MAX];
    if (setgroups(0, NULL) == 0)
        return 0;
    if (errno != EPERM)
        return -1;
    int count = getgroups(GROUPS_CHECKED_MAX, groups);
    for (int i = 0; i < count; i++) {
        if (groups[i] != OVERFLOW_GID && groups[i] != own)
            count = -1;
    }
    errno = EPERM;
    return count < 0 ? -1 : 0;
}

static const char *take_ids(const struct init_config *config)
{
    bool root = config->profile == INIT_PROFILE_CONTAINER && config->uid == 0;
    if (drop_groups(config->gid) != 0)
        return "drop groups";
    if (setresgid(config->gid, config->gid, config->gid) != 0)
        return "set the group";
    if (setresuid(config->uid, config->uid, config->uid) != 0)
        return "set the user";
    /* Ids that were never 0 in this namespace keep their capabilities through setresuid(2). */
    uint64_t caps = root ? container_caps : 0;
    uint64_t has = 0;
    if (config->carried && !config->nests && root) { /* what its engine left us */
        if (read_capabilities(&has) != 0)
            return "read the capabilities";
        caps &= has;
    }
    return set_capabilities(caps) == 0 ? NULL : "set the capabilities";
}

const char *identity_become_code(const struct init_config *config, bool with_filter)
{
    bool container = config->profile == INIT_PROFILE_CONTAINER;
    if (config->userns_fd >= 0 && enter_namespace(config) != 0)
        return "enter the user namespace";
    if (config->userns_fd >= 0 || config->nests)
        bound_capabilities(container ? container_caps : 0);
    if (!container && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return "no new privileges";
    /* Without no_new_privs a filter needs CAP_SYS_ADMIN, which ends in take_ids(). Nothing in
     * between runs a byte of the code's. */
    bool optional = config->carried && container;
    if (with_filter && filter_install(container ? FILTER_CONTAINER : FILTER_STRICT) != 0 &&
        !(optional && errno == EACCES))
        return "seccomp filter";
    return config->userns_fd >= 0 || config->carried ? take_ids(config) : NULL;
}
