/* Owns the schema's versions: applies the embedded files NNNN_name.sql that a database lacks, in
 * order, each in one transaction with its row in schema_migrations. Refuses a database that is
 * newer than this program, or whose applied files differ from the ones that it has. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/embed.h"
#include "base/hash.h"
#include "base/log.h"
#include "store/store_internal.h"

extern const struct embedded_file migrations_files[];

/* To notice an edited file. */
static int64_t checksum_of(const struct embedded_file *file)
{
    uint64_t hash = hash_add(HASH_BASIS, file->data, file->size);
    int64_t out = 0;
    memcpy(&out, &hash, sizeof(out));
    return out;
}

static int exec_sql(struct store_connection *connection, const char *sql, struct err *err)
{
    if (sqlite3_exec(connection->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return store_error(connection, "migration", err);
    return 0;
}

/* The checksum that was recorded for version; *found says whether there is one. */
static int recorded(struct store_connection *connection, int64_t version, bool *found,
                    int64_t *checksum, struct err *err)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(connection->db,
                           "SELECT checksum FROM schema_migrations WHERE version = ?1", -1,
                           &statement, NULL) != SQLITE_OK)
        return store_error(connection, "schema_migrations", err);
    (void)sqlite3_bind_int64(statement, 1, version);
    int status = sqlite3_step(statement);
    *found = status == SQLITE_ROW;
    if (*found)
        *checksum = sqlite3_column_int64(statement, 0);
    int result = 0;
    if (status != SQLITE_ROW && status != SQLITE_DONE)
        result = store_error(connection, "schema_migrations", err);
    (void)sqlite3_finalize(statement);
    return result;
}

static int newest_recorded(struct store_connection *connection, int64_t *out, struct err *err)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(connection->db, "SELECT max(version) FROM schema_migrations", -1,
                           &statement, NULL) != SQLITE_OK)
        return store_error(connection, "schema_migrations", err);
    int status = sqlite3_step(statement);
    *out = status == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
    (void)sqlite3_finalize(statement);
    return status == SQLITE_ROW ? 0 : store_error(connection, "schema_migrations", err);
}

static int apply(struct store_connection *connection, const struct embedded_file *file,
                 int64_t version, struct err *err)
{
    char record[256];
    (void)snprintf(record, sizeof(record),
                   "INSERT INTO schema_migrations (version, checksum, applied_us)"
                   " VALUES (%" PRId64 ", %" PRId64 ", %" PRId64 ")",
                   version, checksum_of(file), clock_wall_us());
    log_info("store: applying %s", file->name); /* one that rewrites a large table takes a while */
    int result = exec_sql(connection, "BEGIN IMMEDIATE", err);
    if (result != 0)
        return result;
    result = exec_sql(connection, file->data, err);
    if (result == 0)
        result = exec_sql(connection, record, err);
    if (result == 0)
        result = exec_sql(connection, "COMMIT", err);
    if (result != 0) {
        (void)exec_sql(connection, "ROLLBACK", NULL);
        return err_wrap(err, "%s", file->name), result;
    }
    return 0;
}

int store_migrate(struct store_connection *connection, struct err *err)
{
    int result = exec_sql(connection,
                          "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY"
                          " KEY, checksum INTEGER NOT NULL, applied_us INTEGER NOT NULL) STRICT",
                          err);
    int64_t newest = 0;
    if (result == 0)
        result = newest_recorded(connection, &newest, err);
    int64_t known = 0;
    for (const struct embedded_file *file = migrations_files; result == 0 && file->name; file++) {
        int64_t version = strtol(file->name, NULL, 10);
        known = version > known ? version : known;
    }
    if (result == 0 && newest > known)
        return err_public(err, ERR_UNSUPPORTED,
                          "the database has schema %" PRId64 " and this berth knows up to %" PRId64
                          ": a newer berth wrote it; run that one, or use another state folder",
                          newest, known);
    for (const struct embedded_file *file = migrations_files; result == 0 && file->name; file++) {
        int64_t version = strtol(file->name, NULL, 10);
        bool found = false;
        int64_t checksum = 0;
        result = recorded(connection, version, &found, &checksum, err);
        if (result == 0 && found && checksum != checksum_of(file))
            return err_public(err, ERR_UNSUPPORTED,
                              "the database was made with another text of migration %s",
                              file->name);
        if (result == 0 && !found)
            result = apply(connection, file, version, err);
    }
    return result;
}
