/* A message from a server that was taken over, as berth-egress reads it, and one the other way. */
#include "fuzz.h"

#include <string.h>

#include "wire/egress_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct egress_msg msg;
    if (egress_msg_decode(data, size, &msg, NULL) != 0)
        return 0;
    fuzz_require(strnlen(msg.attach.id, sizeof(msg.attach.id)) < sizeof(msg.attach.id));
    fuzz_require(strnlen(msg.attach.owner, sizeof(msg.attach.owner)) < sizeof(msg.attach.owner));
    fuzz_require(msg.error.kind >= ERR_NONE && msg.error.kind < ERR_KIND_COUNT);
    fuzz_require(msg.attach.policy.rule_count <= EGRESS_RULES_MAX);
    for (size_t i = 0; i < msg.attach.policy.rule_count; i++) {
        struct egress_rule rule, again;
        char text[EGRESS_RULE_MAX + 1];
        if (egress_rule_parse(msg.attach.policy.rules[i], &rule, NULL) != 0)
            continue;
        egress_rule_format(&rule, text, sizeof(text));
        fuzz_require(egress_rule_parse(text, &again, NULL) == 0);
        fuzz_require(egress_rule_covers(&rule, &again) && egress_rule_covers(&again, &rule));
    }
    BUF_AUTO struct buf out;
    buf_init(&out, 1024U * 1024U);
    fuzz_require(egress_msg_encode(&msg, &out, NULL) == 0);
    egress_msg_done(&msg);
    return 0;
}
