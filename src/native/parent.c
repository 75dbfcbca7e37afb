/* Owns nothing: what is saved belongs to the process. */
#include "native/parent.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

struct parent_watch parent_watch_save(void)
{
    struct parent_watch watch = {.parent = getppid()};
    (void)prctl(PR_GET_PDEATHSIG, &watch.death_signal, 0, 0, 0);
    return watch;
}

void parent_watch_restore(const struct parent_watch *watch)
{
    if (watch->death_signal == 0)
        return;
    (void)prctl(PR_SET_PDEATHSIG, watch->death_signal, 0, 0, 0);
    if (getppid() != watch->parent)
        (void)raise(watch->death_signal);
}
