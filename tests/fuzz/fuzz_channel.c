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
    PUT_PIECE = 10000,
    PUT_PIECES = 10,
    AT_ONCE = 0x80
};

#define STEP_NS (60 * CLOCK_NS_PER_S)

struct heard {
    size_t messages;
};

static int on_output(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    (void)context;
    fuzz_require(stream == STREAM_STDOUT || stream == STREAM_STDERR);
    fuzz_require(data && size > 0 && size <= FRAME_DATA_MAX);
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

/* A file out of the sandbox: never more than was asked for, nor than init itself promised. */
static int read_file(struct channel *channel, const struct channel_watch *watch)
{
    const struct sandbox_get_file get = {
        .path = "f", .size_bytes = GET_MAX, .info = SANDBOX_INFO_FIRST};
    struct channel_reader *reader = NULL;
    struct sandbox_file_info info;
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, FRAME_WINDOW);
    int result = channel_read_open(channel, &get, watch, STEP_NS, &info, &reader, NULL);
    bool more = result == 0;
    while (more) {
        result = channel_read_next(reader, &bytes, NULL);
        more = result == 1;
    }
    fuzz_require(bytes.size <= GET_MAX && (bytes.size == 0 || bytes.size <= info.size_bytes));
    channel_read_close(reader);
    return result;
}

static int write_file(struct channel *channel, const struct channel_watch *watch)
{
    static const uint8_t bytes[PUT_PIECE];
    const struct sandbox_put_file put = {.path = "f", .mode = 0644};
    struct channel_writer *writer = NULL;
    uint64_t size = 0;
    int result = channel_write_open(channel, &put, watch, STEP_NS, &writer, NULL);
    for (int i = 0; i < PUT_PIECES && result == 0; i++)
        result = channel_write(writer, bytes, sizeof(bytes), NULL);
    if (result == 0)
        result = channel_write_end(writer, &size, NULL);
    fuzz_require(result != 0 || size == PUT_PIECES * PUT_PIECE);
    channel_write_close(writer);
    return result;
}

/* What nobody waits for, and the run that it leaves with. */
static int execute_later(struct channel *channel, const struct channel_watch *watch)
{
    const struct sandbox_timers timers = {.idle_ms = 1};
    const struct sandbox_limits limits = {.pids_max = 1};
    channel_timers_later(channel, &timers);
    channel_limits_later(channel, &limits);
    channel_forget_later(channel, "e");
    int result = execute(channel, 1, watch);
    if (result == 0)
        channel_flush_later(channel);
    (void)channel_alive(channel);
    return result;
}

static int call(struct channel *channel, unsigned choice, const struct channel_watch *watch)
{
    const struct sandbox_kernel kernel = {.cwd = "/", .argv = argv, .argc = 1};
    const struct sandbox_timers timers = {.idle_ms = 1};
    struct sandbox_listed listed;
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
        return read_file(channel, watch);
    case 8:
        return write_file(channel, watch);
    default:
        return execute_later(channel, watch);
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
    unsigned choice = (data[0] & (AT_ONCE - 1U)) % 10;
    int result = 0;
    for (int i = 0; i < 3 && result == 0; i++) /* a channel is used again after what went well */
        result = choice < 3 ? execute(channel, choice, &watch) : call(channel, choice, &watch);
    fuzz_require(result != -ERR_TIMEOUT);
    fuzz_require(choice != 1 || heard.messages <= 3 * (MESSAGES_MAX + FRAME_WINDOW));
    channel_close(channel);
    fd_close(&pair[0]);
    return 0;
}
