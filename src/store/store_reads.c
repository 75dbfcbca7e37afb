/* Owns the reads: rows of executions, on the reader's connection. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "store/store_internal.h"

void store_unlock_at(pthread_mutex_t **lock)
{
    (void)pthread_mutex_unlock(*lock);
}

void store_column_text(sqlite3_stmt *statement, int column, char *out, size_t size)
{
    const unsigned char *text = sqlite3_column_text(statement, column);
    (void)snprintf(out, size, "%s", text ? (const char *)text : "");
}

static void read_row(sqlite3_stmt *statement, struct store_execution *out)
{
    store_column_text(statement, 0, out->id, sizeof(out->id));
    store_column_text(statement, 1, out->owner, sizeof(out->owner));
    store_column_text(statement, 2, out->lang, sizeof(out->lang));
    store_column_text(statement, 3, out->status, sizeof(out->status));
    out->created_us = sqlite3_column_int64(statement, 4);
    out->started_us = sqlite3_column_int64(statement, 5);
    out->finished_us = sqlite3_column_int64(statement, 6);
    out->has_outcome = sqlite3_column_int(statement, 7) != 0;
    out->has_text = sqlite3_column_int(statement, 8) != 0;
    store_column_text(statement, 9, out->session_id, sizeof(out->session_id));
    out->text_bytes = (uint64_t)sqlite3_column_int64(statement, 10);
}

static int append_blob(sqlite3_stmt *statement, int column, struct buf *out, struct err *err)
{
    const void *data = out ? sqlite3_column_blob(statement, column) : NULL;
    int size = data ? sqlite3_column_bytes(statement, column) : 0;
    return size > 0 ? buf_append(out, data, (size_t)size, err) : 0;
}

int store_execution_get(struct store *store, const char *owner, const char *id,
                        struct store_execution *out, struct buf *object, struct buf *text,
                        struct err *err)
{
    READER_LOCK(store);
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->reader, SQL_GET, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, id);
    store_bind_text(statement, 2, owner);
    int status = sqlite3_step(statement);
    if (status == SQLITE_DONE)
        return err_set(err, ERR_NOT_FOUND, "no execution %s", id);
    if (status != SQLITE_ROW)
        return store_error(&store->reader, "read an execution", err);
    read_row(statement, out);
    result = append_blob(statement, 11, object, err);
    return result == 0 ? append_blob(statement, 12, text, err) : result;
}

int store_execution_by_key(struct store *store, const char *owner, const char *key,
                           char out_id[static STORE_ID_SIZE], struct err *err)
{
    READER_LOCK(store);
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->reader, SQL_BY_KEY, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, owner);
    store_bind_text(statement, 2, key);
    int status = sqlite3_step(statement);
    if (status == SQLITE_DONE)
        return err_set(err, ERR_NOT_FOUND, "no execution with this idempotency key");
    if (status != SQLITE_ROW)
        return store_error(&store->reader, "read an idempotency key", err);
    store_column_text(statement, 0, out_id, STORE_ID_SIZE);
    return 0;
}

/* Steps through at most limit rows. */
static int read_rows(struct store *store, sqlite3_stmt *statement, unsigned limit,
                     struct store_execution **out, size_t *out_count, struct err *err)
{
    MEM_AUTO struct store_execution *rows = calloc(limit > 0 ? limit : 1, sizeof(*rows));
    if (!rows)
        return err_set(err, ERR_INTERNAL, "no memory for %u rows", limit);
    size_t count = 0;
    int status = SQLITE_DONE;
    while (count < limit && (status = sqlite3_step(statement)) == SQLITE_ROW)
        read_row(statement, &rows[count++]);
    if (status != SQLITE_ROW && status != SQLITE_DONE)
        return store_error(&store->reader, "read executions", err);
    *out = take(rows);
    *out_count = count;
    return 0;
}

int store_execution_list(struct store *store, const char *owner, const char *status,
                         const char *after, unsigned limit, struct store_execution **out,
                         size_t *out_count, struct err *err)
{
    READER_LOCK(store);
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->reader, SQL_LIST, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, owner);
    store_bind_text(statement, 2, status);
    store_bind_text(statement, 3, after);
    (void)sqlite3_bind_int64(statement, 4, limit);
    return read_rows(store, statement, limit, out, out_count, err);
}

int store_execution_unfinished(struct store *store, const char *session_id, unsigned limit,
                               struct store_execution **out, size_t *out_count, struct err *err)
{
    READER_LOCK(store);
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->reader, SQL_UNFINISHED, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, session_id);
    (void)sqlite3_bind_int64(statement, 2, limit);
    return read_rows(store, statement, limit, out, out_count, err);
}
