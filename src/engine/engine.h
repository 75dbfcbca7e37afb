/* The server's view of an engine: one small set of operations, several providers behind it.
 *
 * An engine is thread-safe: any thread may call any operation at any time. Every operation takes an
 * absolute deadline on the monotonic clock and fails with ERR_UNAVAILABLE (retry_after_s set) when
 * the engine is down or did not answer by then: engine_is_away() tells that from an ERR_UNAVAILABLE
 * that the engine itself answered. Operations that an engine lacks the capability for are
 * ERR_UNSUPPORTED. Sandboxes live on when the engine process dies; it reconnects by itself. */
#ifndef BERTH_ENGINE_ENGINE_H
#define BERTH_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/engine_msg.h"

struct engine;

/* Called on an internal thread without any lock held; must not block for long and must not call
 * engine_free(). `id` is valid during the call only: find the object by it, it may be gone. */
struct engine_events {
    void *context;
    /* A sandbox died by itself; cause: KILL_OOM, or KILL_NONE when nothing is known. */
    void (*gone)(void *context, const char *id, enum kill_cause cause);
    void (*destroyed)(void *context, const char *id); /* engine_destroy_later() finished */
    /* Reconcile: the engine is (again) there, or an engine_destroy_later() could not be noted.
     * List, and repeat engine_destroy_later() for whatever is to be destroyed. */
    void (*connected)(void *context);
};

/* How long to wait for an engine, and what else ends the wait. */
struct engine_wait {
    int64_t deadline_ns;
    int cancel_fd; /* readable: cancelled; -1: none */
    int gone_fd;   /* readable or hung up: nobody wants the outcome any more; -1: none */
};

/* A layer to be made. 0: the engine's own bound. */
struct engine_layer_import {
    const char *name; /* id_is_name(), ENGINE_LAYER_NAME_MAX */
    int tar_fd;       /* borrowed: a regular file, read from where its offset is */
    uint64_t size_max_bytes;
    uint64_t entries_max;
};

struct engine_operations {
    int (*probe)(struct engine *engine, int64_t deadline_ns, struct engine_info *out,
                 struct err *err);
    int (*create)(struct engine *engine, const struct engine_create *spec,
                  const struct engine_wait *wait, int *out_channel_fd,
                  uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err);
    int (*start)(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                 int *out_channel_fd, uint8_t out_nonce[static SANDBOX_NONCE_SIZE],
                 struct err *err);
    int (*stop)(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err);
    int (*destroy)(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err);
    void (*destroy_later)(struct engine *engine, const char *id);
    int (*inspect)(struct engine *engine, const char *id, int64_t deadline_ns,
                   enum engine_state *out, struct err *err);
    int (*list)(struct engine *engine, int64_t deadline_ns, char (**out_ids)[SANDBOX_ID_MAX + 1],
                size_t *out_count, struct err *err);
    int (*limit)(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                 struct err *err);
    int (*open_channel)(struct engine *engine, const char *id, int64_t deadline_ns,
                        int *out_channel_fd, struct err *err);
    int (*layer_import)(struct engine *engine, const struct engine_layer_import *import,
                        int64_t deadline_ns, uint64_t *out_size_bytes, struct err *err);
    int (*layer_attach)(struct engine *engine, const char *id, const char *name,
                        int64_t deadline_ns, struct err *err);
    int (*layer_remove)(struct engine *engine, const char *name, int64_t deadline_ns,
                        struct err *err);
    int (*layer_list)(struct engine *engine, int64_t deadline_ns, struct engine_layer **out_layers,
                      size_t *out_count, struct err *err);
    int (*network)(struct engine *engine, const char *id, bool full, int64_t deadline_ns,
                   struct err *err);
    void (*free)(struct engine *engine);
};

/* Every provider's struct begins with this. */
struct engine {
    const struct engine_operations *operations;
    const char *name;
};

/* Makes a sandbox and returns the first channel to its init (the caller's to close) and the nonce
 * that its hello must carry. Blocks until init listens. ERR_CONFLICT: the id lives already. */
int engine_create(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                  int *out_channel_fd, uint8_t out_nonce[static SANDBOX_NONCE_SIZE],
                  struct err *err);

/* The same; ERR_CLOSED soon after one of wait's descriptors became readable. What the engine makes
 * after all is destroyed, as after a deadline that passed. */
int engine_create_watched(struct engine *engine, const struct engine_create *spec,
                          const struct engine_wait *wait, int *out_channel_fd,
                          uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err);

/* As engine_create() for a stopped sandbox, on the files that it left. ERR_NOT_FOUND: it left none.
 * ERR_CONFLICT: it lives. */
int engine_start(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                 int *out_channel_fd, uint8_t out_nonce[static SANDBOX_NONCE_SIZE],
                 struct err *err);

/* Ends the processes of a sandbox that was made with keep_files, and keeps its files; returns when
 * no process is left. Idempotent. ERR_CONFLICT: it keeps no files. ERR_NOT_FOUND: no such sandbox.
 */
int engine_stop(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err);

/* Ends a sandbox; returns when no process, cgroup, mount or file of it is left. Idempotent. */
int engine_destroy(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err);

/* The same without waiting: retried across restarts of the engine until it is done, then
 * events.destroyed is called once. Calls for the same id may be repeated meanwhile; without memory
 * for it, events.connected asks for that. */
void engine_destroy_later(struct engine *engine, const char *id);

/* Gives a running sandbox other limits: ENGINE_OP_LIMIT. ERR_CONFLICT: it can't have these; destroy
 * it. ERR_UNSUPPORTED: the engine has no ENGINE_CAP_LIMIT. */
int engine_limit(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                 struct err *err);

int engine_probe(struct engine *engine, int64_t deadline_ns, struct engine_info *out,
                 struct err *err);
int engine_inspect(struct engine *engine, const char *id, int64_t deadline_ns,
                   enum engine_state *out, struct err *err);

/* The ids of all sandboxes of this instance: living, half-made and stopped; heap, freed by the
 * caller. */
int engine_list(struct engine *engine, int64_t deadline_ns, char (**out_ids)[SANDBOX_ID_MAX + 1],
                size_t *out_count, struct err *err);
int engine_open_channel(struct engine *engine, const char *id, int64_t deadline_ns,
                        int *out_channel_fd, struct err *err);

/* Library layers: read-only folders that the engine keeps under a name, over its own restarts, and
 * shows at ENGINE_LAYER_PLACE of a sandbox (ENGINE_OP_LAYER_IMPORT and those that follow it).
 * ERR_UNSUPPORTED: the engine has no ENGINE_CAP_LAYERS. */

/* Makes a layer of a tar; blocks until it stands on disk. ERR_CONFLICT: there is one of that name,
 * which can be used. ERR_BAD_INPUT (public): the tar is at fault, or too large. After an error as
 * engine_is_away() tells it, or a deadline that passed, the layer may come to be. */
int engine_layer_import(struct engine *engine, const struct engine_layer_import *import,
                        int64_t deadline_ns, uint64_t *out_size_bytes, struct err *err);

/* Shows the layer in a running sandbox, in place of the one that it had. It is visible to all that
 * runs there when this returns; what is open of the former one stays open. ERR_NOT_FOUND: there is
 * no such layer. ERR_CONFLICT: no such sandbox runs, it is being given a layer already, or its
 * files let none be shown; then it has none. */
int engine_layer_attach(struct engine *engine, const char *id, const char *name,
                        int64_t deadline_ns, struct err *err);

/* Takes the name away; sandboxes that have the layer keep it. Idempotent. */
int engine_layer_remove(struct engine *engine, const char *name, int64_t deadline_ns,
                        struct err *err);

/* All layers, in the order of strcmp(); heap, freed by the caller. */
int engine_layer_list(struct engine *engine, int64_t deadline_ns, struct engine_layer **out_layers,
                      size_t *out_count, struct err *err);

/* Gives a running sandbox the network "full", or takes it away; idempotent. All that it had open
 * over it has ended then. ERR_CONFLICT: no such sandbox runs. ERR_UNSUPPORTED: the engine has no
 * ENGINE_CAP_FULL. */
int engine_network(struct engine *engine, const char *id, bool full, int64_t deadline_ns,
                   struct err *err);

/* Stops the engine's threads and frees it; sandboxes live on. NULL is allowed. */
void engine_free(struct engine *engine);

/* For providers: "the sandbox engine WHY; try again", with ERR_UNAVAILABLE and retry_after_s. */
int engine_set_away(struct err *err, const char *why);
/* For providers: whether a descriptor of wait is readable, or becomes so within timeout_ms. */
bool engine_wait_is_over(const struct engine_wait *wait, int timeout_ms);
/* Whether an error says that nobody answered: a repeated call may find the engine back. */
bool engine_is_away(const struct err *err);

/* The client of an engine process (berth-native, berth-docker), over the SEQPACKET socket at path.
 * Connects in the background and again whenever the connection breaks. name: what operators and
 * requests call it; borrowed for the engine's life. */
int engine_process_new(const char *name, const char *socket_path,
                       const struct engine_events *events, struct engine **out, struct err *err);

/* fake: sandboxes that are threads of this process and run tiny scripts, with faults to inject; for
 * tests only. See fake.h. */

#endif
