/* Sessions on the fake engine: state, order, interrupts, those that wait, and followers. Their ends
 * are in test_core_session_ends.c. A new server over real sandboxes is tested by the integration
 * suite. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core_internal.h"
#include "core_session_steps.h"
#include "engine/fake.h"
#include "whole.h"

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
        on_rig(followers_hear_the_same),
        on_rig(what_is_known_is_told_without_waiting),
        on_rig(who_waits_is_told_its_id),
    };
    return cmocka_run_group_tests_name("core_sessions", tests, NULL, NULL);
}
