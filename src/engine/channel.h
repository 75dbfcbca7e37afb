/* A channel: the server's end of the byte stream to the init of one sandbox.
 *
 * A channel belongs to one thread at a time. It does one thing after the other, each a straight
 * line: frames are written and read on the calling thread. What arrives is untrusted bytes.
 *
 * Nothing is sent before channel_exec() or another of the functions that block: hello, files and
 * the execution leave in one write, and the peer's hello is checked when its first frame arrives,
 * so that the whole costs one round trip. A channel is used again after what ended well. */
#ifndef BERTH_ENGINE_CHANNEL_H
#define BERTH_ENGINE_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

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

/* Called with each whole message of a kernel: the bytes of a JSON text that nobody has checked. As
 * channel_output_fn otherwise. */
typedef int (*channel_message_fn)(void *context, const uint8_t *data, size_t size, struct err *err);

/* What is watched while something runs, and where its output goes. */
struct channel_watch {
    int cancel_fd; /* an eventfd; readable means: kill with cause `*cancel_cause`. -1 none */
    const _Atomic int *cancel_cause; /* enum kill_cause, read when cancel_fd becomes readable */
    int interrupt_fd;    /* an eventfd; readable means: interrupt once, and read it. -1 none */
    int gone_fd;         /* readable or hung up means: kill with cause "user". -1 none */
    int64_t deadline_ns; /* past it init is not believed to be alive: ERR_TIMEOUT */
    channel_output_fn output;
    channel_message_fn message; /* NULL: messages are dropped */
    void *context;              /* of both */
    uint64_t *events;           /* counts up by the events that were taken, for attach->after; those
                                   that came since a message began count once it is whole. NULL */
};

/* Where the words of init about a start that failed go. */
struct channel_exit {
    struct sandbox_exit exit; /* its start_error points to the text below */
    char start_error[512];
};

struct channel_exec {
    struct sandbox_exec exec;
    const void *stdin_data; /* all of standard input; closed after it */
    size_t stdin_size;
    struct channel_watch watch;
};

/* Writes the queued files, runs one program and waits for its end. On success *out is what init
 * reported.
 * ERR_BAD_INPUT (public, naming the path): the sandbox refused a file: no right, a symbolic link
 * out, a full disk. ERR_UNAVAILABLE: it could not write one for no reason of ours. ERR_CLOSED: init
 * died before it reported; ERR_TIMEOUT: see deadline_ns; ERR_PROTOCOL: it sent nonsense, or its
 * nonce or version is wrong; ERR_UNSUPPORTED: it lacks what exec asks for; ERR_CONFLICT: it is
 * held, and another channel has attached to it. After a failure, and after a cancellation that came
 * before init heard of the execution, the channel is only good for channel_close(). */
int channel_exec(struct channel *channel, const struct channel_exec *exec, struct channel_exit *out,
                 struct err *err);

struct channel_run {
    struct sandbox_run run;
    const void *code;
    size_t code_size; /* at most SANDBOX_CODE_MAX */
    const void *stdin_data;
    size_t stdin_size;
    struct channel_watch watch;
};

/* The same for code in the kernel of the sandbox. ERR_UNSUPPORTED: this init has none. */
int channel_run(struct channel *channel, const struct channel_run *run, struct channel_exit *out,
                struct err *err);

/* The same for a held execution that began on another channel: its events after attach->after.
 * ERR_NOT_FOUND: init does not know it. ERR_BAD_INPUT: it has fewer events. The channel stays good
 * after both. */
int channel_attach(struct channel *channel, const struct sandbox_attach *attach,
                   const struct channel_watch *watch, struct channel_exit *out, struct err *err);

struct channel_terminal {
    struct sandbox_exec exec; /* with a terminal, and not held */
    /* Its output, as STREAM_STDOUT; of it cancel_fd and gone_fd mean a hang-up. deadline_ns is for
     * its start alone. */
    struct channel_watch watch;
    int input_fd; /* readable: input has something to say */
    /* Gives what was typed, at most size; 0: nothing now. *resize becomes columns << 16 | rows when
     * the window has changed. Negative: hang up. Does not wait for input. */
    ssize_t (*input)(void *context, uint8_t *data, size_t size, uint32_t *resize, struct err *err);
};

/* Runs a program on a terminal until it ends, or until either side hangs up: ERR_CLOSED, and then
 * channel_close() is what its processes hear as a hang-up. Fails as channel_exec() otherwise. */
int channel_terminal(struct channel *channel, const struct channel_terminal *terminal,
                     struct channel_exit *out, struct err *err);

/* One request and its answer each; deadline_ns as in channel_watch, failures as channel_exec().
 * The channel stays good after ERR_BAD_INPUT, ERR_NOT_FOUND, ERR_CONFLICT and ERR_UNSUPPORTED.
 * Nothing is sent before init's hello: the first of a channel costs a round trip more.
 *
 * init answers LIST, FORGET and TIMERS by itself, whatever the code does, so ERR_TIMEOUT says that
 * init, or the machine, gets nothing done. It does not say that the sandbox is dead (the engine
 * does: engine_inspect(), events.gone), nor that what it runs has stopped, nor whether the request
 * was taken: it may still be. Who repeats it does so on another channel, where LIST says what is
 * held and ERR_NOT_FOUND of FORGET that it is done. */
/* Returns when the kernel is ready. Of watch only cancel_fd, gone_fd and deadline_ns are used:
 * ERR_CLOSED then, and the channel is only good for channel_close(). ERR_BAD_INPUT (public): it
 * can't be started. ERR_CONFLICT: one of other words lives. */
int channel_kernel(struct channel *channel, const struct sandbox_kernel *kernel,
                   const struct channel_watch *watch, struct err *err);
/* ERR_NOT_FOUND: init holds no such execution, or it runs. */
int channel_forget(struct channel *channel, const char *execution_id, int64_t deadline_ns,
                   struct err *err);
/* The same with what is sent next, without waiting. Whether init did so nobody hears: it forgets
 * what it holds with the sandbox at the latest. The answer is taken by a later call. */
void channel_forget_later(struct channel *channel, const char *execution_id);
/* Other times and limits, sent with what is sent next and before it, in the same write; also before
 * init's hello. That init can't set them, or lacks TIMERS or LIMITS, is the failure of the call
 * that hears of it: ERR_CLOSED, and the channel is only good for channel_close(). A call that ended
 * before init's answer came has not heard of it: the one after it does. Copied; do not block. */
void channel_timers_later(struct channel *channel, const struct sandbox_timers *timers);
void channel_limits_later(struct channel *channel, const struct sandbox_limits *limits);
/* The same for the network (SANDBOX_CAP_EGRESS): of a sandbox whose code has not run. */
void channel_network_later(struct channel *channel, const struct sandbox_network *network);
/* Writes what the functions above queued as far as the socket takes it, without waiting: for a
 * channel that will be idle. What remains, and a failure, is left to the next call. */
void channel_flush_later(struct channel *channel);
/* Whether a channel that nobody uses is still connected, as far as the kernel knows; one system
 * call. False: it is only good for channel_close(). */
bool channel_alive(const struct channel *channel);
/* After a call that failed: whether for certain init read no byte of it, as nothing was sent, or,
 * with ERR_CLOSED, as it had ended before. Then nothing of it was done, and it may be repeated in
 * another sandbox: one of the pool may die between channel_alive() and its use. False says nothing.
 * Of a file: of its last piece. */
bool channel_unheard(const struct channel *channel);
/* Makes every call on this channel fail with ERR_CLOSED soon; the one thing that another thread may
 * call. What is held goes on. */
void channel_break(struct channel *channel);
int channel_list(struct channel *channel, int64_t deadline_ns, struct sandbox_listed *out,
                 struct err *err);
int channel_timers(struct channel *channel, const struct sandbox_timers *timers,
                   int64_t deadline_ns, struct err *err);
/* ERR_CONFLICT (public): the code listens on the port of the proxy itself. ERR_UNSUPPORTED: this
 * init has no way out. */
int channel_network(struct channel *channel, const struct sandbox_network *network,
                    int64_t deadline_ns, struct err *err);

/* Files go through a channel piece by piece, at the caller's pace. Nothing else may be done on the
 * channel meanwhile, and after a close before the end, or a failure that is not init's answer, it
 * is only good for channel_close(). Of watch only cancel_fd, cancel_cause and gone_fd are used;
 * *watch is copied. Each call waits for init as long as step_ns. Nothing is sent before init's
 * hello. */
struct channel_reader;
struct channel_writer;

/* Opens the file and says what it is; get->info is SANDBOX_INFO_FIRST or SANDBOX_INFO_ONLY.
 * ERR_NOT_FOUND, ERR_BAD_INPUT (public): there is none, or it is no regular file, or the code may
 * not read it. ERR_CLOSED: it was cancelled. Otherwise as the calls above; the channel stays good
 * after each of these. */
int channel_read_open(struct channel *channel, const struct sandbox_get_file *get,
                      const struct channel_watch *watch, int64_t step_ns,
                      struct sandbox_file_info *out_info, struct channel_reader **out,
                      struct err *err);
/* Appends the next bytes, at most FRAME_DATA_MAX and the few that came with the information, and
 * returns 1; 0 at the end. Never gives more than *out_info promised of what was asked for; less,
 * when the file was cut meanwhile. */
int channel_read_next(struct channel_reader *reader, struct buf *out, struct err *err);
/* NULL is allowed. */
void channel_read_close(struct channel_reader *reader);

/* Returns when init was asked. A refusal shows at one of the calls below. */
int channel_write_open(struct channel *channel, const struct sandbox_put_file *put,
                       const struct channel_watch *watch, int64_t step_ns,
                       struct channel_writer **out, struct err *err);
/* Returns when all of it is on its way; blocks while init takes no more. ERR_BAD_INPUT (public),
 * ERR_UNAVAILABLE: it can't be written, as in channel_exec(); ERR_CLOSED: it was cancelled.
 * Otherwise as the calls above; the channel stays good after each of these. */
int channel_write(struct channel_writer *writer, const void *data, size_t size, struct err *err);
/* The end of the file: *out_size is what was written. */
int channel_write_end(struct channel_writer *writer, uint64_t *out_size, struct err *err);
/* Without channel_write_end(): what was written stays. NULL is allowed. */
void channel_write_close(struct channel_writer *writer);

#endif
