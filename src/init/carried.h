/* An init in a container that somebody else made: its configuration is a file, its standard input
 * and output are a carrier's stream (wire/carrier.h), what it sees of cgroups is what is mounted.
 */
#ifndef BERTH_INIT_CARRIED_H
#define BERTH_INIT_CARRIED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/carrier.h"
#include "wire/init_config.h"

enum { CARRIED_WAITING_MAX = 16 };

/* Reads the configuration and removes what the engine put there; fills in the cgroups' folders that
 * are to be seen. Called first, as the container's root. */
int carried_read_config(struct init_config *config, struct err *err);

struct carried {
    struct carrier *carrier; /* NULL: no carrier here */
    int in_fd;
    int out_fd;
    int64_t heard_ns;     /* when a byte came last */
    int64_t paused_until; /* nobody has the other end of the stream open */
    bool out_full;
    int waiting[CARRIED_WAITING_MAX]; /* connections that the engine opened */
    size_t waiting_count;
};

/* Takes descriptors 0 and 1 away and puts /dev/null there and on 2. */
int carried_open(struct carried *carried, const struct init_config *config, struct err *err);

/* What is to be polled for: 0 for nothing. */
short carried_in_events(const struct carried *carried, int64_t now_ns);
short carried_out_events(const struct carried *carried, int64_t now_ns);
/* When it has to be looked at though nothing comes. */
int64_t carried_wakeup_ns(const struct carried *carried);

/* Takes what has come, where poll(2) said that something has. Returns whether it did. */
bool carried_read(struct carried *carried, short seen, int64_t now_ns);
/* The next connection that the engine has opened, which is the caller's; -1: none. */
int carried_take_connection(struct carried *carried);
/* Sees to the channels and writes as much as goes out. */
void carried_write(struct carried *carried, int64_t now_ns);

#endif
