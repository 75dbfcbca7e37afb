/* Acting for a moment as another user, with the rights that the kernel looks up by user id. */
#ifndef BERTH_NATIVE_ASUSER_H
#define BERTH_NATIVE_ASUSER_H

#include <sys/types.h>

#include "native/parent.h"

struct asuser {
    struct parent_watch watch;
    int dumpable;
};

/* Takes back every capability that a change of ids dropped (capabilities(7), "Effect of user ID
 * changes on capabilities"). Returns 0, or -1 with errno. */
int asuser_raise(void);

/* Makes owner the effective user; capabilities and rights to files stay root's: kernels that let
 * only CAP_SYS_ADMIN make user namespaces look at them. Returns 0, or -1 with errno. */
int asuser_begin(struct asuser *saved, uid_t owner);

/* Root again; errno is kept. Never fails: a root that can't come back ends the process. */
void asuser_end(const struct asuser *saved);

#endif
