/* What is known of an image beside its files: the text NAME.json, and the table of `berth image
 * ls`.
 */
#ifndef BERTH_CLI_IMAGE_SHOW_H
#define BERTH_CLI_IMAGE_SHOW_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "cli/image_folder.h"

/* The text to lie beside the archive: source, when it was fetched, and of the configuration (OCI
 * image-spec, config.md) what starts it. Heap, the caller's; NULL: no memory. */
char *image_show_info(const char *source, const json_t *config, uint64_t size_bytes);

/* Prints all images of the folder, as a table or as JSON. */
int image_show_list(const struct image_folder *folder, bool as_json, struct err *err);

#endif
