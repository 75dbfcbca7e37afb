/* Two ends of a carrier (wire/carrier.h) and a stream between them that moves in pieces. */
#ifndef BERTH_TESTS_UNIT_CARRIER_RIG_H
#define BERTH_TESTS_UNIT_CARRIER_RIG_H

#include "check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/carrier.h"

enum { OPENED_MAX = CARRIER_CHANNEL_MAX + 8, BIG = 1024 * 1024 };

extern const uint8_t secret[CARRIER_SECRET_SIZE];

struct rig {
    struct carrier *outer;
    struct carrier *inner;
    size_t piece; /* of the stream, at once */
    int opened[OPENED_MAX];
    size_t opened_count;
};

int setup(void **state);
int teardown(void **state);
#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

/* A new outer end, with its reset before it; the one before is the caller's to free. */
void attach(struct rig *rig);
/* A piece in each direction. Returns whether anything was moved. */
bool turn(struct rig *rig);
/* Until nothing moves any more. */
void run(struct rig *rig);
/* Returns the outer end's socket of a new channel. */
int open_channel(struct rig *rig, int *inner_fd);

void expect(int fd, const char *text);
void expect_nothing(int fd);
void expect_end(int fd);
void say(int fd, const char *text);

#endif
