/* Programs without a kernel on the fake engine: both steps in one record, phases, the compile
 * cache, sessions, and which languages an image has. In the fake, a command is the script that its
 * last argument names. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "channel_peer.h"
#include "child.h"
#include "core/attempt.h"
#include "core/compile_cache.h"
#include "core/core.h"
#include "core/core_internal.h"
#include "core/execution_text.h"
#include "core/languages.h"
#include "core/program.h"
#include "core/session.h"
#include "core_rig.h"
#include "engine/fake.h"
#include "lang/lang.h"
#include "whole.h"

/* Its source is compiler, program and script in one. */
static const struct lang twice = {.name = "twice",
                                  .source = "main.x",
                                  .compile = {"compiler", "{source}"},
                                  .program = "main.x",
                                  .run = {"runner", "{source}"},
                                  .env = {"X=of the language"}};
static const struct lang once = {
    .name = "once", .source = "main.y", .run = {"runner", "-m{memory_bytes}k", "{source}"}};

static struct execution_request request_of(const struct lang *lang, const char *code)
{
    return (struct execution_request){.owner = CORE_OWNER_LOCAL,
                                      .lang = lang,
                                      .code = code,
                                      .code_size = strlen(code),
                                      .gone_fd = -1};
}

static void expect(struct core *core, const struct execution_request *request,
                   const char *const *parts)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    assert_ok(whole_execute(core, request, NULL, false, &out, &err), err);
    rig_assert_parts(request->code, buf_cstr(&out), parts);
}

#define EXPECT(core, request, ...) expect(core, request, (const char *const[]){__VA_ARGS__, NULL})

static void open_rig(struct rig *rig, uint64_t cache_bytes)
{
    struct core_config config = rig_config();
    config.compile_cache_bytes = cache_bytes;
    rig_open(rig, &config);
}

static void both_steps_are_one_execution(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig, 0);
    struct execution_request request = request_of(&twice, "out x\nenv X\nstdin\n");
    request.stdin_data = "IN";
    request.stdin_size = 2;
    /* A compiler gets no standard input. */
    EXPECT(rig.core, &request, "\"stdout\":\"x\\nof the languagex\\nof the languageIN\"",
           "\"phase\":\"run\"", "\"status\":\"success\"", "\"stdout_bytes\":36");
    request = request_of(&once, "out y\nexit 4\n");
    EXPECT(rig.core, &request, "\"stdout\":\"y\\n\"", "\"phase\":\"run\"", "\"exit_code\":4");
    core_free(rig.core);
}

static void a_compiler_that_fails_ends_it(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig, 1 << 20);
    struct execution_request request = request_of(&twice, "err no such name\nexit 3\n");
    EXPECT(rig.core, &request, "\"phase\":\"compile\"", "\"status\":\"error\"", "\"exit_code\":3",
           "\"stderr\":\"no such name\\n\"", "\"killed_by\":null");
    request = request_of(&twice, "oom\n");
    EXPECT(rig.core, &request, "\"phase\":\"compile\"", "\"killed_by\":\"oom\"");
    request = request_of(&twice, "sleep 60000\n");
    request.timeout_ms = 30;
    EXPECT(rig.core, &request, "\"phase\":\"compile\"", "\"killed_by\":\"timeout\"");
    struct compile_cache_stats stats;
    compile_cache_stats(rig.core->compiled, &stats);
    assert_int_equal(stats.entries, 0);
    core_free(rig.core);
}

static void what_was_compiled_is_not_compiled_again(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig, 1 << 20);
    struct compile_cache_stats stats;
    /* Silent where there is no input: so is its compiler. */
    struct execution_request request = request_of(&twice, "stdin\n");
    request.stdin_data = "in";
    request.stdin_size = 2;
    for (uint64_t i = 0; i < 3; i++) {
        EXPECT(rig.core, &request, "\"stdout\":\"in\"", "\"phase\":\"run\"");
        compile_cache_stats(rig.core->compiled, &stats);
        assert_int_equal(stats.hits, i);
        assert_int_equal(stats.misses, 1);
        assert_int_equal(stats.entries, 1);
    }
    /* Another owner, other variables, other words: each is a program of its own. */
    struct execution_request others[3] = {request, request, request};
    const char *const env[] = {"Y=1"};
    others[0].owner = "somebody";
    others[1].env = env;
    others[1].env_count = 1;
    others[2].code = "stdin\n\n";
    others[2].code_size = 7;
    for (uint64_t i = 0; i < 3; i++) {
        EXPECT(rig.core, &others[i], "\"stdout\":\"in\"");
        compile_cache_stats(rig.core->compiled, &stats);
        assert_int_equal(stats.hits, 2);
        assert_int_equal(stats.misses, 2 + i);
    }
    /* What a file of the caller's may change is not kept, nor what a compiler had words for. */
    const struct execution_file file = {"header", (const uint8_t *)"x", 1};
    struct execution_request unkept[2] = {request, request_of(&twice, "err a warning\n")};
    unkept[0].files = &file;
    unkept[0].file_count = 1;
    EXPECT(rig.core, &unkept[0], "\"stdout\":\"in\"");
    EXPECT(rig.core, &unkept[1], "\"stderr\":\"a warning\\na warning\\n\"");
    EXPECT(rig.core, &unkept[1], "\"stderr\":\"a warning\\na warning\\n\"");
    compile_cache_stats(rig.core->compiled, &stats);
    assert_int_equal(stats.hits, 2);
    assert_int_equal(stats.entries, 4);
    core_free(rig.core);
}

/* Up to EXEC; returns its stream. */
static uint32_t next_exec(struct peer *peer)
{
    struct frame frame = peer_next(peer);
    while (frame.type != FRAME_EXEC) {
        if (frame.type == FRAME_PUT_FILE)
            peer_done(peer, frame.stream, 0, 0);
        frame = peer_next(peer);
    }
    return frame.stream;
}

/* A compiler with words; the channel breaks before init has taken the program. */
static void play_compiler(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    uint32_t stream = next_exec(peer);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDERR, "a warning\n", 10);
    peer_exit(peer, stream, 0);
    (void)next_exec(peer);
    (void)shutdown(peer->fd, SHUT_RDWR);
}

/* The program, without its source or its compiler. */
static void play_program(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    uint32_t stream = peer_expect(peer, FRAME_EXEC);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDERR, "an end\n", 7);
    peer_exit(peer, stream, 5);
    peer_drain(peer);
}

/* What was compiled before a channel broke is run on the next one. */
static void a_channel_that_breaks_behind_the_compiler_compiles_once(void **state)
{
    (void)state;
    struct rig rig;
    struct peer peer;
    struct attempt attempt;
    struct err err = ERR_INIT;
    bool heard = false;
    const struct attempt_subject subject = {
        .owner = CORE_OWNER_LOCAL, .lang = twice.name, .gone_fd = -1, .outlives_client = true};
    const struct program_job job = {.lang = &twice,
                                    .code = "x",
                                    .code_size = 1,
                                    .timeout_ms = 20000,
                                    .memory_bytes = 1 << 20,
                                    .of_session = true};
    open_rig(&rig, 0);
    assert_ok(attempt_begin(&attempt, rig.core, &subject, NULL, &err), err);
    peer_start(&peer, play_compiler);
    assert_fails(program_run(&attempt, peer.channel, &job, &heard, &err), ERR_CLOSED, err);
    assert_true(heard);
    peer_stop(&peer);
    peer_start(&peer, play_program);
    assert_ok(program_run(&attempt, peer.channel, &job, &heard, &err), err);
    assert_true(heard);
    assert_int_equal(attempt.outcome.exit.exit_code, 5);
    const struct buf *said = &record_text(attempt.record)->bytes;
    assert_int_equal(said->size, strlen("a warning\nan end\n"));
    assert_memory_equal(said->data, "a warning\nan end\n", said->size);
    peer_stop(&peer);
    attempt_end(&attempt);
    core_free(rig.core);
}

static void a_session_compiles_each_cell(void **state)
{
    (void)state;
    struct rig rig;
    struct err err = ERR_INIT;
    char id[ID_UUID_SIZE];
    open_rig(&rig, 1 << 20);
    const struct lang *lua = NULL;
    assert_ok(lang_find("lua", &lua, &err), err);
    assert_null(lua->compile[0]);
    const char *const env[] = {"A=1", "B=two\nlines"};
    const struct session_request request = {
        .owner = CORE_OWNER_LOCAL, .lang = lua, .env = env, .env_count = 2, .gone_fd = -1};
    rig_make_session(rig.core, &request, id);
    const struct session_execution cell = {.owner = CORE_OWNER_LOCAL,
                                           .session_id = id,
                                           .code = "env A\nenv B\nstdin\n",
                                           .code_size = 18,
                                           .stdin_data = "in",
                                           .stdin_size = 2};
    for (int i = 0; i < 2; i++) {
        BUF_AUTO struct buf out;
        buf_init(&out, 1 << 20);
        assert_ok(whole_session_execute(rig.core, &cell, NULL, false, &out, &err), err);
        rig_assert_parts("cell", buf_cstr(&out),
                         (const char *const[]){"\"stdout\":\"1two\\nlinesin\"",
                                               "\"state\":\"kept\"", "\"phase\":\"run\"", NULL});
    }
    core_free(rig.core);
}

/* A full disk, or a folder where the source belongs: nothing began, so nothing is left that runs,
 * and the key is free. */
static void what_cannot_be_written_never_began(void **state)
{
    (void)state;
    struct rig rig;
    struct err err = ERR_INIT;
    char id[ID_UUID_SIZE];
    const struct lang *lua = NULL;
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    open_rig(&rig, 0);
    assert_ok(lang_find("lua", &lua, &err), err);
    const struct session_request request = {.owner = CORE_OWNER_LOCAL, .lang = lua, .gone_fd = -1};
    rig_make_session(rig.core, &request, id);
    struct session_execution cell = {.owner = CORE_OWNER_LOCAL,
                                     .session_id = id,
                                     .code = "fault put-refused\n",
                                     .code_size = strlen("fault put-refused\n")};
    assert_ok(whole_session_execute(rig.core, &cell, NULL, false, &out, &err), err);
    cell.idempotency_key = "k";
    cell.code = "out x\n";
    cell.code_size = strlen(cell.code);
    assert_fails(whole_session_execute(rig.core, &cell, NULL, false, &out, &err), ERR_BAD_INPUT,
                 err);
    assert_non_null(strstr(err.public_message, "main.lua"));
    out.size = 0;
    assert_ok(core_execution_list(rig.core, CORE_OWNER_LOCAL, "running", NULL, 9, &out, &err), err);
    assert_null(strstr(buf_cstr(&out), "\"execution_id\""));
    out.size = 0;
    assert_ok(whole_session_execute(rig.core, &cell, NULL, false, &out, &err), err);
    rig_assert_parts("again", buf_cstr(&out),
                     (const char *const[]){"\"stdout\":\"x\\n\"", "\"state\":\"kept\"", NULL});
    core_free(rig.core);
}

static void an_image_says_what_it_has(void **state)
{
    (void)state;
    struct rig rig;
    struct err err = ERR_INIT;
    open_rig(&rig, 0);
    const struct lang *lua = NULL;
    assert_ok(lang_find("lua", &lua, &err), err);
    struct execution_request request = request_of(lua, "out x\n");
    EXPECT(rig.core, &request, "\"stdout\":\"x\\n\""); /* nothing is known yet */
    BUF_AUTO struct buf out;
    buf_init(&out, 1 << 20);
    assert_ok(core_languages_json(rig.core, &(struct languages_ask){0}, -1, &out, &err), err);
    rig_assert_parts(
        "languages", buf_cstr(&out),
        (const char *const[]){"{\"engine\":\"fake\",\"image\":\"host\",\"languages\":[{\"name\":",
                              "{\"name\":\"python\",\"aliases\":[\"python3\",\"py\"],"
                              "\"version\":\"1.0\",\"version_line\":\"fake 1.0\","
                              "\"state\":true,\"compiled\":false,",
                              "{\"name\":\"c\",\"aliases\":[],", NULL});
    assert_null(strstr(buf_cstr(&out), "\"lua\"")); /* `lua -v`: the fake has no such script */
    BUF_AUTO struct buf answer;
    buf_init(&answer, 1 << 20);
    assert_fails(whole_execute(rig.core, &request, NULL, false, &answer, &err), ERR_BAD_INPUT, err);
    assert_non_null(strstr(err.public_message, "lang: image \"host\" has no lua; it has: bash, c"));
    request.image = "debian"; /* another one, which nobody asked */
    EXPECT(rig.core, &request, "\"stdout\":\"x\\n\"");
    assert_fails(
        core_languages_json(rig.core, &(struct languages_ask){.image = "missing"}, -1, &out, &err),
        ERR_BAD_INPUT, err);
    core_free(rig.core);
}

/* With the folder that the cache made beside the store. */
static int remove_folder(void **state)
{
    char path[128];
    const struct core_config config = rig_config();
    const char *slash = strrchr(config.db_path, '/');
    (void)snprintf(path, sizeof(path), "%.*s/compiled", (int)(slash - config.db_path),
                   config.db_path);
    child_remove_tree(path);
    return rig_remove_folder(state);
}

#define in_rig(test) cmocka_unit_test_setup_teardown(test, rig_make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_rig(both_steps_are_one_execution),
        in_rig(a_compiler_that_fails_ends_it),
        in_rig(what_was_compiled_is_not_compiled_again),
        in_rig(a_channel_that_breaks_behind_the_compiler_compiles_once),
        in_rig(a_session_compiles_each_cell),
        in_rig(what_cannot_be_written_never_began),
        in_rig(an_image_says_what_it_has),
    };
    return cmocka_run_group_tests_name("core_programs", tests, NULL, NULL);
}
