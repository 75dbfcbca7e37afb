/* Where the frames of one execution or file go: a connection, a stream, and the credit that its
 * reader has given. Without a connection everything is dropped. */
#ifndef BERTH_INIT_OUTLET_H
#define BERTH_INIT_OUTLET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/frame.h"
#include "wire/sandbox.h"

struct outlet {
    struct buf *out;              /* the connection's frames to send; NULL: nobody is there */
    uint32_t stream;              /* of the control frames */
    uint32_t credit[STREAM_STEP]; /* bytes that the reader takes now, by part */
    int64_t started_due_ns; /* when STARTED is sent at the latest; INT64_MAX: it is not owed */
};

/* Every part begins with a whole window. */
void outlet_open(struct outlet *outlet, struct buf *out, uint32_t stream);
void outlet_close(struct outlet *outlet);

/* Whether a frame of this connection's stream belongs to it. */
bool outlet_is(const struct outlet *outlet, const struct buf *out, uint32_t stream);

/* Whether somebody is there and the connection is not far behind with sending. */
bool outlet_has_room(const struct outlet *outlet);

/* Sends a frame. With what costs credit (DATA, MESSAGE_PART, MESSAGE) it has to be there. */
void outlet_send(struct outlet *outlet, enum frame_type type, enum frame_stream part,
                 const void *payload, size_t size);
void outlet_send_u32(struct outlet *outlet, enum frame_type type, enum frame_stream part,
                     uint32_t value);
/* STARTED, with the next frame or soon: alone it would wake a server that has nothing to do yet. */
void outlet_owe_started(struct outlet *outlet, int64_t now_ns);
/* When outlet_step() has to be called; INT64_MAX: nothing is owed to anybody. */
int64_t outlet_wakeup_ns(const struct outlet *outlet);
void outlet_step(struct outlet *outlet, int64_t now_ns);
/* DONE. */
void outlet_send_done(struct outlet *outlet, int sys_errno, uint64_t size_bytes);
/* EXIT of what could not even begin. */
void outlet_send_refusal(struct outlet *outlet, const struct sandbox_exit *exit);

/* Takes a CREDIT frame; ERR_PROTOCOL beyond a window. */
int outlet_take_credit(struct outlet *outlet, const struct frame *frame, struct err *err);

#endif
