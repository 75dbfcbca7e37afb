/* Clients that ask at the same time, a thread and a connection each, and what they saw.
 *
 * Three kinds of load. LOAD_EXECUTE: each request is a POST /execute. LOAD_SESSION: each client
 * makes a session first, which does not count, and each request is an execution in it. LOAD_CREATE:
 * each request makes a session and waits for the answer of its first execution; all of them live
 * until load_end(). A failure is an answer that is not 200 with the expected text; it has no
 * duration. */
#ifndef BERTH_BENCH_LOAD_H
#define BERTH_BENCH_LOAD_H

#include "answer.h"
#include "samples.h"

enum load_kind { LOAD_EXECUTE, LOAD_SESSION, LOAD_CREATE };

enum {
    CLIENTS_MAX = 1024,
    STAGE_QUEUE = 0,
    STAGE_CREATE,
    STAGE_WALL,
    STAGE_CPU,
    STAGE_REST,
    STAGE_COUNT
};
/* As the answers call them; the last one is what they do not account for. */
extern const char *const load_stage_names[STAGE_COUNT];

struct load_options {
    enum load_kind kind;
    struct address address;
    uint64_t clients;  /* 1 to CLIENTS_MAX */
    uint64_t requests; /* of all clients together */
    uint64_t warm;     /* requests a client before those that count */
    uint64_t
        pace_ms; /* each client begins one each so many ms, or at once when it is late; 0: none */
    const char *body;         /* of an execution */
    const char *session_body; /* of the request that makes a session; NULL: {} */
    const char *expect;
};

struct load_result {
    struct samples latency;
    struct samples stages[STAGE_COUNT];
    uint64_t failures;
    struct err first_failure;
    int64_t elapsed_ns; /* from the start that all share to the last answer */
};

struct load;

/* Runs all of it; blocks. The options are borrowed until load_end(). *out is load_end()'s to free.
 */
int load_run(const struct load_options *options, struct load **out, struct err *err);
/* Owned by the load; its samples may be sorted. */
struct load_result *load_result(struct load *load);
/* Ends the sessions that it made. NULL is allowed. */
void load_end(struct load *load);

#endif
