/* A channel: the server's end of the byte stream to the init of one sandbox.
 *
 * A channel belongs to one thread at a time. It runs one execution after the other, each a straight
 * line: frames are written and read on the calling thread. What arrives is untrusted bytes.
 *
 * Nothing is sent before channel_exec(): hello, files and the execution leave in one write, and the
 * peer's hello is checked when its first frame arrives, so that the whole costs one round trip. */
#ifndef BERTH_ENGINE_CHANNEL_H
#define BERTH_ENGINE_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/sandbox.h"

struct channel;

/* Takes fd over (also when it fails) and prepares our hello. Does not block. nonce is what the
 * peer's hello must carry. */
int channel_open(int fd, const uint8_t nonce[static SANDBOX_NONCE_SIZE], struct channel **out,
                 struct err *err);
/* Closes the connection. NULL is allowed. */
void channel_close(struct channel *channel);

/* Queues one file to be written inside the sandbox, with the code's ids, before the next execution
 * starts. path and data are borrowed until channel_exec() returned or channel_close(). Does not
 * block; that the sandbox refuses the file shows at channel_exec(). */
int channel_put_file(struct channel *channel, const char *path, uint32_t mode, const void *data,
                     size_t size, struct err *err);

/* Called with output as it comes, in the order in which init read it; may block, which slows the
 * code. stream is STREAM_STDOUT or STREAM_STDERR. A negative result (an error kind, *err filled)
 * means that nobody takes the output any more: the execution is killed with cause "user" and the
 * function is not called again. */
typedef int (*channel_output_fn)(void *context, int stream, const uint8_t *data, size_t size,
                                 struct err *err);

struct channel_exec {
    struct sandbox_exec exec;
    const void *stdin_data; /* all of standard input; closed after it */
    size_t stdin_size;
    int cancel_fd; /* an eventfd; readable means: kill with cause `*cancel_cause`. -1 none */
    const _Atomic int *cancel_cause; /* enum kill_cause, read when cancel_fd becomes readable */
    int gone_fd;         /* readable or hung up means: kill with cause "user". -1 none */
    int64_t deadline_ns; /* past it init is not believed to be alive: ERR_TIMEOUT */
    channel_output_fn output;
    void *output_context;
};

/* Writes the queued files, runs one program and waits for its end. On success *out is what init
 * reported (its start_error is copied into start_error).
 * ERR_BAD_INPUT (public, naming the path): the sandbox refused a file: no right, a symbolic link
 * out, a full disk. ERR_UNAVAILABLE: it could not write one for no reason of ours. ERR_CLOSED: init
 * died before it reported; ERR_TIMEOUT: see deadline_ns; ERR_PROTOCOL: it sent nonsense, or its
 * nonce or version is wrong. After a failure, and after a cancellation that came before init heard
 * of the execution, the channel is only good for channel_close(). */
int channel_exec(struct channel *channel, const struct channel_exec *exec, struct sandbox_exit *out,
                 char *start_error, size_t start_error_size, struct err *err);

#endif
