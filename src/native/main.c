/* berth-native: the engine process that makes Linux sandboxes. The only program that keeps the
 * host's root beside the monitor; it speaks the engine protocol and nothing else. Of an ordinary
 * user it is root in a user namespace of its own. */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "native/service.h"
#include "native/userns.h"
#include "native/zygote.h"
#include "wire/init_config.h"

enum { EXIT_USAGE = 2 };

static int parse_options(int argc, char **argv, struct service_config *config, struct err *err)
{
    static const struct option options[] = {{"state", required_argument, NULL, 's'},
                                            {"listen-fd", required_argument, NULL, 'l'},
                                            {"client-uid", required_argument, NULL, 'u'},
                                            {"images", required_argument, NULL, 'i'},
                                            {"cgroup", required_argument, NULL, 'c'},
                                            {"zygote-forks", required_argument, NULL, 'z'},
                                            {NULL, 0, NULL, 0}};
    uint64_t number = 0;
    int option = 0;
    int result = 0;
    config->listen_fd = -1;
    config->zygote_forks = ZYGOTE_FORKS_DEFAULT;
    while (result == 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            config->state_path = optarg;
            break;
        case 'i':
            config->images_path = optarg;
            break;
        case 'l':
            result = parse_u64(optarg, 3, 1 << 20, &number, err);
            config->listen_fd = (int)number;
            break;
        case 'u':
            result = parse_u64(optarg, 0, UINT32_MAX - 1, &number, err);
            config->client_uid = (uid_t)number;
            break;
        case 'c':
            config->cgroup = optarg;
            break;
        case 'z':
            result = parse_u64(optarg, 0, 1000000, &number, err);
            config->zygote_forks = (unsigned)number;
            break;
        default:
            return err_set(err, ERR_BAD_INPUT, "unknown option");
        }
    }
    if (result == 0 && (!config->state_path || config->listen_fd < 0))
        return err_set(err, ERR_BAD_INPUT, "--state and --listen-fd are needed");
    /* What init inherits must not lie where its configuration goes (see setup.c). */
    if (result == 0 && fcntl(INIT_FD_CONFIG, F_GETFD) < 0)
        return err_set(err, ERR_BAD_INPUT, "descriptor %d is free, it has to be taken",
                       INIT_FD_CONFIG);
    return result;
}

int main(int argc, char **argv)
{
    log_init("native");
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("berth-native %s\n", BERTH_VERSION);
        return 0;
    }
    struct service_config config = {0};
    struct userns userns;
    struct err refused = ERR_INIT;
    struct err err = ERR_INIT;
    if (parse_options(argc, argv, &config, &err) != 0) {
        (void)fprintf(stderr, "berth-native is started by berth serve: %s\n", err.message);
        return EXIT_USAGE;
    }
    fault_init();
    (void)umask(022);
    (void)signal(SIGPIPE, SIG_IGN);
    if (userns_enter(&userns, &refused) != 0)
        config.refused = &refused;
    config.userns = &userns;
    if (userns.own)
        config.client_uid = 0; /* the server is the same user, whom this namespace calls so */
    else
        (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    fd_raise_limit();
    if (service_run(&config, &err) != 0) {
        log_error("%s", err.message);
        return 1;
    }
    return 0;
}
