/* The removal of what a store (native/imagestore.h) holds and nobody wants: one folder at a time,
 * by a child. */
#ifndef BERTH_NATIVE_IMAGEWASTE_H
#define BERTH_NATIVE_IMAGEWASTE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "native/imagestore.h"

struct imagewaste {
    int store_fd; /* borrowed */
    int epoll_fd; /* borrowed: readable when the child has ended */
    bool due;     /* something happened since waste was last looked for; its owner's to set */
    pid_t pid;    /* 0: none */
    int pidfd;
    char removing[IMAGESTORE_NAME_SIZE];
    char stuck[IMAGESTORE_NAME_SIZE]; /* could not be removed: others come first */
    int64_t after_ns;                 /* after one that failed */
};

void imagewaste_init(struct imagewaste *waste, int store_fd, int epoll_fd);

/* Kills the child; what it leaves is waste again. */
void imagewaste_done(struct imagewaste *waste);

/* Reaps the child that has ended. */
void imagewaste_reap(struct imagewaste *waste);

/* Starts the next one. wanted() is asked about each name of the store. */
void imagewaste_start(struct imagewaste *waste,
                      bool (*wanted)(const char *name, const void *context), const void *context);

/* For who shares the epoll set: a child's pidfd is watched, and not any more. Other children may
 * hold copies, so that closing alone would not end the events (epoll(7)). */
void imagewaste_watch(const struct imagewaste *waste, int fd);
void imagewaste_unwatch(const struct imagewaste *waste, int fd);

/* Whether a pidfd's process has ended. */
bool imagewaste_has_ended(int pidfd);

#endif
