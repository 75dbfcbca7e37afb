/* Owns the logs of held executions, and who reads them. */
#include "init/held.h"

#include <errno.h>
#include <string.h>

#include "wire/tlv.h"

enum { HEADER_SIZE = 4, TYPE_SHIFT = 26, PART_SHIFT = 24, SIZE_MASK = 0xffffff };
#define ROOM_MIN (1U << 20)       /* for another log */
#define BACKLOG_MAX (64U * 1024U) /* of a reader: past it the code waits */
_Static_assert((unsigned)FRAME_DATA_MAX <= (unsigned)SIZE_MASK, "an event's size fits");
_Static_assert((unsigned)FRAME_TYPE_COUNT <= 63U, "an event's type fits");

struct event {
    enum frame_type type;
    enum frame_stream part;
    const uint8_t *data;
    size_t size;
};

void held_init(struct held_table *table)
{
    memset(table, 0, sizeof(*table));
}

static struct held *find(struct held_table *table, const char *execution_id)
{
    for (size_t i = 0; i < HELD_MAX; i++) {
        struct held *held = &table->entries[i];
        if (held->used && strcmp(held->execution_id, execution_id) == 0)
            return held;
    }
    return NULL;
}

static const char *refusal(struct held_table *table, const char *execution_id)
{
    size_t ended = 0;
    size_t used = 0;
    for (size_t i = 0; i < HELD_MAX; i++) {
        used += table->entries[i].used;
        ended += table->entries[i].used && table->entries[i].ended;
    }
    if (execution_id[0] == '\0')
        return "a held execution needs an id";
    if (find(table, execution_id))
        return "an execution with this id is held already";
    if (ended >= SANDBOX_HELD_MAX || used >= HELD_MAX || !held_has_room(table, ROOM_MIN))
        return "too many executions are held; forget some";
    return NULL;
}

struct held *held_open(struct held_table *table, const char *execution_id, struct buf *out,
                       uint32_t stream, const char **why)
{
    struct held *held = table->entries;
    *why = refusal(table, execution_id);
    if (*why)
        return NULL;
    while (held->used)
        held++;
    memset(held, 0, sizeof(*held));
    held->used = true;
    memcpy(held->execution_id, execution_id, strlen(execution_id)); /* the decoder looked */
    buf_init(&held->log, HELD_BYTES_MAX + FRAME_DATA_MAX + HEADER_SIZE);
    buf_init(&held->end, FRAME_PAYLOAD_MAX);
    outlet_open(&held->outlet, out, stream);
    return held;
}

void held_close(struct held_table *table, struct held *held)
{
    table->bytes -= held->log.size;
    buf_done(&held->log);
    buf_done(&held->end);
    memset(held, 0, sizeof(*held));
}

struct held *held_find(struct held_table *table, const char *execution_id)
{
    struct held *held = find(table, execution_id);
    return held && held->begun ? held : NULL;
}

struct held *held_find_stream(struct held_table *table, const struct buf *out, uint32_t stream)
{
    for (size_t i = 0; i < HELD_MAX; i++) {
        struct held *held = &table->entries[i];
        if (held->used && outlet_is(&held->outlet, out, stream))
            return held;
    }
    return NULL;
}

/* ---- events ---- */

static uint32_t header_of(enum frame_type type, enum frame_stream part, size_t size)
{
    return (uint32_t)type << TYPE_SHIFT | (uint32_t)part << PART_SHIFT | (uint32_t)size;
}

static struct event event_at(const struct held *held, size_t offset)
{
    uint32_t header = tlv_load_u32(held->log.data + offset);
    return (struct event){.type = (enum frame_type)(header >> TYPE_SHIFT),
                          .part = (enum frame_stream)(header >> PART_SHIFT & 3),
                          .data = held->log.data + offset + HEADER_SIZE,
                          .size = header & SIZE_MASK};
}

bool held_has_room(const struct held_table *table, size_t size)
{
    size_t pieces = size / FRAME_DATA_MAX + 1;
    return table->bytes + size + pieces * HEADER_SIZE <= HELD_BYTES_MAX;
}

/* A message's pieces stay as they are: their kinds say where it ends. */
static bool join_last(struct held *held, enum frame_type type, enum frame_stream part,
                      const void *data, size_t size)
{
    if (held->events == 0 || held->last < held->sealed || type != FRAME_DATA)
        return false;
    struct event last = event_at(held, held->last);
    if (last.type != type || last.part != part || last.size + size > FRAME_DATA_MAX ||
        buf_append(&held->log, data, size, NULL) != 0)
        return false;
    tlv_store_u32(held->log.data + held->last, header_of(type, part, last.size + size));
    return true;
}

bool held_append(struct held_table *table, struct held *held, enum frame_type type,
                 enum frame_stream part, const void *data, size_t size)
{
    size_t before = held->log.size;
    if (!held_has_room(table, size))
        return false;
    if (!join_last(held, type, part, data, size)) {
        uint8_t *room = buf_reserve(&held->log, HEADER_SIZE + size, NULL);
        if (!room)
            return false;
        tlv_store_u32(room, header_of(type, part, size));
        memcpy(room + HEADER_SIZE, data, size);
        held->log.size += HEADER_SIZE + size;
        held->last = before;
        held->events++;
    }
    table->bytes += held->log.size - before;
    return true;
}

void held_end(struct held *held, const void *exit_payload, size_t size)
{
    held->ended = buf_append(&held->end, exit_payload, size, NULL) == 0;
}

/* ---- readers ---- */

bool held_is_behind(const struct held *held)
{
    return held->outlet.out && held->log.size - held->next >= BACKLOG_MAX;
}

int held_attach(struct held *held, struct buf *out, uint32_t stream, uint64_t after)
{
    size_t next = 0;
    if (after > held->events)
        return EINVAL;
    for (uint64_t i = 0; i < after; i++)
        next += HEADER_SIZE + event_at(held, next).size;
    /* Who says that they have an event has got it. */
    if (next > held->sealed)
        held->sealed = next;
    outlet_send_done(&held->outlet, ECANCELED, 0);
    outlet_open(&held->outlet, out, stream);
    held->said_started = false;
    held->next = next;
    return 0;
}

void held_detach(struct held_table *table, const struct buf *out)
{
    for (size_t i = 0; i < HELD_MAX; i++) {
        struct held *held = &table->entries[i];
        if (held->used && held->outlet.out == out)
            outlet_close(&held->outlet);
    }
}

static void send_events(struct held *held)
{
    if (held->started && !held->said_started) {
        outlet_send(&held->outlet, FRAME_STARTED, STREAM_CONTROL, NULL, 0);
        held->said_started = true;
    }
    while (held->next < held->log.size && outlet_has_room(&held->outlet)) {
        struct event event = event_at(held, held->next);
        if (held->outlet.credit[event.part] < event.size)
            return;
        outlet_send(&held->outlet, event.type, event.part, event.data, event.size);
        held->next += HEADER_SIZE + event.size;
        if (held->next > held->sealed)
            held->sealed = held->next;
    }
}

void held_step(struct held_table *table)
{
    for (size_t i = 0; i < HELD_MAX; i++) {
        struct held *held = &table->entries[i];
        if (!held->used || !held->outlet.out)
            continue;
        send_events(held);
        if (!held->ended || held->next < held->log.size)
            continue;
        outlet_send(&held->outlet, FRAME_CLOSE, STREAM_STDOUT, NULL, 0);
        outlet_send(&held->outlet, FRAME_CLOSE, STREAM_STDERR, NULL, 0);
        outlet_send(&held->outlet, FRAME_EXIT, STREAM_CONTROL, held->end.data, held->end.size);
        outlet_close(&held->outlet);
    }
}

bool held_may_send(const struct held_table *table)
{
    for (size_t i = 0; i < HELD_MAX; i++) {
        const struct held *held = &table->entries[i];
        if (!held->used || !outlet_has_room(&held->outlet) || held->next == held->log.size)
            continue;
        struct event event = event_at(held, held->next);
        if (held->outlet.credit[event.part] >= event.size)
            return true;
    }
    return false;
}
