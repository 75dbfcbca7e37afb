/* Owns the statements on sessions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "store/store_internal.h"

void store_session_done(struct store_session *session)
{
    free(session->labels);
    free(session->idempotency_key);
    free(session->env);
    free(session->network);
    session->labels = session->idempotency_key = session->env = session->network = NULL;
}

static void bind_u64(sqlite3_stmt *statement, int index, uint64_t value)
{
    (void)sqlite3_bind_int64(statement, index, (sqlite3_int64)value);
}

/* 0 stands for "never", which is null. */
static void bind_time(sqlite3_stmt *statement, int index, int64_t value)
{
    if (value != 0)
        (void)sqlite3_bind_int64(statement, index, value);
    else
        (void)sqlite3_bind_null(statement, index);
}

static int run_insert(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_session *row = job->input.session;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_SESSION_INSERT, &statement, err);
    if (result != 0)
        return result;
    const char *const texts[] = {row->id,
                                 row->owner,
                                 row->labels ? row->labels : "{}",
                                 row->idempotency_key,
                                 row->lang,
                                 row->image,
                                 row->profile,
                                 row->engine,
                                 row->sandbox_id};
    int index = 1;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        store_bind_text(statement, index++, texts[i]);
    (void)sqlite3_bind_blob(statement, index++, row->nonce, sizeof(row->nonce), SQLITE_STATIC);
    const uint64_t figures[] = {
        row->memory_bytes,         row->storage_bytes,      row->cpu_millis, row->disk,
        row->reserve_memory_bytes, row->reserve_disk_bytes, row->timeout_ms};
    for (size_t i = 0; i < ARRAY_SIZE(figures); i++)
        bind_u64(statement, index++, figures[i]);
    bind_time(statement, index++, (int64_t)row->idle_ms);
    bind_u64(statement, index++, (uint64_t)row->created_us);
    bind_time(statement, index++, row->lifetime_us);
    if (row->env)
        (void)sqlite3_bind_blob64(statement, index++, row->env, row->env_size, SQLITE_STATIC);
    else
        (void)sqlite3_bind_null(statement, index++);
    store_bind_text(statement, index++, row->network ? row->network : "none");
    bind_u64(statement, index++, row->network_env);
    store_bind_text(statement, index, row->runtime);
    result = store_step(&store->writer, statement, err);
    return result == 0 && job->session_layer ? store_run_session_layer(store, job, err) : result;
}

int store_session_insert(struct store *store, const struct store_session *session,
                         const struct store_session_layer *layer, struct err *err)
{
    struct store_job job = {.run = run_insert, .input.session = session, .session_layer = layer};
    store_writer_submit(store, &job, true);
    return store_job_wait(store, &job, err);
}

static int run_renew(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_update *update = job->input.update;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_SESSION_RENEW, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, update->id);
    (void)sqlite3_bind_int64(statement, 2, update->time_us[0]);
    bind_time(statement, 3, update->time_us[1]);
    bind_time(statement, 4, update->time_us[2]);
    result = store_step(&store->writer, statement, err);
    if (result == 0 && sqlite3_changes(store->writer.db) == 0)
        return err_set(err, ERR_NOT_FOUND, "no session %s", update->id);
    return result;
}

int store_session_renew(struct store *store, const char *id, uint64_t timeout_ms, uint64_t idle_ms,
                        int64_t lifetime_us, struct err *err)
{
    struct store_update update = {.time_us = {(int64_t)timeout_ms, (int64_t)idle_ms, lifetime_us}};
    (void)snprintf(update.id, sizeof(update.id), "%s", id);
    return store_write(store, run_renew, &update, err);
}

static int run_set_network(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_session *row = job->input.session;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_SESSION_NETWORK, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, row->id);
    store_bind_text(statement, 2, row->network);
    bind_u64(statement, 3, row->network_env);
    result = store_step(&store->writer, statement, err);
    if (result == 0 && sqlite3_changes(store->writer.db) == 0)
        return err_set(err, ERR_NOT_FOUND, "no session %s", row->id);
    return result;
}

int store_session_set_network(struct store *store, const char *id, const char *network,
                              uint32_t network_env, struct err *err)
{
    MEM_AUTO char *text = strdup(network);
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory for a session");
    struct store_session row = {.network = text, .network_env = network_env};
    (void)snprintf(row.id, sizeof(row.id), "%s", id);
    struct store_job job = {.run = run_set_network, .input.session = &row};
    store_writer_submit(store, &job, true);
    return store_job_wait(store, &job, err);
}

static int run_remove(struct store *store, struct store_job *job, struct err *err)
{
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_SESSION_REMOVE, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, job->input.update->id);
    return store_step(&store->writer, statement, err);
}

int store_session_remove(struct store *store, const char *id, struct err *err)
{
    struct store_update update = {0};
    (void)snprintf(update.id, sizeof(update.id), "%s", id);
    return store_write(store, run_remove, &update, err);
}

int store_session_by_key(struct store *store, const char *owner, const char *key,
                         char out_id[static STORE_ID_SIZE], struct err *err)
{
    return store_id_by_key(store, SQL_SESSION_BY_KEY, owner, key, out_id, err);
}

/* A copy of a column's text on the heap; NULL for null. */
static int copy_text(sqlite3_stmt *statement, int column, char **out, struct err *err)
{
    const unsigned char *text = sqlite3_column_text(statement, column);
    *out = text ? strdup((const char *)text) : NULL;
    return text && !*out ? err_set(err, ERR_INTERNAL, "no memory for a session") : 0;
}

static int copy_env(sqlite3_stmt *statement, int column, struct store_session *out, struct err *err)
{
    const void *env = sqlite3_column_blob(statement, column);
    out->env_size = (size_t)sqlite3_column_bytes(statement, column);
    if (!env || out->env_size == 0)
        return 0;
    out->env = malloc(out->env_size);
    if (!out->env)
        return err_set(err, ERR_INTERNAL, "no memory for a session");
    memcpy(out->env, env, out->env_size);
    out->env[out->env_size - 1] = '\0';
    return 0;
}

static int read_session(sqlite3_stmt *statement, struct store_session *out, struct err *err)
{
    memset(out, 0, sizeof(*out));
    int result = copy_text(statement, 2, &out->labels, err);
    if (result == 0)
        result = copy_text(statement, 3, &out->idempotency_key, err);
    if (result == 0)
        result = copy_env(statement, 20, out, err);
    if (result == 0)
        result = copy_text(statement, 21, &out->network, err);
    if (result != 0)
        return result;
    store_column_text(statement, 0, out->id, sizeof(out->id));
    store_column_text(statement, 1, out->owner, sizeof(out->owner));
    store_column_text(statement, 4, out->lang, sizeof(out->lang));
    store_column_text(statement, 5, out->image, sizeof(out->image));
    store_column_text(statement, 6, out->profile, sizeof(out->profile));
    store_column_text(statement, 7, out->engine, sizeof(out->engine));
    store_column_text(statement, 8, out->sandbox_id, sizeof(out->sandbox_id));
    if (sqlite3_column_bytes(statement, 9) == STORE_NONCE_SIZE)
        memcpy(out->nonce, sqlite3_column_blob(statement, 9), STORE_NONCE_SIZE);
    out->memory_bytes = (uint64_t)sqlite3_column_int64(statement, 10);
    out->storage_bytes = (uint64_t)sqlite3_column_int64(statement, 11);
    out->cpu_millis = (uint32_t)sqlite3_column_int64(statement, 12);
    out->disk = sqlite3_column_int(statement, 13) != 0;
    out->reserve_memory_bytes = (uint64_t)sqlite3_column_int64(statement, 14);
    out->reserve_disk_bytes = (uint64_t)sqlite3_column_int64(statement, 15);
    out->timeout_ms = (uint64_t)sqlite3_column_int64(statement, 16);
    out->idle_ms = (uint64_t)sqlite3_column_int64(statement, 17);
    out->created_us = sqlite3_column_int64(statement, 18);
    out->lifetime_us = sqlite3_column_int64(statement, 19);
    out->network_env = (uint32_t)sqlite3_column_int64(statement, 22);
    store_column_text(statement, 23, out->runtime, sizeof(out->runtime));
    return 0;
}

/* Rows that were read before a failure. */
struct rows {
    struct store_session *items;
    size_t count, capacity;
};

static void rows_done(struct rows *rows)
{
    for (size_t i = 0; i < rows->count; i++)
        store_session_done(&rows->items[i]);
    free(rows->items);
}

static int rows_add(struct rows *rows, sqlite3_stmt *statement, struct err *err)
{
    if (rows->count == rows->capacity) {
        size_t capacity = rows->capacity == 0 ? 64 : 2 * rows->capacity;
        struct store_session *items = reallocarray(rows->items, capacity, sizeof(*items));
        if (!items)
            return err_set(err, ERR_INTERNAL, "no memory for %zu sessions", capacity);
        rows->items = items;
        rows->capacity = capacity;
    }
    return read_session(statement, &rows->items[rows->count++], err);
}

int store_session_all(struct store *store, struct store_session **out, size_t *out_count,
                      struct err *err)
{
    READER_LOCK(store);
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    __attribute__((cleanup(rows_done))) struct rows rows = {0};
    int result = store_read_begin(store, SQL_SESSION_ALL, NULL, 0, &statement, err);
    while (result == 0 && (result = store_read_next(store, statement, "read sessions", err)) > 0)
        result = rows_add(&rows, statement, err);
    if (result != 0)
        return result;
    *out = take(rows.items);
    *out_count = rows.count;
    rows.count = 0;
    return 0;
}
