/* Owns the archive's two ends: libarchive's reader and its writer. Trusts no field of an entry. The
 * first fence around what it writes is the root of this process; the writer's own rules are the
 * second. */
#include "unpack/tree.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"
#include "unpack/names.h"
#include "unpack/whiteout.h"
#include "wire/unpack_status.h"

enum {
    READ_SIZE = 64 * 1024,
    BLOCK_SIZE = 4096, /* how data is counted: a million files of one byte are 4 GB on a disk */
    ID_MAX = 65535,
    FILTERS_MAX = 2, /* libarchive counts the plain bytes as one */
    LAYER_PARTS_MAX = 128,
};

static const char capability_name[] = "security.capability";

struct tree {
    struct archive *reader;
    struct archive *writer;
    uint64_t size_max_bytes;
    uint64_t entries_max;
    bool layer;
    struct tree_counts counts;
    uint64_t number;     /* of the entry at hand, from 1 */
    char path[PATH_MAX]; /* its name, cleaned; "" is the root */
    bool half_passed;
    bool layered;       /* one of several: what it names takes the place of what is there */
    int tar_fd;         /* what is read becomes a tar there; -1: files */
    struct names names; /* in that tar */
};

void tree_free(struct tree *tree)
{
    if (!tree)
        return;
    (void)archive_read_free(tree->reader);
    (void)archive_write_free(tree->writer);
    names_done(&tree->names);
    free(tree);
}

/* The end that writes. */
static bool open_writer(struct tree *tree)
{
    if (tree->tar_fd >= 0) {
        tree->writer = archive_write_new();
        return tree->writer &&
               archive_write_set_format_pax_restricted(tree->writer) == ARCHIVE_OK &&
               archive_write_open_fd(tree->writer, tree->tar_fd) == ARCHIVE_OK;
    }
    tree->writer = archive_write_disk_new();
    return tree->writer &&
           archive_write_disk_set_options(
               tree->writer, ARCHIVE_EXTRACT_OWNER | ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME |
                                 ARCHIVE_EXTRACT_XATTR | ARCHIVE_EXTRACT_SECURE_NODOTDOT |
                                 ARCHIVE_EXTRACT_SECURE_SYMLINKS |
                                 ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS) == ARCHIVE_OK;
}

/* Both ends anew, for one archive; what was counted stays. */
static int open_ends(struct tree *tree, struct err *err)
{
    (void)archive_read_free(tree->reader);
    (void)archive_write_free(tree->writer);
    tree->reader = archive_read_new();
    tree->writer = NULL;
    tree->number = 0;
    struct archive *reader = tree->reader;
    if (!reader || archive_read_support_format_tar(reader) != ARCHIVE_OK ||
        archive_read_support_filter_gzip(reader) != ARCHIVE_OK ||
        archive_read_support_filter_bzip2(reader) != ARCHIVE_OK ||
        archive_read_support_filter_xz(reader) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(reader) != ARCHIVE_OK || !open_writer(tree))
        return err_set(err, ERR_INTERNAL, "libarchive does not read tar with all its filters");
    return 0;
}

static int open_tree(uint64_t size_max_bytes, uint64_t entries_max, bool layer, int tar_fd,
                     struct tree **out, struct err *err)
{
    struct tree *tree = calloc(1, sizeof(*tree));
    if (!tree)
        return err_set(err, ERR_INTERNAL, "no memory");
    /* Names in pax headers are UTF-8 and stay so. Loaded now: later nothing can be. */
    (void)setlocale(LC_CTYPE, "C.UTF-8");
    (void)umask(022);
    tree->size_max_bytes = size_max_bytes;
    tree->entries_max = entries_max;
    tree->layer = layer;
    tree->tar_fd = tar_fd;
    int result = open_ends(tree, err);
    if (result != 0) {
        tree_free(tree);
        return result;
    }
    *out = tree;
    return 0;
}

int tree_open(uint64_t size_max_bytes, uint64_t entries_max, bool layer, struct tree **out,
              struct err *err)
{
    return open_tree(size_max_bytes, entries_max, layer, -1, out, err);
}

int tree_open_tar(uint64_t size_max_bytes, uint64_t entries_max, int out_fd, struct tree **out,
                  struct err *err)
{
    return open_tree(size_max_bytes, entries_max, true, out_fd, out, err);
}

struct tree_counts tree_counts(const struct tree *tree)
{
    return tree->counts;
}

/* ---- what went wrong ----
 *
 * Of a long name the beginning is said: the reason comes after it. */

static int fail_read(const struct tree *tree, struct err *err)
{
    const char *text = archive_error_string(tree->reader);
    int sys_errno = archive_errno(tree->reader);
    if (sys_errno == EIO)
        return err_set(err, ERR_INTERNAL, "read the archive: %s", text ? text : "no reason given");
    if (sys_errno == ENOMEM)
        return err_set(err, ERR_TOO_LARGE, "after %" PRIu64 " entries: needs too much memory",
                       tree->number);
    if (tree->number == 0)
        return err_set(err, ERR_BAD_INPUT, "not a tar that can be read: %s",
                       text ? text : "no reason given");
    return err_set(err, ERR_BAD_INPUT, "after %" PRIu64 " entries: %s", tree->number,
                   text ? text : "no reason given");
}

static bool is_host_fault(int sys_errno)
{
    return sys_errno == ENOSPC || sys_errno == EDQUOT || sys_errno == EIO || sys_errno == EROFS;
}

static int fail_write(const struct tree *tree, struct err *err)
{
    const char *text = archive_error_string(tree->writer);
    return err_set(err, is_host_fault(archive_errno(tree->writer)) ? ERR_INTERNAL : ERR_BAD_INPUT,
                   "entry %" PRIu64 " (%.100s): %s", tree->number, tree->path,
                   text ? text : "can't be written");
}

static int refuse(const struct tree *tree, const char *reason, struct err *err)
{
    return err_set(err, ERR_BAD_INPUT, "entry %" PRIu64 " (%.100s): %s", tree->number, tree->path,
                   reason);
}

/* ---- limits ---- */

static int charge_entry(struct tree *tree, struct err *err)
{
    if (tree->counts.entries >= tree->entries_max)
        return err_set(err, ERR_TOO_LARGE, "more than %" PRIu64 " files and folders",
                       tree->entries_max);
    tree->counts.entries++;
    return 0;
}

static int charge_bytes(struct tree *tree, uint64_t size, struct err *err)
{
    uint64_t left = tree->size_max_bytes - tree->counts.bytes;
    if (size > left || (size + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE > left)
        return err_set(err, ERR_TOO_LARGE, "more than %" PRIu64 " bytes when unpacked",
                       tree->size_max_bytes);
    tree->counts.bytes += (size + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
    return 0;
}

/* Folders that a name needs and no entry made count as well: a thousand names can ask for a million
 * of them. */
static int charge_parents(struct tree *tree, struct err *err)
{
    char parent[PATH_MAX];
    struct stat info;
    memcpy(parent, tree->path, sizeof(parent));
    for (char *slash = strrchr(parent, '/'); slash; slash = strrchr(parent, '/')) {
        *slash = '\0';
        if (fstatat(AT_FDCWD, parent, &info, AT_SYMLINK_NOFOLLOW) == 0)
            return 0;
        int result = charge_entry(tree, err);
        if (result != 0)
            return result;
    }
    return 0;
}

/* ---- one entry ---- */

/* Writes name without leading, doubled and trailing slashes and without "." to out; "" is the root.
 * Returns what is wrong with it, or NULL. */
static const char *clean_path(const char *name, char out[static PATH_MAX])
{
    size_t size = 0;
    while (*name != '\0') {
        size_t part = strcspn(name, "/");
        if (part == 2 && strncmp(name, "..", 2) == 0)
            return "\"..\" in a name";
        if (part > NAME_MAX)
            return "a name with a part of more than 255 bytes";
        if (part > 0 && !(part == 1 && name[0] == '.')) {
            if (size + part + 2 > PATH_MAX)
                return "a name of more than 4095 bytes";
            if (size > 0)
                out[size++] = '/';
            memcpy(out + size, name, part);
            size += part;
        }
        name += part;
        name += *name == '/' ? 1 : 0;
    }
    out[size] = '\0';
    return NULL;
}

/* libarchive looks at each part of a name on its way from the root: 10 ms for one of 2,000, while
 * the layers of others wait. Nobody's libraries lie that deep. */
static bool is_too_deep(const struct tree *tree, const char *path)
{
    size_t parts = 1;
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/'))
        parts++;
    return tree->layer && parts > LAYER_PARTS_MAX;
}

static int clean_names(struct tree *tree, struct archive_entry *entry, struct err *err)
{
    char cleaned[PATH_MAX];
    const char *name = archive_entry_pathname(entry);
    const char *link = archive_entry_hardlink(entry);
    if (!name)
        return refuse(tree, "no name that can be read", err);
    const char *wrong = clean_path(name, cleaned);
    if (wrong) {
        (void)snprintf(tree->path, sizeof(tree->path), "%.64s", name);
        return refuse(tree, wrong, err);
    }
    memcpy(tree->path, cleaned, sizeof(tree->path));
    archive_entry_set_pathname(entry, cleaned);
    if (is_too_deep(tree, cleaned))
        return refuse(tree, "a name of more than 128 parts", err);
    if (link) {
        wrong = clean_path(link, cleaned);
        if (!wrong && is_too_deep(tree, cleaned))
            wrong = "too deep";
        if (wrong || cleaned[0] == '\0')
            return refuse(tree,
                          wrong ? "a hard link to a name with \"..\", or too long"
                                : "a hard link to the root",
                          err);
        archive_entry_set_hardlink(entry, cleaned);
    }
    return 0;
}

/* Version 2, or version 3 for the root of the image itself (linux/capability.h, capabilities(7)).
 */
static bool is_capability(const uint8_t *value, size_t size)
{
    static const uint8_t no_root[4];
    return (size == 20 && value[3] == 2) ||
           (size == 24 && value[3] == 3 && memcmp(value + 20, no_root, 4) == 0);
}

/* Leaves the entry no extended attribute but a file capability, and no ACL. */
static void filter_attributes(struct tree *tree, struct archive_entry *entry)
{
    uint8_t kept[24];
    size_t kept_size = 0;
    const char *name = NULL;
    const void *value = NULL;
    size_t size = 0;
    (void)archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
        if (!name || strcmp(name, capability_name) != 0)
            continue;
        if (value && !tree->layer && archive_entry_filetype(entry) == AE_IFREG &&
            is_capability(value, size)) {
            memcpy(kept, value, size);
            kept_size = size;
        } else {
            tree->counts.skipped++;
        }
    }
    archive_entry_xattr_clear(entry);
    archive_entry_acl_clear(entry);
    if (kept_size > 0)
        archive_entry_xattr_add_entry(entry, capability_name, kept, kept_size);
}

static int check_owner(const struct tree *tree, struct archive_entry *entry, struct err *err)
{
    la_int64_t uid = archive_entry_uid(entry);
    la_int64_t gid = archive_entry_gid(entry);
    if (uid >= 0 && uid <= ID_MAX && gid >= 0 && gid <= ID_MAX)
        return 0;
    return err_set(err, ERR_BAD_INPUT,
                   "entry %" PRIu64 " (%.100s): owner %" PRId64 ":%" PRId64
                   ", an image has ids from 0 to %d",
                   tree->number, tree->path, (int64_t)uid, (int64_t)gid, ID_MAX);
}

/* Whoever built it may not be who reads it. */
static void make_public(struct archive_entry *entry)
{
    mode_t mode = archive_entry_perm(entry);
    bool executable = archive_entry_filetype(entry) == AE_IFDIR || (mode & 0111) != 0;
    archive_entry_set_perm(entry, executable ? 0755 : 0644);
    archive_entry_set_uid(entry, 0);
    archive_entry_set_gid(entry, 0);
    archive_entry_set_uname(entry, NULL);
    archive_entry_set_gname(entry, NULL);
}

/* Into a tar: holes are zeros there. */
static int copy_plain_data(struct tree *tree, struct err *err)
{
    static char bytes[READ_SIZE];
    for (;;) {
        la_ssize_t size = archive_read_data(tree->reader, bytes, sizeof(bytes));
        if (size == 0)
            return 0;
        if (size < 0)
            return fail_read(tree, err);
        int result = charge_bytes(tree, (uint64_t)size, err);
        if (result != 0)
            return result;
        if (archive_write_data(tree->writer, bytes, (size_t)size) != size)
            return fail_write(tree, err);
    }
}

static int copy_data(struct tree *tree, struct err *err)
{
    for (;;) {
        const void *data = NULL;
        size_t size = 0;
        la_int64_t offset = 0;
        int status = archive_read_data_block(tree->reader, &data, &size, &offset);
        if (status == ARCHIVE_EOF)
            return 0;
        if (status != ARCHIVE_OK)
            return fail_read(tree, err);
        if (offset < 0 || (uint64_t)offset > tree->size_max_bytes)
            return refuse(tree, "data past the largest size", err);
        int result = charge_bytes(tree, size, err);
        if (result != 0)
            return result;
        if (archive_write_data_block(tree->writer, data, size, offset) != ARCHIVE_OK)
            return fail_write(tree, err);
    }
}

/* A folder, or an empty file, of nobody's making, below the root of the tar; "" is that root. */
static int put_own(struct tree *tree, const char *path, mode_t type, struct err *err)
{
    char name[sizeof(UNPACK_REPACK_ROOT) + PATH_MAX];
    struct archive_entry *entry = archive_entry_new();
    if (!entry)
        return err_set(err, ERR_INTERNAL, "no memory for an entry");
    (void)snprintf(name, sizeof(name), UNPACK_REPACK_ROOT "%s%s", *path != '\0' ? "/" : "", path);
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, type);
    archive_entry_set_size(entry, 0);
    make_public(entry);
    int result =
        archive_write_header(tree->writer, entry) == ARCHIVE_OK ? 0 : fail_write(tree, err);
    archive_entry_free(entry);
    return result;
}

/* The folders that the name at hand lies in. */
static int put_parents(struct tree *tree, struct err *err)
{
    char parent[PATH_MAX];
    int result = 0;
    memcpy(parent, tree->path, sizeof(parent));
    char *last = strrchr(parent, '/');
    if (!last)
        return 0;
    *last = '\0';
    if (names_kind(&tree->names, parent) == NAMES_FOLDER)
        return 0;
    *last = '/';
    for (char *slash = strchr(parent, '/'); result == 0 && slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        enum names_kind kind = names_kind(&tree->names, parent);
        if (kind == NAMES_OTHER)
            return refuse(tree, "it lies below a name that is no folder", err);
        if (kind == NAMES_NONE)
            result = charge_entry(tree, err);
        if (kind == NAMES_NONE && result == 0)
            result = names_add(&tree->names, parent, true, err);
        if (kind == NAMES_NONE && result == 0)
            result = put_own(tree, parent, AE_IFDIR, err);
        *slash = '/';
    }
    return result;
}

/* Puts an entry in its place in the tar. */
static int place(struct tree *tree, struct archive_entry *entry, struct err *err)
{
    char name[sizeof(UNPACK_REPACK_ROOT) + PATH_MAX];
    const char *link = archive_entry_hardlink(entry);
    bool is_folder = !link && archive_entry_filetype(entry) == AE_IFDIR;
    int result = put_parents(tree, err);
    if (result != 0)
        return result;
    enum names_kind kind = names_kind(&tree->names, tree->path);
    if (kind != NAMES_NONE && (kind == NAMES_FOLDER) != is_folder)
        return refuse(tree, "a folder and no folder by one name", err);
    if (link && names_kind(&tree->names, link) != NAMES_OTHER)
        return refuse(tree, "a hard link to no file before it", err);
    if (link) {
        (void)snprintf(name, sizeof(name), UNPACK_REPACK_ROOT "/%s", link);
        archive_entry_set_hardlink(entry, name);
    }
    (void)snprintf(name, sizeof(name), UNPACK_REPACK_ROOT "/%s", tree->path);
    archive_entry_set_pathname(entry, name);
    archive_entry_sparse_clear(entry);
    return names_add(&tree->names, tree->path, is_folder, err);
}

static int write_entry(struct tree *tree, struct archive_entry *entry, struct err *err)
{
    const char *link = archive_entry_symlink(entry);
    la_int64_t size = archive_entry_size(entry);
    if (size < 0 || (uint64_t)size > tree->size_max_bytes)
        return err_set(err, ERR_TOO_LARGE,
                       "entry %" PRIu64 " (%.100s): more than %" PRIu64 " bytes", tree->number,
                       tree->path, tree->size_max_bytes);
    int result = charge_bytes(tree, link ? strlen(link) : 0, err);
    if (result == 0)
        result = tree->tar_fd >= 0 ? place(tree, entry, err) : charge_parents(tree, err);
    if (result == 0)
        result = charge_entry(tree, err);
    if (result != 0)
        return result;
    filter_attributes(tree, entry);
    if (archive_write_header(tree->writer, entry) != ARCHIVE_OK)
        return fail_write(tree, err);
    if (size > 0 && tree->tar_fd < 0)
        result = copy_data(tree, err);
    else if (size > 0 && !archive_entry_hardlink(entry))
        result = copy_plain_data(tree, err);
    if (result == 0 && archive_write_finish_entry(tree->writer) != ARCHIVE_OK)
        result = fail_write(tree, err);
    return result;
}

/* What a lower layer has at this name goes, but for a folder that a folder is laid over. */
static int make_way(const struct tree *tree, bool is_folder, struct err *err)
{
    struct stat info;
    if (fstatat(AT_FDCWD, tree->path, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        (is_folder && S_ISDIR(info.st_mode)))
        return 0;
    return whiteout_remove(tree->path, false, err);
}

static int unpack_entry(struct tree *tree, struct archive_entry *entry, struct err *err)
{
    tree->path[0] = '\0';
    int result = clean_names(tree, entry, err);
    if (result != 0)
        return result;
    mode_t type = archive_entry_filetype(entry);
    bool hard_link = archive_entry_hardlink(entry) != NULL;
    if (!hard_link &&
        (type == AE_IFCHR || type == AE_IFBLK || type == AE_IFIFO || type == AE_IFSOCK)) {
        tree->counts.skipped++;
        return 0;
    }
    if (tree->path[0] == '\0') /* what "./" says of the root: it keeps the mode that all can use */
        return type == AE_IFDIR && !hard_link ? 0 : refuse(tree, "the root is no folder here", err);
    if (tree->layered && whiteout_is_one(tree->path))
        return 0; /* it was followed before the first entry was written */
    if (tree->layer)
        make_public(entry);
    result = check_owner(tree, entry, err);
    if (result == 0 && tree->layered)
        result = make_way(tree, type == AE_IFDIR && !hard_link, err);
    return result != 0 ? result : write_entry(tree, entry, err);
}

/* ---- the whole archive ---- */

static void pass_half(struct tree *tree, uint64_t tar_size)
{
    la_int64_t done = archive_filter_bytes(tree->reader, -1);
    if (tree->half_passed || done < 0 || (uint64_t)done < tar_size / 2)
        return;
    tree->half_passed = true;
    fault_point("unpack.half");
}

static int unpack_all(struct tree *tree, uint64_t tar_size, struct err *err)
{
    for (;;) {
        struct archive_entry *entry = NULL;
        la_int64_t before = archive_filter_bytes(tree->reader, 0);
        int status = archive_read_next_header(tree->reader, &entry);
        if (status == ARCHIVE_EOF) {
            if (tree->number == 0 && !tree->layered)
                return err_set(err, ERR_BAD_INPUT, "the archive is empty");
            /* Cut between two entries it would look whole. */
            if (archive_filter_bytes(tree->reader, 0) == before)
                return err_set(err, ERR_BAD_INPUT, "cut off: no end mark after %" PRIu64 " entries",
                               tree->number);
            return 0;
        }
        /* A warning is a name or a number that did not come through as it was meant. */
        if (status != ARCHIVE_OK)
            return fail_read(tree, err);
        if (archive_filter_count(tree->reader) > FILTERS_MAX)
            return err_set(err, ERR_BAD_INPUT, "compressed more than once");
        tree->number++;
        int result = unpack_entry(tree, entry, err);
        /* What the entry has left is passed over now, so that the end mark can be told from it. */
        if (result == 0 && archive_read_data_skip(tree->reader) < ARCHIVE_WARN)
            result = fail_read(tree, err);
        if (result != 0)
            return result;
        pass_half(tree, tar_size);
    }
}

/* As archive_read_callback(3) has it; libarchive's own would look at the file by newfstatat(2). */
static la_ssize_t read_tar(struct archive *reader, void *context, const void **out_data)
{
    static char bytes[READ_SIZE];
    const int *tar_fd = context;
    ssize_t size = read(*tar_fd, bytes, sizeof(bytes));
    *out_data = bytes;
    if (size < 0)
        archive_set_error(reader, errno, "can't be read");
    return size;
}

int tree_repack(struct tree *tree, int tar_fd, struct err *err)
{
    off_t size = lseek(tar_fd, 0, SEEK_END);
    if (size < 0 || lseek(tar_fd, 0, SEEK_SET) != 0)
        return err_sys(err, errno, "look at the archive");
    /* What is there is taken away for a file, and the file for a folder. */
    int result = put_own(tree, "", AE_IFREG, err);
    if (result == 0)
        result = put_own(tree, "", AE_IFDIR, err);
    if (result == 0 && archive_read_open(tree->reader, &tar_fd, NULL, read_tar, NULL) != ARCHIVE_OK)
        result = fail_read(tree, err);
    if (result == 0)
        result = unpack_all(tree, (uint64_t)size, err);
    if (result == 0 && archive_write_close(tree->writer) != ARCHIVE_OK)
        result = fail_write(tree, err);
    return result;
}

int tree_unpack(struct tree *tree, int tar_fd, struct err *err)
{
    struct stat info;
    if (fstat(tar_fd, &info) != 0)
        return err_sys(err, errno, "look at the archive");
    if (!S_ISREG(info.st_mode))
        return err_set(err, ERR_BAD_INPUT, "no regular file");
    fault_point("unpack.begin");
    if (archive_read_open_fd(tree->reader, tar_fd, READ_SIZE) != ARCHIVE_OK)
        return fail_read(tree, err);
    int result = unpack_all(tree, (uint64_t)info.st_size, err);
    if (result == 0 && archive_write_close(tree->writer) != ARCHIVE_OK)
        result = fail_write(tree, err);
    return result;
}

/* ---- layers ---- */

static int open_layer(struct tree *tree, const struct tree_source *source, struct err *err)
{
    int result = open_ends(tree, err);
    if (result != 0)
        return result;
    if (archive_read_open(tree->reader, source->context, NULL, source->read, NULL) != ARCHIVE_OK)
        return fail_read(tree, err);
    return 0;
}

int tree_hide(struct tree *tree, const struct tree_source *source, struct err *err)
{
    struct archive_entry *entry = NULL;
    int result = open_layer(tree, source, err);
    while (result == 0 && archive_read_next_header(tree->reader, &entry) == ARCHIVE_OK) {
        tree->number++;
        tree->path[0] = '\0';
        result = clean_names(tree, entry, err);
        if (result == 0 && whiteout_is_one(tree->path))
            result = whiteout_follow(tree->path, err);
    }
    /* What is wrong with the archive is told by whoever unpacks it. */
    return result;
}

int tree_unpack_layer(struct tree *tree, const struct tree_source *source, struct err *err)
{
    int result = open_layer(tree, source, err);
    tree->layered = true;
    if (result == 0)
        result = unpack_all(tree, source->size_bytes, err);
    if (result == 0 && archive_write_close(tree->writer) != ARCHIVE_OK)
        result = fail_write(tree, err);
    return result;
}
