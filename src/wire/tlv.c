/* Owns the byte layout of tagged fields. */
#include "wire/tlv.h"

#include <string.h>

enum { TLV_HEADER_SIZE = 8 };

void tlv_store_u16(uint8_t *out, uint16_t value)
{
    out[0] = (uint8_t)(value & 0xff);
    out[1] = (uint8_t)(value >> 8);
}

void tlv_store_u32(uint8_t *out, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

void tlv_store_u64(uint8_t *out, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

uint16_t tlv_load_u16(const uint8_t *in)
{
    return (uint16_t)(in[0] | (in[1] << 8));
}

uint32_t tlv_load_u32(const uint8_t *in)
{
    uint32_t value = 0;
    for (int i = 3; i >= 0; i--)
        value = (value << 8) | in[i];
    return value;
}

uint64_t tlv_load_u64(const uint8_t *in)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = (value << 8) | in[i];
    return value;
}

void tlv_begin(struct tlv_writer *writer, struct buf *buf)
{
    memset(writer, 0, sizeof(*writer));
    writer->buf = buf;
}

void tlv_put_bytes(struct tlv_writer *writer, uint16_t tag, const void *data, size_t size)
{
    if (writer->result != 0)
        return;
    if (size > UINT32_MAX) {
        writer->result = err_set(&writer->err, ERR_TOO_LARGE, "a field of %zu bytes", size);
        return;
    }
    uint8_t header[TLV_HEADER_SIZE] = {0};
    tlv_store_u16(header, tag);
    tlv_store_u32(header + 4, (uint32_t)size);
    writer->result = buf_append(writer->buf, header, sizeof(header), &writer->err);
    if (writer->result == 0)
        writer->result = buf_append(writer->buf, data, size, &writer->err);
}

void tlv_put_u64(struct tlv_writer *writer, uint16_t tag, uint64_t value)
{
    uint8_t bytes[8];
    tlv_store_u64(bytes, value);
    tlv_put_bytes(writer, tag, bytes, sizeof(bytes));
}

void tlv_put_str(struct tlv_writer *writer, uint16_t tag, const char *text)
{
    tlv_put_bytes(writer, tag, text, strlen(text) + 1);
}

int tlv_end(struct tlv_writer *writer, struct err *err)
{
    return writer->result == 0 ? 0 : err_copy(err, &writer->err);
}

void tlv_open(struct tlv_reader *reader, const void *payload, size_t size)
{
    reader->cursor = payload;
    reader->left = size;
}

int tlv_next(struct tlv_reader *reader, struct tlv_field *field, struct err *err)
{
    if (reader->left == 0)
        return 0;
    if (reader->left < TLV_HEADER_SIZE)
        return err_set(err, ERR_PROTOCOL, "a field header is cut short");
    field->tag = tlv_load_u16(reader->cursor);
    size_t size = tlv_load_u32(reader->cursor + 4);
    if (size > reader->left - TLV_HEADER_SIZE)
        return err_set(err, ERR_PROTOCOL, "field %u says %zu bytes, %zu are left", field->tag, size,
                       reader->left - TLV_HEADER_SIZE);
    field->data = reader->cursor + TLV_HEADER_SIZE;
    field->size = size;
    reader->cursor += TLV_HEADER_SIZE + size;
    reader->left -= TLV_HEADER_SIZE + size;
    return 1;
}

int tlv_u64(const struct tlv_field *field, uint64_t *out, struct err *err)
{
    if (field->size != 8)
        return err_set(err, ERR_PROTOCOL, "field %u is not a number", field->tag);
    *out = tlv_load_u64(field->data);
    return 0;
}

int tlv_str(const struct tlv_field *field, const char **out, struct err *err)
{
    if (field->size == 0 || memchr(field->data, 0, field->size) != field->data + field->size - 1)
        return err_set(err, ERR_PROTOCOL, "field %u is not a text", field->tag);
    *out = (const char *)field->data;
    return 0;
}

int tlv_copy_str(const struct tlv_field *field, char *out, size_t size, struct err *err)
{
    const char *text = NULL;
    int result = tlv_str(field, &text, err);
    if (result != 0)
        return result;
    if (!text || field->size > size)
        return err_set(err, ERR_PROTOCOL, "field %u is too long", field->tag);
    memcpy(out, text, field->size);
    return 0;
}

int tlv_copy_bytes(const struct tlv_field *field, uint8_t *out, size_t size, struct err *err)
{
    if (field->size != size)
        return err_set(err, ERR_PROTOCOL, "field %u has %zu bytes", field->tag, field->size);
    memcpy(out, field->data, size);
    return 0;
}

int tlv_u32(const struct tlv_field *field, uint32_t *out, struct err *err)
{
    uint64_t value = 0;
    int result = tlv_u64(field, &value, err);
    if (result != 0)
        return result;
    if (value > UINT32_MAX)
        return err_set(err, ERR_PROTOCOL, "field %u is out of range", field->tag);
    *out = (uint32_t)value;
    return 0;
}

int tlv_bool(const struct tlv_field *field, bool *out, struct err *err)
{
    uint64_t value = 0;
    int result = tlv_u64(field, &value, err);
    if (result != 0)
        return result;
    if (value > 1)
        return err_set(err, ERR_PROTOCOL, "field %u is neither 0 nor 1", field->tag);
    *out = value == 1;
    return 0;
}
