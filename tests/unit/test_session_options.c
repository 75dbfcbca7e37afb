/* cli/session_options: the command lines of `berth session`. */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "child.h"
#include "cli/session_options.h"

static char folder[] = "/tmp/berth-test-session-XXXXXX";

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

static void put(const char *name, const char *text)
{
    FD_AUTO int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void set_stdin(const char *text)
{
    put("stdin", text);
    FD_AUTO int fd = open("stdin", O_RDONLY | O_CLOEXEC);
    assert_int_equal(dup2(fd, STDIN_FILENO), STDIN_FILENO);
}

enum { WORDS_MAX = 20 };

/* The words stay, and in place: ids and paths are borrowed from them. */
struct parsed {
    char *argv[WORDS_MAX + 1];
    struct session_options options;
    struct err err;
    int result;
};

static void parse(const char *const *words, struct parsed *parsed)
{
    memset(parsed, 0, sizeof(*parsed));
    int argc = 0;
    for (; words[argc]; argc++)
        parsed->argv[argc] = strdup(words[argc]);
    optind = 0; /* getopt(3) remembers where it was in the words of an earlier call */
    (void)getopt(1, parsed->argv, "+");
    parsed->result = session_options_parse(argc, parsed->argv, &parsed->options, &parsed->err);
}

static void parsed_done(struct parsed *parsed)
{
    session_options_done(&parsed->options);
    session_options_done(&parsed->options); /* twice is once */
    for (int i = 0; parsed->argv[i]; i++)
        free(parsed->argv[i]);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* The request is this JSON; id NULL: none is wanted. */
static void expect(const char *const *words, const char *id, const char *wanted)
{
    struct parsed parsed;
    parse(words, &parsed);
    assert_ok(parsed.result, parsed.err);
    json_t *json = json_loads(wanted, 0, NULL);
    assert_non_null(json);
    if (!json_equal(json, parsed.options.request)) {
        char *text = json_dumps(parsed.options.request, JSON_COMPACT);
        fail_msg("%s, wanted %s", text, wanted);
    }
    assert_int_equal(parsed.options.id_count, id ? 1 : 0);
    if (id)
        assert_string_equal(parsed.options.ids[0], id);
    json_decref(json);
    parsed_done(&parsed);
}

static void refused(const char *const *words, enum err_kind kind, const char *word)
{
    struct parsed parsed;
    parse(words, &parsed);
    assert_fails(parsed.result, kind, parsed.err);
    assert_null(parsed.options.request);
    if (!strstr(parsed.err.message, word))
        fail_msg("no \"%s\" in: %s", word, parsed.err.message);
    parsed_done(&parsed);
}

static void test_new(void **state)
{
    (void)state;
    expect(WORDS("new"), NULL, "{}");
    expect(WORDS("new", "-l", "python", "-t", "600", "--idle-timeout", "1.5", "--ram", "64MB",
                 "--cpu", "2", "--storage=1GiB", "--image", "debian", "--profile", "container",
                 "-e", "A=1", "--env", "B="),
           NULL,
           "{\"lang\":\"python\",\"timeout\":600.0,\"idle_timeout\":1.5,\"resources\":{\"ram\":"
           "\"64MB\",\"cpu\":\"2\",\"storage\":\"1GiB\"},\"image\":\"debian\",\"profile\":"
           "\"container\",\"env\":{\"A\":\"1\",\"B\":\"\"}}");
    expect(WORDS("new", "--allow", "a.org", "--allow", "b.org:22"), NULL,
           "{\"network\":{\"mode\":\"egress\",\"allow\":[\"a.org\",\"b.org:22\"]}}");
    expect(WORDS("new", "--library", "six", "--library=attrs==1"), NULL,
           "{\"libraries\":[\"six\",\"attrs==1\"]}");
    expect(WORDS("new", "--network", "egress"), NULL, "{\"network\":{\"mode\":\"egress\"}}");
    refused(WORDS("new", "more"), ERR_BAD_INPUT, "more");
    refused(WORDS("new", "-t", "soon"), ERR_BAD_INPUT, "");
    refused(WORDS("new", "--idle-timeout", "x"), ERR_BAD_INPUT, "");
    refused(WORDS("new", "--code", "x"), ERR_BAD_INPUT, "--code");
    refused(WORDS("new", "-e", "A"), ERR_BAD_INPUT, "NAME=VALUE");
}

static void test_network(void **state)
{
    (void)state;
    expect(WORDS("network", "an-id"), "an-id", "{}");
    expect(WORDS("network", "an-id", "none"), "an-id", "{\"network\":{\"mode\":\"none\"}}");
    expect(WORDS("network", "an-id", "egress", "--allow", "a.org"), "an-id",
           "{\"network\":{\"mode\":\"egress\",\"allow\":[\"a.org\"]}}");
    expect(WORDS("network", "--allow=a.org", "an-id"), "an-id",
           "{\"network\":{\"mode\":\"egress\",\"allow\":[\"a.org\"]}}");
    refused(WORDS("network"), ERR_BAD_INPUT, "id");
    refused(WORDS("network", "an-id", "none", "more"), ERR_BAD_INPUT, "");
    refused(WORDS("network", "an-id", "--lang", "python"), ERR_BAD_INPUT, "--lang");
}

static void test_exec_finds_its_code(void **state)
{
    (void)state;
    put("prog.py", "print(1)\n");
    expect(WORDS("exec", "an-id", "x = 1"), "an-id", "{\"code\":\"x = 1\"}");
    expect(WORDS("exec", "an-id", "-f", "prog.py"), "an-id", "{\"code\":\"print(1)\\n\"}");
    expect(WORDS("exec", "-f", "prog.py", "an-id"), "an-id", "{\"code\":\"print(1)\\n\"}");
    expect(WORDS("exec", "an-id", "--file=prog.py", "-t", "2"), "an-id",
           "{\"code\":\"print(1)\\n\",\"timeout\":2.0}");
    expect(WORDS("exec", "-t", "2", "an-id", "--", "-x"), "an-id",
           "{\"code\":\"-x\",\"timeout\":2.0}");
    set_stdin("from stdin");
    expect(WORDS("exec", "an-id", "-"), "an-id", "{\"code\":\"from stdin\"}");
    set_stdin("from stdin");
    expect(WORDS("exec", "an-id", "-f", "-"), "an-id", "{\"code\":\"from stdin\"}");
    set_stdin("typed");
    expect(WORDS("exec", "an-id", "x"), "an-id", "{\"code\":\"x\",\"stdin\":\"typed\"}");
    expect(WORDS("exec", "--stdin", "prog.py", "an-id", "x"), "an-id",
           "{\"code\":\"x\",\"stdin\":\"print(1)\\n\"}");
    refused(WORDS("exec"), ERR_BAD_INPUT, "id of a session");
    refused(WORDS("exec", "an-id"), ERR_BAD_INPUT, "say what to run");
    refused(WORDS("exec", "an-id", "x", "y"), ERR_BAD_INPUT, "one word");
    refused(WORDS("exec", "an-id", "-f", "prog.py", "y"), ERR_BAD_INPUT, "one too many");
    refused(WORDS("exec", "an-id", "-f", "missing.py"), ERR_INTERNAL, "missing.py");
    refused(WORDS("exec", "an-id", "-f"), ERR_BAD_INPUT, "-f");
    refused(WORDS("exec", "--ram", "1GB", "an-id", "x"), ERR_BAD_INPUT, "--ram");
}

static void test_flags(void **state)
{
    (void)state;
    struct parsed parsed;
    parse(WORDS("exec", "--json", "--save-images", "there", "an-id", "x"), &parsed);
    assert_ok(parsed.result, parsed.err);
    assert_true(parsed.options.json);
    assert_string_equal(parsed.options.images_path, "there");
    parsed_done(&parsed);
    parse(WORDS("ls", "-q", "--json"), &parsed);
    assert_ok(parsed.result, parsed.err);
    assert_true(parsed.options.quiet && parsed.options.json);
    parsed_done(&parsed);
    parse(WORDS("new", "--json"), &parsed);
    assert_ok(parsed.result, parsed.err);
    assert_true(parsed.options.json && !parsed.options.help);
    parsed_done(&parsed);
}

static void test_other_commands(void **state)
{
    (void)state;
    expect(WORDS("attach", "an-id"), "an-id", "{}");
    expect(WORDS("attach", "-t", "2.5", "--save-images", "x", "an-id"), "an-id",
           "{\"timeout\":2.5}");
    refused(WORDS("attach"), ERR_BAD_INPUT, "id of a session");
    refused(WORDS("attach", "a", "b"), ERR_BAD_INPUT, "\"b\"");
    refused(WORDS("ls", "a"), ERR_BAD_INPUT, "\"a\"");
    refused(WORDS("rm"), ERR_BAD_INPUT, "id of a session");
    refused(WORDS("nope"), ERR_BAD_INPUT, "nope");
    struct parsed parsed;
    parse(WORDS("rm", "a", "b", "c"), &parsed);
    assert_ok(parsed.result, parsed.err);
    assert_int_equal(parsed.options.id_count, 3);
    assert_string_equal(parsed.options.ids[2], "c");
    parsed_done(&parsed);
}

static void test_helps(void **state)
{
    (void)state;
    static const char *const names[] = {"new", "exec", "attach", "ls", "rm"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct parsed parsed;
        parse(WORDS(names[i], "--help"), &parsed);
        assert_ok(parsed.result, parsed.err);
        assert_true(parsed.options.help);
        char usage[64];
        (void)snprintf(usage, sizeof(usage), "usage: berth session %s", names[i]);
        assert_ptr_equal(strstr(session_options_help(parsed.options.command), usage),
                         session_options_help(parsed.options.command));
        parsed_done(&parsed);
    }
}

#define on_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_folder(test_new),   on_folder(test_network),        on_folder(test_exec_finds_its_code),
        on_folder(test_flags), on_folder(test_other_commands), on_folder(test_helps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
