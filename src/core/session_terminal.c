/* Owns the shell of a terminal: what is started, and where. */
#include "core/session_terminal.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/mem.h"
#include "core/session_internal.h"

#define START_NS (30 * CLOCK_NS_PER_S)

struct session_terminal {
    struct core *core;
    struct session *session; /* a reference */
    struct channel *channel;
};

int core_session_terminal_open(struct core *core, const char *owner, const char *session_id,
                               struct session_terminal **out, struct err *err)
{
    struct session *session = NULL;
    struct channel *channel = NULL;
    struct err failure = ERR_INIT;
    int result = session_find(core, owner, session_id, &session, err);
    if (result != 0)
        return result;
    result =
        core_is_stopping(core) ? core_say_stopping(err) : session_take_place(core, session, err);
    if (result != 0) {
        session_unref(core, session);
        return result;
    }
    result = session_open_channel(core, session, &channel, &failure);
    struct session_terminal *terminal = result == 0 ? calloc(1, sizeof(*terminal)) : NULL;
    if (result == 0 && !terminal)
        result = err_set(&failure, ERR_INTERNAL, "no memory for a terminal");
    if (result != 0 || !terminal) {
        channel_close(channel);
        session_give_place(core, session);
        result = session_explain(core, session, result, &failure, err);
        session_unref(core, session);
        return result;
    }
    *terminal = (struct session_terminal){.core = core, .session = session, .channel = channel};
    *out = terminal;
    return 0;
}

void core_session_terminal_close(struct session_terminal *terminal)
{
    if (!terminal)
        return;
    channel_close(terminal->channel);
    session_give_place(terminal->core, terminal->session);
    session_unref(terminal->core, terminal->session);
    free(terminal);
}

int core_session_terminal_run(struct session_terminal *terminal,
                              const struct session_terminal_io *io, uint32_t *out_exit_code,
                              struct err *err)
{
    static const char *const argv[] = {
        "/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi",
        NULL};
    static const char *const envp[] = {"PATH=/usr/local/bin:/usr/bin:/bin",
                                       "HOME=/home/sandbox",
                                       "USER=sandbox",
                                       "LANG=C.UTF-8",
                                       "TMPDIR=/tmp",
                                       "TERM=xterm-256color",
                                       NULL};
    char id[ID_UUID_SIZE];
    const char *words[ARRAY_SIZE(argv)];
    const char *variables[ARRAY_SIZE(envp) + NETWORK_ENV_MAX];
    struct network network;
    size_t network_count = 0;
    struct channel_exit exit;
    id_uuid(id);
    for (size_t i = 0; i < ARRAY_SIZE(argv); i++)
        words[i] = argv[i];
    int result = session_copy_network(terminal->core, terminal->session, &network, err);
    if (result != 0)
        return result;
    const char *const *proxy = network_env(&network, terminal->session->row.image, &network_count);
    network_done(&network);
    for (size_t i = 0; i < network_count; i++)
        variables[i] = proxy[i];
    for (size_t i = 0; i < ARRAY_SIZE(envp); i++)
        variables[network_count + i] = envp[i];
    const struct channel_terminal ask = {.exec = {.execution_id = id,
                                                  .cwd = "/workspace",
                                                  .argv = words,
                                                  .argc = ARRAY_SIZE(argv) - 1,
                                                  .envp = variables,
                                                  .envc = network_count + ARRAY_SIZE(envp) - 1,
                                                  .keep_bytes = UINT64_MAX,
                                                  .output_max_bytes = UINT64_MAX,
                                                  .terminal = io->size},
                                         .watch = {.cancel_fd = -1,
                                                   .interrupt_fd = -1,
                                                   .gone_fd = io->gone_fd,
                                                   .deadline_ns = clock_now_ns() + START_NS,
                                                   .output = io->output,
                                                   .context = io->context},
                                         .input_fd = io->input_fd,
                                         .input = io->input};
    result = channel_terminal(terminal->channel, &ask, &exit, err);
    if (result == 0 && exit.start_error[0] != '\0')
        return err_set(err, ERR_UNAVAILABLE, "a terminal: %s", exit.start_error);
    if (result == 0)
        *out_exit_code = exit.exit.exit_code;
    return result;
}
