/* Admission: how many sandboxes live, how many are being made, how much is reserved for them, and
 * the queue before all that. First come, first served: one who asks for much is not overtaken by
 * those who ask for little, but by those of another engine while it is his engine that lacks room.
 *
 * Each engine has a budget. All of them together have the largest of these: several engines of one
 * host share what it has. */
#ifndef BERTH_CORE_ADMISSION_H
#define BERTH_CORE_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct admission;

#define ADMISSION_ENGINES_MAX 4

/* What one sandbox takes from the budget of its engine, or that budget itself. */
struct reservation {
    uint64_t memory_bytes;
    uint64_t disk_bytes; /* 0: its root is not on disk */
    unsigned engine;     /* below ADMISSION_ENGINES_MAX */
};

struct admission_config {
    unsigned living_max;
    unsigned creates_max;
    unsigned queue_max;
};

/* Nothing can be reserved before admission_set_budget(). */
int admission_new(const struct admission_config *config, struct admission **out, struct err *err);
/* Nobody may wait any more. NULL is allowed. */
void admission_free(struct admission *admission);

/* All that may be reserved at once of budget->engine. A smaller budget takes nothing from who has a
 * place. */
void admission_set_budget(struct admission *admission, const struct reservation *budget);

/* Takes one place among the living, one among the creations, and the reservation; blocks in the
 * queue until deadline_ns. ERR_UNAVAILABLE (public, with figures and retry_after_s): the queue is
 * full, or the deadline passed. ERR_BAD_INPUT (public): more than the engine's whole budget.
 * ERR_CLOSED: cancel_fd or gone_fd became readable (-1: none). */
int admission_acquire(struct admission *admission, const struct reservation *reserve,
                      int64_t deadline_ns, int cancel_fd, int gone_fd, struct err *err);
/* Whether one who comes now would have to wait in the queue, and could. It may be otherwise a
 * moment later. */
bool admission_would_wait(struct admission *admission, const struct reservation *reserve);
/* Whether somebody waits for what that engine has, or for what all share: what is taken there now
 * would be taken from him. */
bool admission_has_waiters(struct admission *admission, unsigned engine);
/* Takes a place among the living and the reservation for what lives already, whatever is left. */
void admission_adopt(struct admission *admission, const struct reservation *reserve);
/* Gives back the place among the creations, after the creation ended. */
void admission_created(struct admission *admission);
/* Gives back the place among the living and its reservation, after nothing of the sandbox is left.
 */
void admission_release(struct admission *admission, const struct reservation *reserve);

struct admission_stats {
    unsigned living, creating, waiting, living_max;
    struct reservation reserved, budget; /* of all engines together */
};
void admission_stats(struct admission *admission, struct admission_stats *out);

#endif
