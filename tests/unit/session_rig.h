/* On top of loop_rig.h: what a server says of kernels, runs and held executions. The kernel is the
 * toy of BERTH_TOY_KERNEL. */
#ifndef BERTH_TESTS_UNIT_SESSION_RIG_H
#define BERTH_TESTS_UNIT_SESSION_RIG_H

#include "loop_rig.h"

typedef int (*encode_fn)(const void *message, struct buf *out, struct err *err);

void send_message(struct client *client, enum frame_type type, uint32_t stream, encode_fn encode,
                  const void *message);
int encode_kernel(const void *message, struct buf *out, struct err *err);
int encode_run(const void *message, struct buf *out, struct err *err);
int encode_attach(const void *message, struct buf *out, struct err *err);
int encode_timers(const void *message, struct buf *out, struct err *err);
int encode_limits(const void *message, struct buf *out, struct err *err);

/* program runs the toy kernel. variable: one more, "NAME=value", or NULL. */
void send_kernel_with(struct client *client, uint32_t stream, const char *program,
                      const char *variable);
void send_kernel(struct client *client, uint32_t stream, const char *program);
/* The errno of the DONE that comes next. */
int take_done(struct client *client, uint32_t stream);
/* A committed sandbox with a kernel that is ready, and a connection. */
void start_kernel(struct rig *rig, struct client *client);

/* RUN without its code. */
void send_run(struct client *client, uint32_t stream, const char *id, bool hold);
/* The whole of it, without input; its id is "r" and the stream. */
void run_code(struct client *client, uint32_t stream, const char *code, bool hold);
/* The same, to its end: it prints this and nothing else, and ends well. */
void assert_prints(struct client *client, uint32_t stream, const char *code, const char *printed);

void attach(struct client *client, uint32_t stream, const char *id, uint64_t after);

#endif
