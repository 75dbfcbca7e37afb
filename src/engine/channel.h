/* A channel: the server's end of the byte stream to the init of one sandbox.
 *
 * A channel belongs to one thread at a time. It runs one operation after the other, each a straight
 * line: frames are written and read on the calling thread. What arrives is untrusted bytes. */
#ifndef BERTH_ENGINE_CHANNEL_H
#define BERTH_ENGINE_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/sandbox.h"

struct channel;

/* Takes fd over (also when it fails), sends our hello and reads the peer's. ERR_PROTOCOL when the
 * nonce is not the sandbox's or no version is common; ERR_TIMEOUT past deadline_ns. */
int channel_open(int fd, const uint8_t nonce[static SANDBOX_NONCE_SIZE], int64_t deadline_ns,
                 struct channel **out, struct err *err);
/* Closes the connection. NULL is allowed. */
void channel_close(struct channel *channel);

/* Writes one file inside the sandbox with the code's ids. ERR_BAD_INPUT (public, naming the path)
 * when the sandbox refuses it: no right, a symbolic link out, a full disk; ERR_CLOSED when init is
 * gone. */
int channel_put_file(struct channel *channel, const char *path, uint32_t mode, const void *data,
                     size_t size, int64_t deadline_ns, struct err *err);

/* Called with output as it comes, in the order in which init read it. stream is STREAM_STDOUT or
 * STREAM_STDERR. A negative result (an error kind, *err filled) means that nobody takes the output
 * any more: the execution is killed with cause "user" and the function is not called again. */
typedef int (*channel_output_fn)(void *context, int stream, const uint8_t *data, size_t size,
                                 struct err *err);

struct channel_exec {
    struct sandbox_exec exec;
    const void *stdin_data; /* all of standard input; closed after it */
    size_t stdin_size;
    int cancel_fd;          /* an eventfd; readable means: kill with cause `*cancel_cause`. -1 none */
    const _Atomic int *cancel_cause; /* enum kill_cause, read when cancel_fd becomes readable */
    int64_t deadline_ns;    /* past it init is not believed to be alive: ERR_TIMEOUT */
    channel_output_fn output;
    void *output_context;
};

/* Runs one program and waits for its end. On success *out is what init reported (its start_error is
 * copied into start_error). ERR_CLOSED: init died before it reported; ERR_TIMEOUT: see deadline_ns;
 * ERR_PROTOCOL: it sent nonsense. After a failure the channel is only good for channel_close(). */
int channel_exec(struct channel *channel, const struct channel_exec *exec,
                 struct sandbox_exit *out, char *start_error, size_t start_error_size,
                 struct err *err);

#endif
