/* The runtime "runsc": gVisor's program, which runs a sandbox on a kernel of its own
 * (https://gvisor.dev/docs/). What this host has of it, and what it is told.
 *
 * Its processes run as a sandbox of ours would: as ids of the sandbox's own range, in namespaces of
 * their own, with the sandbox's root and nothing else of the host, in the sandbox's groups. */
#ifndef BERTH_NATIVE_RUNSC_H
#define BERTH_NATIVE_RUNSC_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "native/cgroup.h"
#include "wire/engine_msg.h"

#define RUNSC_NAME "runsc"

/* What gVisor's own processes take of the memory of a group, beside what the code may use; the
 * server reserves it. Measured: 28 MiB at rest; each process and open file of the code takes a
 * little more, which is the code's. */
#define RUNSC_MEMORY_BYTES (UINT64_C(32) << 20)

enum { RUNSC_FLAGS_MAX = 2 };

struct runsc {
    bool usable;
    char path[PATH_MAX];
    char version[ENGINE_NAME_MAX];
    char platform[16];
    const char *flags[RUNSC_FLAGS_MAX]; /* that this version knows and needs; static */
    size_t flag_count;
    char init_path[PATH_MAX]; /* of berth-init on the host */
    bool failed;              /* the last start did */
};

/* Finds the program: BERTH_RUNSC names it, else it is looked for in the folders of PATH that nobody
 * but root can change; asks it for its version and its flags. BERTH_RUNSC_PLATFORM: "ptrace" (any
 * host), "kvm",
 * ... Blocks for as long as that takes (some 60 ms; 10 s at most). On failure it is not usable.
 * ERR_NOT_FOUND: there is none. */
int runsc_find(struct runsc *out, struct err *err);

/* The limits of a group in which what spec asks for runs. The processes that gVisor makes on the
 * host are not those of the code: their number only bounds what can go wrong. */
struct cgroup_limits runsc_limits(const struct engine_create *spec);

/* Whether spec asks for nothing that this runtime lacks; errors are public. */
int runsc_check(const struct engine_create *spec, struct err *err);

/* What it can do of the capabilities of this engine. */
uint64_t runsc_capabilities(uint64_t native);

/* Where things are in the root that its processes have (setup_runsc.c). */
#define RUNSC_PROGRAM "/runsc"
#define RUNSC_STATE "/state"
#define RUNSC_BUNDLE "/bundle"
#define RUNSC_ROOT "/sandbox" /* of the sandbox */
#define RUNSC_SHARED                                                                               \
    "/opt"                 /* where a mount made here is seen by the sandbox, at the same place    \
                            */
#define RUNSC_INIT "/init" /* what it sees as INIT_CARRIED_FOLDER */
#define RUNSC_LOG "/tmp/log"
#define RUNSC_ERRORS "/tmp/errors"

/* The config.json of the bundle (https://github.com/opencontainers/runtime-spec, config.md). */
int runsc_write_bundle(const struct engine_create *spec, struct buf *out, struct err *err);

#endif
