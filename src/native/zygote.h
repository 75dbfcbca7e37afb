/* A zygote: a warm Python kernel that is forked into sandboxes, instead of an interpreter that each
 * of them starts (kernels/zygote.py).
 *
 * It runs on the host, in namespaces of its own but the host's users and processes, on a read-only
 * view of the image `host`, as an id of a range of its own, with CAP_SETUID, CAP_SETGID and a
 * seccomp filter, in the control group zygote.python beside those of the sandboxes. It talks with
 * the engine alone. A sandbox gets a copy of it after its init is ready and before it is committed;
 * afterwards it does not depend on it.
 *
 * Nothing here waits, but for the end of a zygote that was killed. What a creation wants and a
 * zygote can't give is never a failure: init starts that kernel itself. After so many forks a
 * zygote is replaced, since all its children share what a process draws at its start (SECURITY.md).
 */
#ifndef BERTH_NATIVE_ZYGOTE_H
#define BERTH_NATIVE_ZYGOTE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/err.h"
#include "native/cgroup.h"
#include "native/idrange.h"
#include "wire/engine_msg.h"

struct sandbox_host;

enum {
    ZYGOTE_MAX = 3, /* one, the one that takes its place, one that ends */
    ZYGOTE_FORKS_DEFAULT = 1000,
};

enum zygote_state { ZYGOTE_NONE, ZYGOTE_STARTING, ZYGOTE_READY, ZYGOTE_LEAVING };

struct zygote {
    enum zygote_state state;
    pid_t pid;
    int pidfd;
    int fd; /* SEQPACKET */
    struct idrange ids;
    unsigned forks;
    unsigned pending;   /* forks without an answer */
    int64_t give_up_ns; /* when it is killed for its silence; INT64_MAX */
    struct stat program;
};

struct zygotes {
    struct sandbox_host *host; /* borrowed */
    unsigned forks_max;        /* 0: there are none */
    uint64_t source;           /* epoll data of their descriptors */
    uint64_t request;
    struct zygote all[ZYGOTE_MAX];
    bool wanted;   /* by a creation: from then on there is one */
    int64_t at_ns; /* when zygotes_step() is to be called at the latest; an event sets it to 0 */
    int64_t retry_ns;
    int64_t backoff_ns;
};

/* Starts none yet. source: the epoll data that their events come with. */
void zygotes_init(struct zygotes *zygotes, struct sandbox_host *host, unsigned forks_max,
                  uint64_t source);
/* Kills them all and waits for that; their group is removed. */
void zygotes_done(struct zygotes *zygotes);

/* Whether one is ready. */
bool zygotes_are_ready(const struct zygotes *zygotes);

/* Whether one may make the kernel of this sandbox, now or later. From the first such question on
 * one is kept ready. */
bool zygotes_want(struct zygotes *zygotes, const struct engine_create *spec);

/* What the kernel of one sandbox is made of. */
struct zygote_target {
    const char *id;
    int init_pidfd;
    int userns_fd; /* the inner namespace */
    int socket_fd; /* the kernel's end */
    int pass_fd;   /* the copy enters only if it can read this (eventfd(2)) */
    uid_t owner;   /* of the outer namespace: id 0 of the sandbox */
    uint32_t code_id;
    uint32_t open_files_max;
    uint64_t file_size_max;
};

/* Asks for a fork; *out_request is what the answer will name. ERR_UNAVAILABLE: no zygote is ready.
 */
int zygotes_fork(struct zygotes *zygotes, const struct zygote_target *target, uint64_t *out_request,
                 struct err *err);

/* Takes what they said, starts, replaces and buries them; answered is told of each fork that was
 * made or not. */
void zygotes_step(struct zygotes *zygotes,
                  void (*answered)(void *context, uint64_t request, bool forked), void *context);

/* ---- zygote_start.c ---- */

/* Starts a process; pid, pidfd and fd of out are set. Needs ids.base. Blocks as long as fork and a
 * few mounts take. */
int zygote_start(struct sandbox_host *host, struct zygote *out, struct err *err);

/* -ERR_CONFLICT while a process is left in the group. */
int zygote_remove_group(const struct sandbox_host *host);

#endif
