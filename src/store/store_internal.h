/* Shared by the files of src/store only: connections with their cached statements, and the queue of
 * the writer. */
#ifndef BERTH_STORE_STORE_INTERNAL_H
#define BERTH_STORE_STORE_INTERNAL_H

#include <pthread.h>
#include <sqlite3.h>

#include "store/store.h"

enum store_sql {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_INSERT,
    SQL_STARTED,
    SQL_FINISH,
    SQL_REMOVE,
    SQL_GET,
    SQL_BY_KEY,
    SQL_LIST,
    SQL_UNFINISHED,
    SQL_EXPIRE,
    SQL_FORGET,
    SQL_TEXT_SUM,
    SQL_TEXT_OLDEST,
    SQL_TEXT_DROP,
    SQL_SESSION_INSERT,
    SQL_SESSION_RENEW,
    SQL_SESSION_NETWORK,
    SQL_SESSION_REMOVE,
    SQL_SESSION_BY_KEY,
    SQL_SESSION_ALL,
    SQL_LAYER_INSERT,
    SQL_LAYER_USED,
    SQL_LAYER_REMOVE,
    SQL_LAYER_ALL,
    SQL_SESSION_LAYER_PUT,
    SQL_SESSION_LAYER_GET,
    SQL_SANDBOX_PUT,
    SQL_SANDBOX_REMOVE,
    SQL_SANDBOX_CLEAR,
    SQL_COUNT
};

/* One connection and its statements, prepared at their first use. Used by one thread at a time. */
struct store_connection {
    sqlite3 *db;
    sqlite3_stmt *statements[SQL_COUNT];
};

struct store {
    struct store_connection writer; /* of whoever set `writing` */
    struct store_connection keeper; /* the thread's, for checkpoints */
    struct store_connection reader; /* held by reader_lock */
    /* Rank 2. Serialises use of `reader`: the one lock that is held across I/O, since a connection
     * is not to be shared; reads of a WAL file do not wait for the writer. */
    pthread_mutex_t reader_lock;
    /* Rank 1. Guards head, tail, late_ns, writing, untidy, stop, and done and waits of every job.
     */
    pthread_mutex_t queue_lock;
    pthread_cond_t queue_filled;
    struct store_job *head, **tail;
    int64_t late_ns; /* when the thread writes what nobody waits for; INT64_MAX: nothing of it */
    bool writing;    /* a thread writes, without the lock */
    bool untidy;     /* there is something to trim */
    int wal_pages;   /* in the log after the last commit; of whoever set `writing`, then guarded */
    bool wal_full;   /* there is something to copy back from the log */
    bool stop;
    _Atomic bool failing; /* the last transaction did */
    _Atomic uint64_t text_max;
    uint64_t text_bytes; /* of whoever set `writing`: at least what is kept */
    pthread_t thread;
    bool thread_runs;
};

/* The values of an update, owned by its job when that is detached. */
struct store_update {
    char id[STORE_ID_SIZE];
    char text[3][STORE_TEXT_SIZE + 16]; /* sandbox id; or owner, engine, state; or status */
    int64_t time_us[3];
    const struct store_outcome *outcome; /* never of a detached job */
};

/* A cached statement, reset and without values. Give it back with store_statement_done(). */
int store_statement(struct store_connection *connection, enum store_sql sql, sqlite3_stmt **out,
                    struct err *err);
void store_statement_done(sqlite3_stmt **statement);
#define STATEMENT_AUTO __attribute__((cleanup(store_statement_done)))

/* Binds borrowed text, which lives until the statement is done; NULL binds null. */
void store_bind_text(sqlite3_stmt *statement, int index, const char *text);

/* Copies a column's text, "" for null, cut to size. */
void store_column_text(sqlite3_stmt *statement, int column, char *out, size_t size);

/* Runs a statement that returns no rows. ERR_CONFLICT on a constraint. */
int store_step(struct store_connection *connection, sqlite3_stmt *statement, struct err *err);

/* An error with SQLite's own words, for the operator. ERR_UNAVAILABLE when the disk is full, fails
 * or is read-only, else ERR_INTERNAL. */
int store_error(struct store_connection *connection, const char *what, struct err *err);

int store_connection_open(const char *path, bool writer, struct store_connection *out,
                          struct err *err);
void store_connection_done(struct store_connection *connection);

/* migrate.c */
int store_migrate(struct store_connection *connection, struct err *err);

/* store_writer.c */
/* A statement without values, on the writer's connection. */
int store_run(struct store *store, enum store_sql sql, struct err *err);
int store_writer_start(struct store *store, struct err *err);
void store_writer_stop(struct store *store);
/* Queues a job; a detached one is heap and owned by the queue, with its input.update. waits: its
 * owner calls store_job_wait() soon. */
void store_writer_submit(struct store *store, struct store_job *job, bool waits);

/* What a session has of libraries; store_layers.c, on the writer's thread. */
int store_run_session_layer(struct store *store, struct store_job *job, struct err *err);

/* Runs one job with the caller's values and waits for its commit. */
int store_write(struct store *store,
                int (*run)(struct store *store, struct store_job *job, struct err *err),
                struct store_update *update, struct err *err);

/* Queues one with a copy of the values; nobody waits, and a failure is logged. */
void store_write_later(struct store *store,
                       int (*run)(struct store *store, struct store_job *job, struct err *err),
                       const struct store_update *update);

/* Returns when what was queued before is committed, or failed. */
void store_see_queued(struct store *store);

/* Takes the reader's lock for the rest of the scope; what was queued before can be read then. */
void store_unlock_at(pthread_mutex_t **lock);
#define READER_LOCK(store)                                                                         \
    store_see_queued(store);                                                                       \
    __attribute__((cleanup(store_unlock_at))) pthread_mutex_t *reader_lock_ =                      \
        &(store)->reader_lock;                                                                     \
    (void)pthread_mutex_lock(reader_lock_)

/* store_reads.c, with the reader's lock held. */
/* A read with these texts as its first values. */
int store_read_begin(struct store *store, enum store_sql sql, const char *const *texts,
                     size_t text_count, sqlite3_stmt **out, struct err *err);
/* Steps to the next row. Returns 1, or 0 when there is none. what: for the operator. */
int store_read_next(struct store *store, sqlite3_stmt *statement, const char *what,
                    struct err *err);
/* The id that owner and key name, by a statement of its own; it takes the lock. ERR_NOT_FOUND. */
int store_id_by_key(struct store *store, enum store_sql sql, const char *owner, const char *key,
                    char out_id[static STORE_ID_SIZE], struct err *err);

/* store_executions.c: one round of expiry on the writer's connection. */
int store_expire_now(struct store_connection *connection, int64_t now_us, int64_t history_us,
                     struct err *err);

/* store_texts.c, on the writer's thread: counts the bytes of all texts; drops the oldest while
 * there are too many, a round of them at a time: 1 when there are more to drop. */
int store_texts_count(struct store *store, struct err *err);
int store_texts_trim(struct store *store, struct err *err);

#endif
