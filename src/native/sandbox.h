/* One sandbox as the engine sees it: how it is made and how it ends, in steps that never block.
 *
 * States: CREATING (waiting for the setup stage and the disk), RUNNING, DESTROYING (waiting for the
 * kernel), STOPPED (no process, files on a disk that is kept). A sandbox found at the start has no
 * setup socket, and its init is no child of ours. */
#ifndef BERTH_NATIVE_SANDBOX_H
#define BERTH_NATIVE_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "native/initstream.h"
#include "native/disk.h"
#include "native/gpu.h"
#include "native/host.h"
#include "native/idrange.h"
#include "native/images.h"
#include "native/layer_attach.h"
#include "wire/engine_msg.h"

struct init_config;
struct setup_runsc;

enum { SANDBOX_WAITERS_MAX = 8, SANDBOX_CODE_ID = 1000 /* profile strict */ };

/* A request that is answered when nothing of the sandbox runs any more. */
struct sandbox_waiter {
    uint32_t op; /* ENGINE_OP_DESTROY or ENGINE_OP_STOP */
    uint64_t request_id;
};

struct sandbox {
    char id[SANDBOX_ID_MAX + 1];
    enum engine_state state;
    bool child; /* ours to reap */
    pid_t pid;  /* of init on the host; 0: gone */
    uid_t uid;  /* of an adopted init, as this process sees it; where it was found by its socket */
    int pidfd;
    bool kill_refused; /* its init has not got our SIGKILL yet */
    int setup_fd;      /* engine's end, until the commit */
    struct idrange ids;
    struct engine_create spec; /* of a creation */
    int userns_fd;             /* the inner user namespace, until the root is made */
    bool root_sent;
    int kernel_userns_fd;      /* the same, for the kernel that a zygote is to fork; -1: none */
    int kernel_fd;             /* init's end of that kernel's socket */
    int kernel_pass_fd;        /* an eventfd of 1: who reads it decides whether that one enters */
    uint64_t kernel_request;   /* 0: none is awaited */
    int64_t kernel_give_up_ns; /* when init is to go on without it */
    struct disk_job disk_job;
    int disk_fd;                /* until the root is made; -1: none, or not yet */
    struct image_folder folder; /* until the root is made; root_fd -1: image `host` */
    struct gpu_set gpus;        /* the same: init holds their locks */
    struct layer_attach attach; /* a layer that is on its way in */
    int layer_lock_fd;          /* of the layer that it has; -1: none */
    bool has_network;           /* an interface of the host leads to it ... */
    uint32_t network_index;     /* ... with this number */
    bool keeps;                 /* its disk outlives its processes ... */
    bool forget;                /* ... unless it is to be destroyed */
    bool runsc;                 /* that runtime runs it: pid is that of its keeper ... */
    struct initstream *stream;  /* ... and this the way to its init; NULL: not now */
    int64_t beat_at_ns;         /* when init is to be told again that we live */
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    uint32_t create_op;      /* ENGINE_OP_CREATE or ENGINE_OP_START */
    uint64_t create_request; /* 0: nobody waits for the creation */
    struct sandbox_waiter waiters[SANDBOX_WAITERS_MAX];
    size_t waiter_count;
    int64_t deadline_ns; /* CREATING: give up; DESTROYING: try again */
    bool freed;          /* out of the table; the memory goes at the end of the turn */
    struct sandbox *next;
};

/* Begins to make a sandbox (op: ENGINE_OP_CREATE), or to start one that has stopped
 * (ENGINE_OP_START): afterwards it is CREATING, and its setup_fd, pidfd and disk_job.fd (where not
 * -1) are to be watched. On failure nothing is left but the files of one that had stopped. Checks
 * every field of spec by itself. */
int sandbox_begin(struct sandbox_host *host, uint32_t op, const struct engine_create *spec,
                  struct sandbox **out, struct err *err);

/* The setup socket or the disk is readable. Returns 1 when the sandbox runs now (commit is sent), 0
 * when it goes on, or an error kind: the creation failed. */
int sandbox_setup_event(struct sandbox_host *host, struct sandbox *sandbox, struct err *err);

/* What the limits of spec mean for the groups of a sandbox; 0 stays 0. */
struct cgroup_limits sandbox_group_limits(const struct sandbox *sandbox,
                                          const struct engine_create *spec);

/* RLIMIT_FSIZE of the code. */
uint64_t sandbox_file_size_max(const struct engine_create *spec);

/* ---- sandbox_commit.c ---- */

/* Its init is ready: asks a zygote for a kernel, if there is one for it. True: the creation waits
 * for kernel_request, until kernel_give_up_ns. */
bool sandbox_ask_kernel(struct sandbox_host *host, struct sandbox *sandbox);

/* From kernel_give_up_ns on: true when that kernel is not there and can't come any more, so that
 * init may go on without it. False: what was under way is being killed; call again at
 * kernel_give_up_ns. */
bool sandbox_withdraw_kernel(struct sandbox_host *host, struct sandbox *sandbox);

/* Tells init to live, with that kernel when it was forked. Afterwards it is RUNNING. */
int sandbox_commit(struct sandbox_host *host, struct sandbox *sandbox, bool forked,
                   struct err *err);

/* ---- sandbox_layer.c ---- */

/* Begins to attach a layer (ENGINE_OP_LAYER_ATTACH) for request_id: attach.pidfd is watched. */
int sandbox_attach_layer(struct sandbox_host *host, struct sandbox *sandbox, const char *name,
                         uint64_t request_id, struct err *err);

/* Looks whether that is over. Returns as layer_attach_poll(); 0 too when nothing is on its way. */
int sandbox_layer_event(const struct sandbox_host *host, struct sandbox *sandbox, struct err *err);

/* Holds the layer that an adopted sandbox has. */
int sandbox_adopt_layer(const struct sandbox_host *host, struct sandbox *sandbox, struct err *err);

/* ---- sandbox_runsc.c: a sandbox that the runtime "runsc" runs ---- */

/* Makes the way to its init, and fills what only a stage of this kind gets. config has the rest of
 * what its init is told. The descriptors and buffers are the caller's: sandbox_runsc_done(). */
int sandbox_runsc_prepare(const struct sandbox_host *host, const struct sandbox *sandbox,
                          const struct init_config *config, struct setup_runsc *out,
                          struct err *err);
void sandbox_runsc_done(struct setup_runsc *setup);

/* Moves what is on the way to and from its init, if there is a way now. A broken one is closed: the
 * next channel opens another. */
void sandbox_runsc_step(struct sandbox *sandbox);

/* Its processes are gone: what they wrote last goes to the channels, as far as there is room. */
void sandbox_runsc_drain(struct sandbox *sandbox);

/* The program has started: opens the way, and waits for init's answer. */
int sandbox_runsc_started(const struct sandbox_host *host, struct sandbox *sandbox,
                          struct err *err);
/* While it is CREATING: 1 once init has answered, 0 before, or an error kind. */
int sandbox_runsc_poll(struct sandbox *sandbox, struct err *err);

int sandbox_runsc_connect(const struct sandbox_host *host, struct sandbox *sandbox, int *out_fd,
                          struct err *err);

/* Tells init that we live, when that is due; returns when it is due again. */
int64_t sandbox_runsc_beat(struct sandbox *sandbox, int64_t now_ns);

/* ---- sandbox.c ---- */

/* A connection to the sandbox's init. */
int sandbox_connect(const struct sandbox_host *host, struct sandbox *sandbox, int *out_fd,
                    struct err *err);

/* Takes over a sandbox that an earlier engine left: by its cgroup, or its socket where there are no
 * cgroups. Without a living init it is DESTROYING: half-made, or half-gone. NULL: try later. */
struct sandbox *sandbox_adopt(struct sandbox_host *host, const char *id);

/* A sandbox of which only the disk is left: STOPPED. */
struct sandbox *sandbox_adopt_stopped(const char *id);

/* Kills the init (and with it all). Afterwards the state is DESTROYING. */
void sandbox_kill(struct sandbox_host *host, struct sandbox *sandbox);

/* Removes what is left after the last process: true when nothing is, or all but the kept disk (the
 * state is STOPPED then). False: call again when deadline_ns is reached, and ask
 * sandbox_layer_event() before. */
bool sandbox_cleanup(struct sandbox_host *host, struct sandbox *sandbox);

/* Closes a descriptor that may be watched. Closing alone would not end the events: a setup stage of
 * another sandbox holds copies of all our descriptors until it executes init (epoll(7), Q6). */
void sandbox_unwatch(const struct sandbox_host *host, int *fd);

/* Closes descriptors and frees. NULL is allowed. Nothing of it is watched any more. */
void sandbox_free(struct sandbox *sandbox);

#endif
