/* Running a program that deals with what strangers made: without any right, in one folder. */
#ifndef BERTH_CLI_IMAGE_CAGE_H
#define BERTH_CLI_IMAGE_CAGE_H

#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

#define IMAGE_CAGE_FOLDER "/var/tmp" /* where the program sees the folder */

/* Runs argv as the id, in pid, mount and IPC namespaces of its own, with the folder at
 * work_path over /var/tmp. Its standard output goes to out, up to its bound, or line by line to
 * standard error when out is NULL; its standard error always does. It is gone, with all that it
 * started, when this returns. ERR_NOT_FOUND: there is no such program; ERR_CLOSED: SIGINT or
 * SIGTERM came, which this process then has blocked; ERR_UNAVAILABLE: it failed, in its own last
 * words. */
int image_cage_run(const char *work_path, uid_t id, char *const argv[], struct buf *out,
                   struct err *err);

#endif
