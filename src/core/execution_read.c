/* Owns the way from what the store keeps of an outcome to the object that a caller reads. */
#include "core/core_internal.h"
#include "core/execution_json.h"
#include "core/execution_text.h"

#define OBJECT_MAX (1U << 20)
#define STORED_MAX (128U << 20) /* far above what may be kept, whatever that was set to */

int execution_read(struct core *core, const char *owner, const char *id,
                   struct store_execution *row, struct buf *out, struct err *err)
{
    BUF_AUTO struct buf object;
    struct execution_text text;
    execution_text_init(&text, STORED_MAX);
    buf_init(&object, OBJECT_MAX);
    int result = execution_read_parts(core, owner, id, row, &object, &text, err);
    if (result == 0 && row->has_outcome) {
        struct execution_streams streams;
        result = execution_streams_make(&text, &streams, err);
        if (result == 0) {
            result =
                execution_json_whole(&object, row->has_text ? &streams : NULL, false, out, err);
            execution_streams_done(&streams);
        }
    }
    execution_text_done(&text);
    return result;
}

int execution_read_parts(struct core *core, const char *owner, const char *id,
                         struct store_execution *row, struct buf *object,
                         struct execution_text *text, struct err *err)
{
    BUF_AUTO struct buf stored;
    buf_init(&stored, STORED_MAX);
    int result = store_execution_get(core->store, owner, id, row, object, &stored, err);
    return result == 0 ? execution_text_decode(&stored, text, err) : result;
}
