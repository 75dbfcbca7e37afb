/* Executions and the sandboxes under them: the server's rules, without HTTP and without an engine's
 * details. Every function is thread-safe and runs on the caller's thread.
 *
 * An execution is an object with an id, an owner and labels; its row is written before anybody
 * knows of it and its outcome before it is answered, so that a server killed at any moment has lost
 * nothing. */
#ifndef BERTH_CORE_CORE_H
#define BERTH_CORE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct answer;
struct core;
struct engine;
struct engine_events;
struct lang;
struct network_rules;

#define CORE_OWNER_LOCAL "local" /* who calls without a token on a loopback server */
#define CORE_ENGINES_MAX 4

/* When kernels are forked from a warm one, where the engine has such: never; for requests that find
 * the pool empty, and to refill it while they do; always. */
enum core_zygote { CORE_ZYGOTE_OFF, CORE_ZYGOTE_AUTO, CORE_ZYGOTE_ON };

struct core_config {
    const char *db_path;
    const char *const *engines;  /* their names; the first is taken where nobody says; borrowed for
                                    the core's life, as all strings here */
    size_t engine_count;         /* up to CORE_ENGINES_MAX */
    const char *engine_execute;  /* "engine" or "engine/runtime" of executions in sandboxes of their
                                    own that name none; NULL: the first */
    const char *engine_sessions; /* the same of sessions */
    bool engine_choice;          /* requests may name others than these */
    uint32_t sandboxes_max;      /* living at once; more wait */
    uint32_t creates_max;        /* creations in flight at once */
    uint32_t queue_max;          /* waiting; past it 503 with Retry-After */
    uint32_t pool_min;           /* sandboxes made ahead of the default kind, whatever the demand */
    uint32_t pool_max;           /* of all kinds; they count beside sandboxes_max. 0: none */
    enum core_zygote zygote;
    uint32_t turns_max; /* executions that wait for their turn in a session, of all sessions: each
                           holds a connection, its client's or one that was left; 0: no bound */
    uint64_t queue_wait_ms; /* longest wait in the queue; past it 503 */
    uint64_t timeout_ms;    /* of an execution when the request names none */
    uint64_t timeout_max_ms;
    uint64_t memory_budget_bytes;      /* that may be reserved; 0: four fifths of the host's */
    uint64_t disk_budget_bytes;        /* the same of the engine's disk */
    uint64_t reserve_min_bytes;        /* of memory, for each sandbox */
    uint32_t memory_overcommit_millis; /* limits above reservations, 1000: none */
    uint32_t disk_overcommit_millis;
    uint64_t memory_bytes; /* defaults of a sandbox */
    uint64_t storage_bytes;
    uint32_t cpu_millis;
    uint32_t pids_max;
    uint32_t open_files_max;
    uint64_t keep_output_bytes;   /* of stdout and of stderr (contract: 1 MiB) */
    uint64_t keep_messages_bytes; /* of a kernel's messages: results, plots, tracebacks */
    uint64_t output_max_bytes;    /* of both; past it killed (contract: 64 MiB) */
    uint64_t answers_max_bytes;   /* of what is held for readers of kept outcomes; 0: no bound */
    uint64_t compile_cache_bytes; /* of compiled programs that are kept beside db_path; 0: none */
    uint64_t keep_bytes;          /* of the text of all outcomes together; 0: no bound */
    uint64_t session_timeout_ms;  /* lifetime of a session when the request names none */
    uint64_t session_timeout_max_ms;
    uint64_t session_idle_ms;   /* the same of its idle time */
    uint32_t layers_max;        /* library layers kept at once; 0: no libraries are installed */
    uint64_t layers_max_bytes;  /* of all of them */
    uint64_t layers_grace_ms;   /* how long one that nobody uses, and nobody asked to keep, stays */
    uint64_t layers_timeout_ms; /* of an installer */
    uint64_t layers_memory_bytes;  /* of the sandbox that it runs in, as far as the host has it */
    uint64_t layers_storage_bytes; /* the same */
    const char
        *layers_allow;      /* where it may connect to, of what egress allows; NULL, "": all that */
    const char *layers_env; /* what it gets, "NAME=value" with spaces between; NULL: nothing */
    uint64_t keep_outcome_ms; /* how long an outcome can be asked for (contract: an hour) */
    const struct network_rules *network; /* what the operator offers; borrowed for the core's life;
                                            NULL: sandboxes have no network */
};

/* Opens the store, runs its migrations, and ends what an earlier server left: executions that were
 * running become killed_by "server". */
int core_new(const struct core_config *config, struct core **out, struct err *err);
/* The callbacks of engine number index of the config into this core; pass it to the engine's
 * constructor. */
void core_engine_events(struct core *core, size_t index, struct engine_events *out);
/* Gives the core that engine (takes it over, also after a failure) and reconciles: sandboxes of it
 * that nobody owns are destroyed. */
int core_set_engine(struct core *core, size_t index, struct engine *engine, struct err *err);
/* Connects to berth-egress, which sandboxes with network "egress" need, in the background. */
int core_open_egress(struct core *core, const char *socket_path, struct err *err);
/* Begins to stop: no new execution begins (ERR_UNAVAILABLE), and each one that runs is cancelled
 * with the cause "server"; its caller still gets the outcome. Does not wait. */
void core_stop(struct core *core);
/* Cancels what runs (killed_by "server"), waits for it, frees the engine and the store. No answer
 * of it is held any more. */
void core_free(struct core *core);

/* What a request says of the network. Strings are borrowed. */
struct network_ask {
    const char *mode; /* "none", "egress" or "full"; NULL: the default of the family */
    const char *const
        *allow; /* egress: only these of what the operator allows, "host" or "host:port" */
    size_t allow_count;
    bool narrowed; /* allow was given, be it empty */
};

struct execution_file {
    const char *path; /* relative to /workspace, or absolute */
    const uint8_t *content;
    size_t size;
};

/* All strings are borrowed for the call. Zero means "the default" for every number. */
struct execution_request {
    const char *owner;
    const char *idempotency_key; /* NULL: none */
    const char *labels;          /* a JSON object as text; NULL: {} */
    const struct lang *lang;     /* NULL: of none, a sandbox for any program */
    bool cells;                  /* a session's: code comes in cells, to its kernel if it has one */
    bool of_session;             /* the defaults are those of sessions */
    const char *code;
    size_t code_size;
    const char *stdin_data;
    size_t stdin_size;
    const struct execution_file *files;
    size_t file_count;
    const char *const *env; /* "NAME=value" */
    size_t env_count;
    const char *engine, *runtime; /* NULL: the default of the family, of the engine */
    const char *image;            /* NULL: the first of the engine's */
    const char *profile;          /* NULL: "strict" */
    const char *const *libraries; /* requirements, as the caller wrote them */
    size_t library_count;
    bool keep_template; /* the layer of the libraries stays for the next caller */
    struct network_ask network;
    uint32_t gpu_count;
    uint64_t timeout_ms;
    uint64_t memory_bytes;
    uint64_t storage_bytes;
    uint32_t cpu_millis;
    int gone_fd; /* readable: the client has gone, kill it (killed_by "user"); -1: none. Ignored
                    with an idempotency key: its owner comes back for the outcome */
};

/* Live output, in the pieces that are kept: number 1 is the start, 2 the first piece. stream is
 * STREAM_STDOUT or STREAM_STDERR, or STREAM_CONTROL for a message (enum execution_message and
 * JSON). A large message comes in parts to who follows it: `more` is set on all but the last.
 * Called on the thread of the call that it is given to; a negative result kills an execution that
 * is not to outlive its client. */
struct execution_sink {
    void *context;
    /* It has to wait. Not a piece: it has no number, and is told once, or never. NULL: unwanted. */
    int (*queued)(void *context, const char *execution_id, struct err *err);
    int (*started)(void *context, const char *execution_id, struct err *err);
    int (*output)(void *context, int stream, const uint8_t *data, size_t size, bool more,
                  struct err *err);
};

/* Runs code in a sandbox made for it. On success *out (core/answer.h) is the execution object of
 * the contract as JSON text, the same bytes that core_execution_get() answers later. With a sink,
 * output goes there as it comes, and the text members stdout, stderr and output of *out are left
 * out when omit_streamed is set. A known idempotency key answers with the first outcome (waiting
 * for it when it is still running), also while the engine is down. ERR_BAD_INPUT names what the
 * host cannot give, ERR_UNSUPPORTED what it can't do or enforce; ERR_UNAVAILABLE: the queue is full
 * or the engine is down, and nothing was run. */
int core_execute(struct core *core, const struct execution_request *request,
                 const struct execution_sink *sink, bool omit_streamed, struct answer *out,
                 struct err *err);

/* The execution object (outcome, or {"execution_id", "status": "queued"|"running", ...}).
 * ERR_UNAVAILABLE: as much is held for other readers as may be. */
int core_execution_get(struct core *core, const char *owner, const char *id, struct answer *out,
                       struct err *err);
struct execution_follow {
    const char *owner, *id;
    uint64_t after;  /* events that the reader has: those behind them come */
    bool only_known; /* what there is so far, without waiting for more */
    int gone_fd;     /* readable: the reader has left; looked at about once a second; -1: none */
};

/* Follows an execution that runs, or ran: calls sink, and then sets *out to its object without
 * stdout, stderr and output. ERR_CLOSED: the reader left. Returns 1 when only what is known was
 * wanted and it has not ended: *out as core_execution_get() has it then. */
int core_execution_follow(struct core *core, const struct execution_follow *follow,
                          const struct execution_sink *sink, struct answer *out, struct err *err);
/* Cancels; waits for the end; answers the object. ERR_CONFLICT is never used: ending twice is fine.
 */
int core_execution_cancel(struct core *core, const char *owner, const char *id, struct answer *out,
                          struct err *err);
/* {"executions": [{execution_id, status, lang, created_at, ...}], "next": id or null}, newest
 * first. status NULL: all. after: an id to go on from, or NULL. ERR_BAD_INPUT: no such status, or
 * no such execution of this owner. */
int core_execution_list(struct core *core, const char *owner, const char *status, const char *after,
                        unsigned limit, struct buf *out, struct err *err);

/* Prometheus text (exposition format 0.0.4) of everything that the core counts. */
int core_metrics(struct core *core, struct buf *out, struct err *err);

/* The engines as a JSON list, for /health: each {"name", "status", "version", "default", "cgroups",
 * "capabilities", "limits", "unavailable"}. With details, for /api/v1/info, also what the host
 * can't enforce ("not_enforced"), why ("missing"), "images", "profiles" and "runtimes". */
int core_engines_json(struct core *core, bool details, struct buf *out, struct err *err);
/* Which engine a request gets that names none, and whether it may name one, as JSON, for
 * /api/v1/info. */
int core_engine_choice_json(struct core *core, struct buf *out, struct err *err);

/* What may be reserved and what is, as JSON, for /api/v1/info. */
int core_capacity_json(struct core *core, struct buf *out, struct err *err);

/* What sandboxes may be given of the network, as JSON, for /api/v1/info. */
int core_network_json(struct core *core, struct buf *out, struct err *err);

/* The defaults and the largest values that a request may ask for, as JSON, for /api/v1/info. */
int core_limits_json(struct core *core, struct buf *out, struct err *err);

#endif
