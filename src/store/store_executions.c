/* Owns the statements on executions and sandboxes: binding values and reading rows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "store/store_internal.h"

static int run_insert(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_execution_new *row = job->input.execution;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_INSERT, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, row->id);
    store_bind_text(statement, 2, row->owner);
    store_bind_text(statement, 3, row->labels ? row->labels : "{}");
    store_bind_text(statement, 4, row->lang);
    store_bind_text(statement, 5, row->status);
    store_bind_text(statement, 6, row->idempotency_key);
    (void)sqlite3_bind_int64(statement, 7, row->created_us);
    store_bind_text(statement, 8, row->session_id);
    return store_step(&store->writer, statement, err);
}

void store_execution_insert_begin(struct store *store, const struct store_execution_new *row,
                                  struct store_job *job)
{
    memset(job, 0, sizeof(*job));
    job->run = run_insert;
    job->input.execution = row;
    store_writer_submit(store, job, false);
}

static int run_started(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_update *update = job->input.update;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_STARTED, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, update->id);
    store_bind_text(statement, 2, update->text[0]);
    (void)sqlite3_bind_int64(statement, 3, update->time_us[0]);
    return store_step(&store->writer, statement, err);
}

static int run_finish(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_update *update = job->input.update;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_FINISH, &statement, err);
    if (result != 0)
        return result;
    const struct store_outcome *outcome = update->outcome;
    store_bind_text(statement, 1, update->id);
    store_bind_text(statement, 2, outcome->status);
    (void)sqlite3_bind_int64(statement, 3, outcome->finished_us);
    (void)sqlite3_bind_int64(statement, 4, outcome->expires_us);
    (void)sqlite3_bind_blob64(statement, 5, outcome->object, outcome->object_size, SQLITE_STATIC);
    /* Never NULL: that is a text that was dropped. */
    (void)sqlite3_bind_blob64(statement, 6, outcome->text ? outcome->text : "", outcome->text_size,
                              SQLITE_STATIC);
    (void)sqlite3_bind_int64(statement, 7, (sqlite3_int64)outcome->text_size);
    result = store_step(&store->writer, statement, err);
    if (result == 0 && sqlite3_changes(store->writer.db) == 0)
        return err_set(err, ERR_NOT_FOUND, "no execution %s", update->id);
    if (result == 0)
        store->text_bytes += outcome->text_size;
    return result;
}

static int run_remove(struct store *store, struct store_job *job, struct err *err)
{
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_REMOVE, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, job->input.update->id);
    return store_step(&store->writer, statement, err);
}

static int run_sandbox_put(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_update *update = job->input.update;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_SANDBOX_PUT, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, update->id);
    for (int i = 0; i < 3; i++)
        store_bind_text(statement, 2 + i, update->text[i]);
    (void)sqlite3_bind_int64(statement, 5, update->time_us[0]);
    return store_step(&store->writer, statement, err);
}

static int run_sandbox_remove(struct store *store, struct store_job *job, struct err *err)
{
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_SANDBOX_REMOVE, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, job->input.update->id);
    return store_step(&store->writer, statement, err);
}

static int run_sandbox_clear(struct store *store, struct store_job *job, struct err *err)
{
    (void)job;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_SANDBOX_CLEAR, &statement, err);
    return result != 0 ? result : store_step(&store->writer, statement, err);
}

int store_expire_now(struct store_connection *connection, int64_t now_us, int64_t history_us,
                     struct err *err)
{
    const struct {
        enum store_sql sql;
        int64_t before_us;
    } rounds[] = {{SQL_EXPIRE, now_us}, {SQL_FORGET, history_us}};
    for (size_t i = 0; i < ARRAY_SIZE(rounds); i++) {
        int changes = 0;
        do {
            STATEMENT_AUTO sqlite3_stmt *statement = NULL;
            int result = store_statement(connection, rounds[i].sql, &statement, err);
            if (result != 0)
                return result;
            (void)sqlite3_bind_int64(statement, 1, rounds[i].before_us);
            result = store_step(connection, statement, err);
            if (result != 0)
                return result;
            changes = sqlite3_changes(connection->db);
        } while (changes > 0);
    }
    return 0;
}

static int run_expire(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_update *update = job->input.update;
    return store_expire_now(&store->writer, update->time_us[0], update->time_us[1], err);
}

static void set_text(char *out, size_t size, const char *text)
{
    (void)snprintf(out, size, "%s", text);
}

int store_write(struct store *store,
                int (*run)(struct store *store, struct store_job *job, struct err *err),
                struct store_update *update, struct err *err)
{
    struct store_job job = {.run = run, .input.update = update};
    store_writer_submit(store, &job, true);
    return store_job_wait(store, &job, err);
}

void store_write_later(struct store *store,
                       int (*run)(struct store *store, struct store_job *job, struct err *err),
                       const struct store_update *update)
{
    struct store_job *job = calloc(1, sizeof(*job));
    struct store_update *copy = calloc(1, sizeof(*copy));
    if (!job || !copy) {
        log_error("store: no memory for a write about %s", update->id);
        free(job);
        free(copy);
        return;
    }
    *copy = *update;
    job->run = run;
    job->input.update = copy;
    job->detached = true;
    store_writer_submit(store, job, false);
}

void store_execution_started(struct store *store, const char *id, const char *sandbox_id,
                             int64_t started_us, bool wait)
{
    struct err err = ERR_INIT;
    struct store_update update = {.time_us = {started_us}};
    set_text(update.id, sizeof(update.id), id);
    set_text(update.text[0], sizeof(update.text[0]), sandbox_id);
    if (!wait)
        store_write_later(store, run_started, &update);
    else if (store_write(store, run_started, &update, &err) != 0)
        log_error("%s", err.message);
}

int store_execution_finish(struct store *store, const char *id, const struct store_outcome *outcome,
                           struct err *err)
{
    struct store_update update = {.outcome = outcome};
    set_text(update.id, sizeof(update.id), id);
    return store_write(store, run_finish, &update, err);
}

int store_execution_remove(struct store *store, const char *id, struct err *err)
{
    struct store_update update = {0};
    set_text(update.id, sizeof(update.id), id);
    return store_write(store, run_remove, &update, err);
}

int store_expire(struct store *store, int64_t now_us, int64_t history_us, struct err *err)
{
    struct store_update update = {.time_us = {now_us, history_us}};
    return store_write(store, run_expire, &update, err);
}

void store_sandbox_put(struct store *store, const char *id, const char *owner, const char *engine,
                       const char *state, int64_t created_us)
{
    struct store_update update = {.time_us = {created_us}};
    set_text(update.id, sizeof(update.id), id);
    set_text(update.text[0], sizeof(update.text[0]), owner);
    set_text(update.text[1], sizeof(update.text[1]), engine);
    set_text(update.text[2], sizeof(update.text[2]), state);
    store_write_later(store, run_sandbox_put, &update);
}

void store_sandbox_remove(struct store *store, const char *id)
{
    struct store_update update = {0};
    set_text(update.id, sizeof(update.id), id);
    store_write_later(store, run_sandbox_remove, &update);
}

int store_sandbox_clear(struct store *store, struct err *err)
{
    struct store_update update = {0};
    return store_write(store, run_sandbox_clear, &update, err);
}
