/* epoll(7), level-triggered: descriptors and who is to hear of them. One thread. */
#ifndef BERTH_EGRESS_POLLER_H
#define BERTH_EGRESS_POLLER_H

#include <stdint.h>
#include <sys/epoll.h>

#include "base/err.h"

struct watch;
typedef void (*watch_fn)(struct watch *watch, uint32_t events);

/* Lies within what owns it, at any place. */
struct watch {
    int fd; /* -1: none */
    uint32_t events;
    watch_fn ready;
    void *owner;
};

struct poller {
    int fd;
};

int poller_open(struct poller *poller, struct err *err);
void poller_close(struct poller *poller);

void watch_init(struct watch *watch, watch_fn ready, void *owner);
/* What to hear of; 0: nothing, an end neither. EPOLLHUP alone: only its end. */
int watch_set(struct poller *poller, struct watch *watch, uint32_t events, struct err *err);
/* Closes the descriptor; nothing is heard of it any more, of this turn neither. */
void watch_close(struct poller *poller, struct watch *watch);

/* Waits, at most until deadline_ns, and calls who is to hear. What is freed meanwhile has to stay
 * in memory until it returns. */
int poller_turn(struct poller *poller, int64_t deadline_ns, struct err *err);

#endif
