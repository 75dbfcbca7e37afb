/* Executions on the fake engine: outcomes, concurrency, a full queue, cancellation, idempotency,
 * faults, and what a restart finds. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "core/core.h"
#include "core/core_internal.h"
#include "core_rig.h"
#include "engine/fake.h"
#include "lang/lang.h"
#include "whole.h"

static struct execution_request request_of(const char *code)
{
    const struct lang *lang = NULL;
    if (lang_find("python", &lang, NULL) != 0)
        abort();
    return (struct execution_request){.owner = CORE_OWNER_LOCAL,
                                      .lang = lang,
                                      .code = code,
                                      .code_size = strlen(code),
                                      .gone_fd = -1};
}

/* Runs code and returns the object's text, heap; NULL after an error, which is in *err. */
static char *run(struct core *core, const struct execution_request *request, struct err *err)
{
    struct buf out;
    buf_init(&out, 64 << 20);
    char *text = NULL;
    if (whole_execute(core, request, NULL, false, &out, err) == 0)
        text = strdup(buf_cstr(&out));
    buf_done(&out);
    return text;
}

static void expect(struct core *core, const char *code, const char *const *parts)
{
    struct err err = ERR_INIT;
    struct execution_request request = request_of(code);
    char *text = run(core, &request, &err);
    if (!text)
        fail_msg("%s: %s", code, err.message);
    rig_assert_parts(code, text, parts);
    free(text);
}

#define EXPECT(core, code, ...) expect(core, code, (const char *const[]){__VA_ARGS__, NULL})

static void outcomes(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct rig rig;
    rig_open(&rig, &config);
    EXPECT(rig.core, "out hello\nerr there\n", "\"status\":\"success\"", "\"stdout\":\"hello\\n\"",
           "\"stderr\":\"there\\n\"", "\"output\":\"hello\\nthere\\n\"", "\"exit_code\":0",
           "\"killed_by\":null", "\"limits_hit\":[]", "\"state\":null", "\"truncated\":false",
           "\"results\":[]", "\"error\":null", "\"usage\":{\"cpu_ms\":", "\"queue_ms\":",
           "\"create_ms\":", "\"execution_time_secs\":", "\"timestamp\":\"2");
    EXPECT(rig.core, "exit 7\n", "\"status\":\"error\"", "\"exit_code\":7");
    EXPECT(rig.core, "oom\n", "\"status\":\"killed\"", "\"killed_by\":\"oom\"",
           "\"limits_hit\":[\"memory\"]");
    EXPECT(rig.core, "signal 11\n", "\"status\":\"error\"", "\"killed_by\":\"signal\"",
           "\"exit_code\":139");
    EXPECT(rig.core, "flood 2000000\n", "\"status\":\"success\"", "\"truncated\":true",
           "\"limits_hit\":[\"output\"]", "\"stdout_bytes\":2000000");
    EXPECT(rig.core, "env PATH\nout \nenv HOME\nout \nenv PYTHONUNBUFFERED\n",
           "\"stdout\":\"/usr/local/bin:/usr/bin:/bin\\n/home/sandbox\\n1\"");
    core_free(rig.core);
}

static void requests_reach_the_code(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct rig rig;
    rig_open(&rig, &config);
    struct execution_request request =
        request_of("stdin\ncat data/a\nenv X\nenv HOME\nsleep 9999\n");
    const struct execution_file file = {"data/a", (const uint8_t *)"FILE", 4};
    const char *const env[] = {"X=1", "HOME=/elsewhere"};
    request.stdin_data = "IN";
    request.stdin_size = 2;
    request.files = &file;
    request.file_count = 1;
    request.env = env;
    request.env_count = 2;
    request.timeout_ms = 50;
    struct err err = ERR_INIT;
    char *text = run(rig.core, &request, &err);
    assert_non_null(text);
    assert_non_null(strstr(text, "\"stdout\":\"INFILE1/elsewhere\""));
    assert_non_null(strstr(text, "\"status\":\"timeout\""));
    assert_non_null(strstr(text, "\"killed_by\":\"timeout\""));
    free(text);
    core_free(rig.core);
}

static void more_than_the_host_is_refused_in_words(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct rig rig;
    rig_open(&rig, &config);
    struct execution_request bases[6];
    const char *const words[] = {"resources.ram",     "resources.ram", "resources.storage",
                                 "resources.storage", "resources.cpu", "timeout"};
    for (size_t i = 0; i < 6; i++)
        bases[i] = request_of("out x\n");
    bases[0].memory_bytes = UINT64_C(1) << 50;
    bases[1].memory_bytes = 1 << 20;
    bases[2].storage_bytes = UINT64_C(1) << 50;
    bases[3].storage_bytes = UINT64_C(65) << 30;
    bases[4].cpu_millis = 64000;
    bases[5].timeout_ms = 99999999;
    for (size_t i = 0; i < 6; i++) {
        struct err err = ERR_INIT;
        assert_null(run(rig.core, &bases[i], &err));
        assert_int_equal(err.kind, ERR_BAD_INPUT);
        assert_non_null(strstr(err.public_message, words[i]));
    }
    core_free(rig.core);
}

/* Nothing is reserved once the last sandbox has gone: each part came back once. */
static void expect_all_given_back(const struct rig *rig)
{
    struct admission_stats stats;
    for (;;) {
        admission_stats(rig->core->admission, &stats);
        if (stats.living == 0)
            break;
        (void)poll(NULL, 0, 2);
    }
    assert_int_equal(stats.creating, 0);
    assert_int_equal(stats.reserved.memory_bytes, 0);
    assert_int_equal(stats.reserved.disk_bytes, 0);
}

/* Runs request, which has to fail with this kind and this word in the client's message. */
static void expect_refused(const struct rig *rig, const struct execution_request *request,
                           enum err_kind kind, const char *word)
{
    struct err err = ERR_INIT;
    assert_null(run(rig->core, request, &err));
    if (err.kind != kind || !strstr(err.public_message, word))
        fail_msg("%s: %s; wanted %s", err_kind_name(err.kind), err.public_message, word);
}

static void profiles_and_images(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct rig rig;
    rig_open(&rig, &config);
    struct err err = ERR_INIT;
    struct execution_request request = request_of("out x\n");
    request.profile = "container";
    request.image = "debian";
    request.storage_bytes = UINT64_C(4) << 30; /* on disk */
    char *text = run(rig.core, &request, &err);
    assert_non_null(text);
    free(text);
    struct engine_create made;
    engine_fake_last_create(rig.engine, &made);
    assert_true(made.disk && !made.keep_files);
    assert_string_equal(made.image, "debian");
    assert_string_equal(made.profile, "container");
    assert_true(made.storage_bytes == UINT64_C(4) << 30);
    request = request_of("out x\n");
    text = run(rig.core, &request, &err);
    assert_non_null(text);
    free(text);
    engine_fake_last_create(rig.engine, &made);
    assert_false(made.disk);
    assert_string_equal(made.image, "host");
    assert_string_equal(made.profile, "strict");
    request = request_of("out x\n");
    request.profile = "root";
    expect_refused(&rig, &request, ERR_BAD_INPUT, "profile: expected");
    request = request_of("out x\n");
    request.image = "debia";
    expect_refused(&rig, &request, ERR_BAD_INPUT, "there is: host debian");
    request.image = "host debian";
    expect_refused(&rig, &request, ERR_BAD_INPUT, "image: ");
    request.image = "";
    expect_refused(&rig, &request, ERR_BAD_INPUT, "image: ");
    struct engine_info info;
    assert_int_equal(engine_probe(rig.engine, INT64_MAX, &info, NULL), 0);
    info.capabilities = ENGINE_CAP_MEMORY;
    (void)snprintf(info.missing, sizeof(info.missing), "no luck");
    (void)snprintf(info.images, sizeof(info.images), "host later");
    engine_fake_set_info(rig.engine, &info);
    slot_set_info(&rig.core->slots[0], &info);
    request = request_of("out x\n");
    request.profile = "container";
    expect_refused(&rig, &request, ERR_UNSUPPORTED, "no luck");
    request = request_of("out x\n");
    request.cpu_millis = 100;
    expect_refused(&rig, &request, ERR_UNSUPPORTED, "resources.cpu: this host can't enforce it");
    /* An image that came after the engine was asked is found by asking once more. */
    info.images[4] = '\0';
    slot_set_info(&rig.core->slots[0], &info);
    rig.core->slots[0].info_ns -= 2 * CLOCK_NS_PER_S;
    request = request_of("out x\n");
    request.image = "later";
    text = run(rig.core, &request, &err);
    assert_non_null(text);
    free(text);
    expect_all_given_back(&rig);
    core_free(rig.core);
}

/* What the engine says of a request reaches the client; a failure of its own does not. */
static void the_engines_words_reach_the_client(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct rig rig;
    rig_open(&rig, &config);
    const struct execution_request request = request_of("out x\n");
    struct err err = ERR_INIT;
    engine_fake_inject(rig.engine, FAKE_FAULT_UNPACKING, 1);
    assert_null(run(rig.core, &request, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    assert_string_equal(err.public_message, "the image is being unpacked; try again");
    assert_int_equal(err.retry_after_s, 7);
    engine_fake_inject(rig.engine, FAKE_FAULT_CREATE_REFUSED, 1);
    expect_refused(&rig, &request, ERR_BAD_INPUT, "resources.pids: injected");
    engine_fake_inject(rig.engine, FAKE_FAULT_CREATE_FAILS, 1);
    expect_refused(&rig, &request, ERR_UNAVAILABLE, "the engine could not make a sandbox");
    expect_all_given_back(&rig);
    core_free(rig.core);
}

/* Nobody waits for an engine that hangs on behalf of a client that left. */
static void a_client_that_left_ends_a_creation(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct rig rig;
    rig_open(&rig, &config);
    rig.core->create_budget_ns = 1000 * CLOCK_NS_PER_S; /* past it the test would hang */
    struct execution_request request = request_of("out x\n");
    struct err err = ERR_INIT;
    request.gone_fd = eventfd(0, EFD_CLOEXEC);
    for (int i = 0; i < 2; i++) { /* at the engine; and once it has made the sandbox */
        uint64_t one = 1;
        assert_int_equal(write(request.gone_fd, &one, sizeof(one)), sizeof(one));
        if (i == 0)
            engine_fake_inject(rig.engine, FAKE_FAULT_CREATE_HANGS, 1);
        /* Places are free: it does not wait in the queue, which would notice as well. */
        char *text = run(rig.core, &request, &err);
        assert_non_null(text);
        assert_non_null(strstr(text, "\"killed_by\":\"user\""));
        assert_non_null(strstr(text, "\"started_at\":null"));
        free(text);
    }
    (void)close(request.gone_fd);
    while (engine_fake_living(rig.engine) > 0)
        (void)poll(NULL, 0, 2);
    expect_all_given_back(&rig);
    core_free(rig.core);
}

struct job {
    struct core *core;
    struct execution_request request;
    char *text;
    struct err err;
};

static void *job_main(void *context)
{
    struct job *job = context;
    job->text = run(job->core, &job->request, &job->err);
    return NULL;
}

static void two_hundred_at_once(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    config.sandboxes_max = 40;
    config.creates_max = 4;
    struct rig rig;
    rig_open(&rig, &config);
    enum { COUNT = 200 };
    static struct job jobs[COUNT];
    static pthread_t threads[COUNT];
    static char codes[COUNT][32];
    for (size_t i = 0; i < COUNT; i++) {
        (void)snprintf(codes[i], sizeof(codes[i]), "sleep 5\nout n%zu\n", i);
        jobs[i] = (struct job){.core = rig.core, .request = request_of(codes[i])};
        assert_int_equal(pthread_create(&threads[i], NULL, job_main, &jobs[i]), 0);
    }
    for (size_t i = 0; i < COUNT; i++) {
        (void)pthread_join(threads[i], NULL);
        char word[32];
        (void)snprintf(word, sizeof(word), "\"stdout\":\"n%zu\\n\"", i);
        if (!jobs[i].text || !strstr(jobs[i].text, word))
            fail_msg("%zu: %s", i, jobs[i].text ? jobs[i].text : jobs[i].err.message);
        free(jobs[i].text);
    }
    struct buf metrics;
    buf_init(&metrics, 1 << 20);
    assert_int_equal(core_metrics(rig.core, &metrics, NULL), 0);
    assert_non_null(strstr(buf_cstr(&metrics), "berth_executions_total{status=\"success\"} 200\n"));
    buf_done(&metrics);
    core_free(rig.core);
}

/* What does not fit now waits, first come, first served; what never fits is refused at once. */
static void reservations_wait_their_turn(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    config.memory_budget_bytes = 64 << 20;
    config.memory_overcommit_millis = 8000; /* a default of 512 MiB reserves all of it */
    struct rig rig;
    rig_open(&rig, &config);
    enum { COUNT = 12 };
    struct job jobs[COUNT];
    pthread_t threads[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        jobs[i] = (struct job){.core = rig.core, .request = request_of("sleep 5\nout x\n")};
        jobs[i].request.memory_bytes = i % 3 == 0 ? 0 : 128 << 20;
        assert_int_equal(pthread_create(&threads[i], NULL, job_main, &jobs[i]), 0);
    }
    for (size_t i = 0; i < COUNT; i++) {
        (void)pthread_join(threads[i], NULL);
        assert_non_null(jobs[i].text);
        free(jobs[i].text);
    }
    struct execution_request request = request_of("out x\n");
    request.memory_bytes = UINT64_C(1) << 30;
    expect_refused(&rig, &request, ERR_BAD_INPUT, "reserve 134217728");
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(core_capacity_json(rig.core, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"memory\":{\"budget_bytes\":67108864,"));
    assert_non_null(strstr(buf_cstr(&out), "\"overcommit\":8.000"));
    out.size = 0;
    expect_all_given_back(&rig);
    assert_int_equal(core_metrics(rig.core, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "berth_memory_budget_bytes 67108864\n"));
    assert_non_null(strstr(buf_cstr(&out), "berth_memory_reserved_bytes 0\n"));
    buf_done(&out);
    core_free(rig.core);
}

static void wait_until_running(struct core *core, size_t count, char ids[][64])
{
    for (;;) {
        struct buf out;
        buf_init(&out, 1 << 20);
        assert_int_equal(
            core_execution_list(core, CORE_OWNER_LOCAL, "running", NULL, 100, &out, NULL), 0);
        const char *text = buf_cstr(&out);
        size_t found = 0;
        for (const char *at = text; (at = strstr(at, "execution_id\":\"")); found++) {
            at += strlen("execution_id\":\"");
            if (found < count)
                (void)snprintf(ids[found], 64, "%.36s", at);
        }
        buf_done(&out);
        if (found >= count)
            return;
        (void)poll(NULL, 0, 2);
    }
}

static void a_full_queue_answers_at_once(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    config.sandboxes_max = 1;
    config.queue_max = 0;
    config.queue_wait_ms = 50;
    struct rig rig;
    rig_open(&rig, &config);
    struct job job = {.core = rig.core, .request = request_of("sleep 60000\n")};
    pthread_t thread;
    char ids[1][64];
    assert_int_equal(pthread_create(&thread, NULL, job_main, &job), 0);
    wait_until_running(rig.core, 1, ids);
    struct err err = ERR_INIT;
    struct execution_request request = request_of("out x\n");
    assert_null(run(rig.core, &request, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    assert_true(err.retry_after_s >= 1);
    assert_non_null(strstr(err.public_message, "1 of 1 sandboxes"));
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(whole_execution_get(rig.core, CORE_OWNER_LOCAL, ids[0], &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"running\""));
    out.size = 0;
    assert_int_equal(whole_execution_get(rig.core, "another", ids[0], &out, NULL), -ERR_NOT_FOUND);
    assert_int_equal(whole_execution_cancel(rig.core, "another", ids[0], &out, NULL),
                     -ERR_NOT_FOUND);
    assert_int_equal(whole_execution_cancel(rig.core, CORE_OWNER_LOCAL, ids[0], &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"killed_by\":\"user\""));
    (void)pthread_join(thread, NULL);
    assert_string_equal(job.text, buf_cstr(&out));
    free(job.text);
    out.size = 0;
    assert_int_equal(whole_execution_cancel(rig.core, CORE_OWNER_LOCAL, ids[0], &out, NULL), 0);
    buf_done(&out);
    core_free(rig.core);
}

static void the_queue_has_a_longest_wait_and_a_way_out(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    config.sandboxes_max = 1;
    config.queue_wait_ms = 30;
    struct rig rig;
    rig_open(&rig, &config);
    struct job job = {.core = rig.core, .request = request_of("sleep 60000\n")};
    pthread_t thread;
    char ids[1][64];
    assert_int_equal(pthread_create(&thread, NULL, job_main, &job), 0);
    wait_until_running(rig.core, 1, ids);
    struct err err = ERR_INIT;
    struct execution_request request = request_of("out x\n");
    assert_null(run(rig.core, &request, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    request.gone_fd = eventfd(1, EFD_CLOEXEC);
    char *text = run(rig.core, &request, &err);
    assert_non_null(text);
    assert_non_null(strstr(text, "\"killed_by\":\"user\""));
    free(text);
    (void)close(request.gone_fd);
    core_stop(rig.core); /* ends what runs */
    (void)pthread_join(thread, NULL);
    core_free(rig.core);
    assert_non_null(strstr(job.text, "\"killed_by\":\"server\""));
    free(job.text);
}

static void a_key_runs_once(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct rig rig;
    rig_open(&rig, &config);
    enum { COUNT = 20 };
    struct job jobs[COUNT];
    pthread_t threads[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        jobs[i] = (struct job){.core = rig.core, .request = request_of("sleep 20\nout once\n")};
        jobs[i].request.idempotency_key = "key-1";
        assert_int_equal(pthread_create(&threads[i], NULL, job_main, &jobs[i]), 0);
    }
    for (size_t i = 0; i < COUNT; i++) {
        (void)pthread_join(threads[i], NULL);
        assert_non_null(jobs[i].text);
        assert_string_equal(jobs[i].text, jobs[0].text);
    }
    for (size_t i = 1; i < COUNT; i++)
        free(jobs[i].text);
    core_free(rig.core);
    rig_open(&rig, &config); /* and after a restart */
    struct err err = ERR_INIT;
    char *text = run(rig.core, &jobs[0].request, &err);
    assert_non_null(text);
    assert_string_equal(text, jobs[0].text);
    free(text);
    /* The outcome is there without an engine. */
    struct core *alone = NULL;
    core_free(rig.core);
    assert_int_equal(core_new(&config, &alone, &err), 0);
    text = run(alone, &jobs[0].request, &err);
    assert_non_null(text);
    assert_string_equal(text, jobs[0].text);
    free(text);
    core_free(alone);
    rig_open(&rig, &config);
    /* One that ran nothing gives the key back. */
    struct execution_request request = request_of("out second\n");
    request.idempotency_key = "key-2";
    engine_fake_inject(rig.engine, FAKE_FAULT_CREATE_FAILS, 1);
    assert_null(run(rig.core, &request, &err));
    text = run(rig.core, &request, &err);
    assert_non_null(text);
    assert_non_null(strstr(text, "second"));
    free(text);
    core_free(rig.core);
    free(jobs[0].text);
}

static void faults_leave_the_next_one_alone(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct rig rig;
    rig_open(&rig, &config);
    const enum engine_fake_fault lost[] = {
        FAKE_FAULT_CLOSE_OUTPUT, FAKE_FAULT_CLOSE_EXIT, FAKE_FAULT_DIES,         FAKE_FAULT_GARBAGE,
        FAKE_FAULT_OVERSIZED,    FAKE_FAULT_WRONG_EXIT, FAKE_FAULT_WRONG_STREAM,
    };
    const enum engine_fake_fault early[] = {FAKE_FAULT_CLOSE_EARLY, FAKE_FAULT_WRONG_NONCE};
    struct err err = ERR_INIT;
    struct execution_request request = request_of("out x\n");
    for (size_t i = 0; i < sizeof(early) / sizeof(early[0]); i++) { /* its kernel never answers */
        engine_fake_inject(rig.engine, early[i], 1);
        assert_null(run(rig.core, &request, &err));
        assert_int_equal(err.kind, ERR_UNAVAILABLE);
        EXPECT(rig.core, "out x\n", "\"status\":\"success\"");
    }
    for (size_t i = 0; i < sizeof(lost) / sizeof(lost[0]); i++) {
        engine_fake_inject(rig.engine, lost[i], 1);
        EXPECT(rig.core, "out x\n", "\"status\":\"killed\"", "\"killed_by\":\"server\"",
               "\"exit_code\":137");
        EXPECT(rig.core, "out x\n", "\"status\":\"success\"");
    }
    engine_fake_inject(rig.engine, FAKE_FAULT_RESTART, 3);
    EXPECT(rig.core, "out x\n", "\"status\":\"success\"");
    engine_fake_inject(rig.engine, FAKE_FAULT_DESTROY_FAILS, 1);
    EXPECT(rig.core, "out x\n", "\"status\":\"success\"");
    engine_fake_inject(rig.engine, FAKE_FAULT_DESTROY_LOST, 1);
    EXPECT(rig.core, "out x\n", "\"status\":\"success\"");
    engine_fake_inject(rig.engine, FAKE_FAULT_CREATE_FAILS, 1);
    assert_null(run(rig.core, &request, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    rig.core->create_budget_ns = 50 * CLOCK_NS_PER_MS;
    engine_fake_inject(rig.engine, FAKE_FAULT_CREATE_HANGS, 1);
    assert_null(run(rig.core, &request, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    EXPECT(rig.core, "out x\n", "\"status\":\"success\"");
    while (engine_fake_living(rig.engine) > 0) /* all go in the end */
        (void)poll(NULL, 0, 2);
    expect_all_given_back(&rig);
    core_free(rig.core);
}

static void a_restart_ends_what_ran(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct store *store = NULL;
    const char *id = "11111111-2222-4333-8444-555555555555";
    assert_int_equal(store_open(config.db_path, &store, NULL), 0);
    const struct store_execution_new row = {.id = id,
                                            .owner = CORE_OWNER_LOCAL,
                                            .lang = "python",
                                            .status = "queued",
                                            .created_us = clock_wall_us()};
    struct store_job job;
    store_execution_insert_begin(store, &row, &job);
    assert_int_equal(store_job_wait(store, &job, NULL), 0);
    store_execution_started(store, id, "box", clock_wall_us(), false);
    store_close(store);
    struct rig rig;
    rig_open(&rig, &config);
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(whole_execution_get(rig.core, CORE_OWNER_LOCAL, id, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"killed_by\":\"server\""));
    assert_non_null(strstr(buf_cstr(&out), "\"stdout\":\"\""));
    buf_done(&out);
    core_free(rig.core);
}

/* Past the bound the oldest text goes, its outcome stays and says so. */
static void kept_text_has_a_bound(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    config.keep_bytes = 1 << 20;
    struct rig rig;
    rig_open(&rig, &config);
    struct err err = ERR_INIT;
    const struct execution_request request = request_of("flood 400000\n");
    char ids[4][40];
    struct buf out;
    buf_init(&out, 64 << 20);
    for (size_t i = 0; i < 4; i++) {
        char *text = run(rig.core, &request, &err);
        assert_non_null(text);
        (void)snprintf(ids[i], sizeof(ids[i]), "%.36s", text + strlen("{\"execution_id\":\""));
        free(text);
    }
    for (size_t i = 0; i < 4; i++) {
        for (;;) { /* it goes behind the answer */
            out.size = 0;
            assert_int_equal(whole_execution_get(rig.core, CORE_OWNER_LOCAL, ids[i], &out, &err),
                             0);
            if (i >= 2 || out.size < 400000)
                break;
            (void)poll(NULL, 0, 2);
        }
        assert_non_null(strstr(buf_cstr(&out), "\"status\":\"success\""));
        assert_non_null(strstr(buf_cstr(&out), "\"stdout_bytes\":400000"));
        bool noted =
            strstr(buf_cstr(&out), "\"note\":\"stdout, stderr, output and results were dropped");
        assert_true(noted == (i < 2));
        assert_true((out.size > 800000) == (i >= 2)); /* stdout and output */
    }
    buf_done(&out);
    core_free(rig.core);
}

static void orphans_are_destroyed(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct core *core = NULL;
    struct engine *engine = NULL;
    struct engine_events events;
    assert_int_equal(core_new(&config, &core, NULL), 0);
    core_engine_events(core, 0, &events);
    assert_int_equal(engine_fake_new(&events, &engine, NULL), 0);
    const struct engine_create spec = {.id = "orphan"};
    const struct engine_create kept = {.id = "stopped", .disk = true, .keep_files = true};
    int fds[2] = {-1, -1};
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    assert_int_equal(engine_create(engine, &spec, INT64_MAX, &fds[0], nonce, NULL), 0);
    assert_int_equal(engine_create(engine, &kept, INT64_MAX, &fds[1], nonce, NULL), 0);
    assert_int_equal(engine_stop(engine, "stopped", INT64_MAX, NULL), 0);
    assert_int_equal(engine_fake_living(engine), 1);
    assert_int_equal(core_set_engine(core, 0, engine, NULL), 0);
    size_t count = 1;
    while (count > 0) { /* the one that is stopped is nobody's as well */
        char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
        (void)poll(NULL, 0, 2);
        assert_int_equal(engine_list(engine, INT64_MAX, &ids, &count, NULL), 0);
        free(ids);
    }
    (void)close(fds[0]);
    (void)close(fds[1]);
    core_free(core);
}

static int started(void *context, const char *id, struct err *err)
{
    (void)err;
    (void)snprintf(context, 128, "%s:", id);
    return 0;
}

static int output(void *context, int stream, const uint8_t *data, size_t size, bool more,
                  struct err *err)
{
    char *text = context;
    (void)stream;
    assert_false(more);
    (void)snprintf(text + strlen(text), 128 - strlen(text), "%.*s", (int)size, (const char *)data);
    return strstr(text, "stop") ? err_set(err, ERR_CLOSED, "no more") : 0;
}

static void streams(void **state)
{
    (void)state;
    struct core_config config = rig_config();
    struct rig rig;
    rig_open(&rig, &config);
    char text[128] = "";
    const struct execution_sink sink = {.context = text, .started = started, .output = output};
    struct execution_request request = request_of("out one\nerr two\n");
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(whole_execute(rig.core, &request, &sink, true, &out, NULL), 0);
    assert_string_equal(text + 36, ":one\ntwo\n");
    assert_null(strstr(buf_cstr(&out), "\"stdout\""));
    assert_null(strstr(buf_cstr(&out), "\"output\":"));
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"success\""));
    text[36] = '\0';
    out.size = 0;
    assert_int_equal(whole_execution_get(rig.core, CORE_OWNER_LOCAL, text, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"output\":\"one\\ntwo\\n\""));
    out.size = 0;
    request = request_of("out stop\nsleep 60000\n");
    assert_int_equal(whole_execute(rig.core, &request, &sink, true, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"killed_by\":\"user\""));
    buf_done(&out);
    core_free(rig.core);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outcomes),
        cmocka_unit_test(requests_reach_the_code),
        cmocka_unit_test(more_than_the_host_is_refused_in_words),
        cmocka_unit_test(profiles_and_images),
        cmocka_unit_test(the_engines_words_reach_the_client),
        cmocka_unit_test(a_client_that_left_ends_a_creation),
        cmocka_unit_test(two_hundred_at_once),
        cmocka_unit_test(reservations_wait_their_turn),
        cmocka_unit_test(a_full_queue_answers_at_once),
        cmocka_unit_test(the_queue_has_a_longest_wait_and_a_way_out),
        cmocka_unit_test(a_key_runs_once),
        cmocka_unit_test(faults_leave_the_next_one_alone),
        cmocka_unit_test(a_restart_ends_what_ran),
        cmocka_unit_test(kept_text_has_a_bound),
        cmocka_unit_test(orphans_are_destroyed),
        cmocka_unit_test(streams),
    };
    return cmocka_run_group_tests_name("core_execute", tests, rig_make_folder, rig_remove_folder);
}
