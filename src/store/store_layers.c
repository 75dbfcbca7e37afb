/* Owns the statements on library layers, and on which session has which. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "store/store_internal.h"

void store_layer_done(struct store_layer *layer)
{
    free(layer->key);
    free(layer->requirements);
    free(layer->resolved);
    layer->key = layer->requirements = layer->resolved = NULL;
}

/* ---- writing ---- */

static int run_insert(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_layer *row = job->input.layer;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_LAYER_INSERT, &statement, err);
    if (result != 0)
        return result;
    const char *const texts[] = {row->name,  row->owner,        row->key,     row->lang,
                                 row->image, row->requirements, row->resolved};
    int index = 1;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        store_bind_text(statement, index++, texts[i]);
    (void)sqlite3_bind_int64(statement, index++, (sqlite3_int64)row->size_bytes);
    (void)sqlite3_bind_int64(statement, index++, row->created_us);
    (void)sqlite3_bind_int64(statement, index++, row->used_us);
    (void)sqlite3_bind_int(statement, index++, row->keep);
    store_bind_text(statement, index, row->engine);
    return store_step(&store->writer, statement, err);
}

int store_layer_insert(struct store *store, const struct store_layer *layer, struct err *err)
{
    struct store_job job = {.run = run_insert, .input.layer = layer};
    store_writer_submit(store, &job, true);
    return store_job_wait(store, &job, err);
}

static int run_used(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_update *update = job->input.update;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_LAYER_USED, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, update->id);
    (void)sqlite3_bind_int64(statement, 2, update->time_us[0]);
    (void)sqlite3_bind_int64(statement, 3, update->time_us[1]);
    return store_step(&store->writer, statement, err);
}

void store_layer_used(struct store *store, const char *name, int64_t used_us, bool keep)
{
    struct store_update update = {.time_us = {used_us, keep}};
    (void)snprintf(update.id, sizeof(update.id), "%s", name);
    store_write_later(store, run_used, &update);
}

static int run_remove(struct store *store, struct store_job *job, struct err *err)
{
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_LAYER_REMOVE, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, job->input.update->id);
    return store_step(&store->writer, statement, err);
}

int store_layer_remove(struct store *store, const char *name, struct err *err)
{
    struct store_update update = {0};
    (void)snprintf(update.id, sizeof(update.id), "%s", name);
    return store_write(store, run_remove, &update, err);
}

int store_run_session_layer(struct store *store, struct store_job *job, struct err *err)
{
    const struct store_session_layer *row = job->session_layer;
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_SESSION_LAYER_PUT, &statement, err);
    if (result != 0)
        return result;
    const char *const texts[] = {row->session_id, row->layer, row->requirements};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        store_bind_text(statement, (int)i + 1, texts[i]);
    return store_step(&store->writer, statement, err);
}

int store_session_layer_put(struct store *store, const struct store_session_layer *row,
                            struct err *err)
{
    struct store_job job = {.run = store_run_session_layer, .session_layer = row};
    store_writer_submit(store, &job, true);
    return store_job_wait(store, &job, err);
}

/* ---- reading ---- */

static int copy_text(sqlite3_stmt *statement, int column, char **out, struct err *err)
{
    const unsigned char *text = sqlite3_column_text(statement, column);
    *out = strdup(text ? (const char *)text : "");
    return *out ? 0 : err_set(err, ERR_INTERNAL, "no memory for a layer");
}

static int read_layer(sqlite3_stmt *statement, struct store_layer *out, struct err *err)
{
    memset(out, 0, sizeof(*out));
    store_column_text(statement, 0, out->name, sizeof(out->name));
    store_column_text(statement, 1, out->owner, sizeof(out->owner));
    store_column_text(statement, 3, out->lang, sizeof(out->lang));
    store_column_text(statement, 4, out->image, sizeof(out->image));
    out->size_bytes = (uint64_t)sqlite3_column_int64(statement, 7);
    out->created_us = sqlite3_column_int64(statement, 8);
    out->used_us = sqlite3_column_int64(statement, 9);
    out->keep = sqlite3_column_int(statement, 10) != 0;
    store_column_text(statement, 11, out->engine, sizeof(out->engine));
    int result = copy_text(statement, 2, &out->key, err);
    if (result == 0)
        result = copy_text(statement, 5, &out->requirements, err);
    return result == 0 ? copy_text(statement, 6, &out->resolved, err) : result;
}

int store_layer_each(struct store *store,
                     int (*call)(void *context, struct store_layer *layer, struct err *err),
                     void *context, struct err *err)
{
    READER_LOCK(store);
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_read_begin(store, SQL_LAYER_ALL, NULL, 0, &statement, err);
    while (result == 0 && (result = store_read_next(store, statement, "read layers", err)) > 0) {
        struct store_layer layer;
        result = read_layer(statement, &layer, err);
        if (result == 0)
            result = call(context, &layer, err);
        store_layer_done(&layer);
    }
    return result;
}

int store_session_layer_get(struct store *store, const char *session_id,
                            char out_layer[static STORE_ID_SIZE], char **out_requirements,
                            struct err *err)
{
    READER_LOCK(store);
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_read_begin(store, SQL_SESSION_LAYER_GET, &session_id, 1, &statement, err);
    if (result == 0)
        result = store_read_next(store, statement, "read the layer of a session", err);
    if (result < 0)
        return result;
    if (result == 0)
        return err_set(err, ERR_NOT_FOUND, "session %s has no layer", session_id);
    store_column_text(statement, 0, out_layer, STORE_ID_SIZE);
    return copy_text(statement, 1, out_requirements, err);
}
