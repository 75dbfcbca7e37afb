/* The last frame of a job: EXIT of an execution, DONE of a file. */
#ifndef BERTH_INIT_JOB_END_H
#define BERTH_INIT_JOB_END_H

#include "init/job.h"

/* The first process is reaped, the group empty, the pipes at their end. Lifts what a kill forbade,
 * and appends EXIT when somebody listens. */
void job_end_exec(struct job *job, const struct init_config *config);

/* The child is reaped. Appends DONE when somebody listens. */
void job_end_file(const struct job *job);

#endif
