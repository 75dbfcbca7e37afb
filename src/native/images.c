/* Owns the table of images and the two children: one that unpacks, one that removes. The folder is
 * looked at again every few seconds; an archive that changes is left alone until it rests. */
#include "native/images.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "native/imagescan.h"
#include "native/imagestore.h"
#include "native/imagewaste.h"
#include "native/unpack.h"

#define SCAN_NS (2 * CLOCK_NS_PER_S)
#define SCAN_FLOOR_NS (CLOCK_NS_PER_S / 5) /* between looks that callers ask for */
#define SETTLE_NS CLOCK_NS_PER_S
#define RETRY_NS (60 * CLOCK_NS_PER_S)

enum { RETRY_AFTER_S = 5, RETRY_AFTER_FAULT_S = 60 };

enum image_state {
    IMAGE_REFUSED,
    IMAGE_FOLDER,
    IMAGE_SETTLING, /* a new or changed archive: may still be written */
    IMAGE_WAITING,
    IMAGE_UNPACKING,
    IMAGE_READY,
    IMAGE_FAILED,  /* the archive's fault, until it changes */
    IMAGE_RETRYING /* this host's fault */
};

struct image_entry {
    struct image_file file;
    enum image_state state;
    char whole[IMAGESTORE_NAME_SIZE]; /* where an archive is or will be unpacked to */
    int64_t due_ns;                   /* SETTLING, RETRYING: not before */
    struct err failure;
};

/* The one archive that is being unpacked. */
struct job {
    struct unpack unpack; /* pid 0: none */
    struct image_key key;
    char whole[IMAGESTORE_NAME_SIZE];
    char partial[IMAGESTORE_NAME_SIZE];
    int64_t deadline_ns;
    bool late; /* killed for its deadline */
};

struct images {
    struct images_config config;
    int epoll_fd;
    struct image_entry *entries;
    size_t count;
    struct image_file *files; /* of the last look */
    bool looked;              /* at least once */
    bool unreadable;          /* said so already */
    int64_t scanned_ns;
    struct job job;
    struct imagewaste waste;
};

/* ---- life ---- */

int images_open(const struct images_config *config, struct images **out, struct err *err)
{
    int result = imagestore_check(config->store_fd, err);
    if (result != 0)
        return result;
    struct images *images = calloc(1, sizeof(*images));
    if (!images)
        return err_set(err, ERR_INTERNAL, "no memory for the images");
    images->config = *config;
    images->job.unpack.pidfd = images->job.unpack.status_fd = -1;
    images->files = calloc(IMAGES_MAX, sizeof(*images->files));
    images->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    imagewaste_init(&images->waste, config->store_fd, images->epoll_fd);
    if (images->files && images->epoll_fd >= 0) {
        *out = images;
        return 0;
    }
    int saved = errno;
    images_free(images);
    return err_sys(err, saved, "make the table of images");
}

void images_free(struct images *images)
{
    if (!images)
        return;
    unpack_kill(&images->job.unpack);
    fd_close(&images->job.unpack.pidfd);
    fd_close(&images->job.unpack.status_fd);
    imagewaste_done(&images->waste);
    fd_close(&images->epoll_fd);
    free(images->files);
    free(images->entries);
    free(images);
}

int images_event_fd(const struct images *images)
{
    return images->epoll_fd;
}

/* ---- the table ---- */

static bool same_key(const struct image_key *a, const struct image_key *b)
{
    return a->device == b->device && a->inode == b->inode && a->size == b->size &&
           a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

static bool same_file(const struct image_file *a, const struct image_file *b)
{
    return strcmp(a->file, b->file) == 0 && a->folder == b->folder &&
           strcmp(a->refused, b->refused) == 0 && (a->folder || same_key(&a->key, &b->key));
}

static void begin_entry(struct images *images, struct image_entry *entry)
{
    if (entry->file.refused[0] != '\0') {
        entry->state = IMAGE_REFUSED;
        log_warn("image %s %s", entry->file.file, entry->file.refused);
        return;
    }
    if (entry->file.folder) {
        entry->state = IMAGE_FOLDER;
        log_info("image %s: a folder", entry->file.name);
        if (entry->file.exposed)
            log_warn(
                "image %s: other users of this host can reach its set-user-ID files, if it has "
                "any: the folder of images should have mode 0700",
                entry->file.name);
        return;
    }
    imagestore_name(&entry->file, entry->whole);
    if (imagestore_has(images->config.store_fd, entry->whole)) {
        entry->state = IMAGE_READY;
        log_info("image %s: unpacked already", entry->file.name);
        return;
    }
    /* What lies there at the start has most likely lain there for long. */
    entry->state = images->looked ? IMAGE_SETTLING : IMAGE_WAITING;
    entry->due_ns = clock_now_ns() + SETTLE_NS;
}

/* Takes over what the look found: entries that did not change keep their state. */
static void merge(struct images *images, size_t found)
{
    struct image_entry *fresh = calloc(found > 0 ? found : 1, sizeof(*fresh));
    if (!fresh) {
        log_warn("images: no memory for a look at the folder");
        return;
    }
    for (size_t i = 0; i < found; i++) {
        const struct image_entry *old = NULL;
        for (size_t j = 0; j < images->count && !old; j++) {
            if (same_file(&images->entries[j].file, &images->files[i]))
                old = &images->entries[j];
        }
        if (old) {
            fresh[i] = *old;
            continue;
        }
        fresh[i].file = images->files[i];
        begin_entry(images, &fresh[i]);
    }
    free(images->entries);
    images->entries = fresh;
    images->count = found;
}

static void promote(struct image_entry *entry, int64_t now)
{
    if ((entry->state == IMAGE_SETTLING || entry->state == IMAGE_RETRYING) && now >= entry->due_ns)
        entry->state = IMAGE_WAITING;
}

static void scan(struct images *images)
{
    size_t found = 0;
    struct err err = ERR_INIT;
    int64_t now = clock_now_ns();
    images->scanned_ns = now;
    if (images->config.folder_fd < 0) {
        images->looked = images->waste.due = true;
        return;
    }
    if (imagescan_read(images->config.folder_fd, images->files, &found, &err) != 0) {
        if (!images->unreadable)
            log_warn("%s", err.message);
        images->unreadable = true;
        return;
    }
    images->unreadable = false;
    if (found == IMAGES_MAX && images->count < IMAGES_MAX)
        log_warn("the folder of images has %d or more, the rest is not used", IMAGES_MAX);
    merge(images, found);
    for (size_t i = 0; i < images->count; i++)
        promote(&images->entries[i], now);
    images->looked = true;
    images->waste.due = true;
}

/* ---- unpacking ---- */

static struct image_entry *find_state(struct images *images, enum image_state state)
{
    for (size_t i = 0; i < images->count; i++) {
        if (images->entries[i].state == state)
            return &images->entries[i];
    }
    return NULL;
}

static void fail_entry(struct image_entry *entry, const struct err *failure)
{
    bool lasting = failure->kind == ERR_BAD_INPUT || failure->kind == ERR_UNSUPPORTED;
    entry->state = lasting ? IMAGE_FAILED : IMAGE_RETRYING;
    entry->due_ns = clock_now_ns() + RETRY_NS;
    entry->failure = *failure;
    log_warn("image %s: %s: %s", entry->file.name, entry->file.file, failure->message);
}

static int start_job(struct images *images, const struct image_entry *entry, struct err *err)
{
    struct job *job = &images->job;
    FD_AUTO int tar_fd = -1;
    FD_AUTO int rootfs_fd = -1;
    int result =
        imagescan_open_tar(images->config.folder_fd, entry->file.file, &tar_fd, &job->key, err);
    if (result == 0 && !same_key(&job->key, &entry->file.key))
        result = err_set(err, ERR_UNAVAILABLE, "it changes");
    if (result == 0)
        result =
            imagestore_begin(images->config.store_fd, entry->whole, job->partial, &rootfs_fd, err);
    if (result != 0)
        return result;
    fault_point("images.begin");
    const struct unpack_config config = {.program_fd = images->config.unpack_fd,
                                         .tar_fd = tar_fd,
                                         .target_fd = rootfs_fd,
                                         .size_max_bytes = images->config.size_max_bytes,
                                         .entries_max = images->config.entries_max,
                                         .oci = entry->file.oci};
    result = unpack_start(&config, &job->unpack, err);
    if (result != 0)
        return result;
    job->deadline_ns = clock_now_ns() + (int64_t)images->config.timeout_s * CLOCK_NS_PER_S;
    job->late = false;
    memcpy(job->whole, entry->whole, sizeof(job->whole));
    imagewaste_watch(&images->waste, job->unpack.pidfd);
    return 0;
}

static void start_next(struct images *images)
{
    struct image_entry *entry = find_state(images, IMAGE_WAITING);
    struct err err = ERR_INIT;
    if (images->job.unpack.pid != 0 || !entry)
        return;
    if (start_job(images, entry, &err) == 0) {
        entry->state = IMAGE_UNPACKING;
        log_info("image %s: unpacking %s", entry->file.name, entry->file.file);
    } else {
        images->job.partial[0] = '\0'; /* waste, if it was made */
        fail_entry(entry, &err);
    }
}

/* What the child unpacked becomes the image, if the archive is still the one that it read. */
static int finish(struct images *images, struct err *err)
{
    struct job *job = &images->job;
    struct image_key key;
    FD_AUTO int tar_fd = -1;
    const struct image_entry *entry = find_state(images, IMAGE_UNPACKING);
    if (!entry ||
        imagescan_open_tar(images->config.folder_fd, entry->file.file, &tar_fd, &key, err) != 0 ||
        !same_key(&key, &job->key))
        return err_set(err, ERR_UNAVAILABLE, "it changed while it was unpacked");
    fault_point("images.commit");
    return imagestore_commit(images->config.store_fd, job->partial, job->whole, err);
}

/* What came of the child that has ended. */
static void end_job(struct images *images, struct image_entry *entry)
{
    struct job *job = &images->job;
    struct err err = ERR_INIT;
    char summary[UNPACK_STATUS_MAX + 1];
    imagewaste_unwatch(&images->waste, job->unpack.pidfd);
    images->waste.due = true;
    int result = unpack_poll(&job->unpack, summary, &err);
    if (result == 0) {
        imagewaste_watch(&images->waste, job->unpack.pidfd); /* not quite */
        return;
    }
    if (result > 0)
        result = finish(images, &err);
    else if (job->late)
        (void)err_public(&err, ERR_BAD_INPUT, "takes longer than %u s to unpack",
                         images->config.timeout_s);
    job->partial[0] = '\0'; /* waste from here on, if it was not renamed */
    if (!entry)
        return;
    if (result != 0) {
        fail_entry(entry, &err);
        return;
    }
    entry->state = IMAGE_READY;
    log_info("image %s: unpacked (entries, bytes, left out: %s)", entry->file.name, summary);
}

static void reap_job(struct images *images)
{
    struct job *job = &images->job;
    struct image_entry *entry = find_state(images, IMAGE_UNPACKING);
    if (job->unpack.pid == 0)
        return;
    if (imagewaste_has_ended(job->unpack.pidfd)) {
        end_job(images, entry);
        return;
    }
    job->late = entry && clock_now_ns() >= job->deadline_ns;
    if (job->late || !entry)
        unpack_kill(&job->unpack); /* too late, or the archive changed or vanished */
}

/* ---- removing ---- */

static bool is_wanted(const char *name, const void *context)
{
    const struct images *images = context;
    if (strcmp(name, images->job.partial) == 0)
        return true;
    for (size_t i = 0; i < images->count; i++) {
        if (strcmp(name, images->entries[i].whole) == 0)
            return true;
    }
    return false;
}

static void remove_waste(struct images *images)
{
    /* Without a look at the folder nothing is known to be waste. */
    if (images->looked && !images->unreadable)
        imagewaste_start(&images->waste, is_wanted, images);
}

/* When the folder is to be looked at: every now and then, and when a new archive had time to rest.
 */
static int64_t next_scan(const struct images *images)
{
    if (images->scanned_ns == 0)
        return 0;
    int64_t next = images->scanned_ns + SCAN_NS;
    for (size_t i = 0; i < images->count; i++) {
        const struct image_entry *entry = &images->entries[i];
        if (entry->state == IMAGE_SETTLING && entry->due_ns < next)
            next = entry->due_ns;
    }
    return next;
}

int64_t images_step(struct images *images)
{
    reap_job(images);
    imagewaste_reap(&images->waste);
    if (clock_now_ns() >= next_scan(images))
        scan(images);
    start_next(images);
    remove_waste(images);
    int64_t next = next_scan(images);
    if (images->job.unpack.pid != 0 && images->job.deadline_ns < next && !images->job.late)
        next = images->job.deadline_ns;
    return next;
}

/* ---- what callers ask ---- */

static struct image_entry *find_name(struct images *images, const char *name)
{
    for (size_t i = 0; i < images->count; i++) {
        if (strcmp(images->entries[i].file.name, name) == 0)
            return &images->entries[i];
    }
    return NULL;
}

static int fail_unknown(const struct images *images, const char *name, struct err *err)
{
    char names[160];
    if (!id_is_name(name, IMAGE_NAME_MAX))
        return err_public(err, ERR_BAD_INPUT,
                          "image: a name has 1 to %d of the characters a-z, 0-9 and -",
                          IMAGE_NAME_MAX);
    images_names(images, names, sizeof(names));
    return err_public(err, ERR_BAD_INPUT, "image \"%s\" is not known; there is: host%s%s", name,
                      names[0] != '\0' ? " " : "", names);
}

static int fail_later(const struct image_entry *entry, struct err *err)
{
    bool fault = entry->state == IMAGE_RETRYING;
    int result = err_public(err, ERR_UNAVAILABLE, "image \"%s\" %s", entry->file.name,
                            fault ? "could not be unpacked on this host and will be tried again"
                                  : "is being unpacked");
    if (err)
        err->retry_after_s = fault ? RETRY_AFTER_FAULT_S : RETRY_AFTER_S;
    return result;
}

static int take_folder(struct images *images, const struct image_entry *entry,
                       struct image_folder *out, struct err *err)
{
    struct err failure = ERR_INIT;
    int root_fd = -1;
    int result =
        imagescan_open_folder(images->config.folder_fd, entry->file.file, &root_fd, &failure);
    if (result != 0)
        return err_public(err, ERR_BAD_INPUT, "image \"%s\" %s", entry->file.name,
                          failure.public_message[0] != '\0' ? failure.public_message
                                                            : "can't be opened");
    *out = (struct image_folder){.root_fd = root_fd, .lock_fd = -1};
    return 0;
}

static int take_unpacked(struct images *images, struct image_entry *entry, struct image_folder *out,
                         struct err *err)
{
    struct image_folder folder = {.root_fd = -1, .lock_fd = -1};
    int result = imagestore_take(images->config.store_fd, entry->whole, &folder.root_fd,
                                 &folder.lock_fd, err);
    if (result == 0) {
        *out = folder;
        return 0;
    }
    if (imagestore_has(images->config.store_fd, entry->whole))
        return result;
    /* Somebody cleaned up by hand: once more, then. */
    entry->state = IMAGE_WAITING;
    return fail_later(entry, err);
}

int images_take(struct images *images, const char *name, struct image_folder *out, struct err *err)
{
    struct image_entry *entry = find_name(images, name);
    if (!entry && clock_now_ns() >= images->scanned_ns + SCAN_FLOOR_NS) {
        scan(images); /* it may just have come */
        entry = find_name(images, name);
    }
    if (!entry || name[0] == '\0')
        return fail_unknown(images, name, err);
    switch (entry->state) {
    case IMAGE_FOLDER:
        return take_folder(images, entry, out, err);
    case IMAGE_READY:
        return take_unpacked(images, entry, out, err);
    case IMAGE_REFUSED:
        return err_public(err, ERR_BAD_INPUT, "image \"%s\": %s %s", name, entry->file.file,
                          entry->file.refused);
    case IMAGE_FAILED:
        return err_public(err, entry->failure.kind, "image \"%s\": %.100s: %.200s", name,
                          entry->file.file, entry->failure.public_message);
    case IMAGE_SETTLING:
    case IMAGE_WAITING:
    case IMAGE_UNPACKING:
    case IMAGE_RETRYING:
        break;
    }
    return fail_later(entry, err);
}

void images_names(const struct images *images, char *out, size_t size)
{
    size_t used = 0;
    if (size == 0)
        return;
    out[0] = '\0';
    for (size_t i = 0; i < images->count; i++) {
        const struct image_entry *entry = &images->entries[i];
        size_t length = strlen(entry->file.name);
        if (entry->state == IMAGE_REFUSED || entry->state == IMAGE_FAILED)
            continue;
        if (used + length + 2 > size)
            return;
        (void)snprintf(out + used, size - used, "%s%s", used > 0 ? " " : "", entry->file.name);
        used += length + (used > 0 ? 1 : 0);
    }
}
