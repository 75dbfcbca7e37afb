/* The frames that sessions are made of: kernels and runs, held executions, timers. Each of these is
 * one request; what it leads to is a job (job_table.h). */
#ifndef BERTH_INIT_SESSION_H
#define BERTH_INIT_SESSION_H

#include <stdbool.h>

#include "init/job_table.h"
#include "wire/frame.h"

/* Whether frames of this type begin something here. */
bool session_begins(enum frame_type type);

/* Takes such a frame of the connection that sends out; its stream is a fresh one. There is a free
 * job. *file_failed: a file that came before it was not written; a RUN or KERNEL takes that over.
 * Negative: close the connection. */
int session_begin(struct job_table *table, struct buf *out, bool *file_failed,
                  const struct frame *frame, struct err *err);

/* The step of a job of kind JOB_KERNEL: DONE once the kernel is ready, or can't be. */
void session_step_start(struct job *job, struct job_table *table);
/* Whether that step would do something now. */
bool session_start_is_due(const struct job *job, const struct job_table *table);

#endif
