/* The engines of this server: which there are, which one a request gets, what each one's host has,
 * and the thread of each that reconciles the books with it. Inside src/core.
 *
 * A slot is fixed from core_new() on, so pointers to it are held freely; NULL stands for an engine
 * that this server was started without. One engine that is away stops no other. */
#ifndef BERTH_CORE_ENGINES_H
#define BERTH_CORE_ENGINES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/core.h"
#include "core/states.h"
#include "engine/engine.h"

/* name, index and core are fixed; the rest is guarded by core->lock, but for the counters. */
struct engine_slot {
    struct core *core;
    unsigned index; /* its own, in core->slots */
    char name[ENGINE_NAME_MAX];
    struct engine *engine; /* set once; NULL: not yet */
    struct engine_info info;
    bool info_known;
    int64_t info_ns;   /* when it was asked for last */
    int64_t failed_ns; /* when it did not answer last; 0: it did */
    bool reconcile_wanted;
    pthread_cond_t wanted; /* for its thread */
    pthread_t keeper;
    bool keeper_runs;
    _Atomic uint64_t sandboxes_created, creates_failed, sandboxes_died;
};

/* Which engine and which of its runtimes; NULL: the default of the family. */
struct engine_ask {
    const char *engine, *runtime;
    bool of_session;
};

/* The slot of that name, or NULL. */
struct engine_slot *engines_find(struct core *core, const char *name);
/* The slot that a request gets, and the runtime to ask it for; NULL: the first that it has. Whether
 * it has that one, engines_runtime() knows. ERR_BAD_INPUT (public) lists the engines that there
 * are. */
int engines_choose(struct core *core, const struct engine_ask *ask, struct engine_slot **out,
                   const char **out_runtime, struct err *err);
/* Whether a caller may name these: ERR_FORBIDDEN (public) where only the defaults are to be had. */
int engines_allow(struct core *core, const struct engine_ask *ask, struct err *err);
/* Copies the runtime's name ("": the engine names none) and leaves its capabilities and memory in
 * *info.
 * ERR_BAD_INPUT (public) lists those that there are. */
int engines_runtime(const struct engine_slot *slot, const char *runtime, struct engine_info *info,
                    char out[static ENGINE_NAME_MAX], struct err *err);

/* The engine of a slot. ERR_UNAVAILABLE (public): it is not there yet, or the server was started
 * without it. */
int slot_engine(const struct engine_slot *slot, struct engine **out, struct err *err);
/* What the engine's host has; asks the engine, until deadline_ns, when what is known is older than
 * age_max_ns (INT64_MAX: of any age). */
int slot_info(struct engine_slot *slot, int64_t age_max_ns, int64_t deadline_ns,
              struct engine_info *out, struct err *err);
/* Takes what the engine said of its host, and the budget that follows. */
void slot_set_info(struct engine_slot *slot, const struct engine_info *info);
/* What an image's name means by what the engine said last; "": nothing is known. */
void slot_image_id(const struct engine_slot *slot, const char *image,
                   char out[static ENGINE_IMAGE_ID_MAX]);
/* Whether it did not answer when it was asked for its info last, or it was noted so since. */
bool slot_seems_away(const struct engine_slot *slot);
/* It did not answer something that is to be done, and is settled with again. */
void slot_note_away(struct engine_slot *slot);
/* Whether the engine has said what its host has. */
bool slot_knows_info(const struct engine_slot *slot);
/* Has its thread compare the books. With core->lock held. */
void slot_reconcile_locked(struct engine_slot *slot);

/* Appends the figures of each engine, as metrics_write() does. */
int core_engines_metrics(struct core *core, struct buf *out, struct err *err);

/* For core.c. Makes the slots. */
int engines_open(struct core *core, struct err *err);
/* Ends their threads; nobody makes anything any more. */
void engines_stop(struct core *core);
/* Frees the engines, whose threads call the core until here. */
void engines_free(struct core *core);
void engines_close(struct core *core);

#endif
