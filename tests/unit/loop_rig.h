/* For the tests of init's loop: the loop as PID 1 of a pid namespace of its own, without cgroups
 * and without an inner user namespace, and the server's side of its socket.
 *
 * It must be PID 1: without cgroups init ends an execution by a signal to every process that it can
 * see, which outside of a namespace would be every process of this machine. */
#ifndef BERTH_TESTS_UNIT_LOOP_RIG_H
#define BERTH_TESTS_UNIT_LOOP_RIG_H

#include "check.h"

#include <stdbool.h>
#include <sys/types.h>

#include "wire/frame.h"
#include "wire/init_config.h"
#include "wire/sandbox.h"

enum { WAIT_MS = 20000 };

extern char rig_folder[]; /* holds the socket, and may be the root */

struct rig {
    struct init_config config;
    bool closed_root; /* the folder becomes the root; as root with a tmpfs at /other */
    bool shed;        /* PID 1 gives up what init gives up, and has its filter; as root */
    pid_t helper;     /* waits for PID 1 and ends as it does */
    int setup_fd;
};

/* cmocka's setup and teardown. */
int rig_make(void **state);
int rig_end(void **state);

/* Starts the loop; returns once it listens. As root it has a /proc of its own namespace. */
void rig_start(struct rig *rig);
/* What an engine does at the end of a creation. */
void rig_commit(struct rig *rig);
/* The same with a descriptor, which is closed here. */
void rig_commit_with(struct rig *rig, int fd);
/* Both. */
void start_committed(struct rig *rig);
/* The loop ends by itself, with success. */
void assert_loop_ends(struct rig *rig);
/* The exit code of the loop's process, which ends by itself. */
int rig_wait(struct rig *rig);

struct client {
    int fd;
    struct frame_decoder decoder;
    struct frame frame; /* the last one */
};

void client_open(struct client *client);
void client_close(struct client *client);
/* Opens, and says hello. */
void client_greet(struct client *client);
void client_send_hello(struct client *client, uint32_t version_min, uint32_t version_max);
void client_send(struct client *client, enum frame_type type, uint32_t stream, const void *payload,
                 size_t size);
void client_send_u32(struct client *client, enum frame_type type, uint32_t stream, uint32_t value);
/* Takes the next frame; false at the end of the connection. */
bool client_next(struct client *client);

/* No frame is there, after a PING came back: whatever init had to say was said before it. */
void assert_quiet(struct client *client);
/* The next frame is this one. */
void assert_frame(struct client *client, enum frame_type type, uint32_t stream);
/* Init closes this connection, and nothing else: a new one is served. */
void assert_cut_off(struct client *client);

struct exec_options {
    const char *cwd; /* NULL: / */
    uint64_t timeout_ms;
    uint64_t keep_bytes; /* 0: a mebibyte */
    uint64_t output_max_bytes;
};

void client_exec_argv(struct client *client, uint32_t stream, const char **argv,
                      const struct exec_options *options);
/* A script of sh; options may be NULL. */
void client_exec(struct client *client, uint32_t stream, const char *script,
                 const struct exec_options *options);

/* What came of one execution. */
struct outcome {
    bool started;
    bool closed[2];
    char text[2][256]; /* the beginning of stdout and stderr */
    size_t sizes[2];   /* bytes that came */
    uint64_t stdin_credit;
    struct sandbox_exit exit;
    char start_error[256];
};

/* Takes frames of an execution until its EXIT, giving back credit for what came. */
void client_finish(struct client *client, uint32_t stream, struct outcome *outcome);

#endif
