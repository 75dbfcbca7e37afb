/* bench-client: N times POST /execute at a given concurrency, over keep-alive connections.
 *
 * Owns the clients (a thread and a connection each) and what they saw. Counts as a failure every
 * answer that is not 200 with the expected text in it; a failure has no duration. */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/parse.h"
#include "samples.h"

enum { CLIENTS_MAX = 1024, REQUEST_MAX = 8192, EXIT_USAGE = 2 };

static const char *const stage_names[] = {"queue_ms", "create_ms", "wall_ms", "cpu_ms", "rest_ms"};
enum { STAGE_QUEUE, STAGE_CREATE, STAGE_WALL, STAGE_CPU, STAGE_REST, STAGE_COUNT };

struct options {
    const char *url;
    char host[256];
    char port[8];
    uint64_t clients;
    uint64_t requests;
    uint64_t warm; /* requests before those that count */
    const char *body;
    const char *expect;
    const char *samples_path;
    const char *rate_path;
    bool stages;
    char request[REQUEST_MAX];
    size_t request_size;
};

/* What all clients share. */
struct load {
    const struct options *options;
    atomic_long left; /* requests that nobody has taken yet */
    pthread_barrier_t start;
};

struct client {
    struct load *load;
    struct samples latency;
    struct samples stages[STAGE_COUNT];
    uint64_t failures;
    struct answer answer;
    struct err first_failure;
};

static int check_answer(const struct options *options, const struct answer *answer, struct err *err)
{
    if (answer->status != 200)
        return err_set(err, ERR_PROTOCOL, "status %d: %.200s", answer->status, answer->body);
    if (!strstr(answer->body, options->expect))
        return err_set(err, ERR_PROTOCOL, "not the expected answer: %.250s", answer->body);
    return 0;
}

/* "rest" is what the answer does not account for: HTTP, store, hello, the source file. */
static void add_stages(struct client *client, int64_t latency_ns)
{
    double rest_ms = (double)latency_ns / 1e6;
    for (int i = 0; i < STAGE_REST; i++) {
        double value_ms = answer_number(&client->answer, stage_names[i]);
        if (value_ms < 0)
            return;
        samples_add(&client->stages[i], (int64_t)(value_ms * 1e6));
        rest_ms -= i == STAGE_CPU ? 0 : value_ms;
    }
    samples_add(&client->stages[STAGE_REST], (int64_t)(rest_ms * 1e6));
}

/* One request; connects when there is no connection. */
static int request_once(struct client *client, int *fd, struct err *err)
{
    const struct options *options = client->load->options;
    int result = *fd >= 0 ? 0 : answer_connect(options->host, options->port, fd, err);
    if (result == 0)
        result =
            answer_exchange(*fd, options->request, options->request_size, &client->answer, err);
    if (result != 0 || !client->answer.keep_alive)
        fd_close(fd);
    return result != 0 ? result : check_answer(options, &client->answer, err);
}

static void *client_main(void *context)
{
    struct client *client = context;
    struct load *load = client->load;
    FD_AUTO int fd = -1;
    for (uint64_t i = 0; i < load->options->warm; i++)
        (void)request_once(client, &fd, NULL);
    (void)pthread_barrier_wait(&load->start);
    while (atomic_fetch_sub(&load->left, 1) > 0) {
        struct err err = ERR_INIT;
        int64_t begun_ns = clock_now_ns();
        int result = request_once(client, &fd, &err);
        int64_t latency_ns = clock_now_ns() - begun_ns;
        if (result != 0) {
            if (client->failures++ == 0)
                client->first_failure = err;
            continue;
        }
        samples_add(&client->latency, latency_ns);
        add_stages(client, latency_ns);
    }
    return NULL;
}

static int append_number(const char *path, double value, struct err *err)
{
    FILE *file = fopen(path, "ae");
    if (!file)
        return err_set(err, ERR_BAD_INPUT, "%s can't be written", path);
    (void)fprintf(file, "%.3f\n", value);
    return fclose(file) == 0 ? 0 : err_set(err, ERR_INTERNAL, "write %s", path);
}

static int report(const struct options *options, struct client *clients, int64_t elapsed_ns,
                  struct err *err)
{
    struct client *all = &clients[0];
    for (uint64_t i = 1; i < options->clients; i++) {
        samples_merge(&all->latency, &clients[i].latency);
        for (int k = 0; k < STAGE_COUNT; k++)
            samples_merge(&all->stages[k], &clients[i].stages[k]);
        if (all->failures == 0)
            all->first_failure = clients[i].first_failure;
        all->failures += clients[i].failures;
    }
    double rate = (double)all->latency.count * 1e9 / (double)elapsed_ns;
    int result =
        options->samples_path ? samples_append_file(&all->latency, options->samples_path, err) : 0;
    if (result == 0 && options->rate_path)
        result = append_number(options->rate_path, rate, err);
    samples_sort(&all->latency);
    (void)printf("%" PRIu64 " clients  ", options->clients);
    samples_print(&all->latency, "POST /execute");
    (void)printf("%.1f/s, %" PRIu64 " failures\n", rate, all->failures);
    for (int k = 0; options->stages && k < STAGE_COUNT; k++) {
        samples_sort(&all->stages[k]);
        samples_print(&all->stages[k], stage_names[k]);
    }
    if (all->failures > 0)
        (void)fprintf(stderr, "first failure: %s\n", all->first_failure.message);
    return result;
}

static int run_load(const struct options *options, struct client *clients, struct err *err)
{
    struct load load = {.options = options};
    pthread_t threads[CLIENTS_MAX];
    atomic_init(&load.left, (long)options->requests);
    (void)pthread_barrier_init(&load.start, NULL, (unsigned)options->clients + 1);
    int result = 0;
    for (uint64_t i = 0; i < options->clients && result == 0; i++) {
        clients[i].load = &load;
        /* The first one gathers what all have seen. */
        result = samples_init(&clients[i].latency, options->requests, err);
        for (int k = 0; k < STAGE_COUNT && result == 0; k++)
            result = samples_init(&clients[i].stages[k], options->requests, err);
    }
    if (result != 0)
        return result;
    for (uint64_t i = 0; i < options->clients; i++) {
        int status = pthread_create(&threads[i], NULL, client_main, &clients[i]);
        if (status != 0) /* those that run wait for ever: main ends them all */
            return err_sys(err, status, "start client %" PRIu64, i);
    }
    (void)pthread_barrier_wait(&load.start);
    int64_t begun_ns = clock_now_ns();
    for (uint64_t i = 0; i < options->clients; i++)
        (void)pthread_join(threads[i], NULL);
    int64_t elapsed_ns = clock_now_ns() - begun_ns;
    (void)pthread_barrier_destroy(&load.start);
    return report(options, clients, elapsed_ns, err);
}

static int parse_url(struct options *options, struct err *err)
{
    if (!options->url ||
        sscanf(options->url, "http://%255[^:/]:%7[0-9]", options->host, options->port) != 2)
        return err_set(err, ERR_BAD_INPUT, "--url http://HOST:PORT is needed");
    return 0;
}

static int make_request(struct options *options, struct err *err)
{
    int size = snprintf(options->request, sizeof(options->request),
                        "POST /execute HTTP/1.1\r\nHost: %s:%s\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        options->host, options->port, strlen(options->body), options->body);
    if (size < 0 || (size_t)size >= sizeof(options->request))
        return err_set(err, ERR_TOO_LARGE, "the body is too large");
    options->request_size = (size_t)size;
    return 0;
}

static int parse_options(int argc, char **argv, struct options *options, struct err *err)
{
    static const struct option known[] = {
        {"url", required_argument, NULL, 'u'},      {"clients", required_argument, NULL, 'c'},
        {"requests", required_argument, NULL, 'n'}, {"warm", required_argument, NULL, 'w'},
        {"body", required_argument, NULL, 'b'},     {"expect", required_argument, NULL, 'e'},
        {"samples", required_argument, NULL, 's'},  {"rate", required_argument, NULL, 'r'},
        {"stages", no_argument, NULL, 't'},         {NULL, 0, NULL, 0},
    };
    int result = 0;
    for (int letter = 0; (letter = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (letter == 'u')
            options->url = optarg;
        else if (letter == 'c')
            result = parse_u64(optarg, 1, CLIENTS_MAX, &options->clients, err);
        else if (letter == 'n')
            result = parse_u64(optarg, 1, 10000000, &options->requests, err);
        else if (letter == 'w')
            result = parse_u64(optarg, 0, 10000, &options->warm, err);
        else if (letter == 'b')
            options->body = optarg;
        else if (letter == 'e')
            options->expect = optarg;
        else if (letter == 's')
            options->samples_path = optarg;
        else if (letter == 'r')
            options->rate_path = optarg;
        else if (letter == 't')
            options->stages = true;
        else
            return err_set(err, ERR_BAD_INPUT, "see bench/README.md");
        if (result != 0)
            return err_wrap(err, "--%c", letter);
    }
    result = parse_url(options, err);
    return result != 0 ? result : make_request(options, err);
}

int main(int argc, char **argv)
{
    struct options options = {.clients = 1,
                              .requests = 100,
                              .warm = 1,
                              .body = "{\"code\":\"print(6*7)\"}",
                              .expect = "\"stdout\":\"42\\n\""};
    struct err err = ERR_INIT;
    if (parse_options(argc, argv, &options, &err) != 0) {
        (void)fprintf(stderr, "bench-client: %s\n", err.message);
        return EXIT_USAGE;
    }
    MEM_AUTO struct client *clients = calloc(options.clients, sizeof(*clients));
    int result = clients ? run_load(&options, clients, &err)
                         : err_set(&err, ERR_INTERNAL, "no memory for the clients");
    if (result != 0)
        (void)fprintf(stderr, "bench-client: %s\n", err.message);
    uint64_t failures = clients ? clients[0].failures : 0;
    for (uint64_t i = 0; clients && i < options.clients; i++) {
        samples_done(&clients[i].latency);
        for (int k = 0; k < STAGE_COUNT; k++)
            samples_done(&clients[i].stages[k]);
    }
    return result != 0 || failures > 0 ? 1 : 0;
}
