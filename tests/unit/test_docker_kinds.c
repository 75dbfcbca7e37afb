/* berth-docker against daemons of other kinds: Podman, and Docker of other versions of the API. */
#include "docker_rig.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"

/* What Podman can't do: other runtimes, other limits, another engine that attaches. */
static void test_podman(void **state)
{
    struct rig *rig = *state;
    struct engine_create spec = spec_of("kept");
    enum engine_state seen = ENGINE_STATE_CREATING;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct engine_info info;
    struct err err = ERR_INIT;
    FD_AUTO int first_fd = -1;
    FD_AUTO int fd = -1;
    fake_docker_pause(rig->docker);
    wait_for(!is_available(rig));
    fake_docker_be_podman(rig->docker);
    fake_docker_resume(rig->docker, true);
    wait_for(is_available(rig));
    assert_ok(engine_probe(rig->engine, soon(), &info, &err), err);
    assert_int_equal(info.runtime_count, 1);
    assert_true((info.capabilities & (ENGINE_CAP_LIMIT | ENGINE_CAP_CONTAINER)) == 0);
    assert_ok(create(rig, "one", NULL, &err), err);
    spec.keep_files = true;
    assert_ok(engine_create(rig->engine, &spec, soon(), &first_fd, nonce, &err), err);
    assert_ok(engine_stop(rig->engine, "kept", soon(), &err), err);
    assert_ok(engine_start(rig->engine, &spec, soon(), &fd, nonce, &err), err);
    assert_says_hi(fd);
    stop_engine(rig, SIGKILL);
    start_engine(rig);
    wait_for(engine_inspect(rig->engine, "one", soon(), &seen, NULL) == -ERR_NOT_FOUND);
    wait_for(engine_inspect(rig->engine, "kept", soon(), &seen, NULL) == 0 &&
             seen == ENGINE_STATE_STOPPED);
}

/* A daemon of another version takes the place of the first one: every request is then in a version
 * that both know. */
static void test_speaks_the_version_of_the_daemon(void **state)
{
    static const struct {
        unsigned least;
        unsigned most;
        const char *spoken;
    } cases[] = {
        {12, 40, " /v1.40/"}, {24, 43, " /v1.43/"}, {44, 60, " /v1.47/"}, {50, 60, " /v1.50/"}};
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    char id[8];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        fake_docker_pause(rig->docker);
        wait_for(!is_available(rig));
        fake_docker_speak(rig->docker, cases[i].least, cases[i].most);
        size_t before = fake_docker_asked(rig->docker, cases[i].spoken);
        size_t all = fake_docker_asked(rig->docker, " /v1.");
        fake_docker_resume(rig->docker, true);
        wait_for(is_available(rig));
        (void)snprintf(id, sizeof(id), "v%zu", i);
        assert_ok(create(rig, id, NULL, &err), err);
        assert_ok(engine_destroy(rig->engine, id, soon(), &err), err);
        size_t spoken = fake_docker_asked(rig->docker, cases[i].spoken) - before;
        assert_true(spoken >= 6); /* info, events, list, create, start, remove, ... */
        assert_int_equal(fake_docker_asked(rig->docker, " /v1.") - all, spoken);
    }
}

static void test_a_daemon_that_is_too_old_is_said(void **state)
{
    struct rig *rig = *state;
    struct engine_info info;
    struct err err = ERR_INIT;
    fake_docker_pause(rig->docker);
    wait_for(!is_available(rig));
    fake_docker_speak(rig->docker, 12, 39);
    fake_docker_resume(rig->docker, true);
    wait_for(engine_probe(rig->engine, soon(), &info, NULL) == 0 &&
             strstr(info.unavailable, "too old: 1.40 at least is needed"));
    assert_fails(create(rig, "one", NULL, &err), ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "too old"));
    assert_int_equal(fake_docker_count(rig->docker), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_rig(test_podman),
        with_rig(test_speaks_the_version_of_the_daemon),
        with_rig(test_a_daemon_that_is_too_old_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
