/* Owns the server's words for sessions. */
#include "session_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void send_message(struct client *client, enum frame_type type, uint32_t stream, encode_fn encode,
                  const void *message)
{
    BUF_AUTO struct buf payload;
    struct err err = ERR_INIT;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    assert_ok(encode(message, &payload, &err), err);
    client_send(client, type, stream, payload.data, payload.size);
}

int encode_kernel(const void *message, struct buf *out, struct err *err)
{
    return sandbox_kernel_encode(message, out, err);
}
int encode_run(const void *message, struct buf *out, struct err *err)
{
    return sandbox_run_encode(message, out, err);
}
int encode_attach(const void *message, struct buf *out, struct err *err)
{
    return sandbox_attach_encode(message, out, err);
}
int encode_timers(const void *message, struct buf *out, struct err *err)
{
    return sandbox_timers_encode(message, out, err);
}
int encode_limits(const void *message, struct buf *out, struct err *err)
{
    return sandbox_limits_encode(message, out, err);
}

void send_kernel_with(struct client *client, uint32_t stream, const char *program,
                      const char *variable)
{
    const char *argv[] = {program, getenv("BERTH_TOY_KERNEL"), NULL};
    const char *envp[] = {"PATH=/usr/bin:/bin", variable, NULL};
    const struct sandbox_kernel kernel = {
        .cwd = "/", .argv = argv, .argc = 2, .envp = envp, .envc = variable ? 2 : 1};
    assert_non_null(argv[1]);
    send_message(client, FRAME_KERNEL, stream, encode_kernel, &kernel);
}

void send_kernel(struct client *client, uint32_t stream, const char *program)
{
    send_kernel_with(client, stream, program, NULL);
}

int take_done(struct client *client, uint32_t stream)
{
    struct sandbox_done done;
    struct err err = ERR_INIT;
    assert_frame(client, FRAME_DONE, stream);
    assert_ok(sandbox_done_decode(client->frame.payload, client->frame.size, &done, &err), err);
    return done.sys_errno;
}

void start_kernel(struct rig *rig, struct client *client)
{
    start_committed(rig);
    client_greet(client);
    send_kernel(client, 4, "python3");
    assert_int_equal(take_done(client, 4), 0);
}

void send_run(struct client *client, uint32_t stream, const char *id, bool hold)
{
    const struct sandbox_run run = {.execution_id = id,
                                    .file = "<cell>",
                                    .grace_ms = 1000,
                                    .keep_bytes = 1U << 20,
                                    .output_max_bytes = 1U << 26,
                                    .messages_max_bytes = 1U << 20,
                                    .hold = hold};
    send_message(client, FRAME_RUN, stream, encode_run, &run);
}

void run_code(struct client *client, uint32_t stream, const char *code, bool hold)
{
    char id[16];
    (void)snprintf(id, sizeof(id), "r%u", stream);
    send_run(client, stream, id, hold);
    client_send(client, FRAME_DATA, stream, code, strlen(code));
    client_send(client, FRAME_CLOSE, stream, NULL, 0);
    client_send(client, FRAME_CLOSE, stream + STREAM_STDIN, NULL, 0);
}

void assert_prints(struct client *client, uint32_t stream, const char *code, const char *printed)
{
    struct outcome outcome;
    run_code(client, stream, code, false);
    client_finish(client, stream, &outcome);
    assert_string_equal(outcome.text[1], "");
    assert_string_equal(outcome.text[0], printed);
    assert_int_equal(outcome.exit.exit_code, 0);
}

void attach(struct client *client, uint32_t stream, const char *id, uint64_t after)
{
    const struct sandbox_attach attached = {.execution_id = id, .after = after};
    send_message(client, FRAME_ATTACH, stream, encode_attach, &attached);
}
