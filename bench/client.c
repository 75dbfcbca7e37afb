/* bench-client: executions at a given concurrency, over keep-alive connections: fresh ones, in
 * sessions, or the first of new sessions.
 *
 * Owns the options and what is printed. */
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/parse.h"
#include "load.h"
#include "pool.h"

enum { EXIT_USAGE = 2 };

#define FRESH_BODY "{\"code\":\"print(6*7)\"}"
#define FRESH_EXPECT "\"stdout\":\"42\\n\""
#define SESSION_BODY "{\"code\":\"1+1\"}"
#define SESSION_EXPECT "\"results\":[{\"text/plain\":\"2\"}]"

static const char *const kind_names[] = {[LOAD_EXECUTE] = "POST /execute",
                                         [LOAD_SESSION] = "in a session",
                                         [LOAD_CREATE] = "new session, 1+1"};

struct options {
    struct load_options load;
    const char *url;
    const char *samples_path;
    const char *rate_path;
    const char *elapsed_path;
    const char *pool_path;
    bool stages;
    bool hold;
    bool settle; /* only wait for the pool */
};

static int append_number(const char *path, double value, struct err *err)
{
    FILE *file = fopen(path, "ae");
    if (!file)
        return err_set(err, ERR_BAD_INPUT, "%s can't be written", path);
    (void)fprintf(file, "%.3f\n", value);
    return fclose(file) == 0 ? 0 : err_set(err, ERR_INTERNAL, "write %s", path);
}

static void print_result(const struct options *options, struct load_result *seen, double rate)
{
    samples_sort(&seen->latency);
    (void)printf("%" PRIu64 " clients  ", options->load.clients);
    samples_print(&seen->latency, kind_names[options->load.kind]);
    (void)printf("%.1f/s, %" PRIu64 " failures\n", rate, seen->failures);
    for (int k = 0; options->stages && k < STAGE_COUNT; k++) {
        samples_sort(&seen->stages[k]);
        samples_print(&seen->stages[k], load_stage_names[k]);
    }
    if (seen->failures > 0)
        (void)fprintf(stderr, "first failure: %s\n", seen->first_failure.message);
    (void)fflush(stdout);
}

static int report(const struct options *options, struct load_result *seen, struct err *err)
{
    double rate = (double)seen->latency.count * 1e9 / (double)seen->elapsed_ns;
    int result =
        options->samples_path ? samples_append_file(&seen->latency, options->samples_path, err) : 0;
    if (result == 0 && options->rate_path)
        result = append_number(options->rate_path, rate, err);
    if (result == 0 && options->elapsed_path)
        result = append_number(options->elapsed_path, (double)seen->elapsed_ns / 1e6, err);
    print_result(options, seen, rate);
    return result;
}

/* What the pool gave during the run; nothing when there is none. */
static int report_pool(const struct options *options, const struct pool_figures *before,
                       struct err *err)
{
    struct pool_figures now = {0};
    int result = pool_read(&options->load.address, &now, err);
    if (result != 0 || !now.there)
        return result;
    double hits = now.hits - before->hits;
    double misses = now.misses - before->misses;
    (void)printf("pool: %.0f hits, %.0f misses, %.0f ready\n", hits, misses, now.ready);
    FILE *file = options->pool_path ? fopen(options->pool_path, "ae") : NULL;
    if (!file)
        return options->pool_path
                   ? err_set(err, ERR_BAD_INPUT, "%s can't be written", options->pool_path)
                   : 0;
    (void)fprintf(file, "%.0f %.0f\n", hits, misses);
    return fclose(file) == 0 ? 0 : err_set(err, ERR_INTERNAL, "write %s", options->pool_path);
}

/* Says that all sessions are there, and keeps them until standard input ends. */
static void hold_until_told(void)
{
    char byte = 0;
    (void)puts("held");
    (void)fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}

static int parse_letter(int letter, struct options *options, struct err *err)
{
    struct load_options *load = &options->load;
    switch (letter) {
    case 'u':
        options->url = optarg;
        return 0;
    case 'c':
        return parse_u64(optarg, 1, CLIENTS_MAX, &load->clients, err);
    case 'n':
        return parse_u64(optarg, 1, 10000000, &load->requests, err);
    case 'w':
        return parse_u64(optarg, 0, 10000, &load->warm, err);
    case 'p':
        return parse_u64(optarg, 0, 60000, &load->pace_ms, err);
    case 'N':
        load->kind = LOAD_CREATE;
        return parse_u64(optarg, 1, 100000, &load->requests, err);
    case 'S':
        load->kind = LOAD_SESSION;
        return 0;
    case 'b':
        load->body = optarg;
        return 0;
    case 'B':
        load->session_body = optarg;
        return 0;
    case 'e':
        load->expect = optarg;
        return 0;
    case 's':
        options->samples_path = optarg;
        return 0;
    case 'r':
        options->rate_path = optarg;
        return 0;
    case 'E':
        options->elapsed_path = optarg;
        return 0;
    case 't':
        options->stages = true;
        return 0;
    case 'P':
        options->pool_path = optarg;
        return 0;
    case 'h':
        options->hold = true;
        return 0;
    case 'W':
        options->settle = true;
        return 0;
    default:
        return err_set(err, ERR_BAD_INPUT, "see bench/README.md");
    }
}

static int parse_options(int argc, char **argv, struct options *options, struct err *err)
{
    static const struct option known[] = {
        {"url", required_argument, NULL, 'u'},
        {"clients", required_argument, NULL, 'c'},
        {"requests", required_argument, NULL, 'n'},
        {"warm", required_argument, NULL, 'w'},
        {"pace", required_argument, NULL, 'p'},
        {"create-sessions", required_argument, NULL, 'N'},
        {"session", no_argument, NULL, 'S'},
        {"body", required_argument, NULL, 'b'},
        {"session-body", required_argument, NULL, 'B'},
        {"expect", required_argument, NULL, 'e'},
        {"samples", required_argument, NULL, 's'},
        {"rate", required_argument, NULL, 'r'},
        {"elapsed", required_argument, NULL, 'E'},
        {"stages", no_argument, NULL, 't'},
        {"hold", no_argument, NULL, 'h'},
        {"pool", required_argument, NULL, 'P'},
        {"settle", no_argument, NULL, 'W'},
        {NULL, 0, NULL, 0},
    };
    for (int letter = 0; (letter = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (parse_letter(letter, options, err) != 0)
            return err_wrap(err, "--%c", letter);
    }
    bool fresh = options->load.kind == LOAD_EXECUTE;
    if (!options->load.body)
        options->load.body = fresh ? FRESH_BODY : SESSION_BODY;
    if (!options->load.expect)
        options->load.expect = fresh ? FRESH_EXPECT : SESSION_EXPECT;
    if (!options->url || sscanf(options->url, "http://%255[^:/]:%7[0-9]",
                                options->load.address.host, options->load.address.port) != 2)
        return err_set(err, ERR_BAD_INPUT, "--url http://HOST:PORT is needed");
    return 0;
}

static int run(const struct options *options, uint64_t *failures, struct err *err)
{
    struct pool_figures before = {0};
    struct load *load = NULL;
    int result = pool_read(&options->load.address, &before, err);
    if (result == 0)
        result = load_run(&options->load, &load, err);
    if (result != 0)
        return result; /* its clients may run: the process ends them */
    result = report(options, load_result(load), err);
    if (result == 0)
        result = report_pool(options, &before, err);
    if (options->hold && result == 0)
        hold_until_told();
    *failures = load_result(load)->failures;
    load_end(load);
    return result;
}

int main(int argc, char **argv)
{
    struct options options = {.load = {.clients = 1, .requests = 100, .warm = 1}};
    struct err err = ERR_INIT;
    uint64_t failures = 0;
    int result = parse_options(argc, argv, &options, &err);
    if (result != 0) {
        (void)fprintf(stderr, "bench-client: %s\n", err.message);
        return EXIT_USAGE;
    }
    result =
        options.settle ? pool_settle(&options.load.address, &err) : run(&options, &failures, &err);
    if (result != 0)
        (void)fprintf(stderr, "bench-client: %s\n", err.message);
    return result != 0 || failures > 0 ? 1 : 0;
}
