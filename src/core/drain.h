/* Draining: nothing new begins (ERR_UNAVAILABLE, in words), what runs ends (killed_by "server"),
 * and so does every session. The state stays until it is lifted, or the server ends: the next one
 * takes requests again. Each function appends the state as an object:
 * {"status": "active" | "draining" | "drained", "ended": {"executions", "sessions"},
 *  "left": {"executions", "sessions", "sandboxes"}}; `ended` counts since the drain began. */
#ifndef BERTH_CORE_DRAIN_H
#define BERTH_CORE_DRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct core;

/* Begins to drain, or goes on, and waits until nothing is left, at most wait_ms. ERR_CLOSED:
 * gone_fd became readable (-1: none); what has begun goes on. */
int core_drain(struct core *core, uint64_t wait_ms, int gone_fd, struct buf *out, struct err *err);
/* Ends the state: what ended stays ended. */
int core_drain_lift(struct core *core, struct buf *out, struct err *err);
int core_drain_get(struct core *core, struct buf *out, struct err *err);
bool core_is_draining(struct core *core);

#endif
