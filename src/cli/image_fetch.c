/* Owns what skopeo and tar are asked. Files of the operator are copied to where they can read them,
 * since they have no right to. */
#include "cli/image_fetch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "cli/image_cage.h"
#include "wire/json.h"

enum { ARGUMENTS_MAX = 12, SOURCE_SIZE = 1024, CONFIG_MAX = 1 << 20, COPY_SIZE = 1 << 20 };

#define INSIDE(name) IMAGE_CAGE_FOLDER "/" name

/* ---- what is here already ---- */

static int copy_bytes(int from_fd, int to_fd, const char *name, struct err *err)
{
    MEM_AUTO char *data = malloc(COPY_SIZE);
    if (!data)
        return err_set(err, ERR_INTERNAL, "no memory");
    for (;;) {
        ssize_t size = read(from_fd, data, COPY_SIZE);
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0)
            return err_sys(err, errno, "read %s", name);
        if (size == 0)
            return 0;
        int result = fd_write_all(to_fd, data, (size_t)size, err);
        if (result != 0)
            return err_wrap(err, "copy %s", name);
    }
}

static int copy_file(int from_dir_fd, const char *from, int to_dir_fd, const char *to,
                     struct err *err)
{
    struct stat info;
    FD_AUTO int from_fd = openat(from_dir_fd, from, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (from_fd < 0 || fstat(from_fd, &info) != 0)
        return err_sys(err, errno, "open %s", from);
    if (!S_ISREG(info.st_mode))
        return err_set(err, ERR_BAD_INPUT, "%s is no file", from);
    FD_AUTO int to_fd =
        openat(to_dir_fd, to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to_fd < 0 || fchown(to_fd, IMAGE_FETCH_ID, IMAGE_FETCH_ID) != 0)
        return err_sys(err, errno, "make a copy of %s", from);
    return copy_bytes(from_fd, to_fd, from, err);
}

static int make_folder(int dir_fd, const char *name, int *out_fd, struct err *err)
{
    FD_AUTO int fd = -1;
    if (mkdirat(dir_fd, name, 0700) == 0)
        fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fchown(fd, IMAGE_FETCH_ID, IMAGE_FETCH_ID) != 0)
        return err_sys(err, errno, "make a folder");
    *out_fd = fd_take(&fd);
    return 0;
}

static int copy_blobs(int from_fd, int to_fd, struct err *err)
{
    int result = 0;
    int copy_fd = fcntl(from_fd, F_DUPFD_CLOEXEC, 0);
    DIR *dir = copy_fd >= 0 ? fdopendir(copy_fd) : NULL;
    const struct dirent *entry = NULL;
    if (!dir)
        return err_sys(err, errno, "read the blobs");
    while (result == 0 && (entry = readdir(dir))) {
        if (entry->d_name[0] != '.')
            result = copy_file(from_fd, entry->d_name, to_fd, entry->d_name, err);
    }
    (void)closedir(dir);
    return result;
}

/* A layout (OCI image-spec, image-layout.md). */
static int copy_layout(const char *path, int work_fd, struct err *err)
{
    FD_AUTO int to_fd = -1;
    FD_AUTO int blobs_fd = -1;
    FD_AUTO int sha256_fd = -1;
    FD_AUTO int from_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (from_fd < 0)
        return err_sys(err, errno, "open %s", path);
    FD_AUTO int from_blobs_fd = openat(from_fd, "blobs/sha256", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (from_blobs_fd < 0)
        return err_sys(err, errno, "%s is no OCI layout: blobs/sha256", path);
    int result = make_folder(work_fd, "input", &to_fd, err);
    if (result == 0)
        result = copy_file(from_fd, "oci-layout", to_fd, "oci-layout", err);
    if (result == 0)
        result = copy_file(from_fd, "index.json", to_fd, "index.json", err);
    if (result == 0)
        result = make_folder(to_fd, "blobs", &blobs_fd, err);
    if (result == 0)
        result = make_folder(blobs_fd, "sha256", &sha256_fd, err);
    return result != 0 ? result : copy_blobs(from_blobs_fd, sha256_fd, err);
}

/* What `docker save` makes has a manifest.json, and may be a layout as well. */
static int guess_transport(const char *work_path, const char **out, struct err *err)
{
    char tar[] = "tar";
    char list[] = "-tf";
    char file[] = INSIDE("input");
    char once[] = "--occurrence=1";
    char member[] = "manifest.json";
    char *const argv[] = {tar, list, file, once, member, NULL};
    struct err none = ERR_INIT;
    BUF_AUTO struct buf names;
    buf_init(&names, CONFIG_MAX);
    int result = image_cage_run(work_path, IMAGE_FETCH_ID, argv, &names, &none);
    if (result != 0 && none.kind != ERR_UNAVAILABLE)
        return err_copy(err, &none);
    *out = result == 0 ? "docker-archive" : "oci-archive";
    return 0;
}

/* skopeo would want to give the files of an archive their owners. */
static int unpack_layout(const char *work_path, struct err *err)
{
    char tar[] = "tar";
    char extract[] = "--extract";
    char file[] = "--file=" INSIDE("input");
    char folder[] = "--one-top-level=" INSIDE("unpacked");
    char owner[] = "--no-same-owner";
    char *const argv[] = {tar, extract, file, folder, owner, NULL};
    return image_cage_run(work_path, IMAGE_FETCH_ID, argv, NULL, err);
}

/* "TRANSPORT:PATH[:REFERENCE]", or a path. Writes what skopeo is to read to out. */
static int prepare_local(const struct image_fetch *fetch, char out[static SOURCE_SIZE],
                         struct err *err)
{
    static const char *const transports[] = {"oci", "oci-archive", "docker-archive"};
    char path[PATH_MAX];
    const char *transport = NULL;
    const char *rest = fetch->source;
    for (size_t i = 0; i < ARRAY_SIZE(transports); i++) {
        const size_t size = strlen(transports[i]);
        if (strncmp(fetch->source, transports[i], size) == 0 && fetch->source[size] == ':') {
            transport = transports[i];
            rest = fetch->source + size + 1;
        }
    }
    const size_t path_size = transport ? strcspn(rest, ":") : strlen(rest);
    const char *reference = rest + path_size; /* with its colon */
    if (path_size == 0 || path_size >= sizeof(path) || strlen(reference) > SOURCE_SIZE / 2)
        return err_set(err, ERR_BAD_INPUT, "\"%.200s\" names no file", fetch->source);
    memcpy(path, rest, path_size);
    path[path_size] = '\0';
    bool layout = transport && strcmp(transport, "oci") == 0;
    (void)fprintf(stderr, "berth: reading %s\n", path);
    int result = layout ? copy_layout(path, fetch->work_fd, err)
                        : copy_file(AT_FDCWD, path, fetch->work_fd, "input", err);
    if (result == 0 && !transport)
        result = guess_transport(fetch->work_path, &transport, err);
    bool archive = result == 0 && transport && strcmp(transport, "oci-archive") == 0;
    if (archive)
        result = unpack_layout(fetch->work_path, err);
    if (result == 0)
        (void)snprintf(out, SOURCE_SIZE, "%s:%s%s", archive ? "oci" : transport,
                       archive ? INSIDE("unpacked") : INSIDE("input"), reference);
    return result;
}

/* ---- skopeo ---- */

/* Signatures are checked as the host's policy says (containers-policy.json(5)). */
static bool has_policy(void)
{
    return access("/etc/containers/policy.json", R_OK) == 0;
}

static int run_skopeo(const struct image_fetch *fetch, char *const *words, size_t count,
                      struct buf *out, struct err *err)
{
    char skopeo[] = "skopeo";
    char insecure_policy[] = "--insecure-policy";
    char *argv[ARGUMENTS_MAX];
    size_t used = 0;
    argv[used++] = skopeo;
    if (!has_policy())
        argv[used++] = insecure_policy;
    for (size_t i = 0; i < count; i++)
        argv[used++] = words[i];
    argv[used] = NULL;
    struct err failure = ERR_INIT;
    int result = image_cage_run(fetch->work_path, IMAGE_FETCH_ID, argv, out, &failure);
    if (result == 0)
        return 0;
    if (failure.kind == ERR_NOT_FOUND)
        return err_set(err, ERR_NOT_FOUND,
                       "skopeo is not installed, and images are fetched by it (Debian: apt install "
                       "skopeo)");
    return err_copy(err, &failure);
}

/* Into a layout of one image. */
static int copy_image(const struct image_fetch *fetch, char *source, struct err *err)
{
    char copy[] = "copy";
    char no_tls[] = "--src-tls-verify=false";
    char auth[] = "--src-authfile=" INSIDE("auth.json");
    char plain[] = "--dest-oci-accept-uncompressed-layers";
    char layout[] = "oci:" INSIDE("layout") ":image";
    char *words[8];
    size_t count = 0;
    words[count++] = copy;
    words[count++] = plain;
    if (fetch->insecure)
        words[count++] = no_tls;
    if (fetch->authfile)
        words[count++] = auth;
    words[count++] = source;
    words[count++] = layout;
    return run_skopeo(fetch, words, count, NULL, err);
}

static int read_config(const struct image_fetch *fetch, json_t **out, struct err *err)
{
    char inspect[] = "inspect";
    char config[] = "--config";
    char layout[] = "oci:" INSIDE("layout") ":image";
    char *words[] = {inspect, config, layout};
    struct err inner = ERR_INIT;
    BUF_AUTO struct buf text;
    buf_init(&text, CONFIG_MAX);
    int result = run_skopeo(fetch, words, ARRAY_SIZE(words), &text, err);
    if (result == 0 && json_parse_object(text.data, text.size, out, &inner) != 0)
        result =
            err_set(err, ERR_BAD_INPUT, "the image's configuration: %.200s", inner.public_message);
    return result;
}

/* The layout as one file, which is what gets a name. */
static int pack(const struct image_fetch *fetch, struct err *err)
{
    char tar[] = "tar";
    char folder[] = "--directory=" INSIDE("layout");
    char file[] = "--file=" INSIDE(IMAGE_FETCH_FILE);
    char create[] = "--create";
    char remove_files[] = "--remove-files"; /* so that the disk has to hold it only once */
    char index[] = "index.json";
    char version[] = "oci-layout";
    char blobs[] = "blobs";
    char *const argv[] = {tar, create, file, folder, remove_files, index, version, blobs, NULL};
    return image_cage_run(fetch->work_path, IMAGE_FETCH_ID, argv, NULL, err);
}

int image_fetch_run(const struct image_fetch *fetch, json_t **out_config, struct err *err)
{
    char source[SOURCE_SIZE];
    JSON_AUTO struct json_t *config = NULL;
    int result = 0;
    if (strlen(fetch->source) >= sizeof(source))
        return err_set(err, ERR_BAD_INPUT, "the name of the image is too long");
    (void)snprintf(source, sizeof(source), "%s", fetch->source);
    if (fetch->local)
        result = prepare_local(fetch, source, err);
    else if (fetch->authfile)
        result = copy_file(AT_FDCWD, fetch->authfile, fetch->work_fd, "auth.json", err);
    if (result != 0)
        return result;
    (void)fprintf(stderr, "berth: fetching %s\n", fetch->source);
    result = copy_image(fetch, source, err);
    if (result == 0)
        result = read_config(fetch, &config, err);
    if (result == 0)
        result = pack(fetch, err);
    if (result != 0)
        return result;
    *out_config = config;
    config = NULL;
    return 0;
}
