/* One connection of a server to init: its frames in, its frames out, the execution that waits.
 *
 * A frame is trusted to be the server's, since the socket is outside of the sandbox's reach, but a
 * malformed one costs that connection. Nothing here blocks. */
#ifndef BERTH_INIT_CONNECTION_H
#define BERTH_INIT_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "init/job_table.h"
#include "wire/frame.h"

/* An EXEC that came while files of its connection are written: it starts when they are. Frames are
 * read on, so that a KILL is heard; its input waits here. */
struct waiting_exec {
    bool waiting;
    bool files_failed;
    bool input_closed;
    enum kill_cause killed; /* KILL_NONE: no */
    uint32_t stream;
    struct buf payload;
    struct buf input; /* at most the credit of a stream */
};

struct connection {
    int fd; /* -1: free */
    bool greeted;
    bool only_egress; /* by its hello: it goes to a process that is to do nothing else here */
    bool said_egress;
    bool file_failed; /* a file of the next execution was not written */
    struct frame_decoder decoder;
    struct buf out;
    struct waiting_exec exec;
};

/* Makes the place of a connection free, without one in it. */
void connection_init(struct connection *connection);

/* Takes a non-blocking stream socket; owns it from here. */
void connection_open(struct connection *connection, int fd);

/* Ends the connection, and the jobs that it began. */
void connection_close(struct connection *connection, struct job_table *jobs);

/* Whether what it sends can be taken now: there is a free job and room for answers. */
bool connection_may_read(const struct connection *connection, struct job_table *jobs);

/* Takes what has come. Negative: close the connection. */
int connection_read(struct connection *connection, struct job_table *jobs, struct err *err);

/* Starts what waited, takes frames that were held back, sends. Negative: close the connection. */
int connection_step(struct connection *connection, struct job_table *jobs, struct err *err);

#endif
