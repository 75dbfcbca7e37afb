/* What an engine tells an init at its start: identities, limits and the descriptors it inherits.
 *
 * The native engine's setup stage writes it into a pipe that init reads to its end before anything
 * else. In a container that somebody else makes it is a file, INIT_CARRIED_CONFIG, which init reads
 * and removes; it then has no descriptor but standard input and output, which are a carrier's.
 * Tagged fields, so that engine and init may differ by a version. */
#ifndef BERTH_WIRE_INIT_CONFIG_H
#define BERTH_WIRE_INIT_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/carrier.h"
#include "wire/sandbox.h"

#define INIT_FD_CONFIG 3 /* the pipe that holds this; the other descriptors follow in any order */
#define INIT_PROCS_MAX 8 /* controllers that a process joins one by one (cgroup v1) */

/* Arguments of `berth-init keep` (init/keep.h): the starter's process id, and descriptors: the
 * setup socket; the starter's standard error, a file; oom_event_fd and memory_dir_fd as below.
 * Others that are open stay so. */
enum { INIT_KEEP_ARGUMENTS = 5 };

enum init_profile {
    INIT_PROFILE_STRICT,    /* the code has no capability and no_new_privs */
    INIT_PROFILE_CONTAINER, /* root of the inner user namespace, with a container's capabilities */
};

/* Such a container: the root's own folder, mode 0700, with the program and its configuration
 * (0600). The command is INIT_CARRIED_PROGRAM INIT_CARRIED_WORD, as root and as PID 1, with
 * CAP_SETUID, CAP_SETGID, CAP_KILL and CAP_SETPCAP, and in profile container those that the code
 * shall have. */
#define INIT_CARRIED_FOLDER "/.berth"
#define INIT_CARRIED_PROGRAM "/.berth/init"
#define INIT_CARRIED_CONFIG "/.berth/config"
#define INIT_CARRIED_WORD "carried"
/* Where there is no such file: the same in hexadecimal digits, which init wipes. */
#define INIT_CARRIED_VARIABLE "BERTH_INIT_CONFIG"
/* A folder that an engine puts there where init is to mount the pids hierarchy (cgroup v1) of a
 * kernel that is the sandbox's own, and to make a group for the code: init has CAP_SYS_ADMIN and
 * CAP_DAC_OVERRIDE then, which it drops. */
#define INIT_CARRIED_PIDS "/.berth/pids"
/* A folder that an engine may put there, and init removes: gVisor gives a sandbox whose /tmp is
 * empty one of its own, which has no bound. */
#define INIT_CARRIED_TMP_MARK "/tmp/.berth"

enum init_cgroup_mode {
    INIT_CGROUP_NONE,
    INIT_CGROUP_V1,
    INIT_CGROUP_V2,
    INIT_CGROUP_SEEN, /* a container's own, as far as /sys/fs/cgroup shows it: init is in it too,
                         and writes nothing there */
};

/* Descriptors are -1 where there is none. Directories are O_PATH, files open for what is named. */
struct init_config {
    char id[SANDBOX_ID_MAX + 1];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    uint32_t uid; /* of the code, in the inner user namespace */
    uint32_t gid;
    enum init_profile profile;
    uint32_t open_files_max;
    uint32_t pids_max;      /* of the code group; written back after a kill set it to 0. Without
                               cgroups: RLIMIT_NPROC, counted in the inner user namespace */
    char fault[32];         /* tests: where to end as if killed (base/fault.h); "" nowhere */
    uint64_t file_size_max; /* RLIMIT_FSIZE, bytes */
    uint64_t lifetime_ms;   /* 0 never */
    uint64_t orphan_ms;
    uint64_t
        file_idle_ms; /* a file's child that moves no byte for so long is killed; 0: the usual */

    bool carried; /* standard input and output are a carrier's */
    bool nests; /* there too the code is in an inner user namespace, where id N is N + 1 of init's:
                   each child makes one, since none can be entered (gVisor) */
    uint8_t secret[CARRIER_SECRET_SIZE]; /* of that */

    int listen_fd; /* bound stream socket; init calls listen(2) */
    int setup_fd;  /* SEQPACKET to the engine: init writes 'R', reads 'C' (commit), with which our
                      end of the socket of a kernel may come (init/kernel.h, kernel_take_given) */
    int userns_fd; /* the inner user namespace */

    enum init_cgroup_mode cgroup_mode;
    int procs_fds[INIT_PROCS_MAX]; /* v1 tasks, v2 cgroup.procs of the code group, for writing */
    size_t procs_count;
    int pids_max_fd;   /* pids.max of the code group, for writing */
    int kill_fd;       /* v2: cgroup.kill of the code group, for writing */
    int memory_dir_fd; /* the code group; on v2 all four are the same folder */
    int pids_dir_fd;
    int cpu_dir_fd;
    int cpuacct_dir_fd;
    int oom_event_fd; /* v1: eventfd on memory.oom_control; v2: memory.events for reading */
};

void init_config_clear(struct init_config *config);
int init_config_encode(const struct init_config *config, struct buf *out, struct err *err);
int init_config_decode(const void *data, size_t size, struct init_config *config, struct err *err);
/* All that there is to read from fd, as it is; blocks. ERR_PROTOCOL also when that is too long. */
int init_config_read(int fd, struct init_config *config, struct err *err);

#endif
