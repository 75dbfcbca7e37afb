/* cli/run_options: the command line of `berth run` as the request that it asks for. */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "child.h"
#include "cli/run_options.h"

static char folder[] = "/tmp/berth-test-run-XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
    if (!mkdtemp(folder) || chdir(folder) != 0)
        return -1;
    FD_AUTO int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return dup2(null_fd, STDIN_FILENO) == STDIN_FILENO ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    child_remove_tree(folder);
    return chdir("/");
}

static void put(const char *name, const void *data, size_t size)
{
    FD_AUTO int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), size);
}

static void set_stdin(const char *text)
{
    put("stdin", text, strlen(text));
    FD_AUTO int fd = open("stdin", O_RDONLY | O_CLOEXEC);
    assert_int_equal(dup2(fd, STDIN_FILENO), STDIN_FILENO);
}

enum { WORDS_MAX = 30 };

/* Parses "run" and the words, which getopt wants writable. It remembers where it was in the words
 * of an earlier call, since a program parses its own once: 0 makes it begin anew. */
static int parse(const char *const *words, struct run_options *options, struct err *err)
{
    char *argv[WORDS_MAX + 2] = {strdup("run")};
    int argc = 1;
    for (; words[argc - 1]; argc++)
        argv[argc] = strdup(words[argc - 1]);
    optind = 0;
    (void)getopt(1, argv, "+");
    int result = run_options_parse(argc, argv, options, err);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    return result;
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* The request is this JSON. */
static void expect(const char *const *words, const char *wanted)
{
    struct run_options options;
    struct err err = ERR_INIT;
    json_error_t error;
    assert_ok(parse(words, &options, &err), err);
    json_t *json = json_loads(wanted, 0, &error);
    assert_non_null(json);
    if (!json_equal(json, options.request)) {
        char *text = json_dumps(options.request, JSON_COMPACT);
        fail_msg("%s, wanted %s", text, wanted);
    }
    json_decref(json);
    run_options_done(&options);
}

static void refused(const char *const *words, enum err_kind kind, const char *word)
{
    struct run_options options = {0};
    struct err err = ERR_INIT;
    assert_fails(parse(words, &options, &err), kind, err);
    assert_null(options.request);
    if (!strstr(err.message, word))
        fail_msg("no \"%s\" in: %s", word, err.message);
}

static void test_where_the_code_is(void **state)
{
    (void)state;
    put("prog.py", "print(1)\n", 9);
    expect(WORDS("-c", "x = 1"), "{\"code\":\"x = 1\"}");
    expect(WORDS("--code=x"), "{\"code\":\"x\"}");
    expect(WORDS("-c", ""), "{\"code\":\"\"}");
    expect(WORDS("-c", "x", "--image", "debian", "--profile=container", "--storage", "4GiB"),
           "{\"code\":\"x\",\"image\":\"debian\",\"profile\":\"container\","
           "\"resources\":{\"storage\":\"4GiB\"}}");
    expect(WORDS("prog.py"), "{\"code\":\"print(1)\\n\"}");
    set_stdin("from stdin");
    expect(WORDS("-"), "{\"code\":\"from stdin\"}");
    refused(WORDS("missing.py"), ERR_INTERNAL, "missing.py");
    refused(WORDS("-l", "python"), ERR_BAD_INPUT, "say what to run");
    refused(WORDS("-c", "x", "prog.py"), ERR_BAD_INPUT, "one too many");
    refused(WORDS("prog.py", "more"), ERR_BAD_INPUT, "say what to run");
    put("binary", "\xff\xfe", 2);
    refused(WORDS("binary"), ERR_BAD_INPUT, "UTF-8");
}

static void test_options(void **state)
{
    (void)state;
    expect(WORDS("-l", "python", "-t", "1.5", "--ram", "64MB", "--cpu", "0.5", "--storage", "1GiB",
                 "-e", "A=1", "-e", "B=x=y", "--env=C=", "--network", "egress", "--allow", "a.org",
                 "--library", "six", "--library=a[b]>=1", "-c", "x"),
           "{\"lang\":\"python\",\"timeout\":1.5,\"resources\":{\"ram\":\"64MB\",\"cpu\":\"0.5\","
           "\"storage\":\"1GiB\"},\"env\":{\"A\":\"1\",\"B\":\"x=y\",\"C\":\"\"},\"network\":{"
           "\"mode\":\"egress\",\"allow\":[\"a.org\"]},\"libraries\":[\"six\",\"a[b]>=1\"],"
           "\"code\":\"x\"}");
    refused(WORDS("-e", "A", "-c", "x"), ERR_BAD_INPUT, "NAME=VALUE");
    refused(WORDS("-e", "=1", "-c", "x"), ERR_BAD_INPUT, "NAME=VALUE");
    refused(WORDS("-t", "soon", "-c", "x"), ERR_BAD_INPUT, "");
    refused(WORDS("--what", "-c", "x"), ERR_BAD_INPUT, "--what");
    refused(WORDS("-c"), ERR_BAD_INPUT, "-c");
    refused(WORDS("-x", "-c", "x"), ERR_BAD_INPUT, "-x");
}

static void test_flags(void **state)
{
    (void)state;
    struct run_options options;
    struct err err = ERR_INIT;
    assert_ok(parse(WORDS("--json", "-c", "x"), &options, &err), err);
    assert_true(options.json);
    assert_false(options.help);
    run_options_done(&options);
    assert_ok(parse(WORDS("-h"), &options, &err), err);
    assert_true(options.help);
    run_options_done(&options);
    run_options_done(&options); /* twice is once */
    static const char *const words[] = {"--code",    "--lang", "--timeout", "--ram",   "--cpu",
                                        "--storage", "--env",  "--file",    "--stdin", "--json"};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        assert_non_null(strstr(run_options_help(), words[i]));
}

static void test_files(void **state)
{
    (void)state;
    put("one", "a", 1);
    put("two", "ab", 2);
    put("three", "abc", 3);
    put("bytes", "\0\xff\xfe\xfd", 4);
    put("none", "", 0);
    expect(WORDS("--file", "one", "--file", "./two:in/there", "--file", "three:", "--file",
                 "bytes:/abs", "--file", "none", "-c", "x"),
           "{\"code\":\"x\",\"files\":[{\"path\":\"one\",\"content\":\"YQ==\"},"
           "{\"path\":\"in/there\",\"content\":\"YWI=\"},"
           "{\"path\":\"three\",\"content\":\"YWJj\"},"
           "{\"path\":\"/abs\",\"content\":\"AP/+/Q==\"},{\"path\":\"none\",\"content\":\"\"}]}");
    refused(WORDS("--file", "missing", "-c", "x"), ERR_INTERNAL, "missing");
}

static void test_stdin(void **state)
{
    (void)state;
    put("input", "typed\n", 6);
    expect(WORDS("--stdin", "input", "-c", "x"), "{\"code\":\"x\",\"stdin\":\"typed\\n\"}");
    set_stdin("piped");
    expect(WORDS("-c", "x"), "{\"code\":\"x\",\"stdin\":\"piped\"}");
    set_stdin("piped");
    expect(WORDS("--stdin", "input", "-c", "x"), "{\"code\":\"x\",\"stdin\":\"typed\\n\"}");
    set_stdin("the code");
    expect(WORDS("--stdin", "input", "-"), "{\"code\":\"the code\",\"stdin\":\"typed\\n\"}");
    refused(WORDS("--stdin", "missing", "-c", "x"), ERR_INTERNAL, "missing");
}

static void test_too_large(void **state)
{
    (void)state;
    enum { SIZE = 4100000 };
    char *text = malloc(SIZE);
    assert_non_null(text);
    memset(text, 'x', SIZE);
    put("large", text, SIZE);
    free(text);
    refused(WORDS("large"), ERR_TOO_LARGE, "large");
    refused(WORDS("--file", "large", "-c", "x"), ERR_TOO_LARGE, "large");
}

#define on_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_folder(test_where_the_code_is),
        on_folder(test_options),
        on_folder(test_flags),
        on_folder(test_files),
        on_folder(test_stdin),
        on_folder(test_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
