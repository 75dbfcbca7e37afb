/* One sandbox of the fake engine: threads that play init and its code. For fake.c only. */
#ifndef BERTH_ENGINE_FAKE_SANDBOX_H
#define BERTH_ENGINE_FAKE_SANDBOX_H

#include <stdbool.h>

#include "engine/fake.h"
#include "wire/sandbox.h"

struct fake_sandbox;

struct fake_spec {
    const char *id;
    struct fake_sandbox *left; /* one that ended, whose files this one gets; NULL: none */
    enum engine_fake_fault fault;
    uint64_t lifetime_ms, orphan_ms; /* 0: never */
    /* On the sandbox's thread: it ended by itself; cause: KILL_OOM or KILL_NONE. */
    void (*died)(void *context, const char *id, enum kill_cause cause);
    void *context;
};

/* Starts it. *out_fd is the server's end of the first channel, the caller's to close. */
int fake_sandbox_new(const struct fake_spec *spec, struct fake_sandbox **out, int *out_fd,
                     uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err);
/* A further channel; a fault strikes the sandbox from here on. Does not block. ERR_NOT_FOUND: it
 * has ended. */
int fake_sandbox_connect(struct fake_sandbox *sandbox, enum engine_fake_fault fault, int *out_fd,
                         struct err *err);
/* What LIMITS told its init last; 0: nothing did. */
void fake_sandbox_limits(struct fake_sandbox *sandbox, struct sandbox_limits *out);
void fake_sandbox_strike(struct fake_sandbox *sandbox, enum engine_fake_fault fault);
/* What NETWORK told its init last. */
void fake_sandbox_network(struct fake_sandbox *sandbox, struct sandbox_network *out);
/* Ends it and keeps the files. Ending twice is fine; not from one of the sandbox's own threads. */
void fake_sandbox_end(struct fake_sandbox *sandbox);
/* Ends it and frees all. */
void fake_sandbox_free(struct fake_sandbox *sandbox);

#endif
