/* Compiled programs, kept from one execution to the next by all that they were made from, in files
 * of one folder that belongs to the server.
 *
 * A program is the word of the code that it was compiled from, so a key has to name its owner: it
 * is given back to him alone. The whole key lies in the file beside the program and is compared, so
 * that nothing hangs on how a file is named. Thread-safe. */
#ifndef BERTH_CORE_COMPILE_CACHE_H
#define BERTH_CORE_COMPILE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define COMPILE_CACHE_PROGRAM_MAX (16U << 20) /* a larger one is not kept */
#define COMPILE_CACHE_KEY_MAX (1U << 20)      /* nor one of a longer key */

struct compile_cache;

/* Opens the folder, makes it when it is missing, and finds what an earlier server left in it.
 * bytes_max: of all files, beyond which the ones least used go first. */
int compile_cache_open(const char *folder, uint64_t bytes_max, struct compile_cache **out,
                       struct err *err);
/* NULL is allowed. The files stay. */
void compile_cache_close(struct compile_cache *cache);

/* Appends the program of that key. False: there is none. Reads a file. */
bool compile_cache_get(struct compile_cache *cache, const struct buf *key, struct buf *out);
/* Keeps a program, in the place of one of the same key; a failure is logged. Writes a file. */
void compile_cache_put(struct compile_cache *cache, const struct buf *key, const void *program,
                       size_t size);

struct compile_cache_stats {
    uint64_t hits, misses, entries, bytes;
};
/* NULL: zeros. */
void compile_cache_stats(struct compile_cache *cache, struct compile_cache_stats *out);

#endif
