/* Owns the SQLite connections and their cached statements. Knows no rule of the server. */
#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "store/store_internal.h"

#define COLUMNS                                                                                    \
    "id, owner, lang, status, created_us, started_us, finished_us, outcome IS NOT NULL,"           \
    " text IS NOT NULL, session_id, coalesce(text_size, 0)"
#define SESSION_COLUMNS                                                                            \
    "id, owner, labels, idempotency_key, lang, image, profile, engine, sandbox_id, nonce,"         \
    " memory_bytes, storage_bytes, cpu_millis, disk, reserve_memory_bytes, reserve_disk_bytes,"    \
    " timeout_ms, idle_ms, created_us, lifetime_us, env, network, network_env,"                    \
    " runtime"
#define LAYER_COLUMNS                                                                              \
    "name, owner, key, lang, image, requirements, resolved, size_bytes, created_us, used_us, "     \
    "keep,"                                                                                        \
    " engine"

static const char *const sql_texts[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_INSERT] = "INSERT INTO executions (id, owner, labels, lang, status, idempotency_key,"
                   " created_us, session_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [SQL_STARTED] = "UPDATE executions SET status = 'running', sandbox_id = ?2, started_us = ?3"
                    " WHERE id = ?1 AND status = 'queued'",
    [SQL_FINISH] = "UPDATE executions SET status = ?2, finished_us = ?3, expires_us = ?4,"
                   " outcome = ?5, text = ?6, text_size = ?7 WHERE id = ?1",
    [SQL_REMOVE] = "DELETE FROM executions WHERE id = ?1",
    [SQL_GET] = "SELECT " COLUMNS ", outcome, text FROM executions"
                " WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)",
    [SQL_BY_KEY] = "SELECT id FROM executions WHERE owner = ?1 AND idempotency_key = ?2",
    [SQL_LIST] = "SELECT " COLUMNS " FROM executions WHERE owner = ?1"
                 " AND (?2 IS NULL OR status = ?2)"
                 " AND (?3 IS NULL OR (created_us, id) <"
                 " (SELECT created_us, id FROM executions WHERE id = ?3 AND owner = ?1))"
                 " ORDER BY created_us DESC, id DESC LIMIT ?4",
    [SQL_UNFINISHED] = "SELECT " COLUMNS " FROM executions"
                       " WHERE status IN ('queued', 'running') AND CASE WHEN ?1 IS NULL"
                       " THEN session_id IS NULL OR session_id NOT IN (SELECT id FROM sessions)"
                       " ELSE session_id = ?1 END"
                       " ORDER BY created_us, id LIMIT ?2",
    [SQL_EXPIRE] = "UPDATE executions SET outcome = NULL, text = NULL, text_size = NULL,"
                   " idempotency_key = NULL, expires_us = NULL"
                   " WHERE rowid IN (SELECT rowid FROM executions WHERE expires_us <= ?1"
                   " LIMIT 1000)",
    [SQL_FORGET] = "DELETE FROM executions WHERE rowid IN (SELECT rowid FROM executions"
                   " WHERE expires_us IS NULL AND finished_us IS NOT NULL"
                   " AND finished_us < ?1 LIMIT 1000)",
    [SQL_TEXT_SUM] = "SELECT sum(text_size) FROM executions WHERE text_size > 0",
    [SQL_TEXT_OLDEST] = "SELECT id, text_size FROM executions WHERE text_size > 0"
                        " ORDER BY finished_us LIMIT 1",
    [SQL_TEXT_DROP] = "UPDATE executions SET text = NULL, text_size = NULL WHERE id = ?1",
    [SQL_SESSION_INSERT] = "INSERT INTO sessions (" SESSION_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5,"
                           " ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,"
                           " ?20, ?21, ?22, ?23, ?24)",
    [SQL_SESSION_RENEW] = "UPDATE sessions SET timeout_ms = ?2, idle_ms = ?3, lifetime_us = ?4"
                          " WHERE id = ?1",
    [SQL_SESSION_NETWORK] = "UPDATE sessions SET network = ?2, network_env = ?3 WHERE id = ?1",
    [SQL_SESSION_REMOVE] = "DELETE FROM sessions WHERE id = ?1",
    [SQL_SESSION_BY_KEY] = "SELECT id FROM sessions WHERE owner = ?1 AND idempotency_key = ?2",
    [SQL_SESSION_ALL] = "SELECT " SESSION_COLUMNS " FROM sessions ORDER BY created_us, id",
    [SQL_LAYER_INSERT] =
        "INSERT OR REPLACE INTO layers (" LAYER_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6,"
        " ?7, ?8, ?9, ?10, ?11, ?12)",
    [SQL_LAYER_USED] = "UPDATE layers SET used_us = ?2, keep = max(keep, ?3) WHERE name = ?1",
    [SQL_LAYER_REMOVE] = "DELETE FROM layers WHERE name = ?1",
    [SQL_LAYER_ALL] = "SELECT " LAYER_COLUMNS " FROM layers ORDER BY created_us, name",
    [SQL_SESSION_LAYER_PUT] = "INSERT INTO session_layers (session_id, layer, requirements)"
                              " VALUES (?1, ?2, ?3) ON CONFLICT (session_id) DO UPDATE SET"
                              " layer = excluded.layer, requirements = excluded.requirements",
    [SQL_SESSION_LAYER_GET] = "SELECT layer, requirements FROM session_layers"
                              " WHERE session_id = ?1",
    [SQL_SANDBOX_PUT] = "INSERT INTO sandboxes (id, owner, engine, state, created_us)"
                        " VALUES (?1, ?2, ?3, ?4, ?5)"
                        " ON CONFLICT (id) DO UPDATE SET state = excluded.state",
    [SQL_SANDBOX_REMOVE] = "DELETE FROM sandboxes WHERE id = ?1",
    [SQL_SANDBOX_CLEAR] = "DELETE FROM sandboxes",
};

int store_error(struct store_connection *connection, const char *what, struct err *err)
{
    const char *why = connection->db ? sqlite3_errmsg(connection->db) : "no connection";
    switch (connection->db ? sqlite3_errcode(connection->db) & 0xff : SQLITE_ERROR) {
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_READONLY:
        break;
    default:
        return err_set(err, ERR_INTERNAL, "store: %s: %s", what, why);
    }
    int result = err_set(err, ERR_UNAVAILABLE, "store: %s: %s", what, why);
    if (err) {
        (void)snprintf(err->public_message, sizeof(err->public_message),
                       "the server can't write down executions now; its log says why");
        err->retry_after_s = 10;
    }
    return result;
}

int store_statement(struct store_connection *connection, enum store_sql sql, sqlite3_stmt **out,
                    struct err *err)
{
    sqlite3_stmt **cached = &connection->statements[sql];
    if (!*cached && sqlite3_prepare_v3(connection->db, sql_texts[sql], -1,
                                       SQLITE_PREPARE_PERSISTENT, cached, NULL) != SQLITE_OK)
        return store_error(connection, sql_texts[sql], err);
    *out = *cached;
    return 0;
}

void store_statement_done(sqlite3_stmt **statement)
{
    if (!*statement)
        return;
    (void)sqlite3_reset(*statement);
    (void)sqlite3_clear_bindings(*statement);
    *statement = NULL;
}

void store_bind_text(sqlite3_stmt *statement, int index, const char *text)
{
    if (text)
        (void)sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC);
    else
        (void)sqlite3_bind_null(statement, index);
}

int store_step(struct store_connection *connection, sqlite3_stmt *statement, struct err *err)
{
    int status = sqlite3_step(statement);
    if (status == SQLITE_DONE || status == SQLITE_ROW)
        return 0;
    if ((status & 0xff) == SQLITE_CONSTRAINT)
        return err_set(err, ERR_CONFLICT, "store: %s", sqlite3_errmsg(connection->db));
    return store_error(connection, sqlite3_sql(statement), err);
}

int store_connection_open(const char *path, bool writer, struct store_connection *out,
                          struct err *err)
{
    memset(out, 0, sizeof(*out));
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (writer ? SQLITE_OPEN_CREATE : 0);
    if (sqlite3_open_v2(path, &out->db, flags, NULL) != SQLITE_OK) {
        int result = store_error(out, path, err);
        store_connection_done(out);
        return result;
    }
    (void)sqlite3_extended_result_codes(out->db, 1);
    (void)sqlite3_busy_timeout(out->db, 5000);
    const char *setup = writer ? "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                                 "PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF"
                               : "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF";
    if (sqlite3_exec(out->db, setup, NULL, NULL, NULL) != SQLITE_OK) {
        int result = store_error(out, path, err);
        store_connection_done(out);
        return result;
    }
    return 0;
}

void store_connection_done(struct store_connection *connection)
{
    for (size_t i = 0; i < ARRAY_SIZE(connection->statements); i++)
        (void)sqlite3_finalize(connection->statements[i]);
    (void)sqlite3_close(connection->db);
    memset(connection, 0, sizeof(*connection));
}

int store_open(const char *path, struct store **out, struct err *err)
{
    struct store *store = calloc(1, sizeof(*store));
    if (!store)
        return err_set(err, ERR_INTERNAL, "no memory for the store");
    store->tail = &store->head;
    store->late_ns = INT64_MAX;
    store->text_max = UINT64_MAX;
    (void)pthread_mutex_init(&store->reader_lock, NULL);
    (void)pthread_mutex_init(&store->queue_lock, NULL);
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&store->queue_filled, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    int result = store_connection_open(path, true, &store->writer, err);
    if (result == 0)
        result = store_migrate(&store->writer, err);
    if (result == 0)
        result = store_texts_count(store, err);
    if (result == 0)
        result = store_connection_open(path, false, &store->reader, err);
    if (result == 0)
        result = store_connection_open(path, false, &store->keeper, err);
    /* Who has read nothing yet knows of no log, and would copy nothing. */
    if (result == 0 &&
        sqlite3_exec(store->keeper.db, "PRAGMA schema_version", NULL, NULL, NULL) != SQLITE_OK)
        result = store_error(&store->keeper, "open the log", err);
    if (result == 0)
        result = store_writer_start(store, err);
    if (result != 0) {
        store_close(store);
        return err_wrap(err, "open %s", path), result;
    }
    *out = store;
    return 0;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    store_writer_stop(store);
    store_connection_done(&store->reader);
    store_connection_done(&store->keeper);
    store_connection_done(&store->writer);
    (void)pthread_cond_destroy(&store->queue_filled);
    (void)pthread_mutex_destroy(&store->queue_lock);
    (void)pthread_mutex_destroy(&store->reader_lock);
    free(store);
}
