/* Owns nothing but its place. Starts nothing, reads nothing. */
#include "monitor/hold.h"

#include <errno.h>
#include <signal.h>

#include "base/log.h"
#include "monitor/notify.h"
#include "monitor/place.h"

int hold_run(struct err *err)
{
    struct notify notify;
    char place[PATH_MAX] = "";
    sigset_t wanted;
    notify_init(&notify);
    (void)sigemptyset(&wanted);
    (void)sigaddset(&wanted, SIGTERM);
    (void)sigaddset(&wanted, SIGINT);
    if (sigprocmask(SIG_BLOCK, &wanted, NULL) != 0)
        return err_sys(err, errno, "block signals");
    int result = place_find(NULL, place, err);
    if (result != 0)
        return result;
    if (place[0] != '\0')
        log_info("holding the control group %s", place);
    else
        log_info("no control group was delegated: nothing to hold");
    notify_send(&notify, "READY=1");
    while (sigwaitinfo(&wanted, NULL) < 0 && errno == EINTR)
        continue;
    return 0;
}
