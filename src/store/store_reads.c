/* Owns the reads on the reader's connection: their steps, and rows of executions. */
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

int store_read_begin(struct store *store, enum store_sql sql, const char *const *texts,
                     size_t text_count, sqlite3_stmt **out, struct err *err)
{
    int result = store_statement(&store->reader, sql, out, err);
    for (size_t i = 0; i < text_count && result == 0; i++)
        store_bind_text(*out, (int)i + 1, texts[i]);
    return result;
}

int store_read_next(struct store *store, sqlite3_stmt *statement, const char *what, struct err *err)
{
    int status = sqlite3_step(statement);
    if (status == SQLITE_ROW)
        return 1;
    return status == SQLITE_DONE ? 0 : store_error(&store->reader, what, err);
}

int store_id_by_key(struct store *store, enum store_sql sql, const char *owner, const char *key,
                    char out_id[static STORE_ID_SIZE], struct err *err)
{
    READER_LOCK(store);
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    const char *const texts[] = {owner, key};
    int result = store_read_begin(store, sql, texts, ARRAY_SIZE(texts), &statement, err);
    if (result == 0)
        result = store_read_next(store, statement, "read an idempotency key", err);
    if (result < 0)
        return result;
    if (result == 0)
        return err_set(err, ERR_NOT_FOUND, "nothing has this idempotency key");
    store_column_text(statement, 0, out_id, STORE_ID_SIZE);
    return 0;
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
    const char *const texts[] = {id, owner};
    int result = store_read_begin(store, SQL_GET, texts, ARRAY_SIZE(texts), &statement, err);
    if (result == 0)
        result = store_read_next(store, statement, "read an execution", err);
    if (result < 0)
        return result;
    if (result == 0)
        return err_set(err, ERR_NOT_FOUND, "no execution %s", id);
    read_row(statement, out);
    result = append_blob(statement, 11, object, err);
    return result == 0 ? append_blob(statement, 12, text, err) : result;
}

int store_execution_by_key(struct store *store, const char *owner, const char *key,
                           char out_id[static STORE_ID_SIZE], struct err *err)
{
    return store_id_by_key(store, SQL_BY_KEY, owner, key, out_id, err);
}

/* Reads at most limit rows; the limit is the value behind the texts. */
static int read_rows(struct store *store, enum store_sql sql, const char *const *texts,
                     size_t text_count, unsigned limit, struct store_execution **out,
                     size_t *out_count, struct err *err)
{
    READER_LOCK(store);
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    MEM_AUTO struct store_execution *rows = calloc(limit > 0 ? limit : 1, sizeof(*rows));
    if (!rows)
        return err_set(err, ERR_INTERNAL, "no memory for %u rows", limit);
    int result = store_read_begin(store, sql, texts, text_count, &statement, err);
    if (result != 0)
        return result;
    (void)sqlite3_bind_int64(statement, (int)text_count + 1, limit);
    size_t count = 0;
    while (count < limit &&
           (result = store_read_next(store, statement, "read executions", err)) > 0)
        read_row(statement, &rows[count++]);
    if (result < 0)
        return result;
    *out = take(rows);
    *out_count = count;
    return 0;
}

int store_execution_list(struct store *store, const char *owner, const char *status,
                         const char *after, unsigned limit, struct store_execution **out,
                         size_t *out_count, struct err *err)
{
    const char *const texts[] = {owner, status, after};
    return read_rows(store, SQL_LIST, texts, ARRAY_SIZE(texts), limit, out, out_count, err);
}

int store_execution_unfinished(struct store *store, const char *session_id, unsigned limit,
                               struct store_execution **out, size_t *out_count, struct err *err)
{
    return read_rows(store, SQL_UNFINISHED, &session_id, 1, limit, out, out_count, err);
}
