/* What an execution says, put on the terminal as its events come. */
#ifndef BERTH_CLI_SHOW_H
#define BERTH_CLI_SHOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Zeroed but for the first part. */
struct show {
    bool silent;             /* print nothing at all */
    bool results;            /* print results: text/plain to stdout, a note of others to stderr */
    const char *images_path; /* a folder to write images to, made when missing; NULL: none */

    char id[64];       /* "" before the execution has one */
    bool queued;       /* it has one, and waits for its turn */
    bool open;         /* all that is known was told, and it has not ended */
    uint64_t last;     /* number of the newest event: the next ones come after it */
    bool ended;        /* its end was told, with an exit code */
    bool failed;       /* it was here that an event could not be shown: another try is no use */
    int exit_code;     /* 0 to 255 */
    char trouble[256]; /* why the server broke its stream off; "" when it did not say */
};

/* Takes one event as a line of JSON, {"event": name, "id": number, "data": object}; one that was
 * taken already is passed over. Fits client_line_fn; context is the struct show. */
int show_line(void *context, const char *line, size_t size, struct err *err);

/* Takes the object of an execution that has ended. Without an exit code it is no end. */
void show_take_end(struct show *show, const json_t *object);

#endif
