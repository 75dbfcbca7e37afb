/* Owns the queue of writes: whoever finds nobody writing takes all queued jobs, runs them in one
 * transaction, commits, and only then tells their owners (group commit). So one that waits for its
 * own job writes by itself, without waking another thread; those that come meanwhile are the next
 * batch. A thread writes what nobody waits for, a little later, so that it shares the transaction
 * of what follows; and it tidies up. The log of SQLite is copied back by
 * it as well, since that syncs the disk, which no commit of a running execution is to wait for. A
 * job is one statement, so one that fails undoes itself alone; what undoes the whole transaction
 * makes each job run again in one of its own. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/store_internal.h"

#define EXPIRE_EVERY_NS (INT64_C(60) * CLOCK_NS_PER_S)
#define LATE_NS (5 * CLOCK_NS_PER_MS) /* most of what runs has ended by then */
/* Pages of the log: past the first the thread copies them into the database while others write,
 * past the second nobody writes meanwhile, or the log would grow without end. */
#define WAL_PAGES 1000
#define WAL_PAGES_MAX 8000
#define HISTORY_US                                                                                 \
    (INT64_C(7) * 24 * 3600 * 1000000) /* rows of ended executions are kept this long */

void store_writer_submit(struct store *store, struct store_job *job, bool waits)
{
    job->next = NULL;
    job->waits = false;
    job->changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    (void)pthread_mutex_lock(&store->queue_lock);
    *store->tail = job;
    store->tail = &job->next;
    if (!waits && store->late_ns == INT64_MAX) { /* else the thread looks soon */
        store->late_ns = clock_now_ns() + LATE_NS;
        (void)pthread_cond_signal(&store->queue_filled);
    }
    (void)pthread_mutex_unlock(&store->queue_lock);
}

int store_run(struct store *store, enum store_sql sql, struct err *err)
{
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, sql, &statement, err);
    return result != 0 ? result : store_step(&store->writer, statement, err);
}

/* Runs the jobs before end (NULL: all) in one transaction and sets their results. */
static int run_transaction(struct store *store, struct store_job *jobs, const struct store_job *end,
                           struct err *err)
{
    int result = store_run(store, SQL_BEGIN, err);
    if (result != 0)
        return result;
    for (struct store_job *job = jobs; job != end; job = job->next) {
        job->err = ERR_INIT;
        job->result = job->run(store, job, &job->err);
        /* A full disk and its like undo all, not one statement (sqlite.org/lang_transaction.html)
         */
        if (sqlite3_get_autocommit(store->writer.db) != 0)
            return err_copy(err, &job->err);
    }
    result = store_run(store, SQL_COMMIT, err);
    if (result != 0 && sqlite3_get_autocommit(store->writer.db) == 0)
        (void)store_run(store, SQL_ROLLBACK, NULL);
    return result;
}

/* When the batch fails each job is tried alone: one that can't be written takes no other along. */
static void run_batch(struct store *store, struct store_job *jobs)
{
    struct err err = ERR_INIT;
    bool failed = run_transaction(store, jobs, NULL, &err) != 0;
    atomic_store(&store->failing, failed);
    if (!failed)
        return;
    log_error("%s", err.message);
    for (struct store_job *job = jobs; job; job = job->next) {
        int result = run_transaction(store, job, job->next, &err);
        if (result != 0) {
            job->err = err;
            job->result = result;
        }
    }
}

/* Tells the owners. A job may be gone from its owner's stack as soon as the lock is let go. */
static void finish_batch(struct store *store, struct store_job *jobs)
{
    struct store_job *detached = NULL;
    (void)pthread_mutex_lock(&store->queue_lock);
    for (struct store_job *job = jobs, *next = NULL; job; job = next) {
        next = job->next;
        if (job->detached) {
            job->next = detached;
            detached = job;
        } else {
            job->done = true;
            if (job->waits)
                (void)pthread_cond_signal(&job->changed);
        }
    }
    (void)pthread_mutex_unlock(&store->queue_lock);
    while (detached) {
        struct store_job *next = detached->next;
        if (detached->result != 0)
            log_error("%s", detached->err.message);
        free(detached->input.update);
        free(detached);
        detached = next;
    }
}

/* Nobody writes any more: wakes one of those who wait for a job in the queue, and it writes. */
static void hand_on_locked(struct store *store)
{
    struct store_job *job = store->head;
    while (job && !job->waits)
        job = job->next;
    if (job)
        (void)pthread_cond_signal(&job->changed);
}

/* Writes all that is queued. Called with the queue's lock held, which is let go meanwhile, while
 * nobody writes. */
static void write_queued_locked(struct store *store)
{
    struct store_job *jobs = store->head;
    store->head = NULL;
    store->tail = &store->head;
    store->writing = true;
    (void)pthread_mutex_unlock(&store->queue_lock);
    run_batch(store, jobs);
    bool untidy = store->text_bytes > atomic_load(&store->text_max);
    finish_batch(store, jobs);
    (void)pthread_mutex_lock(&store->queue_lock);
    store->writing = false;
    store->untidy |= untidy || store->wal_pages >= WAL_PAGES_MAX;
    store->wal_full |= store->wal_pages >= WAL_PAGES;
    if (store->untidy || store->wal_full || store->stop)
        (void)pthread_cond_signal(&store->queue_filled);
    if (!store->untidy) /* else the thread does when it has trimmed */
        hand_on_locked(store);
}

int store_job_wait(struct store *store, struct store_job *job, struct err *err)
{
    (void)pthread_mutex_lock(&store->queue_lock);
    while (!job->done) {
        job->waits = store->writing || store->untidy; /* the thread trims first */
        if (job->waits)
            (void)pthread_cond_wait(&job->changed, &store->queue_lock);
        else
            write_queued_locked(store); /* ours is among them */
    }
    (void)pthread_mutex_unlock(&store->queue_lock);
    return job->result == 0 ? 0 : err_copy(err, &job->err);
}

bool store_is_failing(const struct store *store)
{
    return atomic_load(&store->failing);
}

static int run_nothing(struct store *store, struct store_job *job, struct err *err)
{
    (void)store;
    (void)job;
    (void)err;
    return 0;
}

void store_see_queued(struct store *store)
{
    struct store_job job = {.run = run_nothing};
    (void)pthread_mutex_lock(&store->queue_lock);
    bool waits = store->thread_runs && (store->head || store->writing);
    (void)pthread_mutex_unlock(&store->queue_lock);
    if (!waits)
        return;
    store_writer_submit(store, &job, true);
    (void)store_job_wait(store, &job, NULL);
}

/* Copies what it can from the log into the database; a log that was copied whole begins anew with
 * the next write. */
static void checkpoint(struct store *store)
{
    int status =
        sqlite3_wal_checkpoint_v2(store->keeper.db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (status != SQLITE_OK && status != SQLITE_BUSY)
        log_error("store: checkpoint: %s", sqlite3_errmsg(store->keeper.db));
}

/* Trims, expires and shortens the log, as far as it is time. Returns whether there is more to trim.
 */
static bool tidy(struct store *store, int64_t *expire_ns)
{
    struct err err = ERR_INIT;
    int trimmed = store_texts_trim(store, &err);
    if (trimmed < 0)
        log_error("%s", err.message);
    if (store->wal_pages >= WAL_PAGES_MAX) {
        checkpoint(store);
        store->wal_pages = 0; /* the next commit counts anew */
    }
    if (clock_now_ns() >= *expire_ns) {
        int64_t now_us = clock_wall_us();
        if (store_expire_now(&store->writer, now_us, now_us - HISTORY_US, &err) != 0 ||
            store_texts_count(store, &err) != 0)
            log_error("%s", err.message);
        *expire_ns = clock_now_ns() + EXPIRE_EVERY_NS;
    }
    return trimmed > 0;
}

/* With the lock held, as write_queued_locked(). */
static void tidy_locked(struct store *store, int64_t *expire_ns)
{
    store->writing = true;
    store->untidy = false;
    (void)pthread_mutex_unlock(&store->queue_lock);
    bool more = tidy(store, expire_ns);
    (void)pthread_mutex_lock(&store->queue_lock);
    store->writing = false;
    store->untidy |= more; /* goes on behind what waits to be written */
}

/* While others write, with the lock held, which is let go meanwhile. */
static void checkpoint_locked(struct store *store)
{
    store->wal_full = false;
    (void)pthread_mutex_unlock(&store->queue_lock);
    checkpoint(store);
    (void)pthread_mutex_lock(&store->queue_lock);
}

static void wait_locked(struct store *store, int64_t until_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ns / CLOCK_NS_PER_S),
                                   .tv_nsec = (long)(until_ns % CLOCK_NS_PER_S)};
    (void)pthread_cond_timedwait(&store->queue_filled, &store->queue_lock, &until);
}

static void *writer_main(void *context)
{
    struct store *store = context;
    int64_t expire_ns = clock_now_ns() + EXPIRE_EVERY_NS;
    (void)pthread_mutex_lock(&store->queue_lock);
    while (store->head || store->writing || !store->stop) {
        int64_t now_ns = clock_now_ns();
        bool late = store->stop || now_ns >= store->late_ns;
        bool due = store->untidy || now_ns >= expire_ns;
        if (store->wal_full) {
            checkpoint_locked(store);
            continue;
        }
        if (store->writing) {
            wait_locked(store, now_ns + LATE_NS);
            continue;
        }
        if (late)
            store->late_ns = INT64_MAX;
        if (due)
            tidy_locked(store, &expire_ns);
        if ((late || due) && store->head)
            write_queued_locked(store);
        else if (!late && !due)
            wait_locked(store, store->late_ns < expire_ns ? store->late_ns : expire_ns);
    }
    (void)pthread_mutex_unlock(&store->queue_lock);
    return NULL;
}

static int on_commit(void *context, sqlite3 *db, const char *name, int wal_pages)
{
    struct store *store = context;
    (void)db;
    (void)name;
    store->wal_pages = wal_pages;
    return SQLITE_OK;
}

int store_writer_start(struct store *store, struct err *err)
{
    (void)sqlite3_wal_hook(store->writer.db, on_commit, store); /* in place of SQLite's own */
    int status = pthread_create(&store->thread, NULL, writer_main, store);
    if (status != 0)
        return err_sys(err, status, "start the store's writer");
    store->thread_runs = true;
    return 0;
}

void store_writer_stop(struct store *store)
{
    if (!store->thread_runs)
        return;
    (void)pthread_mutex_lock(&store->queue_lock);
    store->stop = true;
    (void)pthread_cond_signal(&store->queue_filled);
    (void)pthread_mutex_unlock(&store->queue_lock);
    (void)pthread_join(store->thread, NULL);
    store->thread_runs = false;
}
