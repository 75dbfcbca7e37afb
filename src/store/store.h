/* What the server remembers across restarts: executions and sandboxes, in one SQLite file.
 *
 * All functions are thread-safe. Writes queue up, and all that are queued are committed in one
 * transaction. One that is waited for returns after its commit, which a killed process does not
 * lose (WAL, synchronous NORMAL: a power cut may lose the last ones, never the file); others are
 * committed some milliseconds later, and a process that is killed before loses them. Reads use a
 * connection of their own and see all that was queued before. */
#ifndef BERTH_STORE_STORE_H
#define BERTH_STORE_STORE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct store;

/* Opens or makes the file and applies the migrations that it lacks. A schema newer than this
 * program knows is ERR_UNSUPPORTED, in words. Blocks on the disk. */
int store_open(const char *path, struct store **out, struct err *err);
/* How many bytes of text all outcomes together may keep; UINT64_MAX before it is called. Past it
 * the oldest texts are dropped, soon after the write that went past it. */
void store_set_text_max(struct store *store, uint64_t max_bytes);
/* Finishes what is queued and closes the file. NULL is allowed. */
void store_close(struct store *store);

/* Whether the last commit failed: then who begins something had better wait for its row. */
bool store_is_failing(const struct store *store);

#define STORE_ID_SIZE 72
#define STORE_TEXT_SIZE 64
#define STORE_IMAGE_SIZE 256
#define STORE_NONCE_SIZE 16

/* A row of an execution as it is read back. Times are microseconds since 1970, 0 when not set. */
struct store_execution {
    char id[STORE_ID_SIZE];
    char owner[STORE_TEXT_SIZE];
    char lang[STORE_TEXT_SIZE];
    char status[STORE_TEXT_SIZE];
    char session_id[STORE_ID_SIZE]; /* "": none */
    int64_t created_us, started_us, finished_us;
    bool has_outcome;    /* false while it runs, and again when the outcome has expired */
    bool has_text;       /* false also when the text was dropped before its outcome */
    uint64_t text_bytes; /* of the text that there is */
};

/* What is kept of an execution's end; everything is borrowed. */
struct store_outcome {
    const char *status;
    int64_t finished_us, expires_us;
    const void *object; /* without its text */
    size_t object_size;
    const void *text;
    size_t text_size;
};

/* A new row; the strings are borrowed until the call or its job is over. */
struct store_execution_new {
    const char *id, *owner, *labels, *lang, *status;
    const char *idempotency_key; /* NULL: none */
    const char *session_id;      /* NULL: a sandbox of its own */
    int64_t created_us;
};

/* One queued write, on the caller's stack until store_job_wait() returned. Members are private. */
struct store_job {
    int (*run)(struct store *store, struct store_job *job, struct err *err);
    union {
        const struct store_execution_new *execution;
        const struct store_session *session;
        const struct store_layer *layer;
        struct store_update *update;
    } input;
    const struct store_session_layer *session_layer; /* beside a session, or alone */
    struct store_job *next;
    pthread_cond_t changed; /* it is done, or may be written by who waits for it */
    bool waits;             /* somebody does, for `changed` */
    bool done;
    bool detached; /* nobody waits; the writer frees it */
    int result;
    struct err err;
};

/* Queues the insertion of a row without waiting; each begin needs one store_job_wait(), at any
 * later time. */
void store_execution_insert_begin(struct store *store, const struct store_execution_new *row,
                                  struct store_job *job);
/* Waits for the commit. ERR_CONFLICT: the id, or the owner's idempotency key, is taken. */
int store_job_wait(struct store *store, struct store_job *job, struct err *err);

/* Says that an execution runs, in which sandbox, from when. With wait it returns when that is
 * committed; a failure is logged. */
void store_execution_started(struct store *store, const char *id, const char *sandbox_id,
                             int64_t started_us, bool wait);

/* Writes the end of an execution and its outcome; waits for the commit. After expires_us the
 * outcome and the idempotency key are dropped. ERR_NOT_FOUND: no such row. */
int store_execution_finish(struct store *store, const char *id, const struct store_outcome *outcome,
                           struct err *err);

/* Removes the row of an execution that never ran. */
int store_execution_remove(struct store *store, const char *id, struct err *err);

/* Reads one row, and appends its outcome's object and text where there are such (NULL: not wanted).
 * owner NULL: any. ERR_NOT_FOUND: no such row of this owner. */
int store_execution_get(struct store *store, const char *owner, const char *id,
                        struct store_execution *out, struct buf *object, struct buf *text,
                        struct err *err);

/* The id that an owner's idempotency key names. ERR_NOT_FOUND: none. */
int store_execution_by_key(struct store *store, const char *owner, const char *key,
                           char out_id[static STORE_ID_SIZE], struct err *err);

/* Up to limit rows of an owner, newest first; status NULL: all; after NULL: from the newest, else
 * the rows that follow that id. *out is heap, the caller's. */
int store_execution_list(struct store *store, const char *owner, const char *status,
                         const char *after, unsigned limit, struct store_execution **out,
                         size_t *out_count, struct err *err);

/* The rows of a session (NULL: of none that there is), at most limit, that are queued or running,
 * oldest first.
 * *out is heap, the caller's. */
int store_execution_unfinished(struct store *store, const char *session_id, unsigned limit,
                               struct store_execution **out, size_t *out_count, struct err *err);

/* Drops outcomes and keys that expired by now_us and rows that ended before history_us. The writer
 * does it by itself too, once a minute. Waits for the commit. */
int store_expire(struct store *store, int64_t now_us, int64_t history_us, struct err *err);

/* A session as it is written and read. Times 0: never. */
struct store_session {
    char id[STORE_ID_SIZE];
    char owner[STORE_TEXT_SIZE];
    char lang[STORE_TEXT_SIZE];
    char image[STORE_IMAGE_SIZE];
    char profile[STORE_TEXT_SIZE];
    char engine[STORE_TEXT_SIZE];
    char runtime[STORE_TEXT_SIZE]; /* "": the engine named none */
    char sandbox_id[STORE_ID_SIZE];
    uint8_t nonce[STORE_NONCE_SIZE];
    uint64_t memory_bytes, storage_bytes, reserve_memory_bytes, reserve_disk_bytes;
    uint32_t cpu_millis;
    bool disk;
    uint64_t timeout_ms; /* lifetime, from the last renewal on; 0: none */
    uint64_t idle_ms;    /* 0: none */
    int64_t created_us, lifetime_us;
    char *labels;          /* heap when it was read */
    char *idempotency_key; /* NULL: none; the same */
    char *env; /* variables of programs, each "NAME=value" and a NUL; NULL: none; the same */
    size_t env_size;
    char *network; /* NULL: none; the same. core/network.h has its words */
    uint32_t network_env;
};
struct store_session_layer;
void store_session_done(struct store_session *session);

/* Writes a session, and its libraries (NULL: none); waits for the commit. ERR_CONFLICT: the id or
 * the owner's key is taken. */
int store_session_insert(struct store *store, const struct store_session *session,
                         const struct store_session_layer *layer, struct err *err);
/* New times of a session; waits for the commit. ERR_NOT_FOUND: there is none. */
int store_session_renew(struct store *store, const char *id, uint64_t timeout_ms, uint64_t idle_ms,
                        int64_t lifetime_us, struct err *err);
/* Another network of a session; waits for the commit. ERR_NOT_FOUND: there is none. */
int store_session_set_network(struct store *store, const char *id, const char *network,
                              uint32_t network_env, struct err *err);
/* Removes it; waits for the commit. One that is not there is no error. */
int store_session_remove(struct store *store, const char *id, struct err *err);
/* The id that an owner's key names. ERR_NOT_FOUND: none. */
int store_session_by_key(struct store *store, const char *owner, const char *key,
                         char out_id[static STORE_ID_SIZE], struct err *err);
/* All sessions, oldest first. *out is heap, each to be given to store_session_done(). */
int store_session_all(struct store *store, struct store_session **out, size_t *out_count,
                      struct err *err);

/* A library layer as it is written and read. */
struct store_layer {
    char name[STORE_ID_SIZE];
    char owner[STORE_TEXT_SIZE]; /* who asked for it first */
    char lang[STORE_TEXT_SIZE];
    char image[STORE_IMAGE_SIZE];
    char engine[STORE_TEXT_SIZE]; /* that keeps it */
    char *key;                    /* what it is found by; these three are heap when it was read */
    char *requirements;           /* a JSON list as text */
    char *resolved;               /* what was installed, in the installer's words */
    uint64_t size_bytes;
    int64_t created_us, used_us;
    bool keep; /* it stays while nobody uses it */
};
void store_layer_done(struct store_layer *layer);

/* Writes a layer, in place of one that has its name or key; waits for the commit. */
int store_layer_insert(struct store *store, const struct store_layer *layer, struct err *err);
/* Does not wait; a failure is logged. */
void store_layer_used(struct store *store, const char *name, int64_t used_us, bool keep);
/* Removes it; waits for the commit. One that is not there is no error. */
int store_layer_remove(struct store *store, const char *name, struct err *err);
/* Calls with each layer, oldest first, until a call fails. What call takes of it, it sets to NULL;
 * it calls nothing of the store. */
int store_layer_each(struct store *store,
                     int (*call)(void *context, struct store_layer *layer, struct err *err),
                     void *context, struct err *err);

/* The libraries of a session; its row here goes with the session's. */
struct store_session_layer {
    const char *session_id, *layer;
    const char *requirements; /* a JSON list as text */
};
/* In place of what it had; waits for the commit. */
int store_session_layer_put(struct store *store, const struct store_session_layer *row,
                            struct err *err);
/* *out_requirements is heap, the caller's. ERR_NOT_FOUND: it has none. */
int store_session_layer_get(struct store *store, const char *session_id,
                            char out_layer[static STORE_ID_SIZE], char **out_requirements,
                            struct err *err);

/* The life of a sandbox in the books. None of these wait; failures are logged. */
void store_sandbox_put(struct store *store, const char *id, const char *owner, const char *engine,
                       const char *state, int64_t created_us);
void store_sandbox_remove(struct store *store, const char *id);
/* Forgets all sandboxes: at the start, before the engine tells which ones live. */
int store_sandbox_clear(struct store *store, struct err *err);

#endif
