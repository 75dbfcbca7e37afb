/* An image from elsewhere into one archive: by skopeo, which runs without any right.
 *
 * skopeo and tar run as an id of their own, in namespaces where they see one folder to write to.
 * What they fetch is hostile: nothing here reads it but the image's configuration, as JSON. */
#ifndef BERTH_CLI_IMAGE_FETCH_H
#define BERTH_CLI_IMAGE_FETCH_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/* Who skopeo runs as: below the ids of sandboxes and of berth-unpack (native/idrange.h). */
#define IMAGE_FETCH_ID ((uid_t)0x6ffeffff)

#define IMAGE_FETCH_FILE "image.tar" /* the outcome, in the work folder */

struct image_fetch {
    const char *source;   /* "docker://…"; of `import`: "oci:DIR", "oci-archive:FILE",
                             "docker-archive:FILE", or a FILE that is one of the two */
    bool local;           /* import */
    bool insecure;        /* plain HTTP and unknown certificates are fine */
    const char *authfile; /* NULL: none */
    int work_fd;          /* a folder of IMAGE_FETCH_ID */
    const char *work_path;
};

/* Fetches; progress goes to standard error. SIGINT and SIGTERM end it, as an error. *out_config is
 * the image's configuration (OCI image-spec, config.md), the caller's. Blocks, for as long as a
 * registry likes. */
int image_fetch_run(const struct image_fetch *fetch, json_t **out_config, struct err *err);

#endif
