/* The pool on the fake engine: each sandbox is used once and gets the request's figures, the stock
 * follows demand within its bounds, and what went wrong is not given out. */
#include "check.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "core/core.h"
#include "core/core_internal.h"
#include "core/pool.h"
#include "core/session.h"
#include "core/session_internal.h"
#include "core_rig.h"
#include "engine/engine.h"
#include "engine/fake.h"
#include "lang/lang.h"
#include "whole.h"

#define HANG_NS (20 * CLOCK_NS_PER_S)

static const struct lang *lang;

static void open_with(struct rig *rig, unsigned pool_min, unsigned pool_max)
{
    struct core_config config = rig_config();
    struct err err = ERR_INIT;
    config.pool_min = pool_min;
    config.pool_max = pool_max;
    config.storage_bytes = 128 << 20;
    assert_ok(lang_find("python", &lang, &err), err);
    rig_open(rig, &config);
}

static unsigned ready_of(const struct rig *rig)
{
    struct pool_stats stats;
    pool_stats(rig->core->pool, &stats);
    return stats.filling == 0 ? stats.ready : 0;
}

static void wait_ready(const struct rig *rig, unsigned count)
{
    int64_t end_ns = clock_now_ns() + HANG_NS;
    while (ready_of(rig) < count) {
        assert_true(clock_now_ns() < end_ns);
        (void)poll(NULL, 0, 1);
    }
}

static uint64_t hits_of(const struct rig *rig)
{
    return rig->core->metrics.pool_hits;
}

static int run(const struct rig *rig, struct execution_request *request, struct buf *out,
               struct err *err)
{
    request->owner = CORE_OWNER_LOCAL;
    request->lang = lang;
    request->gone_fd = -1;
    request->code_size = strlen(request->code);
    return whole_execute(rig->core, request, NULL, false, out, err);
}

static void expect(const struct rig *rig, struct execution_request *request, const char *part)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    assert_ok(run(rig, request, &out, &err), err);
    if (!strstr(buf_cstr(&out), part))
        fail_msg("no %s in %s", part, buf_cstr(&out));
}

static void each_is_used_once(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 2, 4);
    for (unsigned i = 0; i < 5; i++) {
        struct execution_request write = {.code = "get seen\nset seen yes\n"};
        wait_ready(&rig, 2);
        expect(&rig, &write, "NameError");
        assert_int_equal(hits_of(&rig), i + 1);
    }
    assert_int_equal(rig.core->metrics.pool_misses, 0);
    core_free(rig.core);
}

static void figures_are_set_when_it_is_taken(void **state)
{
    (void)state;
    struct rig rig;
    struct engine_create limits;
    open_with(&rig, 1, 2);
    wait_ready(&rig, 1);
    const struct session_request request = {.owner = CORE_OWNER_LOCAL,
                                            .lang = lang,
                                            .memory_bytes = 64 << 20,
                                            .storage_bytes = 8 << 20,
                                            .cpu_millis = 500,
                                            .gone_fd = -1};
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    assert_ok(core_session_create(rig.core, &request, &out, &err), err);
    assert_int_equal(hits_of(&rig), 1);
    const char *id = rig.core->sessions->row.sandbox_id;
    struct sandbox_limits told;
    assert_true(engine_fake_limits(rig.engine, id, &limits));
    assert_int_equal(limits.memory_bytes, 64 << 20);
    assert_int_equal(limits.storage_bytes, 8 << 20);
    assert_int_equal(limits.cpu_millis, 500);
    assert_true(engine_fake_init_limits(rig.engine, id, &told));
    assert_int_equal(told.file_size_max, (8 << 20) + SANDBOX_FILE_SIZE_SPARE);
    core_free(rig.core);
}

/* What one that lives can't have, the next one could not either: the shelf is left alone. */
static void limits_that_are_refused_cost_one(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 3, 3);
    wait_ready(&rig, 3);
    engine_fake_inject(rig.engine, FAKE_FAULT_LIMIT_REFUSED, 20);
    struct execution_request request = {.code = "out x\n", .memory_bytes = 64 << 20};
    expect(&rig, &request, "\"status\":\"success\"");
    assert_int_equal(rig.core->metrics.pool_discarded, 1);
    core_free(rig.core);
}

static void an_engine_that_is_away_costs_one(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 3, 3);
    wait_ready(&rig, 3);
    engine_fake_inject(rig.engine, FAKE_FAULT_LIMIT_AWAY, 20);
    struct execution_request request = {.code = "out x\n", .memory_bytes = 64 << 20};
    expect(&rig, &request, "\"status\":\"success\"");
    assert_int_equal(rig.core->metrics.pool_discarded, 1);
    core_free(rig.core);
}

/* The one for large roots would do for all. */
static void each_kind_has_its_own(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 1, 2);
    wait_ready(&rig, 1);
    struct execution_request large = {
        .code = "out x\n", .memory_bytes = 1 << 30, .storage_bytes = 400 << 20};
    struct execution_request usual = {.code = "out x\n"};
    expect(&rig, &large, "\"status\":\"success\"");
    wait_ready(&rig, 2);
    engine_fake_inject(rig.engine, FAKE_FAULT_CREATE_REFUSED, 1000); /* no more than there are */
    expect(&rig, &usual, "\"status\":\"success\"");
    expect(&rig, &large, "\"status\":\"success\"");
    assert_int_equal(hits_of(&rig), 2);
    core_free(rig.core);
}

static void wait_filled(const struct rig *rig, uint64_t count)
{
    const struct metrics_histogram *fills = &rig->core->metrics.pool_fill;
    int64_t end_ns = clock_now_ns() + HANG_NS;
    for (uint64_t sum = 0; sum < count; (void)poll(NULL, 0, 1)) {
        assert_true(clock_now_ns() < end_ns);
        sum = 0;
        for (size_t i = 0; i <= METRICS_BUCKETS; i++)
            sum += fills->buckets[i];
    }
}

/* Those that nobody asks for again do not keep room from the one in demand. */
static void what_was_asked_for_once_makes_room(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 1, 2);
    wait_ready(&rig, 1);
    struct execution_request large = {
        .code = "out x\n", .memory_bytes = 1 << 30, .storage_bytes = 400 << 20};
    struct execution_request usual = {.code = "out x\n"};
    expect(&rig, &large, "\"status\":\"success\"");
    wait_ready(&rig, 2);
    (void)poll(NULL, 0, 5100); /* it is no more in demand */
    expect(&rig, &usual, "\"status\":\"success\"");
    wait_filled(&rig, 4); /* each kind's first, then two in the place of the large one */
    wait_ready(&rig, 2);
    engine_fake_inject(rig.engine, FAKE_FAULT_CREATE_REFUSED, 1000);
    expect(&rig, &usual, "\"status\":\"success\"");
    expect(&rig, &usual, "\"status\":\"success\"");
    assert_int_equal(hits_of(&rig), 3);
    core_free(rig.core);
}

/* Kills the first sandbox that it hears of, as its engine tells it: before its channel does. */
struct killer {
    const struct rig *rig;
    unsigned starts;
};

static int kill_first(void *context, const char *execution_id, struct err *err)
{
    struct killer *killer = context;
    char id[SANDBOX_ID_MAX + 1];
    (void)execution_id;
    if (killer->starts++ > 0)
        return 0;
    (void)pthread_mutex_lock(&killer->rig->core->lock);
    memcpy(id, killer->rig->core->lives->sandbox_id, sizeof(id));
    (void)pthread_mutex_unlock(&killer->rig->core->lock);
    box_on_gone(killer->rig->core, NULL, id, KILL_NONE);
    return engine_destroy(killer->rig->engine, id, clock_now_ns() + HANG_NS, err);
}

static void one_that_dies_unheard_is_replaced(void **state)
{
    (void)state;
    struct rig rig;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    open_with(&rig, 2, 2);
    wait_ready(&rig, 2);
    struct killer killer = {.rig = &rig};
    const struct execution_sink sink = {.context = &killer, .started = kill_first};
    const struct execution_request request = {.owner = CORE_OWNER_LOCAL,
                                              .lang = lang,
                                              .code = "out x\n",
                                              .code_size = strlen("out x\n"),
                                              .gone_fd = -1};
    buf_init(&out, 1 << 20);
    assert_ok(whole_execute(rig.core, &request, &sink, false, &out, &err), err);
    const char *const parts[] = {"\"status\":\"success\"", "\"stdout\":\"x\\n\""};
    for (size_t i = 0; i < 2; i++) {
        if (!strstr(buf_cstr(&out), parts[i]))
            fail_msg("no %s in %s", parts[i], buf_cstr(&out));
    }
    assert_int_equal(killer.starts, 1);
    assert_int_equal(hits_of(&rig), 2);
    core_free(rig.core);
}

/* A session gets another sandbox when that of the pool proves dead, and hears nothing of it. */
static void one_that_dies_before_it_is_a_session_is_replaced(void **state)
{
    (void)state;
    struct rig rig;
    struct err err = ERR_INIT;
    char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
    size_t count = 0;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    open_with(&rig, 2, 2);
    wait_ready(&rig, 2);
    assert_ok(engine_list(rig.engine, INT64_MAX, &ids, &count, &err), err);
    for (size_t i = 0; i < count; i++)
        assert_true(engine_fake_strike(rig.engine, ids[i], FAKE_FAULT_TIMERS_DIES));
    free(ids);
    char id[ID_UUID_SIZE];
    const struct session_request request = {
        .owner = CORE_OWNER_LOCAL, .lang = lang, .idempotency_key = "k", .gone_fd = -1};
    rig_make_session(rig.core, &request, id);
    assert_int_equal(hits_of(&rig), 1);
    assert_int_equal(rig.core->metrics.sessions_created, 1);
    const struct session_execution cell = {
        .owner = CORE_OWNER_LOCAL, .session_id = id, .code = "out x\n", .code_size = 6};
    assert_ok(whole_session_execute(rig.core, &cell, NULL, false, &out, &err), err);
    assert_non_null(strstr(buf_cstr(&out), "\"stdout\":\"x\\n\""));
    struct admission_stats stats;
    do {
        admission_stats(rig.core->admission, &stats);
    } while (stats.living > 1); /* the place of the dead one comes back */
    core_free(rig.core);
}

/* What a pool can't serve, and why. */
static void others_are_made_now(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 1, 2);
    wait_ready(&rig, 1);
    struct execution_request large = {
        .code = "out x\n", .memory_bytes = 1 << 30, .storage_bytes = 400 << 20};
    expect(&rig, &large, "\"status\":\"success\"");
    assert_int_equal(hits_of(&rig), 0);
    struct execution_request image = {.code = "out x\n", .image = "debian"};
    expect(&rig, &image, "\"status\":\"success\"");
    assert_int_equal(hits_of(&rig), 0);
    assert_int_equal(rig.core->metrics.pool_misses, 2);
    core_free(rig.core);
}

static void the_stock_follows_demand(void **state)
{
    (void)state;
    struct rig rig;
    struct pool_stats stats;
    open_with(&rig, 1, 5);
    for (int i = 0; i < 12; i++) {
        struct execution_request request = {.code = "out x\n"};
        expect(&rig, &request, "\"status\":\"success\"");
    }
    int64_t end_ns = clock_now_ns() + HANG_NS;
    do {
        assert_true(clock_now_ns() < end_ns);
        pool_stats(rig.core->pool, &stats);
        assert_true(stats.ready + stats.filling <= 5);
    } while (stats.wanted < 2 || stats.ready < 2);
    assert_true(stats.wanted <= 5);
    core_free(rig.core);
}

/* On a runtime that takes memory itself each counts as the memory that it takes: 16 MiB are set
 * aside for each of the six. */
static void the_stock_is_smaller_where_a_runtime_takes_memory(void **state)
{
    (void)state;
    struct rig rig;
    struct engine_info info;
    struct pool_stats stats;
    struct err err = ERR_INIT;
    open_with(&rig, 0, 6);
    assert_ok(engine_probe(rig.engine, INT64_MAX, &info, &err), err);
    info.runtimes[0] = (struct engine_runtime){
        .name = "heavy", .capabilities = info.capabilities, .memory_bytes = 32 << 20};
    info.runtime_count = 1;
    engine_fake_set_info(rig.engine, &info);
    assert_ok(slot_info(&rig.core->slots[0], 0, INT64_MAX, &info, &err), err);
    for (int i = 0; i < 12; i++) {
        struct execution_request request = {.code = "out x\n"};
        expect(&rig, &request, "\"status\":\"success\"");
        pool_stats(rig.core->pool, &stats);
        assert_true(stats.wanted <= 2);
        assert_true(stats.ready + stats.filling <= 2);
    }
    wait_ready(&rig, 2);
    core_free(rig.core);
}

static void sessions_take_from_it(void **state)
{
    (void)state;
    struct rig rig;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    const char *const env[] = {"WHO=me"};
    open_with(&rig, 1, 2);
    wait_ready(&rig, 1);
    const struct session_request request = {
        .owner = CORE_OWNER_LOCAL, .lang = lang, .env = env, .env_count = 1, .gone_fd = -1};
    buf_init(&out, 1 << 20);
    assert_ok(core_session_create(rig.core, &request, &out, &err), err);
    assert_int_equal(hits_of(&rig), 1);
    const char *const own[] = {"PYTHONHASHSEED=0"}; /* acts only at the start */
    struct session_request other = request;
    other.env = own;
    wait_ready(&rig, 1);
    assert_ok(core_session_create(rig.core, &other, &out, &err), err);
    assert_int_equal(hits_of(&rig), 1);
    core_free(rig.core);
}

static void a_stop_leaves_none(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 3, 4);
    wait_ready(&rig, 3);
    int64_t end_ns = clock_now_ns() + HANG_NS;
    while (engine_fake_living(rig.engine) != 3) { /* one compiled the kernel */
        assert_true(clock_now_ns() < end_ns);
        (void)poll(NULL, 0, 1);
    }
    core_stop(rig.core);
    while (engine_fake_living(rig.engine) > 0) {
        assert_true(clock_now_ns() < end_ns);
        (void)poll(NULL, 0, 1);
    }
    core_free(rig.core);
}

static void a_language_that_does_not_start(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 0, 2);
    engine_fake_inject(rig.engine, FAKE_FAULT_KERNEL_FAILS, 1);
    struct execution_request request = {.code = "out x\n"};
    expect(&rig, &request, "\"stdout\":\"x\\n\""); /* as a program */
    core_free(rig.core);
}

/* Where limits can't be changed, a request with its own gets a sandbox of its own, and the stock
 * stays for all others. */
static void what_cannot_change_is_left_on_its_shelf(void **state)
{
    (void)state;
    struct rig rig;
    struct engine_create made;
    struct execution_request own = {.code = "out x\n", .memory_bytes = 64 << 20};
    struct execution_request plain = {.code = "out x\n"};
    (void)setenv("BERTH_FAKE_LACKS", "limit", 1);
    open_with(&rig, 2, 4);
    (void)unsetenv("BERTH_FAKE_LACKS");
    wait_ready(&rig, 2);
    expect(&rig, &own, "\"success\"");
    engine_fake_last_create(rig.engine, &made);
    assert_int_equal(made.memory_bytes, 64 << 20);
    own.memory_bytes = 0;
    own.cpu_millis = 500;
    expect(&rig, &own, "\"success\"");
    assert_int_equal(hits_of(&rig), 0);
    assert_int_equal(rig.core->metrics.pool_discarded, 0);
    assert_int_equal(ready_of(&rig), 2);
    expect(&rig, &plain, "\"success\"");
    assert_int_equal(hits_of(&rig), 1);
    core_free(rig.core);
}

/* What stands ready of an image is made anew when its name means another one. */
static void a_name_that_means_another_image_is_heard_of(void **state)
{
    (void)state;
    struct rig rig;
    struct engine_info info;
    struct err err = ERR_INIT;
    struct execution_request request = {.code = "out x\n", .image = "debian"};
    open_with(&rig, 0, 4);
    rig.core->image_look_ns = CLOCK_NS_PER_MS;
    assert_ok(engine_probe(rig.engine, INT64_MAX, &info, &err), err);
    (void)snprintf(info.image_ids, sizeof(info.image_ids), "- first");
    engine_fake_set_info(rig.engine, &info);
    assert_ok(slot_info(&rig.core->slots[0], 0, INT64_MAX, &info, &err), err);
    char image_id[ENGINE_IMAGE_ID_MAX];
    plan_image_id(&info, "debian", image_id);
    assert_string_equal(image_id, "first");
    plan_image_id(&info, "host", image_id);
    assert_string_equal(image_id, "");
    plan_image_id(&info, "other", image_id);
    assert_string_equal(image_id, "");
    expect(&rig, &request, "\"success\"");
    wait_ready(&rig, 1);
    uint64_t made = rig.core->slots[0].sandboxes_created;
    (void)snprintf(info.image_ids, sizeof(info.image_ids), "- second");
    engine_fake_set_info(rig.engine, &info);
    while (rig.core->slots[0].sandboxes_created == made)
        (void)poll(NULL, 0, 1);
    wait_ready(&rig, 1);
    expect(&rig, &request, "\"success\"");
    assert_int_equal(hits_of(&rig), 1);
    core_free(rig.core);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, rig_make_folder, rig_remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(each_is_used_once),
        TEST(figures_are_set_when_it_is_taken),
        TEST(limits_that_are_refused_cost_one),
        TEST(an_engine_that_is_away_costs_one),
        TEST(each_kind_has_its_own),
        TEST(what_was_asked_for_once_makes_room),
        TEST(one_that_dies_unheard_is_replaced),
        TEST(one_that_dies_before_it_is_a_session_is_replaced),
        TEST(others_are_made_now),
        TEST(the_stock_follows_demand),
        TEST(the_stock_is_smaller_where_a_runtime_takes_memory),
        TEST(sessions_take_from_it),
        TEST(a_stop_leaves_none),
        TEST(a_language_that_does_not_start),
        TEST(a_name_that_means_another_image_is_heard_of),
        TEST(what_cannot_change_is_left_on_its_shelf),
    };
    return cmocka_run_group_tests_name("core_pool", tests, NULL, NULL);
}
