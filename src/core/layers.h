/* Library layers: what a language's installer made of a set of libraries, as a read-only folder
 * that the engine keeps and shows in sandboxes.
 *
 * A set is built once, in a sandbox of its own that gets nothing of any caller but the set (see
 * layer_build.h), and is the same for all owners; who asks meanwhile waits. A layer that nobody
 * uses goes: after a grace unless somebody asked to keep it, and else when there are too many or
 * too large ones, the least used first. Its row is written after the engine has it and removed
 * before, so what the engine has and the store lacks is nobody's. Every function is thread-safe. */
#ifndef BERTH_CORE_LAYERS_H
#define BERTH_CORE_LAYERS_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/sandbox.h"

struct core;
struct engine_slot;
struct lang;
struct layer;
struct layer_build;
struct layers;
struct library_set;

/* All borrowed for the call. */
struct layer_want {
    const char *owner;
    const struct lang *lang;
    struct engine_slot *slot; /* NULL: of an engine that this server was started without */
    const char *runtime;      /* that shows it; NULL, "": the engine's first */
    const char *image;
    const struct library_set *set;
    bool keep;
};

/* One use of a layer, which stays as long; or the failure of its making. All zero: none. */
struct layer_use {
    struct layer *layer;
    struct layer_build *failed;
};

/* How an installer ended that did not install; lives as long as the use. */
struct layer_failure {
    struct sandbox_exit exit;
    struct buf words[2]; /* its stdout and its stderr, as far as they are kept */
};

#define LAYER_FAILED 1

/* The layer of a set, which is built when there is none. Waits for that, as long as nobody cancels
 * and the client is there (-1: none): ERR_CLOSED. LAYER_FAILED: the installer failed;
 * layer_failure() has its words. ERR_UNSUPPORTED (public): this server, or its engine, has no
 * layers. ERR_UNAVAILABLE (public): there is no room, or no engine, now. */
int layer_take(struct core *core, const struct layer_want *want, int cancel_fd, int gone_fd,
               struct layer_use *out, struct err *err);
/* Whether it would wait for none: a look, no promise. */
bool layer_is_there(struct core *core, const struct layer_want *want);
/* The layer of that name, without building it. ERR_NOT_FOUND: there is none. */
int layer_take_named(struct core *core, const char *name, struct layer_use *out, struct err *err);
/* Ends a use; of none it does nothing. */
void layer_give(struct core *core, struct layer_use *use);
const struct layer_failure *layer_failure(const struct layer_use *use);
const char *layer_name(const struct layer *layer);

/* Shows it in a sandbox. ERR_UNAVAILABLE (public): the engine has it no more; the next one builds
 * it. ERR_CONFLICT (public): what the sandbox's code left lets none be shown. ERR_CLOSED: the
 * sandbox has ended. */
int layer_attach(struct core *core, struct layer *layer, const char *sandbox_id, struct err *err);

/* {"layers": [{"name", "lang", "image", "libraries", "installed", "size_bytes", "created_at",
 * "last_used_at", "keep_template", "in_use"}], "building": [...], ...} */
int core_layers_list(struct core *core, struct buf *out, struct err *err);
/* Takes one away; who has it keeps it. ERR_NOT_FOUND (public): there is none of that name. */
int core_layer_remove(struct core *core, const char *name, struct buf *out, struct err *err);

struct layers_stats {
    unsigned count, building;
    uint64_t bytes;
};
void layers_stats(struct core *core, struct layers_stats *out);

/* For core.c. Reads the table; the store is open, and nothing else. */
int layers_open(struct core *core, struct err *err);
/* Those that are in use are known to be: what nobody uses may go from now on. */
int layers_start(struct core *core, struct err *err);
/* The engine is there: what it has and nobody knows goes, and what it lacks is forgotten. */
int layers_reconcile(struct core *core, struct engine_slot *slot, struct err *err);
/* The thread that tidies ends, while there is an engine; nobody builds one any more. */
void layers_stop(struct core *core);
/* After it; nobody uses one any more. */
void layers_close(struct core *core);

#endif
