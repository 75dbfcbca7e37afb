/* Frames of the sandbox protocol over any byte stream.
 *
 * A frame is payload size (u32), type (u8), zero (u8), zero (u16), stream id (u32), then the
 * payload; little-endian. The decoder takes bytes in any pieces and never holds more than one
 * frame; what a kernel or a peer sends is data, checked before it is used. */
#ifndef BERTH_WIRE_FRAME_H
#define BERTH_WIRE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define FRAME_HEADER_SIZE 12
#define FRAME_PAYLOAD_MAX (512U * 1024U)
#define FRAME_DATA_MAX (32U * 1024U) /* the most that a sender puts into one DATA frame */
#define FRAME_WINDOW (256U * 1024U)  /* credit that each stream starts with, in bytes */
#define FRAME_READ_MIN (4U * 1024U)  /* frame_decoder_read() takes so much at once, or all */

enum frame_type {
    FRAME_HELLO = 1, /* both ways, first: struct sandbox_hello */
    FRAME_EXEC,      /* to init: struct sandbox_exec, on a fresh stream (a multiple of 4) */
    FRAME_STARTED,   /* from init: the code runs (no payload). Said with the next frame of the
                        execution, or a few milliseconds later when there is none; of a terminal,
                        and to who attaches, at once */
    FRAME_EXIT,      /* from init: struct sandbox_exit; the last frame of an execution */
    FRAME_DATA,      /* both ways: bytes of a stream; costs credit */
    FRAME_CREDIT,    /* both ways: u32, bytes that the receiver may take more of the stream. Given
                        before less than FRAME_DATA_MAX is left: a held event is never cut */
    FRAME_CLOSE,     /* both ways: the end of a stream's bytes. Of an execution's output it comes
                        right before EXIT, of a terminal's when that hangs up */
    FRAME_KILL,      /* to init: end the execution or file of this stream; u32 enum kill_cause */
    FRAME_PUT_FILE,  /* to init: struct sandbox_put_file; its bytes follow as DATA, then CLOSE */
    FRAME_DONE,      /* from init: struct sandbox_done, the outcome of a file operation */
    FRAME_PING,     /* to init. A file that failed is the failure of the execution behind it, unless
                       a PING is in between: so says who has heard of it */
    FRAME_PONG,     /* from init */
    FRAME_GET_FILE, /* to init: struct sandbox_get_file; its bytes come as DATA on the stream of
                       stdout, then CLOSE, then DONE */
    FRAME_KERNEL,   /* to init: struct sandbox_kernel, on a fresh stream; starts the kernel. DONE
                       when it is ready, at once when one of the same words lives. One that has had
                       no run yet gets other variables with its first one. EEXIST: one of other
                       words lives */
    FRAME_RUN,      /* to init: struct sandbox_run, on a fresh stream. The code follows as DATA on
                       that stream (no credit is needed: at most SANDBOX_CODE_MAX), then CLOSE */
    FRAME_MESSAGE_PART, /* from init, control stream: a piece of a kernel's message, more follow */
    FRAME_MESSAGE,      /* the same, and it is whole now; both cost credit as DATA does */
    FRAME_INTERRUPT,    /* to init: SIGINT to what the execution of this stream runs */
    FRAME_RESIZE,       /* to init: u32, columns << 16 | rows, of the execution's terminal */
    FRAME_ATTACH,       /* to init: struct sandbox_attach, on a fresh stream: a held execution's
                           STARTED, events, the CLOSE of its outputs and EXIT; or DONE: ESRCH, there
                           is none; EINVAL, it has fewer events. The stream that was attached before
                           ends with DONE and ECANCELED */
    FRAME_FORGET,       /* to init: struct sandbox_attach (after is ignored), on a fresh stream:
                           DONE; ESRCH: there is none; EBUSY: it has not ended */
    FRAME_LIST,         /* to init, on a fresh stream: LISTED on the same */
    FRAME_LISTED,       /* from init: struct sandbox_listed */
    FRAME_TIMERS,       /* to init: struct sandbox_timers, on a fresh stream: DONE */
    FRAME_LIMITS,       /* to init: struct sandbox_limits, on a fresh stream: DONE */
    FRAME_NETWORK,      /* to init: struct sandbox_network, on a fresh stream: DONE. EADDRINUSE: the
                           code has taken the port of the proxy */
    FRAME_EGRESS,       /* to init, on a fresh stream: DONE; from then on this connection is the one
                           that gets what the code opens to the proxy. A later one takes over */
    FRAME_ACCEPTED,     /* from init, on that stream: one socket that was accepted comes beside it
                           (SCM_RIGHTS, with the first byte of the frame) */
    FRAME_TYPE_COUNT
};

/* The streams of one execution: the id of its EXEC, RUN or ATTACH frame plus one of these. */
enum frame_stream { STREAM_CONTROL = 0, STREAM_STDIN = 1, STREAM_STDOUT = 2, STREAM_STDERR = 3 };
#define STREAM_STEP 4U

struct frame {
    enum frame_type type;
    uint32_t stream;
    const uint8_t *payload; /* valid until the decoder is fed or asked again */
    size_t size;
};

/* Appends one frame. ERR_TOO_LARGE when the payload or the buffer is. */
int frame_append(struct buf *out, enum frame_type type, uint32_t stream, const void *payload,
                 size_t size, struct err *err);
int frame_append_u32(struct buf *out, enum frame_type type, uint32_t stream, uint32_t value,
                     struct err *err);
/* Reads the u32 payload of a CREDIT or KILL frame. */
int frame_u32(const struct frame *frame, uint32_t *out, struct err *err);

struct frame_decoder {
    struct buf buf;
    size_t consumed; /* bytes at the front that belong to frames already given out */
    size_t chunk;    /* of the next read; grows with what comes */
};

void frame_decoder_init(struct frame_decoder *decoder);
void frame_decoder_done(struct frame_decoder *decoder);

/* Adds bytes from the stream. */
int frame_decoder_feed(struct frame_decoder *decoder, const void *data, size_t size,
                       struct err *err);

/* Reads once from fd (read(2)) into the decoder. Returns the bytes read, 0 at the end of the
 * stream, -ERR_UNAVAILABLE when it would block, -ERR_CLOSED on a reset. */
int frame_decoder_read(struct frame_decoder *decoder, int fd, struct err *err);

/* Takes the next whole frame. Returns 1 with a frame, 0 when more bytes are needed, -ERR_PROTOCOL
 * on a frame that no peer may send (the connection is useless then). */
int frame_decoder_next(struct frame_decoder *decoder, struct frame *frame, struct err *err);

#endif
