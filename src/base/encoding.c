/* Owns the texts that stand for bytes. */
#include "base/encoding.h"

#include <string.h>

int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void hex_write(const void *data, size_t size, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * size] = '\0';
}

bool hex_read(const char *text, void *out, size_t size)
{
    uint8_t *bytes = out;
    if (!text || strlen(text) != 2 * size)
        return false;
    for (size_t i = 0; i < size; i++) {
        int high = hex_digit(text[2 * i]);
        int low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static char base64_char(uint32_t value, enum base64_alphabet alphabet)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    static const char last[][2] = {[BASE64_STANDARD] = {'+', '/'}, [BASE64_URL] = {'-', '_'}};
    value &= 63;
    return value < 62 ? digits[value] : last[alphabet][value - 62];
}

void base64_write(const void *data, size_t size, enum base64_alphabet alphabet, char *out)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t bits = (uint32_t)bytes[i] << 16;
        bits |= left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0;
        bits |= left > 2 ? bytes[i + 2] : 0;
        *out++ = base64_char(bits >> 18, alphabet);
        *out++ = base64_char(bits >> 12, alphabet);
        *out++ = left > 1 ? base64_char(bits >> 6, alphabet) : '=';
        *out++ = left > 2 ? base64_char(bits, alphabet) : '=';
    }
    *out = '\0';
}

int base64_append(struct buf *out, const void *data, size_t size, enum base64_alphabet alphabet,
                  struct err *err)
{
    char *text = (char *)buf_reserve(out, BASE64_SIZE(size) - 1, err); /* and a NUL */
    if (!text)
        return -(int)ERR_INTERNAL;
    base64_write(data, size, alphabet, text);
    out->size += BASE64_SIZE(size) - 1;
    return 0;
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+')
        return 62;
    return c == '/' ? 63 : -1;
}

int base64_decode(const char *text, size_t size, struct buf *out, struct err *err)
{
    if (size % 4 != 0)
        return err_public(err, ERR_BAD_INPUT,
                          "not base64: the length is not a multiple of four (is the \"=\" padding "
                          "there?)");
    for (size_t at = 0; at < size; at += 4) {
        bool last = at + 4 == size;
        size_t digits = 4;
        uint32_t value = 0;
        while (last && digits > 2 && text[at + digits - 1] == '=')
            digits--;
        for (size_t i = 0; i < 4; i++) {
            int digit = i < digits ? base64_digit(text[at + i]) : 0;
            if (digit < 0)
                return err_public(err, ERR_BAD_INPUT, "not base64: bad character at position %zu",
                                  at + i);
            value = value << 6 | (uint32_t)digit;
        }
        /* Bits under the padding must be zero: one encoding a content, RFC 4648 section 3.5. */
        if ((digits == 3 && (value & 0xff) != 0) || (digits == 2 && (value & 0xffff) != 0))
            return err_public(err, ERR_BAD_INPUT, "not base64: stray bits before the padding");
        uint8_t bytes[3] = {(uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
        int result = buf_append(out, bytes, digits - 1, err);
        if (result < 0)
            return result;
    }
    return 0;
}
