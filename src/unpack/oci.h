/* From an OCI image layout in a tar (OCI image-spec, image-layout.md) to the files of its layers.
 *
 * The layout holds one image: index.json names one manifest, that one its layers, each a tar of its
 * own below blobs/sha256/. They are unpacked one over the other, with whiteouts. Digests are not
 * checked again: whoever made the archive (`berth image`) did. */
#ifndef BERTH_UNPACK_OCI_H
#define BERTH_UNPACK_OCI_H

#include "base/err.h"

struct tree;

/* What reads files of the host: to be called before the cage is closed. */
void oci_prepare(void);

/* Unpacks the image in archive_fd, a plain tar that can be read again from its start. Errors as of
 * tree_unpack(); they say which layer. */
int oci_unpack(struct tree *tree, int archive_fd, struct err *err);

#endif
