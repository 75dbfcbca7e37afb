/* Sessions in the books: they come back as they were written, after a reopening too. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_rig.h"

static char labels[] = "{\"team\":\"a\"}";
static char key[] = "the key";
static char network[] = "egress a.org b.org:8443";

static struct store_session session_of(const char *id, const char *sandbox_id, char *with_key)
{
    struct store_session session = {.owner = "o",
                                    .lang = "python",
                                    .image = "host",
                                    .profile = "strict",
                                    .engine = "native",
                                    .runtime = "runsc",
                                    .memory_bytes = UINT64_C(5) << 30,
                                    .storage_bytes = 7,
                                    .reserve_memory_bytes = 8,
                                    .reserve_disk_bytes = 9,
                                    .cpu_millis = 500,
                                    .disk = true,
                                    .timeout_ms = 30000,
                                    .idle_ms = 60000,
                                    .created_us = 1000,
                                    .lifetime_us = 2000,
                                    .labels = labels,
                                    .network = network,
                                    .network_env = 0x5a5a,
                                    .idempotency_key = with_key};
    (void)snprintf(session.id, sizeof(session.id), "%s", id);
    (void)snprintf(session.sandbox_id, sizeof(session.sandbox_id), "%s", sandbox_id);
    memset(session.nonce, 0xa5, sizeof(session.nonce));
    return session;
}

static size_t read_all(struct store *store, struct store_session **out)
{
    size_t count = 0;
    assert_int_equal(store_session_all(store, out, &count, NULL), 0);
    return count;
}

static void free_all(struct store_session *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        store_session_done(&rows[i]);
    free(rows);
}

static void a_session_comes_back_whole(void **state)
{
    (void)state;
    struct store *store = open_store();
    struct store_session first = session_of("s1", "box1", key);
    assert_int_equal(store_session_insert(store, &first, NULL, NULL), 0);
    store_close(store);
    store = open_store();
    struct store_session *rows = NULL;
    assert_int_equal(read_all(store, &rows), 1);
    const struct store_session *got = &rows[0];
    assert_string_equal(got->id, "s1");
    assert_string_equal(got->owner, "o");
    assert_string_equal(got->sandbox_id, "box1");
    assert_string_equal(got->labels, labels);
    assert_string_equal(got->idempotency_key, key);
    assert_string_equal(got->profile, "strict");
    assert_string_equal(got->engine, "native");
    assert_string_equal(got->runtime, "runsc");
    assert_memory_equal(got->nonce, first.nonce, sizeof(got->nonce));
    assert_int_equal(got->memory_bytes, first.memory_bytes);
    assert_int_equal(got->storage_bytes, 7);
    assert_int_equal(got->reserve_memory_bytes, 8);
    assert_int_equal(got->reserve_disk_bytes, 9);
    assert_int_equal(got->cpu_millis, 500);
    assert_true(got->disk);
    assert_int_equal(got->timeout_ms, 30000);
    assert_int_equal(got->idle_ms, 60000);
    assert_int_equal(got->created_us, 1000);
    assert_int_equal(got->lifetime_us, 2000);
    assert_string_equal(got->network, network);
    assert_int_equal(got->network_env, 0x5a5a);
    free_all(rows, 1);
    assert_int_equal(store_session_set_network(store, "s1", "none", 7, NULL), 0);
    assert_int_equal(store_session_set_network(store, "s9", "none", 7, NULL), -ERR_NOT_FOUND);
    assert_int_equal(read_all(store, &rows), 1);
    assert_string_equal(rows[0].network, "none");
    assert_int_equal(rows[0].network_env, 7);
    free_all(rows, 1);
    assert_int_equal(store_session_remove(store, "s1", NULL), 0);
    store_close(store);
}

static void keys_and_sandboxes_are_unique(void **state)
{
    (void)state;
    struct store *store = open_store();
    char id[STORE_ID_SIZE];
    struct store_session first = session_of("s1", "box1", key);
    struct store_session same_key = session_of("s2", "box2", key);
    struct store_session same_box = session_of("s3", "box1", NULL);
    assert_int_equal(store_session_by_key(store, "o", key, id, NULL), -ERR_NOT_FOUND);
    assert_int_equal(store_session_insert(store, &first, NULL, NULL), 0);
    assert_int_equal(store_session_insert(store, &same_key, NULL, NULL), -ERR_CONFLICT);
    assert_int_equal(store_session_insert(store, &same_box, NULL, NULL), -ERR_CONFLICT);
    assert_int_equal(store_session_by_key(store, "o", key, id, NULL), 0);
    assert_string_equal(id, "s1");
    assert_int_equal(store_session_by_key(store, "p", key, id, NULL), -ERR_NOT_FOUND);
    assert_int_equal(store_session_remove(store, "s1", NULL), 0);
    assert_int_equal(store_session_remove(store, "s1", NULL), 0);
    assert_int_equal(store_session_insert(store, &same_key, NULL, NULL), 0);
    assert_int_equal(store_session_remove(store, "s2", NULL), 0);
    store_close(store);
}

static void times_are_renewed(void **state)
{
    (void)state;
    struct store *store = open_store();
    struct store_session first = session_of("s1", "box1", NULL);
    assert_int_equal(store_session_insert(store, &first, NULL, NULL), 0);
    assert_int_equal(store_session_renew(store, "s1", 5, 0, 9000, NULL), 0);
    struct store_session *rows = NULL;
    assert_int_equal(read_all(store, &rows), 1);
    assert_int_equal(rows[0].timeout_ms, 5);
    assert_int_equal(rows[0].idle_ms, 0);
    assert_int_equal(rows[0].lifetime_us, 9000);
    assert_null(rows[0].idempotency_key);
    free_all(rows, 1);
    assert_int_equal(store_session_renew(store, "s2", 5, 0, 9000, NULL), -ERR_NOT_FOUND);
    assert_int_equal(store_session_remove(store, "s1", NULL), 0);
    store_close(store);
}

static void many_come_back_oldest_first(void **state)
{
    (void)state;
    struct store *store = open_store();
    for (int i = 0; i < 150; i++) {
        char id[16];
        char box[16];
        (void)snprintf(id, sizeof(id), "s%03d", i);
        (void)snprintf(box, sizeof(box), "b%03d", i);
        struct store_session session = session_of(id, box, NULL);
        session.created_us = 1000 - i;
        assert_int_equal(store_session_insert(store, &session, NULL, NULL), 0);
    }
    struct store_session *rows = NULL;
    size_t count = read_all(store, &rows);
    assert_int_equal(count, 150);
    assert_string_equal(rows[0].id, "s149");
    assert_string_equal(rows[149].id, "s000");
    free_all(rows, count);
    store_close(store);
}

static void an_execution_knows_its_session(void **state)
{
    (void)state;
    struct store *store = open_store();
    const struct store_execution_new row = {.id = "e1",
                                            .owner = "o",
                                            .lang = "python",
                                            .status = "queued",
                                            .session_id = "s9",
                                            .created_us = 1};
    struct store_job job;
    struct store_execution got;
    store_execution_insert_begin(store, &row, &job);
    assert_int_equal(store_job_wait(store, &job, NULL), 0);
    assert_int_equal(store_execution_get(store, "o", "e1", &got, NULL, NULL, NULL), 0);
    assert_string_equal(got.session_id, "s9");
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_comes_back_whole),
        cmocka_unit_test(keys_and_sandboxes_are_unique),
        cmocka_unit_test(times_are_renewed),
        cmocka_unit_test(many_come_back_oldest_first),
        cmocka_unit_test(an_execution_knows_its_session),
    };
    return cmocka_run_group_tests_name("store_sessions", tests, db_folder_make, db_folder_remove);
}
