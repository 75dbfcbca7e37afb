/* Owns the way from a record that has ended to the bytes that a client takes. */
#include "core/answer.h"

#include "core/record.h"

#define PLAIN_MAX (64U * 1024U) /* an object of names and times */

void answer_done(struct answer *answer)
{
    buf_done(&answer->plain);
    record_unref(answer->record);
    *answer = (struct answer){0};
}

const struct buf *answer_begin(const struct answer *answer)
{
    return answer->record ? record_object(answer->record) : &answer->plain;
}

uint64_t answer_raw_bytes(const struct answer *answer)
{
    const struct execution_text *text = answer->record ? record_said(answer->record) : NULL;
    return answer_begin(answer)->size + (text ? 2 * text->bytes.size : 0);
}

int answer_measure(const struct answer *answer, uint64_t *out_bytes, struct err *err)
{
    uint64_t total = answer->plain.size;
    struct execution_writer writer = answer->writer;
    BUF_AUTO struct buf piece;
    buf_init(&piece, ANSWER_PIECE_MAX);
    int more = answer->record != NULL;
    while (more > 0) {
        piece.size = 0;
        more = execution_writer_next(&writer, &piece, err);
        total += piece.size;
    }
    if (more == 0)
        *out_bytes = total;
    return more;
}

int answer_next(struct answer *answer, struct buf *out, struct err *err)
{
    if (answer->record)
        return execution_writer_next(&answer->writer, out, err);
    size_t left = answer->plain.size - answer->given;
    int result = buf_append(out, answer->plain.data + answer->given, left, err);
    answer->given = answer->plain.size;
    return result == 0 ? left > 0 : result;
}

int answer_rest(struct answer *answer, struct buf *out, struct err *err)
{
    int result = 1;
    while (result > 0)
        result = answer_next(answer, out, err);
    return result;
}

void answer_take_record(struct answer *answer, struct record *record, bool omit_text)
{
    answer_done(answer);
    answer->record = record;
    execution_writer_init(&answer->writer, record_object(record), record_said(record), omit_text);
}

struct buf *answer_plain(struct answer *answer)
{
    answer_done(answer);
    buf_init(&answer->plain, PLAIN_MAX);
    return &answer->plain;
}
