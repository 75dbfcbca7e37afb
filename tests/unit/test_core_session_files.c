/* Files of a session on the fake engine: in and out by pieces, beside code that runs, versions,
 * ends of every kind. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/core_internal.h"
#include "core/session.h"
#include "core/session_files.h"
#include "core/session_internal.h"
#include "core_rig.h"
#include "engine/fake.h"
#include "lang/lang.h"
#include "whole.h"

static char session_id[ID_UUID_SIZE];

static int setup(void **state)
{
    static struct rig rig;
    const struct core_config config = rig_config();
    const struct session_request request = {
        .owner = CORE_OWNER_LOCAL, .lang = &rig_lang, .gone_fd = -1};
    if (rig_make_folder(state) != 0)
        return -1;
    rig_open(&rig, &config);
    rig_make_session(rig.core, &request, session_id);
    *state = &rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    core_free(rig->core);
    return rig_remove_folder(state);
}

static struct session_file *open_file(const struct rig *rig)
{
    struct session_file *file = NULL;
    struct err err = ERR_INIT;
    assert_ok(core_session_file_open(rig->core, CORE_OWNER_LOCAL, session_id, -1, &file, &err),
              err);
    return file;
}

static void put(const struct rig *rig, const char *path, const char *text, size_t times)
{
    struct session_file *file = open_file(rig);
    struct err err = ERR_INIT;
    uint64_t size = 1;
    assert_ok(core_session_file_write(file, path, &err), err);
    for (size_t i = 0; i < times; i++)
        assert_ok(core_session_file_take(file, (const uint8_t *)text, strlen(text), &err), err);
    assert_ok(core_session_file_end(file, &size, &err), err);
    assert_int_equal(size, times * strlen(text));
    core_session_file_close(file);
}

static void assert_part(const struct rig *rig, uint64_t offset, uint64_t size, const char *wanted)
{
    struct session_file *file = open_file(rig);
    struct sandbox_file_info info;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_ok(core_session_file_read(file, "name", offset, size, &info, &err), err);
    assert_int_equal(info.size_bytes, 10);
    int result = 1;
    while (result == 1)
        result = core_session_file_next(file, &out, &err);
    assert_ok(result, err);
    assert_string_equal(buf_cstr(&out), wanted);
    core_session_file_close(file);
}

static void in_and_out(void **state)
{
    const struct rig *rig = *state;
    put(rig, "name", "01234", 2);
    assert_part(rig, 0, 0, "0123401234");
    assert_part(rig, 3, 4, "3401");
    assert_part(rig, 9, 100, "4");
    assert_part(rig, 10, 0, "");
}

static void versions_differ(void **state)
{
    const struct rig *rig = *state;
    struct sandbox_file_info first;
    struct sandbox_file_info second;
    struct err err = ERR_INIT;
    put(rig, "name", "one", 1);
    struct session_file *file = open_file(rig);
    assert_ok(core_session_file_look(file, "name", &first, &err), err);
    assert_ok(core_session_file_look(file, "name", &second, &err), err);
    assert_memory_equal(&first, &second, sizeof(first));
    put(rig, "name", "two", 1);
    assert_ok(core_session_file_look(file, "name", &second, &err), err);
    assert_int_not_equal(first.changed_ns, second.changed_ns);
    core_session_file_close(file);
}

static void what_is_refused(void **state)
{
    const struct rig *rig = *state;
    struct session_file *file = open_file(rig);
    struct session_file *other = NULL;
    struct sandbox_file_info info;
    struct err err = ERR_INIT;
    char path[SANDBOX_PATH_MAX + 1];
    memset(path, 'a', SANDBOX_PATH_MAX);
    path[SANDBOX_PATH_MAX] = '\0';
    assert_fails(core_session_file_look(file, NULL, &info, &err), ERR_BAD_INPUT, err);
    assert_fails(core_session_file_look(file, "", &info, &err), ERR_BAD_INPUT, err);
    assert_fails(core_session_file_write(file, path, &err), ERR_BAD_INPUT, err);
    assert_non_null(strstr(err.public_message, "path: "));
    assert_fails(core_session_file_look(file, "missing", &info, &err), ERR_NOT_FOUND, err);
    assert_fails(core_session_file_read(file, "/denied", 0, 0, &info, &err), ERR_BAD_INPUT, err);
    /* the file is good for another try */
    assert_ok(core_session_file_write(file, "name", &err), err);
    core_session_file_close(file);
    assert_fails(core_session_file_open(rig->core, "somebody", session_id, -1, &other, &err),
                 ERR_NOT_FOUND, err);
    core_session_file_close(NULL);
}

/* Places are given back, whatever became of the file. */
static void so_many_at_once(void **state)
{
    const struct rig *rig = *state;
    struct session_file *files[SESSION_FILES_MAX];
    struct session_file *more = NULL;
    struct err err = ERR_INIT;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < SESSION_FILES_MAX; i++) {
            files[i] = open_file(rig);
            if (i % 2 == 0)
                assert_ok(core_session_file_write(files[i], "name", &err), err);
        }
        assert_fails(
            core_session_file_open(rig->core, CORE_OWNER_LOCAL, session_id, -1, &more, &err),
            ERR_UNAVAILABLE, err);
        assert_int_equal(err.retry_after_s, 1);
        for (size_t i = 0; i < SESSION_FILES_MAX; i++)
            core_session_file_close(files[i]);
    }
}

/* Code that runs has its own channel: neither waits for the other. */
static void beside_code(void **state)
{
    const struct rig *rig = *state;
    struct session_file *file = open_file(rig);
    struct err err = ERR_INIT;
    uint64_t size = 0;
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_ok(core_session_file_write(file, "name", &err), err);
    assert_ok(core_session_file_take(file, (const uint8_t *)"ab", 2, &err), err);
    const struct session_execution request = {
        .owner = CORE_OWNER_LOCAL, .session_id = session_id, .code = "out x\n", .code_size = 6};
    assert_ok(whole_session_execute(rig->core, &request, NULL, false, &out, &err), err);
    assert_ok(core_session_file_take(file, (const uint8_t *)"cd", 2, &err), err);
    assert_ok(core_session_file_end(file, &size, &err), err);
    assert_int_equal(size, 4);
    core_session_file_close(file);
}

static void a_session_that_ends_meanwhile(void **state)
{
    const struct rig *rig = *state;
    static const uint8_t data[4096];
    struct session_file *file = open_file(rig);
    struct session_file *late = open_file(rig);
    struct sandbox_file_info info;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_ok(core_session_file_write(file, "name", &err), err);
    assert_ok(core_session_delete(rig->core, CORE_OWNER_LOCAL, session_id, &out, &err), err);
    int result = 0;
    while (result == 0) /* the sandbox ends a moment after the answer */
        result = core_session_file_take(file, data, sizeof(data), &err);
    assert_fails(result, ERR_NOT_FOUND, err);
    assert_non_null(strstr(err.public_message, "has just ended"));
    core_session_file_close(file);
    assert_fails(core_session_file_look(late, "name", &info, &err), ERR_NOT_FOUND, err);
    core_session_file_close(late);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(in_and_out),      on_rig(versions_differ), on_rig(what_is_refused),
        on_rig(so_many_at_once), on_rig(beside_code),     on_rig(a_session_that_ends_meanwhile),
    };
    return cmocka_run_group_tests_name("core_session_files", tests, NULL, NULL);
}
