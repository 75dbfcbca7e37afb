/* Owns the change of the effective user id and what the kernel drops with it. */
#include "native/asuser.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

/* Else the files of /proc for this process and its children belong to the host's root, who is
 * somebody else when ours is the root of a namespace (proc_pid(5)). */
static void keep_dumpable(const struct asuser *saved)
{
    if (saved->dumpable == 1)
        (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

int asuser_raise(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2];
    memset(sets, 0, sizeof(sets));
    if (syscall(SYS_capget, &header, sets) != 0)
        return -1;
    for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
        sets[i].effective = sets[i].permitted;
    return (int)syscall(SYS_capset, &header, sets);
}

int asuser_begin(struct asuser *saved, uid_t owner)
{
    saved->watch = parent_watch_save();
    saved->dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    if (setresuid((uid_t)-1, owner, (uid_t)-1) != 0)
        return -1;
    (void)setfsuid(0);
    if (asuser_raise() != 0) {
        asuser_end(saved);
        return -1;
    }
    keep_dumpable(saved);
    return 0;
}

void asuser_end(const struct asuser *saved)
{
    int kept_errno = errno;
    if (setresuid((uid_t)-1, 0, (uid_t)-1) != 0)
        abort(); /* root that can't become root again: nothing that follows could be trusted */
    keep_dumpable(saved);
    parent_watch_restore(&saved->watch);
    errno = kept_errno;
}
