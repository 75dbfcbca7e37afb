/* Owns the reading of CDI specifications. They say which files of the host a sandbox sees, so only
 * what belongs to root and nobody else may write is believed. */
#include "native/cdi.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "wire/json.h"

enum { SPEC_BYTES_MAX = 4 << 20, VALUES_MAX = 50000, ITEMS_MAX = 512 };

static const char all_name[] = "all";

void cdi_free(struct cdi *cdi)
{
    free(cdi->nodes);
    free(cdi->mounts);
    *cdi = (struct cdi){0};
}

bool cdi_is_of(const struct cdi *cdi, const struct cdi_owner *owner, size_t index)
{
    return owner->spec == cdi->gpus[index].spec && (owner->gpu < 0 || (size_t)owner->gpu == index);
}

/* Copies what follows the prefix of an absolute path, one slash between two names and none after
 * the last. False: there is "." or "..", or nothing. */
static bool copy_path(const char *path, const char *prefix, char out[static CDI_PATH_SIZE])
{
    const size_t skipped = strlen(prefix);
    size_t used = 0;
    if (!path || strncmp(path, prefix, skipped) != 0 || strlen(path) >= CDI_PATH_SIZE)
        return false;
    for (const char *at = path + skipped; *at != '\0';) {
        const size_t size = strcspn(at, "/");
        if ((size == 1 && at[0] == '.') || (size == 2 && at[0] == '.' && at[1] == '.'))
            return false;
        if (size > 0)
            used += (size_t)snprintf(out + used, CDI_PATH_SIZE - used, "%s%.*s",
                                     used > 0 ? "/" : "", (int)size, at);
        at += size;
        at += strspn(at, "/");
    }
    return used > 0;
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static bool add_node(struct cdi *cdi, const struct cdi_owner *owner, const json_t *item)
{
    struct cdi_node node = {.owner = *owner};
    const char *path = text_of(item, "path");
    const char *source = text_of(item, "hostPath");
    const char *type = text_of(item, "type");
    const char *rights = text_of(item, "permissions");
    if (!copy_path(path, "/dev/", node.path) || (type && strcmp(type, "c") != 0) ||
        strlen(source ? source : path) >= CDI_PATH_SIZE || cdi->node_count >= ITEMS_MAX)
        return false;
    (void)snprintf(node.source, sizeof(node.source), "%s", source ? source : path);
    node.read_only = rights && rights[0] != '\0' && !strchr(rights, 'w');
    struct cdi_node *more = reallocarray(cdi->nodes, cdi->node_count + 1, sizeof(*more));
    if (!more)
        return false;
    cdi->nodes = more;
    cdi->nodes[cdi->node_count++] = node;
    return true;
}

static bool add_mount(struct cdi *cdi, const struct cdi_owner *owner, const json_t *item)
{
    struct cdi_mount mount = {.owner = *owner};
    const char *source = text_of(item, "hostPath");
    if (!source || source[0] != '/' || strlen(source) >= CDI_PATH_SIZE ||
        !copy_path(text_of(item, "containerPath"), "/", mount.target) ||
        cdi->mount_count >= ITEMS_MAX)
        return false;
    (void)snprintf(mount.source, sizeof(mount.source), "%s", source);
    struct cdi_mount *more = reallocarray(cdi->mounts, cdi->mount_count + 1, sizeof(*more));
    if (!more)
        return false;
    cdi->mounts = more;
    cdi->mounts[cdi->mount_count++] = mount;
    return true;
}

static void add_edits(struct cdi *cdi, const struct cdi_owner *owner, const json_t *edits)
{
    size_t index = 0;
    const json_t *item = NULL;
    json_array_foreach(json_object_get(edits, "deviceNodes"), index, item)
    {
        cdi->left_out += add_node(cdi, owner, item) ? 0 : 1;
    }
    json_array_foreach(json_object_get(edits, "mounts"), index, item)
    {
        cdi->left_out += add_mount(cdi, owner, item) ? 0 : 1;
    }
    cdi->left_out += (unsigned)json_array_size(json_object_get(edits, "hooks"));
    cdi->left_out += (unsigned)json_array_size(json_object_get(edits, "env"));
}

/* Whether two devices are one under two names ("0" and "GPU-…"): the same nodes in the same order.
 */
static bool same_nodes(const struct cdi *cdi, int a, int b)
{
    size_t i = 0;
    size_t j = 0;
    for (;;) {
        while (i < cdi->node_count && cdi->nodes[i].owner.gpu != a)
            i++;
        while (j < cdi->node_count && cdi->nodes[j].owner.gpu != b)
            j++;
        if (i == cdi->node_count || j == cdi->node_count)
            return i == cdi->node_count && j == cdi->node_count;
        if (strcmp(cdi->nodes[i++].source, cdi->nodes[j++].source) != 0)
            return false;
    }
}

static bool is_known(const struct cdi *cdi, int gpu)
{
    for (int i = 0; i < gpu; i++) {
        if (strcmp(cdi->gpus[i].name, cdi->gpus[gpu].name) == 0 || same_nodes(cdi, i, gpu))
            return true;
    }
    return false;
}

/* Adds a device, unless it is none, or one that is known. */
static void add_device(struct cdi *cdi, const char *kind, const json_t *device)
{
    const char *name = text_of(device, "name");
    const size_t nodes = cdi->node_count;
    const size_t mounts = cdi->mount_count;
    const struct cdi_owner owner = {.spec = cdi->spec_count, .gpu = (int)cdi->gpu_count};
    if (!name || cdi->gpu_count >= CDI_GPUS_MAX)
        return;
    struct cdi_gpu *gpu = &cdi->gpus[cdi->gpu_count];
    gpu->spec = cdi->spec_count;
    (void)snprintf(gpu->name, sizeof(gpu->name), "%s=%s", kind, name);
    add_edits(cdi, &owner, json_object_get(device, "containerEdits"));
    if (cdi->node_count > nodes && !is_known(cdi, owner.gpu)) {
        cdi->gpu_count++;
        return;
    }
    cdi->node_count = nodes;
    cdi->mount_count = mounts;
}

static void add_devices(struct cdi *cdi, const char *kind, const json_t *devices)
{
    size_t index = 0;
    const json_t *device = NULL;
    const bool only = json_array_size(devices) == 1;
    json_array_foreach(devices, index, device)
    {
        const char *name = text_of(device, "name");
        if (name && (only || strcmp(name, all_name) != 0))
            add_device(cdi, kind, device);
    }
}

/* "vendor/class": a GPU by its class. */
static bool is_gpu_kind(const char *kind)
{
    const char *slash = kind ? strchr(kind, '/') : NULL;
    return slash && slash > kind && strcmp(slash, "/gpu") == 0 && strlen(kind) < CDI_NAME_SIZE / 2;
}

static void add_spec(struct cdi *cdi, const json_t *spec)
{
    const struct cdi_owner all = {.spec = cdi->spec_count, .gpu = -1};
    const char *kind = text_of(spec, "kind");
    if (!text_of(spec, "cdiVersion") || !is_gpu_kind(kind))
        return; /* another kind of device */
    add_edits(cdi, &all, json_object_get(spec, "containerEdits"));
    add_devices(cdi, kind, json_object_get(spec, "devices"));
    cdi->spec_count++;
}

/* ---- files ---- */

static const char *refuse(const struct stat *info)
{
    if (info->st_uid != geteuid())
        return "it does not belong to root";
    return (info->st_mode & 0022) != 0 ? "others may write to it" : NULL;
}

static int read_text(int fd, size_t size, struct json_t **out, struct err *err)
{
    MEM_AUTO uint8_t *text = malloc(size + 1);
    size_t used = 0;
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory");
    while (used < size) {
        ssize_t got = read(fd, text + used, size - used);
        if (got <= 0)
            return err_set(err, ERR_INTERNAL, "it can't be read");
        used += (size_t)got;
    }
    struct err inner = ERR_INIT;
    if (json_parse_large(text, size, VALUES_MAX, out, &inner) != 0)
        return err_set(err, ERR_BAD_INPUT, "%.200s", inner.public_message);
    return 0;
}

static int read_spec(struct cdi *cdi, int folder_fd, const char *name, struct err *err)
{
    struct stat info;
    JSON_AUTO struct json_t *spec = NULL;
    FD_AUTO int fd = openat(folder_fd, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        return err_sys(err, errno, "open");
    const char *refused = refuse(&info);
    if (refused)
        return err_set(err, ERR_FORBIDDEN, "%s", refused);
    if (!S_ISREG(info.st_mode) || info.st_size <= 0 || info.st_size > SPEC_BYTES_MAX)
        return err_set(err, ERR_BAD_INPUT, "it is no file of 1 to %d bytes", SPEC_BYTES_MAX);
    int result = read_text(fd, (size_t)info.st_size, &spec, err);
    if (result == 0)
        add_spec(cdi, spec);
    return result;
}

static bool ends_with(const char *name, const char *suffix)
{
    const size_t size = strlen(name);
    const size_t part = strlen(suffix);
    return name[0] != '.' && size > part && strcmp(name + size - part, suffix) == 0;
}

static int compare_names(const struct dirent **left, const struct dirent **right)
{
    return strcmp((*left)->d_name, (*right)->d_name);
}

static void read_folder(struct cdi *cdi, const char *path)
{
    struct stat info;
    struct dirent **names = NULL;
    FD_AUTO int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        return;
    const char *refused = refuse(&info);
    if (refused) {
        log_warn("CDI specifications in %s are not used: %s", path, refused);
        return;
    }
    const int count = scandirat(fd, ".", &names, NULL, compare_names);
    for (int i = 0; i < count; i++) {
        struct err err = ERR_INIT;
        const char *name = names[i]->d_name;
        if (ends_with(name, ".json") && read_spec(cdi, fd, name, &err) != 0)
            log_warn("CDI specification %s/%s is not used: %s", path, name, err.message);
        else if (ends_with(name, ".yaml") || ends_with(name, ".yml"))
            log_warn("CDI specification %s/%s is not used: only JSON is read (nvidia-ctk cdi "
                     "generate --format=json)",
                     path, name);
        free(names[i]);
    }
    free(names);
}

void cdi_read(const char *folders, struct cdi *out)
{
    struct cdi cdi = {0};
    while (*folders != '\0') {
        char path[PATH_MAX];
        const size_t size = strcspn(folders, ":");
        if (size > 0 && size < sizeof(path)) {
            memcpy(path, folders, size);
            path[size] = '\0';
            read_folder(&cdi, path);
        }
        folders += size;
        folders += *folders == ':' ? 1 : 0;
    }
    for (size_t i = 0; i < cdi.gpu_count; i++)
        log_info("GPU %zu: %s", i, cdi.gpus[i].name);
    if (cdi.gpu_count > 0 && cdi.left_out > 0)
        log_info("GPUs: %u hooks, variables and other parts of their specifications are left out",
                 cdi.left_out);
    *out = cdi;
}
