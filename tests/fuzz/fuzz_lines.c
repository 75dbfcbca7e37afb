/* What code in a sandbox writes on its kernel's descriptor 4: lines in whatever pieces they come.
 * The first byte chooses the pieces. Then the same bytes as code of a run: it is one line, whose
 * text can be told. */
#include "fuzz.h"

#include <string.h>

#include "init/lines.h"
#include "wire/kernel_msg.h"
#include "wire/tlv.h"

enum { INPUT_MAX = 64 * 1024, OUT_MAX = (INPUT_MAX + 1) * (int)LINES_GROWTH };

/* The messages that are whole, each as it may be. Returns where the line that is open stands. */
static size_t check_messages(const struct buf *in)
{
    size_t at = 0;
    while (at < in->size) {
        fuzz_require(in->size - at >= KERNEL_HEADER_SIZE);
        uint32_t size = tlv_load_u32(in->data + at);
        char type = (char)in->data[at + 4];
        if (size > in->size - at - KERNEL_HEADER_SIZE)
            break;
        fuzz_require(type == KERNEL_READY || type == KERNEL_MESSAGE || type == LINES_NOISE ||
                     ((type == KERNEL_DONE || type == KERNEL_END) && size == 1));
        at += KERNEL_HEADER_SIZE + size;
    }
    return at;
}

static void read_pieces(const uint8_t *data, size_t size, uint8_t seed, struct buf *out)
{
    struct lines_reader reader = {0};
    for (size_t at = 0; at < size;) {
        size_t piece = 1 + (seed + at * 7) % 50;
        if (piece > size - at)
            piece = size - at;
        fuzz_require(lines_read(&reader, data + at, piece, out, NULL) == 0);
        at += piece;
        fuzz_require(out->size <= (at + 1) * LINES_GROWTH);
        fuzz_require(check_messages(out) == out->size - reader.open);
    }
}

/* Some of it is said while nobody listens. */
static void read_and_skip(const uint8_t *data, size_t size, uint8_t seed)
{
    struct lines_reader reader = {0};
    BUF_AUTO struct buf in;
    buf_init(&in, OUT_MAX);
    for (size_t at = 0; at < size;) {
        size_t piece = 1 + (seed + at * 5) % 20;
        if (piece > size - at)
            piece = size - at;
        fuzz_require(lines_read(&reader, data + at, piece, &in, NULL) == 0);
        at += piece;
        if ((at + seed) % 3 == 0) {
            lines_skip(&reader, &in);
            fuzz_require(reader.open == 0 && check_messages(&in) == in.size);
        }
        buf_consume(&in, check_messages(&in));
        fuzz_require(in.size == reader.open);
    }
}

static void check_run(const uint8_t *data, size_t size)
{
    static const char head[] = "X id 5 f ";
    BUF_AUTO struct buf out;
    size_t at = sizeof(head) - 1;
    buf_init(&out, 2 * INPUT_MAX + sizeof(head));
    int result = lines_put_run(&out, "id", 5, "f", data, size, NULL);
    fuzz_require((result == 0) == (size == 0 || !memchr(data, '\0', size)));
    if (result != 0)
        return;
    fuzz_require(memcmp(out.data, head, at) == 0);
    fuzz_require(memchr(out.data, '\n', out.size) == out.data + out.size - 1);
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = out.data[at++];
        if (byte == '\\') {
            byte = out.data[at++];
            byte = byte == 'n' ? '\n' : byte == 'r' ? '\r' : byte == 't' ? '\t' : byte;
        }
        fuzz_require(byte == data[i]);
    }
    fuzz_require(at == out.size - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    BUF_AUTO struct buf whole;
    BUF_AUTO struct buf pieces;
    buf_init(&whole, OUT_MAX);
    buf_init(&pieces, OUT_MAX);
    if (size == 0 || size > INPUT_MAX)
        return 0;
    uint8_t seed = data[0];
    data++;
    size--;
    struct lines_reader reader = {0};
    fuzz_require(lines_read(&reader, data, size, &whole, NULL) == 0);
    read_pieces(data, size, seed, &pieces);
    fuzz_require(whole.size == pieces.size &&
                 (whole.size == 0 || memcmp(whole.data, pieces.data, whole.size) == 0));
    read_and_skip(data, size, seed);
    check_run(data, size);
    return 0;
}
