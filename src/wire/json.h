/* JSON in and out: bodies parsed by jansson within bounds, fields read with errors that name them.
 *
 * Getters take the object and the field's name. An absent field and null leave *out as it is and
 * return 0, so the caller sets the default first. A wrong type is ERR_BAD_INPUT (public) in one
 * manner: "timeout: expected a number of seconds, got a string". Nothing here blocks. */
#ifndef BERTH_WIRE_JSON_H
#define BERTH_WIRE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct json_t; /* jansson's json_t */

#define JSON_DEPTH_MAX 64     /* of nested arrays and objects in a body */
#define JSON_VALUES_MAX 20000 /* of values in a body; env, files and labels need some 2,000 */

/* Appends a quoted and escaped JSON string. utf8 must be valid UTF-8 (utf8_sanitize() first when it
 * is not); it may hold NUL. */
int json_append_string(struct buf *out, const char *utf8, size_t size, struct err *err);

/* Appends bytes as a JSON string, bad UTF-8 replaced by U+FFFD on the way. */
int json_append_bytes(struct buf *out, const uint8_t *data, size_t size, struct err *err);

/* The same without the quotes: for a string that is written in parts. A part should end where a
 * character does (utf8_incomplete_tail()). */
int json_append_part(struct buf *out, const uint8_t *data, size_t size, struct err *err);

/* Parses a whole body that must be one object. ERR_BAD_INPUT (public) says what is wrong and where;
 * depth and number of values are checked before jansson sees it. *out is the caller's: JSON_AUTO.
 */
int json_parse_object(const uint8_t *data, size_t size, struct json_t **out, struct err *err);
/* The same of up to values_max values, about 200 bytes of memory each. */
int json_parse_large(const uint8_t *data, size_t size, unsigned values_max, struct json_t **out,
                     struct err *err);
void json_free_at(struct json_t **json);
#define JSON_AUTO __attribute__((cleanup(json_free_at)))

/* "a string", "a number", ... for messages. */
const char *json_kind_name(const struct json_t *json);

/* The member, or NULL when it is absent or null. Borrowed. */
struct json_t *json_member(const struct json_t *object, const char *field);

/* Text; borrowed from the object. Never holds NUL when out_size is NULL; with out_size, it may not
 * either: the parser refuses \u0000. */
int json_get_text(const struct json_t *object, const char *field, const char **out,
                  size_t *out_size, struct err *err);
int json_get_bool(const struct json_t *object, const char *field, bool *out, struct err *err);
/* An integer within [low, high]; a string of digits is taken too. */
int json_get_u64(const struct json_t *object, const char *field, uint64_t low, uint64_t high,
                 uint64_t *out, struct err *err);
/* Bytes: an integer, or text as in parse_size(). Zero is refused. */
int json_get_size(const struct json_t *object, const char *field, uint64_t *out_bytes,
                  struct err *err);
/* Seconds with fractions, as a number or as numeric text; finite and above zero; rounded up to a
 * whole millisecond. ERR_BAD_INPUT above max_ms, naming the largest. */
int json_get_duration(const struct json_t *object, const char *field, uint64_t max_ms,
                      uint64_t *out_ms, struct err *err);
/* Cores as thousandths: "2", "0.5", 0.5. Above zero. */
int json_get_cores(const struct json_t *object, const char *field, uint32_t *out_millis,
                   struct err *err);
/* An object or an array; borrowed; *out stays as it is when absent. */
int json_get_object(const struct json_t *object, const char *field, struct json_t **out,
                    struct err *err);
int json_get_array(const struct json_t *object, const char *field, struct json_t **out,
                   struct err *err);

#endif
