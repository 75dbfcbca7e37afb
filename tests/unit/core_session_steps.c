/* Owns the steps of the tests of sessions. */
#include "check.h"

#include "core_session_steps.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core_internal.h"
#include "core/record.h"
#include "engine/fake.h"
#include "whole.h"

void open_rig(struct rig *rig)
{
    const struct core_config config = rig_config();
    rig_open(rig, &config);
}

int steps_setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    if (rig_make_folder(state) != 0 || !rig)
        return -1;
    open_rig(rig);
    *state = rig;
    return 0;
}

int steps_teardown(void **state)
{
    struct rig *rig = *state;
    core_free(rig->core);
    free(rig);
    return rig_remove_folder(state);
}

struct session_request request_of(void)
{
    return (struct session_request){.owner = CORE_OWNER_LOCAL, .lang = &rig_lang, .gone_fd = -1};
}

int run(struct core *core, const char *id, const char *code, struct buf *out, struct err *err)
{
    const struct session_execution request = {
        .owner = CORE_OWNER_LOCAL, .session_id = id, .code = code, .code_size = strlen(code)};
    out->size = 0;
    return whole_session_execute(core, &request, NULL, false, out, err);
}

void expect(struct core *core, const char *id, const char *code, const char *const *parts)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 64 << 20);
    assert_ok(run(core, id, code, &out, &err), err);
    rig_assert_parts(code, buf_cstr(&out), parts);
}
void remove_session(struct core *core, const char *id)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 4096);
    assert_ok(core_session_delete(core, CORE_OWNER_LOCAL, id, &out, &err), err);
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"closed\""));
}

bool session_lives(struct core *core, const char *id)
{
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    return core_session_get(core, CORE_OWNER_LOCAL, id, &out, NULL) == 0;
}

void wait_until_gone(const struct rig *rig, const char *id)
{
    while (session_lives(rig->core, id) || engine_fake_living(rig->engine) > 0)
        (void)poll(NULL, 0, 1);
}

static void *runner_main(void *context)
{
    struct runner *runner = context;
    runner->result = run(runner->core, runner->id, runner->code, &runner->out, &runner->err);
    return NULL;
}

void runner_start(struct runner *runner, struct core *core, const char *id, const char *code)
{
    *runner = (struct runner){.core = core, .id = id, .code = code};
    buf_init(&runner->out, 64 << 20);
    assert_int_equal(pthread_create(&runner->thread, NULL, runner_main, runner), 0);
}

const char *runner_join(struct runner *runner)
{
    assert_int_equal(pthread_join(runner->thread, NULL), 0);
    return runner->result == 0 ? buf_cstr(&runner->out) : "";
}

void wait_for_running(struct core *core, const char *id, char execution[static ID_UUID_SIZE])
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

void wait_for_output(struct core *core, const char *execution)
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

const char *wait_for_end(struct core *core, const char *execution, struct buf *out)
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

void id_in(const struct err *err, char execution[static ID_UUID_SIZE])
{
    const char *found = strstr(err->public_message, "execution ");
    assert_non_null(found);
    (void)snprintf(execution, ID_UUID_SIZE, "%.36s", found + strlen("execution "));
}
