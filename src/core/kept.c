/* Owns the table of outcomes that are held for readers, and the budget of all of them. Never loads
 * or frees one: a record goes with its last reader, and leaves the table then. */
#include "core/kept.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/log.h"
#include "core/record.h"

#define LITTLE_BYTES (16U * 1024U) /* that many is no more than a connection takes by itself */

struct kept_entry {
    char id[ID_UUID_SIZE];
    struct record *record; /* no reference; NULL: it is being loaded */
    uint64_t size_bytes;
    struct kept *kept;
    struct kept_entry *next;
};

void kept_init(struct kept *kept, uint64_t max_bytes)
{
    *kept = (struct kept){.max_bytes = max_bytes > 0 ? max_bytes : UINT64_MAX};
    (void)pthread_mutex_init(&kept->lock, NULL);
    (void)pthread_cond_init(&kept->filled, NULL);
}

void kept_done(struct kept *kept)
{
    (void)pthread_cond_destroy(&kept->filled);
    (void)pthread_mutex_destroy(&kept->lock);
}

/* Enters a place that is still to be filled. */
static struct kept_entry *add_locked(struct kept *kept, const char *id, uint64_t size_bytes)
{
    struct kept_entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return NULL;
    (void)snprintf(entry->id, sizeof(entry->id), "%s", id);
    entry->size_bytes = size_bytes;
    entry->kept = kept;
    entry->next = kept->first;
    kept->first = entry;
    kept->held_bytes += size_bytes;
    return entry;
}

static void remove_locked(struct kept_entry *entry)
{
    struct kept_entry **at = &entry->kept->first;
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    entry->kept->held_bytes -= entry->size_bytes;
    free(entry);
}

/* Takes a reference to what is held under an id; waits while it is loaded. */
static struct record *find_locked(struct kept *kept, const char *id)
{
    struct kept_entry *entry = kept->first;
    while (entry) {
        struct record *record = NULL;
        bool same = strcmp(entry->id, id) == 0;
        if (same && !entry->record) {
            (void)pthread_cond_wait(&kept->filled, &kept->lock);
            entry = kept->first;
            continue;
        }
        if (same && (record = record_try_ref(entry->record)))
            return record;
        entry = entry->next;
    }
    return NULL;
}

static bool fits_locked(const struct kept *kept, uint64_t size_bytes)
{
    if (size_bytes <= LITTLE_BYTES || kept->held_bytes == 0)
        return true;
    return kept->held_bytes < kept->max_bytes && size_bytes <= kept->max_bytes - kept->held_bytes;
}

static int say_full(struct err *err)
{
    int result =
        err_public(err, ERR_UNAVAILABLE, "the server holds as many answers as it can; try again");
    if (err)
        err->retry_after_s = 1;
    return result;
}

int kept_open(struct kept *kept, const char *id, uint64_t size_bytes, struct record **out_record,
              struct kept_entry **out_place, struct err *err)
{
    (void)pthread_mutex_lock(&kept->lock);
    struct record *record = find_locked(kept, id);
    bool fits = record || fits_locked(kept, size_bytes);
    struct kept_entry *place = !record && fits ? add_locked(kept, id, size_bytes) : NULL;
    kept->refused += !fits;
    (void)pthread_mutex_unlock(&kept->lock);
    if (!fits)
        return say_full(err);
    if (!record && !place)
        return err_set(err, ERR_INTERNAL, "no memory for the entry of an answer");
    *out_record = record;
    *out_place = place;
    return record ? 0 : 1;
}

/* The last reference to a record was given back. */
static void leave(void *context, struct record *record)
{
    struct kept_entry *entry = context;
    struct kept *kept = entry->kept;
    (void)record;
    (void)pthread_mutex_lock(&kept->lock);
    remove_locked(entry);
    (void)pthread_mutex_unlock(&kept->lock);
}

void kept_fill(struct kept *kept, struct kept_entry *place, struct record *record)
{
    if (record)
        record_on_free(record, leave, place);
    (void)pthread_mutex_lock(&kept->lock);
    place->record = record;
    if (!record)
        remove_locked(place);
    (void)pthread_cond_broadcast(&kept->filled);
    (void)pthread_mutex_unlock(&kept->lock);
}

void kept_enter(struct kept *kept, const char *id, struct record *record, uint64_t size_bytes)
{
    (void)pthread_mutex_lock(&kept->lock);
    struct kept_entry *entry = add_locked(kept, id, size_bytes);
    if (entry) {
        entry->record = record;
        record_on_free(record, leave, entry);
    }
    (void)pthread_mutex_unlock(&kept->lock);
    if (!entry)
        log_error("no memory for the entry of an answer");
}

void kept_figures(struct kept *kept, uint64_t *out_held_bytes, uint64_t *out_refused)
{
    (void)pthread_mutex_lock(&kept->lock);
    *out_held_bytes = kept->held_bytes;
    *out_refused = kept->refused;
    (void)pthread_mutex_unlock(&kept->lock);
}
