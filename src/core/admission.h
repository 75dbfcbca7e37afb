/* Admission: how many sandboxes live, how many are being made, and the queue before them. FIFO. */
#ifndef BERTH_CORE_ADMISSION_H
#define BERTH_CORE_ADMISSION_H

#include <stdint.h>

#include "base/err.h"

struct admission;

struct admission_config {
    unsigned living_max;
    unsigned creates_max;
    unsigned queue_max;
};

int admission_new(const struct admission_config *config, struct admission **out, struct err *err);
/* Nobody may wait any more. NULL is allowed. */
void admission_free(struct admission *admission);

/* Takes one place among the living and one among the creations; blocks in the queue until
 * deadline_ns. ERR_UNAVAILABLE (public, with figures and retry_after_s): the queue is full, or the
 * deadline passed. ERR_CLOSED: cancel_fd or gone_fd became readable (-1: none). */
int admission_acquire(struct admission *admission, int64_t deadline_ns, int cancel_fd, int gone_fd,
                      struct err *err);
/* Gives back the place among the creations, after the creation ended. */
void admission_created(struct admission *admission);
/* Gives back the place among the living, after nothing of the sandbox is left. */
void admission_release(struct admission *admission);

struct admission_stats {
    unsigned living, creating, waiting, living_max;
};
void admission_stats(struct admission *admission, struct admission_stats *out);

#endif
