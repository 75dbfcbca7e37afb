/* What a hostile init says to a channel, whatever the channel is doing: the first byte chooses
 * what, the rest is all that ever comes. Nothing here may crash, hang, or hand out more than was
 * asked. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/channel.h"
#include "wire/frame.h"
#include "wire/tlv.h"

enum {
    INPUT_MAX = 64 * 1024,
    PIECE_MAX = 4096,
    MESSAGES_MAX = 1000,
    GET_MAX = 1000,
    AT_ONCE = 0x80
};

struct heard {
    size_t messages, output;
};

static int on_output(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct heard *heard = context;
    fuzz_require(stream == STREAM_STDOUT || stream == STREAM_STDERR);
    fuzz_require(data && size > 0 && size <= FRAME_DATA_MAX);
    heard->output += size;
    /* A reader that goes away is a part of it. */
    return data[0] == 0xff ? err_set(err, ERR_CLOSED, "nobody reads") : 0;
}

static int on_message(void *context, const uint8_t *data, size_t size, struct err *err)
{
    struct heard *heard = context;
    uint8_t sum = 0; /* every byte is there to be read */
    (void)err;
    for (size_t i = 0; i < size; i++)
        sum ^= data[i];
    __asm__ volatile("" : : "r"(sum));
    heard->messages += size;
    return 0;
}

static ssize_t give_bytes(void *context, uint8_t *data, size_t size, struct err *err)
{
    size_t *left = context;
    (void)err;
    size = size < *left ? size : *left;
    memset(data, 'u', size);
    *left -= size;
    return (ssize_t)size;
}

static const char *argv[] = {"x", NULL};

static void check_exit(int result, const struct channel_exit *out)
{
    if (result != 0)
        return;
    fuzz_require(out->exit.exit_code <= 255 && out->exit.cause < KILL_CAUSE_COUNT);
    fuzz_require(out->exit.start_error == out->start_error);
    fuzz_require(strlen(out->start_error) < sizeof(out->start_error));
}

/* An execution, a run, or one that is attached to; again while it ends well. */
static int execute(struct channel *channel, unsigned choice, const struct channel_watch *watch)
{
    struct channel_exit out;
    int result = 0;
    if (choice == 0) {
        const struct channel_exec exec = {
            .exec = {.execution_id = "e", .cwd = "/", .argv = argv, .argc = 1},
            .stdin_data = "in",
            .stdin_size = 2,
            .watch = *watch};
        result = channel_put_file(channel, "f", 0644, "x", 1, NULL);
        fuzz_require(result == 0);
        result = channel_exec(channel, &exec, &out, NULL);
    } else if (choice == 1) {
        const struct channel_run run = {
            .run = {.execution_id = "e", .file = "", .messages_max_bytes = MESSAGES_MAX},
            .code = "x",
            .code_size = 1,
            .watch = *watch};
        result = channel_run(channel, &run, &out, NULL);
    } else {
        const struct sandbox_attach attach = {.execution_id = "e"};
        result = channel_attach(channel, &attach, watch, &out, NULL);
    }
    check_exit(result, &out);
    return result;
}

static int call(struct channel *channel, unsigned choice, const struct channel_watch *watch)
{
    const struct sandbox_kernel kernel = {.cwd = "/", .argv = argv, .argc = 1};
    const struct sandbox_timers timers = {.idle_ms = 1};
    const struct sandbox_get_file get = {.path = "f", .size_bytes = GET_MAX};
    const struct sandbox_put_file put = {.path = "f", .mode = 0644};
    struct sandbox_listed listed;
    uint64_t size = 0;
    size_t left = 100000;
    int result = 0;
    switch (choice) {
    case 3:
        return channel_kernel(channel, &kernel, watch, NULL);
    case 4:
        return channel_forget(channel, "e", watch->deadline_ns, NULL);
    case 5:
        result = channel_list(channel, watch->deadline_ns, &listed, NULL);
        fuzz_require(result != 0 || listed.count <= 2 * SANDBOX_HELD_MAX);
        return result;
    case 6:
        return channel_timers(channel, &timers, watch->deadline_ns, NULL);
    case 7:
        result = channel_get_file(channel, &get, watch, &size, NULL);
        fuzz_require(result != 0 || size <= GET_MAX);
        return result;
    default:
        result =
            channel_put_stream(channel, &put, give_bytes, &left, watch->deadline_ns, &size, NULL);
        fuzz_require(result != 0 || size == 100000);
        return result;
    }
}

/* Sends all of it in packets, which a SEQPACKET socket gives out one a read. What the socket has no
 * room for never comes. */
static void say(int fd, const uint8_t *data, size_t size, bool at_once)
{
    while (size > 0) {
        size_t piece = size;
        if (!at_once && size >= FRAME_HEADER_SIZE && tlv_load_u32(data) < size - FRAME_HEADER_SIZE)
            piece = FRAME_HEADER_SIZE + tlv_load_u32(data);
        piece = piece > PIECE_MAX ? PIECE_MAX : piece;
        if (send(fd, data, piece, MSG_DONTWAIT) < 0)
            break;
        data += piece;
        size -= piece;
    }
    (void)shutdown(fd, SHUT_WR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct channel *channel = NULL;
    struct heard heard = {0};
    int pair[2] = {-1, -1};
    if (size == 0 || size > INPUT_MAX)
        return 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        abort();
    say(pair[0], data + 1, size - 1, (data[0] & AT_ONCE) != 0);
    fuzz_require(channel_open(pair[1], nonce, &channel, NULL) == 0);
    const struct channel_watch watch = {.cancel_fd = -1,
                                        .interrupt_fd = -1,
                                        .gone_fd = -1,
                                        .deadline_ns = clock_now_ns() + 60 * CLOCK_NS_PER_S,
                                        .output = on_output,
                                        .message = on_message,
                                        .context = &heard};
    unsigned choice = (data[0] & (AT_ONCE - 1U)) % 9;
    int result = 0;
    for (int i = 0; i < 3 && result == 0; i++) /* a channel is used again after what went well */
        result = choice < 3 ? execute(channel, choice, &watch) : call(channel, choice, &watch);
    fuzz_require(result != -ERR_TIMEOUT);
    fuzz_require(choice != 1 || heard.messages <= 3 * (MESSAGES_MAX + FRAME_WINDOW));
    fuzz_require(choice != 7 || heard.output <= 3 * GET_MAX);
    channel_close(channel);
    fd_close(&pair[0]);
    return 0;
}
