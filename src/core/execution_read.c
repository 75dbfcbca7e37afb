/* Owns the way from what the store keeps of an outcome to the object that a caller reads. */
#include "core/core_internal.h"
#include "core/execution_json.h"
#include "core/execution_text.h"

#define OUTCOME_MAX (64U << 20) /* an earlier version kept the text in it, escaped */
#define TEXT_MAX (64U << 20)    /* far above what may be kept, whatever that was set to */

static int put_together(const struct buf *object, const struct buf *stored, struct buf *out,
                        struct err *err)
{
    BUF_AUTO struct buf out_text;
    BUF_AUTO struct buf err_text;
    BUF_AUTO struct buf both;
    buf_init(&out_text, TEXT_MAX);
    buf_init(&err_text, TEXT_MAX);
    buf_init(&both, TEXT_MAX);
    const struct execution_outcome text = {.out = &out_text, .err_out = &err_text, .both = &both};
    int result = execution_text_decode(stored, &out_text, &err_text, &both, err);
    return result == 0 ? execution_json_whole(object, &text, out, err) : result;
}

int execution_read(struct core *core, const char *owner, const char *id,
                   struct store_execution *row, struct buf *out, struct err *err)
{
    BUF_AUTO struct buf object;
    BUF_AUTO struct buf stored;
    buf_init(&object, OUTCOME_MAX);
    buf_init(&stored, TEXT_MAX);
    int result = store_execution_get(core->store, owner, id, row, &object, &stored, err);
    if (result != 0 || !row->has_outcome)
        return result;
    if (!row->has_text)
        return execution_json_whole(&object, NULL, out, err);
    return put_together(&object, &stored, out, err);
}
