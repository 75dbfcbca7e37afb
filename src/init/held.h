/* The events of held executions (wire/sandbox.h): what was sent of each, kept until it is
 * forgotten.
 *
 * An event is the payload of one frame. One that was sent once never changes, so that its number
 * and its bytes are the same for whoever attaches later; neighbours that nobody has seen are
 * joined. */
#ifndef BERTH_INIT_HELD_H
#define BERTH_INIT_HELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "init/outlet.h"
#include "wire/sandbox.h"

#define HELD_MAX (2 * SANDBOX_HELD_MAX)
/* Of all logs together: they are init's own memory, which no limit of the sandbox covers. */
#define HELD_BYTES_MAX (64U * 1024U * 1024U)

struct held {
    bool used;
    bool begun; /* all that it needs has come: it can be attached to */
    bool started;
    bool ended;
    char execution_id[SANDBOX_ID_MAX + 1];
    struct outlet outlet; /* whoever is attached */
    bool said_started;    /* to them */
    struct buf log;       /* events, each behind a header of 4 bytes */
    uint64_t events;
    size_t next;    /* offset of the first event that they have not got */
    size_t sealed;  /* offset behind the last event that anybody ever got */
    size_t last;    /* offset of the newest event */
    struct buf end; /* the payload of EXIT */
};

struct held_table {
    struct held entries[HELD_MAX];
    size_t bytes; /* of all logs */
};

void held_init(struct held_table *table);

/* Begins a log; its first reader is stream of out. NULL, with *why as a text for EXIT: the id is
 * empty or taken, or there are too many. */
struct held *held_open(struct held_table *table, const char *execution_id, struct buf *out,
                       uint32_t stream, const char **why);
/* Forgets it. */
void held_close(struct held_table *table, struct held *held);

/* One that has begun. */
struct held *held_find(struct held_table *table, const char *execution_id);
/* The one whose reader is stream of out. */
struct held *held_find_stream(struct held_table *table, const struct buf *out, uint32_t stream);

/* Keeps an event of DATA, MESSAGE_PART or MESSAGE, at most FRAME_DATA_MAX bytes. False: there is no
 * room any more, and nothing was kept. */
bool held_append(struct held_table *table, struct held *held, enum frame_type type,
                 enum frame_stream part, const void *data, size_t size);
/* Whether all of size bytes would be kept. */
bool held_has_room(const struct held_table *table, size_t size);

/* Whether a reader is there that is behind: the code has to wait. */
bool held_is_behind(const struct held *held);

/* The last frame. */
void held_end(struct held *held, const void *exit_payload, size_t size);

/* Takes over from whoever was attached. Returns 0 or an errno for DONE. */
int held_attach(struct held *held, struct buf *out, uint32_t stream, uint64_t after);
/* The connection is gone. */
void held_detach(struct held_table *table, const struct buf *out);

/* Sends what can be sent. */
void held_step(struct held_table *table);
/* Whether held_step() would send something: its connection was too full before. */
bool held_may_send(const struct held_table *table);

#endif
