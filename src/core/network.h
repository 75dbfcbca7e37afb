/* Where a sandbox may connect to: what the operator offers, what a request makes of that, and how
 * it is written down. Knows no process and no sandbox: that is network_use.h.
 *
 * A request narrows; only the operator widens. A list that was narrowed is narrowed again by
 * whatever the operator says at the time when it is used. */
#ifndef BERTH_CORE_NETWORK_H
#define BERTH_CORE_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct network_ask;

enum network_mode {
    NETWORK_NONE,   /* a loopback and nothing else */
    NETWORK_EGRESS, /* out by the proxy of berth-egress alone */
    NETWORK_FULL,
    NETWORK_MODE_COUNT
};

const char *network_mode_name(enum network_mode mode);

/* Rules of wire/egress_rule.h. */
struct network_list {
    const char **items; /* heap; they point into text */
    size_t count;
    char *text;
};
void network_list_done(struct network_list *list);
#define NETWORK_LIST_AUTO __attribute__((cleanup(network_list_done)))

/* The operator's. All zero: nothing but "none" is offered. */
struct network_rules {
    bool offered[NETWORK_MODE_COUNT]; /* "none" is, whatever this says */
    struct network_list allow;
    uint64_t bytes_max; /* of one sandbox, both ways together; 0: no cap */
    uint32_t connections_max;
};

/* Package registries: what egress allows when the operator names nothing. */
const char *network_default_allow(void);

/* Reads the settings: modes and rules, separated by commas or spaces. ERR_BAD_INPUT names the word
 * that is wrong. network_rules_done() frees *out. */
int network_rules_read(const char *modes, const char *allow, struct network_rules *out,
                       struct err *err);
void network_rules_done(struct network_rules *rules);

/* Of one sandbox. All zero: none. */
struct network {
    enum network_mode mode;
    char *allow; /* egress: only these rules, separated by spaces; heap. NULL: all of the operator's
                  */
};
void network_done(struct network *network);
int network_copy(const struct network *network, struct network *out, struct err *err);

/* What a request comes to under these rules. ERR_BAD_INPUT, ERR_UNSUPPORTED (public): it names
 * what there is not, or what the operator does not allow. */
int network_plan(const struct network_rules *rules, const struct network_ask *ask,
                 struct network *out, struct err *err);

/* The rules that hold for it now; none when the operator offers no egress any more. */
int network_effective(const struct network_rules *rules, const struct network *network,
                      struct network_list *out, struct err *err);

/* As text for the store, heap: "none", "egress", "egress RULE RULE". */
char *network_encode(const struct network *network);
/* Nonsense is ERR_INTERNAL: nobody else wrote it. */
int network_decode(const char *text, struct network *out, struct err *err);

/* {"mode": "egress", "allow": [rules that hold now]} */
int network_append_json(const struct network_rules *rules, const struct network *network,
                        struct buf *out, struct err *err);
/* {"modes": [...], "default": "none", "allow": [...], ...}, for /api/v1/info. */
int network_rules_json(const struct network_rules *rules, struct buf *out, struct err *err);

/* The variables that lead programs through the proxy, "NAME=value", and to the CA bundle of the
 * image "host" (NULL: the same): *out_count of them, none but for egress. Their place in the list
 * is fixed, so that bit i of a mask is variable i. */
#define NETWORK_ENV_MAX 24
const char *const *network_env(const struct network *network, const char *image, size_t *out_count);
/* The mask of those that none of the caller's variables sets. */
uint32_t network_env_unset(const char *const *env, size_t env_count);

#endif
