/* A checksum that tells bytes apart and stops no forger: FNV-1a of 64 bits
 * (draft-eastlake-fnv, http://www.isthe.com/chongo/tech/comp/fnv/). */
#ifndef BERTH_BASE_HASH_H
#define BERTH_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_BASIS UINT64_C(0xcbf29ce484222325)

/* Goes on from hash, which is HASH_BASIS at first. */
uint64_t hash_add(uint64_t hash, const void *data, size_t size);

#endif
