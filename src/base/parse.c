/* Owns the reading of numbers from text. Locale-independent: it never calls strtod. */
#include "base/parse.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *skip_spaces(const char *text)
{
    while (*text == ' ' || *text == '\t')
        text++;
    return text;
}

/* Reads digits[.digits]; at most 18 digits in all, so that the value fits both types exactly. */
static const char *read_decimal(const char *text, double *out, bool *fraction)
{
    double value = 0;
    double scale = 1;
    int digits = 0;
    *fraction = false;
    while (is_digit(*text) && digits < 18) {
        value = value * 10 + (*text++ - '0');
        digits++;
    }
    if (digits == 0 || is_digit(*text))
        return NULL;
    if (*text == '.') {
        *fraction = true;
        text++;
        if (!is_digit(*text))
            return NULL;
        while (is_digit(*text) && digits < 18) {
            scale /= 10;
            value += scale * (*text++ - '0');
            digits++;
        }
        while (is_digit(*text))
            text++; /* beyond the precision that we keep */
    }
    *out = value;
    return text;
}

static const struct {
    const char *name;
    uint64_t factor;
} units[] = {
    {"", 1},
    {"b", 1},
    {"k", UINT64_C(1) << 10},
    {"kb", UINT64_C(1000)},
    {"kib", UINT64_C(1) << 10},
    {"m", UINT64_C(1) << 20},
    {"mb", UINT64_C(1000000)},
    {"mib", UINT64_C(1) << 20},
    {"g", UINT64_C(1) << 30},
    {"gb", UINT64_C(1000000000)},
    {"gib", UINT64_C(1) << 30},
    {"t", UINT64_C(1) << 40},
    {"tb", UINT64_C(1000000000000)},
    {"tib", UINT64_C(1) << 40},
};

static int bad_size(const char *text, struct err *err)
{
    return err_public(err, ERR_BAD_INPUT,
                      "\"%.40s\" is not a size; write a number of bytes or a number with a unit, "
                      "such as 512MB or 1GiB",
                      text);
}

int parse_size(const char *text, uint64_t *out_bytes, struct err *err)
{
    double value = 0;
    bool fraction = false;
    const char *rest = read_decimal(skip_spaces(text), &value, &fraction);
    if (!rest)
        return bad_size(text, err);
    rest = skip_spaces(rest);
    size_t unit_size = strcspn(rest, " \t");
    if (*skip_spaces(rest + unit_size) != '\0')
        return bad_size(text, err);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strlen(units[i].name) != unit_size || strncasecmp(units[i].name, rest, unit_size) != 0)
            continue;
        if (fraction && units[i].factor == 1)
            return bad_size(text, err);
        double bytes = value * (double)units[i].factor;
        if (bytes > 9.0e18)
            return err_public(err, ERR_BAD_INPUT, "\"%.40s\" is more than can be counted", text);
        *out_bytes = (uint64_t)bytes;
        return 0;
    }
    return bad_size(text, err);
}

int parse_u64(const char *text, uint64_t low, uint64_t high, uint64_t *out, struct err *err)
{
    uint64_t value = 0;
    bool ok = is_digit(*text);
    for (const char *c = text; ok && *c; c++) {
        if (!is_digit(*c) || value > (UINT64_MAX - 9) / 10)
            ok = false;
        else
            value = value * 10 + (uint64_t)(*c - '0');
    }
    if (!ok || value < low || value > high)
        return err_public(err, ERR_BAD_INPUT,
                          "\"%.40s\" is not a whole number from %" PRIu64 " to %" PRIu64, text, low,
                          high);
    *out = value;
    return 0;
}

int parse_fraction(const char *text, double *out, struct err *err)
{
    double value = 0;
    bool fraction = false;
    const char *rest = read_decimal(text, &value, &fraction);
    if (!rest || *rest != '\0')
        return err_public(err, ERR_BAD_INPUT, "\"%.40s\" is not a decimal number such as 2 or 0.5",
                          text);
    *out = value;
    return 0;
}
