/* Rows survive a reopening, keys are unique, outcomes expire, and many writers share one commit. */
#include "check.h"

#include <pthread.h>
#include <stdbool.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/store_internal.h"
#include "store_rig.h"

static int insert(struct store *store, const char *id, const char *key, int64_t created_us)
{
    const struct store_execution_new row = {.id = id,
                                            .owner = "o",
                                            .lang = "python",
                                            .status = "queued",
                                            .idempotency_key = key,
                                            .created_us = created_us};
    struct store_job job;
    store_execution_insert_begin(store, &row, &job);
    return store_job_wait(store, &job, NULL);
}

static int finish(struct store *store, const char *id, const char *status, int64_t finished_us,
                  int64_t expires_us, const char *text)
{
    const struct store_outcome outcome = {.status = status,
                                          .finished_us = finished_us,
                                          .expires_us = expires_us,
                                          .object = "{}",
                                          .object_size = 2,
                                          .text = text,
                                          .text_size = strlen(text)};
    return store_execution_finish(store, id, &outcome, NULL);
}

static void a_row_lives_through_its_states(void **state)
{
    (void)state;
    struct store *store = open_store();
    assert_int_equal(insert(store, "a1", NULL, 10), 0);
    assert_int_equal(insert(store, "a1", NULL, 10), -ERR_CONFLICT);
    store_execution_started(store, "a1", "box", 20, false);
    assert_int_equal(finish(store, "a1", "success", 30, 1000, "text"), 0);
    assert_int_equal(finish(store, "zz", "success", 30, 1000, "text"), -ERR_NOT_FOUND);
    store_close(store);
    store = open_store();
    struct store_execution row;
    struct buf outcome, text;
    buf_init(&outcome, 100);
    buf_init(&text, 100);
    assert_int_equal(store_execution_get(store, "o", "a1", &row, &outcome, &text, NULL), 0);
    assert_string_equal(row.status, "success");
    assert_int_equal(row.started_us, 20);
    assert_true(row.has_outcome);
    assert_true(row.has_text);
    assert_string_equal(buf_cstr(&outcome), "{}");
    assert_string_equal(buf_cstr(&text), "text");
    buf_done(&text);
    assert_int_equal(store_execution_get(store, "other", "a1", &row, NULL, NULL, NULL),
                     -ERR_NOT_FOUND);
    buf_done(&outcome);
    assert_int_equal(store_execution_remove(store, "a1", NULL), 0);
    assert_int_equal(store_execution_get(store, NULL, "a1", &row, NULL, NULL, NULL),
                     -ERR_NOT_FOUND);
    store_close(store);
}

static void keys_are_unique_until_they_expire(void **state)
{
    (void)state;
    struct store *store = open_store();
    char id[STORE_ID_SIZE];
    assert_int_equal(insert(store, "k1", "key", 1), 0);
    assert_int_equal(insert(store, "k2", "key", 2), -ERR_CONFLICT);
    assert_int_equal(store_execution_by_key(store, "o", "key", id, NULL), 0);
    assert_string_equal(id, "k1");
    assert_int_equal(store_execution_by_key(store, "p", "key", id, NULL), -ERR_NOT_FOUND);
    assert_int_equal(finish(store, "k1", "error", 5, 100, "text"), 0);
    assert_int_equal(store_expire(store, 99, 0, NULL), 0);
    assert_int_equal(insert(store, "k2", "key", 2), -ERR_CONFLICT);
    assert_int_equal(store_expire(store, 100, 0, NULL), 0);
    struct store_execution row;
    assert_int_equal(store_execution_get(store, "o", "k1", &row, NULL, NULL, NULL), 0);
    assert_false(row.has_outcome);
    assert_int_equal(insert(store, "k2", "key", 2), 0);
    assert_int_equal(store_expire(store, 100, 50, NULL), 0); /* history: the row goes too */
    assert_int_equal(store_execution_get(store, "o", "k1", &row, NULL, NULL, NULL), -ERR_NOT_FOUND);
    assert_int_equal(store_execution_get(store, "o", "k2", &row, NULL, NULL, NULL), 0);
    assert_int_equal(store_execution_remove(store, "k2", NULL), 0);
    store_close(store);
}

/* Whether the text of row number i is there; its outcome always is. */
static bool has_text(struct store *store, int i)
{
    char id[16];
    struct store_execution row;
    (void)snprintf(id, sizeof(id), "x%d", i);
    assert_int_equal(store_execution_get(store, "o", id, &row, NULL, NULL, NULL), 0);
    assert_true(row.has_outcome);
    return row.has_text;
}

/* Trimming comes after the write that made it necessary; another write waits for it. */
static void settle(struct store *store)
{
    for (int i = 0; i < 2; i++)
        assert_int_equal(store_execution_remove(store, "none", NULL), 0);
}

static void the_oldest_texts_go_first(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    struct store *store = open_store();
    char text[101];
    char id[16];
    memset(text, 'x', 100);
    text[100] = '\0';
    store_set_text_max(store, 1000);
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(id, sizeof(id), "x%d", i);
        assert_int_equal(insert(store, id, NULL, i), 0);
        assert_int_equal(finish(store, id, "success", 1000 + i, INT64_MAX, i % 10 ? text : ""), 0);
        settle(store);
    }
    int kept = 0;
    for (int i = 0; i < COUNT; i++) {
        bool empty = i % 10 == 0;
        kept += has_text(store, i) && !empty ? 1 : 0;
        if (empty) /* nothing to drop */
            assert_true(has_text(store, i));
        else if (i > 10 && has_text(store, i - 1) && (i - 1) % 10)
            assert_true(has_text(store, i)); /* who is newer than one that is kept is kept */
    }
    assert_in_range(kept, 8, 10);
    assert_true(has_text(store, COUNT - 1));
    /* The bound holds for what an earlier server kept as well. */
    store_close(store);
    store = open_store();
    store_set_text_max(store, 250);
    settle(store);
    kept = 0;
    for (int i = 0; i < COUNT; i++)
        kept += has_text(store, i) && i % 10 ? 1 : 0;
    assert_int_equal(kept, 2);
    assert_int_equal(store_expire(store, INT64_MAX, INT64_MAX, NULL), 0);
    store_close(store);
}

/* What is written is copied back from SQLite's log, whoever writes meanwhile. */
static void the_log_has_a_bound(void **state)
{
    (void)state;
    enum { COUNT = 12000 };
    struct store *store = open_store();
    char id[16];
    char path[128];
    struct stat info;
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(id, sizeof(id), "w%d", i);
        assert_int_equal(insert(store, id, NULL, i), 0);
        assert_int_equal(finish(store, id, "success", 1000 + i, INT64_MAX, "text"), 0);
    }
    (void)snprintf(path, sizeof(path), "%s-wal", db_path);
    assert_int_equal(stat(path, &info), 0);
    assert_in_range(info.st_size, 1, 48 << 20);
    store_close(store);
}

static void lists_newest_first_in_pages(void **state)
{
    (void)state;
    struct store *store = open_store();
    char id[16];
    for (int i = 0; i < 5; i++) {
        (void)snprintf(id, sizeof(id), "l%d", i);
        assert_int_equal(insert(store, id, NULL, 100 + i), 0);
    }
    struct store_execution *rows = NULL;
    size_t count = 0;
    assert_int_equal(store_execution_list(store, "o", NULL, NULL, 2, &rows, &count, NULL), 0);
    assert_int_equal(count, 2);
    assert_string_equal(rows[0].id, "l4");
    free(rows);
    assert_int_equal(store_execution_list(store, "o", NULL, "l3", 10, &rows, &count, NULL), 0);
    assert_int_equal(count, 3);
    assert_string_equal(rows[0].id, "l2");
    free(rows);
    assert_int_equal(store_execution_list(store, "o", "success", NULL, 10, &rows, &count, NULL), 0);
    assert_int_equal(count, 0);
    free(rows);
    assert_int_equal(store_execution_unfinished(store, NULL, 10, &rows, &count, NULL), 0);
    assert_int_equal(count, 5);
    free(rows);
    store_close(store);
}

static void *write_many(void *context)
{
    struct store *store = context;
    char id[40];
    for (int i = 0; i < 50; i++) {
        (void)snprintf(id, sizeof(id), "t%lx-%d", (unsigned long)pthread_self(), i);
        if (insert(store, id, NULL, i) != 0)
            abort();
        store_sandbox_put(store, id, "o", "fake", "creating", 1);
        store_sandbox_remove(store, id);
        if (finish(store, id, "success", 1, 2, "text") != 0)
            abort();
        struct store_execution row;
        if (store_execution_get(store, "o", id, &row, NULL, NULL, NULL) != 0 || !row.has_outcome)
            abort();
    }
    return NULL;
}

static void many_writers(void **state)
{
    (void)state;
    struct store *store = open_store();
    pthread_t threads[8];
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, store), 0);
    for (size_t i = 0; i < 8; i++)
        (void)pthread_join(threads[i], NULL);
    assert_int_equal(store_sandbox_clear(store, NULL), 0);
    store_close(store);
}

/* Fails or not: it comes to its end. */
static void *write_on_a_full_disk(void *context)
{
    static const char text[64 * 1024];
    struct store *store = context;
    uintptr_t failed = 0;
    char id[40];
    for (int i = 0; i < 30; i++) {
        struct store_execution row;
        (void)snprintf(id, sizeof(id), "f%lx-%d", (unsigned long)pthread_self(), i);
        const struct store_outcome outcome = {.status = "success",
                                              .finished_us = 1,
                                              .expires_us = 2,
                                              .object = "{}",
                                              .object_size = 2,
                                              .text = text,
                                              .text_size = sizeof(text)};
        int result = insert(store, id, NULL, i);
        store_sandbox_put(store, id, "o", "fake", "creating", 1);
        if (result == 0)
            result = store_execution_finish(store, id, &outcome, NULL);
        (void)store_execution_get(store, "o", id, &row, NULL, NULL, NULL);
        failed += result == -ERR_UNAVAILABLE ? 1 : 0;
    }
    return (void *)failed; // NOLINT(performance-no-int-to-ptr): a count
}

static void set_pages_max(struct store *store, const char *statement)
{
    assert_int_equal(store_sandbox_clear(store, NULL), 0); /* all that was queued is written */
    assert_int_equal(sqlite3_exec(store->writer.db, statement, NULL, NULL, NULL), SQLITE_OK);
}

static void a_full_disk_holds_up_nobody(void **state)
{
    (void)state;
    struct store *store = open_store();
    pthread_t threads[8];
    uintptr_t failed = 0;
    set_pages_max(store, "PRAGMA max_page_count = 400");
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_on_a_full_disk, store), 0);
    for (size_t i = 0; i < 8; i++) {
        void *count = NULL;
        (void)pthread_join(threads[i], &count);
        failed += (uintptr_t)count;
    }
    assert_true(failed > 0);
    set_pages_max(store, "PRAGMA max_page_count = 1000000");
    assert_int_equal(insert(store, "room", NULL, 1), 0);
    assert_false(store_is_failing(store));
    store_sandbox_put(store, "late", "o", "fake", "creating", 1); /* nobody waits for it */
    store_close(store);
    store = open_store();
    sqlite3_stmt *rows = NULL;
    assert_int_equal(sqlite3_prepare_v2(store->writer.db,
                                        "SELECT 1 FROM sandboxes WHERE id = 'late'", -1, &rows,
                                        NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(rows), SQLITE_ROW);
    (void)sqlite3_finalize(rows);
    store_close(store);
}

/* Rows of a server that kept them in the order of their ids. */
static void rows_of_an_older_table_are_taken_over(void **state)
{
    (void)state;
    store_close(open_store());
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(db_path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(
            db,
            "DELETE FROM schema_migrations WHERE version = 8; DROP TABLE executions;"
            "CREATE TABLE executions (id TEXT PRIMARY KEY, owner TEXT NOT NULL, labels TEXT NOT"
            " NULL DEFAULT '{}', lang TEXT NOT NULL, status TEXT NOT NULL, idempotency_key TEXT,"
            " created_us INTEGER NOT NULL, started_us INTEGER, finished_us INTEGER, sandbox_id"
            " TEXT, outcome BLOB, expires_us INTEGER, text BLOB, text_size INTEGER, session_id"
            " TEXT, UNIQUE (owner, idempotency_key)) STRICT, WITHOUT ROWID;"
            "INSERT INTO executions VALUES ('z1', 'o', '{}', 'python', 'success', 'key', 1, 2, 3,"
            " 'box', x'7b7d', 1000, x'6869', 2, 's1'), ('a2', 'o', '{}', 'bash', 'running', NULL,"
            " 4, 5, NULL, 'box', NULL, NULL, NULL, NULL, 's1')",
            NULL, NULL, NULL),
        SQLITE_OK);
    (void)sqlite3_close(db);
    struct store *store = open_store();
    struct store_execution row;
    struct buf outcome, text;
    buf_init(&outcome, 100);
    buf_init(&text, 100);
    assert_int_equal(store_execution_get(store, "o", "z1", &row, &outcome, &text, NULL), 0);
    assert_string_equal(row.lang, "python");
    assert_string_equal(row.session_id, "s1");
    assert_int_equal(row.created_us, 1);
    assert_int_equal(row.started_us, 2);
    assert_int_equal(row.finished_us, 3);
    assert_string_equal(buf_cstr(&outcome), "{}");
    assert_string_equal(buf_cstr(&text), "hi");
    buf_done(&text);
    buf_done(&outcome);
    assert_int_equal(insert(store, "n3", "key", 6), -ERR_CONFLICT);
    struct store_execution *rows = NULL;
    size_t count = 0;
    assert_int_equal(store_execution_unfinished(store, NULL, 10, &rows, &count, NULL), 0);
    assert_int_equal(count, 1); /* of a session that is not there */
    assert_string_equal(rows[0].id, "a2");
    free(rows);
    assert_int_equal(store_expire(store, 1001, 0, NULL), 0);
    assert_int_equal(insert(store, "n3", "key", 6), 0);
    store_close(store);
}

static void refuses_a_newer_schema(void **state)
{
    (void)state;
    store_close(open_store());
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(db_path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db, "INSERT INTO schema_migrations VALUES (9999, 1, 1)", NULL, NULL, NULL),
        SQLITE_OK);
    struct store *store = NULL;
    struct err err = ERR_INIT;
    assert_int_equal(store_open(db_path, &store, &err), -ERR_UNSUPPORTED);
    assert_non_null(strstr(err.public_message, "9999"));
    assert_int_equal(sqlite3_exec(db,
                                  "DELETE FROM schema_migrations WHERE version = 9999;"
                                  "UPDATE schema_migrations SET checksum = 1",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    (void)sqlite3_close(db);
    assert_int_equal(store_open(db_path, &store, &err), -ERR_UNSUPPORTED);
    assert_non_null(strstr(err.public_message, "0001_executions.sql"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_lives_through_its_states),
        cmocka_unit_test(keys_are_unique_until_they_expire),
        cmocka_unit_test(the_oldest_texts_go_first),
        cmocka_unit_test(lists_newest_first_in_pages),
        cmocka_unit_test(many_writers),
        cmocka_unit_test(the_log_has_a_bound),
        cmocka_unit_test(a_full_disk_holds_up_nobody),
        cmocka_unit_test(rows_of_an_older_table_are_taken_over),
        cmocka_unit_test(refuses_a_newer_schema),
    };
    return cmocka_run_group_tests_name("store", tests, db_folder_make, db_folder_remove);
}
