/* Owns the byte layout and the field tags of what the server says to berth-egress. Tags are never
 * reused for something else. */
#include "wire/egress_msg.h"

#include <stdlib.h>
#include <string.h>

#include "wire/msg_head.h"

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

static const struct msg_protocol protocol = {.name = "egress",
                                             .version = EGRESS_MSG_VERSION,
                                             .op_count = EGRESS_OP_COUNT,
                                             .message_max = EGRESS_MSG_MAX,
                                             .tag_kind = TAG_ERROR_KIND,
                                             .tag_message = TAG_ERROR_MESSAGE,
                                             .tag_public = TAG_ERROR_PUBLIC,
                                             .tag_retry = TAG_ERROR_RETRY};

/* ---- out ---- */

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
    int result = msg_head_put(&protocol, msg->op, msg->request_id, out, err);
    if (result != 0)
        return result;
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    if (msg->error.kind != ERR_NONE)
        msg_error_put(&protocol, &writer, &msg->error);
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
    switch (field->tag) {
    case TAG_ID:
        return tlv_copy_str(field, attach->id, sizeof(attach->id), err);
    case TAG_OWNER:
        return tlv_copy_str(field, attach->owner, sizeof(attach->owner), err);
    case TAG_NONCE:
        return tlv_copy_bytes(field, attach->nonce, sizeof(attach->nonce), err);
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
    default:
        return 0; /* of a later version */
    }
}

int egress_msg_decode(const void *data, size_t size, struct egress_msg *msg, struct err *err)
{
    memset(msg, 0, sizeof(*msg));
    struct tlv_reader reader;
    struct tlv_field field;
    int result = msg_head_take(&protocol, data, size, &msg->op, &msg->request_id, &reader, err);
    if (result != 0)
        return result;
    while ((result = tlv_next(&reader, &field, err)) > 0) {
        result = msg_error_take(&protocol, &field, &msg->error, err);
        if (result == 0)
            result = message_field(&field, msg, err);
        if (result < 0)
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
