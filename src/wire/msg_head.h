/* What the messages between the server and the other processes have in common (engine_msg.h,
 * egress_msg.h): the head of a datagram, and the error of a reply. */
#ifndef BERTH_WIRE_MSG_HEAD_H
#define BERTH_WIRE_MSG_HEAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/tlv.h"

/* Version (u32), operation (u32), request id (u64). */
#define MSG_HEAD_SIZE 16
#define MSG_REPLY 0x8000U /* in the operation */

struct msg_protocol {
    const char *name;
    uint32_t version;
    uint32_t op_count; /* operations are 1 to op_count - 1 */
    size_t message_max;
    /* Of the fields of an error; errno 0: it is not told. */
    uint16_t tag_kind, tag_errno, tag_message, tag_public, tag_retry;
};

int msg_head_put(const struct msg_protocol *protocol, uint32_t op, uint64_t request_id,
                 struct buf *out, struct err *err);
/* ERR_PROTOCOL: the size, the version or the operation is none. *fields: what comes behind. */
int msg_head_take(const struct msg_protocol *protocol, const void *data, size_t size,
                  uint32_t *out_op, uint64_t *out_request_id, struct tlv_reader *fields,
                  struct err *err);

/* Of an encoded message. */
uint32_t msg_head_op(const void *message);
void msg_head_set_request_id(void *message, uint64_t request_id);

void msg_error_put(const struct msg_protocol *protocol, struct tlv_writer *writer,
                   const struct err *error);
/* Takes a field that is one of error's. Returns 1 then, 0 for any other. */
int msg_error_take(const struct msg_protocol *protocol, const struct tlv_field *field,
                   struct err *error, struct err *err);

#endif
