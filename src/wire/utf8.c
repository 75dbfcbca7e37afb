/* Owns the one UTF-8 decoder of the server. Refuses nothing: bad bytes become U+FFFD. */
#include "wire/utf8.h"

#include <string.h>

/* Looks at the sequence at data[0]. Returns its length when it is whole and valid; else 0, with
 * *bad set to the bytes of its maximal subpart (at least 1) and *cut to whether the end of the
 * data, not a wrong byte, ended it. Ranges of the second byte: RFC 3629 section 4. */
static size_t utf8_scan(const uint8_t *data, size_t size, size_t *bad, bool *cut)
{
    uint8_t lead = data[0];
    size_t length = 0;
    uint8_t low = 0x80;
    uint8_t high = 0xbf;

    *bad = 1;
    *cut = false;
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf)
        length = 2;
    else if (lead >= 0xe0 && lead <= 0xef)
        length = 3;
    else if (lead >= 0xf0 && lead <= 0xf4)
        length = 4;
    else
        return 0;
    if (lead == 0xe0)
        low = 0xa0;
    else if (lead == 0xed)
        high = 0x9f;
    else if (lead == 0xf0)
        low = 0x90;
    else if (lead == 0xf4)
        high = 0x8f;
    for (size_t i = 1; i < length; i++) {
        *bad = i;
        if (i == size) {
            *cut = true;
            return 0;
        }
        if (data[i] < low || data[i] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

int utf8_sanitize(const uint8_t *data, size_t size, struct buf *out, struct err *err)
{
    static const uint8_t replacement[] = {0xef, 0xbf, 0xbd};
    size_t start = 0;
    size_t at = 0;

    while (at < size) {
        size_t bad = 0;
        bool cut = false;
        size_t length = utf8_scan(data + at, size - at, &bad, &cut);
        if (length > 0) {
            at += length;
            continue;
        }
        int result = buf_append(out, data + start, at - start, err);
        if (result == 0)
            result = buf_append(out, replacement, sizeof(replacement), err);
        if (result < 0)
            return result;
        at += bad;
        start = at;
    }
    return at > start ? buf_append(out, data + start, at - start, err) : 0;
}

bool utf8_is_valid(const uint8_t *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t bad = 0;
        bool cut = false;
        size_t length = utf8_scan(data + at, size - at, &bad, &cut);
        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

size_t utf8_incomplete_tail(const uint8_t *data, size_t size)
{
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        size_t bad = 0;
        bool cut = false;
        if ((data[size - back] & 0xc0) == 0x80)
            continue; /* a continuation byte: the lead is further back */
        return utf8_scan(data + size - back, back, &bad, &cut) == 0 && cut ? back : 0;
    }
    return 0;
}
