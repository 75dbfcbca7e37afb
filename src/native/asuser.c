/* Owns the change of the effective user id and what the kernel drops with it. */
#include "native/asuser.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Else the files of /proc for this process and its children belong to the host's root, who is
 * somebody else when ours is the root of a namespace (proc_pid(5)). */
static void keep_dumpable(const struct asuser *saved)
{
    if (saved->dumpable == 1)
        (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

int asuser_begin(struct asuser *saved, uid_t owner)
{
    saved->death_signal = 0;
    saved->parent = getppid();
    saved->dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    (void)prctl(PR_GET_PDEATHSIG, &saved->death_signal, 0, 0, 0);
    if (setresuid((uid_t)-1, owner, (uid_t)-1) != 0)
        return -1;
    (void)setfsuid(0);
    keep_dumpable(saved);
    return 0;
}

/* Changing ids clears the parent-death signal (prctl(2)); a parent that died in between shows in
 * getppid(). */
void asuser_end(const struct asuser *saved)
{
    int kept_errno = errno;
    if (setresuid((uid_t)-1, 0, (uid_t)-1) != 0)
        abort(); /* root that can't become root again: nothing that follows could be trusted */
    keep_dumpable(saved);
    if (saved->death_signal != 0) {
        (void)prctl(PR_SET_PDEATHSIG, saved->death_signal, 0, 0, 0);
        if (getppid() != saved->parent)
            (void)raise(saved->death_signal);
    }
    errno = kept_errno;
}
