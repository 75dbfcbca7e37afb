/* Owns the byte layout and the field tags of what the server says to berth-egress. Tags are never
 * reused for something else. */
#include "wire/egress_msg.h"

#include <stdlib.h>
#include <string.h>

#include "wire/tlv.h"

enum egress_tag {
    TAG_ERROR_KIND = 1,
    TAG_ERROR_MESSAGE,
    TAG_ERROR_PUBLIC,
    TAG_ERROR_RETRY,
    TAG_ID,
    TAG_OWNER,
    TAG_NONCE,
    TAG_BYTES_USED,
    TAG_RULE,
    TAG_BYTES_MAX,
    TAG_CONNECTIONS_MAX,
    TAG_REQUESTS,
    TAG_REFUSED,
    TAG_BYTES_OUT,
    TAG_BYTES_IN,
    TAG_CONNECTIONS,
    TAG_SANDBOXES,
};

/* ---- out ---- */

static void put_error(struct tlv_writer *writer, const struct err *error)
{
    tlv_put_u64(writer, TAG_ERROR_KIND, (uint64_t)error->kind);
    tlv_put_u64(writer, TAG_ERROR_RETRY, error->retry_after_s);
    tlv_put_str(writer, TAG_ERROR_MESSAGE, error->message);
    tlv_put_str(writer, TAG_ERROR_PUBLIC, error->public_message);
}

static void put_counts(struct tlv_writer *writer, const struct egress_counts *counts)
{
    tlv_put_u64(writer, TAG_REQUESTS, counts->requests);
    tlv_put_u64(writer, TAG_REFUSED, counts->refused);
    tlv_put_u64(writer, TAG_BYTES_OUT, counts->bytes_out);
    tlv_put_u64(writer, TAG_BYTES_IN, counts->bytes_in);
    tlv_put_u64(writer, TAG_CONNECTIONS, counts->connections);
    tlv_put_u64(writer, TAG_SANDBOXES, counts->sandboxes);
}

static void put_policy(struct tlv_writer *writer, const struct egress_policy *policy)
{
    for (size_t i = 0; i < policy->rule_count; i++)
        tlv_put_str(writer, TAG_RULE, policy->rules[i]);
    tlv_put_u64(writer, TAG_BYTES_MAX, policy->bytes_max);
    tlv_put_u64(writer, TAG_CONNECTIONS_MAX, policy->connections_max);
}

static void put_attach(struct tlv_writer *writer, const struct egress_attach *attach)
{
    tlv_put_str(writer, TAG_OWNER, attach->owner);
    tlv_put_bytes(writer, TAG_NONCE, attach->nonce, sizeof(attach->nonce));
    tlv_put_u64(writer, TAG_BYTES_USED, attach->bytes_used);
}

static bool has_counts(uint32_t op)
{
    return op == (EGRESS_OP_DETACH | EGRESS_REPLY) || op == (EGRESS_OP_COUNTS | EGRESS_REPLY) ||
           op == EGRESS_OP_EVENT_LOST || op == EGRESS_OP_EVENT_COUNTS;
}

int egress_msg_encode(const struct egress_msg *msg, struct buf *out, struct err *err)
{
    uint8_t header[EGRESS_HEADER_SIZE];
    tlv_store_u32(header, EGRESS_MSG_VERSION);
    tlv_store_u32(header + 4, msg->op);
    tlv_store_u64(header + 8, msg->request_id);
    int result = buf_append(out, header, sizeof(header), err);
    if (result != 0)
        return result;
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    if (msg->error.kind != ERR_NONE)
        put_error(&writer, &msg->error);
    else if (has_counts(msg->op))
        put_counts(&writer, &msg->counts);
    if (msg->op == EGRESS_OP_EVENT_COUNTS)
        tlv_put_u64(&writer, TAG_BYTES_USED, msg->attach.bytes_used);
    if ((msg->op & EGRESS_REPLY) == 0)
        tlv_put_str(&writer, TAG_ID, msg->attach.id);
    if (msg->op == EGRESS_OP_ATTACH)
        put_attach(&writer, &msg->attach);
    if (msg->op == EGRESS_OP_ATTACH || msg->op == EGRESS_OP_POLICY)
        put_policy(&writer, &msg->attach.policy);
    return tlv_end(&writer, err);
}

/* ---- in ---- */

/* Copies a text field into a fixed array; ERR_PROTOCOL when it does not fit. */
static int copy_text(const struct tlv_field *field, char *out, size_t size, struct err *err)
{
    const char *text = NULL;
    int result = tlv_str(field, &text, err);
    if (result != 0)
        return result;
    if (field->size > size)
        return err_set(err, ERR_PROTOCOL, "field %u is too long", field->tag);
    memcpy(out, text, field->size);
    return 0;
}

static int error_field(const struct tlv_field *field, struct err *error, struct err *err)
{
    uint32_t number = 0;
    if (field->tag == TAG_ERROR_MESSAGE)
        return copy_text(field, error->message, sizeof(error->message), err);
    if (field->tag == TAG_ERROR_PUBLIC)
        return copy_text(field, error->public_message, sizeof(error->public_message), err);
    int result = tlv_u32(field, &number, err);
    if (result != 0)
        return result;
    if (field->tag == TAG_ERROR_RETRY) {
        error->retry_after_s = number;
        return 0;
    }
    if (number == 0 || number >= ERR_KIND_COUNT)
        return err_set(err, ERR_PROTOCOL, "error kind %u", number);
    error->kind = (enum err_kind)number;
    return 0;
}

static int nonce_field(const struct tlv_field *field, struct egress_attach *attach, struct err *err)
{
    if (field->size != sizeof(attach->nonce))
        return err_set(err, ERR_PROTOCOL, "a nonce of %zu bytes", field->size);
    memcpy(attach->nonce, field->data, sizeof(attach->nonce));
    return 0;
}

static int rule_field(const struct tlv_field *field, struct egress_msg *msg, struct err *err)
{
    struct egress_policy *policy = &msg->attach.policy;
    if (policy->rule_count >= EGRESS_RULES_MAX)
        return err_set(err, ERR_PROTOCOL, "more than %d rules", EGRESS_RULES_MAX);
    if (!msg->rules)
        msg->rules = calloc(EGRESS_RULES_MAX, sizeof(*msg->rules));
    if (!msg->rules)
        return err_set(err, ERR_INTERNAL, "no memory for rules");
    policy->rules = msg->rules;
    return tlv_str(field, &msg->rules[policy->rule_count++], err);
}

static int message_field(const struct tlv_field *field, struct egress_msg *msg, struct err *err)
{
    struct egress_attach *attach = &msg->attach;
    struct egress_counts *counts = &msg->counts;
    switch ((enum egress_tag)field->tag) {
    case TAG_ERROR_KIND:
    case TAG_ERROR_MESSAGE:
    case TAG_ERROR_PUBLIC:
    case TAG_ERROR_RETRY:
        return error_field(field, &msg->error, err);
    case TAG_ID:
        return copy_text(field, attach->id, sizeof(attach->id), err);
    case TAG_OWNER:
        return copy_text(field, attach->owner, sizeof(attach->owner), err);
    case TAG_NONCE:
        return nonce_field(field, attach, err);
    case TAG_BYTES_USED:
        return tlv_u64(field, &attach->bytes_used, err);
    case TAG_RULE:
        return rule_field(field, msg, err);
    case TAG_BYTES_MAX:
        return tlv_u64(field, &attach->policy.bytes_max, err);
    case TAG_CONNECTIONS_MAX:
        return tlv_u32(field, &attach->policy.connections_max, err);
    case TAG_REQUESTS:
        return tlv_u64(field, &counts->requests, err);
    case TAG_REFUSED:
        return tlv_u64(field, &counts->refused, err);
    case TAG_BYTES_OUT:
        return tlv_u64(field, &counts->bytes_out, err);
    case TAG_BYTES_IN:
        return tlv_u64(field, &counts->bytes_in, err);
    case TAG_CONNECTIONS:
        return tlv_u64(field, &counts->connections, err);
    case TAG_SANDBOXES:
        return tlv_u64(field, &counts->sandboxes, err);
    }
    return 0;
}

int egress_msg_decode(const void *data, size_t size, struct egress_msg *msg, struct err *err)
{
    memset(msg, 0, sizeof(*msg));
    if (size < EGRESS_HEADER_SIZE || size > EGRESS_MSG_MAX)
        return err_set(err, ERR_PROTOCOL, "an egress message of %zu bytes", size);
    const uint8_t *bytes = data;
    uint32_t version = tlv_load_u32(bytes);
    if (version != EGRESS_MSG_VERSION)
        return err_set(err, ERR_PROTOCOL, "egress protocol version %u, we speak %d", version,
                       EGRESS_MSG_VERSION);
    msg->op = tlv_load_u32(bytes + 4);
    msg->request_id = tlv_load_u64(bytes + 8);
    uint32_t op = msg->op & ~EGRESS_REPLY;
    if (op == 0 || op >= EGRESS_OP_COUNT)
        return err_set(err, ERR_PROTOCOL, "egress operation %u", op);
    struct tlv_reader reader;
    struct tlv_field field;
    int result = 0;
    tlv_open(&reader, bytes + EGRESS_HEADER_SIZE, size - EGRESS_HEADER_SIZE);
    while ((result = tlv_next(&reader, &field, err)) > 0) {
        result = message_field(&field, msg, err);
        if (result != 0)
            break;
    }
    if (result != 0)
        egress_msg_done(msg);
    return result;
}

void egress_msg_done(struct egress_msg *msg)
{
    if (!msg)
        return;
    free(msg->rules);
    msg->rules = NULL;
    msg->attach.policy.rules = NULL;
    msg->attach.policy.rule_count = 0;
}
