/* Owns the folder of compiled programs, and which of them go when it is full. Believes no file: one
 * that is cut, or of another key, is a miss. */
#include "core/compile_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"

enum { NAME_SIZE = 33, ENTRIES_MAX = 4096, TEMP_TRIES = 100 };
#define MAGIC UINT64_C(0x31304d4752504542) /* "BEPRGM01" */
#define BLOCK 4096U                        /* a small file takes a block */

/* A file: this, the key, the program. Of this machine alone, so in its byte order. */
struct head {
    uint64_t magic, key_size, program_size, program_sum;
};

struct entry {
    char name[NAME_SIZE];
    uint64_t bytes;
    int64_t used; /* larger: later */
};

struct compile_cache {
    int folder_fd;
    uint64_t bytes_max;

    /* Rank 0. Guards all that follows; never held while a file is read or written. */
    pthread_mutex_t lock;
    struct entry *entries; /* ENTRIES_MAX of them */
    size_t count;
    uint64_t bytes, hits, misses;
    int64_t clock;
    uint64_t temps; /* names of files that are being written */
};

/* ---- names ---- */

/* Good enough to tell files apart: keys are compared. */
static void name_of(const struct buf *key, char out[static NAME_SIZE])
{
    uint64_t first = hash_add(HASH_BASIS, key->data, key->size);
    uint64_t second = hash_add(hash_add(HASH_BASIS, &first, sizeof(first)), key->data, key->size);
    (void)snprintf(out, NAME_SIZE, "%016" PRIx64 "%016" PRIx64, first, second);
}

static bool is_name(const char *name)
{
    return strlen(name) == NAME_SIZE - 1 && name[strspn(name, "0123456789abcdef")] == '\0';
}

/* ---- the list, with the lock held ---- */

static struct entry *find_locked(struct compile_cache *cache, const char *name)
{
    for (size_t i = 0; i < cache->count; i++) {
        if (memcmp(cache->entries[i].name, name, NAME_SIZE) == 0)
            return &cache->entries[i];
    }
    return NULL;
}

static void drop_locked(struct compile_cache *cache, struct entry *entry)
{
    cache->bytes -= entry->bytes;
    *entry = cache->entries[--cache->count];
}

static void enter_locked(struct compile_cache *cache, const char *name, uint64_t bytes,
                         int64_t used)
{
    struct entry *entry = find_locked(cache, name);
    if (!entry) {
        entry = &cache->entries[cache->count++];
        memcpy(entry->name, name, NAME_SIZE);
        entry->bytes = 0;
    }
    cache->bytes += bytes - entry->bytes;
    entry->bytes = bytes;
    entry->used = used;
}

/* Takes the one least used off the list when there is no room for another one of that size. */
static bool pop_locked(struct compile_cache *cache, uint64_t bytes, char out[static NAME_SIZE])
{
    struct entry *least = cache->entries;
    bool full = cache->count >= ENTRIES_MAX || cache->bytes + bytes > cache->bytes_max;
    if (!full || cache->count == 0)
        return false;
    for (size_t i = 1; i < cache->count; i++) {
        if (cache->entries[i].used < least->used)
            least = &cache->entries[i];
    }
    memcpy(out, least->name, NAME_SIZE);
    drop_locked(cache, least);
    return true;
}

static uint64_t bytes_of(uint64_t size)
{
    return (size + BLOCK - 1) / BLOCK * BLOCK;
}

/* Makes room, then enters it. */
static void enter(struct compile_cache *cache, const char *name, uint64_t bytes, int64_t used)
{
    char gone[NAME_SIZE];
    for (;;) {
        (void)pthread_mutex_lock(&cache->lock);
        if (used == 0)
            used = ++cache->clock;
        struct entry *known = find_locked(cache, name);
        if (known)
            drop_locked(cache, known);
        bool over = pop_locked(cache, bytes, gone);
        if (!over)
            enter_locked(cache, name, bytes, used);
        (void)pthread_mutex_unlock(&cache->lock);
        if (!over)
            return;
        (void)unlinkat(cache->folder_fd, gone, 0);
    }
}

/* ---- files ---- */

static bool read_whole(int fd, void *data, size_t size)
{
    uint8_t *at = data;
    while (size > 0) {
        ssize_t got = read(fd, at, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        at += got;
        size -= (size_t)got;
    }
    return true;
}

static bool read_part(int fd, uint64_t size, size_t size_max, struct buf *out)
{
    uint8_t *place = size <= size_max ? buf_reserve(out, (size_t)size, NULL) : NULL;
    if (!place || !read_whole(fd, place, (size_t)size))
        return false;
    out->size += (size_t)size;
    return true;
}

static bool read_program(const struct compile_cache *cache, const char *name, const struct buf *key,
                         struct buf *out)
{
    struct head head;
    BUF_AUTO struct buf kept;
    buf_init(&kept, COMPILE_CACHE_KEY_MAX);
    FD_AUTO int fd = openat(cache->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || !read_whole(fd, &head, sizeof(head)) || head.magic != MAGIC ||
        head.key_size != key->size || !read_part(fd, head.key_size, COMPILE_CACHE_KEY_MAX, &kept) ||
        memcmp(kept.data, key->data, key->size) != 0)
        return false;
    size_t before = out->size;
    bool good = read_part(fd, head.program_size, COMPILE_CACHE_PROGRAM_MAX, out) &&
                hash_add(HASH_BASIS, out->data + before, out->size - before) == head.program_sum;
    if (!good)
        out->size = before;
    else
        (void)futimens(fd, NULL); /* the next server finds them in this order */
    return good;
}

/* Under another name first, so that it is there whole or not at all. */
static int write_program(struct compile_cache *cache, const char *name, const struct buf *key,
                         const void *program, size_t size, struct err *err)
{
    char temp[NAME_SIZE + 32];
    const struct head head = {.magic = MAGIC,
                              .key_size = key->size,
                              .program_size = size,
                              .program_sum = hash_add(HASH_BASIS, program, size)};
    (void)pthread_mutex_lock(&cache->lock);
    uint64_t number = ++cache->temps;
    (void)pthread_mutex_unlock(&cache->lock);
    (void)snprintf(temp, sizeof(temp), ".new-%" PRIu64, number);
    FD_AUTO int fd =
        openat(cache->folder_fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_sys(err, errno, "open a file for a program");
    int result = fd_write_all(fd, &head, sizeof(head), err);
    if (result == 0)
        result = fd_write_all(fd, key->data, key->size, err);
    if (result == 0)
        result = fd_write_all(fd, program, size, err);
    if (result == 0 && renameat(cache->folder_fd, temp, cache->folder_fd, name) != 0)
        result = err_sys(err, errno, "rename a program");
    if (result != 0)
        (void)unlinkat(cache->folder_fd, temp, 0);
    return result;
}

/* ---- life ---- */

/* One file of an earlier server; what is no program of ours, was never finished, or has
 * no room any more, goes. */
static void find_file(struct compile_cache *cache, const char *name)
{
    struct stat info;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return;
    bool ours = is_name(name) && fstatat(cache->folder_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
                S_ISREG(info.st_mode) && bytes_of((uint64_t)info.st_size) <= cache->bytes_max;
    if (!ours) {
        (void)unlinkat(cache->folder_fd, name, 0);
        return;
    }
    int64_t used = (int64_t)info.st_mtim.tv_sec * 1000000 + info.st_mtim.tv_nsec / 1000;
    if (used > cache->clock)
        cache->clock = used;
    enter(cache, name, bytes_of((uint64_t)info.st_size), used == 0 ? 1 : used);
}

static int find_files(struct compile_cache *cache, struct err *err)
{
    int fd = fcntl(cache->folder_fd, F_DUPFD_CLOEXEC, 0);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (!folder) {
        fd_close(&fd);
        return err_sys(err, errno, "read the folder of compiled programs");
    }
    for (const struct dirent *item; (item = readdir(folder));)
        find_file(cache, item->d_name);
    (void)closedir(folder);
    return 0;
}

int compile_cache_open(const char *folder, uint64_t bytes_max, struct compile_cache **out,
                       struct err *err)
{
    struct compile_cache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return err_set(err, ERR_INTERNAL, "no memory for the compile cache");
    cache->bytes_max = bytes_max;
    (void)pthread_mutex_init(&cache->lock, NULL);
    cache->entries = calloc(ENTRIES_MAX, sizeof(*cache->entries));
    cache->folder_fd = -1;
    int result = cache->entries ? 0 : err_set(err, ERR_INTERNAL, "no memory for the compile cache");
    if (result == 0 && mkdir(folder, 0700) != 0 && errno != EEXIST)
        result = err_sys(err, errno, "make %s", folder);
    if (result == 0) {
        cache->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        result =
            cache->folder_fd < 0 ? err_sys(err, errno, "open %s", folder) : find_files(cache, err);
    }
    if (result != 0) {
        compile_cache_close(cache);
        return result;
    }
    *out = cache;
    return 0;
}

void compile_cache_close(struct compile_cache *cache)
{
    if (!cache)
        return;
    fd_close(&cache->folder_fd);
    free(cache->entries);
    (void)pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* ---- use ---- */

/* A read of the file decides; the list follows it. */
static void count(struct compile_cache *cache, const char *name, bool hit)
{
    (void)pthread_mutex_lock(&cache->lock);
    struct entry *entry = find_locked(cache, name);
    cache->hits += hit;
    cache->misses += !hit;
    if (entry && hit)
        entry->used = ++cache->clock;
    (void)pthread_mutex_unlock(&cache->lock);
}

bool compile_cache_get(struct compile_cache *cache, const struct buf *key, struct buf *out)
{
    char name[NAME_SIZE];
    name_of(key, name);
    bool hit = read_program(cache, name, key, out);
    count(cache, name, hit);
    return hit;
}

void compile_cache_put(struct compile_cache *cache, const struct buf *key, const void *program,
                       size_t size)
{
    char name[NAME_SIZE];
    struct err failure = ERR_INIT;
    uint64_t bytes = bytes_of(sizeof(struct head) + key->size + size);
    if (size == 0 || size > COMPILE_CACHE_PROGRAM_MAX || key->size > COMPILE_CACHE_KEY_MAX ||
        bytes > cache->bytes_max)
        return;
    name_of(key, name);
    if (write_program(cache, name, key, program, size, &failure) != 0) {
        log_warn("a compiled program is not kept: %s", failure.message);
        return;
    }
    enter(cache, name, bytes, 0);
}

void compile_cache_stats(struct compile_cache *cache, struct compile_cache_stats *out)
{
    *out = (struct compile_cache_stats){0};
    if (!cache)
        return;
    (void)pthread_mutex_lock(&cache->lock);
    *out = (struct compile_cache_stats){.hits = cache->hits,
                                        .misses = cache->misses,
                                        .entries = cache->count,
                                        .bytes = cache->bytes};
    (void)pthread_mutex_unlock(&cache->lock);
}
