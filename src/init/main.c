/* berth-init: PID 1 of every sandbox. Static, so that it runs in any image.
 *
 * Owns the way from the setup stage's descriptors to a server without privilege: it reads its
 * configuration, gives up every capability, and serves the sandbox protocol. It is the owner of the
 * inner user namespace, which alone lets it start, signal and reap the code (user_namespaces(7)).
 * In a container that somebody else made ("berth-init carried") it keeps the few capabilities that
 * take the place of that.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "init/carried.h"
#include "init/child.h"
#include "init/identity.h"
#include "init/keep.h"
#include "init/loop.h"
#include "wire/init_config.h"

enum { EXIT_USAGE = 2 };

static int read_config(struct init_config *config, struct err *err)
{
    FD_AUTO int fd = INIT_FD_CONFIG;
    return init_config_read(fd, config, err);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("berth-init %s\n", BERTH_VERSION);
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "keep") == 0)
        return keep_run(argc - 1, argv + 1);
    struct init_config config;
    struct err err = ERR_INIT;
    bool carried = argc == 2 && strcmp(argv[1], INIT_CARRIED_WORD) == 0;
    if (!carried && fcntl(INIT_FD_CONFIG, F_GETFD) < 0) {
        (void)fprintf(stderr, "berth-init is started by an engine, inside a sandbox\n");
        return EXIT_USAGE;
    }
    /* PID 1 of a namespace is not ended by a signal that it has no handler for; blocking them all
     * also makes SIGCHLD wait for the signalfd. */
    sigset_t all;
    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    init_config_clear(&config);
    int result = carried ? carried_read_config(&config, &err) : read_config(&config, &err);
    /* They came through exec open; no child of ours is to pass them through another. */
    child_close_from(3, true);
    if (result == 0) {
        fault_set(config.fault);
        fault_point("init.start");
        result = carried ? identity_shed_carried(config.profile, &err)
                         : identity_shed(config.profile, &err);
    }
    if (result == 0) {
        child_set_own_limits(&config);
        result = loop_run(&config, &err);
    }
    if (result != 0 && carried) /* nobody has the carrier yet; standard error is for the log */
        (void)fprintf(stderr, "berth-init: %s\n", err.message);
    else if (result != 0 && config.setup_fd >= 0)
        (void)fd_send(config.setup_fd, err.message, strlen(err.message), NULL, 0, 0, NULL);
    return result == 0 ? 0 : 1;
}
