/* Owns the byte layout of a message's head, and how an error is told. */
#include "wire/msg_head.h"

enum { OP_AT = 4, REQUEST_ID_AT = 8 };

int msg_head_put(const struct msg_protocol *protocol, uint32_t op, uint64_t request_id,
                 struct buf *out, struct err *err)
{
    uint8_t head[MSG_HEAD_SIZE];
    tlv_store_u32(head, protocol->version);
    tlv_store_u32(head + OP_AT, op);
    tlv_store_u64(head + REQUEST_ID_AT, request_id);
    return buf_append(out, head, sizeof(head), err);
}

int msg_head_take(const struct msg_protocol *protocol, const void *data, size_t size,
                  uint32_t *out_op, uint64_t *out_request_id, struct tlv_reader *fields,
                  struct err *err)
{
    const uint8_t *bytes = data;
    if (size < MSG_HEAD_SIZE || size > protocol->message_max)
        return err_set(err, ERR_PROTOCOL, "an %s message of %zu bytes", protocol->name, size);
    uint32_t version = tlv_load_u32(bytes);
    if (version != protocol->version)
        return err_set(err, ERR_PROTOCOL, "%s protocol version %u, we speak %u", protocol->name,
                       version, protocol->version);
    uint32_t op = msg_head_op(data) & ~MSG_REPLY;
    if (op == 0 || op >= protocol->op_count)
        return err_set(err, ERR_PROTOCOL, "%s operation %u", protocol->name, op);
    *out_op = msg_head_op(data);
    *out_request_id = tlv_load_u64(bytes + REQUEST_ID_AT);
    tlv_open(fields, bytes + MSG_HEAD_SIZE, size - MSG_HEAD_SIZE);
    return 0;
}

uint32_t msg_head_op(const void *message)
{
    return tlv_load_u32((const uint8_t *)message + OP_AT);
}

void msg_head_set_request_id(void *message, uint64_t request_id)
{
    tlv_store_u64((uint8_t *)message + REQUEST_ID_AT, request_id);
}

void msg_error_put(const struct msg_protocol *protocol, struct tlv_writer *writer,
                   const struct err *error)
{
    tlv_put_u64(writer, protocol->tag_kind, (uint64_t)error->kind);
    if (protocol->tag_errno != 0)
        tlv_put_u64(writer, protocol->tag_errno, (uint64_t)error->sys_errno);
    tlv_put_u64(writer, protocol->tag_retry, error->retry_after_s);
    tlv_put_str(writer, protocol->tag_message, error->message);
    tlv_put_str(writer, protocol->tag_public, error->public_message);
}

static int take_number(const struct msg_protocol *protocol, const struct tlv_field *field,
                       struct err *error, struct err *err)
{
    uint32_t number = 0;
    int result = tlv_u32(field, &number, err);
    if (result != 0)
        return result;
    if (field->tag == protocol->tag_errno) {
        error->sys_errno = (int)(number & 0xffff);
    } else if (field->tag == protocol->tag_retry) {
        error->retry_after_s = number;
    } else {
        if (number == 0 || number >= ERR_KIND_COUNT)
            return err_set(err, ERR_PROTOCOL, "error kind %u", number);
        error->kind = (enum err_kind)number;
    }
    return 1;
}

int msg_error_take(const struct msg_protocol *protocol, const struct tlv_field *field,
                   struct err *error, struct err *err)
{
    int result = 0;
    if (field->tag == protocol->tag_message)
        result = tlv_copy_str(field, error->message, sizeof(error->message), err);
    else if (field->tag == protocol->tag_public)
        result = tlv_copy_str(field, error->public_message, sizeof(error->public_message), err);
    else if (field->tag == protocol->tag_kind || field->tag == protocol->tag_retry ||
             (protocol->tag_errno != 0 && field->tag == protocol->tag_errno))
        return take_number(protocol, field, error, err);
    else
        return 0;
    return result == 0 ? 1 : result;
}
