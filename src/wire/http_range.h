/* The Range field of a request (RFC 9110 section 14.2), for one range of bytes. */
#ifndef BERTH_WIRE_HTTP_RANGE_H
#define BERTH_WIRE_HTTP_RANGE_H

#include <stdint.h>

enum http_range {
    HTTP_RANGE_ALL,  /* no field, one that is not understood, or several ranges: all of it, 200 */
    HTTP_RANGE_PART, /* 206 */
    HTTP_RANGE_NONE, /* 416: no byte of it is there */
};

/* What the field (NULL: absent) asks of something of size_bytes. *offset and *count (at least 1)
 * are set for HTTP_RANGE_PART only. Several ranges are answered by the whole: a server may ignore
 * them, and many small ones are an attack on it (section 14.2). */
enum http_range http_range_parse(const char *field, uint64_t size_bytes, uint64_t *offset,
                                 uint64_t *count);

#endif
