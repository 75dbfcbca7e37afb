/* Messages of the engine protocol, between the server and an engine process.
 *
 * One message is one SEQPACKET datagram of at most ENGINE_MSG_MAX bytes: a head (msg_head.h), then
 * tagged fields. A reply carries the operation with ENGINE_REPLY set
 * and the request's id; replies come in any order. Descriptors travel beside a message and are
 * named by the operation. An engine trusts no field: it checks each against its own configuration.
 */
#ifndef BERTH_WIRE_ENGINE_MSG_H
#define BERTH_WIRE_ENGINE_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/msg_head.h"
#include "wire/sandbox.h"

#define ENGINE_MSG_VERSION 1
#define ENGINE_MSG_MAX (64U * 1024U)
#define ENGINE_REPLY MSG_REPLY
#define ENGINE_NAME_MAX 64
#define ENGINE_TEXT_MAX 512
#define ENGINE_IMAGE_MAX 256 /* a reference of an OCI image with its digest fits */
#define ENGINE_IMAGES_MAX 2048
#define ENGINE_IMAGE_ID_MAX 17 /* a word of image_ids, with its end */
#define ENGINE_IMAGE_IDS_MAX 1024
#define ENGINE_RUNTIMES_MAX 8
#define ENGINE_LIST_MAX 4096
#define ENGINE_LAYER_NAME_MAX 64 /* id_is_name() */

/* Operations. "Blocks" says what the caller waits for; every call takes the caller's deadline. */
enum engine_op {
    ENGINE_OP_PROBE = 1, /* does not block; idempotent; replies struct engine_info */
    ENGINE_OP_CREATE,    /* blocks until init listens; id chosen by the caller, a second create of
                            a living id is ERR_CONFLICT; replies one fd, the first channel */
    ENGINE_OP_START,     /* needs ENGINE_CAP_STOP; as CREATE, on the files that a stopped sandbox
                            left; ERR_NOT_FOUND when there are none, ERR_CONFLICT while it lives */
    ENGINE_OP_STOP,      /* needs ENGINE_CAP_STOP; blocks until no process is left; keeps the files
                            of a sandbox made with keep_files, ERR_CONFLICT for any other */
    ENGINE_OP_FREEZE,    /* needs ENGINE_CAP_FREEZE */
    ENGINE_OP_SNAPSHOT,  /* needs ENGINE_CAP_SNAPSHOT */
    ENGINE_OP_DESTROY,   /* blocks until nothing is left; idempotent: an unknown id succeeds */
    ENGINE_OP_INSPECT,   /* does not block; idempotent; ERR_NOT_FOUND for an unknown id */
    ENGINE_OP_LIST,      /* does not block; idempotent; replies the ids of this instance that come
                            after `id` in the order of strcmp(), as many as a message holds, and
                            `more`; an engine that knows no `more` replies what it can.
                            ERR_UNAVAILABLE while it does not know all that lives */
    ENGINE_OP_OPEN_CHANNEL, /* does not block; replies one fd, a further channel to init */
    ENGINE_OP_STATS,        /* does not block; needs ENGINE_CAP_STATS */
    ENGINE_OP_EVENT_GONE,   /* engine to server, request id 0: a sandbox died by itself; cause says
                               what ended it, as far as only the engine can know */
    ENGINE_OP_LIMIT, /* needs ENGINE_CAP_LIMIT; does not block; idempotent; gives a running sandbox
                        memory_bytes, storage_bytes, cpu_millis and pids_max of a struct
                        engine_create (the rest of it but the id is ignored; 0: as it is).
                        ERR_CONFLICT: it does not run, or uses more already, or its root is on disk
                        and storage_bytes differs; then some may be set, and it is to be destroyed
                      */
    /* The rest needs ENGINE_CAP_LAYERS. A library layer is a read-only folder that the engine
     * keeps; it outlives every sandbox and the engine's own end. */
    ENGINE_OP_LAYER_IMPORT, /* with one fd, a regular file at its start: a tar, which becomes the
                               layer; blocks until it stands on disk, whole or not at all; replies
                               its size. ERR_CONFLICT: there is one of that name; of two imports
                               of one name the second waits for the first. ERR_BAD_INPUT, with a
                               public message: the tar is at fault, or too large. All files belong
                               to root in it and may be read by everybody; set-user-ID bits,
                               devices, FIFOs and sockets are left out */
    ENGINE_OP_LAYER_ATTACH, /* does not block, but where a layer has to be copied: for as long as
                               its bytes take; shows it read-only at ENGINE_LAYER_PLACE of a
                               running sandbox, over whatever its code left there, in place of the
                               one that was attached before. ERR_NOT_FOUND: no such layer;
                               ERR_CONFLICT: no such sandbox runs, it is being given a layer
                               already, or its files let none be shown; it has none then, or
                               a part of one that was copied */
    ENGINE_OP_LAYER_REMOVE, /* does not block; idempotent: an unknown name succeeds. Sandboxes that
                               have it keep it, and its bytes are freed after the last of them; no
                               other gets it, and the name is free again at once */
    ENGINE_OP_LAYER_LIST,   /* does not block; idempotent; replies as LIST does: what comes after
                               the name in the order of strcmp(), and `more` */
    ENGINE_OP_NETWORK, /* needs ENGINE_CAP_FULL; waits for a few milliseconds; idempotent; gives a
                          running sandbox the network "full", or takes it away. ERR_CONFLICT: no
                          such sandbox runs */
    ENGINE_OP_COUNT
};

/* Where a layer is seen. In every sandbox of every image an empty folder, which the code may write
 * to: it is where a build installs. */
#define ENGINE_LAYER_PLACE "/opt/libraries"

/* What an engine can do. */
#define ENGINE_CAP_MEMORY (UINT64_C(1) << 0)   /* enforces a memory limit and tells OOM apart */
#define ENGINE_CAP_CPU (UINT64_C(1) << 1)      /* enforces a cpu quota */
#define ENGINE_CAP_PIDS (UINT64_C(1) << 2)     /* enforces a process limit */
#define ENGINE_CAP_STORAGE (UINT64_C(1) << 3)  /* enforces the size of the writable root */
#define ENGINE_CAP_ISOLATED (UINT64_C(1) << 4) /* code can't reach the host or its neighbours */
#define ENGINE_CAP_IDMAP (UINT64_C(1) << 5)    /* image files keep their owners inside */
#define ENGINE_CAP_STOP (UINT64_C(1) << 6)
#define ENGINE_CAP_FREEZE (UINT64_C(1) << 7)
#define ENGINE_CAP_SNAPSHOT (UINT64_C(1) << 8)
#define ENGINE_CAP_STATS (UINT64_C(1) << 9)
#define ENGINE_CAP_DISK (UINT64_C(1) << 10) /* writable roots on disk, beside those in memory */
#define ENGINE_CAP_CONTAINER (UINT64_C(1) << 11)   /* the profile "container" */
#define ENGINE_CAP_PRIVATE_IDS (UINT64_C(1) << 12) /* each sandbox has host ids of its own */
#define ENGINE_CAP_LIMIT (UINT64_C(1) << 13)       /* limits can be changed while it runs */
#define ENGINE_CAP_ZYGOTE (UINT64_C(1) << 14)      /* it has warm interpreters to fork from */
#define ENGINE_CAP_LAYERS (UINT64_C(1) << 15)      /* library layers */
#define ENGINE_CAP_GPU (UINT64_C(1) << 16)         /* there are GPUs to give */
#define ENGINE_CAP_FULL (UINT64_C(1) << 17)        /* network "full" */
#define ENGINE_CAP_COUNT 18

/* The name of capability bit number index ("memory"). NULL past the last. */
const char *engine_cap_name(unsigned index);

/* A way in which an engine can run a sandbox: the kernel itself ("native"), runc, runsc, ... */
struct engine_runtime {
    char name[ENGINE_NAME_MAX]; /* id_is_name() */
    char version[ENGINE_NAME_MAX];
    uint64_t capabilities;
    uint64_t memory_bytes; /* what it takes itself, beside a sandbox's own memory; 0: nothing */
    char warning[ENGINE_TEXT_MAX]; /* what its operator ought to know; "" nothing */
};

#define ENGINE_DISK_UNKNOWN UINT64_MAX

struct engine_info {
    char name[ENGINE_NAME_MAX];
    char version[ENGINE_NAME_MAX];
    uint64_t capabilities;          /* of the runtime that is taken when none is named */
    uint64_t runtime_memory_bytes;  /* the same: its memory_bytes; not sent */
    char cgroup_mode[16];           /* "v1", "v2", "hybrid", "none" */
    uint64_t memory_bytes;          /* of the host, or of the cgroup that berth was put into */
    uint32_t cpu_millis;            /* 1000 a core */
    uint32_t gpu_count;             /* with ENGINE_CAP_GPU, whether in use or not */
    uint64_t storage_bytes;         /* the largest writable root in memory */
    uint64_t disk_bytes;            /* the largest writable root on disk; 0: none;
                                       ENGINE_DISK_UNKNOWN: the engine can't tell */
    char images[ENGINE_IMAGES_MAX]; /* names, separated by spaces; the first is taken
                                       when none is named */
    /* The first is taken when none is named. None at all: an older engine, which has one way. */
    struct engine_runtime runtimes[ENGINE_RUNTIMES_MAX];
    size_t runtime_count;
    /* What each name means now, in the order of images, a word each: other than before when the
     * name means another image. "-", or fewer words than images: nobody says. */
    char image_ids[ENGINE_IMAGE_IDS_MAX];
    char missing[ENGINE_TEXT_MAX];     /* what this host can't enforce, and why; "" nothing */
    char unavailable[ENGINE_TEXT_MAX]; /* why no sandbox can be made; "" when some can */
};

struct engine_create {
    char id[SANDBOX_ID_MAX + 1];  /* id_is_name() */
    char image[ENGINE_IMAGE_MAX]; /* as the engine names it: "host", or one of engine_info.images */
    char runtime[ENGINE_NAME_MAX]; /* one of engine_info.runtimes; "": the first */
    char profile[16];              /* "strict" or "container" */
    bool disk;                     /* the writable root is on disk; else in memory, counted there */
    bool keep_files;               /* STOP, and any other end but DESTROY, keeps the files; needs
                                      disk */
    uint64_t memory_bytes;         /* without swap */
    uint64_t storage_bytes;        /* of the writable root; START keeps the size it was made with */
    uint32_t cpu_millis;           /* quota, 1000 a core */
    uint32_t gpu_count; /* whole ones, its own alone; ERR_UNAVAILABLE: too few are free */
    uint32_t pids_max;
    uint32_t open_files_max; /* RLIMIT_NOFILE */
    uint64_t lifetime_ms;    /* init ends the sandbox after this, whoever still lives; 0 never */
    uint64_t orphan_ms;      /* init ends it this long after its last channel closed */
    char kernel[16]; /* start the kernel of this language from a zygote, where the engine has
                        one for this image and profile; a hint: KERNEL says whether it did,
                        or starts one. "": no */
};

struct engine_layer {
    char name[ENGINE_LAYER_NAME_MAX + 1]; /* id_is_name() */
    uint64_t size_bytes;                  /* unpacked, rounded up to blocks piece by piece */
};

enum engine_state {
    ENGINE_STATE_CREATING = 1,
    ENGINE_STATE_RUNNING,
    ENGINE_STATE_DESTROYING,
    ENGINE_STATE_STOPPED, /* files only */
};

/* One message as decoded; only the members that its operation names are set. */
struct engine_msg {
    uint32_t op; /* enum engine_op, with ENGINE_REPLY set on a reply */
    uint64_t request_id;
    struct err error;            /* reply: kind is ERR_NONE on success */
    char id[SANDBOX_ID_MAX + 1]; /* DESTROY, INSPECT, OPEN_CHANNEL, EVENT_GONE, ...; LIST: "",
                                    or the last id of the reply before */
    struct engine_create create; /* CREATE, START and LIMIT request */
    struct engine_info info;     /* PROBE reply */
    enum engine_state state;     /* INSPECT reply */
    uint8_t
        nonce[SANDBOX_NONCE_SIZE];   /* CREATE, START, INSPECT reply: what init says in its hello */
    size_t id_count;                 /* LIST reply, in order */
    bool more;                       /* LIST reply: there are ids after the last one */
    char (*ids)[SANDBOX_ID_MAX + 1]; /* heap, freed by engine_msg_done() */
    enum kill_cause cause;           /* EVENT_GONE: KILL_OOM, or KILL_NONE: nothing is known */
    struct engine_layer layer;       /* LAYER_IMPORT, _ATTACH, _REMOVE: the name; LAYER_LIST: "", or
                                        the last name of the reply before; LAYER_IMPORT reply: size
                                      */
    uint64_t size_max_bytes;         /* LAYER_IMPORT: of the unpacked layer; 0: the engine's own */
    uint64_t entries_max;            /* the same for its files and folders */
    bool full;                       /* NETWORK: it is to have it */
    size_t layer_count;              /* LAYER_LIST reply, in order */
    struct engine_layer *layers;     /* heap, freed by engine_msg_done() */
};

/* Whether a LIST reply of id_count ids has room for one more. */
bool engine_msg_list_has_room(size_t id_count);

/* Whether a LAYER_LIST reply of layer_count layers has room for one more. */
bool engine_msg_layers_have_room(size_t layer_count);

/* Add to a list of a reply: ids, or layers. ERR_INTERNAL: no memory. */
int engine_msg_add_id(struct engine_msg *msg, const char *id, struct err *err);
int engine_msg_add_layer(struct engine_msg *msg, const struct engine_layer *layer, struct err *err);
/* All was added: puts it in order, and keeps as many as a message holds. */
void engine_msg_end_list(struct engine_msg *msg);

int engine_msg_encode(const struct engine_msg *msg, struct buf *out, struct err *err);
int engine_msg_decode(const void *data, size_t size, struct engine_msg *msg, struct err *err);
void engine_msg_done(struct engine_msg *msg);

#endif
