/* Tagged fields: the payload of every message between berth's own processes.
 *
 * A field is tag (u16), zero (u16), size (u32), then size bytes, little-endian. A reader skips tags
 * that it does not know, so an older init understands a newer server. Text fields carry their NUL
 * inside size, so that a decoded string points into the payload. */
#ifndef BERTH_WIRE_TLV_H
#define BERTH_WIRE_TLV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* Little-endian integers in unaligned memory. */
void tlv_store_u16(uint8_t *out, uint16_t value);
void tlv_store_u32(uint8_t *out, uint32_t value);
void tlv_store_u64(uint8_t *out, uint64_t value);
uint16_t tlv_load_u16(const uint8_t *in);
uint32_t tlv_load_u32(const uint8_t *in);
uint64_t tlv_load_u64(const uint8_t *in);

/* Appends fields; the first failure sticks and is returned by tlv_end(). */
struct tlv_writer {
    struct buf *buf;
    int result;
    struct err err;
};

void tlv_begin(struct tlv_writer *writer, struct buf *buf);
void tlv_put_u64(struct tlv_writer *writer, uint16_t tag, uint64_t value);
void tlv_put_bytes(struct tlv_writer *writer, uint16_t tag, const void *data, size_t size);
void tlv_put_str(struct tlv_writer *writer, uint16_t tag, const char *text);
int tlv_end(struct tlv_writer *writer, struct err *err);

struct tlv_field {
    uint16_t tag;
    const uint8_t *data;
    size_t size;
};

struct tlv_reader {
    const uint8_t *cursor;
    size_t left;
};

void tlv_open(struct tlv_reader *reader, const void *payload, size_t size);

/* Takes the next field. Returns 1 with a field, 0 at the end, -ERR_PROTOCOL on a cut field. */
int tlv_next(struct tlv_reader *reader, struct tlv_field *field, struct err *err);

/* The field as a number (exactly 8 bytes) or as text (NUL at its end and nowhere else).
 * -ERR_PROTOCOL otherwise. The text lives as long as the payload. */
int tlv_u64(const struct tlv_field *field, uint64_t *out, struct err *err);
int tlv_str(const struct tlv_field *field, const char **out, struct err *err);
/* The same into arrays of size bytes: a text that fits, or exactly as many bytes. */
int tlv_copy_str(const struct tlv_field *field, char *out, size_t size, struct err *err);
int tlv_copy_bytes(const struct tlv_field *field, uint8_t *out, size_t size, struct err *err);
/* A number that fits into 32 bits, or is 0 or 1. */
int tlv_u32(const struct tlv_field *field, uint32_t *out, struct err *err);
int tlv_bool(const struct tlv_field *field, bool *out, struct err *err);

#endif
