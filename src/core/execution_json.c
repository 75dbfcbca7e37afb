/* Owns the form of the execution object: every key of the contract, always. */
#include "core/execution_json.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "wire/frame.h"
#include "wire/json.h"
#include "wire/outcome.h"
#include "wire/utf8.h"

#define PART_MAX 4096U /* of a piece, taken at once: six times as much when it is escaped */

static int put_string(struct buf *out, const char *key, const char *value, struct err *err)
{
    int result = buf_printf(out, err, "\"%s\":", key);
    if (result != 0)
        return result;
    return value ? json_append_bytes(out, (const uint8_t *)value, strlen(value), err)
                 : buf_append_str(out, "null", err);
}

static int put_time(struct buf *out, const char *key, int64_t wall_us, struct err *err)
{
    char text[CLOCK_ISO8601_SIZE];
    clock_format_iso8601(wall_us, text);
    return put_string(out, key, wall_us > 0 ? text : NULL, err);
}

static int put_limits(struct buf *out, uint32_t limits_hit, struct err *err)
{
    int result = buf_append_str(out, ",\"limits_hit\":[", err);
    bool first = true;
    for (unsigned i = 0; i < LIMIT_HIT_COUNT && result == 0; i++) {
        if ((limits_hit & (1U << i)) == 0)
            continue;
        result = buf_printf(out, err, "%s\"%s\"", first ? "" : ",", outcome_limit_name(i));
        first = false;
    }
    return result == 0 ? buf_append_str(out, "]", err) : result;
}

static int put_usage(struct buf *out, const struct execution_outcome *outcome, struct err *err)
{
    const struct sandbox_exit *exit = &outcome->exit;
    return buf_printf(
        out, err,
        ",\"usage\":{\"cpu_ms\":%" PRIu64 ".%03" PRIu64 ",\"wall_ms\":%" PRIu64 ".%03" PRIu64
        ",\"max_rss_bytes\":%" PRIu64 ",\"memory_peak_bytes\":%" PRIu64 ",\"pids_peak\":%" PRIu64
        ",\"stdout_bytes\":%" PRIu64 ",\"stderr_bytes\":%" PRIu64 ",\"queue_ms\":%" PRId64
        ".%03" PRId64 ",\"create_ms\":%" PRId64 ".%03" PRId64 "}",
        exit->cpu_us / 1000, exit->cpu_us % 1000, exit->wall_us / 1000, exit->wall_us % 1000,
        exit->max_rss_bytes, exit->memory_peak_bytes, exit->pids_peak, exit->stdout_bytes,
        exit->stderr_bytes, outcome->queue_us / 1000, outcome->queue_us % 1000,
        outcome->create_us / 1000, outcome->create_us % 1000);
}

static const char *const phase_names[PHASE_COUNT] = {
    [PHASE_RUN] = "run", [PHASE_COMPILE] = "compile", [PHASE_INSTALL] = "install"};

/* Of a session: what became of its variables. */
static const char *state_text(const struct execution_outcome *outcome)
{
    if (!outcome->session_id || outcome->started_us == 0)
        return "null";
    return outcome->exit.state_lost ? "\"lost\"" : "\"kept\"";
}

/* The members after what the code said. */
static int put_end(struct buf *out, const struct execution_outcome *outcome, struct err *err)
{
    const struct sandbox_exit *exit = &outcome->exit;
    int result = buf_printf(
        out, err, "\"exit_code\":%" PRIu32 ",\"execution_time_secs\":%" PRIu64 ".%06" PRIu64 ",",
        exit->exit_code, exit->wall_us / 1000000, exit->wall_us % 1000000);
    if (result == 0)
        result = put_time(out, "timestamp", outcome->finished_us, err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_string(out, "killed_by", outcome_cause_name(exit->cause), err);
    if (result == 0)
        result = buf_printf(out, err, ",\"phase\":\"%s\"", phase_names[outcome->phase]);
    if (result == 0)
        result = put_limits(out, exit->limits_hit, err);
    if (result == 0)
        result = buf_printf(out, err, ",\"state\":%s,\"truncated\":%s", state_text(outcome),
                            outcome->truncated ? "true" : "false");
    return result == 0 ? put_usage(out, outcome, err) : result;
}

static const char *known(const char *name)
{
    return name && name[0] != '\0' ? name : NULL;
}

/* What berth tells beside the contract's keys. */
static int put_extra(struct buf *out, const struct execution_outcome *outcome, struct err *err)
{
    int result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_string(out, "lang", outcome->lang, err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_string(out, "engine", known(outcome->engine), err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_string(out, "runtime", known(outcome->runtime), err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_string(out, "session_id", outcome->session_id, err);
    if (result == 0)
        result = buf_printf(out, err, ",\"labels\":%s,", outcome->labels ? outcome->labels : "{}");
    if (result == 0)
        result = put_time(out, "created_at", outcome->created_us, err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_time(out, "started_at", outcome->started_us, err);
    return result == 0 ? buf_append_str(out, "}", err) : result;
}

int execution_json_outcome(const struct execution_outcome *outcome, struct buf *out,
                           struct err *err)
{
    int result = buf_printf(out, err, "{\"execution_id\":\"%s\",\"status\":\"%s\",", outcome->id,
                            execution_state_name(outcome->state));
    if (result == 0)
        result = put_end(out, outcome, err);
    return result == 0 ? put_extra(out, outcome, err) : result;
}

/* Where what the code said goes: behind execution_id and status, which hold no quote of a caller's.
 */
static size_t place_of_streams(const struct buf *object)
{
    static const char next[] = "\"exit_code\":";
    const uint8_t *found =
        object->size > 0 ? memmem(object->data, object->size, next, sizeof(next) - 1) : NULL;
    return found ? (size_t)(found - object->data) : object->size;
}

void execution_writer_init(struct execution_writer *writer, const struct buf *object,
                           const struct execution_text *text, bool omit_text)
{
    *writer = (struct execution_writer){.object = object, .text = text, .omit_text = omit_text};
}

/* Whether a piece belongs to the member. The last error is what ended it. */
static bool is_of_member(const struct execution_writer *writer, size_t index, int stream,
                         const uint8_t *data)
{
    switch (writer->member) {
    case WRITER_STDOUT:
        return stream == STREAM_STDOUT;
    case WRITER_STDERR:
        return stream == STREAM_STDERR;
    case WRITER_OUTPUT:
        return stream != STREAM_CONTROL;
    case WRITER_RESULTS:
        return stream == STREAM_CONTROL && data[0] != MESSAGE_ERROR;
    case WRITER_ERROR:
        return writer->has_error && index == writer->error_index;
    default:
        return false;
    }
}

/* Appends a part of the piece that the writer is at; true when that was the last. */
static int put_part(struct execution_writer *writer, int stream, const uint8_t *data, size_t size,
                    bool *last, struct buf *out, struct err *err)
{
    bool message = stream == STREAM_CONTROL;
    size_t at = writer->in_piece > 0 ? writer->in_piece : message; /* its kind is not told */
    size_t part = size - at < PART_MAX ? size - at : PART_MAX;
    if (!message && part < size - at)
        part -= utf8_incomplete_tail(data + at, part);
    int result = 0;
    if (writer->member == WRITER_RESULTS && writer->in_piece == 0 && writer->some)
        result = buf_append(out, ",", 1, err);
    if (result == 0)
        result = message ? buf_append(out, data + at, part, err)
                         : json_append_part(out, data + at, part, err);
    writer->some = true;
    writer->in_piece = at + part;
    *last = writer->in_piece == size;
    return result;
}

/* Goes on in the pieces of a member, up to one part. Returns 1 at their end. */
static int put_pieces(struct execution_writer *writer, struct buf *out, struct err *err)
{
    for (;;) {
        struct execution_text_cursor next = writer->place;
        const uint8_t *data = NULL;
        size_t size = 0;
        int stream = 0;
        if (!writer->text || !execution_text_next(writer->text, &next, &stream, &data, &size))
            return 1;
        if (writer->member == WRITER_RESULTS && stream == STREAM_CONTROL &&
            data[0] == MESSAGE_ERROR) {
            writer->has_error = true;
            writer->error_index = writer->place.index;
        }
        bool last = true;
        bool wanted = is_of_member(writer, writer->place.index, stream, data);
        int result = wanted ? put_part(writer, stream, data, size, &last, out, err) : 0;
        if (last) {
            writer->place = next;
            writer->in_piece = 0;
        }
        if (result != 0 || wanted)
            return result;
    }
}

/* What stands before and behind the pieces of a member. */
static int put_frame(struct execution_writer *writer, bool behind, struct buf *out, struct err *err)
{
    static const char *const before[] = {
        [WRITER_STDOUT] = "\"stdout\":\"", [WRITER_STDERR] = "\"stderr\":\"",
        [WRITER_OUTPUT] = "\"output\":\"", [WRITER_RESULTS] = "\"results\":[",
        [WRITER_ERROR] = "\"error\":",
    };
    if (!behind)
        return buf_append_str(out, before[writer->member], err);
    if (writer->member == WRITER_ERROR) {
        int result = writer->some ? 0 : buf_append_str(out, "null", err);
        return result == 0 ? buf_append_str(out, ",", err) : result;
    }
    return buf_append_str(out, writer->member == WRITER_RESULTS ? "]," : "\",", err);
}

static void next_member(struct execution_writer *writer)
{
    writer->member++;
    if (writer->omit_text && writer->member == WRITER_STDOUT)
        writer->member = WRITER_RESULTS;
    writer->place = (struct execution_text_cursor){0};
    writer->in_piece = 0;
    writer->open = false;
    writer->some = false;
}

static int put_step(struct execution_writer *writer, struct buf *out, struct err *err)
{
    const struct buf *object = writer->object;
    size_t place = place_of_streams(object);
    int result = 0;
    if (writer->member == WRITER_HEAD) {
        result = buf_append(out, object->data, place, err);
    } else if (writer->member == WRITER_TAIL) {
        if (!writer->text)
            result = buf_append_str(out,
                                    "\"note\":\"stdout, stderr, output and results were dropped:"
                                    " newer outcomes took the room that is kept for them\",",
                                    err);
        if (result == 0)
            result = buf_append(out, object->data + place, object->size - place, err);
    } else {
        if (!writer->open)
            result = put_frame(writer, false, out, err);
        writer->open = true;
        if (result == 0)
            result = put_pieces(writer, out, err);
        if (result <= 0)
            return result;
        result = put_frame(writer, true, out, err);
    }
    next_member(writer);
    return result;
}

int execution_writer_next(struct execution_writer *writer, struct buf *out, struct err *err)
{
    int result = 0;
    if (writer->member == WRITER_END)
        return 0;
    size_t begun = out->size;
    while (result == 0 && writer->member != WRITER_END && out->size - begun < WRITER_PIECE)
        result = put_step(writer, out, err);
    return result == 0 ? 1 : result;
}

int execution_json_row(const char *id, const char *status, const char *lang, int64_t created_us,
                       int64_t started_us, int64_t finished_us, struct buf *out, struct err *err)
{
    const struct {
        const char *key;
        int64_t wall_us;
    } times[] = {
        {"created_at", created_us}, {"started_at", started_us}, {"finished_at", finished_us}};
    int result = buf_printf(out, err, "{\"execution_id\":\"%s\",\"status\":\"%s\",", id, status);
    if (result == 0)
        result = put_string(out, "lang", lang, err);
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]) && result == 0; i++) {
        result = buf_append_str(out, ",", err);
        if (result == 0)
            result = put_time(out, times[i].key, times[i].wall_us, err);
    }
    return result == 0 ? buf_append_str(out, "}", err) : result;
}
