/* berth-egress: the way out of the sandboxes. It has no right on the host, and knows of a sandbox
 * what the server says and what init hands over: sockets.
 *
 * Wires options and the loop together. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/parse.h"
#include "egress/service.h"

enum { EXIT_USAGE = 2 };

static int parse(int argc, char **argv, struct service_config *out, struct err *err)
{
    bool given = false;
    for (int i = 1; i < argc; i += 2) {
        uint64_t number = 0;
        bool is_fd = strcmp(argv[i], "--listen-fd") == 0;
        if (i + 1 >= argc || (!is_fd && strcmp(argv[i], "--client-uid") != 0))
            return err_set(err, ERR_BAD_INPUT, "unknown option %s", argv[i]);
        int result = parse_u64(argv[i + 1], 0, is_fd ? 1 << 20 : UINT32_MAX - 1, &number, err);
        if (result != 0)
            return err_wrap(err, "%s", argv[i]);
        if (is_fd)
            out->listen_fd = (int)number;
        else
            out->client_uid = (uid_t)number;
        given = given || is_fd;
    }
    return given ? 0 : err_set(err, ERR_BAD_INPUT, "--listen-fd is missing");
}

int main(int argc, char **argv)
{
    const char *except = getenv("BERTH_EGRESS_EXCEPT");
    struct service_config config = {.client_uid = 0, .except = except ? except : ""};
    struct err err = ERR_INIT;
    log_init("berth-egress");
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("berth-egress %s\n", BERTH_VERSION);
        return EXIT_SUCCESS;
    }
    if (parse(argc, argv, &config, &err) != 0) {
        (void)fprintf(stderr, "berth-egress: %s (it is started by berth-monitor)\n", err.message);
        return EXIT_USAGE;
    }
    (void)umask(077);
    if (service_run(&config, &err) != 0) {
        log_error("%s", err.message);
        return err.kind == ERR_BAD_INPUT ? EXIT_USAGE : EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
