/* Random identifiers. */
#ifndef BERTH_BASE_ID_H
#define BERTH_BASE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ID_UUID_SIZE 37 /* RFC 9562 text form and its NUL */
#define ID_HEX_MAX 64

/* Fills out with size bytes from getrandom(2); aborts when the kernel has none to give. */
void id_random(void *out, size_t size);

/* A random (version 4) UUID in its lower-case text form (RFC 9562). */
void id_uuid(char out[static ID_UUID_SIZE]);

/* bytes random bytes as lower-case hex; out needs 2 * bytes + 1 chars. */
void id_hex(char *out, size_t bytes);

/* Whether text is a UUID in lower-case text form. */
bool id_is_uuid(const char *text);

/* Whether text has 1 to max characters, all of [a-z0-9-], the first not a dash: fit to be a file
 * name, a cgroup name and a part of a URL. */
bool id_is_name(const char *text, size_t max);

#endif
