/* From the bytes of an archive to files below the root of this process.
 *
 * Reads tar in its forms (v7, ustar, GNU, pax), plain or compressed once by gzip, bzip2, xz or
 * zstd. A leading "/" of a name is dropped, since the root is the target; ".." in a name is
 * refused. Owners, modes with set-user-ID, times, hard and symbolic links, holes and file
 * capabilities are kept; other extended attributes and ACLs are not. Devices, FIFOs and sockets are
 * left out and counted. The first fault ends it: half an image is none.
 *
 * Of a library layer, which is read by sandboxes of many owners, only names and bytes are believed:
 * everything belongs to root and may be read by everybody, and no bit of a mode but "executable"
 * and no attribute is kept. */
#ifndef BERTH_UNPACK_TREE_H
#define BERTH_UNPACK_TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct archive;
struct tree;

struct tree_counts {
    uint64_t entries; /* files and folders that were made, replaced ones too */
    uint64_t bytes;   /* of data and links, in whole blocks; holes are none */
    uint64_t skipped; /* devices, FIFOs, sockets, capabilities that say nothing */
};

/* Prepares reading and writing, and reads nothing of an archive yet. */
int tree_open(uint64_t size_max_bytes, uint64_t entries_max, bool layer, struct tree **out,
              struct err *err);
void tree_free(struct tree *tree);

/* The same of a library layer that is to become a tar again, at out_fd (borrowed), not a folder:
 * with what is believed of it, and nothing else.
 *
 * Whoever unpacks that tar follows links, and takes folders that no entry made as they are. So it
 * clears its place itself (UNPACK_REPACK_ROOT), has an entry for each folder before what lies in
 * it, and a name that was a link, or any file, is no folder later: ERR_BAD_INPUT. */
int tree_open_tar(uint64_t size_max_bytes, uint64_t entries_max, int out_fd, struct tree **out,
                  struct err *err);

/* Writes that tar from the archive behind tar_fd, by no call that takes a path. Errors as below. */
int tree_repack(struct tree *tree, int tar_fd, struct err *err);

/* Unpacks the archive behind tar_fd. ERR_BAD_INPUT and ERR_TOO_LARGE: the archive is at fault;
 * other kinds: this host. The messages hold bytes of the archive. */
int tree_unpack(struct tree *tree, int tar_fd, struct err *err);

/* Where the bytes of a layer come from: as libarchive's archive_read_callback() has it. */
struct tree_source {
    void *context;
    ssize_t (*read)(struct archive *reader, void *context, const void **out_data);
    uint64_t size_bytes; /* as stored */
};

/* One of several archives that lie over each other, from the lowest on: a name takes the place of
 * what is there, only folders are kept below folders. Whiteouts are left out here: tree_hide() has
 * followed them. It may be empty. */
int tree_unpack_layer(struct tree *tree, const struct tree_source *source, struct err *err);

/* Reads a layer once, before it is unpacked, and removes what its whiteouts hide of the layers
 * below (OCI image-spec, layer.md, "Whiteouts"): never what the layer itself brings, wherever in it
 * the two stand. */
int tree_hide(struct tree *tree, const struct tree_source *source, struct err *err);

struct tree_counts tree_counts(const struct tree *tree);

#endif
