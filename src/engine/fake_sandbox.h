/* One sandbox of the fake engine: a thread that plays init. For fake.c only. */
#ifndef BERTH_ENGINE_FAKE_SANDBOX_H
#define BERTH_ENGINE_FAKE_SANDBOX_H

#include <stdbool.h>

#include "engine/fake.h"
#include "wire/engine_msg.h"

struct fake_sandbox;

/* Starts the thread. *out_fd is the server's end of the channel, the caller's to close. died is
 * called on the sandbox's thread when FAKE_FAULT_DIES strikes. */
int fake_sandbox_new(const struct engine_create *spec, enum engine_fake_fault fault,
                     void (*died)(void *context, const char *id), void *context,
                     struct fake_sandbox **out, int *out_fd,
                     uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err);
/* Ends the thread and frees all. */
void fake_sandbox_free(struct fake_sandbox *sandbox);

#endif
