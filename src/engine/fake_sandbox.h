/* One sandbox of the fake engine: a thread that plays init. For fake.c only. */
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
    void (*died)(void *context, const char *id); /* on the sandbox's thread: FAKE_FAULT_DIES */
    void *context;
};

/* Starts the thread. *out_fd is the server's end of the channel, the caller's to close. */
int fake_sandbox_new(const struct fake_spec *spec, struct fake_sandbox **out, int *out_fd,
                     uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err);
/* Ends the thread and keeps the files. Ending twice is fine; not from the sandbox's own thread. */
void fake_sandbox_end(struct fake_sandbox *sandbox);
/* Ends the thread and frees all. */
void fake_sandbox_free(struct fake_sandbox *sandbox);

#endif
