/* The last frames of a job: CLOSE of its outputs, EXIT of an execution, DONE of a file. */
#ifndef BERTH_INIT_JOB_END_H
#define BERTH_INIT_JOB_END_H

#include "init/job.h"

/* The first process is reaped, what it left behind ended, the pipes at their end. Says EXIT. */
void job_end_exec(struct job *job, struct job_table *table);

/* The same of a run: either the kernel said that it is done, or it is reaped. */
void job_end_run(struct job *job, struct job_table *table);

/* CLOSE of an output (0 or 1), where it was not said yet. */
void job_end_output(struct job *job, int index);

/* EXIT of what did not begin. */
void job_end_refused(struct job *job, const struct sandbox_exit *exit);

/* The child is reaped. Says DONE. */
void job_end_file(struct job *job);

#endif
