/* Library layers in the books, and which session has which. */
#include "check.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "store_rig.h"

static char key[] = "host\npython\nnumpy";
static char requirements[] = "[\"numpy\"]";
static char resolved[] = "numpy==1.26.4";

static struct store_layer layer_of(const char *name, char *its_key)
{
    struct store_layer layer = {.owner = "o",
                                .lang = "python",
                                .image = "host",
                                .engine = "docker",
                                .key = its_key,
                                .requirements = requirements,
                                .resolved = resolved,
                                .size_bytes = UINT64_C(5) << 30,
                                .created_us = 10,
                                .used_us = 20};
    (void)snprintf(layer.name, sizeof(layer.name), "%s", name);
    return layer;
}

struct seen {
    struct store_layer last;
    unsigned count;
};

static int see(void *context, struct store_layer *layer, struct err *err)
{
    struct seen *seen = context;
    (void)err;
    store_layer_done(&seen->last);
    seen->last = *layer;
    layer->key = layer->requirements = layer->resolved = NULL;
    seen->count++;
    return 0;
}

static void a_layer_comes_back_whole(void **state)
{
    (void)state;
    struct store *store = open_store();
    struct store_layer row = layer_of("l1", key);
    struct store_layer same_key = layer_of("l2", key);
    assert_int_equal(store_layer_insert(store, &same_key, NULL), 0);
    assert_int_equal(store_layer_insert(store, &row, NULL), 0); /* in its place */
    store_layer_used(store, "l1", 99, true);
    store_layer_used(store, "l1", 100, false); /* kept once is kept */
    store_close(store);
    store = open_store();
    struct seen seen = {0};
    assert_int_equal(store_layer_each(store, see, &seen, NULL), 0);
    assert_int_equal(seen.count, 1);
    assert_string_equal(seen.last.name, "l1");
    assert_string_equal(seen.last.key, key);
    assert_string_equal(seen.last.requirements, requirements);
    assert_string_equal(seen.last.resolved, resolved);
    assert_string_equal(seen.last.engine, "docker");
    assert_int_equal(seen.last.size_bytes, UINT64_C(5) << 30);
    assert_int_equal(seen.last.used_us, 100);
    assert_true(seen.last.keep);
    assert_int_equal(store_layer_remove(store, "l1", NULL), 0);
    assert_int_equal(store_layer_remove(store, "l1", NULL), 0);
    seen.count = 0;
    assert_int_equal(store_layer_each(store, see, &seen, NULL), 0);
    assert_int_equal(seen.count, 0);
    store_layer_done(&seen.last);
    store_close(store);
}

/* What was written before there were several engines is the native one's, and its layers are found
 * under the keys that requests have now. */
static void what_is_older_is_the_native_engines(void **state)
{
    (void)state;
    struct store *store = open_store();
    struct store_layer row = layer_of("l1", key);
    assert_int_equal(store_layer_insert(store, &row, NULL), 0);
    store_close(store);
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(db_path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db,
                                  "DELETE FROM schema_migrations WHERE version = 7;"
                                  "ALTER TABLE sessions DROP COLUMN runtime;"
                                  "ALTER TABLE layers DROP COLUMN engine",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    (void)sqlite3_close(db);
    store = open_store();
    struct seen seen = {0};
    assert_int_equal(store_layer_each(store, see, &seen, NULL), 0);
    assert_int_equal(seen.count, 1);
    assert_string_equal(seen.last.engine, "native");
    assert_string_equal(seen.last.key, "native host\npython\nnumpy");
    store_layer_done(&seen.last);
    store_close(store);
}

static void a_sessions_row_goes_with_it(void **state)
{
    (void)state;
    struct store *store = open_store();
    char name[STORE_ID_SIZE];
    char *list = NULL;
    const struct store_session session = {
        .id = "s1", .owner = "o", .lang = "python", .sandbox_id = "b1", .created_us = 1};
    struct store_session_layer row = {
        .session_id = "s1", .layer = "l1", .requirements = requirements};
    assert_int_equal(store_session_insert(store, &session, NULL, NULL), 0);
    assert_int_equal(store_session_layer_get(store, "s1", name, &list, NULL), -ERR_NOT_FOUND);
    assert_int_equal(store_session_layer_put(store, &row, NULL), 0);
    row.layer = "l2";
    assert_int_equal(store_session_layer_put(store, &row, NULL), 0);
    assert_int_equal(store_session_layer_get(store, "s1", name, &list, NULL), 0);
    assert_string_equal(name, "l2");
    assert_string_equal(list, requirements);
    free(list);
    assert_int_equal(store_session_remove(store, "s1", NULL), 0);
    assert_int_equal(store_session_layer_get(store, "s1", name, &list, NULL), -ERR_NOT_FOUND);
    store_close(store);
}

/* One write: no session without what it was made with, and nothing of one that was refused. */
static void a_session_comes_with_its_row(void **state)
{
    (void)state;
    struct store *store = open_store();
    char name[STORE_ID_SIZE];
    char *list = NULL;
    struct store_session session = {
        .id = "s1", .owner = "o", .lang = "python", .sandbox_id = "b1", .created_us = 1};
    struct store_session_layer row = {
        .session_id = "s1", .layer = "l1", .requirements = requirements};
    assert_int_equal(store_session_insert(store, &session, &row, NULL), 0);
    assert_int_equal(store_session_layer_get(store, "s1", name, &list, NULL), 0);
    assert_string_equal(name, "l1");
    free(list);
    list = NULL;
    (void)snprintf(session.id, sizeof(session.id), "s2");
    row.session_id = "s2";
    assert_int_equal(store_session_insert(store, &session, &row, NULL), -ERR_CONFLICT);
    assert_int_equal(store_session_layer_get(store, "s2", name, &list, NULL), -ERR_NOT_FOUND);
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_layer_comes_back_whole, db_folder_make, db_folder_remove),
        cmocka_unit_test_setup_teardown(what_is_older_is_the_native_engines, db_folder_make,
                                        db_folder_remove),
        cmocka_unit_test_setup_teardown(a_sessions_row_goes_with_it, db_folder_make,
                                        db_folder_remove),
        cmocka_unit_test_setup_teardown(a_session_comes_with_its_row, db_folder_make,
                                        db_folder_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
