/* Owns the clients, their connections and the sessions that they made. Knows nothing of what is
 * printed. */
#include "load.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"

enum { ID_SIZE = 64, STACK_BYTES = 128 * 1024 };

const char *const load_stage_names[STAGE_COUNT] = {"queue_ms", "create_ms", "wall_ms", "cpu_ms",
                                                   "rest_ms"};

struct client {
    struct load *load;
    pthread_t thread;
    struct connection connection;
    struct request request; /* of an execution */
    char session_id[ID_SIZE];
    struct load_result seen; /* but for elapsed_ns */
};

struct load {
    const struct load_options *options;
    struct client *clients;
    struct request create;
    char (*ids)[ID_SIZE]; /* of LOAD_CREATE: a place a request */
    atomic_size_t id_count;
    atomic_long left; /* requests that nobody has taken yet */
    pthread_barrier_t start;
    struct load_result all;
};

/* ---- sessions ---- */

static int session_request(struct client *client, const char *id, struct err *err)
{
    char path[ID_SIZE + 32];
    (void)snprintf(path, sizeof(path), "/sessions/%s/execute", id);
    return request_make(&client->request, &client->load->options->address, "POST", path,
                        client->load->options->body, err);
}

/* Makes one; its id, and the request that executes in it. */
static int session_make(struct client *client, char out_id[static ID_SIZE], struct err *err)
{
    struct connection *connection = &client->connection;
    int result = connection_exchange(connection, &client->load->create, err);
    if (result == 0)
        result = answer_check(&connection->answer, "\"session_id\"", err);
    if (result == 0)
        result = answer_text(&connection->answer, "session_id", out_id, ID_SIZE, err);
    return result == 0 ? session_request(client, out_id, err) : result;
}

static void session_remove(struct client *client, const char *id)
{
    char path[ID_SIZE + 32];
    struct request request;
    struct err err = ERR_INIT;
    (void)snprintf(path, sizeof(path), "/sessions/%s", id);
    int result =
        request_make(&request, &client->load->options->address, "DELETE", path, NULL, &err);
    if (result == 0)
        result = connection_exchange(&client->connection, &request, &err);
    if (result == 0)
        result = answer_check(&client->connection.answer, "\"closed\"", &err);
    if (result != 0)
        (void)fprintf(stderr, "session %s is left: %s\n", id, err.message);
}

/* ---- one request ---- */

static int execute(struct client *client, struct err *err)
{
    int result = connection_exchange(&client->connection, &client->request, err);
    return result == 0
               ? answer_check(&client->connection.answer, client->load->options->expect, err)
               : result;
}

static int create_and_execute(struct client *client, struct err *err)
{
    struct load *load = client->load;
    char id[ID_SIZE];
    int result = session_make(client, id, err);
    if (result != 0)
        return result;
    memcpy(load->ids[atomic_fetch_add(&load->id_count, 1)], id, sizeof(id));
    return execute(client, err);
}

static int request_once(struct client *client, struct err *err)
{
    return client->load->options->kind == LOAD_CREATE ? create_and_execute(client, err)
                                                      : execute(client, err);
}

/* "rest" is what the answer does not account for: HTTP, the store, the hello, making a session. */
static void add_stages(struct client *client, int64_t latency_ns)
{
    double values_ms[STAGE_COUNT];
    double rest_ms = (double)latency_ns / 1e6;
    for (int i = 0; i < STAGE_REST; i++) {
        values_ms[i] = answer_number(&client->connection.answer, load_stage_names[i]);
        if (values_ms[i] < 0)
            return;
        rest_ms -= i == STAGE_CPU ? 0 : values_ms[i];
    }
    values_ms[STAGE_REST] = rest_ms;
    for (int i = 0; i < STAGE_COUNT; i++)
        samples_add(&client->seen.stages[i], (int64_t)(values_ms[i] * 1e6));
}

static void count_failure(struct load_result *seen, const struct err *err)
{
    if (seen->failures++ == 0)
        seen->first_failure = *err;
}

/* ---- a client ---- */

/* Sleeps until the next turn. Who is late begins at once, and counts its turns from there. */
static void wait_for_turn(int64_t *next_ns, uint64_t pace_ms)
{
    int64_t now_ns = clock_now_ns();
    if (*next_ns > now_ns)
        clock_sleep_ns(*next_ns - now_ns);
    else
        *next_ns = now_ns;
    *next_ns += (int64_t)pace_ms * CLOCK_NS_PER_MS;
}

/* All before the common start. False: it can't take part. */
static bool prepare(struct client *client)
{
    const struct load_options *options = client->load->options;
    struct err err = ERR_INIT;
    int result = 0;
    if (options->kind == LOAD_SESSION)
        result = session_make(client, client->session_id, &err);
    else if (options->kind == LOAD_EXECUTE)
        result = request_make(&client->request, &options->address, "POST", "/execute",
                              options->body, &err);
    for (uint64_t i = 0; i < options->warm && options->kind != LOAD_CREATE && result == 0; i++)
        result = execute(client, &err);
    if (result != 0)
        count_failure(&client->seen, &err);
    return result == 0;
}

static void *client_main(void *context)
{
    struct client *client = context;
    struct load *load = client->load;
    bool prepared = prepare(client);
    (void)pthread_barrier_wait(&load->start);
    int64_t next_ns = clock_now_ns();
    while (prepared && atomic_fetch_sub(&load->left, 1) > 0) {
        struct err err = ERR_INIT;
        if (load->options->pace_ms > 0)
            wait_for_turn(&next_ns, load->options->pace_ms);
        int64_t begun_ns = clock_now_ns();
        int result = request_once(client, &err);
        int64_t latency_ns = clock_now_ns() - begun_ns;
        if (result != 0) {
            count_failure(&client->seen, &err);
            continue;
        }
        samples_add(&client->seen.latency, latency_ns);
        add_stages(client, latency_ns);
    }
    return NULL;
}

/* ---- all of them ---- */

static int result_init(struct load_result *result, size_t capacity, struct err *err)
{
    int status = samples_init(&result->latency, capacity, err);
    for (int i = 0; i < STAGE_COUNT && status == 0; i++)
        status = samples_init(&result->stages[i], capacity, err);
    return status;
}

static void result_done(struct load_result *result)
{
    samples_done(&result->latency);
    for (int i = 0; i < STAGE_COUNT; i++)
        samples_done(&result->stages[i]);
}

static int start_clients(struct load *load, struct err *err)
{
    pthread_attr_t attributes;
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (uint64_t i = 0; i < load->options->clients; i++) {
        struct client *client = &load->clients[i];
        client->load = load;
        client->connection.address = &load->options->address;
        client->connection.fd = -1;
        int result = result_init(&client->seen, load->options->requests, err);
        int status =
            result == 0 ? pthread_create(&client->thread, &attributes, client_main, client) : 0;
        if (status != 0) /* those that run wait for ever: main ends them all */
            return err_sys(err, status, "start client %" PRIu64, i);
        if (result != 0)
            return result;
    }
    (void)pthread_attr_destroy(&attributes);
    return 0;
}

static void gather(struct load *load)
{
    for (uint64_t i = 0; i < load->options->clients; i++) {
        struct load_result *seen = &load->clients[i].seen;
        samples_merge(&load->all.latency, &seen->latency);
        for (int k = 0; k < STAGE_COUNT; k++)
            samples_merge(&load->all.stages[k], &seen->stages[k]);
        if (load->all.failures == 0)
            load->all.first_failure = seen->first_failure;
        load->all.failures += seen->failures;
        result_done(seen);
    }
}

static int load_new(const struct load_options *options, struct load **out, struct err *err)
{
    struct load *load = calloc(1, sizeof(*load));
    if (!load)
        return err_set(err, ERR_INTERNAL, "no memory");
    *load = (struct load){.options = options};
    atomic_init(&load->left, (long)options->requests);
    (void)pthread_barrier_init(&load->start, NULL, (unsigned)options->clients + 1);
    load->clients = calloc(options->clients, sizeof(*load->clients));
    load->ids = calloc(options->requests, sizeof(*load->ids));
    int result = load->clients && load->ids ? result_init(&load->all, options->requests, err)
                                            : err_set(err, ERR_INTERNAL, "no memory for clients");
    if (result == 0)
        result = request_make(&load->create, &options->address, "POST", "/sessions",
                              options->session_body ? options->session_body : "{}", err);
    *out = load; /* half made: load_end() takes it */
    return result;
}

int load_run(const struct load_options *options, struct load **out, struct err *err)
{
    int result = load_new(options, out, err);
    struct load *load = *out;
    if (result == 0)
        result = start_clients(load, err);
    if (result != 0)
        return result;
    (void)pthread_barrier_wait(&load->start);
    int64_t begun_ns = clock_now_ns();
    for (uint64_t i = 0; i < options->clients; i++)
        (void)pthread_join(load->clients[i].thread, NULL);
    load->all.elapsed_ns = clock_now_ns() - begun_ns;
    gather(load);
    return 0;
}

struct load_result *load_result(struct load *load)
{
    return &load->all;
}

void load_end(struct load *load)
{
    if (!load)
        return;
    for (uint64_t i = 0; load->clients && i < load->options->clients; i++) {
        struct client *client = &load->clients[i];
        if (client->session_id[0] != '\0')
            session_remove(client, client->session_id);
        if (i > 0)
            fd_close(&client->connection.fd);
    }
    for (size_t i = 0; i < atomic_load(&load->id_count); i++)
        session_remove(&load->clients[0], load->ids[i]);
    if (load->clients)
        fd_close(&load->clients[0].connection.fd);
    (void)pthread_barrier_destroy(&load->start);
    result_done(&load->all);
    free(load->clients);
    free(load->ids);
    free(load);
}
