/* berth-docker as a process, with the server's own client, against a pretended Docker daemon. */
#ifndef BERTH_TESTS_UNIT_DOCKER_RIG_H
#define BERTH_TESTS_UNIT_DOCKER_RIG_H

#include "check.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "fake_docker.h"

#define INSTANCE "0a1b2c3d"

enum { WAIT_S = 30, GONE_MAX = 16 };

struct rig {
    int listen_fd;
    pid_t pid;
    struct engine *engine;
    struct fake_docker *docker;
    bool searches;        /* the engine is not told where the daemon is */
    pthread_mutex_t lock; /* of the rest */
    char gone[GONE_MAX][SANDBOX_ID_MAX + 1];
    enum kill_cause causes[GONE_MAX];
    size_t gone_count;
};

/* cmocka's setup and teardown. */
int rig_open(void **state);
int rig_close(void **state);
#define with_rig(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)

/* A deadline that only a hang passes. */
int64_t soon(void);
/* The path of a file in the folder of the test. */
const char *below(const char *name, char path[static 108]);
/* berth-docker, on the sockets that there are. */
void start_engine(struct rig *rig);
void stop_engine(struct rig *rig, int number);
/* Kills it; the one that answers behind it is new. */
void replace_engine(struct rig *rig);
struct engine_create spec_of(const char *id);
/* Makes a small sandbox; out_fd: its channel, or NULL. */
int create(struct rig *rig, const char *id, int *out_fd, struct err *err);
void assert_says_hi(int fd);
void assert_closes(int fd);
size_t count_sandboxes(struct rig *rig);
/* How many sandboxes were said to have ended by themselves. */
size_t gone_count(struct rig *rig);
/* Whether the daemon answers, and what it has is known. */
bool is_available(struct rig *rig);

#define wait_for(condition)                                                                        \
    do {                                                                                           \
        int64_t until_ns = soon();                                                                 \
        bool holds = (condition);                                                                  \
        while (!holds && clock_now_ns() < until_ns) {                                              \
            clock_sleep_ns(10 * CLOCK_NS_PER_MS);                                                  \
            holds = (condition);                                                                   \
        }                                                                                          \
        assert_true(holds);                                                                        \
    } while (0)

#endif
