/* The sandboxes that have a way out now: what each is to have is noted with its box, and
 * berth-egress is told of it, again and again until it knows. */
#ifndef BERTH_CORE_NETWORK_USE_H
#define BERTH_CORE_NETWORK_USE_H

#include "core/network.h"
#include "wire/sandbox.h"

struct core;
struct engine_slot;
struct network_use;

/* Whether a sandbox of an engine, with these capabilities, can be given that network here.
 * ERR_UNSUPPORTED (public). */
int network_check(const struct core *core, const struct engine_slot *slot, uint64_t capabilities,
                  const struct network *network, struct err *err);

/* Gives a sandbox in the table its network, in place of the one that it has. What egress can't be
 * told now it is told later, by a thread: that is no failure. The rest is for network_settle(). */
int network_give(struct core *core, const char *sandbox_id, const char *owner,
                 const uint8_t nonce[static SANDBOX_NONCE_SIZE], const struct network *network,
                 struct err *err);

/* Tells egress what a sandbox is to have, if it does not know, and waits for its answer: what is
 * not allowed any more has ended then. ERR_UNAVAILABLE: it is away, and will hear of it. */
int network_settle(struct core *core, const char *sandbox_id, struct err *err);

/* Gives a sandbox the engine's network "full" or takes it away, beside the books: for who has to
 * know that it is gone before it writes so. */
int network_tell_engine(struct core *core, const char *sandbox_id, bool full, struct err *err);

/* Ends the thread of core_open_egress(), which uses engines. What is attached stays so. */
void network_stop(struct core *core);
/* After it, and after the engines, which say to the last that sandboxes end: frees the rest. */
void network_close(struct core *core);

/* For sandboxes.c: the box goes, or is to go, and nobody finds its use any more; NULL is allowed.
 * Tells egress, without waiting. */
void network_forget(struct core *core, const char *sandbox_id, struct network_use *use);
void network_use_free(struct network_use *use);

/* The engine is there: what could not be reached may be now. */
void network_try_again(struct core *core);

struct network_stats {
    bool connected;
    unsigned sandboxes;                                           /* that are to have egress */
    uint64_t requests, refused, bytes_out, bytes_in, connections; /* of egress, since its start */
};
/* Asks egress, shortly. */
void network_stats(struct core *core, struct network_stats *out);

#endif
