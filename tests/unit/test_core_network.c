/* core/network and core/network_use: what the operator offers and a request makes of it, and what
 * egress is told of sandboxes on the fake engine. The real process has the integration suite. */
#include "check.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/answer.h"
#include "core/network.h"
#include "core/network_use.h"
#include "core/session_internal.h"
#include "core_rig.h"
#include "egress_peer.h"
#include "engine/fake.h"
#include "folder.h"
#include "lang/lang.h"

#define LIST(...) ((const char *const[]){__VA_ARGS__})

static struct network_rules rules_of(const char *modes, const char *allow)
{
    struct network_rules rules;
    struct err err = ERR_INIT;
    assert_ok(network_rules_read(modes, allow, &rules, &err), err);
    return rules;
}

/* ---- rules, requests and texts ---- */

static void the_settings_are_read(void **state)
{
    (void)state;
    struct network_rules rules = rules_of("none,egress", network_default_allow());
    assert_true(rules.offered[NETWORK_EGRESS]);
    assert_false(rules.offered[NETWORK_FULL]);
    assert_true(rules.allow.count > 15);
    assert_string_equal(rules.allow.items[0], "pypi.org");
    network_rules_done(&rules);
    rules = rules_of(" full  none ", " *.example.com,b.org:8443\n");
    assert_true(rules.offered[NETWORK_FULL]);
    assert_int_equal(rules.allow.count, 2);
    assert_string_equal(rules.allow.items[1], "b.org:8443");
    network_rules_done(&rules);
    struct err err = ERR_INIT;
    assert_fails(network_rules_read("none,bridge", "", &rules, &err), ERR_BAD_INPUT, err);
    assert_non_null(strstr(err.message, "bridge"));
    assert_fails(network_rules_read("none", "a.org http://b.org", &rules, &err), ERR_BAD_INPUT,
                 err);
    assert_non_null(strstr(err.message, "BERTH_EGRESS_ALLOW"));
}

static void expect_plan(const struct network_rules *rules, const struct network_ask *ask,
                        const char *wanted)
{
    struct network network;
    struct err err = ERR_INIT;
    assert_ok(network_plan(rules, ask, &network, &err), err);
    MEM_AUTO char *text = network_encode(&network);
    assert_string_equal(text, wanted);
    struct network again;
    assert_ok(network_decode(text, &again, &err), err);
    MEM_AUTO char *text_again = network_encode(&again);
    assert_string_equal(text_again, wanted);
    network_done(&network);
    network_done(&again);
}

static void expect_refusal(const struct network_rules *rules, const struct network_ask *ask,
                           enum err_kind kind, const char *word)
{
    struct network network;
    struct err err = ERR_INIT;
    assert_fails(network_plan(rules, ask, &network, &err), kind, err);
    if (!strstr(err.public_message, "network") || !strstr(err.public_message, word))
        fail_msg("no \"%s\" in: %s", word, err.public_message);
}

static void a_request_narrows(void **state)
{
    (void)state;
    struct network_rules rules = rules_of("egress", "a.org *.b.org c.org:8443 *");
    struct network_ask ask = {0};
    expect_plan(&rules, &ask, "none");
    ask.mode = "egress";
    expect_plan(&rules, &ask, "egress");
    ask.narrowed = true; /* to nothing */
    expect_plan(&rules, &ask, "egress ");
    ask.allow = LIST("a.org", "x.b.org:443", "c.org:8443", "*.elsewhere.net");
    ask.allow_count = 4;
    expect_plan(&rules, &ask, "egress a.org x.b.org:443 c.org:8443 *.elsewhere.net");
    ask.allow = LIST("a.org", "d.org:22");
    ask.allow_count = 2;
    expect_refusal(&rules, &ask, ERR_BAD_INPUT, "d.org:22");
    ask.allow = LIST("http://a.org/");
    ask.allow_count = 1;
    expect_refusal(&rules, &ask, ERR_BAD_INPUT, "http");
    ask.allow = LIST("127.0.0.1"); /* "*" is no address */
    expect_refusal(&rules, &ask, ERR_BAD_INPUT, "127.0.0.1");
    ask.mode = "none";
    expect_refusal(&rules, &ask, ERR_BAD_INPUT, "allow");
    network_rules_done(&rules);
}

static void what_is_not_offered_is_refused(void **state)
{
    (void)state;
    struct network_rules rules = rules_of("none", "a.org");
    struct network_ask ask = {.mode = "egress"};
    expect_refusal(&rules, &ask, ERR_UNSUPPORTED, "egress");
    expect_refusal(NULL, &ask, ERR_UNSUPPORTED, "egress");
    ask.mode = "full";
    expect_refusal(&rules, &ask, ERR_UNSUPPORTED, "full");
    ask.mode = "bridge";
    expect_refusal(&rules, &ask, ERR_BAD_INPUT, "bridge");
    ask.mode = "none";
    expect_plan(&rules, &ask, "none");
    expect_plan(NULL, &ask, "none");
    network_rules_done(&rules);
}

/* An operator who takes something away takes it from sessions as well. */
static void the_operator_narrows_later(void **state)
{
    (void)state;
    struct network_rules rules = rules_of("egress", "a.org b.org:443");
    struct network network;
    struct network_list list;
    struct err err = ERR_INIT;
    assert_ok(network_decode("egress a.org b.org:443 c.org", &network, &err), err);
    assert_ok(network_effective(&rules, &network, &list, &err), err);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.items[0], "a.org");
    assert_string_equal(list.items[1], "b.org:443");
    network_list_done(&list);
    BUF_AUTO struct buf out;
    buf_init(&out, 4096);
    assert_ok(network_append_json(&rules, &network, &out, &err), err);
    assert_string_equal(buf_cstr(&out),
                        "{\"mode\":\"egress\",\"allow\":[\"a.org\",\"b.org:443\"]}");
    network_rules_done(&rules);
    rules = rules_of("none", "a.org b.org:443"); /* egress as a whole */
    assert_ok(network_effective(&rules, &network, &list, &err), err);
    assert_int_equal(list.count, 0);
    network_list_done(&list);
    network_done(&network);
    const struct network all = {.mode = NETWORK_EGRESS};
    assert_ok(network_effective(&rules, &all, &list, &err), err);
    assert_int_equal(list.count, 0);
    network_list_done(&list);
    network_rules_done(&rules);
    assert_fails(network_decode("bridge a", &network, &err), ERR_INTERNAL, err);
    assert_fails(network_decode("", &network, &err), ERR_INTERNAL, err);
}

static bool has(const char *const *env, size_t count, const char *entry)
{
    for (size_t i = 0; i < count; i++) {
        if (strncmp(env[i], entry, strlen(entry)) == 0)
            return true;
    }
    return false;
}

static void variables_come_with_egress_alone(void **state)
{
    (void)state;
    size_t count = 99;
    const struct network none = {.mode = NETWORK_NONE};
    const struct network egress = {.mode = NETWORK_EGRESS};
    (void)network_env(&none, "host", &count);
    assert_int_equal(count, 0);
    const char *const *env = network_env(&egress, "host", &count);
    assert_true(has(env, count, "HTTPS_PROXY=http://127.0.0.1:3128"));
    assert_true(has(env, count, "SSL_CERT_FILE=/etc/ssl/certs/"));
    env = network_env(&egress, NULL, &count);
    assert_true(has(env, count, "SSL_CERT_FILE="));
    env = network_env(&egress, "debian", &count);
    assert_true(has(env, count, "JAVA_TOOL_OPTIONS=") && has(env, count, "no_proxy="));
    assert_false(has(env, count, "SSL_CERT_FILE=")); /* it may lie elsewhere there */
    uint32_t all = network_env_unset(NULL, 0);
    env = network_env(&egress, "host", &count);
    assert_int_equal(all, (UINT32_C(1) << count) - 1);
    uint32_t some = network_env_unset(LIST("A=1", "HTTPS_PROXY=", "HTTP_PROXYX=1"), 3);
    for (size_t i = 0; i < count; i++) {
        bool own = strncmp(env[i], "HTTPS_PROXY=", 12) == 0;
        assert_int_equal((some >> i) & 1, own ? 0 : 1);
    }
}

/* ---- what egress is told ---- */

struct test {
    struct rig rig;
    struct network_rules rules;
    struct egress_peer *peer;
    char path[64];
};

static int setup(void **state)
{
    struct test *test = calloc(1, sizeof(*test));
    struct err err = ERR_INIT;
    if (rig_make_folder(state) != 0 || !test)
        return -1;
    (void)snprintf(test->path, sizeof(test->path), "/tmp/berth-test-egress-%d.sock", getpid());
    test->rules = rules_of("none,egress", "a.org b.org");
    test->peer = egress_peer_start(test->path);
    struct core_config config = rig_config();
    config.network = &test->rules;
    rig_open(&test->rig, &config);
    assert_ok(core_open_egress(test->rig.core, test->path, &err), err);
    *state = test;
    return 0;
}

static int teardown(void **state)
{
    struct test *test = *state;
    core_free(test->rig.core);
    if (test->peer)
        egress_peer_stop(test->peer);
    network_rules_done(&test->rules);
    free(test);
    return rig_remove_folder(state);
}

static struct session_request request_of(const struct network_ask *ask)
{
    return (struct session_request){
        .owner = CORE_OWNER_LOCAL, .lang = &rig_lang, .network = *ask, .gone_fd = -1};
}

static void sandbox_of(struct core *core, const char *id, char out[static STORE_ID_SIZE])
{
    struct session *session = NULL;
    struct err err = ERR_INIT;
    assert_ok(session_find(core, NULL, id, &session, &err), err);
    (void)snprintf(out, STORE_ID_SIZE, "%s", session->row.sandbox_id);
    session_unref(core, session);
}

/* "attach ID local a.org b.org": what is told of that session's sandbox. */
static void expect_told(struct test *test, const char *id, const char *word, const char *rest)
{
    char sandbox[STORE_ID_SIZE];
    char wanted[256];
    sandbox_of(test->rig.core, id, sandbox);
    (void)snprintf(wanted, sizeof(wanted), "%s %s%s", word, sandbox, rest);
    assert_string_equal(egress_peer_next(test->peer), wanted);
}

static int set_network(struct test *test, const char *id, const struct network_ask *ask,
                       const char *part, struct err *err)
{
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    int result = core_session_set_network(test->rig.core, CORE_OWNER_LOCAL, id, ask, &out, err);
    if (result == 0 && !strstr(buf_cstr(&out), part))
        fail_msg("no %s in %s", part, buf_cstr(&out));
    return result;
}

static void wait_for_egress(struct test *test)
{
    struct network_stats stats;
    network_stats(test->rig.core, &stats);
    for (int i = 0; i < 20000 && !stats.connected; i++) {
        (void)poll(NULL, 0, 1);
        network_stats(test->rig.core, &stats);
    }
    assert_true(stats.connected);
}

static void remove_session(struct test *test, const char *id)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 4096);
    assert_ok(core_session_delete(test->rig.core, CORE_OWNER_LOCAL, id, &out, &err), err);
}

static void a_session_changes_its_network(void **state)
{
    struct test *test = *state;
    const struct network_ask none = {.mode = "none"};
    const struct network_ask egress = {.mode = "egress"};
    const struct network_ask narrow = {
        .mode = "egress", .allow = LIST("b.org"), .allow_count = 1, .narrowed = true};
    const struct session_request request = request_of(&none);
    struct err err = ERR_INIT;
    char id[ID_UUID_SIZE];
    char sandbox[STORE_ID_SIZE];
    wait_for_egress(test);
    rig_make_session(test->rig.core, &request, id);
    assert_true(egress_peer_is_quiet(test->peer));
    assert_ok(set_network(test, id, &egress, "\"allow\":[\"a.org\",\"b.org\"]", &err), err);
    expect_told(test, id, "attach", " local a.org b.org");
    assert_ok(set_network(test, id, &narrow, "\"allow\":[\"b.org\"]", &err), err);
    expect_told(test, id, "policy", " b.org");
    struct network_stats stats;
    network_stats(test->rig.core, &stats);
    assert_int_equal(stats.sandboxes, 1);
    assert_int_equal(stats.refused, 2);
    assert_ok(set_network(test, id, &none, "\"network\":{\"mode\":\"none\",\"allow\":[]}", &err),
              err);
    expect_told(test, id, "detach", "");
    assert_ok(set_network(test, id, &egress, "egress", &err), err);
    expect_told(test, id, "attach", " local a.org b.org");
    sandbox_of(test->rig.core, id, sandbox);
    remove_session(test, id);
    assert_string_equal(egress_peer_next(test->peer) + strlen("detach "), sandbox);
    assert_true(egress_peer_is_quiet(test->peer));
}

static void an_execution_has_it_from_the_start(void **state)
{
    struct test *test = *state;
    struct err err = ERR_INIT;
    struct execution_request request = {.owner = CORE_OWNER_LOCAL,
                                        .lang = &rig_lang,
                                        .code = "env HTTPS_PROXY\nenv A\n",
                                        .code_size = strlen("env HTTPS_PROXY\nenv A\n"),
                                        .env = LIST("A=b"),
                                        .env_count = 1,
                                        .network = {.mode = "egress"},
                                        .gone_fd = -1};
    wait_for_egress(test);
    for (int i = 0; i < 2; i++) {
        ANSWER_AUTO struct answer answer = {0};
        BUF_AUTO struct buf out;
        buf_init(&out, 65536);
        assert_ok(core_execute(test->rig.core, &request, NULL, false, &answer, &err), err);
        assert_ok(answer_rest(&answer, &out, &err), err);
        const char *parts[] = {"\"stdout\":\"http://127.0.0.1:3128b\"", NULL};
        const char *nothing[] = {"\"stdout\":\"b\"", NULL};
        rig_assert_parts("the variables", buf_cstr(&out), i == 0 ? parts : nothing);
        if (i == 0) {
            assert_memory_equal(egress_peer_next(test->peer), "attach ", 7);
            assert_memory_equal(egress_peer_next(test->peer), "detach ", 7);
        }
        request.network = (struct network_ask){0};
    }
    assert_true(egress_peer_is_quiet(test->peer));
}

static void offer_full(struct test *test)
{
    struct engine_info info;
    struct err err = ERR_INIT;
    assert_ok(engine_probe(test->rig.engine, INT64_MAX, &info, &err), err);
    info.capabilities |= ENGINE_CAP_FULL;
    engine_fake_set_info(test->rig.engine, &info);
    assert_ok(slot_info(&test->rig.core->slots[0], 0, INT64_MAX, &info, &err),
              err); /* asked anew */
    test->rules.offered[NETWORK_FULL] = true;
}

static void full_is_the_engines(void **state)
{
    struct test *test = *state;
    const struct network_ask none = {.mode = "none"};
    const struct network_ask egress = {.mode = "egress"};
    const struct network_ask full = {.mode = "full"};
    const struct session_request request = request_of(&egress);
    struct err err = ERR_INIT;
    char id[ID_UUID_SIZE];
    char sandbox[STORE_ID_SIZE];
    offer_full(test);
    wait_for_egress(test);
    rig_make_session(test->rig.core, &request, id);
    sandbox_of(test->rig.core, id, sandbox);
    expect_told(test, id, "attach", " local a.org b.org");
    assert_ok(set_network(test, id, &full, "\"network\":{\"mode\":\"full\"", &err), err);
    assert_true(engine_fake_full(test->rig.engine, sandbox));
    expect_told(test, id, "detach", "");
    assert_ok(set_network(test, id, &egress, "\"mode\":\"egress\"", &err), err);
    assert_false(engine_fake_full(test->rig.engine, sandbox));
    expect_told(test, id, "attach", " local a.org b.org");
    assert_ok(set_network(test, id, &full, "\"mode\":\"full\"", &err), err);
    assert_ok(set_network(test, id, &none, "\"mode\":\"none\"", &err), err);
    assert_false(engine_fake_full(test->rig.engine, sandbox));
    remove_session(test, id);
}

/* Offered by the operator, and no engine has it. */
static void full_needs_an_engine_that_has_it(void **state)
{
    struct test *test = *state;
    const struct network_ask full = {.mode = "full"};
    struct execution_request request = {.owner = CORE_OWNER_LOCAL,
                                        .lang = &rig_lang,
                                        .code = "say x\n",
                                        .code_size = strlen("say x\n"),
                                        .network = full,
                                        .gone_fd = -1};
    ANSWER_AUTO struct answer answer = {0};
    struct err err = ERR_INIT;
    test->rules.offered[NETWORK_FULL] = true;
    assert_int_equal(core_execute(test->rig.core, &request, NULL, false, &answer, &err),
                     -ERR_UNSUPPORTED);
    assert_non_null(strstr(err.public_message, "full"));
}

static void egress_dies_and_hears_of_all_again(void **state)
{
    struct test *test = *state;
    const struct network_ask egress = {.mode = "egress"};
    const struct network_ask narrow = {
        .mode = "egress", .allow = LIST("b.org"), .allow_count = 1, .narrowed = true};
    const struct session_request request = request_of(&egress);
    struct err err = ERR_INIT;
    char id[ID_UUID_SIZE];
    char sandbox[STORE_ID_SIZE];
    wait_for_egress(test);
    rig_make_session(test->rig.core, &request, id);
    expect_told(test, id, "attach", " local a.org b.org");
    egress_peer_stop(test->peer);
    test->peer = NULL;
    /* The change is taken, and told when there is somebody to hear of it. */
    assert_fails(set_network(test, id, &narrow, "", &err), ERR_UNAVAILABLE, err);
    test->peer = egress_peer_start(test->path);
    expect_told(test, id, "attach", " local b.org");
    sandbox_of(test->rig.core, id, sandbox);
    remove_session(test, id);
    assert_string_equal(egress_peer_next(test->peer) + strlen("detach "), sandbox);
}

static void a_sandbox_without_egress_yet_is_made(void **state)
{
    struct test *test = *state;
    const struct network_ask egress = {.mode = "egress"};
    const struct session_request request = request_of(&egress);
    char id[ID_UUID_SIZE];
    egress_peer_stop(test->peer);
    test->peer = NULL;
    rig_make_session(test->rig.core, &request, id);
    test->peer = egress_peer_start(test->path);
    expect_told(test, id, "attach", " local a.org b.org");
    remove_session(test, id);
}

int main(void)
{
#define on_rig(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_settings_are_read),
        cmocka_unit_test(a_request_narrows),
        cmocka_unit_test(what_is_not_offered_is_refused),
        cmocka_unit_test(the_operator_narrows_later),
        cmocka_unit_test(variables_come_with_egress_alone),
        on_rig(a_session_changes_its_network),
        on_rig(an_execution_has_it_from_the_start),
        on_rig(full_is_the_engines),
        on_rig(full_needs_an_engine_that_has_it),
        on_rig(egress_dies_and_hears_of_all_again),
        on_rig(a_sandbox_without_egress_yet_is_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
