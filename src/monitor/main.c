/* berth-monitor: the one process of berth that stays root for its whole life, or the ordinary user
 * who started it. Wires options, state folder, sockets and the loop together; reads no byte that a
 * client sent. */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"
#include "monitor/hold.h"
#include "monitor/listen.h"
#include "monitor/options.h"
#include "monitor/place.h"
#include "monitor/state.h"
#include "monitor/supervise.h"

enum { EXIT_USAGE = 2 }; /* options or settings are wrong: starting again will not help */

/* Finds whom the server runs as. */
static int find_user(const struct monitor_options *options, struct supervise_config *config,
                     struct err *err)
{
    if (geteuid() != 0) { /* then all of berth is this user */
        config->uid = geteuid();
        config->gid = getegid();
        return 0;
    }
    errno = 0;
    const struct passwd *user = getpwnam(options->user);
    if (!user)
        return err_set(err, ERR_NOT_FOUND,
                       "there is no user \"%s\" for the server to run as; make it with: useradd "
                       "--system --no-create-home --shell /usr/sbin/nologin %s",
                       options->user, options->user);
    if (user->pw_uid == 0 || user->pw_gid == 0)
        return err_set(err, ERR_FORBIDDEN, "the server may not run as root (user \"%s\")",
                       options->user);
    config->uid = user->pw_uid;
    config->gid = user->pw_gid;
    return 0;
}

/* And the way out of the sandboxes: a user of its own, or else the one without rights that every
 * host has. */
static int find_egress_user(const struct monitor_options *options, struct supervise_config *config,
                            struct err *err)
{
    if (geteuid() != 0) {
        config->egress_uid = geteuid();
        config->egress_gid = getegid();
        return 0;
    }
    const struct passwd *user = getpwnam(options->egress_user);
    if (!user && strcmp(options->egress_user, OPTIONS_EGRESS_USER) == 0) {
        log_info("there is no user \"%s\": berth-egress runs as \"nobody\"", options->egress_user);
        user = getpwnam("nobody");
    }
    if (!user)
        return err_set(err, ERR_NOT_FOUND, "there is no user \"%s\" for berth-egress to run as",
                       options->egress_user);
    if (user->pw_uid == 0 || user->pw_gid == 0)
        return err_set(err, ERR_FORBIDDEN, "berth-egress may not run as root (user \"%s\")",
                       options->egress_user);
    config->egress_uid = user->pw_uid;
    config->egress_gid = user->pw_gid;
    return 0;
}

static int run(const struct monitor_options *options, struct err *err)
{
    STATE_AUTO struct state state = STATE_INIT;
    FD_AUTO int http_fd = -1;
    FD_AUTO int engine_fd = -1;
    FD_AUTO int docker_fd = -1;
    FD_AUTO int egress_fd = -1;
    char place[PATH_MAX] = "";
    struct supervise_config config = {.options = options, .state = &state, .place = place};
    int result = find_user(options, &config, err);
    if (result == 0)
        result = find_egress_user(options, &config, err);
    if (result == 0 && options->native)
        result = place_find(options->cgroup, place, err);
    if (result == 0)
        result = state_open(options->state_path, config.uid, config.gid, &state, err);
    if (result == 0)
        result = listen_tcp(options->host, options->port, &http_fd, &config.port, err);
    if (result == 0 && options->native)
        result = listen_process(state.run_fd, "native.sock", config.gid, &engine_fd, err);
    if (result == 0 && options->docker)
        result = listen_process(state.run_fd, "docker.sock", config.gid, &docker_fd, err);
    if (result == 0)
        result = listen_process(state.run_fd, "egress.sock", config.gid, &egress_fd, err);
    if (result != 0)
        return result;
    config.http_fd = http_fd;
    config.engine_fd = engine_fd;
    config.docker_fd = docker_fd;
    config.egress_fd = egress_fd;
    log_info("instance %s, state in %s", state.instance, state.path);
    return supervise_run(&config, err);
}

int main(int argc, char **argv)
{
    struct monitor_options options;
    struct err err = ERR_INIT;
    log_init("berth-monitor");
    if (monitor_options_parse(argc, argv, &options, &err) != 0) {
        (void)fprintf(stderr, "berth: %s\n%s", err.message, monitor_options_help());
        return EXIT_USAGE;
    }
    if (options.help) {
        (void)fputs(monitor_options_help(), stdout);
        return EXIT_SUCCESS;
    }
    (void)umask(022);
    if ((options.hold ? hold_run(&err) : run(&options, &err)) != 0) {
        (void)fprintf(stderr, "berth: %s\n", err.message);
        return err.kind == ERR_BAD_INPUT ? EXIT_USAGE : EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
