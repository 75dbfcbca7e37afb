/* One sandbox as the engine sees it: how it is made and how it ends, in steps that never block.
 *
 * States: CREATING (waiting for the setup stage), RUNNING, DESTROYING (waiting for the kernel). A
 * sandbox found at the start has no setup socket, and its init is no child of ours. */
#ifndef BERTH_NATIVE_SANDBOX_H
#define BERTH_NATIVE_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "native/cgroup.h"
#include "native/idrange.h"
#include "native/image.h"
#include "native/sysview.h"
#include "wire/engine_msg.h"

enum { SANDBOX_WAITERS_MAX = 8 };

/* What all sandboxes of this engine share. */
struct sandbox_host {
    struct cgroup_root cgroups;
    struct image image;
    struct sysview sysview;
    int stage_fd; /* where layers are attached for a moment, in our own mount namespace */
    int run_fd;   /* priv/run: the sockets of the inits */
    int ids_fd;   /* folder of id ranges */
    int init_fd;  /* the berth-init program */
    int epoll_fd; /* of the service: where the descriptors of sandboxes are watched */
};

struct sandbox {
    char id[SANDBOX_ID_MAX + 1];
    enum engine_state state;
    bool child; /* ours to reap */
    pid_t pid;  /* of init on the host; 0: gone */
    int pidfd;
    int setup_fd; /* engine's end, until the commit */
    struct idrange ids;
    struct engine_create spec; /* of a creation */
    int userns_fd;             /* the inner user namespace, until the root is made */
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    uint64_t create_request;               /* 0: nobody waits for the creation */
    uint64_t waiters[SANDBOX_WAITERS_MAX]; /* requests that wait for the end */
    size_t waiter_count;
    int64_t deadline_ns; /* CREATING: give up; DESTROYING: try again */
    bool freed;          /* out of the table; the memory goes at the end of the turn */
    struct sandbox *next;
};

/* Begins to make a sandbox: afterwards it is CREATING and its setup_fd and pidfd are to be watched.
 * On failure nothing is left. Checks every field of spec by itself. */
int sandbox_begin(struct sandbox_host *host, const struct engine_create *spec, struct sandbox **out,
                  struct err *err);

/* The setup socket is readable. Returns 1 when the sandbox runs now (commit is sent), 0 when it
 * goes on, or an error kind: the creation failed. */
int sandbox_setup_event(struct sandbox_host *host, struct sandbox *sandbox, struct err *err);

/* A connection to the sandbox's init. */
int sandbox_connect(const struct sandbox_host *host, const struct sandbox *sandbox, int *out_fd,
                    struct err *err);

/* Takes over a sandbox that an earlier engine left: by its cgroup. */
struct sandbox *sandbox_adopt(struct sandbox_host *host, const char *id);

/* Kills the init (and with it all). Afterwards the state is DESTROYING. */
void sandbox_kill(struct sandbox_host *host, struct sandbox *sandbox);

/* Removes what the kernel keeps after the last process: true when nothing is left. False: call
 * again when deadline_ns is reached. */
bool sandbox_cleanup(struct sandbox_host *host, struct sandbox *sandbox);

/* Closes a descriptor that may be watched. Closing alone would not end the events: a setup stage of
 * another sandbox holds copies of all our descriptors until it executes init (epoll(7), Q6). */
void sandbox_unwatch(const struct sandbox_host *host, int *fd);

/* Closes descriptors and frees. NULL is allowed. Nothing of it is watched any more. */
void sandbox_free(struct sandbox *sandbox);

#endif
