/* The server's client of berth-egress, the process that is the only way out of a sandbox.
 *
 * Thread-safe; every function takes an absolute deadline on the monotonic clock, blocks no longer
 * and fails with ERR_UNAVAILABLE (retry_after_s set) while the process is away. It is connected to
 * in the background and again whenever the connection breaks. What it knows ends with it: in
 * events.connected whoever uses this attaches all sandboxes again. What they used of their cap by
 * then is remembered here and goes along. */
#ifndef BERTH_NETWORK_EGRESS_H
#define BERTH_NETWORK_EGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/egress_msg.h"

struct egress;

/* Called on an internal thread without any lock held; must not block for long, nor call functions
 * of this file (their answers come by that thread): hand over to another one. */
struct egress_events {
    void *context;
    /* The process is there, for the first time or again: it knows no sandbox, or those of a server
     * before. Attach each that lives. */
    void (*connected)(void *context);
    /* Init closed the channel of this sandbox: it ended, or another channel took over. Its last
     * counts. `id` is valid during the call only. NULL: nobody wants to know. */
    void (*lost)(void *context, const char *id, const struct egress_counts *counts);
};

/* The process's socket; events is copied. Does not block. */
int egress_new(const char *socket_path, const struct egress_events *events, struct egress **out,
               struct err *err);
/* Ends the connection; what is attached stays so. Nobody may be in a call. NULL is allowed. */
void egress_free(struct egress *egress);

/* Whether it is connected now: for GET /info and readiness. */
bool egress_is_connected(struct egress *egress);

struct egress_sandbox {
    const char *id;
    const char *owner;
    const uint8_t *nonce; /* SANDBOX_NONCE_SIZE bytes */
    struct egress_policy policy;
};

/* From here on what the code connects to on 127.0.0.1:3128 goes out, as far as the policy says.
 * channel_fd is a fresh channel of engine_open_channel() that nothing was sent on; it is taken over
 * also on failure. Blocks until init has answered. May be called before or after NETWORK was sent
 * to init, and again for the same id: policy and channel are replaced. Strings are borrowed for the
 * call. ERR_BAD_INPUT: a rule is none. ERR_CLOSED: init is gone. ERR_PROTOCOL, ERR_UNSUPPORTED: the
 * init is not the one of this nonce, or has no way out. */
int egress_attach(struct egress *egress, const struct egress_sandbox *sandbox, int channel_fd,
                  int64_t deadline_ns, struct err *err);

/* Another policy for a sandbox that is attached; connections that it does not allow end.
 * ERR_NOT_FOUND: it is not attached. */
int egress_set_policy(struct egress *egress, const char *id, const struct egress_policy *policy,
                      int64_t deadline_ns, struct err *err);

/* Ends the connections of a sandbox. *out_counts (may be NULL) is what it came to. What it has used
 * of its cap counts when it is attached again. Idempotent. */
int egress_detach(struct egress *egress, const char *id, int64_t deadline_ns,
                  struct egress_counts *out_counts, struct err *err);

/* The same without waiting, for a sandbox that is being destroyed: call it for each that was
 * attached, so that what it used is forgotten. */
void egress_detach_later(struct egress *egress, const char *id);

/* Of one sandbox (ERR_NOT_FOUND), or with id NULL of all since the process started. */
int egress_counts(struct egress *egress, const char *id, int64_t deadline_ns,
                  struct egress_counts *out, struct err *err);

#endif
