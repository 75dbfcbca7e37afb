/* One HTTP/1.1 exchange on a keep-alive connection, and what its answer says of itself. */
#ifndef BERTH_BENCH_ANSWER_H
#define BERTH_BENCH_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { ANSWER_MAX = 256 * 1024 };

struct answer {
    int status;            /* of HTTP */
    bool keep_alive;       /* the connection may be used again */
    size_t body_size;      /* bytes; the body is NUL-terminated */
    const char *body;      /* inside the text */
    char text[ANSWER_MAX]; /* head and body */
};

/* Connects to host:port (numeric or a name); blocks. */
int answer_connect(const char *host, const char *port, int *out_fd, struct err *err);

/* Sends a whole request and reads the whole answer; blocks. Answers without a Content-Length, or
 * larger than ANSWER_MAX, are refused: ERR_PROTOCOL. */
int answer_exchange(int fd, const char *request, size_t size, struct answer *out, struct err *err);

/* The number after "key": in the body; negative when there is none. */
double answer_number(const struct answer *answer, const char *key);

#endif
