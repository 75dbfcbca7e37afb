/* One piece of code in the kernel of the sandbox: a job of kind JOB_RUN (wire/sandbox.h, "RUN").
 *
 * It waits for its code, for its files and for its turn; it runs; then what it wrote is read to the
 * end. What it leaves behind goes on, and is heard no more. */
#ifndef BERTH_INIT_RUN_H
#define BERTH_INIT_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/sandbox.h"

struct job;
struct job_table;

enum run_phase {
    RUN_CODE,     /* its code comes */
    RUN_QUEUED,   /* it waits for its files, its turn and a kernel */
    RUN_RUNNING,  /* the kernel has it */
    RUN_DRAINING, /* the kernel is done with it */
    RUN_DYING,    /* the kernel died, or is being killed */
};

struct run {
    enum run_phase phase;
    uint64_t turn; /* the lower is first */
    bool asked;    /* a kernel was asked for */
    bool struck;   /* it was interrupted before the kernel had it */
    struct buf params;
    struct buf code;
    enum sandbox_run_mode mode;
    uint64_t grace_ms;
    int64_t grace_ns; /* after a timeout: when the kernel is killed; INT64_MAX */
    uint64_t messages_max_bytes;
    uint64_t message_bytes;
    uint64_t message_cost; /* of all that the kernel said: what is nearly empty is not free */
    uint64_t message_kept;
    size_t message_sent; /* of the one that is being sent */
    bool messages_dropped;
    uint8_t exit_code;
    bool last;    /* it said the exit code, and that it is of no use any more */
    int input_fd; /* for a kernel that speaks lines: all of standard input, as it comes; -1: none */
    bool input_cut; /* and some of it did not fit */
};

/* Begins, for a RUN frame. Negative: the frame is nonsense, and the job is free. */
int run_start(struct job *job, struct job_table *table, const void *payload, size_t size,
              uint32_t stream, struct buf *out, struct err *err);

/* A piece of its code, and the end of it; ERR_PROTOCOL when it is too much. */
int run_feed_code(struct job *job, const void *data, size_t size, struct err *err);
void run_end_code(struct job *job, struct job_table *table);

void run_kill(struct job *job, struct job_table *table, enum kill_cause cause);
void run_interrupt(struct job *job, struct job_table *table);
void run_step(struct job *job, struct job_table *table);
int64_t run_wakeup_ns(const struct job *job, const struct job_table *table);

/* The kernel's process was reaped while it had this job. */
void run_kernel_died(struct job *job, struct job_table *table);
/* The kernel says that it is done. */
void run_is_done(struct job *job, struct job_table *table, uint8_t exit_code);
/* It says so, and that it ends: it is killed with all of the group, and the state is lost. */
void run_is_last(struct job *job, struct job_table *table, uint8_t exit_code);
/* Passes the kernel's message on; false: not yet, call again. */
bool run_take_message(struct job *job, struct job_table *table, const uint8_t *body, size_t size);
/* It said something that is no message of the run: that counts towards the bound as well. */
void run_count_noise(struct job *job, size_t size);

/* Gives the next job to a kernel that is ready, or asks for one. */
void run_schedule(struct job_table *table);
/* Does what the next run needs and can be done before it comes. */
void run_make_ready(struct job_table *table);

#endif
