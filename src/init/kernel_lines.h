/* The descriptors of a kernel that speaks lines: pipes instead of a socket, outputs that outlive a
 * run, and the file in memory that it has as standard input. What is said is in lines.h.
 *
 * All of it is for the code to harm; what it does to one of them never stops init, at the worst the
 * kernel is given up. */
#ifndef BERTH_INIT_KERNEL_LINES_H
#define BERTH_INIT_KERNEL_LINES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"
#include "init/child.h"
#include "init/lines.h"
#include "init/pipes.h"

struct kernel_lines {
    bool on;        /* else the kernel speaks frames, and nothing here is open */
    int to_fd;      /* what is said to it; -1: it hears nothing */
    int file_fd;    /* its standard input, for us to write */
    int shared_fd;  /* the same, opened once for it and us: a seek here is one there */
    int outputs[2]; /* our ends of its 1 and 2; -1: it ended */
    short to_seen, output_seen[2]; /* what poll(2) said of them in this turn */
    int64_t rests_ns;              /* between two runs: until then outputs are not looked at */
    struct lines_reader reader;
};

/* What is passed to its process: the child's ends, closed here once it has them. */
struct kernel_lines_ends {
    int stdin_fd; /* borrowed */
    struct pipes talk, outputs;
};

void kernel_lines_init(struct kernel_lines *lines);
/* Closes all of it, and it is not on. */
void kernel_lines_done(struct kernel_lines *lines);

/* Makes them for a kernel that finds this text as standard input. *from_fd: what it says. *ends is
 * to be ended by pipes_done() of both, after a failure too. */
int kernel_lines_make(struct kernel_lines *lines, const void *text, size_t size,
                      struct kernel_lines_ends *ends, int *from_fd, struct err *err);

/* Another file in memory, empty, for what a run's standard input is until its turn. -1: errno. */
int kernel_lines_new_file(void);

/* What it finds as standard input from now on is all of that file; -1: nothing. An errno: the code
 * has made that impossible, and the kernel is of no use. */
int kernel_lines_set_input(const struct kernel_lines *lines, int input_fd);

/* Nobody has the other side of to_fd any more. */
bool kernel_lines_is_deaf(const struct kernel_lines *lines);

/* Sends what it takes. False: it will never take more. */
bool kernel_lines_flush(struct kernel_lines *lines, struct buf *out);
/* All of a short text, or nothing of it. */
bool kernel_lines_send_short(const struct kernel_lines *lines, const struct buf *text);

/* Takes bytes from from_fd and appends the messages that they are. As recv(2). */
ssize_t kernel_lines_receive(struct kernel_lines *lines, int from_fd, struct buf *in);

/* The outputs for a run, as ours[1] and ours[2]: what was written until now is not for it. */
int kernel_lines_lend_outputs(struct kernel_lines *lines, struct pipes *pipes, struct err *err);

/* Between two runs what is written is read for nobody, and seldom. */
bool kernel_lines_wants_output(const struct kernel_lines *lines, int64_t now_ns);
void kernel_lines_step(struct kernel_lines *lines, int64_t now_ns);
/* When they are to be looked at again; INT64_MAX: poll(2) says it. */
int64_t kernel_lines_wakeup_ns(const struct kernel_lines *lines, int64_t now_ns);

#endif
