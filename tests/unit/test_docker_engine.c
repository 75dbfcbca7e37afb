/* berth-docker as a process, with the server's own client, against a pretended Docker daemon: what
 * it asks for, what it makes of the answers, and what becomes of sandboxes when the daemon or the
 * engine goes. */
#include "docker_rig.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"
#include "child.h"
#include "docker/tar.h"
#include "folder.h"
#include "sandbox_spec.h"

static void test_says_what_the_daemon_can_do(void **state)
{
    struct rig *rig = *state;
    struct engine_info info;
    struct err err = ERR_INIT;
    assert_ok(engine_probe(rig->engine, soon(), &info, &err), err);
    assert_string_equal(info.unavailable, "");
    assert_string_equal(info.name, "docker");
    assert_string_equal(info.version, "99.1");
    assert_string_equal(info.cgroup_mode, "v2");
    assert_string_equal(info.images, "base:1 other:2");
    assert_int_equal(info.cpu_millis, 4000);
    assert_true(info.memory_bytes == UINT64_C(8) << 30);
    assert_int_equal(info.runtime_count, 2);
    assert_string_equal(info.runtimes[0].name, "runc");
    assert_string_equal(info.runtimes[0].version, "1.2.8");
    assert_string_equal(info.runtimes[0].warning, "");
    assert_string_equal(info.runtimes[1].name, "runsc");
    assert_true((info.runtimes[0].capabilities & ENGINE_CAP_PIDS) != 0);
    assert_true((info.runtimes[1].capabilities & ENGINE_CAP_PIDS) == 0);
    assert_true((info.capabilities & ENGINE_CAP_STORAGE) == 0);
}

static void test_makes_speaks_and_removes(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    enum engine_state seen = ENGINE_STATE_CREATING;
    FD_AUTO int fd = -1;
    FD_AUTO int second_fd = -1;
    assert_ok(create(rig, "one", &fd, &err), err);
    assert_says_hi(fd);
    assert_ok(engine_open_channel(rig->engine, "one", soon(), &second_fd, &err), err);
    assert_says_hi(second_fd);
    assert_ok(engine_inspect(rig->engine, "one", soon(), &seen, &err), err);
    assert_int_equal(seen, ENGINE_STATE_RUNNING);
    assert_fails(create(rig, "one", NULL, &err), ERR_CONFLICT, err);
    const char *body = fake_docker_made_of(rig->docker, "berth-" INSTANCE "-one");
    assert_non_null(strstr(body, "\"Image\":\"base:1\""));
    assert_non_null(strstr(body, "\"NetworkMode\":\"none\""));
    assert_non_null(strstr(body, "\"CapDrop\":[\"ALL\"]"));
    assert_non_null(strstr(body, "\"SecurityOpt\":[\"no-new-privileges\"]"));
    assert_non_null(strstr(body, "\"Memory\":67108864,\"MemorySwap\":67108864"));
    assert_non_null(strstr(body, "\"NanoCpus\":1000000000"));
    assert_null(strstr(body, "Binds"));
    assert_ok(engine_destroy(rig->engine, "one", soon(), &err), err);
    assert_int_equal(fake_docker_count(rig->docker), 0);
    assert_closes(fd);
    assert_fails(engine_inspect(rig->engine, "one", soon(), &seen, &err), ERR_NOT_FOUND, err);
    assert_ok(engine_destroy(rig->engine, "one", soon(), &err), err);
    assert_int_equal(gone_count(rig), 0); /* it was asked for */
}

static void test_refuses_what_is_not_offered(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct engine_create spec = spec_of("one");
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    FD_AUTO int fd = -1;
    (void)snprintf(spec.image, sizeof(spec.image), "secret/image:1");
    assert_fails(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), ERR_UNSUPPORTED, err);
    assert_non_null(strstr(err.public_message, "secret/image:1"));
    spec = spec_of("one");
    (void)snprintf(spec.runtime, sizeof(spec.runtime), "kata");
    assert_fails(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), ERR_UNSUPPORTED, err);
    spec = spec_of("one");
    (void)snprintf(spec.profile, sizeof(spec.profile), "privileged");
    assert_fails(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), ERR_UNSUPPORTED, err);
    spec = spec_of("one");
    spec.pids_max = 1;
    assert_fails(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), ERR_BAD_INPUT, err);
    assert_int_equal(fake_docker_asked(rig->docker, "/containers/create"), 0);
}

/* Whatever step the daemon refuses, and however: an error in words, which is no word about a
 * sandbox, and nothing left. */
static void test_a_refused_step_leaves_nothing(void **state)
{
    static const char *const steps[] = {"/containers/create", "/archive", "/attach", "/start"};
    static const int statuses[] = {500, 404, 409, 503};
    struct rig *rig = *state;
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        struct err err = ERR_INIT;
        for (size_t k = 0; k < ARRAY_SIZE(statuses); k++) {
            fake_docker_refuse(rig->docker, steps[i], 1, statuses[k], "it broke");
            assert_fails(create(rig, "one", NULL, &err), ERR_UNAVAILABLE, err);
            assert_non_null(strstr(err.public_message, "Docker daemon"));
            assert_null(strstr(err.public_message, "it broke"));
            assert_true(err.retry_after_s > 0);
            wait_for(fake_docker_count(rig->docker) == 0 && count_sandboxes(rig) == 0);
        }
    }
    struct err err = ERR_INIT;
    fake_docker_refuse(rig->docker, "/archive", 1, 500,
                       "write /var/lib/docker/x: no space left on device");
    assert_fails(create(rig, "one", NULL, &err), ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "no space left"));
    assert_true(err.retry_after_s > 0);
    wait_for(fake_docker_count(rig->docker) == 0);
    assert_ok(create(rig, "one", NULL, &err), err);
}

/* Makes one, and says what of; it is removed again. */
static const char *made_of(struct rig *rig, const char *id)
{
    struct err err = ERR_INIT;
    char name[SANDBOX_ID_MAX + 32];
    (void)snprintf(name, sizeof(name), "berth-" INSTANCE "-%s", id);
    FD_AUTO int fd = -1;
    assert_ok(create(rig, id, &fd, &err), err);
    assert_says_hi(fd);
    const char *body = fake_docker_made_of(rig->docker, name);
    assert_ok(engine_destroy(rig->engine, id, soon(), &err), err);
    return body;
}

static void wait_prepared(struct rig *rig, const char *id)
{
    wait_for(strcmp(fake_docker_prepared(rig->docker), id) == 0 &&
             fake_docker_count(rig->docker) == 0);
}

/* The first sandbox is filled, those after it are made of an image that has init in it, for as long
 * as it is of the image that the operator names. */
static void test_an_image_is_prepared(void **state)
{
    struct rig *rig = *state;
    fake_docker_set_image(rig->docker, "sha256:ba5e1");
    assert_non_null(strstr(made_of(rig, "one"), "\"Image\":\"base:1\""));
    wait_prepared(rig, "sha256:c0de1");
    assert_int_equal(fake_docker_asked(rig->docker, "-one/archive"), 1);
    const char *body = made_of(rig, "two");
    assert_non_null(strstr(body, "\"Image\":\"sha256:c0de1\""));
    assert_non_null(strstr(body, "\"Env\":[\"BERTH_INIT_CONFIG="));
    assert_int_equal(fake_docker_asked(rig->docker, "-two/archive"), 0);
    fake_docker_set_image(rig->docker, "sha256:ba5e2"); /* another one got the name */
    assert_non_null(strstr(made_of(rig, "three"), "\"Image\":\"base:1\""));
    wait_prepared(rig, "sha256:c0de2");
    assert_non_null(strstr(made_of(rig, "four"), "\"Image\":\"sha256:c0de2\""));
    /* A new engine finds it. */
    replace_engine(rig);
    assert_non_null(strstr(made_of(rig, "five"), "\"Image\":\"base:1\""));
    wait_for(strstr(made_of(rig, "six"), "\"Image\":\"sha256:c0de2\""));
    assert_int_equal(fake_docker_asked(rig->docker, "/commit?"), 2);
}

/* Somebody removed it; the daemon makes none. */
static void test_a_prepared_image_is_missed_by_nobody(void **state)
{
    struct rig *rig = *state;
    fake_docker_set_image(rig->docker, "sha256:ba5e1");
    (void)made_of(rig, "one");
    wait_prepared(rig, "sha256:c0de1");
    fake_docker_refuse(rig->docker, "/containers/create?name=berth-" INSTANCE "-two", 1, 404,
                       "No such image: sha256:c0de1");
    assert_non_null(strstr(made_of(rig, "two"), "\"Image\":\"base:1\""));
    fake_docker_set_image(rig->docker, "sha256:ba5e2");
    fake_docker_refuse(rig->docker, "/commit?", 1, 403, "not here");
    assert_non_null(strstr(made_of(rig, "three"), "\"Image\":\"base:1\""));
    wait_for(fake_docker_asked(rig->docker, "/commit?") == 2 &&
             fake_docker_count(rig->docker) == 0);
    assert_non_null(strstr(made_of(rig, "four"), "\"Image\":\"base:1\""));
}

/* Neither sandboxes of the other profile nor, once it did not work, any are made of one. */
static void test_a_prepared_image_is_taken_for_no_other(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct engine_create spec = spec_of("two");
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    FD_AUTO int fd = -1;
    (void)snprintf(spec.profile, sizeof(spec.profile), "container");
    fake_docker_set_image(rig->docker, "sha256:ba5e1");
    (void)made_of(rig, "one");
    wait_prepared(rig, "sha256:c0de1");
    stop_engine(rig, SIGKILL);
    start_engine(rig);
    wait_for(is_available(rig));
    assert_ok(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), err);
    assert_ok(engine_destroy(rig->engine, "two", soon(), &err), err);
    wait_prepared(rig, "sha256:c0de2");
    fake_docker_refuse(rig->docker, "-three/start", 1, 500, "exec format error");
    (void)snprintf(spec.id, sizeof(spec.id), "three");
    fd_close(&fd);
    assert_fails(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), ERR_UNAVAILABLE, err);
    (void)snprintf(spec.id, sizeof(spec.id), "four");
    assert_ok(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), err);
    assert_non_null(strstr(fake_docker_made_of(rig->docker, "berth-" INSTANCE "-four"),
                           "\"Image\":\"base:1\""));
}

/* An engine that is to end makes no container for it any more. */
static void test_preparing_ends_with_the_engine(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    fake_docker_set_image(rig->docker, "sha256:ba5e1");
    fake_docker_delay(rig->docker, "-prepare-", 1000);
    assert_ok(create(rig, "one", NULL, &err), err);
    wait_for(fake_docker_asked(rig->docker, "-prepare-") == 1);
    stop_engine(rig, SIGTERM);
    assert_int_equal(fake_docker_asked(rig->docker, "-prepare-"), 1);
}

/* The daemon removes it already, or can't now: it is asked again. */
static void test_removal_is_tried_again(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    assert_ok(create(rig, "one", NULL, &err), err);
    fake_docker_refuse(rig->docker, "DELETE ", 2, 409, "removal of container is in progress");
    assert_ok(engine_destroy(rig->engine, "one", soon(), &err), err);
    assert_int_equal(fake_docker_count(rig->docker), 0);
    assert_int_equal(fake_docker_asked(rig->docker, "DELETE "), 3);
}

static void test_says_what_ended_one(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    assert_ok(create(rig, "one", &fd, &err), err);
    assert_says_hi(fd);
    assert_ok(create(rig, "two", NULL, &err), err);
    fake_docker_kill(rig->docker, "berth-" INSTANCE "-one", 137, true);
    wait_for(gone_count(rig) == 1);
    assert_string_equal(rig->gone[0], "one");
    assert_int_equal(rig->causes[0], KILL_OOM);
    assert_closes(fd);
    fake_docker_kill(rig->docker, "berth-" INSTANCE "-two", 0, false);
    wait_for(gone_count(rig) == 2);
    assert_int_equal(rig->causes[1], KILL_NONE);
    assert_ok(create(rig, "three", NULL, &err), err);
    fake_docker_kill(rig->docker, "berth-" INSTANCE "-three", 137, false);
    clock_sleep_ns(50 * CLOCK_NS_PER_MS);
    fake_docker_oom(rig->docker, "berth-" INSTANCE "-three"); /* the daemon heard of it later */
    wait_for(gone_count(rig) == 3);
    assert_int_equal(rig->causes[2], KILL_OOM);
    assert_ok(create(rig, "four", NULL, &err), err);
    fake_docker_kill(rig->docker, "berth-" INSTANCE "-four", 137, false);
    wait_for(gone_count(rig) == 4);
    assert_int_equal(rig->causes[3], KILL_NONE);
    wait_for(fake_docker_count(rig->docker) == 0);
}

/* Out of memory once, and ended by another hand much later. */
static void test_an_old_lack_of_memory_ends_nobody(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    assert_ok(create(rig, "one", NULL, &err), err);
    assert_ok(create(rig, "two", NULL, &err), err);
    fake_docker_oom(rig->docker, "berth-" INSTANCE "-one");
    fake_docker_oom(rig->docker, "berth-" INSTANCE "-two");
    fake_docker_kill(rig->docker, "berth-" INSTANCE "-two", 137, false);
    wait_for(gone_count(rig) == 1);
    assert_int_equal(rig->causes[0], KILL_OOM);
    clock_sleep_ns(11 * CLOCK_NS_PER_S);
    fake_docker_kill(rig->docker, "berth-" INSTANCE "-one", 137, false);
    wait_for(gone_count(rig) == 2);
    assert_int_equal(rig->causes[1], KILL_NONE);
}

/* As a proxy before the daemon does with a connection that says nothing for long. */
static void test_events_that_end_are_taken_up_again(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    assert_ok(create(rig, "one", NULL, &err), err);
    fake_docker_cut_events(rig->docker);
    wait_for(fake_docker_asked(rig->docker, "/events?") == 2);
    fake_docker_kill(rig->docker, "berth-" INSTANCE "-one", 137, true);
    wait_for(gone_count(rig) == 1);
    assert_int_equal(rig->causes[0], KILL_OOM);
}

static void test_a_daemon_that_goes_and_comes(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct engine_info info;
    FD_AUTO int fd = -1;
    FD_AUTO int again_fd = -1;
    assert_ok(create(rig, "one", &fd, &err), err);
    assert_says_hi(fd);
    fake_docker_pause(rig->docker);
    assert_closes(fd);
    wait_for(!is_available(rig));
    assert_ok(engine_probe(rig->engine, soon(), &info, &err), err);
    assert_non_null(strstr(info.unavailable, "does not answer"));
    assert_fails(create(rig, "two", NULL, &err), ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "does not answer"));
    assert_true(err.retry_after_s > 0);
    assert_int_equal(count_sandboxes(rig), 1); /* nobody knows better */
    fake_docker_resume(rig->docker, true);
    wait_for(is_available(rig));
    assert_ok(engine_open_channel(rig->engine, "one", soon(), &again_fd, &err), err);
    assert_says_hi(again_fd);
    assert_int_equal(gone_count(rig), 0);
    fake_docker_pause(rig->docker);
    fake_docker_resume(rig->docker, false);
    wait_for(gone_count(rig) == 1);
    wait_for(fake_docker_count(rig->docker) == 0);
    assert_ok(create(rig, "two", NULL, &err), err);
}

/* Another daemon is no substitute for the one that has the containers. */
static void test_a_daemon_that_answered_is_waited_for(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    char path[108];
    enum engine_state seen = ENGINE_STATE_CREATING;
    if (access("/var/run/docker.sock", F_OK) == 0)
        skip();
    stop_engine(rig, SIGTERM);
    assert_int_equal(mkdir(below("home", path), 0700), 0);
    assert_int_equal(mkdir(below("home/.docker", path), 0700), 0);
    assert_int_equal(mkdir(below("home/.docker/run", path), 0700), 0);
    struct fake_docker *other = fake_docker_start(below("home/.docker/run/docker.sock", path));
    assert_non_null(other);
    rig->searches = true;
    start_engine(rig);
    wait_for(is_available(rig));
    assert_ok(create(rig, "one", NULL, &err), err);
    fake_docker_pause(rig->docker);
    wait_for(!is_available(rig));
    clock_sleep_ns(CLOCK_NS_PER_S); /* some tries */
    fake_docker_resume(rig->docker, true);
    wait_for(is_available(rig));
    assert_ok(engine_inspect(rig->engine, "one", soon(), &seen, &err), err);
    assert_int_equal(seen, ENGINE_STATE_RUNNING);
    assert_int_equal(gone_count(rig), 0);
    assert_int_equal(fake_docker_asked(other, "/"), 0);
    fake_docker_stop(other);
}

/* A ping that is not answered in time ends nothing: another one is sent, which is. */
static void test_a_daemon_that_is_slow_once_is_not_away(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    assert_ok(create(rig, "one", &fd, &err), err);
    assert_says_hi(fd);
    size_t versions = fake_docker_asked(rig->docker, "/version");
    fake_docker_delay(rig->docker, "/_ping", 11000);
    fake_docker_cut_events(rig->docker); /* which makes it doubt the daemon, now */
    wait_for(fake_docker_asked(rig->docker, "/_ping") >= 1);
    size_t pings = fake_docker_asked(rig->docker, "/_ping");
    fake_docker_delay(rig->docker, "", 0);
    wait_for(fake_docker_asked(rig->docker, "/_ping") > pings);
    wait_for(fake_docker_asked(rig->docker, "/events?") == 2);
    assert_true(is_available(rig));
    assert_int_equal(fake_docker_asked(rig->docker, "/version"), versions);
}

/* What is to be destroyed while the daemon is away goes when it is back. */
static void test_destroys_when_the_daemon_is_back(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    assert_ok(create(rig, "one", NULL, &err), err);
    fake_docker_pause(rig->docker);
    wait_for(!is_available(rig));
    assert_fails(engine_destroy(rig->engine, "one", soon(), &err), ERR_UNAVAILABLE, err);
    fake_docker_resume(rig->docker, true);
    wait_for(fake_docker_count(rig->docker) == 0);
    wait_for(count_sandboxes(rig) == 0);
}

static void test_the_next_engine_takes_over(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    enum engine_state seen = ENGINE_STATE_CREATING;
    FD_AUTO int fd = -1;
    FD_AUTO int again_fd = -1;
    assert_ok(create(rig, "one", &fd, &err), err);
    assert_says_hi(fd);
    stop_engine(rig, SIGKILL);
    assert_closes(fd);
    /* Of ours, never started: half-made. Ours, ended. Another instance's. */
    fake_docker_add(rig->docker, "berth-" INSTANCE "-half", "created",
                    "{\"berth.instance\":\"" INSTANCE "\",\"berth.sandbox\":\"half\"}");
    fake_docker_add(rig->docker, "berth-" INSTANCE "-old", "exited",
                    "{\"berth.instance\":\"" INSTANCE "\",\"berth.sandbox\":\"old\"}");
    /* Whatever it is called. */
    fake_docker_add(rig->docker, "5f3e", "running",
                    "{\"berth.instance\":\"" INSTANCE "\",\"berth.sandbox\":\"No Name\"}");
    fake_docker_add(rig->docker, "berth-99999999-other", "exited",
                    "{\"berth.instance\":\"99999999\",\"berth.sandbox\":\"other\"}");
    start_engine(rig);
    wait_for(engine_inspect(rig->engine, "one", soon(), &seen, &err) == 0);
    assert_int_equal(seen, ENGINE_STATE_RUNNING);
    assert_ok(engine_open_channel(rig->engine, "one", soon(), &again_fd, &err), err);
    assert_says_hi(again_fd);
    wait_for(fake_docker_count(rig->docker) == 2);
    assert_int_equal(fake_docker_asked(rig->docker, "berth-99999999-other"), 0);
    assert_int_equal(count_sandboxes(rig), 1);
}

/* The daemon's list may be older than its word about one container. */
static void test_a_list_that_lags_ends_nothing(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    assert_ok(create(rig, "one", NULL, &err), err);
    fake_docker_refuse(rig->docker, "-one/json", 1, 200, "a page of a proxy's");
    fake_docker_lag(rig->docker);
    size_t asked = fake_docker_asked(rig->docker, "-one/json");
    wait_for(fake_docker_asked(rig->docker, "-one/json") >= asked + 2);
    assert_ok(engine_open_channel(rig->engine, "one", soon(), &fd, &err), err);
    assert_says_hi(fd);
    assert_int_equal(gone_count(rig), 0);
}

/* Nor does it to an engine that knows nothing else: neither of what runs, nor of files that are
 * kept. */
static void test_a_list_that_lags_takes_nothing_from_the_next_engine(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct engine_create spec = spec_of("kept");
    enum engine_state seen = ENGINE_STATE_CREATING;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    FD_AUTO int first_fd = -1;
    FD_AUTO int fd = -1;
    spec.keep_files = true;
    assert_ok(create(rig, "one", NULL, &err), err);
    assert_ok(engine_create(rig->engine, &spec, soon(), &first_fd, nonce, &err), err);
    assert_ok(engine_stop(rig->engine, "kept", soon(), &err), err);
    stop_engine(rig, SIGKILL);
    fake_docker_lag(rig->docker);
    start_engine(rig);
    wait_for(engine_inspect(rig->engine, "kept", soon(), &seen, NULL) == 0 &&
             seen == ENGINE_STATE_STOPPED);
    assert_ok(engine_open_channel(rig->engine, "one", soon(), &fd, &err), err);
    assert_says_hi(fd);
    assert_int_equal(fake_docker_asked(rig->docker, "DELETE "), 0);
}

/* A proxy lets no events through, and the daemon takes its time to say what it has. */
static void test_events_that_never_come_hold_up_no_list(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    stop_engine(rig, SIGTERM);
    fake_docker_refuse(rig->docker, "/events?", 1000, 403, "not through here");
    fake_docker_delay(rig->docker, "/containers/json?", 1500);
    start_engine(rig);
    wait_for(is_available(rig));
    assert_ok(create(rig, "one", NULL, &err), err);
}

/* A creation that nobody waits for any more. */
static void test_a_creation_is_ended_while_it_is_made(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    const struct engine_create spec = spec_of("one");
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    FD_AUTO int fd = -1;
    wait_for(is_available(rig));
    fake_docker_delay(rig->docker, "/containers/create", 2000);
    assert_true(
        engine_create(rig->engine, &spec, clock_now_ns() + CLOCK_NS_PER_S, &fd, nonce, &err) < 0);
    assert_ok(engine_destroy(rig->engine, "one", soon(), &err), err);
    assert_int_equal(fake_docker_asked(rig->docker, "/containers/create"), 1);
    assert_int_equal(fake_docker_count(rig->docker), 0);
    assert_int_equal(count_sandboxes(rig), 0);
}

/* The same of one that is started again: it has a container, which goes. */
static void test_a_start_is_ended_while_its_limits_are_set(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct engine_create spec = spec_of("one");
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    int fd = -1;
    spec.keep_files = true;
    wait_for(is_available(rig));
    assert_ok(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), err);
    fd_close(&fd);
    assert_ok(engine_stop(rig->engine, "one", soon(), &err), err);
    fake_docker_delay(rig->docker, "/update", 2000);
    assert_true(
        engine_start(rig->engine, &spec, clock_now_ns() + CLOCK_NS_PER_S, &fd, nonce, &err) < 0);
    assert_ok(engine_destroy(rig->engine, "one", soon(), &err), err);
    assert_int_equal(fake_docker_count(rig->docker), 0);
    assert_int_equal(count_sandboxes(rig), 0);
}

static void *create_later(void *context)
{
    struct rig *rig = context;
    struct err err = ERR_INIT;
    struct engine_create spec = spec_of("one");
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    FD_AUTO int fd = -1;
    spec.keep_files = true;
    (void)engine_create(rig->engine, &spec, soon(), &fd, nonce, &err);
    return NULL;
}

/* There are no files yet that a stop could keep; what the daemon makes of it after all goes. */
static void test_a_creation_is_stopped_while_it_is_made(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    pthread_t thread;
    wait_for(is_available(rig));
    fake_docker_delay(rig->docker, "/containers/create", 1000);
    assert_int_equal(pthread_create(&thread, NULL, create_later, rig), 0);
    wait_for(fake_docker_asked(rig->docker, "/containers/create") == 1);
    assert_ok(engine_stop(rig->engine, "one", soon(), &err), err);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(fake_docker_asked(rig->docker, "DELETE "), 1);
    assert_int_equal(fake_docker_count(rig->docker), 0);
    assert_int_equal(count_sandboxes(rig), 0);
}

/* What it was made with counts, not what the server says of it now; and who starts it is we. */
static void test_a_stopped_one(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct engine_create spec = spec_of("one");
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    int fd = -1;
    spec.keep_files = true;
    (void)snprintf(spec.profile, sizeof(spec.profile), "container");
    assert_ok(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), err);
    fd_close(&fd);
    const char *body = fake_docker_made_of(rig->docker, "berth-" INSTANCE "-one");
    assert_non_null(strstr(body, "\"berth.profile\":\"container\""));
    assert_ok(engine_stop(rig->engine, "one", soon(), &err), err);
    size_t stops = fake_docker_asked(rig->docker, "/stop?");
    fake_docker_start_one(rig->docker, "berth-" INSTANCE "-one");
    wait_for(fake_docker_asked(rig->docker, "/stop?") > stops);
    replace_engine(rig); /* it has the labels alone */
    wait_for(count_sandboxes(rig) == 1);
    (void)snprintf(spec.runtime, sizeof(spec.runtime), "runsc"); /* has no such profile */
    assert_ok(engine_start(rig->engine, &spec, soon(), &fd, nonce, &err), err);
    assert_says_hi(fd);
    fd_close(&fd);
}

static void test_limits_are_changed(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct engine_create limits = {.id = "one", .memory_bytes = 128U << 20};
    assert_ok(create(rig, "one", NULL, &err), err);
    assert_ok(engine_limit(rig->engine, &limits, soon(), &err), err);
    assert_int_equal(fake_docker_asked(rig->docker, "-one/update"), 1);
    fake_docker_refuse(rig->docker, "/update", 1, 500, "device or resource busy");
    assert_fails(engine_limit(rig->engine, &limits, soon(), &err), ERR_CONFLICT, err);
    (void)snprintf(limits.id, sizeof(limits.id), "none");
    assert_fails(engine_limit(rig->engine, &limits, soon(), &err), ERR_NOT_FOUND, err);
}

static void test_an_image_is_pulled_once_it_is_wanted(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct engine_create spec = spec_of("one");
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    FD_AUTO int fd = -1;
    (void)snprintf(spec.image, sizeof(spec.image), "other:2");
    assert_int_equal(fake_docker_asked(rig->docker, "other"), 0);
    fake_docker_refuse(rig->docker, "/images/other:2/json", 1, 404, "No such image");
    assert_ok(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), err);
    assert_int_equal(fake_docker_asked(rig->docker, "/images/create?fromImage=other%3A2"), 1);
    /* What the names mean is said, once it is known. */
    struct engine_info info;
    do {
        assert_ok(engine_probe(rig->engine, soon(), &info, &err), err);
    } while (!strstr(info.image_ids, " 0123456789abcdef"));
    assert_int_equal(strspn(info.image_ids, "0123456789abcdef"), 16);
}

/* How far a pull is, is said before the server has given the creation up: after ten seconds. */
static void test_a_pull_is_told_of_in_time(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct engine_create spec = spec_of("one");
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    FD_AUTO int fd = -1;
    wait_for(is_available(rig));
    (void)snprintf(spec.image, sizeof(spec.image), "other:2");
    fake_docker_refuse(rig->docker, "/images/other:2/json", 1, 404, "No such image");
    fake_docker_delay(rig->docker, "/images/create", 9000);
    assert_fails(
        engine_create(rig->engine, &spec, clock_now_ns() + 10 * CLOCK_NS_PER_S, &fd, nonce, &err),
        ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "image other:2 is being pulled"));
}

static int import(struct rig *rig, const char *name, const struct tar_entry *entries, size_t count,
                  struct err *err)
{
    FD_AUTO int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    uint64_t size_bytes = 0;
    BUF_AUTO struct buf tar;
    buf_init(&tar, 1 << 20);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(tar_put(&tar, &entries[i], NULL), 0);
    assert_int_equal(tar_end(&tar, NULL), 0);
    assert_int_equal(fd_write_all(fd, tar.data, tar.size, NULL), 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    const struct engine_layer_import wanted = {
        .name = name, .tar_fd = fd, .size_max_bytes = 65536, .entries_max = 100};
    int result = engine_layer_import(rig->engine, &wanted, soon(), &size_bytes, err);
    assert_true(result != 0 || size_bytes == 4096);
    return result;
}

static void assert_one_layer(struct rig *rig, const char *name)
{
    struct engine_layer *layers = NULL;
    size_t count = 0;
    struct err err = ERR_INIT;
    wait_for(is_available(rig));
    assert_ok(engine_layer_list(rig->engine, soon(), &layers, &count, &err), err);
    assert_int_equal(count, 1);
    assert_string_equal(layers[0].name, name);
    assert_int_equal(layers[0].size_bytes, 4096);
    free(layers);
}

/* What a sandbox wrote is read by berth-unpack; the rest is names. */
__attribute__((unused)) static void test_layers(void **state)
{
    static const struct tar_entry good[] = {
        {.path = "pkg/", .mode = 0700, .owner = 1000},
        {.path = "pkg/a.py", .mode = 04600, .owner = 1000, .data = "1", .size = 1}};
    static const struct tar_entry climbs[] = {{.path = "../a", .mode = 0644}};
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    assert_ok(import(rig, "one", good, 2, &err), err);
    assert_fails(import(rig, "one", good, 2, &err), ERR_CONFLICT, err);
    assert_fails(import(rig, "two", climbs, 1, &err), ERR_BAD_INPUT, err);
    assert_non_null(strstr(err.public_message, ".."));
    assert_fails(import(rig, "two", NULL, 0, &err), ERR_BAD_INPUT, err);
    replace_engine(rig);
    assert_one_layer(rig, "one");
    assert_ok(create(rig, "box", NULL, &err), err);
    assert_ok(engine_layer_attach(rig->engine, "box", "one", soon(), &err), err);
    assert_int_equal(fake_docker_asked(rig->docker, "-box/archive?path=%2Fopt"), 1);
    assert_fails(engine_layer_attach(rig->engine, "box", "two", soon(), &err), ERR_NOT_FOUND, err);
    assert_fails(engine_layer_attach(rig->engine, "none", "one", soon(), &err), ERR_CONFLICT, err);
    fake_docker_refuse(rig->docker, "archive?path=%2Fopt", 1, 500, "it is no folder");
    assert_fails(engine_layer_attach(rig->engine, "box", "one", soon(), &err), ERR_CONFLICT, err);
    assert_ok(engine_layer_remove(rig->engine, "one", soon(), &err), err);
    assert_ok(engine_layer_remove(rig->engine, "one", soon(), &err), err);
    assert_fails(engine_layer_attach(rig->engine, "box", "one", soon(), &err), ERR_NOT_FOUND, err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_rig(test_says_what_the_daemon_can_do),
        with_rig(test_makes_speaks_and_removes),
        with_rig(test_refuses_what_is_not_offered),
        with_rig(test_a_refused_step_leaves_nothing),
        with_rig(test_an_image_is_prepared),
        with_rig(test_a_prepared_image_is_missed_by_nobody),
        with_rig(test_a_prepared_image_is_taken_for_no_other),
        with_rig(test_preparing_ends_with_the_engine),
        with_rig(test_removal_is_tried_again),
        with_rig(test_says_what_ended_one),
        with_rig(test_an_old_lack_of_memory_ends_nobody),
        with_rig(test_events_that_end_are_taken_up_again),
        with_rig(test_events_that_never_come_hold_up_no_list),
        with_rig(test_a_daemon_that_goes_and_comes),
        with_rig(test_a_daemon_that_answered_is_waited_for),
        with_rig(test_a_daemon_that_is_slow_once_is_not_away),
        with_rig(test_destroys_when_the_daemon_is_back),
        with_rig(test_the_next_engine_takes_over),
        with_rig(test_a_creation_is_ended_while_it_is_made),
        with_rig(test_a_start_is_ended_while_its_limits_are_set),
        with_rig(test_a_creation_is_stopped_while_it_is_made),
        with_rig(test_a_stopped_one),
        with_rig(test_limits_are_changed),
        with_rig(test_an_image_is_pulled_once_it_is_wanted),
        with_rig(test_a_pull_is_told_of_in_time),
#ifndef __SANITIZE_THREAD__ /* it gives berth-unpack a second thread, and that is refused */
        with_rig(test_layers),
#endif
        with_rig(test_a_list_that_lags_ends_nothing),
        with_rig(test_a_list_that_lags_takes_nothing_from_the_next_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
