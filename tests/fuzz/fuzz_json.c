/* A request body, read the way the routes read one. */
#include "fuzz.h"

#include <string.h>

#include "base/encoding.h"
#include "wire/json.h"

static void try_fields(const struct json_t *object)
{
    static const char *const fields[] = {"code", "timeout", "ram", "cpu", "files", "env", "keep"};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        const char *text = NULL;
        size_t text_size = 0;
        bool flag = false;
        uint64_t number = 1;
        uint64_t ms = 1;
        uint32_t millis = 1;
        struct json_t *inner = NULL;
        struct err err = ERR_INIT;
        if (json_get_text(object, fields[i], &text, &text_size, &err) == 0 && text)
            fuzz_require(strlen(text) == text_size);
        (void)json_get_bool(object, fields[i], &flag, &err);
        if (json_get_u64(object, fields[i], 1, 100, &number, &err) == 0)
            fuzz_require(number >= 1 && number <= 100);
        if (json_get_size(object, fields[i], &number, &err) == 0)
            fuzz_require(number > 0);
        if (json_get_duration(object, fields[i], 5000, &ms, &err) == 0)
            fuzz_require(ms >= 1 && ms <= 5000);
        if (json_get_cores(object, fields[i], &millis, &err) == 0)
            fuzz_require(millis > 0);
        (void)json_get_object(object, fields[i], &inner, &err);
        (void)json_get_array(object, fields[i], &inner, &err);
        BUF_AUTO struct buf bytes;
        buf_init(&bytes, 1024U * 1024U);
        if (text)
            (void)base64_decode(text, text_size, &bytes, &err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    JSON_AUTO struct json_t *object = NULL;
    struct err err = ERR_INIT;
    if (json_parse_object(data, size, &object, &err) == 0)
        try_fields(object);
    else
        fuzz_require(err.public_message[0] != '\0' || err.kind == ERR_INTERNAL);
    BUF_AUTO struct buf out;
    buf_init(&out, 16U * 1024U * 1024U);
    (void)json_append_bytes(&out, data, size, &err);
    return 0;
}
