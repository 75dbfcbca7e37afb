/* docker: names of images, credentials of registries, what a build is made of, and a pull that
 * stalls. */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/encoding.h"
#include "base/fd.h"
#include "docker/context.h"
#include "docker/ignore.h"
#include "docker/image.h"
#include "docker/progress.h"
#include "docker/reference.h"
#include "docker/registry.h"
#include "fake_docker.h"
#include "folder.h"
#include "wire/json.h"

static void test_references(void **state)
{
    static const char *const good[] = {"a", "a:1", "h.example:5000/team/a:1", "a@sha256:00ff",
                                       "localhost/x"};
    static const char *const bad[] = {"",    "-x",  "/x",    "a..b", "a//b",
                                      "a b", "a?b", "a%2fb", "a\nb"};
    static const char *const whole[][2] = {{"a", "docker.io/library/a"},
                                           {"team/a:1", "docker.io/team/a:1"},
                                           {"localhost/a", "localhost/a"},
                                           {"host:5000/a", "host:5000/a"}};
    char text[REFERENCE_FULL_SIZE];
    char escaped[REFERENCE_ESCAPED_SIZE];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(reference_is_valid(good[i]));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(reference_is_valid(bad[i]));
    for (size_t i = 0; i < ARRAY_SIZE(whole); i++) {
        reference_expand(whole[i][0], text);
        assert_string_equal(text, whole[i][1]);
    }
    assert_false(reference_has_tag("h.example:5000/a"));
    assert_true(reference_has_tag("h.example:5000/a:1"));
    assert_true(reference_has_tag("a@sha256:00ff"));
    reference_escape("h:5/a@b", escaped);
    assert_string_equal(escaped, "h%3A5%2Fa%40b");
}

/* ---- credentials ---- */

static const char *write_config(const char *text)
{
    static char path[4200];
    (void)snprintf(path, sizeof(path), "%s/config.json", folder);
    FD_AUTO int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(fd_write_all(fd, text, strlen(text), NULL), 0);
    return path;
}

/* What the daemon is told, decoded; "" nothing. Valid until the next call. */
static const char *sent(struct registry_login *login, const char *name)
{
    static struct buf text;
    char *header = (char *)login->header.data;
    size_t prefix = strlen(name) + 2;
    buf_done(&text);
    buf_init(&text, 1 << 16);
    if (login->header.size == 0)
        return "";
    assert_memory_equal(header, name, strlen(name));
    for (char *at = header + prefix; *at != '\0'; at++) {
        *at = *at == '-' ? '+' : *at;
        *at = *at == '_' ? '/' : *at;
    }
    assert_int_equal(base64_decode(header + prefix, strlen(header + prefix), &text, NULL), 0);
    return buf_cstr(&text);
}

static const char config[] =
    "{\"auths\":{\"https://index.docker.io/v1/\":{\"auth\":\"aHViOmh1Yi1wYXNz\"},"
    "\"127.0.0.1:5000\":{\"auth\":\"bWU6bXk6cGFzc34/Pg==\"},"
    "\"quay.example/team\":{\"auth\":\"dGVhbTp0ZWFtLXBhc3M=\"},"
    "\"quay.example\":{\"username\":\"all\",\"password\":\"all-pass\"},"
    "\"token.example\":{\"auth\":\"\",\"identitytoken\":\"the-token\"},"
    "\"empty.example\":{},"
    "\"kept.example\":{},"
    "\"bad.example\":{\"auth\":\"***secret***\"}},"
    "\"credHelpers\":{\"kept.example\":\"pass\"}}";

static void test_credentials_are_those_of_the_registry(void **state)
{
    static const struct {
        const char *reference;
        const char *told;
    } cases[] = {
        {"alpine", "{\"username\":\"hub\",\"password\":\"hub-pass\",\"serveraddress\":"
                   "\"https://index.docker.io/v1/\"}"},
        {"docker.io/team/x:1", "{\"username\":\"hub\",\"password\":\"hub-pass\",\"serveraddress\":"
                               "\"https://index.docker.io/v1/\"}"},
        {"127.0.0.1:5000/x", "{\"username\":\"me\",\"password\":\"my:pass~?>\",\"serveraddress\":"
                             "\"127.0.0.1:5000\"}"},
        {"quay.example/team/x", "{\"username\":\"team\",\"password\":\"team-pass\","
                                "\"serveraddress\":\"quay.example/team\"}"},
        {"quay.example/team:1", "{\"username\":\"team\",\"password\":\"team-pass\","
                                "\"serveraddress\":\"quay.example/team\"}"},
        {"quay.example/teams/x", "{\"username\":\"all\",\"password\":\"all-pass\","
                                 "\"serveraddress\":\"quay.example\"}"},
        {"token.example/x",
         "{\"identitytoken\":\"the-token\",\"serveraddress\":\"token.example\"}"},
        /* Neither another port nor a name that begins alike is the same registry. */
        {"127.0.0.1:5001/x", ""},
        {"quay.example:444/team/x", ""},
        {"quay.example.evil.example/x", ""},
        {"empty.example/x", ""},
    };
    struct err err = ERR_INIT;
    struct registry_login login = {0};
    (void)state;
    const char *path = write_config(config);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_ok(registry_login_find(path, cases[i].reference, &login, &err), err);
        assert_string_equal(sent(&login, "X-Registry-Auth"), cases[i].told);
        assert_false(login.is_kept_by_one);
    }
    assert_ok(registry_login_find(path, "kept.example/x", &login, &err), err);
    assert_int_equal(login.header.size, 0);
    assert_true(login.is_kept_by_one);
    registry_login_done(&login);
}

static void test_credentials_are_in_no_error(void **state)
{
    struct err err = ERR_INIT;
    struct registry_login login = {0};
    (void)state;
    const char *path = write_config(config);
    assert_fails(registry_login_find(path, "bad.example/x", &login, &err), ERR_UNAVAILABLE, err);
    assert_null(strstr(err.message, "secret"));
    assert_non_null(strstr(err.message, "bad.example"));
    path = write_config("{\"auths\":{\"x\":{\"auth\":\"the-secret\"");
    assert_fails(registry_login_find(path, "x.example/x", &login, &err), ERR_UNAVAILABLE, err);
    assert_null(strstr(err.message, "secret"));
    assert_int_equal(unlink(path), 0);
    assert_ok(registry_login_find(path, "x.example/x", &login, &err), err);
    assert_int_equal(login.header.size, 0);
    path = write_config("{\"auths\":{\"a\":{\"auth\":\"bWU6bXktcGFzcw==\"},"
                        "\"b\":{\"identitytoken\":\"tttt\"}}}");
    assert_ok(registry_login_all(path, &login, &err), err);
    assert_string_equal(
        sent(&login, "X-Registry-Config"),
        "{\"a\":{\"username\":\"me\",\"password\":\"my-pass\",\"serveraddress\":\"a\"},"
        "\"b\":{\"identitytoken\":\"tttt\",\"serveraddress\":\"b\"}}");
    assert_true(registry_login_is_told(&login, "you sent Basic bWU6bXktcGFzcw==!"));
    assert_true(registry_login_is_told(&login, "the password my-pass is wrong"));
    assert_true(registry_login_is_told(&login, "tttt"));
    assert_false(registry_login_is_told(&login, "denied"));
    registry_login_done(&login);
}

/* ---- what a build is made of ---- */

static void test_ignored_files(void **state)
{
    static const struct {
        const char *patterns;
        const char *path;
        bool ignored;
    } cases[] = {
        {"a", "a", true},
        {"a", "a/b/c", true},
        {"a", "ab", false},
        {"a", "x/a", false},
        {"/a/", "a", true},
        {"./a/../b", "b", true},
        {"*.o", "x.o", true},
        {"*.o", "d/x.o", false},
        {"**/*.o", "x.o", true},
        {"**/*.o", "d/e/x.o", true},
        {"**/*.o", "d/x.oo", false},
        {"a/**/b", "a/b", true},
        {"a/**/b", "a/x/y/b", true},
        {"a/**/b", "a/xb", false},
        {"**", "a/b", true},
        {"a/**", "a/b/c", true},
        {"a**z", "a/b/z", true},
        {"?.c", "a.c", true},
        {"?.c", "/.c", false},
        {"[a-c]x", "bx", true},
        {"[^a-c]x", "bx", false},
        {"[^a-c]x", "dx", true},
        {"[a", "[a", true},
        {"\\*", "*", true},
        {"\\*", "a", false},
        {"# a", "# a", false},
        {"*\n!keep", "keep", false},
        {"*\n!keep", "keep/x", false},
        {"*\n!keep", "other", true},
        {"*.md\n!R*.md\nR-secret.md", "README.md", false},
        {"*.md\n!R*.md\nR-secret.md", "R-secret.md", true},
        {"\xef\xbb\xbf"
         "a \r\n\n",
         "a", true},
        {"a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         false},
    };
    char line[1100];
    struct err err = ERR_INIT;
    struct ignore ignore;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        ignore_init(&ignore);
        assert_ok(ignore_read(&ignore, cases[i].patterns, strlen(cases[i].patterns), &err), err);
        if (ignore_has(&ignore, cases[i].path) != cases[i].ignored)
            fail_msg("%s of %s", cases[i].path, cases[i].patterns);
        ignore_done(&ignore);
    }
    ignore_init(&ignore);
    memset(line, 'a', sizeof(line));
    assert_fails(ignore_read(&ignore, line, sizeof(line), &err), ERR_BAD_INPUT, err);
    ignore_done(&ignore);
}

static void put_file(const char *name, const char *text)
{
    char path[4200];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    FD_AUTO int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, text, strlen(text), NULL), 0);
}

static bool tar_has(int fd, const char *text)
{
    static char data[1 << 20];
    ssize_t size = pread(fd, data, sizeof(data), 0);
    assert_true(size > 0 && (size_t)size < sizeof(data));
    return memmem(data, (size_t)size, text, strlen(text)) != NULL;
}

static void test_a_context_lacks_what_is_ignored(void **state)
{
    char path[4200];
    uint64_t size_bytes = 0;
    struct err err = ERR_INIT;
    (void)state;
    (void)snprintf(path, sizeof(path), "%s/secret", folder);
    assert_int_equal(mkdir(path, 0755), 0);
    (void)snprintf(path, sizeof(path), "%s/fifo", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    (void)snprintf(path, sizeof(path), "%s/link", folder);
    assert_int_equal(symlink("/etc/hostname", path), 0);
    put_file("Dockerfile", "FROM scratch");
    put_file(".dockerignore", "secret\nDockerfile\n");
    put_file("secret/key", "the-secret-key");
    put_file("--owner=7", "the-plain-file");
    {
        FD_AUTO int fd = -1;
        assert_ok(context_make(folder, "Dockerfile", &fd, &size_bytes, &err), err);
        assert_true(tar_has(fd, "FROM scratch"));
        assert_true(tar_has(fd, "the-plain-file"));
        assert_true(tar_has(fd, "/etc/hostname"));
        assert_false(tar_has(fd, "the-secret-key"));
        assert_false(tar_has(fd, "fifo"));
    }
    FD_AUTO int none_fd = -1;
    assert_true(context_make(folder, "Other", &none_fd, &size_bytes, &err) < 0);
    assert_non_null(strstr(err.message, "Other"));
}

/* ---- pulling ---- */

struct seen {
    size_t lines;
    char last[64];
};

static void see(void *context, const struct progress_line *line)
{
    struct seen *seen = context;
    seen->lines++;
    (void)snprintf(seen->last, sizeof(seen->last), "%s|%s|%s|%llu", line->status, line->text,
                   line->error, (unsigned long long)line->total);
}

static void test_lines_of_progress(void **state)
{
    static const char text[] = "{\"status\":\"a\",\"progressDetail\":{\"total\":7}}\r\n"
                               "no json\n[1]\n\n{\"stream\":5}\n{\"error\":\"bad\"}";
    struct seen seen = {0};
    struct progress progress;
    (void)state;
    progress_init(&progress, 128, see, &seen);
    for (size_t i = 0; i < sizeof(text) - 1; i++)
        progress_take(&progress, text + i, 1);
    assert_int_equal(seen.lines, 2);
    progress_end(&progress);
    assert_int_equal(seen.lines, 3);
    assert_string_equal(seen.last, "||bad|0");
    for (size_t i = 0; i < 1000; i++) /* a line that has no end */
        progress_take(&progress, "{\"error\":\"xxxxxxxxx", 19);
    progress_take(&progress, "\n{\"status\":\"b\"}\n", 16);
    assert_string_equal(seen.last, "b|||0");
    progress_done(&progress);
}

static void note_change(void *context)
{
    (*(unsigned *)context)++;
}

static void test_a_pull_that_stalls_is_given_up(void **state)
{
    char path[4200];
    char host[4300];
    unsigned changes = 0;
    static struct images images;
    struct image *image = NULL;
    struct err err = ERR_INIT;
    struct daemon daemon = {.is_up = true, .facts = {.api = "/v1.41"}};
    (void)state;
    (void)snprintf(path, sizeof(path), "%s/docker.sock", folder);
    (void)snprintf(host, sizeof(host), "unix://%s", path);
    (void)setenv("DOCKER_HOST", host, 1);
    (void)setenv("DOCKER_BASE_IMAGE", "slow:1", 1);
    (void)setenv("HOME", folder, 1);
    struct fake_docker *fake = fake_docker_start(path);
    assert_non_null(fake);
    fake_docker_refuse(fake, "/images/slow:1/json", 2, 404, "No such image");
    fake_docker_delay(fake, "/images/create", 4000);
    assert_ok(address_find(&daemon.address, &err), err);
    assert_ok(loop_new(&daemon.loop, &err), err);
    assert_ok(web_new(daemon.loop, &daemon.address, &daemon.web, &err), err);
    images.daemon = &daemon;
    images.on_change = note_change;
    images.context = &changes;
    assert_ok(images_init(&images, &err), err);
    images.stall_ns = CLOCK_NS_PER_S;
    assert_ok(images_find(&images, "", &image, &err), err);
    assert_int_equal(image_want(image, &err), 0);
    while (changes == 0) /* the daemon's answer would come later */
        assert_ok(loop_step(daemon.loop, clock_now_ns() + CLOCK_NS_PER_S, &err), err);
    assert_fails(image_want(image, &err), ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "nothing came"));
    assert_null(image->call);
    /* The next one, with a daemon that goes on, is not ended by what is left of this one. */
    fake_docker_delay(fake, "", 0);
    images.stall_ns = 60 * CLOCK_NS_PER_S;
    image->retry_at_ns = 0;
    assert_int_equal(image_want(image, &err), 0);
    while (changes == 1)
        assert_ok(loop_step(daemon.loop, clock_now_ns() + CLOCK_NS_PER_S, &err), err);
    assert_int_equal(image_want(image, &err), 1);
    images_done(&images);
    web_free(daemon.web);
    loop_free(daemon.loop);
    fake_docker_stop(fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_references),
        in_folder(test_credentials_are_those_of_the_registry),
        in_folder(test_credentials_are_in_no_error),
        cmocka_unit_test(test_ignored_files),
        in_folder(test_a_context_lacks_what_is_ignored),
        cmocka_unit_test(test_lines_of_progress),
        in_folder(test_a_pull_that_stalls_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
