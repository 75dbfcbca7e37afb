/* The user namespace that the engine of an ordinary user makes for itself, to be root in it. */
#ifndef BERTH_NATIVE_USERNS_H
#define BERTH_NATIVE_USERNS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

enum { USERNS_TEXT_MAX = 160 };

struct userns {
    bool own;                      /* this process is in a user namespace that it made */
    uid_t host_uid;                /* who it was before */
    char few_ids[USERNS_TEXT_MAX]; /* why it has but one id; "" it has the ranges of /etc/subuid */
};

/* An ordinary user's process becomes root of a new namespace, with the ranges that /etc/subuid and
 * /etc/subgid give the user (newuidmap(1), newgidmap(1)), else with his own id alone. Root stays
 * what it is. Before any other thread and child. ERR_UNSUPPORTED (public) when the kernel does not
 * allow it: names the setting; ERR_UNAVAILABLE (public): see userns_failure_kind(). Keeps the
 * parent-death signal. Waits for the two programs. */
int userns_enter(struct userns *out, struct err *err);

/* What of this kernel's settings keeps an ordinary user from having all rights in a namespace, in
 * words; "" none is known. */
void userns_hint(char *out, size_t size);

/* What an errno of clone(2), unshare(2) or a mount in a new namespace says: ERR_UNAVAILABLE where
 * something has run out that may be there again later, ERR_UNSUPPORTED else. */
enum err_kind userns_failure_kind(int sys_errno);

#endif
