/* Several engines in one core, two fakes: which one a request gets, what each can, one that is
 * away, what an engine says of its own, and what a later server finds. */
#include "check.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "core/core_internal.h"
#include "core/engines.h"
#include "core/languages.h"
#include "core/pool.h"
#include "core/session.h"
#include "core/session_internal.h"
#include "core_rig.h"
#include "engine/fake.h"
#include "lang/lang.h"
#include "whole.h"

static const char *const names[] = {"first", "second"};

struct two {
    struct core *core;
    struct engine *engines[2];
};

static struct core_config config_of_two(void)
{
    struct core_config config = rig_config();
    config.engines = names;
    config.engine_count = 2;
    return config;
}

/* The second has the runtimes plain and lesser. */
static void give_engine(struct two *two, size_t index)
{
    struct engine_events events;
    struct err err = ERR_INIT;
    core_engine_events(two->core, index, &events);
    if (index > 0)
        (void)setenv("BERTH_FAKE_RUNTIMES", "plain lesser", 1);
    assert_ok(engine_fake_new(&events, &two->engines[index], &err), err);
    (void)unsetenv("BERTH_FAKE_RUNTIMES");
    assert_ok(core_set_engine(two->core, index, two->engines[index], &err), err);
}

static void open_two(struct two *two, const struct core_config *config)
{
    struct err err = ERR_INIT;
    *two = (struct two){0};
    assert_ok(core_new(config, &two->core, &err), err);
    for (size_t i = 0; i < config->engine_count; i++)
        give_engine(two, i);
}

static struct execution_request request_of(const char *code)
{
    const struct lang *lang = NULL;
    assert_int_equal(lang_find("python", &lang, NULL), 0);
    return (struct execution_request){.owner = CORE_OWNER_LOCAL,
                                      .lang = lang,
                                      .code = code,
                                      .code_size = strlen(code),
                                      .gone_fd = -1};
}

static void expect(struct two *two, const struct execution_request *request,
                   const char *const *parts)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    assert_ok(whole_execute(two->core, request, NULL, false, &out, &err), err);
    rig_assert_parts(request->code, buf_cstr(&out), parts);
}
#define EXPECT(two, request, ...) expect(two, request, (const char *const[]){__VA_ARGS__, NULL})

static void refused(struct two *two, const struct execution_request *request, enum err_kind kind,
                    const char *const *parts)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    assert_fails(whole_execute(two->core, request, NULL, false, &out, &err), kind, err);
    rig_assert_parts("a refusal", err.public_message, parts);
}
#define REFUSED(two, request, kind, ...)                                                           \
    refused(two, request, kind, (const char *const[]){__VA_ARGS__, NULL})

static uint64_t made_by(struct two *two, size_t index)
{
    return two->core->slots[index].sandboxes_created;
}

static void a_request_gets_the_engine_that_it_names(void **state)
{
    (void)state;
    const struct core_config config = config_of_two();
    struct two two;
    open_two(&two, &config);
    struct execution_request request = request_of("out x\n");
    EXPECT(&two, &request, "\"engine\":\"first\"", "\"runtime\":null", "\"stdout\":\"x\\n\"");
    request.engine = "second";
    EXPECT(&two, &request, "\"engine\":\"second\"", "\"runtime\":\"plain\"");
    request.runtime = "lesser";
    EXPECT(&two, &request, "\"engine\":\"second\"", "\"runtime\":\"lesser\"");
    struct engine_create spec;
    engine_fake_last_create(two.engines[1], &spec);
    assert_string_equal(spec.runtime, "lesser");
    assert_string_equal(spec.image, "host");
    assert_int_equal(made_by(&two, 0), 1);
    assert_int_equal(made_by(&two, 1), 2);
    request.engine = "third";
    REFUSED(&two, &request, ERR_BAD_INPUT, "engine: ", "\"third\"", "first, second");
    request.engine = "second";
    request.runtime = "most";
    REFUSED(&two, &request, ERR_BAD_INPUT, "runtime: ", "\"most\"", "plain, lesser");
    request.engine = NULL; /* the first, which names no runtimes */
    REFUSED(&two, &request, ERR_BAD_INPUT, "runtime: ", "first", "no choice");
    core_free(two.core);
}

static void families_have_defaults(void **state)
{
    (void)state;
    struct core_config config = config_of_two();
    config.engine_execute = "second/lesser";
    struct two two;
    open_two(&two, &config);
    BUF_AUTO struct buf listed;
    buf_init(&listed, 1 << 20);
    assert_int_equal(core_engines_json(two.core, false, &listed, NULL), 0);
    rig_assert_parts(
        "engines", buf_cstr(&listed),
        (const char *const[]){"{\"name\":\"second\",\"status\":\"ok\",\"default\":true",
                              "{\"name\":\"first\",\"status\":\"ok\",\"default\":false", NULL});
    struct execution_request request = request_of("out x\n");
    EXPECT(&two, &request, "\"engine\":\"second\"", "\"runtime\":\"lesser\"");
    request.engine = "second"; /* no way out of the runtime that the operator chose */
    EXPECT(&two, &request, "\"runtime\":\"lesser\"");
    request.runtime = "plain";
    EXPECT(&two, &request, "\"runtime\":\"plain\"");
    request.engine = "first";
    request.runtime = NULL;
    EXPECT(&two, &request, "\"engine\":\"first\"");
    char id[ID_UUID_SIZE];
    const struct session_request session = {
        .owner = CORE_OWNER_LOCAL, .lang = request.lang, .gone_fd = -1};
    rig_make_session(two.core, &session, id);
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_int_equal(core_session_get(two.core, CORE_OWNER_LOCAL, id, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"engine\":\"first\",\"runtime\":null"));
    core_free(two.core);
}

static void the_operator_may_keep_the_choice(void **state)
{
    (void)state;
    struct core_config config = config_of_two();
    config.engine_choice = false;
    config.engine_sessions = "second";
    struct two two;
    open_two(&two, &config);
    struct execution_request request = request_of("out x\n");
    EXPECT(&two, &request, "\"engine\":\"first\"");
    request.engine = "first"; /* as without it */
    EXPECT(&two, &request, "\"engine\":\"first\"");
    request.engine = "second";
    REFUSED(&two, &request, ERR_FORBIDDEN, "engine: ", "BERTH_ENGINE_CHOICE");
    request.engine = NULL;
    request.runtime = "lesser";
    REFUSED(&two, &request, ERR_FORBIDDEN, "runtime: ", "BERTH_ENGINE_CHOICE");
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    const struct session_request session = {
        .owner = CORE_OWNER_LOCAL, .lang = request.lang, .engine = "first", .gone_fd = -1};
    assert_fails(core_session_create(two.core, &session, &out, &err), ERR_FORBIDDEN, err);
    core_free(two.core);
}

/* What the host can and the runtime can't is refused by name. */
static void a_runtime_has_its_own_capabilities(void **state)
{
    (void)state;
    struct core_config config = config_of_two();
    config.layers_max = 4;
    config.layers_max_bytes = 1 << 20;
    config.layers_grace_ms = 3600000;
    config.layers_timeout_ms = 10000;
    config.layers_memory_bytes = 64 << 20;
    config.layers_storage_bytes = 64 << 20;
    struct two two;
    open_two(&two, &config);
    const char *const libraries[] = {"numpy"};
    struct execution_request request = request_of("out x\n");
    request.engine = "second";
    request.profile = "container";
    EXPECT(&two, &request, "\"runtime\":\"plain\"");
    request.runtime = "lesser";
    REFUSED(&two, &request, ERR_UNSUPPORTED, "profile: ");
    request.profile = NULL;
    struct lang lang = *request.lang; /* whose installer is a script of the fake's */
    memset(lang.prefer, 0, sizeof(lang.prefer));
    memset(lang.install, 0, sizeof(lang.install));
    lang.install[0] = "script";
    lang.install[1] = "out installed\n";
    request.lang = &lang;
    request.libraries = libraries;
    request.library_count = 1;
    REFUSED(&two, &request, ERR_UNSUPPORTED, "libraries: ", "second", "lesser");
    request.runtime = NULL;
    EXPECT(&two, &request, "\"runtime\":\"plain\"", "\"status\":\"success\"");
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_int_equal(core_layers_list(two.core, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"engine\":\"second\""));
    /* Another engine has none of these layers. */
    request.engine = "first";
    EXPECT(&two, &request, "\"engine\":\"first\"", "\"status\":\"success\"");
    assert_int_equal(two.core->metrics.layers_built, 2);
    core_free(two.core);
}

static void one_that_is_away_stops_no_other(void **state)
{
    (void)state;
    const struct core_config config = config_of_two();
    struct two two = {0};
    struct err err = ERR_INIT;
    assert_ok(core_new(&config, &two.core, &err), err);
    give_engine(&two, 0); /* and no second one */
    struct execution_request request = request_of("out x\n");
    EXPECT(&two, &request, "\"engine\":\"first\"");
    request.engine = "second";
    REFUSED(&two, &request, ERR_UNAVAILABLE, "engine");
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_ok(core_engines_json(two.core, false, &out, &err), err);
    rig_assert_parts("engines", buf_cstr(&out),
                     (const char *const[]){"{\"name\":\"first\",\"status\":\"ok\",\"default\":true",
                                           "{\"name\":\"second\",\"status\":\"down\"", NULL});
    give_engine(&two, 1);
    EXPECT(&two, &request, "\"engine\":\"second\"");
    core_free(two.core);
}

/* What an engine said of itself a while ago counts no more once it says that it can make nothing:
 * it is asked again, and comes back by itself. */
static void one_that_can_make_nothing_says_so(void **state)
{
    (void)state;
    const struct core_config config = config_of_two();
    struct two two;
    struct engine_info info;
    struct err err = ERR_INIT;
    open_two(&two, &config);
    struct execution_request request = request_of("out x\n");
    request.engine = "second";
    EXPECT(&two, &request, "\"engine\":\"second\"");
    assert_ok(engine_probe(two.engines[1], INT64_MAX, &info, &err), err);
    const struct engine_info before = info;
    (void)snprintf(info.unavailable, sizeof(info.unavailable), "the daemon is down");
    engine_fake_set_info(two.engines[1], &info);
    assert_ok(slot_info(&two.core->slots[1], 0, INT64_MAX, &info, &err), err);
    REFUSED(&two, &request, ERR_UNAVAILABLE, "the daemon is down");
    request.engine = "first";
    EXPECT(&two, &request, "\"engine\":\"first\"");
    engine_fake_set_info(two.engines[1], &before);
    two.core->slots[1].info_ns -= 2 * CLOCK_NS_PER_S;
    request.engine = "second";
    EXPECT(&two, &request, "\"engine\":\"second\"");
    core_free(two.core);
}

static void what_died_of_its_memory_is_said(void **state)
{
    (void)state;
    const struct core_config config = config_of_two();
    struct two two;
    struct err err = ERR_INIT;
    char id[ID_UUID_SIZE];
    open_two(&two, &config);
    struct execution_request request = request_of("out x\nfault dies-of-memory\n");
    request.engine = "second";
    EXPECT(&two, &request, "\"status\":\"killed\"", "\"killed_by\":\"oom\"",
           "\"limits_hit\":[\"memory\"]", "\"exit_code\":137");
    request = request_of("fault dies\n");
    EXPECT(&two, &request, "\"killed_by\":\"server\"", "\"limits_hit\":[]");
    const struct session_request session = {
        .owner = CORE_OWNER_LOCAL, .lang = request.lang, .engine = "second", .gone_fd = -1};
    rig_make_session(two.core, &session, id);
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    const char code[] = "fault dies-of-memory\n";
    const struct session_execution run = {
        .owner = CORE_OWNER_LOCAL, .session_id = id, .code = code, .code_size = strlen(code)};
    assert_ok(whole_session_execute(two.core, &run, NULL, false, &out, &err), err);
    rig_assert_parts("a session", buf_cstr(&out),
                     (const char *const[]){"\"killed_by\":\"oom\"", "\"limits_hit\":[\"memory\"]",
                                           "\"state\":\"lost\"", "\"engine\":\"second\"", NULL});
    out.size = 0;
    assert_fails(core_session_get(two.core, CORE_OWNER_LOCAL, id, &out, &err), ERR_NOT_FOUND, err);
    core_free(two.core);
}

/* An engine that speaks of another one's sandbox is not believed, nor listed for it. */
static void an_engine_speaks_of_its_own(void **state)
{
    (void)state;
    const struct core_config config = config_of_two();
    struct two two;
    struct err err = ERR_INIT;
    char id[ID_UUID_SIZE];
    char sandbox_id[STORE_ID_SIZE];
    open_two(&two, &config);
    const struct execution_request request = request_of("");
    const struct session_request asked = {
        .owner = CORE_OWNER_LOCAL, .lang = request.lang, .gone_fd = -1};
    rig_make_session(two.core, &asked, id);
    (void)snprintf(sandbox_id, sizeof(sandbox_id), "%s", two.core->sessions->row.sandbox_id);
    box_on_gone(two.core, &two.core->slots[1], sandbox_id, KILL_NONE);
    box_on_destroyed(two.core, &two.core->slots[1], sandbox_id);
    assert_ok(box_reconcile(two.core, &two.core->slots[1], &err), err);
    assert_int_equal(engine_fake_living(two.engines[0]), 1);
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_ok(core_session_get(two.core, CORE_OWNER_LOCAL, id, &out, &err), err);
    /* One of that name which it really has is nobody's. */
    const struct engine_create spec = {.image = "host", .profile = "strict"};
    struct engine_create same = spec;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    int fd = -1;
    (void)snprintf(same.id, sizeof(same.id), "%.64s", sandbox_id);
    assert_ok(engine_create(two.engines[1], &same, INT64_MAX, &fd, nonce, &err), err);
    assert_ok(box_reconcile(two.core, &two.core->slots[1], &err), err);
    while (engine_fake_living(two.engines[1]) > 0)
        (void)poll(NULL, 0, 1);
    assert_int_equal(engine_fake_living(two.engines[0]), 1);
    fd_close(&fd);
    core_free(two.core);
}

static void write_session(const char *engine, const char *id, const char *sandbox_id,
                          int64_t lifetime_us)
{
    struct store *store = NULL;
    struct err err = ERR_INIT;
    struct store_session row = {.owner = CORE_OWNER_LOCAL,
                                .lang = "python",
                                .image = "host",
                                .profile = "strict",
                                .runtime = "plain",
                                .reserve_memory_bytes = 32 << 20,
                                .created_us = 1,
                                .lifetime_us = lifetime_us};
    (void)snprintf(row.id, sizeof(row.id), "%s", id);
    (void)snprintf(row.engine, sizeof(row.engine), "%s", engine);
    (void)snprintf(row.sandbox_id, sizeof(row.sandbox_id), "%s", sandbox_id);
    const struct core_config config = rig_config();
    assert_ok(store_open(config.db_path, &store, &err), err);
    assert_ok(store_session_insert(store, &row, NULL, &err), err);
    store_close(store);
}

static unsigned living(struct two *two)
{
    struct admission_stats stats;
    admission_stats(two->core->admission, &stats);
    return stats.living;
}

/* Of an engine that the server was started without a session is kept, and says why nothing runs. */
static void a_session_waits_for_its_engine(void **state)
{
    (void)state;
    static const char id[] = "11111111-2222-4333-8444-555555555555";
    static const char other[] = "11111111-2222-4333-8444-666666666666";
    struct core_config config = config_of_two();
    struct two two;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    static const char over[] = "11111111-2222-4333-8444-777777777777";
    write_session("third", id, "aaaa", 0);
    write_session("second", other, "bbbb", 0); /* whose sandbox is gone */
    write_session("third", over, "cccc", 2);   /* nobody else says that its time is over */
    open_two(&two, &config);
    while (core_session_get(two.core, CORE_OWNER_LOCAL, other, &out, NULL) == 0 ||
           core_session_get(two.core, CORE_OWNER_LOCAL, over, &out, NULL) == 0)
        (void)poll(NULL, 0, 1);
    assert_int_equal(two.core->metrics.sessions_ended[SESSION_END_TIMEOUT], 1);
    out.size = 0;
    assert_ok(core_session_get(two.core, CORE_OWNER_LOCAL, id, &out, &err), err);
    rig_assert_parts("a session", buf_cstr(&out),
                     (const char *const[]){"\"engine\":\"third\",\"runtime\":\"plain\"", NULL});
    const struct session_execution run = {
        .owner = CORE_OWNER_LOCAL, .session_id = id, .code = "", .code_size = 0};
    assert_fails(whole_session_execute(two.core, &run, NULL, false, &out, &err), ERR_UNAVAILABLE,
                 err);
    assert_non_null(strstr(err.public_message, "BERTH_ENGINES"));
    while (living(&two) > 0) /* the other one's place comes back, this one holds none */
        (void)poll(NULL, 0, 1);
    assert_ok(core_session_delete(two.core, CORE_OWNER_LOCAL, id, &out, &err), err);
    assert_int_equal(living(&two), 0);
    core_free(two.core);
}

static unsigned ready_in(struct two *two)
{
    struct pool_stats stats;
    pool_stats(two->core->pool, &stats);
    return stats.ready;
}

/* A shelf serves its engine and its runtime. */
static void the_pool_knows_engines(void **state)
{
    (void)state;
    struct core_config config = config_of_two();
    config.pool_min = 1;
    config.pool_max = 8;
    struct two two;
    open_two(&two, &config);
    while (ready_in(&two) < 1)
        (void)poll(NULL, 0, 1);
    struct execution_request request = request_of("out x\n");
    request.engine = "second";
    EXPECT(&two, &request, "\"engine\":\"second\"", "\"runtime\":\"plain\"");
    assert_int_equal(two.core->metrics.pool_hits, 0);
    while (ready_in(&two) < 2) /* one of that kind as well */
        (void)poll(NULL, 0, 1);
    request.runtime = "lesser";
    EXPECT(&two, &request, "\"runtime\":\"lesser\"");
    assert_int_equal(two.core->metrics.pool_hits, 0);
    request.runtime = NULL;
    EXPECT(&two, &request, "\"runtime\":\"plain\"");
    assert_int_equal(two.core->metrics.pool_hits, 1);
    request.engine = NULL;
    EXPECT(&two, &request, "\"engine\":\"first\"");
    assert_int_equal(two.core->metrics.pool_hits, 2);
    core_free(two.core);
}

struct waiting {
    struct core *core;
    int gone_fd;
    int result;
    _Atomic bool over;
};

static void *wait_for_second(void *context)
{
    struct waiting *waiting = context;
    const struct reservation all = {.memory_bytes = 30, .engine = 1};
    waiting->result =
        admission_acquire(waiting->core->admission, &all, clock_now_ns() + 60 * CLOCK_NS_PER_S, -1,
                          waiting->gone_fd, NULL);
    waiting->over = true;
    return NULL;
}

static void say_gone(const struct waiting *waiting, pthread_t thread)
{
    const uint64_t one = 1;
    assert_false(waiting->over);
    assert_int_equal(write(waiting->gone_fd, &one, sizeof(one)), sizeof(one));
    (void)pthread_join(thread, NULL);
    assert_true(waiting->result != 0);
    (void)close(waiting->gone_fd);
}

/* Who waits for what one engine has takes nothing from the pool of another. */
static void a_full_engine_leaves_the_pool_of_another(void **state)
{
    (void)state;
    struct core_config config = config_of_two();
    config.pool_min = 1;
    config.pool_max = 8;
    struct two two;
    struct admission_stats stats = {0};
    const struct reservation all = {.memory_bytes = 30, .engine = 1};
    pthread_t thread;
    open_two(&two, &config);
    while (ready_in(&two) < 1)
        (void)poll(NULL, 0, 1);
    admission_set_budget(two.core->admission, &all);
    assert_int_equal(admission_acquire(two.core->admission, &all, clock_now_ns(), -1, -1, NULL), 0);
    admission_created(two.core->admission);
    struct waiting waiting = {.core = two.core, .gone_fd = eventfd(0, EFD_CLOEXEC)};
    assert_int_equal(pthread_create(&thread, NULL, wait_for_second, &waiting), 0);
    while (stats.waiting == 0)
        admission_stats(two.core->admission, &stats);
    for (int i = 0; i < 3; i++) {
        const struct execution_request request = request_of("out x\n");
        EXPECT(&two, &request, "\"engine\":\"first\"");
        while (ready_in(&two) < 1)
            (void)poll(NULL, 0, 1);
    }
    assert_int_equal(two.core->metrics.pool_hits, 3);
    say_gone(&waiting, thread);
    admission_release(two.core->admission, &all);
    core_free(two.core);
}

static int ask_languages(struct core *core, const char *engine, int gone_fd)
{
    const struct languages_ask ask = {.engine = engine};
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    return core_languages_json(core, &ask, gone_fd, &out, NULL);
}

static void *ask_second(void *context)
{
    struct waiting *waiting = context;
    waiting->result = ask_languages(waiting->core, "second", waiting->gone_fd);
    waiting->over = true;
    return NULL;
}

/* One that makes nothing keeps those who ask another from nothing, and who left does not wait. */
static void languages_are_asked_of_each(void **state)
{
    (void)state;
    const struct core_config config = config_of_two();
    struct two two;
    pthread_t thread;
    open_two(&two, &config);
    two.core->create_budget_ns = 20 * CLOCK_NS_PER_S;
    engine_fake_inject(two.engines[1], FAKE_FAULT_CREATE_HANGS, 1);
    struct waiting waiting = {.core = two.core, .gone_fd = eventfd(0, EFD_CLOEXEC)};
    assert_int_equal(pthread_create(&thread, NULL, ask_second, &waiting), 0);
    for (bool asks = false; !asks;) {
        (void)pthread_mutex_lock(&two.core->lock);
        asks = two.core->lives != NULL;
        (void)pthread_mutex_unlock(&two.core->lock);
    }
    assert_int_equal(ask_languages(two.core, "first", -1), 0);
    int gone_fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(ask_languages(two.core, "second", gone_fd), -ERR_UNAVAILABLE);
    (void)close(gone_fd);
    say_gone(&waiting, thread);
    assert_int_equal(ask_languages(two.core, "second", -1), 0);
    core_free(two.core);
}

/* An engine that has roots on disk only gets them, from the pool too. */
static void roots_may_be_on_disk_only(void **state)
{
    (void)state;
    struct core_config config = config_of_two();
    config.pool_min = 0;
    config.pool_max = 4;
    struct two two;
    struct engine_info info;
    struct engine_create spec;
    struct err err = ERR_INIT;
    open_two(&two, &config);
    assert_ok(engine_probe(two.engines[1], INT64_MAX, &info, &err), err);
    info.storage_bytes = 0;
    engine_fake_set_info(two.engines[1], &info);
    assert_ok(slot_info(&two.core->slots[1], 0, INT64_MAX, &info, &err), err);
    struct execution_request request = request_of("out x\n");
    request.engine = "second";
    EXPECT(&two, &request, "\"status\":\"success\"");
    while (ready_in(&two) < 1)
        (void)poll(NULL, 0, 1);
    engine_fake_last_create(two.engines[1], &spec);
    assert_true(spec.disk);
    assert_int_equal(spec.storage_bytes, config.storage_bytes);
    EXPECT(&two, &request, "\"status\":\"success\"");
    assert_int_equal(two.core->metrics.pool_hits, 1);
    request.storage_bytes = 128 << 20; /* it keeps the size that it was made with */
    EXPECT(&two, &request, "\"status\":\"success\"");
    assert_int_equal(two.core->metrics.pool_hits, 1);
    /* A disk of no known size is not in the budget, and a small host has its own. */
    struct admission_stats before;
    admission_stats(two.core->admission, &before);
    info.disk_bytes = ENGINE_DISK_UNKNOWN;
    info.memory_bytes = 1 << 30;
    engine_fake_set_info(two.engines[1], &info);
    assert_ok(slot_info(&two.core->slots[1], 0, INT64_MAX, &info, &err), err);
    EXPECT(&two, &request, "\"status\":\"success\"");
    BUF_AUTO struct buf text;
    buf_init(&text, 1 << 20);
    assert_ok(core_engines_json(two.core, false, &text, &err), err);
    rig_assert_parts("engines", buf_cstr(&text),
                     (const char *const[]){"\"disk_bytes\":null", NULL});
    /* Where nobody holds them to their size, they are on a disk that is not counted. */
    struct admission_stats stats;
    info.capabilities &= ~ENGINE_CAP_STORAGE;
    info.runtimes[0].capabilities &= ~ENGINE_CAP_STORAGE;
    info.disk_bytes = UINT64_C(1) << 50;
    engine_fake_set_info(two.engines[1], &info);
    assert_ok(slot_info(&two.core->slots[1], 0, INT64_MAX, &info, &err), err);
    admission_stats(two.core->admission, &stats);
    assert_int_equal(stats.budget.disk_bytes, before.budget.disk_bytes);
    assert_int_equal(stats.budget.memory_bytes, before.budget.memory_bytes);
    REFUSED(&two, &request, ERR_UNSUPPORTED, "resources.storage");
    request.storage_bytes = 0;
    EXPECT(&two, &request, "\"status\":\"success\"");
    core_free(two.core);
}

static void all_of_it_can_be_read(void **state)
{
    (void)state;
    struct core_config config = config_of_two();
    config.engine_sessions = "second/lesser";
    struct two two;
    struct err err = ERR_INIT;
    open_two(&two, &config);
    struct execution_request request = request_of("out x\n");
    request.engine = "second";
    EXPECT(&two, &request, "\"status\":\"success\"");
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    assert_ok(core_engines_json(two.core, true, &out, &err), err);
    rig_assert_parts("engines", buf_cstr(&out),
                     (const char *const[]){"[{\"name\":\"first\"", ",{\"name\":\"second\"",
                                           "\"default\":false", "\"runtimes\":[]",
                                           "\"runtimes\":[{\"name\":\"plain\"",
                                           "{\"name\":\"lesser\"", "\"warning\":null",
                                           "\"images\":[\"host\",\"debian\"]", NULL});
    const char *lesser = strstr(buf_cstr(&out), "{\"name\":\"lesser\"");
    const char *lacks = strstr(lesser, "\"missing\":[");
    assert_non_null(lacks);
    assert_non_null(strstr(lacks, "\"layers\""));
    assert_true(strstr(lesser, "\"memory\"") < lacks);
    out.size = 0;
    assert_ok(core_engine_choice_json(two.core, &out, &err), err);
    assert_string_equal(buf_cstr(&out),
                        "{\"offered\":true,\"defaults\":{\"execute\":{\"engine\":\"first\","
                        "\"runtime\":null},\"sessions\":{\"engine\":\"second\","
                        "\"runtime\":\"lesser\"}}}");
    out.size = 0;
    assert_ok(core_metrics(two.core, &out, &err), err);
    rig_assert_parts("metrics", buf_cstr(&out),
                     (const char *const[]){"berth_engine_up{engine=\"first\"} 1\n",
                                           "berth_engine_up{engine=\"second\"} 1\n",
                                           "berth_engine_created_total{engine=\"first\"} 0\n",
                                           "berth_engine_created_total{engine=\"second\"} 1\n",
                                           NULL});
    /* Who only scrapes hears of an engine that can make nothing any more. */
    struct engine_info info;
    assert_ok(engine_probe(two.engines[1], INT64_MAX, &info, &err), err);
    (void)snprintf(info.unavailable, sizeof(info.unavailable), "the daemon is down");
    engine_fake_set_info(two.engines[1], &info);
    two.core->slots[1].info_ns -= 2 * CLOCK_NS_PER_S;
    out.size = 0;
    assert_ok(core_metrics(two.core, &out, &err), err);
    rig_assert_parts("metrics", buf_cstr(&out),
                     (const char *const[]){"berth_engine_up{engine=\"first\"} 1\n",
                                           "berth_engine_up{engine=\"second\"} 0\n", NULL});
    core_free(two.core);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, rig_make_folder, rig_remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(a_request_gets_the_engine_that_it_names),
        TEST(families_have_defaults),
        TEST(the_operator_may_keep_the_choice),
        TEST(a_runtime_has_its_own_capabilities),
        TEST(one_that_is_away_stops_no_other),
        TEST(one_that_can_make_nothing_says_so),
        TEST(what_died_of_its_memory_is_said),
        TEST(an_engine_speaks_of_its_own),
        TEST(a_session_waits_for_its_engine),
        TEST(the_pool_knows_engines),
        TEST(a_full_engine_leaves_the_pool_of_another),
        TEST(languages_are_asked_of_each),
        TEST(roots_may_be_on_disk_only),
        TEST(all_of_it_can_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
