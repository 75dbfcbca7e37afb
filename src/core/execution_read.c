/* Owns the way from what the store keeps of an outcome to the record that its readers share. */
#include "core/answer.h"
#include "core/core_internal.h"
#include "core/record.h"

#define OBJECT_MAX (1U << 20)
#define STORED_MAX (128U << 20) /* far above what may be kept, whatever that was set to */

/* Loads it, with its room reserved. row is read anew: it may have expired. */
static int load(struct core *core, struct store_execution *row, struct record **out,
                struct err *err)
{
    struct store_execution now;
    BUF_AUTO struct buf object;
    BUF_AUTO struct buf stored;
    buf_init(&object, OBJECT_MAX);
    buf_init(&stored, STORED_MAX);
    int result = store_execution_get(core->store, NULL, row->id, &now, &object, &stored, err);
    if (result != 0)
        return result;
    *row = now;
    return now.has_outcome
               ? record_new_ended(&object, &stored, now.started_us != 0, !now.has_text, out, err)
               : 0;
}

int execution_read(struct core *core, const char *owner, const char *id,
                   struct store_execution *row, struct answer *out, struct err *err)
{
    int result = store_execution_get(core->store, owner, id, row, NULL, NULL, err);
    if (result != 0 || !row->has_outcome)
        return result;
    struct record *record = NULL;
    struct kept_entry *place = NULL;
    result = kept_open(&core->kept, row->id, row->text_bytes, &record, &place, err);
    if (result == 1) {
        result = load(core, row, &record, err);
        kept_fill(&core->kept, place, record);
    }
    if (result != 0)
        return result;
    if (record)
        answer_take_record(out, record, false);
    return 0;
}
