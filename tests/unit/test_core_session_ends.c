/* The ends of sessions on the fake engine, and what must be none: kernels and inits that die,
 * times, renewal against expiry, channels that break, hosts that are slow, servers that stop or
 * drain. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "core/drain.h"
#include "core/record.h"
#include "core/session_internal.h"
#include "core_session_steps.h"
#include "engine/fake.h"
#include "whole.h"

static void a_kernel_that_dies_is_replaced(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    EXPECT(rig->core, id, "set x 1\n", "\"state\":\"kept\"");
    EXPECT(rig->core, id, "signal 11\n", "\"exit_code\":139", "\"killed_by\":\"signal\"",
           "\"state\":\"lost\"");
    EXPECT(rig->core, id, "get x\n", "\"status\":\"error\"");
    EXPECT(rig->core, id, "oom\n", "\"killed_by\":\"oom\"", "\"state\":\"lost\"");
    EXPECT(rig->core, id, "out well\n", "\"stdout\":\"well\\n\"");
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

static void an_init_that_dies_ends_the_session(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    EXPECT(rig->core, id, "fault dies\n", "\"killed_by\":\"server\"", "\"state\":\"lost\"");
    wait_until_gone(rig, id);
}

static void an_idle_session_expires(void **state)
{
    const struct rig *rig = *state;
    struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    request.idle_ms = 50;
    rig_make_session(rig->core, &request, id);
    wait_until_gone(rig, id);
}

/* Renewing again and again, each time just when it would end: either it was renewed, and lives for
 * the new time, or it is gone. */
static void a_renewal_that_was_said_holds(void **state)
{
    const struct rig *rig = *state;
    struct session_request request = request_of();
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    int renewed = 0;
    int gone = 0;
    for (int i = 0; i < 60; i++) {
        char id[ID_UUID_SIZE];
        request.lifetime_ms = 20;
        rig_make_session(rig->core, &request, id);
        (void)poll(NULL, 0, 14 + i % 12);
        out.size = 0;
        err = ERR_INIT;
        int result = core_session_renew(rig->core, CORE_OWNER_LOCAL, id, 60000, 60000, &out, &err);
        if (result == 0) {
            renewed++;
            (void)poll(NULL, 0, 20);
            EXPECT(rig->core, id, "out lives\n", "lives");
            remove_session(rig->core, id);
        } else {
            gone++;
            assert_int_equal(result, -ERR_NOT_FOUND);
        }
        wait_until_gone(rig, id);
    }
    printf("# %d renewed, %d gone\n", renewed, gone);
    assert_int_equal(renewed + gone, 60);
}

/* The server stops: the call is told so, the row stays as it is, and the sandbox goes on. */
static void a_stop_leaves_sessions(void **state)
{
    struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    struct runner runner;
    struct runner waiter;
    runner_start(&runner, rig->core, id, "sleep 60000\n");
    wait_for_running(rig->core, id, execution);
    runner_start(&waiter, rig->core, id, "out never\n");
    core_stop(rig->core);
    (void)runner_join(&runner);
    (void)runner_join(&waiter);
    assert_int_equal(runner.result, -ERR_UNAVAILABLE);
    assert_non_null(strstr(runner.err.public_message, execution));
    assert_int_equal(waiter.result, -ERR_UNAVAILABLE);
    assert_int_equal(engine_fake_living(rig->engine), 1);
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_int_equal(whole_execution_get(rig->core, CORE_OWNER_LOCAL, execution, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"running\""));
    buf_done(&runner.out);
    buf_done(&waiter.out);
    core_free(rig->core);
    open_rig(rig); /* with an engine that knows none of it: the session is over, and says so */
    wait_until_gone(rig, id);
    for (;;) {
        out.size = 0;
        assert_int_equal(whole_execution_get(rig->core, CORE_OWNER_LOCAL, execution, &out, NULL),
                         0);
        if (strstr(buf_cstr(&out), "\"killed_by\":\"server\""))
            return;
        (void)poll(NULL, 0, 1);
    }
}

static void a_broken_channel_loses_nothing(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    EXPECT(rig->core, id, "set x 1\n", "\"state\":\"kept\"");
    EXPECT(rig->core, id, "fault close-output\nout a\nsleep 50\nout b\n", "\"stdout\":\"a\\nb\\n\"",
           "\"state\":\"kept\"", "\"status\":\"success\"");
    EXPECT(rig->core, id, "out a\nfault close-output\nresult c\nout b\n", "\"stdout\":\"a\\nb\\n\"",
           "\"results\":[{", "\"state\":\"kept\"");
    EXPECT(rig->core, id, "out d\nfault close-exit\n", "\"stdout\":\"d\\n\"", "\"state\":\"kept\"",
           "\"killed_by\":null");
    (void)pthread_mutex_lock(&rig->core->lock);
    channel_break(
        rig->core->sessions->channel); /* nothing runs: its end is found by the next one */
    (void)pthread_mutex_unlock(&rig->core->lock);
    EXPECT(rig->core, id, "get x\n", "\"stdout\":\"1\\n\"", "\"state\":\"kept\"");
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

/* There is no way to init now: who cancels does not wait until there is one, and is not forgotten
 * either, whether he comes before the execution is left alone or after. */
static void a_cancellation_reaches_what_is_left_alone(void **state)
{
    struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    for (int late = 0; late < 2; late++) {
        struct runner runner;
        BUF_AUTO struct buf out;
        buf_init(&out, 1 << 20);
        rig->core->answer_ns = late ? CLOCK_NS_PER_MS : INT64_C(3600) * CLOCK_NS_PER_S;
        engine_fake_inject(rig->engine, FAKE_FAULT_CHANNEL_AWAY, 1000000);
        runner_start(&runner, rig->core, id, "fault close-output\nout a\nsleep 600000\n");
        if (late) {
            (void)runner_join(&runner);
            assert_int_equal(runner.result, -ERR_UNAVAILABLE);
            id_in(&runner.err, execution);
        } else {
            wait_for_running(rig->core, id, execution);
            wait_for_output(rig->core, execution);
        }
        struct err err = ERR_INIT;
        assert_ok(whole_execution_cancel(rig->core, CORE_OWNER_LOCAL, execution, &out, &err), err);
        if (!late)
            (void)runner_join(&runner);
        rig->core->answer_ns = INT64_C(10) * CLOCK_NS_PER_S;
        engine_fake_inject(rig->engine, FAKE_FAULT_NONE, 0);
        assert_non_null(strstr(wait_for_end(rig->core, execution, &out), "\"killed_by\":\"user\""));
        buf_done(&runner.out);
    }
    EXPECT(rig->core, id, "out on\n", "\"stdout\":\"on\\n\"");
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

/* The row of one that waited for its turn when its server died. */
static void insert_unbegun(const struct rig *rig, const char *session_id,
                           char id[static ID_UUID_SIZE])
{
    struct store_job job;
    struct err err = ERR_INIT;
    id_uuid(id);
    const struct store_execution_new row = {.id = id,
                                            .owner = CORE_OWNER_LOCAL,
                                            .lang = "python",
                                            .status = "queued",
                                            .session_id = session_id,
                                            .created_us = clock_wall_us()};
    store_execution_insert_begin(rig->core->store, &row, &job);
    assert_ok(store_job_wait(rig->core->store, &job, &err), err);
}

/* Two are cancelled while there is no way to init, first the one that runs: neither is forgotten.
 */
static void each_cancellation_is_kept(void **state)
{
    struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char runs[ID_UUID_SIZE];
    char waits[ID_UUID_SIZE];
    struct runner runner;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    rig_make_session(rig->core, &request, id);
    rig->core->answer_ns = CLOCK_NS_PER_MS;
    engine_fake_inject(rig->engine, FAKE_FAULT_CHANNEL_AWAY, 1000000);
    runner_start(&runner, rig->core, id, "fault close-output\nout a\nsleep 10000\n");
    (void)runner_join(&runner);
    id_in(&runner.err, runs);
    insert_unbegun(rig, id, waits);
    assert_ok(whole_execution_cancel(rig->core, CORE_OWNER_LOCAL, runs, &out, &err), err);
    assert_ok(whole_execution_cancel(rig->core, CORE_OWNER_LOCAL, waits, &out, &err), err);
    rig->core->answer_ns = INT64_C(10) * CLOCK_NS_PER_S;
    engine_fake_inject(rig->engine, FAKE_FAULT_NONE, 0);
    assert_non_null(strstr(wait_for_end(rig->core, runs, &out), "\"killed_by\":\"user\""));
    (void)wait_for_end(rig->core, waits, &out);
    buf_done(&runner.out);
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

/* Init does not answer in time, and its sandbox lives: nobody knows that the session is over, so it
 * is not. */
static void a_slow_host_keeps_the_session(void **state)
{
    struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    rig_make_session(rig->core, &request, id);
    rig->core->answer_ns = 20 * CLOCK_NS_PER_MS;
    struct session_execution ask = {.owner = CORE_OWNER_LOCAL,
                                    .session_id = id,
                                    .idempotency_key = "k",
                                    .code = "fault silent\n",
                                    .code_size = strlen("fault silent\n"),
                                    .timeout_ms = 1};
    assert_fails(whole_session_execute(rig->core, &ask, NULL, false, &out, &err), ERR_UNAVAILABLE,
                 err);
    id_in(&err, execution);
    assert_fails(run(rig->core, id, "out never\n", &out, &err), ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "it is kept"));
    assert_true(err.retry_after_s > 0);
    assert_true(session_lives(rig->core, id));
    /* Whoever repeats it does not wait for ever. */
    assert_fails(whole_session_execute(rig->core, &ask, NULL, false, &out, &err), ERR_UNAVAILABLE,
                 err);
    assert_non_null(strstr(err.public_message, execution));
    assert_non_null(strstr(err.public_message, "Idempotency-Key"));
    out.size = 0;
    assert_int_equal(whole_execution_get(rig->core, CORE_OWNER_LOCAL, execution, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"running\""));
    remove_session(rig->core, id);
    assert_non_null(strstr(wait_for_end(rig->core, execution, &out), "\"state\":\"lost\""));
    wait_until_gone(rig, id);
}

/* Nobody asks for it by its id, which would end it as well. */
static void what_ran_ends_with_its_session(void **state)
{
    struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    rig_make_session(rig->core, &request, id);
    struct runner runner;
    runner_start(&runner, rig->core, id, "sleep 60000\n");
    wait_for_running(rig->core, id, execution);
    core_stop(rig->core);
    (void)runner_join(&runner);
    buf_done(&runner.out);
    core_free(rig->core);
    open_rig(rig); /* its engine knows none of it */
    wait_until_gone(rig, id);
    for (int i = 0; i < 10000; i++) {
        out.size = 0;
        assert_int_equal(
            core_execution_list(rig->core, CORE_OWNER_LOCAL, "killed", NULL, 9, &out, NULL), 0);
        if (strstr(buf_cstr(&out), execution))
            break;
        (void)poll(NULL, 0, 1);
    }
    assert_non_null(strstr(buf_cstr(&out), execution));
    const char *text = wait_for_end(rig->core, execution, &out);
    if (!strstr(text, "\"killed_by\":\"server\"") || !strstr(text, "\"state\":\"lost\""))
        fail_msg("another end: %s", text);
}

static uint64_t metric(struct core *core, const char *line)
{
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(core_metrics(core, &out, NULL), 0);
    const char *found = strstr(buf_cstr(&out), line);
    if (!found)
        fail_msg("no %s in %s", line, buf_cstr(&out));
    return found ? strtoull(found + strlen(line), NULL, 10) : 0;
}

static void their_ends_are_counted(void **state)
{
    const struct rig *rig = *state;
    struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    EXPECT(rig->core, id, "out x\n", "x");
    assert_int_equal(metric(rig->core, "\nberth_sessions "), 1);
    remove_session(rig->core, id);
    request.idle_ms = 30;
    rig_make_session(rig->core, &request, id);
    wait_until_gone(rig, id);
    request.idle_ms = 0;
    request.lifetime_ms = 30;
    rig_make_session(rig->core, &request, id);
    wait_until_gone(rig, id);
    request.lifetime_ms = 0;
    rig_make_session(rig->core, &request, id);
    EXPECT(rig->core, id, "fault dies\n", "\"killed_by\":\"server\"");
    wait_until_gone(rig, id);
    assert_int_equal(metric(rig->core, "\nberth_sessions "), 0);
    assert_int_equal(metric(rig->core, "\nberth_sessions_created_total "), 4);
    assert_int_equal(metric(rig->core, "\nberth_session_executions_total "), 2);
    static const char *const causes[] = {"deleted", "idle", "timeout", "lost"};
    for (size_t i = 0; i < ARRAY_SIZE(causes); i++) {
        char line[80];
        (void)snprintf(line, sizeof(line), "ended_total{cause=\"%s\"} ", causes[i]);
        assert_int_equal(metric(rig->core, line), 1);
    }
}

static void a_drain_ends_all_and_refuses_what_is_new(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    rig_make_session(rig->core, &request, id);
    struct runner runs;
    struct runner waits;
    runner_start(&runs, rig->core, id, "sleep 60000\n");
    wait_for_running(rig->core, id, execution);
    runner_start(&waits, rig->core, id, "out never\n");
    while (metric(rig->core, "\nberth_executions_running ") < 2)
        (void)poll(NULL, 0, 1);
    assert_ok(core_drain(rig->core, 60000, -1, &out, &err), err);
    assert_string_equal(buf_cstr(&out),
                        "{\"status\":\"drained\",\"ended\":{\"executions\":2,\"sessions\":1},"
                        "\"left\":{\"executions\":0,\"sessions\":0,\"sandboxes\":0}}");
    assert_non_null(strstr(runner_join(&runs), "\"killed_by\":\"server\""));
    assert_non_null(strstr(runner_join(&waits), "\"killed_by\":\"server\""));
    buf_done(&runs.out);
    buf_done(&waits.out);
    assert_false(session_lives(rig->core, id));
    assert_int_equal(engine_fake_living(rig->engine), 0);
    assert_fails(core_session_create(rig->core, &request, &out, &err), ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "drained"));
    assert_true(err.retry_after_s > 0);
    out.size = 0;
    assert_ok(core_drain(rig->core, 60000, -1, &out, &err), err); /* the same once more */
    assert_non_null(strstr(buf_cstr(&out), "\"executions\":2,\"sessions\":1"));
    out.size = 0;
    assert_ok(core_drain_lift(rig->core, &out, &err), err);
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"active\""));
    rig_make_session(rig->core, &request, id);
    EXPECT(rig->core, id, "out on\n", "on");
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

static void *drain_main(void *context)
{
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    (void)core_drain(context, 60000, -1, &out, NULL);
    return NULL;
}

/* Whoever still waits for it ends nothing any more. */
static void a_drain_that_is_lifted_ends_nothing(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    const struct record_limits nothing = {0};
    struct live held = {.of_session = false}; /* does not end, whatever it hears */
    struct record *record = record_new(&nothing);
    char id[ID_UUID_SIZE];
    struct err err = ERR_INIT;
    pthread_t thread;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    assert_ok(live_begin(rig->core, CORE_OWNER_LOCAL, NULL, record, &held, &err), err);
    assert_int_equal(pthread_create(&thread, NULL, drain_main, rig->core), 0);
    while (held.cancel_cause == KILL_NONE)
        (void)poll(NULL, 0, 1);
    assert_ok(core_drain_lift(rig->core, &out, &err), err);
    rig_make_session(rig->core, &request, id);
    EXPECT(rig->core, id, "sleep 100\nout on\n", "\"stdout\":\"on");
    (void)pthread_join(thread, NULL);
    live_end(rig->core, &held);
    record_unref(record);
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(a_kernel_that_dies_is_replaced),
        on_rig(an_init_that_dies_ends_the_session),
        on_rig(an_idle_session_expires),
        on_rig(a_renewal_that_was_said_holds),
        on_rig(a_stop_leaves_sessions),
        on_rig(a_broken_channel_loses_nothing),
        on_rig(a_cancellation_reaches_what_is_left_alone),
        on_rig(each_cancellation_is_kept),
        on_rig(a_slow_host_keeps_the_session),
        on_rig(what_ran_ends_with_its_session),
        on_rig(their_ends_are_counted),
        on_rig(a_drain_ends_all_and_refuses_what_is_new),
        on_rig(a_drain_that_is_lifted_ends_nothing),
    };
    return cmocka_run_group_tests_name("core_session_ends", tests, NULL, NULL);
}
