/* Owns the form of the execution object: every key of the contract, always. */
#include "core/execution_json.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "wire/json.h"
#include "wire/outcome.h"

static int put_text(struct buf *out, const char *key, const struct buf *text, struct err *err)
{
    int result = buf_printf(out, err, "\"%s\":", key);
    return result == 0 ? json_append_bytes(out, text->data, text->size, err) : result;
}

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

/* What the code said. */
static int put_streams(struct buf *out, const struct execution_streams *streams, bool omit_text,
                       struct err *err)
{
    const struct {
        const char *key;
        const struct buf *text;
    } texts[] = {
        {"stdout", &streams->out}, {"stderr", &streams->err_out}, {"output", &streams->both}};
    int result = 0;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]) && result == 0 && !omit_text; i++) {
        result = put_text(out, texts[i].key, texts[i].text, err);
        if (result == 0)
            result = buf_append_str(out, ",", err);
    }
    if (result == 0)
        result = buf_append_str(out, "\"results\":[", err);
    if (result == 0)
        result = buf_append(out, streams->results.data, streams->results.size, err);
    if (result == 0)
        result = buf_append_str(out, "],\"error\":", err);
    if (result == 0)
        result = streams->error.size > 0
                     ? buf_append(out, streams->error.data, streams->error.size, err)
                     : buf_append_str(out, "null", err);
    return result == 0 ? buf_append_str(out, ",", err) : result;
}

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
        result = put_limits(out, exit->limits_hit, err);
    if (result == 0)
        result = buf_printf(out, err, ",\"state\":%s,\"truncated\":%s", state_text(outcome),
                            outcome->truncated ? "true" : "false");
    return result == 0 ? put_usage(out, outcome, err) : result;
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

int execution_json_whole(const struct buf *object, const struct execution_streams *streams,
                         bool omit_text, struct buf *out, struct err *err)
{
    static const struct execution_streams dropped;
    size_t place = place_of_streams(object);
    int result = buf_append(out, object->data, place, err);
    if (result == 0)
        result = put_streams(out, streams ? streams : &dropped, omit_text, err);
    if (result == 0 && !streams)
        result = buf_append_str(out,
                                "\"note\":\"stdout, stderr, output and results were dropped: newer"
                                " outcomes took the room that is kept for them\",",
                                err);
    return result == 0 ? buf_append(out, object->data + place, object->size - place, err) : result;
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
