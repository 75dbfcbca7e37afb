/* berth-server: HTTP, routes and rules in one process without privilege. Only wires parts together.
 * Refuses to run as root: everything that needs privilege is another process. */
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/api.h"
#include "base/err.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "core/core.h"
#include "core/network.h"
#include "engine/engine.h"
#include "engine/fake.h"
#include "lang/lang.h"
#include "server/settings.h"
#include "wire/http.h"

#define SERVER_HEAD_MAX (32U * 1024U)
#define SERVER_HEADERS_MAX 100
#define SERVER_MAPPED_BYTES (256 * 1024)
#define SERVER_TRIM_BYTES (512 * 1024)
#define SERVER_ARENAS 8
#define SERVER_HEAD_TIMEOUT_MS 10000
#define SERVER_BODY_TIMEOUT_MS 60000
#define SERVER_IDLE_TIMEOUT_MS                                                                     \
    30000 /* the contract: a reader without progress for 30 s is gone                              \
           */

#define EXIT_USAGE 2 /* wrong options, settings or user: starting again will not help */

struct options {
    const char *db_path;
    const char *engine_sockets[CORE_ENGINES_MAX]; /* "NAME=PATH"; PATH alone: of native */
    size_t engine_socket_count;
    const char *egress_socket; /* NULL: there is no way out */
    const char *host;
    uint16_t port;
    int listen_fd;
    int ready_fd;
};

struct server {
    struct settings settings;
    struct network_rules network;
    struct core *core;
    struct api *api;
    struct http_server *http;
};

static void server_usage(FILE *out)
{
    (void)fputs(
        "usage: berth-server --db PATH --engine-socket [NAME=]PATH... [--egress-socket PATH]\n"
        "                    --listen-fd N [--ready-fd N] --host HOST --port PORT\n"
        "Started by berth-monitor; \"berth serve\" starts that.\n",
        out);
}

/* What the operator offers of the network. */
static int server_read_network(struct server *server, struct err *err)
{
    const struct settings *settings = &server->settings;
    int result = network_rules_read(settings->network_modes,
                                    settings->egress_allow ? settings->egress_allow
                                                           : network_default_allow(),
                                    &server->network, err);
    if (result < 0)
        return result;
    server->network.bytes_max = settings->egress_bytes_max;
    server->network.connections_max = (uint32_t)settings->egress_connections_max;
    return 0;
}

/* Returns 0, or the exit status. */
static int server_options(int argc, char **argv, struct options *out)
{
    static const struct option names[] = {
        {"db", required_argument, NULL, 'd'},
        {"engine-socket", required_argument, NULL, 'e'},
        {"egress-socket", required_argument, NULL, 'w'},
        {"host", required_argument, NULL, 'H'},
        {"port", required_argument, NULL, 'p'},
        {"listen-fd", required_argument, NULL, 'l'},
        {"ready-fd", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    *out = (struct options){.host = "127.0.0.1", .port = 8000, .listen_fd = -1, .ready_fd = -1};
    int option;
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        uint64_t number = 0;
        bool bad = false;
        if (option == 'd')
            out->db_path = optarg;
        else if (option == 'e' && out->engine_socket_count < CORE_ENGINES_MAX)
            out->engine_sockets[out->engine_socket_count++] = optarg;
        else if (option == 'w')
            out->egress_socket = optarg;
        else if (option == 'H')
            out->host = optarg;
        else if (option == 'p')
            bad = parse_u64(optarg, 0, UINT16_MAX, &number, NULL) < 0;
        else if (option == 'l' || option == 'r')
            bad = parse_u64(optarg, 3, 1 << 20, &number, NULL) < 0;
        else
            bad = true;
        if (bad) {
            server_usage(option == 'h' ? stdout : stderr);
            return option == 'h' ? -1 : EXIT_USAGE;
        }
        if (option == 'p')
            out->port = (uint16_t)number;
        else if (option == 'l')
            out->listen_fd = (int)number;
        else if (option == 'r')
            out->ready_fd = (int)number;
    }
    if (optind == argc && out->db_path && out->engine_socket_count > 0 && out->listen_fd >= 0)
        return 0;
    server_usage(stderr);
    return EXIT_USAGE;
}

/* What is large comes and goes with its request: each such block is a mapping of its own, and is
 * the system's again when it is freed. glibc would raise the size from which on that is so with
 * every block that is freed, until all of them lie in heaps that only grow (mallopt(3)). */
static void server_set_memory(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, SERVER_MAPPED_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, SERVER_TRIM_BYTES);
    (void)mallopt(M_ARENA_MAX, SERVER_ARENAS);
}

/* The process holds what callers sent: no core file, no ptrace by others of the same user. */
static void server_harden(void)
{
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    fd_raise_limit();
}

static struct core_config server_core_config(const struct settings *settings, const char *db_path)
{
    return (struct core_config){
        .db_path = db_path,
        .engines = settings->engines,
        .engine_count = settings->engine_count,
        .engine_execute = settings->engine_execute,
        .engine_sessions = settings->engine_sessions,
        .sandboxes_max = (uint32_t)settings->sandboxes_max,
        .creates_max = (uint32_t)settings->creates_max,
        .queue_max = (uint32_t)settings->queue_max,
        .pool_min = (uint32_t)settings->pool_min,
        .pool_max = (uint32_t)settings->pool_max,
        .zygote = settings->zygote,
        .turns_max = (uint32_t)(settings->connection_max / 4 + 1),
        .queue_wait_ms = settings->queue_wait_ms,
        .timeout_ms = settings->timeout_ms,
        .timeout_max_ms = settings->timeout_max_ms,
        .memory_budget_bytes = settings->memory_budget_bytes,
        .disk_budget_bytes = settings->disk_budget_bytes,
        .reserve_min_bytes = settings->reserve_min_bytes,
        .memory_overcommit_millis = (uint32_t)settings->memory_overcommit_millis,
        .disk_overcommit_millis = (uint32_t)settings->disk_overcommit_millis,
        .memory_bytes = settings->memory_bytes,
        .storage_bytes = settings->storage_bytes,
        .cpu_millis = (uint32_t)settings->cpu_millis,
        .pids_max = (uint32_t)settings->pids_max,
        .open_files_max = (uint32_t)settings->open_files_max,
        .keep_output_bytes = settings->output_keep_bytes,
        .keep_messages_bytes = settings->messages_keep_bytes,
        .output_max_bytes = settings->output_max_bytes,
        .session_timeout_ms = settings->session_timeout_ms,
        .session_timeout_max_ms = settings->session_timeout_max_ms,
        .session_idle_ms = settings->session_idle_ms,
        .answers_max_bytes = settings->answers_max_bytes,
        .compile_cache_bytes = settings->compile_cache_bytes,
        .keep_bytes = settings->keep_bytes,
        .layers_max = (uint32_t)settings->layers_max,
        .layers_max_bytes = settings->layers_max_bytes,
        .layers_grace_ms = settings->layers_grace_ms,
        .layers_timeout_ms = settings->layers_timeout_ms,
        .layers_memory_bytes = settings->layers_memory_bytes,
        .layers_storage_bytes = settings->layers_storage_bytes,
        .layers_env = settings->layers_env,
        .layers_allow = settings->layers_allow,
        .keep_outcome_ms = settings->keep_outcome_ms,
    };
}

/* Whether calls that run code need no token. */
static bool server_is_open(const struct server *server, const struct options *options)
{
    return server->settings.auth_off ||
           (access_is_loopback(options->host) && !*server->settings.public_host);
}

/* The socket of an engine; NULL: none was given. */
static const char *server_engine_socket(const struct options *options, const char *name)
{
    size_t size = strlen(name);
    for (size_t i = 0; i < options->engine_socket_count; i++) {
        const char *socket = options->engine_sockets[i];
        if (socket[0] == '/' && strcmp(name, "native") == 0)
            return socket;
        if (strncmp(socket, name, size) == 0 && socket[size] == '=')
            return socket + size + 1;
    }
    return NULL;
}

static int server_start_engine(struct server *server, const struct options *options, size_t index,
                               struct err *err)
{
    const char *name = server->settings.engines[index];
    const char *socket = server_engine_socket(options, name);
    struct engine_events events;
    struct engine *engine = NULL;
    int result = 0;
    core_engine_events(server->core, index, &events);
    if (strcmp(name, "fake") == 0)
        result = engine_fake_new(&events, &engine, err);
    else if (!socket)
        result = err_set(err, ERR_BAD_INPUT, "no --engine-socket for the engine %s", name);
    else
        result = engine_process_new(name, socket, &events, &engine, err);
    return result == 0 ? core_set_engine(server->core, index, engine, err) : result;
}

static int server_start_core(struct server *server, const struct options *options, struct err *err)
{
    struct core_config config = server_core_config(&server->settings, options->db_path);
    config.network = &server->network;
    /* Where everybody may run code, everybody may say where. */
    config.engine_choice = server->settings.engine_choice_said ? server->settings.engine_choice
                                                               : server_is_open(server, options);
    int result = core_new(&config, &server->core, err);
    if (result < 0)
        return result;
    if (options->egress_socket)
        result = core_open_egress(server->core, options->egress_socket, err);
    if (result < 0)
        return result;
    for (size_t i = 0; i < config.engine_count && result == 0; i++)
        result = server_start_engine(server, options, i, err);
    return result;
}

static int server_start_http(struct server *server, const struct options *options, struct err *err)
{
    const struct settings *settings = &server->settings;
    struct api_config api_config = {
        .core = server->core,
        .timeout_max_ms = settings->timeout_max_ms,
        .session_timeout_max_ms = settings->session_timeout_max_ms,
        .access = {.bind_host = options->host,
                   .public_host = settings->public_host,
                   .auth_off = settings->auth_off,
                   .register_open = settings->register_open},
    };
    struct http_config http_config = {
        .listen_fd = options->listen_fd,
        .body_max = settings->body_max_bytes,
        .bodies_total_max = settings->bodies_max_bytes,
        .head_max = SERVER_HEAD_MAX,
        .header_count_max = SERVER_HEADERS_MAX,
        .connection_max = (unsigned)settings->connection_max,
        .head_timeout_ms = SERVER_HEAD_TIMEOUT_MS,
        .body_timeout_ms = SERVER_BODY_TIMEOUT_MS,
        .idle_timeout_ms = SERVER_IDLE_TIMEOUT_MS,
    };
    struct http_handlers handlers;
    int result = api_new(&api_config, &server->api, err);
    if (result < 0)
        return result;
    api_handlers(server->api, &handlers);
    result = http_server_new(&http_config, &handlers, &server->http, err);
    if (result == 0)
        api_set_http(server->api, server->http);
    return result;
}

static void server_say_access(const struct server *server, const struct options *options)
{
    const struct settings *settings = &server->settings;
    if (settings->auth_off)
        log_warn("BERTH_AUTH=off: whoever reaches %s:%u may run code", options->host,
                 options->port);
    else if (!access_is_loopback(options->host) || *settings->public_host)
        log_info("not on a loopback address alone: every call but a few needs a token");
    for (size_t i = 0; i < settings->engine_count; i++) {
        if (strcmp(settings->engines[i], "fake") == 0)
            log_warn("the engine fake isolates nothing, it is for tests only");
    }
}

static int server_serve(struct server *server, const struct options *options,
                        const sigset_t *signals)
{
    struct err err = ERR_INIT;
    int signal_number = 0;
    int result = lang_load(&err);
    if (result == 0)
        result = server_start_core(server, options, &err);
    if (result == 0)
        result = server_start_http(server, options, &err);
    if (result == 0) {
        log_info("serving http://%s:%u", options->host, options->port);
        if (options->ready_fd >= 0)
            (void)fd_write_all(options->ready_fd, "ready\n", 6, NULL);
        (void)sigwait(signals, &signal_number);
        log_info("%s: stopping", strsignal(signal_number));
        core_stop(
            server->core); /* before HTTP: else a closing connection reads as a client's leave */
    } else {
        log_error("can't start: %s", err.message);
    }
    if (server->api)
        api_set_http(server->api, NULL);
    http_server_free(server->http); /* its handlers use all that follows */
    api_free(server->api);
    core_free(server->core);
    network_rules_done(&server->network);
    lang_unload();
    return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct options options;
    struct server server = {0};
    struct err err = ERR_INIT;
    sigset_t signals;
    log_init("berth-server");
    fault_init();
    int usage = server_options(argc, argv, &options);
    if (usage != 0)
        return usage < 0 ? EXIT_SUCCESS : usage;
    if (geteuid() == 0 || getuid() == 0) { /* a group 0 without that is an ordinary user's */
        log_error("berth-server does not run as root; berth-monitor starts it as another user");
        return EXIT_USAGE;
    }
    if (settings_load(&server.settings, &err) < 0 || server_read_network(&server, &err) < 0) {
        log_error("%s", err.message);
        return EXIT_USAGE;
    }
    server_set_memory();
    server_harden();
    server_say_access(&server, &options);
    /* Blocked before any thread exists, so that all inherit it and sigwait() alone takes them. */
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    return server_serve(&server, &options, &signals);
}
