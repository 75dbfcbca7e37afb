/* What the files of a fake sandbox share. For fake_*.c only.
 *
 * One mutex a sandbox guards all of it. A job's thread holds it for as long as its script does
 * something, and lets it go only while it waits; so scripts and frames never meet. */
#ifndef BERTH_ENGINE_FAKE_INTERNAL_H
#define BERTH_ENGINE_FAKE_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>

#include "base/buf.h"
#include "engine/fake_sandbox.h"
#include "wire/frame.h"

enum {
    FAKE_FILES_MAX = 320,
    FAKE_BYTES_MAX = 64 * 1024 * 1024,
    FAKE_CONNECTIONS_MAX = 8,
    FAKE_JOBS_MAX = 2 * SANDBOX_HELD_MAX,
    FAKE_VARS_MAX = 32
};

struct fake_file {
    char path[256];
    struct buf bytes;
    uint64_t inode;
    int64_t changed_ns;
};

struct fake_put {
    uint32_t stream;        /* 0: none */
    struct fake_file *file; /* NULL: its bytes are dropped */
    int sys_errno;
    uint64_t size;
};

struct fake_get {
    uint32_t stream; /* 0: none */
    struct buf bytes;
    size_t sent;
    uint64_t credit;
};

struct fake_connection {
    int fd;       /* non-blocking; -1: free */
    bool closing; /* is closed once all was sent */
    bool egress;  /* said EGRESS: it keeps no sandbox alive */
    bool refused; /* a file of the next execution */
    struct frame_decoder decoder;
    struct buf out;
    struct fake_put put;
    struct fake_get get;
};

/* A piece of output, or of a message, as it is counted and kept. */
struct fake_event {
    enum frame_type type;
    enum frame_stream part;
    uint8_t *data;
    size_t size;
};

struct fake_vars {
    char names[FAKE_VARS_MAX][32];
    char values[FAKE_VARS_MAX][256];
    size_t count;
};

struct fake_job {
    bool used;
    bool joined; /* its thread is no more */
    struct fake_sandbox *box;
    pthread_t thread;
    uint64_t order; /* of its beginning */
    bool is_run, hold;
    struct buf payload; /* what exec or run points into */
    struct sandbox_exec exec;
    struct sandbox_run run;
    struct buf code; /* of a run: its script */
    bool code_closed;
    struct buf input;
    bool input_closed;
    struct fake_vars vars; /* of an execution, or of a script; a cell has those of the kernel */
    /* who hears of it */
    struct fake_connection *connection; /* NULL: nobody */
    uint32_t stream;
    uint64_t credit[4]; /* by enum frame_stream */
    bool started_sent, exit_sent;
    struct fake_event *events;
    size_t event_count, event_capacity;
    size_t events_sent;
    /* how it goes */
    bool started, script_over, ended;
    bool killed; /* its process is no more */
    bool interrupted, deaf, raising;
    bool timed_out;
    const char *start_error; /* why it never began; "" when it did */
    int64_t began_ns, deadline_ns, grace_end_ns;
    enum kill_cause cause;
    uint32_t exit_code, limits_hit;
    uint64_t written[2], message_bytes, messages_kept;
    bool messages_dropped, state_lost;
};

struct fake_kernel {
    bool known; /* KERNEL came */
    bool lives;
    bool used; /* it had a run */
    bool lost; /* it died between two runs; the next one says so */
    struct buf payload;
    struct sandbox_kernel spec;
    struct fake_vars vars;
};

struct fake_sandbox {
    char id[SANDBOX_ID_MAX + 1];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    void (*died)(void *context, const char *id, enum kill_cause cause);
    void *context;
    pthread_t thread; /* of the connections */
    bool runs;        /* that thread is there to be joined; its owner's */
    int wake_fd;
    /* Rank 0, below the engine's; no function of another module is called with it. Guards all that
     * follows, and all that it points to. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum engine_fake_fault fault;
    bool over;    /* it ends, or has ended */
    bool by_self; /* and nobody told it to */
    bool silent;
    struct fake_connection connections[FAKE_CONNECTIONS_MAX];
    struct fake_job jobs[FAKE_JOBS_MAX];
    uint64_t next_order;
    struct fake_kernel kernel;
    struct sandbox_limits limits;
    struct sandbox_network network;
    struct fake_file files[FAKE_FILES_MAX];
    size_t file_count;
    int64_t lifetime_end_ns;
    uint64_t idle_ms, orphan_ms;           /* SANDBOX_NEVER */
    int64_t idle_since_ns, orphaned_at_ns; /* INT64_MAX: it is not */
};

/* ---- fake_sandbox.c ---- */

void fake_wake(struct fake_sandbox *box);
/* The sandbox ends by itself, as when its init dies. */
void fake_die(struct fake_sandbox *box);
void fake_send(struct fake_connection *connection, enum frame_type type, uint32_t stream,
               const void *payload, size_t size);
void fake_send_done(struct fake_connection *connection, uint32_t stream, int sys_errno,
                    uint64_t size_bytes);
/* The moment that is so far from now; INT64_MAX for SANDBOX_NEVER. */
int64_t fake_in_ms(uint64_t from_now_ms);
/* When it will have been idle for too long; INT64_MAX: it is not idle, or may be so for ever. */
int64_t fake_idle_end_ns(const struct fake_sandbox *box);
/* path as the code in folder cwd would name it; NULL: there is none. */
struct fake_file *fake_find_file(struct fake_sandbox *box, const char *cwd, const char *path);

/* ---- fake_protocol.c ---- */

void fake_on_frame(struct fake_sandbox *box, struct fake_connection *connection,
                   const struct frame *frame);
/* An empty file, in place of what was at path; NULL: there is no room for one more. */
struct fake_file *fake_make_file(struct fake_sandbox *box, const char *path);
/* Sends what credit allows of the file that is read. */
void fake_step_get(struct fake_connection *connection);

/* ---- fake_job.c ---- */

void fake_job_begin(struct fake_sandbox *box, struct fake_connection *connection,
                    const struct frame *frame);
struct fake_job *fake_job_of_stream(struct fake_sandbox *box,
                                    const struct fake_connection *connection, uint32_t stream);
struct fake_job *fake_job_held(struct fake_sandbox *box, const char *execution_id);
void fake_job_attach(struct fake_job *job, struct fake_connection *connection, uint32_t stream,
                     uint64_t after);
/* Its connection closed: it goes on when it is held, and ends otherwise. */
void fake_job_detach(struct fake_job *job);
void fake_job_kill(struct fake_job *job, enum kill_cause cause);
/* Sends what credit allows: start, events, exit. */
void fake_job_deliver(struct fake_job *job);
/* Frees one that ended, whoever still wanted to hear of it. */
void fake_job_free(struct fake_job *job);

/* For scripts. Whether its process is there; notices that its time is over. */
bool fake_job_alive(struct fake_job *job);
/* Whether the script goes on with its next step. */
bool fake_job_running(struct fake_job *job);
/* Waits for a change until until_ns, or less long when its own time is over before. */
void fake_job_wait(struct fake_job *job, int64_t until_ns);
/* Output of the code: counted, kept up to keep_bytes; returns when it was sent or is kept. */
void fake_job_write(struct fake_job *job, unsigned index, const void *data, size_t size);
void fake_job_message(struct fake_job *job, const void *data, size_t size);
/* The fault that is set strikes, if it is one of those that strike in the middle. */
void fake_job_strike(struct fake_job *job);

/* ---- fake_script.c ---- */

void fake_script_run(struct fake_job *job, const char *text);

#endif
