/* wire/egress_msg: every operation and reply there and back; what neither side takes. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "wire/egress_msg.h"
#include "wire/tlv.h"

static void round_trip(const struct egress_msg *sent, struct buf *buf, struct egress_msg *got)
{
    struct err err = ERR_INIT;
    buf_init(buf, EGRESS_MSG_MAX);
    assert_ok(egress_msg_encode(sent, buf, &err), err);
    for (size_t size = 0; size < buf->size; size++) {
        struct egress_msg cut;
        if (egress_msg_decode(buf->data, size, &cut, &err) == 0)
            egress_msg_done(&cut);
    }
    assert_ok(egress_msg_decode(buf->data, buf->size, got, &err), err);
    assert_int_equal(got->op, sent->op);
    assert_true(got->request_id == sent->request_id);
}

static void test_attach(void **state)
{
    (void)state;
    static const char *const rules[] = {"a.org", "*.b.org:22"};
    struct egress_msg sent = {.op = EGRESS_OP_ATTACH, .request_id = 7};
    sent.attach = (struct egress_attach){.id = "box",
                                         .owner = "somebody",
                                         .nonce = {1, 2, 3},
                                         .bytes_used = 5,
                                         .policy = {rules, 2, 1 << 20, 3}};
    struct egress_msg got;
    BUF_AUTO struct buf buf;
    round_trip(&sent, &buf, &got);
    assert_string_equal(got.attach.id, "box");
    assert_string_equal(got.attach.owner, "somebody");
    assert_memory_equal(got.attach.nonce, sent.attach.nonce, SANDBOX_NONCE_SIZE);
    assert_int_equal(got.attach.bytes_used, 5);
    assert_int_equal(got.attach.policy.rule_count, 2);
    assert_string_equal(got.attach.policy.rules[1], "*.b.org:22");
    assert_int_equal(got.attach.policy.bytes_max, 1 << 20);
    assert_int_equal(got.attach.policy.connections_max, 3);
    egress_msg_done(&got);
}

static void test_the_largest_fits(void **state)
{
    (void)state;
    const char *rules[EGRESS_RULES_MAX];
    char rule[EGRESS_RULE_MAX + 1];
    memset(rule, 'a', sizeof(rule) - 1);
    rule[sizeof(rule) - 1] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
        rules[i] = rule;
    struct egress_msg sent = {.op = EGRESS_OP_ATTACH,
                              .attach = {.id = "x", .policy = {rules, EGRESS_RULES_MAX, 0, 0}}};
    memset(sent.attach.owner, 'o', EGRESS_OWNER_MAX);
    memset(sent.attach.id, 'i', SANDBOX_ID_MAX);
    struct egress_msg got;
    BUF_AUTO struct buf buf;
    round_trip(&sent, &buf, &got);
    assert_int_equal(got.attach.policy.rule_count, EGRESS_RULES_MAX);
    egress_msg_done(&got);
}

static void test_the_others(void **state)
{
    (void)state;
    static const char *const rules[] = {"a.org"};
    struct egress_msg sent = {.op = EGRESS_OP_POLICY, .attach.policy = {rules, 1, 9, 0}};
    struct egress_msg got;
    memcpy(sent.attach.id, "box", 4);
    BUF_AUTO struct buf policy, detach, used, counts, lost, failed;
    round_trip(&sent, &policy, &got);
    assert_string_equal(got.attach.id, "box");
    assert_int_equal(got.attach.policy.bytes_max, 9);
    egress_msg_done(&got);
    sent.op = EGRESS_OP_DETACH;
    round_trip(&sent, &detach, &got);
    assert_int_equal(got.attach.policy.rule_count, 0);
    sent =
        (struct egress_msg){.op = EGRESS_OP_EVENT_COUNTS, .attach = {.id = "b", .bytes_used = 4}};
    round_trip(&sent, &used, &got);
    assert_int_equal(got.attach.bytes_used, 4);
    sent = (struct egress_msg){.op = EGRESS_OP_COUNTS | EGRESS_REPLY, .counts = {1, 2, 3, 4, 5, 6}};
    round_trip(&sent, &counts, &got);
    assert_memory_equal(&got.counts, &sent.counts, sizeof(got.counts));
    sent.op = EGRESS_OP_EVENT_LOST;
    memcpy(sent.attach.id, "gone", 5);
    round_trip(&sent, &lost, &got);
    assert_string_equal(got.attach.id, "gone");
    assert_int_equal(got.counts.bytes_in, 4);
    sent = (struct egress_msg){.op = EGRESS_OP_ATTACH | EGRESS_REPLY};
    assert_int_equal(err_public(&sent.error, ERR_CONFLICT, "no"), -ERR_CONFLICT);
    sent.error.retry_after_s = 2;
    round_trip(&sent, &failed, &got);
    assert_int_equal(got.error.kind, ERR_CONFLICT);
    assert_int_equal(got.error.retry_after_s, 2);
    assert_string_equal(got.error.public_message, "no");
}

static void assert_refused(uint32_t version, uint32_t op, uint16_t tag, const void *data,
                           size_t size, unsigned times)
{
    struct err err = ERR_INIT;
    struct egress_msg got;
    uint8_t header[MSG_HEAD_SIZE] = {0};
    BUF_AUTO struct buf buf;
    buf_init(&buf, 4 * EGRESS_MSG_MAX);
    tlv_store_u32(header, version);
    tlv_store_u32(header + 4, op);
    assert_ok(buf_append(&buf, header, sizeof(header), &err), err);
    struct tlv_writer writer;
    tlv_begin(&writer, &buf);
    for (unsigned i = 0; i < times; i++)
        tlv_put_bytes(&writer, tag, data, size);
    assert_ok(tlv_end(&writer, &err), err);
    assert_fails(egress_msg_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
    assert_null(got.rules);
}

static void test_what_is_refused(void **state)
{
    (void)state;
    char text[EGRESS_MSG_MAX];
    memset(text, 'x', sizeof(text));
    text[99] = '\0';
    const uint8_t number[8] = {99};
    assert_refused(2, EGRESS_OP_COUNTS, 5, "x", 2, 1);
    assert_refused(1, 0, 5, "x", 2, 1);
    assert_refused(1, 99, 5, "x", 2, 1);
    assert_refused(1, EGRESS_OP_COUNTS, 5, text, 100, 1); /* a long id */
    assert_refused(1, EGRESS_OP_COUNTS, 5, "a\0b", 4, 1); /* a NUL within */
    assert_refused(1, EGRESS_OP_ATTACH, 6, text, 100, 1); /* a long owner */
    assert_refused(1, EGRESS_OP_ATTACH, 7, text, 15, 1);  /* a short nonce */
    assert_refused(1, EGRESS_OP_ATTACH, 8, text, 4, 1);   /* a short number */
    assert_refused(1, EGRESS_OP_ATTACH, 9, "x", 2, EGRESS_RULES_MAX + 1);
    assert_refused(1, EGRESS_OP_ATTACH | EGRESS_REPLY, 1, number, 8, 1);  /* a kind of error */
    assert_refused(1, EGRESS_OP_ATTACH, 99, text, EGRESS_MSG_MAX - 8, 1); /* too long in all */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attach),
        cmocka_unit_test(test_the_largest_fits),
        cmocka_unit_test(test_the_others),
        cmocka_unit_test(test_what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
