/* One HTTP/1.1 exchange on a keep-alive connection, and what its answer says of itself. */
#ifndef BERTH_BENCH_ANSWER_H
#define BERTH_BENCH_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { ANSWER_MAX = 256 * 1024, REQUEST_MAX = 8192 };

struct answer {
    int status;            /* of HTTP */
    bool keep_alive;       /* the connection may be used again */
    size_t body_size;      /* bytes; the body is NUL-terminated */
    const char *body;      /* inside the text */
    char text[ANSWER_MAX]; /* head and body */
};

/* Where the server listens. */
struct address {
    char host[256]; /* numeric or a name */
    char port[8];
};

/* A connection as one thread uses it, with the last answer that came over it. */
struct connection {
    const struct address *address;
    int fd; /* -1: the next exchange connects */
    struct answer answer;
};

/* A whole request, made once and sent many times. */
struct request {
    char text[REQUEST_MAX];
    size_t size;
};

/* Makes a request; body NULL: none. ERR_TOO_LARGE. */
int request_make(struct request *request, const struct address *address, const char *method,
                 const char *path, const char *body, struct err *err);

/* Sends the request and reads the whole answer into connection->answer; blocks. Connects when there
 * is no connection. Answers without a Content-Length, or larger than ANSWER_MAX, are refused:
 * ERR_PROTOCOL. The connection is closed after a failure, or when the server asks for that. */
int connection_exchange(struct connection *connection, const struct request *request,
                        struct err *err);

/* 0 when the answer is 200 and has the text; else ERR_PROTOCOL with what came instead. */
int answer_check(const struct answer *answer, const char *expect, struct err *err);

/* The number after "key": in the body; negative when there is none. */
double answer_number(const struct answer *answer, const char *key);

/* The text after "key":" in the body, up to the next quote. ERR_PROTOCOL: none, or too long. */
int answer_text(const struct answer *answer, const char *key, char *out, size_t size,
                struct err *err);

#endif
