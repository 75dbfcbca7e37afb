/* Owns the network of a session: its change while the session lives, and what a new server gives it
 * back. Init is told first, then the books, then egress or the engine: a server that dies in
 * between leaves what nobody was promised, and the next one tells egress what the books say. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/network_use.h"
#include "core/session_libraries.h"

#define INIT_NS (10 * CLOCK_NS_PER_S)
#define RETRY_S 2

int session_copy_network(struct core *core, const struct session *session, struct network *out,
                         struct err *err)
{
    (void)pthread_mutex_lock(&core->lock);
    const char *text = session->row.network;
    int result = network_decode(text ? text : "none", out, err);
    (void)pthread_mutex_unlock(&core->lock);
    return result;
}

int session_run_env(struct core *core, const struct session *session, const char ***out,
                    size_t *out_count, struct err *err)
{
    struct network network;
    size_t all = 0;
    size_t count = 0;
    int result = session_copy_network(core, session, &network, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&core->lock);
    uint32_t wanted = session->row.network_env;
    (void)pthread_mutex_unlock(&core->lock);
    const char *const *list = network_env(&network, session->row.image, &all);
    network_done(&network);
    const char **env = calloc(all + LANG_ENV_MAX + 1, sizeof(*env));
    if (!env)
        return err_set(err, ERR_INTERNAL, "no memory for variables");
    for (size_t i = 0; i < all; i++) {
        if ((wanted & (UINT32_C(1) << i)) != 0)
            env[count++] = list[i];
    }
    session_libraries_add_env(session, env, &count);
    *out = env;
    *out_count = count;
    return 0;
}

int session_give_network(struct core *core, const struct session *session, struct err *err)
{
    struct network network;
    int result = session_copy_network(core, session, &network, err);
    if (result == 0)
        result = network_give(core, session->row.sandbox_id, session->row.owner, session->row.nonce,
                              &network, err);
    if (result == 0)
        network_done(&network);
    return result;
}

struct word {
    struct sandbox_network network;
    bool port_taken; /* init's answer: the code listens there */
};

static int tell_init(struct channel *channel, void *what, struct err *err)
{
    struct word *word = what;
    int result = channel_network(channel, &word->network, clock_now_ns() + INIT_NS, err);
    word->port_taken = result == -ERR_CONFLICT; /* which says nothing of the session's end */
    return word->port_taken ? 0 : result;
}

/* In the row of the table and of the store. */
static int write_down(struct core *core, struct session *session, const struct network *network,
                      struct err *err)
{
    MEM_AUTO char *text = network_encode(network);
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory for a network");
    int result = store_session_set_network(core->store, session->row.id, text,
                                           session->row.network_env, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&core->lock);
    char *before = session->row.network;
    session->row.network = take(text);
    (void)pthread_mutex_unlock(&core->lock);
    free(before);
    return 0;
}

static int tell_egress(struct core *core, struct session *session, struct err *err)
{
    struct err failure = ERR_INIT;
    int result = session_give_network(core, session, err);
    if (result == 0 && network_settle(core, session->row.sandbox_id, &failure) == 0)
        return 0;
    if (result != 0)
        return result;
    log_warn("session %s: egress was not told of its network: %s", session->row.id,
             failure.message);
    result = err_public(err, ERR_UNAVAILABLE,
                        "network: the way out does not answer now; the network of session %.40s "
                        "is as asked for once it does",
                        session->row.id);
    if (err)
        err->retry_after_s = RETRY_S;
    return result;
}

/* Before the books say so: a server that dies in between leaves less than was promised, not more.
 */
static int leave_full(struct core *core, const struct session *session,
                      const struct network *network, struct err *err)
{
    struct network before;
    int result = session_copy_network(core, session, &before, err);
    if (result != 0)
        return result;
    bool leaves = before.mode == NETWORK_FULL && network->mode != NETWORK_FULL;
    network_done(&before);
    return leaves ? network_tell_engine(core, session->row.sandbox_id, false, err) : 0;
}

static int change(struct core *core, struct session *session, const struct network *network,
                  struct err *err)
{
    struct word word = {.network.mode = network->mode == NETWORK_EGRESS ? SANDBOX_NETWORK_EGRESS
                                                                        : SANDBOX_NETWORK_NONE};
    int result = session_tell(core, session, tell_init, &word, err);
    if (result == -ERR_UNSUPPORTED)
        return err_public(err, ERR_UNSUPPORTED,
                          "network: session %.40s was made by an earlier version and can't change "
                          "its network",
                          session->row.id);
    if (result == 0 && word.port_taken)
        return err_public(
            err, ERR_CONFLICT,
            "network: the code of session %.40s listens on 127.0.0.1:%d itself, where "
            "the proxy is to be",
            session->row.id, SANDBOX_PROXY_PORT);
    if (result == 0)
        result = leave_full(core, session, network, err);
    if (result == 0)
        result = write_down(core, session, network, err);
    if (result != 0)
        return result;
    fault_point("server.network");
    return tell_egress(core, session, err);
}

/* Whether its engine can give it that. */
static int check(struct core *core, const struct session *session, const struct network *network,
                 struct err *err)
{
    struct engine_info info = {0};
    char runtime[ENGINE_NAME_MAX];
    struct engine_slot *slot = engines_find(core, session->row.engine);
    const char *asked = session->row.runtime[0] != '\0' ? session->row.runtime : NULL;
    int result = 0;
    if (network->mode == NETWORK_FULL)
        result = slot_info(slot, INT64_MAX, clock_now_ns() + INIT_NS, &info, err);
    if (result == 0 && network->mode == NETWORK_FULL)
        result = engines_runtime(slot, asked, &info, runtime, err);
    return result == 0 ? network_check(core, slot, info.capabilities, network, err) : result;
}

int core_session_set_network(struct core *core, const char *owner, const char *id,
                             const struct network_ask *ask, struct buf *out, struct err *err)
{
    struct session *session = NULL;
    struct network network = {0};
    int result = session_find(core, owner, id, &session, err);
    if (result == 0)
        result = network_plan(core->config.network, ask, &network, err);
    if (result == 0)
        result = check(core, session, &network, err);
    if (result == 0)
        result = session_begin_change(core, session, err);
    if (result == 0) {
        result = change(core, session, &network, err);
        if (result == 0)
            result = session_append_json(core, session, out, err);
        session_end_change(core, session);
    }
    network_done(&network);
    session_unref(core, session);
    return result;
}
