/* What the files of a container share. For container*.c only. */
#ifndef BERTH_DOCKER_CONTAINER_INTERNAL_H
#define BERTH_DOCKER_CONTAINER_INTERNAL_H

#include "base/clock.h"
#include "docker/container.h"

#define CONTAINER_CALL_NS (40 * CLOCK_NS_PER_S)

enum { CONTAINER_PATH_SIZE = SPEC_NAME_SIZE + 96 };

/* ---- container.c ---- */

/* A call about this container, the only one under way; what comes behind its name. */
int container_call(struct container *container, const char *method, const char *what,
                   struct buf *body, int64_t timeout_ns, web_done_fn done, struct err *err);
/* Of such a call, which is over: 0 when the daemon did as it was told. */
int container_judge(struct container *container, long status, const struct buf *body,
                    const char *what, const struct err *error, struct err *err);
void container_enter(struct container *container, enum engine_state state);
/* error NULL: it is done. */
void container_answer_waiters(struct container *container, const struct err *error);
/* error NULL: each gets a channel. */
void container_answer_channels(struct container *container, const struct err *error);
int container_attach(struct container *container, struct err *err);
void container_drop_attach(struct container *container);
/* Of one that is being made: a start that fails keeps the files; of a creation nothing is kept. */
void container_fail(struct container *container, const struct err *error);

/* ---- container_end.c ---- */

/* context: a container that is to be removed now; whose removal is not wanted is not to be asked.
 */
void container_remove(void *context);

#endif
