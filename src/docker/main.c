/* berth-docker: the engine process that makes sandboxes of containers, by the Docker Engine API.
 * Holds the way to the Docker daemon, which is the host's root where that runs, so it offers
 * nothing but the engine protocol's closed set of operations. Itself it needs no right but to
 * connect. Started by the operator as "berth-docker image ..." it is a command, and ends with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <curl/curl.h>

#include "base/buf.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "base/parse.h"
#include "docker/command.h"
#include "docker/service.h"
#include "docker/spec.h"

enum { EXIT_USAGE = 2, INIT_MAX = 32 << 20 };

struct options {
    const char *instance;
    const char *init_path;
    const char *layers_path;
    struct service_config service;
};

static int parse_options(int argc, char **argv, struct options *options, struct err *err)
{
    static const struct option known[] = {
        {"instance", required_argument, NULL, 'n'},   {"init", required_argument, NULL, 'i'},
        {"layers", required_argument, NULL, 'y'},     {"listen-fd", required_argument, NULL, 'l'},
        {"client-uid", required_argument, NULL, 'u'}, {NULL, 0, NULL, 0}};
    uint64_t number = 0;
    int option = 0;
    int result = 0;
    options->service.listen_fd = options->service.layers_fd = -1;
    while (result == 0 && (option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'n':
            options->instance = optarg;
            break;
        case 'i':
            options->init_path = optarg;
            break;
        case 'y':
            options->layers_path = optarg;
            break;
        case 'l':
            result = parse_u64(optarg, 3, 1 << 20, &number, err);
            options->service.listen_fd = (int)number;
            break;
        case 'u':
            result = parse_u64(optarg, 0, UINT32_MAX - 1, &number, err);
            options->service.client_uid = (uid_t)number;
            break;
        default:
            return err_set(err, ERR_BAD_INPUT, "unknown option");
        }
    }
    if (result == 0 && (!options->instance || options->service.listen_fd < 0))
        return err_set(err, ERR_BAD_INPUT, "--instance and --listen-fd are needed");
    if (result == 0 && (strlen(options->instance) != SPEC_INSTANCE_SIZE - 1 ||
                        !id_is_name(options->instance, SPEC_INSTANCE_SIZE - 1)))
        return err_set(err, ERR_BAD_INPUT, "--instance: expected eight hex digits");
    options->service.instance = options->instance;
    return result;
}

/* Beside this program, unless it is named. */
static int open_init(const char *path, int *out_fd, struct err *err)
{
    char own[PATH_MAX];
    if (!path) {
        ssize_t size = readlink("/proc/self/exe", own, sizeof(own) - sizeof("berth-init"));
        if (size < 0)
            return err_sys(err, errno, "find this program's own path");
        own[size] = '\0';
        char *slash = strrchr(own, '/');
        (void)snprintf(slash ? slash + 1 : own, sizeof("berth-init"), "berth-init");
        path = own;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "open %s", path);
    *out_fd = fd;
    return 0;
}

/* Its bytes go into every container. */
static int read_init(const char *path, struct buf *out, struct err *err)
{
    FD_AUTO int fd = -1;
    int result = open_init(path, &fd, err);
    while (result == 0) {
        uint8_t *room = buf_reserve(out, 1 << 16, err);
        ssize_t size = room ? read(fd, room, 1 << 16) : 0;
        if (!room)
            result = -ERR_TOO_LARGE;
        else if (size < 0)
            result = err_sys(err, errno, "read berth-init");
        else if (size == 0)
            break;
        else
            out->size += (size_t)size;
    }
    return result;
}

/* Made where it is missing; the folder that it lies in keeps everybody else out. */
static int open_layers(const char *path, int *out_fd, struct err *err)
{
    if (!path)
        return 0;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make %s", path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "open %s", path);
    *out_fd = fd;
    return 0;
}

int main(int argc, char **argv)
{
    log_init("docker");
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("berth-docker %s\n", BERTH_VERSION);
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "image") == 0)
        return command_run(argc - 1, argv + 1);
    struct options options = {0};
    struct err err = ERR_INIT;
    BUF_AUTO struct buf init;
    buf_init(&init, INIT_MAX);
    if (parse_options(argc, argv, &options, &err) != 0) {
        (void)fprintf(stderr, "berth-docker is started by berth serve: %s\n", err.message);
        return EXIT_USAGE;
    }
    fault_init();
    (void)umask(077);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    fd_raise_limit();
    int result = read_init(options.init_path, &init, &err);
    if (result == 0)
        result = open_layers(options.layers_path, &options.service.layers_fd, &err);
    options.service.init = init.data;
    options.service.init_size = init.size;
    if (result == 0 && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        result = err_set(&err, ERR_INTERNAL, "libcurl can't be used");
    if (result == 0)
        result = service_run(&options.service, &err);
    curl_global_cleanup();
    if (result != 0)
        log_error("%s", err.message);
    if (result == -ERR_BAD_INPUT)
        return EXIT_USAGE;
    return result == 0 ? 0 : 1;
}
