/* Owns the reading of metrics. A name that is not there is a zero: the server may be an older one.
 */
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"

#define SETTLE_NS (30 * CLOCK_NS_PER_S)
#define LOOK_NS (50 * CLOCK_NS_PER_MS)
#define REST_NS (300 * CLOCK_NS_PER_MS) /* what was destroyed is still being freed */

/* Sets *found when there is a line "name value". */
static double metric(const char *text, const char *name, bool *found)
{
    size_t size = strlen(name);
    for (const char *at = strstr(text, name); at; at = strstr(at + 1, name)) {
        if ((at == text || at[-1] == '\n') && at[size] == ' ') {
            *found = true;
            return strtod(at + size, NULL);
        }
    }
    *found = false;
    return 0;
}

/* Also how many sandboxes are being made. */
static int read_all(const struct address *address, struct pool_figures *out, double *out_creating,
                    struct err *err)
{
    struct connection *connection = calloc(1, sizeof(*connection)); /* large */
    struct request request;
    bool there = false;
    if (!connection)
        return err_set(err, ERR_INTERNAL, "no memory");
    connection->address = address;
    connection->fd = -1;
    int result = request_make(&request, address, "GET", "/metrics", NULL, err);
    if (result == 0)
        result = connection_exchange(connection, &request, err);
    if (result == 0)
        result = answer_check(&connection->answer, "berth_sandboxes", err);
    if (result == 0) {
        const char *text = connection->answer.body;
        *out = (struct pool_figures){.hits = metric(text, "berth_pool_hits_total", &out->there),
                                     .misses = metric(text, "berth_pool_misses_total", &there),
                                     .wanted = metric(text, "berth_pool_wanted", &there)};
        out->ready = metric(text, "berth_pool_ready", &out->there);
        *out_creating = metric(text, "berth_sandboxes_creating", &there);
    }
    fd_close(&connection->fd);
    free(connection);
    return result;
}

int pool_read(const struct address *address, struct pool_figures *out, struct err *err)
{
    double creating = 0;
    return read_all(address, out, &creating, err);
}

int pool_settle(const struct address *address, struct err *err)
{
    int64_t until_ns = clock_now_ns() + SETTLE_NS;
    for (;;) {
        struct pool_figures now = {0};
        double creating = 0;
        int result = read_all(address, &now, &creating, err);
        if (result != 0)
            return result;
        if ((creating == 0 && now.ready >= now.wanted) || clock_now_ns() > until_ns)
            break;
        clock_sleep_ns(LOOK_NS);
    }
    clock_sleep_ns(REST_NS);
    return 0;
}
