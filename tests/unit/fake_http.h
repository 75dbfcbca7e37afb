/* A request that came over no network, for tests of what handles requests. fake_http.c takes the
 * place of wire/http.c in a program that links it. */
#ifndef BERTH_TESTS_UNIT_FAKE_HTTP_H
#define BERTH_TESTS_UNIT_FAKE_HTTP_H

#include "wire/http.h"

/* All borrowed; NULL members are absent. */
struct http_request {
    const char *method;
    const char *path;
    const char *const *headers; /* name, value, name, value, ..., NULL */
    const char *const *query;   /* in the same way */
    const uint8_t *body;
    size_t body_size;
    void *intake; /* its context */
};

#endif
