/* Ranges of 65,536 host user ids, one for each living sandbox of the whole host.
 *
 * A range is held by flock(2) on a file of /run/berth/ids. The locked description is inherited by
 * the sandbox's init, so the kernel gives the range back when the last process of the sandbox is
 * gone, whoever was killed before; two servers on one host can't hold the same range. */
#ifndef BERTH_NATIVE_IDRANGE_H
#define BERTH_NATIVE_IDRANGE_H

#include <stdint.h>

#include "base/err.h"

#define IDRANGE_SIZE 65536U
/* Ids that no distribution hands out (systemd, docs/UIDS-GIDS.md: unused up to 0x7fffffff). */
#define IDRANGE_FIRST 0x70000000U
#define IDRANGE_COUNT 4096U
/* The range below is no sandbox's: berth-unpack runs in it, one process at a time. */
#define IDRANGE_UNPACK (IDRANGE_FIRST - IDRANGE_SIZE)

struct idrange {
    uint32_t base; /* first host id */
    int lock_fd;   /* -1: none held */
};

/* Makes the folder of locks. */
int idrange_open(int *out_dir_fd, struct err *err);

/* Takes a free range; ERR_UNAVAILABLE when all are in use. */
int idrange_take(int dir_fd, struct idrange *out, struct err *err);

/* Closes our description; the range is free once the sandbox's init is gone too. */
void idrange_release(struct idrange *range);

#endif
