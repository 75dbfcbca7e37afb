/* core: libraries of a request, on the fake engine: one build for a set, its failure, its end. */
#include "check.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "core/answer.h"
#include "core/core_internal.h"
#include "core/layers_internal.h"
#include "core/session_internal.h"
#include "core_rig.h"
#include "engine/engine.h"
#include "engine/fake.h"
#include "lang/lang.h"

#define HANG_NS (60 * CLOCK_NS_PER_S)

/* Its installer is a script of the fake; the requirements come behind it. */
static struct lang language = {.name = "python",
                               .source = "main.py",
                               .run = {"python3", "{source}"},
                               .kernel = "python.py",
                               .kernel_run = {"python3"},
                               .scripts = true,
                               .notation = REQUIREMENT_PIP,
                               .libraries_env = {"PYTHONPATH=/opt/libraries"}};

static struct core_config config_of(unsigned layers_max)
{
    struct core_config config = rig_config();
    config.layers_max = layers_max;
    config.layers_max_bytes = 1 << 20;
    config.layers_grace_ms = 3600000;
    config.layers_timeout_ms = 60000;
    config.layers_memory_bytes = 64 << 20;
    config.layers_storage_bytes = 64 << 20;
    return config;
}

static void open_with(struct rig *rig, unsigned layers_max, const char *installer)
{
    const struct core_config config = config_of(layers_max);
    language.install[0] = "script";
    language.install[1] = installer;
    rig_open(rig, &config);
}

static struct execution_request request_of(const char *code, const char *const *libraries)
{
    struct execution_request request = {.owner = "o",
                                        .lang = &language,
                                        .code = code,
                                        .code_size = strlen(code),
                                        .libraries = libraries,
                                        .gone_fd = -1};
    while (libraries[request.library_count])
        request.library_count++;
    return request;
}

/* Runs it and gives its object as text. */
static int run_text(struct core *core, const struct execution_request *request, char *out,
                    size_t size, struct err *err)
{
    ANSWER_AUTO struct answer answer = {0};
    int result = core_execute(core, request, NULL, false, &answer, err);
    if (result != 0)
        return result;
    BUF_AUTO struct buf text;
    buf_init(&text, 1 << 20);
    result = answer_rest(&answer, &text, err);
    (void)snprintf(out, size, "%s", buf_cstr(&text));
    return result;
}

static void run_ok(struct core *core, const char *code, const char *const *libraries, char *out,
                   size_t size)
{
    const struct execution_request request = request_of(code, libraries);
    struct err err = ERR_INIT;
    assert_ok(run_text(core, &request, out, size, &err), err);
}

static uint64_t built(struct core *core)
{
    return core->metrics.layers_built;
}

static struct layers_stats stats_of(struct core *core)
{
    struct layers_stats stats;
    layers_stats(core, &stats);
    return stats;
}

static void a_set_is_built_once(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    open_with(&rig, 8, "out installing\nenv SECRET");
    const char *const numpy[] = {"numpy==1.26", NULL};
    const char *const spelt[] = {"NumPy == 1.26", "numpy==1.26", NULL};
    const char *const other[] = {"numpy==1.25", NULL};
    run_ok(rig.core, "env PYTHONPATH\nout ran", numpy, text, sizeof(text));
    rig_assert_parts("the code ran", text,
                     (const char *const[]){"\"status\":\"success\"", "/opt/libraries", "ran\\n",
                                           "\"phase\":\"run\"", NULL});
    assert_null(strstr(text, "installing"));
    run_ok(rig.core, "out again", spelt, text, sizeof(text));
    assert_int_equal(built(rig.core), 1);
    run_ok(rig.core, "out other", other, text, sizeof(text));
    assert_int_equal(built(rig.core), 2);
    assert_int_equal(stats_of(rig.core).count, 2);
    /* Over a restart of the server too: the engine has kept them; this one's is another. */
    core_free(rig.core);
}

static void a_callers_path_comes_first(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    open_with(&rig, 8, "exit 0");
    const char *const libraries[] = {"numpy", NULL};
    const char *const env[] = {"PYTHONPATH=/own", "SECRET=1"};
    struct execution_request request = request_of("env PYTHONPATH", libraries);
    request.env = env;
    request.env_count = 2;
    struct err err = ERR_INIT;
    assert_ok(run_text(rig.core, &request, text, sizeof(text), &err), err);
    assert_non_null(strstr(text, "/own:/opt/libraries"));
    core_free(rig.core);
}

/* The installer sees neither the caller's variables nor files nor input. */
static void an_installer_gets_nothing_of_the_caller(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    open_with(&rig, 8, "env PIP_INDEX_URL\nenv PYTHONPATH\nstdin\ncat /workspace/pip.conf\nexit 4");
    const char *const libraries[] = {"numpy", NULL};
    const char *const env[] = {"PIP_INDEX_URL=http://poison/", "PYTHONPATH=/workspace"};
    const struct execution_file file = {
        .path = "pip.conf", .content = (const uint8_t *)"poison", .size = 6};
    struct execution_request request = request_of("out ran", libraries);
    request.env = env;
    request.env_count = 2;
    request.files = &file;
    request.file_count = 1;
    request.stdin_data = "poison";
    request.stdin_size = 6;
    struct err err = ERR_INIT;
    assert_ok(run_text(rig.core, &request, text, sizeof(text), &err), err);
    rig_assert_parts("the installer failed", text,
                     (const char *const[]){"\"status\":\"error\"", "\"phase\":\"install\"",
                                           "\"exit_code\":4", NULL});
    assert_null(strstr(text, "poison"));
    core_free(rig.core);
}

static void a_failure_is_an_outcome_and_no_layer(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    open_with(&rig, 8, "out looking\nerr ERROR: no such thing\nexit 3");
    const char *const libraries[] = {"numpy", NULL};
    for (unsigned i = 1; i <= 2; i++) { /* the next one tries again */
        run_ok(rig.core, "out ran", libraries, text, sizeof(text));
        rig_assert_parts("the installer's words", text,
                         (const char *const[]){"\"status\":\"error\"", "\"stdout\":\"looking\\n\"",
                                               "\"stderr\":\"ERROR: no such thing\\n\"",
                                               "\"exit_code\":3", "\"phase\":\"install\"",
                                               "\"killed_by\":null", NULL});
        assert_int_equal(rig.core->metrics.layers_failed, i);
    }
    assert_int_equal(stats_of(rig.core).count, 0);
    struct engine_layer *list = NULL;
    size_t count = 1;
    assert_int_equal(engine_layer_list(rig.engine, clock_now_ns() + HANG_NS, &list, &count, NULL),
                     0);
    assert_int_equal(count, 0);
    free(list);
    core_free(rig.core);
}

struct caller {
    struct core *core;
    const struct execution_request *request;
    int result;
    char text[4096];
};

static void *call(void *context)
{
    struct caller *caller = context;
    caller->result =
        run_text(caller->core, caller->request, caller->text, sizeof(caller->text), NULL);
    return NULL;
}

static void wait_for_builds(struct core *core, unsigned wanted)
{
    int64_t until_ns = clock_now_ns() + HANG_NS;
    while (stats_of(core).building != wanted && clock_now_ns() < until_ns)
        clock_sleep_ns(CLOCK_NS_PER_MS);
    assert_int_equal(stats_of(core).building, wanted);
}

/* Until what is listed has these words. */
static void wait_for_words(struct core *core, const char *words)
{
    int64_t until_ns = clock_now_ns() + HANG_NS;
    for (bool found = false; !found; clock_sleep_ns(CLOCK_NS_PER_MS)) {
        BUF_AUTO struct buf list;
        buf_init(&list, 65536);
        assert_int_equal(core_layers_list(core, &list, NULL), 0);
        found = strstr(buf_cstr(&list), words) != NULL;
        assert_true(found || clock_now_ns() < until_ns);
    }
}

static void those_who_ask_meanwhile_wait(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 8, "sleep 300");
    const char *const libraries[] = {"numpy", NULL};
    const struct execution_request request = request_of("out ran", libraries);
    enum { CALLERS = 6 };
    struct caller callers[CALLERS];
    pthread_t threads[CALLERS];
    for (size_t i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){.core = rig.core, .request = &request};
        assert_int_equal(pthread_create(&threads[i], NULL, call, &callers[i]), 0);
    }
    for (size_t i = 0; i < CALLERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(callers[i].result, 0);
        assert_non_null(strstr(callers[i].text, "ran\\n"));
    }
    assert_int_equal(built(rig.core), 1);
    core_free(rig.core);
}

/* A layer is of what the image's name meant: other interpreters can't load its libraries. */
static void an_image_that_is_another_one_gets_its_own(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    struct engine_info info;
    struct err err = ERR_INIT;
    const char *const ids[] = {"- first", "- second"};
    const char *const libraries[] = {"numpy", NULL};
    struct execution_request request = request_of("out ran", libraries);
    request.image = "debian";
    open_with(&rig, 8, "exit 0");
    rig.core->image_look_ns = 0;
    assert_ok(engine_probe(rig.engine, INT64_MAX, &info, &err), err);
    for (unsigned i = 0; i < 4; i++) {
        (void)snprintf(info.image_ids, sizeof(info.image_ids), "%s", ids[i / 2]);
        engine_fake_set_info(rig.engine, &info);
        assert_ok(run_text(rig.core, &request, text, sizeof(text), &err), err);
        assert_int_equal(built(rig.core), 1 + i / 2);
    }
    core_free(rig.core);
}

struct session_caller {
    struct core *core;
    const char *id;
    int result;
};

static void *call_in_session(void *context)
{
    struct session_caller *caller = context;
    const char *const libraries[] = {"numpy"};
    const struct session_execution request = {.owner = "o",
                                              .session_id = caller->id,
                                              .code = "out x\n",
                                              .code_size = strlen("out x\n"),
                                              .libraries = libraries,
                                              .library_count = 1};
    ANSWER_AUTO struct answer answer = {0};
    caller->result = core_session_execute(caller->core, &request, NULL, false, &answer, NULL);
    return NULL;
}

/* What init would wait for its end by itself. */
static uint64_t idle_of(struct core *core, const char *id)
{
    struct session *session = NULL;
    struct channel *channel = NULL;
    struct sandbox_listed listed = {0};
    struct err err = ERR_INIT;
    assert_ok(session_find(core, NULL, id, &session, &err), err);
    assert_ok(session_open_channel(core, session, &channel, &err), err);
    assert_ok(channel_list(channel, clock_now_ns() + HANG_NS, &listed, &err), err);
    channel_close(channel);
    session_unref(core, session);
    return listed.idle_ms;
}

static void renew(struct core *core, const char *id, uint64_t idle_ms)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_ok(core_session_renew(core, "o", id, 0, idle_ms, &out, &err), err);
}

/* For init a session whose execution waits for a build is idle. Renewals count from its end on. */
static void a_renewal_does_not_end_what_waits(void **state)
{
    (void)state;
    struct rig rig;
    struct core_config config = config_of(8);
    const struct session_request request = {
        .owner = "o", .lang = &language, .idle_ms = 60000, .gone_fd = -1};
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE] = "";
    struct session_caller caller = {.core = NULL};
    pthread_t thread;
    config.sandboxes_max = 1; /* the session's: the build waits for its place */
    rig_open(&rig, &config);
    rig_make_session(rig.core, &request, id);
    caller = (struct session_caller){.core = rig.core, .id = id};
    assert_true(idle_of(rig.core, id) <= 60000);
    assert_int_equal(pthread_create(&thread, NULL, call_in_session, &caller), 0);
    wait_for_builds(rig.core, 1);
    assert_true(idle_of(rig.core, id) > 60000);
    renew(rig.core, id, 0);
    assert_true(idle_of(rig.core, id) > 600000);
    renew(rig.core, id, 600000);
    assert_true(idle_of(rig.core, id) > 600000);
    (void)pthread_mutex_lock(&rig.core->lock);
    for (const struct live *live = rig.core->lives; live; live = live->next) {
        if (live->of_session)
            memcpy(execution, live->id, sizeof(execution));
    }
    (void)pthread_mutex_unlock(&rig.core->lock);
    assert_true(live_cancel(rig.core, NULL, execution, KILL_USER));
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(caller.result, 0);
    assert_true(idle_of(rig.core, id) <= 600000);
    assert_true(idle_of(rig.core, id) > 60000);
    core_free(rig.core);
}

/* The first one leaves; the second one's build goes on. When that leaves too, it ends. */
static void a_build_goes_on_while_somebody_waits(void **state)
{
    (void)state;
    struct rig rig;
    open_with(&rig, 8, "sleep 50000");
    const char *const libraries[] = {"numpy", NULL};
    struct execution_request requests[2];
    struct caller callers[2];
    pthread_t threads[2];
    const uint64_t one = 1;
    for (size_t i = 0; i < 2; i++) {
        requests[i] = request_of("out ran", libraries);
        requests[i].gone_fd = eventfd(0, EFD_CLOEXEC);
        callers[i] = (struct caller){.core = rig.core, .request = &requests[i]};
        assert_int_equal(pthread_create(&threads[i], NULL, call, &callers[i]), 0);
    }
    wait_for_words(rig.core, "\"waiting\":2");
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(stats_of(rig.core).building, 1);
        assert_int_equal(write(requests[i].gone_fd, &one, sizeof(one)), sizeof(one));
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(callers[i].result, 0);
        assert_non_null(strstr(callers[i].text, "\"killed_by\":\"user\""));
        (void)close(requests[i].gone_fd);
    }
    wait_for_builds(rig.core, 0);
    assert_int_equal(stats_of(rig.core).count, 0);
    core_free(rig.core);
}

/* Until nobody uses it, not even the build that made it. */
static struct layer *take_out_unused(struct layers *layers)
{
    int64_t until_ns = clock_now_ns() + HANG_NS;
    for (;;) {
        (void)pthread_mutex_lock(&layers->lock);
        struct layer *layer = layers->list;
        bool unused = layer && layer->users == 0;
        if (unused)
            layers_unlink_locked(layers, layer);
        (void)pthread_mutex_unlock(&layers->lock);
        if (unused)
            return layer;
        assert_true(clock_now_ns() < until_ns);
        clock_sleep_ns(CLOCK_NS_PER_MS);
    }
}

/* A build that nobody waited for was too far to be stopped, and is entered while a second one of
 * the same set goes on. */
static void a_build_that_comes_second(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    open_with(&rig, 8, "sleep 300");
    const char *const libraries[] = {"numpy", NULL};
    const struct execution_request request = request_of("out ran", libraries);
    struct caller caller = {.core = rig.core, .request = &request};
    pthread_t thread;
    run_ok(rig.core, "out ran", libraries, text, sizeof(text));
    struct layer *first = take_out_unused(rig.core->layers);
    assert_int_equal(pthread_create(&thread, NULL, call, &caller), 0);
    wait_for_builds(rig.core, 1);
    struct layer *entered = layers_enter(rig.core, &first->row);
    assert_non_null(entered);
    layer_free(first);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(caller.result, 0);
    assert_non_null(strstr(caller.text, "ran\\n"));
    assert_int_equal(stats_of(rig.core).count, 1);
    struct engine_layer *list = NULL;
    size_t count = 0;
    assert_int_equal(engine_layer_list(rig.engine, clock_now_ns() + HANG_NS, &list, &count, NULL),
                     0);
    assert_int_equal(count, 1);
    assert_string_equal(list[0].name, layer_name(entered));
    free(list);
    core_free(rig.core);
}

/* What builds have on the disk at the same time is bounded. */
static void archives_are_bounded(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    struct err err = ERR_INIT;
    open_with(&rig, 8, "exit 0");
    const char *const libraries[] = {"numpy", NULL};
    const struct execution_request request = request_of("out ran", libraries);
    struct layers *layers = rig.core->layers;
    layers->spooled_bytes = 1 << 20; /* of others */
    assert_fails(run_text(rig.core, &request, text, sizeof(text), &err), ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "no room"));
    assert_true(err.retry_after_s > 0);
    wait_for_builds(rig.core, 0);
    assert_int_equal(layers->spooled_bytes, 1 << 20);
    layers->spooled_bytes = 0;
    run_ok(rig.core, "out ran", libraries, text, sizeof(text));
    wait_for_builds(rig.core, 0);
    assert_int_equal(layers->spooled_bytes, 0);
    core_free(rig.core);
}

static void the_least_used_go_first(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    open_with(&rig, 2, "exit 0");
    const char *const sets[][2] = {{"a", NULL}, {"b", NULL}, {"c", NULL}};
    run_ok(rig.core, "out 1", sets[0], text, sizeof(text));
    run_ok(rig.core, "out 1", sets[1], text, sizeof(text));
    run_ok(rig.core, "out 2", sets[0], text, sizeof(text)); /* b is the least used now */
    run_ok(rig.core, "out 1", sets[2], text, sizeof(text));
    assert_int_equal(built(rig.core), 3);
    assert_int_equal(stats_of(rig.core).count, 2);
    run_ok(rig.core, "out 3", sets[0], text, sizeof(text));
    assert_int_equal(built(rig.core), 3);
    run_ok(rig.core, "out 2", sets[1], text, sizeof(text));
    assert_int_equal(built(rig.core), 4);
    core_free(rig.core);
}

static void bytes_are_bounded(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    struct err err = ERR_INIT;
    struct core_config config = config_of(8);
    config.layers_max_bytes = 5; /* the fake's archives have some more */
    language.install[0] = "script";
    language.install[1] = "exit 0";
    rig_open(&rig, &config);
    const char *const libraries[] = {"numpy", NULL};
    const struct execution_request request = request_of("out ran", libraries);
    assert_fails(run_text(rig.core, &request, text, sizeof(text), &err), ERR_BAD_INPUT, err);
    assert_non_null(strstr(err.public_message, "libraries"));
    assert_int_equal(stats_of(rig.core).count, 0);
    core_free(rig.core);
}

/* Without keep_template a layer goes soon after its last use; with it, it stays. */
static void what_is_not_kept_goes(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    struct core_config config = config_of(8);
    config.layers_grace_ms = 1;
    language.install[0] = "script";
    language.install[1] = "exit 0";
    rig_open(&rig, &config);
    const char *const kept[] = {"kept", NULL};
    const char *const loose[] = {"loose", NULL};
    struct execution_request request = request_of("out ran", kept);
    request.keep_template = true;
    struct err err = ERR_INIT;
    assert_ok(run_text(rig.core, &request, text, sizeof(text), &err), err);
    run_ok(rig.core, "out ran", loose, text, sizeof(text));
    int64_t until_ns = clock_now_ns() + HANG_NS;
    while (stats_of(rig.core).count != 1 && clock_now_ns() < until_ns)
        clock_sleep_ns(CLOCK_NS_PER_MS);
    BUF_AUTO struct buf list;
    buf_init(&list, 65536);
    assert_ok(core_layers_list(rig.core, &list, &err), err);
    rig_assert_parts("what is left", buf_cstr(&list),
                     (const char *const[]){"[\"kept\"]", "\"keep_template\":true", NULL});
    assert_null(strstr(buf_cstr(&list), "loose"));
    core_free(rig.core);
}

/* One whose engine does not hear of its end has gone here at once, and there a little later. */
static void one_of_an_engine_that_is_away_goes_too(void **state)
{
    (void)state;
    struct rig rig;
    struct err err = ERR_INIT;
    char text[4096];
    char name[ENGINE_LAYER_NAME_MAX + 1];
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    open_with(&rig, 8, "exit 0");
    const char *const libraries[] = {"numpy", NULL};
    run_ok(rig.core, "out ran", libraries, text, sizeof(text));
    memcpy(name, rig.core->layers->list->row.name, sizeof(name));
    engine_fake_inject(rig.engine, FAKE_FAULT_LAYER_AWAY, 1);
    assert_ok(core_layer_remove(rig.core, name, &out, &err), err);
    assert_int_equal(stats_of(rig.core).count, 0);
    int64_t until_ns = clock_now_ns() + HANG_NS;
    for (size_t count = 1; count > 0 && clock_now_ns() < until_ns;) {
        struct engine_layer *list = NULL;
        if (engine_layer_list(rig.engine, INT64_MAX, &list, &count, NULL) != 0)
            count = 1;
        free(list);
        clock_sleep_ns(CLOCK_NS_PER_MS);
    }
    assert_true(clock_now_ns() < until_ns);
    core_free(rig.core);
}

static void what_is_asked_for_wrongly(void **state)
{
    (void)state;
    struct rig rig;
    struct err err = ERR_INIT;
    char text[4096];
    open_with(&rig, 8, "exit 0");
    const char *const wrong[] = {"numpy", "--index-url=http://x/", NULL};
    struct execution_request request = request_of("out ran", wrong);
    assert_fails(run_text(rig.core, &request, text, sizeof(text), &err), ERR_BAD_INPUT, err);
    assert_non_null(strstr(err.public_message, "libraries[1]"));
    const char *const right[] = {"numpy", NULL};
    request = request_of("out ran", right);
    struct lang bare = language;
    bare.install[0] = NULL;
    request.lang = &bare;
    assert_fails(run_text(rig.core, &request, text, sizeof(text), &err), ERR_BAD_INPUT, err);
    core_free(rig.core);
    open_with(&rig, 0, "exit 0");
    request.lang = &language;
    assert_fails(run_text(rig.core, &request, text, sizeof(text), &err), ERR_UNSUPPORTED, err);
    core_free(rig.core);
}

/* The engine has layers of an earlier server, and lacks one of the store. */
static void a_new_server_agrees_with_the_engine(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    open_with(&rig, 8, "exit 0");
    const char *const libraries[] = {"numpy", NULL};
    run_ok(rig.core, "out ran", libraries, text, sizeof(text));
    core_free(rig.core);
    open_with(&rig, 8, "exit 0"); /* a new fake engine: it has none */
    int64_t until_ns = clock_now_ns() + HANG_NS;
    while (stats_of(rig.core).count != 0 && clock_now_ns() < until_ns)
        clock_sleep_ns(CLOCK_NS_PER_MS);
    assert_int_equal(stats_of(rig.core).count, 0);
    run_ok(rig.core, "out ran", libraries, text, sizeof(text));
    assert_int_equal(built(rig.core), 1);
    core_free(rig.core);
}

static void a_layer_that_was_taken_away(void **state)
{
    (void)state;
    struct rig rig;
    char text[4096];
    struct err err = ERR_INIT;
    open_with(&rig, 8, "exit 0");
    const char *const libraries[] = {"numpy", NULL};
    const struct execution_request request = request_of("out ran", libraries);
    run_ok(rig.core, "out ran", libraries, text, sizeof(text));
    struct engine_layer *list = NULL;
    size_t count = 0;
    assert_int_equal(engine_layer_list(rig.engine, clock_now_ns() + HANG_NS, &list, &count, NULL),
                     0);
    assert_int_equal(count, 1);
    assert_int_equal(engine_layer_remove(rig.engine, list[0].name, clock_now_ns() + HANG_NS, NULL),
                     0);
    free(list);
    assert_fails(run_text(rig.core, &request, text, sizeof(text), &err), ERR_UNAVAILABLE, err);
    assert_true(err.retry_after_s > 0);
    run_ok(rig.core, "out ran", libraries, text, sizeof(text));
    assert_int_equal(built(rig.core), 2);
    core_free(rig.core);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_make_folder, rig_remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(a_set_is_built_once),
        TEST(a_callers_path_comes_first),
        TEST(an_installer_gets_nothing_of_the_caller),
        TEST(a_failure_is_an_outcome_and_no_layer),
        TEST(those_who_ask_meanwhile_wait),
        TEST(an_image_that_is_another_one_gets_its_own),
        TEST(a_renewal_does_not_end_what_waits),
        TEST(a_build_goes_on_while_somebody_waits),
        TEST(a_build_that_comes_second),
        TEST(archives_are_bounded),
        TEST(the_least_used_go_first),
        TEST(bytes_are_bounded),
        TEST(what_is_not_kept_goes),
        TEST(one_of_an_engine_that_is_away_goes_too),
        TEST(what_is_asked_for_wrongly),
        TEST(a_new_server_agrees_with_the_engine),
        TEST(a_layer_that_was_taken_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
