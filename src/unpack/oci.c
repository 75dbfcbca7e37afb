/* Owns the way from the archive's index to the bytes of each layer. Believes nothing of the JSON
 * texts but digests, which become names of entries and never of files. */
#include "unpack/oci.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "unpack/tree.h"
#include "wire/json.h"

enum {
    READ_SIZE = 64 * 1024,
    TEXT_MAX = 1 << 20, /* of an index or a manifest */
    LAYERS_MAX = 512,
    HEX_SIZE = 64,
    BLOB_NAME_SIZE = sizeof("blobs/sha256/") + HEX_SIZE,
};

/* One entry of the archive, open for reading. */
struct blob {
    struct archive *outer; /* NULL: closed */
    uint64_t size_bytes;
};

void oci_prepare(void)
{
    json_object_seed(0); /* reads /dev/urandom */
}

static void close_blob(struct blob *blob)
{
    (void)archive_read_free(blob->outer);
    blob->outer = NULL;
}

#define BLOB_AUTO __attribute__((cleanup(close_blob)))

static int fail_outer(struct archive *outer, struct err *err)
{
    const char *text = archive_error_string(outer);
    return err_set(err, ERR_BAD_INPUT, "not an OCI archive that can be read: %s",
                   text ? text : "no reason given");
}

static bool is_named(struct archive_entry *entry, const char *name)
{
    const char *found = archive_entry_pathname(entry);
    if (!found || archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
        return false;
    return strcmp(strncmp(found, "./", 2) == 0 ? found + 2 : found, name) == 0;
}

/* Finds the entry by a look at all headers from the start: there are few, and what lies between
 * them is passed over by seeking. */
static int open_blob(int archive_fd, const char *name, struct blob *out, struct err *err)
{
    struct archive_entry *entry = NULL;
    int status = ARCHIVE_OK;
    out->outer = archive_read_new();
    if (!out->outer)
        return err_set(err, ERR_INTERNAL, "no memory");
    if (lseek(archive_fd, 0, SEEK_SET) != 0)
        return err_set(err, ERR_INTERNAL, "read the archive from its start");
    if (archive_read_support_format_tar(out->outer) != ARCHIVE_OK ||
        archive_read_open_fd(out->outer, archive_fd, READ_SIZE) != ARCHIVE_OK)
        return fail_outer(out->outer, err);
    while ((status = archive_read_next_header(out->outer, &entry)) == ARCHIVE_OK) {
        if (!is_named(entry, name))
            continue;
        la_int64_t size = archive_entry_size(entry);
        out->size_bytes = size > 0 ? (uint64_t)size : 0;
        return 0;
    }
    return status == ARCHIVE_EOF ? err_set(err, ERR_BAD_INPUT, "the OCI archive has no %s", name)
                                 : fail_outer(out->outer, err);
}

/* A small JSON text of the archive. */
static int read_json(int archive_fd, const char *name, struct json_t **out, struct err *err)
{
    BLOB_AUTO struct blob blob = {0};
    struct err inner = ERR_INIT;
    int result = open_blob(archive_fd, name, &blob, err);
    if (result != 0)
        return result;
    if (blob.size_bytes == 0 || blob.size_bytes > TEXT_MAX)
        return err_set(err, ERR_BAD_INPUT, "%s has %" PRIu64 " bytes", name, blob.size_bytes);
    MEM_AUTO uint8_t *text = malloc(blob.size_bytes);
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory");
    if (archive_read_data(blob.outer, text, blob.size_bytes) != (la_ssize_t)blob.size_bytes)
        return fail_outer(blob.outer, err);
    if (json_parse_object(text, blob.size_bytes, out, &inner) != 0)
        return err_set(err, ERR_BAD_INPUT, "%s: %.200s", name, inner.public_message);
    return 0;
}

/* From a descriptor to the entry that it describes. */
static int name_blob(const json_t *descriptor, char out[static BLOB_NAME_SIZE], struct err *err)
{
    static const char algorithm[] = "sha256:";
    const char *digest = json_string_value(json_object_get(descriptor, "digest"));
    const char *hex = digest && strncmp(digest, algorithm, sizeof(algorithm) - 1) == 0
                          ? digest + sizeof(algorithm) - 1
                          : "";
    if (strlen(hex) != HEX_SIZE || strspn(hex, "0123456789abcdef") != HEX_SIZE)
        return err_set(err, ERR_BAD_INPUT, "a digest that is not sha256 and 64 hex digits");
    (void)snprintf(out, BLOB_NAME_SIZE, "blobs/sha256/%s", hex);
    return 0;
}

static bool has_type(const json_t *descriptor, const char *part)
{
    const char *type = json_string_value(json_object_get(descriptor, "mediaType"));
    return type && strstr(type, part);
}

/* The manifest of the only image. */
static int read_manifest(int archive_fd, struct json_t **out, struct err *err)
{
    char name[BLOB_NAME_SIZE];
    JSON_AUTO struct json_t *index = NULL;
    int result = read_json(archive_fd, "index.json", &index, err);
    if (result != 0)
        return result;
    const json_t *manifests = json_object_get(index, "manifests");
    if (json_array_size(manifests) != 1)
        return err_set(err, ERR_BAD_INPUT, "the OCI archive holds %zu images, not one",
                       json_array_size(manifests));
    const json_t *descriptor = json_array_get(manifests, 0);
    if (has_type(descriptor, "image.index") || has_type(descriptor, "manifest.list"))
        return err_set(err, ERR_BAD_INPUT,
                       "the OCI archive holds an image for several kinds of machines; `berth image "
                       "import` takes the one for this");
    result = name_blob(descriptor, name, err);
    return result != 0 ? result : read_json(archive_fd, name, out, err);
}

/* A whole block each time, without holes: what a layer's reader wants. */
static la_ssize_t read_blob(struct archive *reader, void *context, const void **out_data)
{
    struct blob *blob = context;
    size_t size = 0;
    la_int64_t offset = 0;
    int status = ARCHIVE_OK;
    do {
        status = archive_read_data_block(blob->outer, out_data, &size, &offset);
    } while (status == ARCHIVE_OK && size == 0);
    if (status == ARCHIVE_EOF)
        return 0;
    if (status == ARCHIVE_OK)
        return (la_ssize_t)size;
    const char *text = archive_error_string(blob->outer);
    archive_set_error(reader, EILSEQ, "%s", text ? text : "the archive ends");
    return -1;
}

enum pass { PASS_HIDE, PASS_UNPACK };

static int run_pass(struct tree *tree, int archive_fd, const char *name, enum pass pass,
                    struct err *err)
{
    BLOB_AUTO struct blob blob = {0};
    int result = open_blob(archive_fd, name, &blob, err);
    const struct tree_source source = {
        .context = &blob, .read = read_blob, .size_bytes = blob.size_bytes};
    if (result != 0)
        return result;
    return pass == PASS_HIDE ? tree_hide(tree, &source, err)
                             : tree_unpack_layer(tree, &source, err);
}

static int unpack_layer(struct tree *tree, int archive_fd, const json_t *descriptor, bool lowest,
                        struct err *err)
{
    char name[BLOB_NAME_SIZE];
    if (!has_type(descriptor, "tar") || has_type(descriptor, "encrypted"))
        return err_set(err, ERR_BAD_INPUT, "it is no tar that can be read");
    int result = name_blob(descriptor, name, err);
    if (result == 0 && !lowest)
        result = run_pass(tree, archive_fd, name, PASS_HIDE, err);
    return result != 0 ? result : run_pass(tree, archive_fd, name, PASS_UNPACK, err);
}

int oci_unpack(struct tree *tree, int archive_fd, struct err *err)
{
    JSON_AUTO struct json_t *manifest = NULL;
    int result = read_manifest(archive_fd, &manifest, err);
    if (result != 0)
        return result;
    const json_t *layers = json_object_get(manifest, "layers");
    const size_t count = json_array_size(layers);
    if (count == 0 || count > LAYERS_MAX)
        return err_set(err, ERR_BAD_INPUT, "the image has %zu layers, not 1 to %d", count,
                       LAYERS_MAX);
    for (size_t i = 0; result == 0 && i < count; i++) {
        result = unpack_layer(tree, archive_fd, json_array_get(layers, i), i == 0, err);
        if (result != 0)
            return err_wrap(err, "layer %zu of %zu", i + 1, count);
    }
    return result;
}
