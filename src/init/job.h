/* A job: what init does for one stream of a server. An execution, one that runs in the kernel, the
 * start of a kernel, or a file written or read; the first and the last have a child of their own.
 *
 * They live in a fixed table (job_table.h). A job talks to its connection only through its outlet,
 * and lives on without one. */
#ifndef BERTH_INIT_JOB_H
#define BERTH_INIT_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "init/group.h"
#include "init/held.h"
#include "init/outlet.h"
#include "init/pipes.h"
#include "init/run.h"
#include "wire/frame.h"
#include "wire/init_config.h"
#include "wire/sandbox.h"

/* The OOM event comes before the kernel has killed and counted: how long the counter is watched. */
#define JOB_OOM_WATCH_NS (100 * CLOCK_NS_PER_MS)

struct job_table;

enum job_kind { JOB_FREE, JOB_EXEC, JOB_RUN, JOB_KERNEL, JOB_PUT_FILE, JOB_GET_FILE };

/* One of stdout and stderr. */
struct job_output {
    int fd;         /* -1 once its end was seen */
    short seen;     /* what poll(2) said of it in this turn */
    uint64_t total; /* bytes that the code wrote */
    uint64_t sent;  /* bytes that went into DATA frames, or into the log */
    bool closed;    /* CLOSE was sent */
    bool full;      /* no more is kept, whatever keep_bytes says */
    uint64_t drain; /* while draining: bytes that are still to be read */
};

struct job {
    enum job_kind kind;
    struct outlet own;
    struct outlet *outlet; /* its own, or that of held */
    struct held *held;     /* NULL: it does not outlive its connection */
    bool *failed;          /* set to true when a file's child ends badly; NULL: nobody waits */
    bool files_failed;     /* where files that this job waits for say so */
    pid_t pid;             /* -1 once reaped, and without a child of its own */
    pid_t session;         /* of the child */
    int wait_status;
    struct rusage rusage;

    int stdin_fd;                                 /* non-blocking; -1 when closed */
    short stdin_seen, status_seen, terminal_seen; /* as job_output.seen */
    struct buf stdin_queue;
    bool stdin_closed_by_peer;
    uint32_t stdin_consumed; /* bytes taken since the last CREDIT */
    uint64_t stdin_total;

    struct job_output outputs[2];
    bool draining;         /* what is in the pipes is read, and not further */
    int status_fd;         /* end of file: exec worked; bytes: why it did not */
    int terminal_fd;       /* over which the terminal's side comes; -1 */
    uint32_t resize;       /* the size that was asked for last; 0: none */
    bool terminal;         /* outputs[0] and stdin are one */
    char start_error[256]; /* "" or an exit code byte and a text */

    int64_t started_ns;
    int64_t ended_ns;
    int64_t deadline_ns; /* INT64_MAX: none; of a file: when its child has moved no byte too long */
    int64_t next_kill_ns; /* while killing: when to try again */
    int64_t oom_watch_ns; /* until then the OOM counter is asked often; 0: not; INT64_MAX: to the
                             end, now and then */
    bool killing;
    bool group_gone; /* of an execution: no process is left */
    int kill_rounds; /* of its session alone */
    enum kill_cause cause;
    uint64_t keep_bytes;
    uint64_t output_max_bytes;
    struct group_usage base; /* counters when it started */
    uint64_t moved;          /* a file: bytes in and out when the deadline was set */
    struct run run;          /* of JOB_RUN */
};

/* Makes it free, whatever it held before. */
void job_init(struct job *job);
/* Closes what it holds, and makes it free. */
void job_clear(struct job *job);

/* Takes a free job for this stream. */
void job_begin(struct job *job, enum job_kind kind, struct buf *out, uint32_t stream);
/* The code runs: whoever reads is told. */
void job_say_started(struct job *job);
/* What it uses counts from here. */
void job_begin_usage(struct job *job, const struct init_config *config);
/* Takes our ends of the pipes. */
void job_take_pipes(struct job *job, struct pipes *pipes);

/* Starts a program. On failure the job is free again and *err says why; nothing was started. */
int job_start_exec(struct job *job, struct job_table *table, const struct sandbox_exec *exec,
                   uint32_t stream, struct buf *out, struct err *err);
int job_start_put_file(struct job *job, const struct init_config *config,
                       const struct sandbox_put_file *put, uint32_t stream, struct buf *out,
                       struct err *err);
int job_start_get_file(struct job *job, const struct init_config *config,
                       const struct sandbox_get_file *get, uint32_t stream, struct buf *out,
                       struct err *err);

/* Bytes for standard input; ERR_PROTOCOL beyond the credit that was given. */
int job_feed(struct job *job, const void *data, size_t size, struct err *err);
void job_feed_end(struct job *job);
/* What was typed may be an interrupt that its terminal does not make. */
void job_watch_typing(struct job *job, struct job_table *table, const void *typed, size_t size);

/* Ends the job; the first cause stays. A file keeps what was written of it, and of one that is read
 * no more is sent. */
void job_kill(struct job *job, struct job_table *table, enum kill_cause cause);

/* SIGINT to what it runs. */
void job_interrupt(struct job *job, struct job_table *table);

/* Its connection is gone: it ends, unless it is held. */
void job_orphan(struct job *job, struct job_table *table);

/* Moves whatever can move without blocking: input, output, kills, the end. A job that is over has
 * sent its last frame and is free again. */
void job_step(struct job *job, struct job_table *table);

/* Parts of it. */
void job_step_input(struct job *job);
void job_step_output(struct job *job, struct job_table *table);
void job_step_oom(struct job *job, struct job_table *table, int64_t now_ns);

/* From now on only what is in the pipes is read: what came before a message, or before the end. */
void job_drain(struct job *job);
bool job_is_drained(const struct job *job);

/* When job_step() has to be called again at the latest; INT64_MAX: on an event only. */
int64_t job_wakeup_ns(const struct job *job, const struct job_table *table);

/* Whether output of the stream (0 or 1) may be read now. */
bool job_wants_output(const struct job *job, int index);

/* A child was reaped; true when it was this job's. */
bool job_reaped(struct job *job, pid_t pid, int wait_status, const struct rusage *rusage);

#endif
