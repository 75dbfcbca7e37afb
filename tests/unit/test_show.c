/* cli/show: what the events of an execution look like, and where they would be taken up again. */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "child.h"
#include "cli/show.h"

/* Where stdout and stderr go during a test, and where they went. */
static char folder[] = "/tmp/berth-test-show-XXXXXX";
static int saved[2] = {-1, -1};

static int make_folder(void **state)
{
    (void)state;
    memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
    return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    child_remove_tree(folder);
    return chdir("/");
}

static void redirect(int fd, const char *name)
{
    FD_AUTO int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    saved[fd - 1] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    assert_int_equal(dup2(file, fd), fd);
}

static void restore(int fd)
{
    (void)dup2(saved[fd - 1], fd);
    fd_close(&saved[fd - 1]);
}

struct shown {
    char out[4096], err_out[4096];
    struct err err;
    int result; /* of the last event */
};

static struct shown show_all(struct show *show, const char *const *lines)
{
    struct shown shown = {0};
    (void)fflush(stdout);
    redirect(1, "out");
    redirect(2, "err");
    for (size_t i = 0; lines[i]; i++)
        shown.result = show_line(show, lines[i], strlen(lines[i]), &shown.err);
    restore(1);
    restore(2);
    assert_true(fd_read_file_at(AT_FDCWD, "out", shown.out, sizeof(shown.out), NULL) >= 0);
    assert_true(fd_read_file_at(AT_FDCWD, "err", shown.err_out, sizeof(shown.err_out), NULL) >= 0);
    return shown;
}

#define LINES(...) ((const char *const[]){__VA_ARGS__, NULL})
#define STARTED "{\"event\":\"started\",\"id\":1,\"data\":{\"execution_id\":\"0123abcd-ef\"}}"
#define END(members) "{\"event\":\"end\",\"id\":9,\"data\":{\"exit_code\":" members "}}"

static void test_output_and_end(void **state)
{
    (void)state;
    struct show show = {.results = true};
    struct shown shown = show_all(
        &show, LINES(STARTED, "{\"event\":\"stdout\",\"id\":2,\"data\":{\"text\":\"a\"}}",
                     "{\"event\":\"stderr\",\"id\":3,\"data\":{\"text\":\"b\\n\"}}",
                     "{\"event\":\"news\",\"id\":4,\"data\":{}}",
                     END("3,\"killed_by\":\"oom\",\"state\":\"lost\",\"truncated\":true")));
    assert_ok(shown.result, shown.err);
    assert_string_equal(shown.out, "a");
    assert_ptr_equal(strstr(shown.err_out, "b\n"), shown.err_out);
    assert_non_null(strstr(shown.err_out, "killed by oom"));
    assert_non_null(strstr(shown.err_out, "session are lost"));
    assert_non_null(strstr(shown.err_out, "longer than is kept"));
    assert_string_equal(show.id, "0123abcd-ef");
    assert_true(show.ended && !show.failed);
    assert_int_equal(show.exit_code, 3);
    assert_int_equal(show.last, 9);
}

static void test_what_was_shown_is_not_shown_again(void **state)
{
    (void)state;
    struct show show = {0};
    struct shown shown = show_all(
        &show, LINES(STARTED, "{\"event\":\"stdout\",\"id\":2,\"data\":{\"text\":\"a\"}}",
                     "{\"event\":\"stdout\",\"id\":2,\"data\":{\"text\":\"a\"}}",
                     "{\"event\":\"stdout\",\"id\":3,\"data\":{\"text\":\"b\"}}", STARTED));
    assert_ok(shown.result, shown.err);
    assert_string_equal(shown.out, "ab");
    assert_int_equal(show.last, 3);
    assert_false(show.ended);
}

/* The server's own error has the number of the event that would have come. */
static void test_a_broken_stream(void **state)
{
    (void)state;
    struct show show = {0};
    const char *trouble = "{\"event\":\"error\",\"id\":2,\"data\":{\"error\":\"unavailable\","
                          "\"detail\":\"it stops\",\"timestamp\":\"now\"}}";
    struct shown shown = show_all(&show, LINES(STARTED, trouble));
    assert_ok(shown.result, shown.err);
    assert_string_equal(show.trouble, "it stops");
    assert_int_equal(show.last, 1);
    shown = show_all(&show, LINES("{\"event\":\"error\",\"id\":2,\"data\":{\"name\":\"E\"}}"));
    assert_string_equal(show.trouble, "");
    assert_int_equal(show.last, 2);
}

static void test_results(void **state)
{
    (void)state;
    const char *const *lines = LINES(
        STARTED,
        "{\"event\":\"result\",\"id\":2,\"data\":{\"text/plain\":\"41\",\"text/html\":\"x\"}}",
        "{\"event\":\"result\",\"id\":3,\"data\":{\"text/html\":\"abc\",\"application/json\":{}}}",
        "{\"event\":\"result\",\"id\":4,\"data\":{\"text/plain\":\"f\\n\",\"image/"
        "png\":\"YWJj\"}}");
    struct show show = {.results = true};
    struct shown shown = show_all(&show, lines);
    assert_ok(shown.result, shown.err);
    assert_string_equal(shown.out, "41\nf\n");
    assert_non_null(strstr(shown.err_out, "[text/html, 3 B]"));
    assert_non_null(strstr(shown.err_out, "[application/json]"));
    assert_non_null(strstr(shown.err_out, "[image/png, 3 B]"));
    show = (struct show){.results = false};
    shown = show_all(&show, lines);
    assert_string_equal(shown.out, "");
    assert_string_equal(shown.err_out, "");
    show = (struct show){.silent = true, .results = true};
    shown = show_all(&show, lines);
    assert_string_equal(shown.out, "");
    assert_string_equal(shown.err_out, "");
    assert_int_equal(show.last, 4);
}

static void test_images_are_written(void **state)
{
    (void)state;
    struct show show = {.results = true, .images_path = "images"};
    char content[64];
    struct shown shown = show_all(
        &show, LINES(STARTED,
                     "{\"event\":\"result\",\"id\":7,\"data\":{\"image/png\":\"YWJj\","
                     "\"image/svg+xml\":\"<svg/>\",\"image/x-odd\":\"YWJj\"}}",
                     "{\"event\":\"result\",\"id\":8,\"data\":{\"image/png\":\"no base64\"}}"));
    assert_ok(shown.result, shown.err);
    assert_int_equal(
        fd_read_file_at(AT_FDCWD, "images/0123abcd-7.png", content, sizeof(content), NULL), 3);
    assert_string_equal(content, "abc");
    assert_int_equal(
        fd_read_file_at(AT_FDCWD, "images/0123abcd-7.svg", content, sizeof(content), NULL), 6);
    assert_non_null(strstr(shown.err_out, "[image/png, 3 B: images/0123abcd-7.png]"));
    assert_non_null(strstr(shown.err_out, "[image/png]"));
    assert_int_not_equal(access("images/0123abcd-8.png", F_OK), 0);
    show.images_path = "/dev/null/no";
    shown =
        show_all(&show, LINES("{\"event\":\"result\",\"id\":9,\"data\":{\"image/png\":\"YWJj\"}}"));
    assert_true(shown.result < 0 && show.failed);
    assert_int_equal(show.last, 8);
}

/* What a server says gets into paths and requests. */
static void test_ids_that_are_none(void **state)
{
    (void)state;
    struct show show = {0};
    struct shown shown = show_all(
        &show, LINES("{\"event\":\"started\",\"id\":1,\"data\":{\"execution_id\":\"../../x\"}}"));
    assert_ok(shown.result, shown.err);
    assert_string_equal(show.id, "");
}

static void test_lines_that_are_no_events(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "x",
                                      "[]",
                                      "{}",
                                      "{\"event\":\"stdout\"}",
                                      "{\"event\":1,\"data\":{}}",
                                      "{\"event\":\"stdout\",\"id\":-1,\"data\":{}}"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct show show = {0};
        struct shown shown = show_all(&show, LINES(bad[i]));
        assert_fails(shown.result, ERR_PROTOCOL, shown.err);
        assert_true(show.failed);
    }
}

#define on_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_folder(test_output_and_end),           on_folder(test_what_was_shown_is_not_shown_again),
        on_folder(test_a_broken_stream),          on_folder(test_results),
        on_folder(test_images_are_written),       on_folder(test_ids_that_are_none),
        on_folder(test_lines_that_are_no_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
