/* A job: one child of init with its pipes, its clock and its end. An execution, or a file written
 * or read.
 *
 * They live in a fixed table (job_table.h). A job talks to its connection only through job_output
 * and the connection's out buffer, and lives on without one. */
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
#include "wire/frame.h"
#include "wire/init_config.h"
#include "wire/sandbox.h"

/* The OOM event comes before the kernel has killed and counted: how long the counter is watched. */
#define JOB_OOM_WATCH_NS (100 * CLOCK_NS_PER_MS)

enum job_kind { JOB_FREE, JOB_EXEC, JOB_PUT_FILE, JOB_GET_FILE };

/* One of stdout and stderr. */
struct job_output {
    int fd;          /* -1 once its end was seen and CLOSE was sent */
    uint64_t total;  /* bytes that the code wrote */
    uint64_t sent;   /* bytes that went into DATA frames */
    uint32_t credit; /* bytes that the server takes now */
};

struct job {
    enum job_kind kind;
    uint32_t stream;
    struct buf *out; /* the connection's frames to send; NULL when the connection is gone */
    bool *failed;    /* set to true when the child ends badly; the connection's, or NULL */
    pid_t pid;       /* -1 once reaped */
    int wait_status;
    struct rusage rusage;

    int stdin_fd; /* non-blocking; -1 when closed */
    struct buf stdin_queue;
    bool stdin_closed_by_peer;
    uint32_t stdin_consumed; /* bytes taken since the last CREDIT */
    uint64_t stdin_total;

    struct job_output outputs[2];
    int status_fd; /* end of file: exec worked; bytes: why it did not */
    char start_error[256];

    int64_t started_ns;
    int64_t ended_ns;
    int64_t deadline_ns; /* INT64_MAX: none; of a file: when its child has moved no byte too long */
    int64_t next_kill_ns; /* while killing: when to try again */
    int64_t oom_watch_ns; /* until then the OOM counter is asked often; 0: not */
    bool killing;
    bool group_empty;
    enum kill_cause cause;
    uint64_t keep_bytes;
    uint64_t output_max_bytes;
    struct group_usage base; /* counters when it started */
    uint64_t moved;          /* a file: bytes in and out when the deadline was set */
};

/* Makes it free, whatever it held before. */
void job_init(struct job *job);

/* Starts a program. On failure the job is free again and *err says why; nothing was started. */
int job_start_exec(struct job *job, const struct init_config *config,
                   const struct sandbox_exec *exec, uint32_t stream, struct buf *out,
                   struct err *err);
int job_start_put_file(struct job *job, const struct init_config *config,
                       const struct sandbox_put_file *put, uint32_t stream, struct buf *out,
                       struct err *err);
int job_start_get_file(struct job *job, const struct init_config *config,
                       const struct sandbox_get_file *get, uint32_t stream, struct buf *out,
                       struct err *err);

/* Bytes for standard input; ERR_PROTOCOL beyond the credit that was given. */
int job_feed(struct job *job, const void *data, size_t size, struct err *err);
void job_feed_end(struct job *job);

/* Ends the job; the first cause stays. A file keeps what was written of it, and of one that is read
 * no more is sent. */
void job_kill(struct job *job, const struct init_config *config, enum kill_cause cause);

/* Moves whatever can move without blocking: input, output, kills, the end. Returns true when the
 * job is over: its last frame is in the out buffer and it is free again. */
bool job_step(struct job *job, const struct init_config *config);

/* When job_step() has to be called again at the latest; INT64_MAX: on an event only. */
int64_t job_wakeup_ns(const struct job *job);

/* Whether output of the stream (0 or 1) may be read now. */
bool job_wants_output(const struct job *job, int index);

/* A child was reaped; true when it was this job's. */
bool job_reaped(struct job *job, pid_t pid, int wait_status, const struct rusage *rusage);

#endif
