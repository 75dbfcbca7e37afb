/* Sessions on the fake engine: state, order, interrupts, ends of every kind, renewal against
 * expiry, what a server that stops leaves, and followers. A new server over real sandboxes is
 * tested by the integration suite. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "core/core.h"
#include "core/session_internal.h"
#include "core/drain.h"
#include "core/record.h"
#include "core/session.h"
#include "core_rig.h"
#include "engine/fake.h"
#include "lang/lang.h"
#include "wire/frame.h"
#include "whole.h"

static void open_rig(struct rig *rig)
{
    const struct core_config config = rig_config();
    rig_open(rig, &config);
}

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    if (rig_make_folder(state) != 0 || !rig)
        return -1;
    open_rig(rig);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    core_free(rig->core);
    free(rig);
    return rig_remove_folder(state);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

static struct session_request request_of(void)
{
    return (struct session_request){.owner = CORE_OWNER_LOCAL, .lang = &rig_lang, .gone_fd = -1};
}

static int run(struct core *core, const char *id, const char *code, struct buf *out,
               struct err *err)
{
    const struct session_execution request = {
        .owner = CORE_OWNER_LOCAL, .session_id = id, .code = code, .code_size = strlen(code)};
    out->size = 0;
    return whole_session_execute(core, &request, NULL, false, out, err);
}

static void expect(struct core *core, const char *id, const char *code, const char *const *parts)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 64 << 20);
    assert_ok(run(core, id, code, &out, &err), err);
    rig_assert_parts(code, buf_cstr(&out), parts);
}
#define EXPECT(core, id, code, ...) expect(core, id, code, (const char *const[]){__VA_ARGS__, NULL})

static void remove_session(struct core *core, const char *id)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 4096);
    assert_ok(core_session_delete(core, CORE_OWNER_LOCAL, id, &out, &err), err);
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"closed\""));
}

static bool session_lives(struct core *core, const char *id)
{
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    return core_session_get(core, CORE_OWNER_LOCAL, id, &out, NULL) == 0;
}

static void wait_until_gone(const struct rig *rig, const char *id)
{
    while (session_lives(rig->core, id) || engine_fake_living(rig->engine) > 0)
        (void)poll(NULL, 0, 1);
}

/* ---- tests ---- */

static void variables_stay(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char other[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    rig_make_session(rig->core, &request, other);
    EXPECT(rig->core, id, "set x 42\n", "\"status\":\"success\"", "\"state\":\"kept\"", id);
    EXPECT(rig->core, other, "get x\n", "\"status\":\"error\"", "\"name\":\"NameError\"");
    EXPECT(rig->core, id, "get x\nresult hi\n", "\"stdout\":\"42\\n\"",
           "\"results\":[{\"text/plain\":\"hi\"}]");
    EXPECT(rig->core, id, "raise ValueError bad\n", "\"status\":\"error\"", "\"exit_code\":1",
           "\"name\":\"ValueError\",\"value\":\"bad\"", "\"state\":\"kept\"");
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_int_equal(core_session_list(rig->core, CORE_OWNER_LOCAL, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), id));
    assert_true(strstr(buf_cstr(&out), id) < strstr(buf_cstr(&out), other)); /* oldest first */
    out.size = 0;
    assert_int_equal(core_session_get(rig->core, CORE_OWNER_LOCAL, id, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"execution_count\":3"));
    out.size = 0;
    assert_int_equal(core_session_get(rig->core, "somebody", id, &out, NULL), -ERR_NOT_FOUND);
    out.size = 0;
    assert_int_equal(core_session_list(rig->core, "somebody", &out, NULL), 0);
    assert_string_equal(buf_cstr(&out), "{\"sessions\":[]}");
    remove_session(rig->core, id);
    remove_session(rig->core, other);
    assert_false(session_lives(rig->core, id));
    wait_until_gone(rig, id);
}

static void what_cannot_be_is_refused(void **state)
{
    const struct rig *rig = *state;
    struct session_request request = request_of();
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    request.lifetime_ms = 7200001;
    assert_fails(core_session_create(rig->core, &request, &out, &err), ERR_BAD_INPUT, err);
    request = request_of();
    engine_fake_inject(rig->engine, FAKE_FAULT_KERNEL_FAILS, 1);
    assert_fails(core_session_create(rig->core, &request, &out, &err), ERR_UNSUPPORTED, err);
    const char *none = "00000000-0000-4000-8000-000000000000";
    assert_fails(run(rig->core, none, "out x\n", &out, &err), ERR_NOT_FOUND, err);
    assert_fails(core_session_delete(rig->core, CORE_OWNER_LOCAL, none, &out, &err), ERR_NOT_FOUND,
                 err);
    wait_until_gone(rig, none);
}

static void a_key_names_one_session(void **state)
{
    const struct rig *rig = *state;
    struct session_request request = request_of();
    char first[ID_UUID_SIZE];
    char again[ID_UUID_SIZE];
    request.idempotency_key = "k";
    rig_make_session(rig->core, &request, first);
    rig_make_session(rig->core, &request, again);
    assert_string_equal(first, again);
    remove_session(rig->core, first);
    rig_make_session(rig->core, &request, again); /* the key is free with its session */
    assert_string_not_equal(first, again);
    remove_session(rig->core, again);
    wait_until_gone(rig, again);
}

/* ---- more than one at a time ---- */

struct runner {
    struct core *core;
    const char *id;
    const char *code;
    pthread_t thread;
    struct buf out;
    struct err err;
    int result;
};

static void *runner_main(void *context)
{
    struct runner *runner = context;
    runner->result = run(runner->core, runner->id, runner->code, &runner->out, &runner->err);
    return NULL;
}

static void runner_start(struct runner *runner, struct core *core, const char *id, const char *code)
{
    *runner = (struct runner){.core = core, .id = id, .code = code};
    buf_init(&runner->out, 64 << 20);
    assert_int_equal(pthread_create(&runner->thread, NULL, runner_main, runner), 0);
}

/* The text of its answer, until the next call. */
static const char *runner_join(struct runner *runner)
{
    assert_int_equal(pthread_join(runner->thread, NULL), 0);
    return runner->result == 0 ? buf_cstr(&runner->out) : "";
}

/* The execution that runs in the session. */
static void wait_for_running(struct core *core, const char *id, char execution[static ID_UUID_SIZE])
{
    for (;;) {
        BUF_AUTO struct buf out;
        buf_init(&out, 65536);
        assert_int_equal(core_session_get(core, CORE_OWNER_LOCAL, id, &out, NULL), 0);
        const char *found = strstr(buf_cstr(&out), "\"running\":\"");
        if (found) {
            (void)snprintf(execution, ID_UUID_SIZE, "%.36s", found + strlen("\"running\":\""));
            out.size = 0;
            assert_int_equal(whole_execution_get(core, CORE_OWNER_LOCAL, execution, &out, NULL), 0);
            if (strstr(buf_cstr(&out), "\"status\":\"running\""))
                return;
        }
        (void)poll(NULL, 0, 1);
    }
}

static void wait_for_output(struct core *core, const char *execution)
{
    struct record_cursor cursor = {0};
    struct record *record = live_record(core, NULL, execution);
    int stream = 0;
    assert_non_null(record);
    BUF_AUTO struct buf piece;
    buf_init(&piece, 4096);
    while (record_next(record, &cursor, INT64_MAX, &stream, &piece) != RECORD_PIECE)
        continue;
    record_unref(record);
}

static void executions_come_in_order(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    struct runner first;
    struct runner second;
    runner_start(&first, rig->core, id, "sleep 100\nset x later\n");
    wait_for_running(rig->core, id, execution);
    runner_start(&second, rig->core, id, "get x\n");
    assert_non_null(strstr(runner_join(&first), "\"success\""));
    assert_non_null(strstr(runner_join(&second), "\"stdout\":\"later\\n\""));
    buf_done(&first.out);
    buf_done(&second.out);
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

static void an_interrupt_keeps_the_state(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    rig_make_session(rig->core, &request, id);
    assert_int_equal(core_session_interrupt(rig->core, CORE_OWNER_LOCAL, id, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"interrupted\":null"));
    struct runner runner;
    runner_start(&runner, rig->core, id, "set x 1\noutn on\nsleep 60000\n");
    wait_for_running(rig->core, id, execution);
    wait_for_output(rig->core, execution);
    out.size = 0;
    assert_int_equal(core_session_interrupt(rig->core, CORE_OWNER_LOCAL, id, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), execution));
    const char *text = runner_join(&runner);
    if (!strstr(text, "\"name\":\"KeyboardInterrupt\""))
        fail_msg("no interrupt: %s", text);
    assert_non_null(strstr(text, "\"state\":\"kept\""));
    buf_done(&runner.out);
    EXPECT(rig->core, id, "get x\n", "\"stdout\":\"1\\n\"");
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

static void one_that_waits_or_runs_can_be_cancelled(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    rig_make_session(rig->core, &request, id);
    struct runner first;
    struct runner second;
    runner_start(&first, rig->core, id, "out first\nsleep 60000\n");
    wait_for_running(rig->core, id, execution);
    wait_for_output(rig->core, execution); /* else it is cancelled before the kernel has it */
    runner_start(&second, rig->core, id, "out never\n");
    char waiting[ID_UUID_SIZE] = "";
    while (waiting[0] == '\0') { /* the newest is the one that waits */
        out.size = 0;
        assert_int_equal(
            core_execution_list(rig->core, CORE_OWNER_LOCAL, "queued", NULL, 1, &out, NULL), 0);
        const char *found = strstr(buf_cstr(&out), "\"execution_id\":\"");
        if (found)
            (void)snprintf(waiting, sizeof(waiting), "%.36s",
                           found + strlen("\"execution_id\":\""));
    }
    out.size = 0;
    assert_int_equal(whole_execution_cancel(rig->core, CORE_OWNER_LOCAL, waiting, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"killed_by\":\"user\""));
    assert_non_null(strstr(runner_join(&second), "\"started_at\":null"));
    out.size = 0;
    assert_int_equal(whole_execution_cancel(rig->core, CORE_OWNER_LOCAL, execution, &out, NULL), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"killed_by\":\"user\""));
    assert_non_null(strstr(runner_join(&first), "\"state\":\"lost\""));
    buf_done(&first.out);
    buf_done(&second.out);
    EXPECT(rig->core, id, "out on\n", "\"stdout\":\"on\\n\"");
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

/* Who waits keeps a connection of the server, whatever its client does. */
static void those_that_wait_are_bounded_in_all_sessions(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char ids[2][ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    struct runner runners[3];
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    rig->core->config.turns_max = 1;
    for (size_t i = 0; i < 2; i++) {
        rig_make_session(rig->core, &request, ids[i]);
        runner_start(&runners[i], rig->core, ids[i], "sleep 60000\n");
        wait_for_running(rig->core, ids[i], execution);
    }
    runner_start(&runners[2], rig->core, ids[0], "out waited\n");
    for (;;) {
        out.size = 0;
        assert_ok(core_session_get(rig->core, CORE_OWNER_LOCAL, ids[0], &out, &err), err);
        if (strstr(buf_cstr(&out), "\"waiting\":1"))
            break;
        (void)poll(NULL, 0, 1);
    }
    assert_fails(run(rig->core, ids[1], "out x\n", &out, &err), ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "wait for their turn in sessions"));
    assert_int_equal(core_session_interrupt(rig->core, CORE_OWNER_LOCAL, ids[0], &out, NULL), 0);
    assert_non_null(strstr(runner_join(&runners[2]), "\"stdout\":\"waited\\n\""));
    buf_done(&runners[2].out);
    runner_start(&runners[2], rig->core, ids[1], "out after\n"); /* its place came back */
    assert_int_equal(core_session_interrupt(rig->core, CORE_OWNER_LOCAL, ids[1], &out, NULL), 0);
    assert_non_null(strstr(runner_join(&runners[2]), "\"stdout\":\"after\\n\""));
    for (size_t i = 0; i < 2; i++) {
        (void)runner_join(&runners[i]);
        remove_session(rig->core, ids[i]);
    }
    for (size_t i = 0; i < 3; i++)
        buf_done(&runners[i].out);
    wait_until_gone(rig, ids[0]);
}

static void deleting_ends_what_runs(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    struct runner first;
    struct runner second;
    runner_start(&first, rig->core, id, "sleep 60000\n");
    wait_for_running(rig->core, id, execution);
    runner_start(&second, rig->core, id, "out never\n");
    remove_session(rig->core, id);
    const char *text = runner_join(&first);
    assert_non_null(strstr(text, "\"status\":\"killed\""));
    (void)runner_join(&second);
    assert_true(second.result == -ERR_NOT_FOUND || strstr(buf_cstr(&second.out), "\"killed\""));
    buf_done(&first.out);
    buf_done(&second.out);
    wait_until_gone(rig, id);
}

/* ---- what dies ---- */

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

/* Asks for an execution until it has ended, and gives its object. */
static const char *wait_for_end(struct core *core, const char *execution, struct buf *out)
{
    for (;;) {
        out->size = 0;
        assert_int_equal(whole_execution_get(core, CORE_OWNER_LOCAL, execution, out, NULL), 0);
        const char *text = buf_cstr(out);
        if (!strstr(text, "\"status\":\"running\"") && !strstr(text, "\"status\":\"queued\""))
            return text;
        (void)poll(NULL, 0, 1);
    }
}

/* The id that an answer names, of one that goes on. */
static void id_in(const struct err *err, char execution[static ID_UUID_SIZE])
{
    const char *found = strstr(err->public_message, "execution ");
    assert_non_null(found);
    (void)snprintf(execution, ID_UUID_SIZE, "%.36s", found + strlen("execution "));
}

/* The channel breaks and nothing else: what runs is found again on another one, its outcome is
 * whole, and so is the session. What init never heard of is sent again. */
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

/* ---- followers ---- */

struct heard {
    unsigned queued;
    unsigned started;
    unsigned pieces;
    char text[256];
};

static int hear_start(void *context, const char *id, struct err *err)
{
    (void)id;
    (void)err;
    ((struct heard *)context)->started++;
    return 0;
}

static int hear_queued(void *context, const char *id, struct err *err)
{
    struct heard *heard = context;
    (void)err;
    heard->queued++;
    (void)snprintf(heard->text, sizeof(heard->text), "%s", id);
    return 0;
}

static int hear(void *context, int stream, const uint8_t *data, size_t size, bool more,
                struct err *err)
{
    struct heard *heard = context;
    size_t used = strlen(heard->text);
    (void)err;
    assert_false(more);
    heard->pieces++;
    (void)snprintf(heard->text + used, sizeof(heard->text) - used, "%d:%.*s|", stream, (int)size,
                   (const char *)data);
    return 0;
}

static void follow(struct core *core, const char *execution, uint64_t after, struct heard *heard)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    *heard = (struct heard){0};
    const struct execution_sink sink = {.context = heard, .started = hear_start, .output = hear};
    const struct execution_follow ask = {
        .owner = CORE_OWNER_LOCAL, .id = execution, .after = after, .gone_fd = -1};
    assert_ok(whole_execution_follow(core, &ask, &sink, &out, &err), err);
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"success\""));
    assert_null(strstr(buf_cstr(&out), "\"stdout\":"));
}

static void followers_hear_the_same(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    rig_make_session(rig->core, &request, id);
    struct runner runner;
    struct heard live;
    struct heard later;
    runner_start(&runner, rig->core, id, "outn a\nsleep 50\noutn b\nresult c\nsleep 50\noutn d\n");
    wait_for_running(rig->core, id, execution);
    follow(rig->core, execution, 0, &live);
    (void)runner_join(&runner);
    buf_done(&runner.out);
    assert_int_equal(live.started, 1);
    assert_string_equal(live.text, "2:a|2:b|0:r{\"text/plain\":\"c\"}|2:d|");
    follow(rig->core, execution, 0, &later); /* from the store */
    assert_int_equal(later.started, 1);
    assert_string_equal(later.text, live.text);
    follow(rig->core, execution, 3, &later); /* 1 the start, 2 a, 3 b */
    assert_int_equal(later.started, 0);
    assert_string_equal(later.text, "0:r{\"text/plain\":\"c\"}|2:d|");
    follow(rig->core, execution, 99, &later);
    assert_int_equal(later.pieces, 0);
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

static void what_is_known_is_told_without_waiting(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    struct err err = ERR_INIT;
    struct heard heard = {0};
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    rig_make_session(rig->core, &request, id);
    struct runner runner;
    runner_start(&runner, rig->core, id, "outn a\nsleep 60000\n");
    wait_for_running(rig->core, id, execution);
    wait_for_output(rig->core, execution);
    const struct execution_sink sink = {.context = &heard, .started = hear_start, .output = hear};
    const struct execution_follow ask = {
        .owner = CORE_OWNER_LOCAL, .id = execution, .only_known = true, .gone_fd = -1};
    assert_int_equal(whole_execution_follow(rig->core, &ask, &sink, &out, &err), 1);
    assert_int_equal(heard.started, 1);
    assert_string_equal(heard.text, "2:a|");
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"running\""));
    assert_int_equal(core_session_interrupt(rig->core, CORE_OWNER_LOCAL, id, &out, NULL), 0);
    (void)runner_join(&runner);
    buf_done(&runner.out);
    out.size = 0;
    heard = (struct heard){0};
    assert_int_equal(whole_execution_follow(rig->core, &ask, &sink, &out, &err), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"error\""));
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

struct listener {
    struct core *core;
    const char *id;
    struct heard heard;
    int result;
};

static void *listen_main(void *context)
{
    struct listener *listener = context;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    const struct execution_sink sink = {
        .context = &listener->heard, .queued = hear_queued, .started = hear_start, .output = hear};
    const struct session_execution ask = {.owner = CORE_OWNER_LOCAL,
                                          .session_id = listener->id,
                                          .code = "out late\n",
                                          .code_size = strlen("out late\n")};
    listener->result = whole_session_execute(listener->core, &ask, &sink, true, &out, NULL);
    return NULL;
}

/* One that has to wait says its id first, and can be cancelled by it. */
static void who_waits_is_told_its_id(void **state)
{
    const struct rig *rig = *state;
    const struct session_request request = request_of();
    char id[ID_UUID_SIZE];
    char execution[ID_UUID_SIZE];
    pthread_t thread;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    rig_make_session(rig->core, &request, id);
    struct listener free_one = {.core = rig->core, .id = id};
    (void)listen_main(&free_one);
    assert_int_equal(free_one.heard.queued, 0);
    assert_int_equal(free_one.heard.started, 1);
    struct runner runner;
    runner_start(&runner, rig->core, id, "sleep 60000\n");
    wait_for_running(rig->core, id, execution);
    struct listener waiter = {.core = rig->core, .id = id};
    assert_int_equal(pthread_create(&thread, NULL, listen_main, &waiter), 0);
    char waiting[ID_UUID_SIZE] = "";
    while (waiting[0] == '\0') {
        out.size = 0;
        assert_int_equal(
            core_execution_list(rig->core, CORE_OWNER_LOCAL, "queued", NULL, 1, &out, NULL), 0);
        const char *found = strstr(buf_cstr(&out), "\"execution_id\":\"");
        if (found)
            (void)snprintf(waiting, sizeof(waiting), "%.36s",
                           found + strlen("\"execution_id\":\""));
    }
    out.size = 0;
    assert_int_equal(whole_execution_cancel(rig->core, CORE_OWNER_LOCAL, waiting, &out, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(waiter.result, 0);
    assert_int_equal(waiter.heard.queued, 1);
    assert_int_equal(waiter.heard.started, 0);
    assert_string_equal(waiter.heard.text, waiting);
    assert_int_equal(core_session_interrupt(rig->core, CORE_OWNER_LOCAL, id, &out, NULL), 0);
    (void)runner_join(&runner);
    buf_done(&runner.out);
    remove_session(rig->core, id);
    wait_until_gone(rig, id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(variables_stay),
        on_rig(what_cannot_be_is_refused),
        on_rig(a_key_names_one_session),
        on_rig(executions_come_in_order),
        on_rig(an_interrupt_keeps_the_state),
        on_rig(one_that_waits_or_runs_can_be_cancelled),
        on_rig(those_that_wait_are_bounded_in_all_sessions),
        on_rig(deleting_ends_what_runs),
        on_rig(a_kernel_that_dies_is_replaced),
        on_rig(an_init_that_dies_ends_the_session),
        on_rig(an_idle_session_expires),
        on_rig(a_renewal_that_was_said_holds),
        on_rig(a_stop_leaves_sessions),
        on_rig(a_broken_channel_loses_nothing),
        on_rig(a_slow_host_keeps_the_session),
        on_rig(what_ran_ends_with_its_session),
        on_rig(their_ends_are_counted),
        on_rig(a_drain_ends_all_and_refuses_what_is_new),
        on_rig(a_drain_that_is_lifted_ends_nothing),
        on_rig(followers_hear_the_same),
        on_rig(what_is_known_is_told_without_waiting),
        on_rig(who_waits_is_told_its_id),
    };
    return cmocka_run_group_tests_name("core_sessions", tests, NULL, NULL);
}
