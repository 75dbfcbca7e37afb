/* Owns the bounds on what jansson may be given and the words of field errors. Refuses bodies that
 * nest deeper than JSON_DEPTH_MAX or hold more than JSON_VALUES_MAX values, that hold NUL in a
 * string, and that are not one object. */
#include "wire/json.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/parse.h"
#include "wire/utf8.h"

#define JSON_ESCAPE_MAX 6    /* "\\u001b" */
#define JSON_BLOCK 512U      /* characters that are escaped at once */
#define JSON_SECONDS_MAX 1e9 /* far past any deadline; keeps the product within 64 bits */

void json_free_at(struct json_t **json)
{
    json_decref(*json);
    *json = NULL;
}

/* Writes one character of a string, up to JSON_ESCAPE_MAX bytes; returns how many. */
static size_t json_write_escaped(char *out, uint8_t byte)
{
    static const char digits[] = "0123456789abcdef";
    static const char named[][2] = {
        {'"', '"'}, {'\\', '\\'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}};
    out[0] = (char)byte;
    if (byte >= 0x20 && byte != '"' && byte != '\\' && byte != 0x7f)
        return 1;
    out[0] = '\\';
    for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++) {
        if (byte == (uint8_t)named[i][0]) {
            out[1] = named[i][1];
            return 2;
        }
    }
    out[1] = 'u';
    out[2] = out[3] = '0';
    out[4] = digits[byte >> 4];
    out[5] = digits[byte & 15];
    return JSON_ESCAPE_MAX;
}

/* What stands between the quotes. */
static int json_append_inside(struct buf *out, const uint8_t *data, size_t size, struct err *err)
{
    char block[JSON_BLOCK * JSON_ESCAPE_MAX];
    int result = 0;
    for (size_t at = 0; at < size && result == 0;) {
        size_t end = size - at < JSON_BLOCK ? size : at + JSON_BLOCK;
        size_t used = 0;
        for (; at < end; at++)
            used += json_write_escaped(block + used, data[at]);
        result = buf_append(out, block, used, err);
    }
    return result;
}

int json_append_string(struct buf *out, const char *utf8, size_t size, struct err *err)
{
    int result = buf_append(out, "\"", 1, err);
    if (result == 0)
        result = json_append_inside(out, (const uint8_t *)utf8, size, err);
    return result == 0 ? buf_append(out, "\"", 1, err) : result;
}

int json_append_part(struct buf *out, const uint8_t *data, size_t size, struct err *err)
{
    if (utf8_is_valid(data, size))
        return json_append_inside(out, data, size, err);
    struct buf clean BUF_AUTO;
    buf_init(&clean, size * 3 + 3);
    int result = utf8_sanitize(data, size, &clean, err);
    return result == 0 ? json_append_inside(out, clean.data, clean.size, err) : result;
}

int json_append_bytes(struct buf *out, const uint8_t *data, size_t size, struct err *err)
{
    int result = buf_append(out, "\"", 1, err);
    if (result == 0)
        result = json_append_part(out, data, size, err);
    return result == 0 ? buf_append(out, "\"", 1, err) : result;
}

/* jansson recurses once a level and allows 2048 of them; a connection's thread has a small stack.
 * It also makes some 200 bytes of each "{}", so the values of a body are bounded too. */
static int json_check_shape(const uint8_t *data, size_t size, unsigned values_max, struct err *err)
{
    unsigned depth = 0;
    unsigned values = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        uint8_t c = data[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > JSON_DEPTH_MAX)
                return err_public(err, ERR_BAD_INPUT,
                                  "body: JSON nested deeper than %d levels is not taken",
                                  JSON_DEPTH_MAX);
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
        if (!in_string && (c == ',' || c == '{' || c == '[') && ++values > values_max)
            return err_public(err, ERR_BAD_INPUT, "body: more than %u values in one JSON object",
                              values_max);
    }
    return 0;
}

int json_parse_object(const uint8_t *data, size_t size, struct json_t **out, struct err *err)
{
    return json_parse_large(data, size, JSON_VALUES_MAX, out, err);
}

int json_parse_large(const uint8_t *data, size_t size, unsigned values_max, struct json_t **out,
                     struct err *err)
{
    int result = json_check_shape(data, size, values_max, err);
    if (result < 0)
        return result;
    if (size == 0)
        return err_public(err, ERR_BAD_INPUT, "body: expected a JSON object, got nothing");
    json_error_t problem;
    json_t *json = json_loadb((const char *)data, size, JSON_DECODE_ANY, &problem);
    if (!json && json_error_code(&problem) == json_error_null_character)
        return err_public(err, ERR_BAD_INPUT, "body: \\u0000 is not allowed in a string");
    if (!json) {
        /* The text quotes what the client sent; bytes of it that are not UTF-8 stay out. */
        bool clean = utf8_is_valid((const uint8_t *)problem.text, strlen(problem.text));
        return err_public(err, ERR_BAD_INPUT, "body: not valid JSON: line %d, column %d: %s",
                          problem.line, problem.column, clean ? problem.text : "bad bytes");
    }
    if (!json_is_object(json)) {
        result = err_public(err, ERR_BAD_INPUT, "body: expected a JSON object, got %s",
                            json_kind_name(json));
        json_decref(json);
        return result;
    }
    *out = json;
    return 0;
}

const char *json_kind_name(const struct json_t *json)
{
    if (!json)
        return "nothing";
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

struct json_t *json_member(const struct json_t *object, const char *field)
{
    json_t *value = json_object_get(object, field);
    return json_is_null(value) ? NULL : value;
}

static int json_wrong_type(const char *field, const char *expected, const json_t *value,
                           struct err *err)
{
    return err_public(err, ERR_BAD_INPUT, "%s: expected %s, got %s", field, expected,
                      json_kind_name(value));
}

/* A parser of base/parse.h said what is wrong; the field's name comes before it. */
static int json_name_field(const char *field, const struct err *problem, struct err *err)
{
    return err_public(err, ERR_BAD_INPUT, "%.60s: %.240s", field, problem->public_message);
}

int json_get_text(const struct json_t *object, const char *field, const char **out,
                  size_t *out_size, struct err *err)
{
    const json_t *value = json_member(object, field);
    if (!value)
        return 0;
    if (!json_is_string(value))
        return json_wrong_type(field, "a string", value, err);
    *out = json_string_value(value);
    if (out_size)
        *out_size = json_string_length(value);
    return 0;
}

int json_get_bool(const struct json_t *object, const char *field, bool *out, struct err *err)
{
    const json_t *value = json_member(object, field);
    if (!value)
        return 0;
    if (!json_is_boolean(value))
        return json_wrong_type(field, "true or false", value, err);
    *out = json_is_true(value);
    return 0;
}

int json_get_u64(const struct json_t *object, const char *field, uint64_t low, uint64_t high,
                 uint64_t *out, struct err *err)
{
    const json_t *value = json_member(object, field);
    struct err problem = ERR_INIT;
    if (!value)
        return 0;
    if (json_is_string(value))
        return parse_u64(json_string_value(value), low, high, out, &problem) < 0
                   ? json_name_field(field, &problem, err)
                   : 0;
    double number = json_number_value(value);
    if (!json_is_number(value) || floor(number) < number || fabs(number) > 9e15)
        return json_wrong_type(field, "a whole number", value, err);
    if (number < (double)low || number > (double)high)
        return err_public(err, ERR_BAD_INPUT,
                          "%s: expected a whole number from %" PRIu64 " to %" PRIu64, field, low,
                          high);
    *out = (uint64_t)number;
    return 0;
}

int json_get_size(const struct json_t *object, const char *field, uint64_t *out_bytes,
                  struct err *err)
{
    const json_t *value = json_member(object, field);
    struct err problem = ERR_INIT;
    uint64_t bytes = 0;
    if (!value)
        return 0;
    if (json_is_string(value)) {
        if (parse_size(json_string_value(value), &bytes, &problem) < 0)
            return json_name_field(field, &problem, err);
    } else if (json_is_integer(value) && json_integer_value(value) >= 0) {
        bytes = (uint64_t)json_integer_value(value);
    } else {
        return err_public(err, ERR_BAD_INPUT,
                          "%s: expected a size such as 536870912, \"512MB\" or \"1GiB\", got %s",
                          field,
                          json_is_integer(value) ? "a negative number" : json_kind_name(value));
    }
    if (bytes == 0)
        return err_public(err, ERR_BAD_INPUT, "%s: expected a size above zero", field);
    *out_bytes = bytes;
    return 0;
}

/* A number, or numeric text, above zero and at most high. */
static int json_get_positive(const struct json_t *object, const char *field, const char *expected,
                             double high, double *out, struct err *err)
{
    const json_t *value = json_member(object, field);
    struct err problem = ERR_INIT;
    double number = 0;
    if (json_is_string(value)) {
        if (parse_fraction(json_string_value(value), &number, &problem) < 0)
            return err_public(err, ERR_BAD_INPUT, "%s: expected %s, got a string", field, expected);
    } else if (json_is_number(value)) {
        number = json_number_value(value);
    } else {
        return json_wrong_type(field, expected, value, err);
    }
    if (!isfinite(number) || number <= 0)
        return err_public(err, ERR_BAD_INPUT, "%s: expected %s above zero", field, expected);
    if (number > high)
        return err_public(err, ERR_BAD_INPUT, "%s: at most %g is possible", field, high);
    *out = number;
    return 0;
}

int json_get_duration(const struct json_t *object, const char *field, uint64_t max_ms,
                      uint64_t *out_ms, struct err *err)
{
    double seconds = 0;
    double high = max_ms > 0 ? (double)max_ms / 1000 : JSON_SECONDS_MAX;
    if (!json_member(object, field))
        return 0;
    int result = json_get_positive(object, field, "a number of seconds", high, &seconds, err);
    if (result == 0)
        *out_ms = (uint64_t)ceil(seconds * 1000);
    return result;
}

int json_get_cores(const struct json_t *object, const char *field, uint32_t *out_millis,
                   struct err *err)
{
    double cores = 0;
    if (!json_member(object, field))
        return 0;
    int result = json_get_positive(object, field, "a number of cores such as \"2\" or 0.5", 1e6,
                                   &cores, err);
    if (result == 0)
        *out_millis = (uint32_t)ceil(cores * 1000);
    return result;
}

int json_get_object(const struct json_t *object, const char *field, struct json_t **out,
                    struct err *err)
{
    json_t *value = json_member(object, field);
    if (!value)
        return 0;
    if (!json_is_object(value))
        return json_wrong_type(field, "an object", value, err);
    *out = value;
    return 0;
}

int json_get_array(const struct json_t *object, const char *field, struct json_t **out,
                   struct err *err)
{
    json_t *value = json_member(object, field);
    if (!value)
        return 0;
    if (!json_is_array(value))
        return json_wrong_type(field, "a list", value, err);
    *out = value;
    return 0;
}
