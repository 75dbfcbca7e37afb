/* Owns the making and checking of identifiers. */
#include "base/id.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/encoding.h"

void id_random(void *out, size_t size)
{
    char *cursor = out;
    while (size > 0) {
        ssize_t got = getrandom(cursor, size, 0);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            abort();
        }
        cursor += got;
        size -= (size_t)got;
    }
}

void id_uuid(char out[static ID_UUID_SIZE])
{
    uint8_t bytes[16];
    id_random(bytes, sizeof(bytes));
    bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40);
    bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
    char hex[33];
    hex_write(bytes, sizeof(bytes), hex);
    (void)snprintf(out, ID_UUID_SIZE, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
                   hex + 20);
}

void id_hex(char *out, size_t bytes)
{
    uint8_t random[ID_HEX_MAX / 2];
    if (bytes > sizeof(random))
        abort();
    id_random(random, bytes);
    hex_write(random, bytes, out);
}

bool id_is_uuid(const char *text)
{
    if (strlen(text) != ID_UUID_SIZE - 1)
        return false;
    for (size_t i = 0; i < ID_UUID_SIZE - 1; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        char c = text[i];
        bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
        if (dash ? c != '-' : !hex)
            return false;
    }
    return true;
}

bool id_is_name(const char *text, size_t max)
{
    size_t size = strlen(text);
    if (size == 0 || size > max || text[0] == '-')
        return false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'))
            return false;
    }
    return true;
}
