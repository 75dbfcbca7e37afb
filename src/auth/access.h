/* Who may call: the rules of the server in one pure function, without I/O and without state.
 *
 * On a loopback address the execution calls are open, the calls that belong to a user need a token.
 * On any other address, with a public name, or behind a proxy, everything needs one but a short
 * list. A Host that is not ours is refused whatever else is true: that is what stops a web page
 * that points its own name at 127.0.0.1 (DNS rebinding). */
#ifndef BERTH_AUTH_ACCESS_H
#define BERTH_AUTH_ACCESS_H

#include <stdbool.h>

struct access_policy {
    const char *bind_host;   /* address or name that the server listens on */
    const char *public_host; /* the name that clients use; NULL or "": none */
    bool auth_off;           /* the operator lifted the rules on tokens; never that on Host */
    bool register_open;      /* POST /register needs no token */
};

struct access_request {
    const char *path; /* decoded, without a trailing slash */
    const char *host; /* the Host field; NULL only from HTTP/1.0 */
    bool forwarded;   /* a field of access_forwarding_headers is there */
};

enum access_verdict { ACCESS_OPEN, ACCESS_NEEDS_TOKEN, ACCESS_BAD_HOST };

/* Header fields that a proxy adds, NULL-ended. */
extern const char *const access_forwarding_headers[];

/* localhost, 127.0.0.0/8 or ::1. */
bool access_is_loopback(const char *host);

/* Decides. Does not block, allocates nothing. */
enum access_verdict access_decide(const struct access_policy *policy,
                                  const struct access_request *request);

#endif
