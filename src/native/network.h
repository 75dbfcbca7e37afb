/* Network "full": a pair of interfaces for a sandbox, and the way from it to the internet and to
 * nothing else.
 *
 * The addresses of a sandbox are those of its id range's number, so that two sandboxes of a host
 * never share them, and the engine needs to remember nothing: the name of the host's interface
 * says which instance and which range it is of, its alias which sandbox. */
#ifndef BERTH_NATIVE_NETWORK_H
#define BERTH_NATIVE_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "native/firewall.h"
#include "native/idrange.h"

struct networks {
    char instance[40];
    bool root;    /* the host's: an earlier engine may have left something */
    bool wanted;  /* the operator offers it, and the settings are right: who has one keeps it */
    bool offered; /* sandboxes can be given one: it was tried as well */
    struct firewall_spec rules;
    bool table; /* the host's rules stand, as far as we know */
    bool tidy;  /* one was taken away: network_sweep() may find that it was the last */
};

/* Reads the operator's settings (BERTH_NETWORK_MODES, BERTH_FULL_SUBNET, _DNS, _EXCEPT) and tries
 * it. Returns 0 also where it is not offered; ERR_UNSUPPORTED (public): the operator offers it, and
 * this host has it not. A wrong setting is the same, for its caller's list of what is missing. */
int network_open(const char *instance, const struct idrange_space *ids, struct networks *out,
                 struct err *err);

/* resolv.conf(5) of a sandbox, heap; NULL: no memory. */
char *network_resolv(const struct networks *networks);

/* Gives the sandbox id, with the range of that number, its interface; idempotent. */
int network_give(struct networks *networks, const char *id, uint32_t index, int netns_fd,
                 struct err *err);
/* Takes it away; idempotent. */
int network_take(struct networks *networks, uint32_t index, struct err *err);

/* lives is called with the sandbox of each interface of our instance: the others' are removed, and
 * the rules where no interface is left; where one is, they are put back if somebody took them away.
 * Where the operator offers it no more, nobody keeps one; where only the trial failed, all do. */
typedef bool (*network_lives_fn)(void *context, const char *id);
int network_sweep(struct networks *networks, network_lives_fn lives, void *context,
                  struct err *err);

#endif
