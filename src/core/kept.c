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
    struct record *record; /* no reference */
    uint64_t size_bytes;
    struct kept *kept;
    struct kept_entry *next;
};

void kept_init(struct kept *kept, uint64_t max_bytes)
{
    *kept = (struct kept){.max_bytes = max_bytes > 0 ? max_bytes : UINT64_MAX};
    (void)pthread_mutex_init(&kept->lock, NULL);
}

void kept_done(struct kept *kept)
{
    (void)pthread_mutex_destroy(&kept->lock);
}

struct record *kept_find(struct kept *kept, const char *id)
{
    struct record *record = NULL;
    (void)pthread_mutex_lock(&kept->lock);
    for (struct kept_entry *entry = kept->first; entry && !record; entry = entry->next) {
        if (strcmp(entry->id, id) == 0)
            record = record_try_ref(entry->record);
    }
    (void)pthread_mutex_unlock(&kept->lock);
    return record;
}

int kept_reserve(struct kept *kept, uint64_t size_bytes, struct err *err)
{
    (void)pthread_mutex_lock(&kept->lock);
    bool fits = size_bytes <= LITTLE_BYTES || (kept->held_bytes < kept->max_bytes &&
                                               size_bytes <= kept->max_bytes - kept->held_bytes);
    if (fits)
        kept->held_bytes += size_bytes;
    else
        kept->refused++;
    (void)pthread_mutex_unlock(&kept->lock);
    if (fits)
        return 0;
    int result =
        err_public(err, ERR_UNAVAILABLE, "the server holds as many answers as it can; try again");
    if (err)
        err->retry_after_s = 1;
    return result;
}

void kept_return(struct kept *kept, uint64_t size_bytes)
{
    (void)pthread_mutex_lock(&kept->lock);
    kept->held_bytes -= size_bytes;
    (void)pthread_mutex_unlock(&kept->lock);
}

/* The last reference to a record was given back. */
static void leave(void *context, struct record *record)
{
    struct kept_entry *entry = context;
    struct kept *kept = entry->kept;
    (void)record;
    (void)pthread_mutex_lock(&kept->lock);
    struct kept_entry **at = &kept->first;
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    kept->held_bytes -= entry->size_bytes;
    (void)pthread_mutex_unlock(&kept->lock);
    free(entry);
}

void kept_enter(struct kept *kept, const char *id, struct record *record, uint64_t size_bytes,
                bool reserved)
{
    struct kept_entry *entry = calloc(1, sizeof(*entry));
    if (!entry) {
        log_error("no memory for the entry of an answer");
        if (reserved)
            kept_return(kept, size_bytes);
        return;
    }
    (void)snprintf(entry->id, sizeof(entry->id), "%s", id);
    entry->record = record;
    entry->size_bytes = size_bytes;
    entry->kept = kept;
    record_on_free(record, leave, entry);
    (void)pthread_mutex_lock(&kept->lock);
    kept->held_bytes += reserved ? 0 : size_bytes;
    entry->next = kept->first;
    kept->first = entry;
    (void)pthread_mutex_unlock(&kept->lock);
}

void kept_figures(struct kept *kept, uint64_t *out_held_bytes, uint64_t *out_refused)
{
    (void)pthread_mutex_lock(&kept->lock);
    *out_held_bytes = kept->held_bytes;
    *out_refused = kept->refused;
    (void)pthread_mutex_unlock(&kept->lock);
}
