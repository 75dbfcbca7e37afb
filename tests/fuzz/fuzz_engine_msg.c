/* A message from a server that was taken over, as the engine reads it, and a reply the other way.
 */
#include "fuzz.h"

#include <string.h>

#include "wire/engine_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct engine_msg msg;
    if (engine_msg_decode(data, size, &msg, NULL) != 0)
        return 0;
    fuzz_require(strnlen(msg.id, sizeof(msg.id)) < sizeof(msg.id));
    fuzz_require(strnlen(msg.create.id, sizeof(msg.create.id)) < sizeof(msg.create.id));
    fuzz_require(strnlen(msg.create.image, sizeof(msg.create.image)) < sizeof(msg.create.image));
    fuzz_require(strnlen(msg.info.unavailable, ENGINE_TEXT_MAX) < ENGINE_TEXT_MAX);
    fuzz_require(msg.error.kind >= ERR_NONE && msg.error.kind < ERR_KIND_COUNT);
    fuzz_require(msg.id_count <= ENGINE_LIST_MAX);
    for (size_t i = 0; i < msg.id_count; i++)
        fuzz_require(strnlen(msg.ids[i], sizeof(msg.ids[i])) < sizeof(msg.ids[i]));
    fuzz_require(strnlen(msg.layer.name, sizeof(msg.layer.name)) < sizeof(msg.layer.name));
    fuzz_require(msg.layer_count <= ENGINE_LIST_MAX);
    for (size_t i = 0; i < msg.layer_count; i++)
        fuzz_require(strnlen(msg.layers[i].name, sizeof(msg.layers[i].name)) <
                     sizeof(msg.layers[i].name));
    BUF_AUTO struct buf out;
    buf_init(&out, 1024U * 1024U);
    fuzz_require(engine_msg_encode(&msg, &out, NULL) == 0);
    engine_msg_done(&msg);
    return 0;
}
