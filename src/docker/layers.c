/* Owns the folder of layers and the child that makes one. A layer is "NAME.SIZE.tar", where SIZE is
 * what it comes to unpacked; one that is being made ends in ".partial" and is nobody's. */
#include "docker/layers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "wire/unpack_status.h"

#define PARTIAL "import.partial"
#define REPACK_NS (300 * CLOCK_NS_PER_S)
/* Where a request names no bound. */
#define SIZE_MAX_BYTES (UINT64_C(16) << 30)
#define ENTRIES_MAX UINT64_C(1000000)

enum { QUEUE_MAX = 16, CLEAR_OF_PLACES = 16, FILE_NAME_SIZE = ENGINE_LAYER_NAME_MAX + 32 };

struct import {
    char name[ENGINE_LAYER_NAME_MAX + 1];
    uint64_t request_id; /* 0: nobody waits any more */
    int tar_fd;
    uint64_t size_max_bytes;
    uint64_t entries_max;
};

struct layers {
    struct loop *loop;
    int folder_fd;
    layers_imported_fn on_imported;
    void *context;
    struct engine_layer *list; /* by no order */
    size_t count;
    struct import queue[QUEUE_MAX]; /* the first is being made */
    size_t queued;
    struct engine_layer made; /* it has its name, and the child that runs puts that on the disk */
    bool saving;
    pid_t pid; /* of the child; 0: none */
    int pidfd;
    int status_fd;
    bool late;
    struct loop_watch *watch;
    struct loop_timer timer;
};

static void start_next(struct layers *layers);

/* ---- the folder ---- */

static void file_name(const struct engine_layer *layer, char out[static FILE_NAME_SIZE])
{
    (void)snprintf(out, FILE_NAME_SIZE, "%s.%" PRIu64 ".tar", layer->name, layer->size_bytes);
}

static struct engine_layer *find(const struct layers *layers, const char *name)
{
    for (size_t i = 0; i < layers->count; i++) {
        if (strcmp(layers->list[i].name, name) == 0)
            return &layers->list[i];
    }
    return NULL;
}

static int add(struct layers *layers, const struct engine_layer *layer, struct err *err)
{
    struct engine_layer *list = realloc(layers->list, (layers->count + 1) * sizeof(*list));
    if (!list)
        return err_set(err, ERR_INTERNAL, "no memory for a layer");
    layers->list = list;
    layers->list[layers->count++] = *layer;
    return 0;
}

static bool read_name(const char *name, struct engine_layer *out)
{
    char size[24];
    const char *dot = strchr(name, '.');
    const char *end = dot ? strchr(dot + 1, '.') : NULL;
    if (!end || strcmp(end, ".tar") != 0 || (size_t)(dot - name) > ENGINE_LAYER_NAME_MAX ||
        (size_t)(end - dot) > sizeof(size))
        return false;
    (void)snprintf(out->name, sizeof(out->name), "%.*s", (int)(dot - name), name);
    (void)snprintf(size, sizeof(size), "%.*s", (int)(end - dot - 1), dot + 1);
    return id_is_name(out->name, ENGINE_LAYER_NAME_MAX) &&
           parse_u64(size, 0, INT64_MAX, &out->size_bytes, NULL) == 0;
}

static int read_folder(struct layers *layers, struct err *err)
{
    int fd = fcntl(layers->folder_fd, F_DUPFD_CLOEXEC, 3);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (!folder) {
        int result = err_sys(err, errno, "read the folder of layers");
        fd_close(&fd);
        return result;
    }
    int result = 0;
    const struct dirent *entry = NULL;
    while (result == 0 && (entry = readdir(folder)) != NULL) {
        struct engine_layer layer;
        if (read_name(entry->d_name, &layer))
            result = add(layers, &layer, err);
        else if (strcmp(entry->d_name, PARTIAL) == 0)
            (void)unlinkat(layers->folder_fd, PARTIAL, 0);
    }
    (void)closedir(folder);
    return result;
}

/* ---- the child ---- */

static _Noreturn void child_run(const struct import *import, int out_fd, int status_fd)
{
    static const char program[] = "berth-unpack";
    char path[PATH_MAX];
    char size[24];
    char entries[24];
    sigset_t none;
    const int from[] = {import->tar_fd, status_fd, out_fd};
    const int to[] = {UNPACK_FD_TAR, UNPACK_FD_STATUS, UNPACK_FD_TARGET};
    int moved[ARRAY_SIZE(from)];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(from); i++)
        moved[i] = fcntl(from[i], F_DUPFD_CLOEXEC, CLEAR_OF_PLACES);
    for (size_t i = 0; i < ARRAY_SIZE(from); i++) {
        if (moved[i] < 0 || dup2(moved[i], to[i]) < 0)
            _exit(1);
    }
    (void)syscall(SYS_close_range, 4U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - sizeof(program));
    if (length < 0)
        _exit(1);
    path[length] = '\0';
    char *slash = strrchr(path, '/');
    memcpy(slash ? slash + 1 : path, program, sizeof(program));
    (void)snprintf(size, sizeof(size), "%" PRIu64, import->size_max_bytes);
    (void)snprintf(entries, sizeof(entries), "%" PRIu64, import->entries_max);
    char *const environment[] = {NULL};
    (void)execle(path, program, size, entries, UNPACK_REPACK, (char *)NULL, environment);
    _exit(1);
}

/* Takes the child that has ended. False: it has not. */
static bool reap(struct layers *layers, siginfo_t *end)
{
    memset(end, 0, sizeof(*end));
    if (waitid(P_PIDFD, (id_t)layers->pidfd, end, WEXITED | WNOHANG) == 0 && end->si_pid == 0)
        return false;
    loop_unwatch(layers->loop, &layers->watch);
    loop_stop_timer(&layers->timer);
    fd_close(&layers->pidfd);
    layers->pid = 0;
    return true;
}

static void end_first(struct layers *layers, const struct engine_layer *layer,
                      const struct err *error)
{
    struct import first = layers->queue[0];
    layers->queued--;
    memmove(layers->queue, layers->queue + 1, layers->queued * sizeof(layers->queue[0]));
    fd_close(&first.tar_fd);
    if (error)
        log_warn("layer %s: %s", first.name, error->message);
    if (first.request_id != 0)
        layers->on_imported(layers->context, first.request_id, layer, error);
    start_next(layers);
}

static void on_child(void *context, uint32_t events);

static void on_late(void *context)
{
    struct layers *layers = context;
    layers->late = true;
    (void)kill(layers->pid, SIGKILL);
}

/* Follows the child that fork(2) returned. */
static int follow_child(struct layers *layers, pid_t pid, struct err *err)
{
    if (pid < 0)
        return err_sys(err, errno, "fork");
    layers->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int result = layers->pidfd < 0 ? err_sys(err, errno, "pidfd_open") : 0;
    if (result == 0)
        result =
            loop_watch(layers->loop, layers->pidfd, EPOLLIN, on_child, layers, &layers->watch, err);
    if (result != 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0); /* it has hardly begun */
        fd_close(&layers->pidfd);
        return result;
    }
    layers->pid = pid;
    layers->late = false;
    loop_set_timer(layers->loop, &layers->timer, clock_now_ns() + REPACK_NS, on_late, layers);
    return 0;
}

static int start_child(struct layers *layers, struct err *err)
{
    int ends[2] = {-1, -1};
    FD_AUTO int out_fd =
        openat(layers->folder_fd, PARTIAL, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
               (mode_t)0600);
    if (out_fd < 0 || pipe2(ends, O_CLOEXEC) != 0)
        return err_sys(err, errno, "make a layer");
    layers->status_fd = ends[0];
    FD_AUTO int status_fd = ends[1];
    pid_t pid = fork();
    if (pid == 0)
        child_run(&layers->queue[0], out_fd, status_fd);
    return follow_child(layers, pid, err);
}

/* What the child wrote gets its name, which another child puts on the disk: that may take long. */
static int start_saving(struct layers *layers, const struct engine_layer *layer, struct err *err)
{
    char name[FILE_NAME_SIZE];
    file_name(layer, name);
    if (renameat(layers->folder_fd, PARTIAL, layers->folder_fd, name) != 0)
        return err_sys(err, errno, "keep a layer");
    layers->made = *layer;
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        _exit(fsync(layers->folder_fd) == 0 ? 0 : 1);
    }
    int result = follow_child(layers, pid, err);
    if (result != 0)
        (void)unlinkat(layers->folder_fd, name, 0);
    layers->saving = result == 0;
    return result;
}

/* The tar is made, or not. */
static int on_packed(struct layers *layers, const siginfo_t *end, struct err *err)
{
    char summary[UNPACK_STATUS_MAX + 1];
    struct engine_layer layer = {.name = ""};
    memcpy(layer.name, layers->queue[0].name, sizeof(layer.name));
    int result = unpack_status_judge(end, layers->status_fd, summary, err);
    if (result != 0 && layers->late)
        result = err_public(err, ERR_BAD_INPUT, "the libraries take too long to be packed");
    if (result == 0)
        result = unpack_status_size(summary, SIZE_MAX_BYTES, &layer.size_bytes, err);
    fd_close(&layers->status_fd);
    return result == 0 ? start_saving(layers, &layer, err) : result;
}

/* Its name is on the disk, or not. */
static int on_saved(struct layers *layers, const siginfo_t *end, struct err *err)
{
    char name[FILE_NAME_SIZE];
    layers->saving = false;
    int result = 0;
    if (end->si_code != CLD_EXITED || end->si_status != 0)
        result = err_set(err, ERR_INTERNAL, "the folder of layers could not be written");
    if (result == 0)
        result = add(layers, &layers->made, err);
    file_name(&layers->made, name);
    if (result != 0)
        (void)unlinkat(layers->folder_fd, name, 0);
    return result;
}

static void on_child(void *context, uint32_t events)
{
    struct layers *layers = context;
    struct err err = ERR_INIT;
    siginfo_t end;
    (void)events;
    if (!reap(layers, &end))
        return;
    int result = layers->saving ? on_saved(layers, &end, &err) : on_packed(layers, &end, &err);
    if (result == 0 && layers->saving)
        return;
    if (result != 0)
        (void)unlinkat(layers->folder_fd, PARTIAL, 0);
    end_first(layers, result == 0 ? &layers->made : NULL, result == 0 ? NULL : &err);
}

static void start_next(struct layers *layers)
{
    struct err err = ERR_INIT;
    if (layers->queued == 0 || layers->pid != 0)
        return;
    int result = 0;
    if (find(layers, layers->queue[0].name))
        result = err_set(&err, ERR_CONFLICT, "there is a layer %s", layers->queue[0].name);
    else
        result = start_child(layers, &err);
    if (result == 0)
        return;
    fd_close(&layers->status_fd);
    end_first(layers, NULL, &err);
}

/* ---- requests ---- */

int layers_import(struct layers *layers, const struct engine_msg *request, int *tar_fd,
                  struct err *err)
{
    struct stat info;
    FD_AUTO int fd = fd_take(tar_fd);
    const struct engine_layer *layer = &request->layer;
    if (!id_is_name(layer->name, ENGINE_LAYER_NAME_MAX) || fd < 0 || fstat(fd, &info) != 0 ||
        !S_ISREG(info.st_mode))
        return err_set(err, ERR_BAD_INPUT, "a layer has a name, and a file that holds it");
    if (find(layers, layer->name))
        return err_set(err, ERR_CONFLICT, "there is a layer %s", layer->name);
    if (layers->queued == QUEUE_MAX)
        return err_set(err, ERR_UNAVAILABLE, "too many layers wait to be made");
    uint64_t size_max = request->size_max_bytes;
    uint64_t entries_max = request->entries_max;
    struct import *import = &layers->queue[layers->queued++];
    memset(import, 0, sizeof(*import));
    memcpy(import->name, layer->name, sizeof(import->name));
    import->request_id = request->request_id;
    import->tar_fd = fd_take(&fd);
    import->size_max_bytes = size_max > 0 && size_max < SIZE_MAX_BYTES ? size_max : SIZE_MAX_BYTES;
    import->entries_max = entries_max > 0 && entries_max < ENTRIES_MAX ? entries_max : ENTRIES_MAX;
    start_next(layers);
    return 0;
}

void layers_forget_requests(struct layers *layers)
{
    size_t kept = layers->pid != 0 ? 1 : 0; /* what is being made becomes one all the same */
    for (size_t i = 0; i < layers->queued; i++) {
        layers->queue[i].request_id = 0;
        if (i >= kept)
            fd_close(&layers->queue[i].tar_fd);
    }
    layers->queued = kept;
}

int layers_take(struct layers *layers, const char *name, int *out_fd, uint64_t *out_size_bytes,
                struct err *err)
{
    char file[FILE_NAME_SIZE];
    struct stat info;
    const struct engine_layer *layer = find(layers, name);
    if (!layer)
        return err_set(err, ERR_NOT_FOUND, "there is no layer %s", name);
    file_name(layer, file);
    FD_AUTO int fd = openat(layers->folder_fd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        return err_sys(err, errno, "open layer %s", name);
    *out_fd = fd_take(&fd);
    *out_size_bytes = (uint64_t)info.st_size;
    return 0;
}

int layers_remove(struct layers *layers, const char *name, struct err *err)
{
    char file[FILE_NAME_SIZE];
    struct engine_layer *layer = find(layers, name);
    if (!layer)
        return 0;
    file_name(layer, file);
    if (unlinkat(layers->folder_fd, file, 0) != 0 && errno != ENOENT)
        return err_sys(err, errno, "remove layer %s", name);
    *layer = layers->list[--layers->count];
    return 0;
}

int layers_list(const struct layers *layers, const char *after, struct engine_msg *msg,
                struct err *err)
{
    int result = 0;
    for (size_t i = 0; i < layers->count && result == 0; i++) {
        if (strcmp(layers->list[i].name, after) > 0)
            result = engine_msg_add_layer(msg, &layers->list[i], err);
    }
    engine_msg_end_list(msg);
    return result;
}

int layers_open(struct loop *loop, int *folder_fd, layers_imported_fn on_imported, void *context,
                struct layers **out, struct err *err)
{
    FD_AUTO int fd = fd_take(folder_fd);
    struct layers *layers = calloc(1, sizeof(*layers));
    if (!layers)
        return err_set(err, ERR_INTERNAL, "no memory for layers");
    layers->loop = loop;
    layers->folder_fd = fd_take(&fd);
    layers->on_imported = on_imported;
    layers->context = context;
    layers->pidfd = layers->status_fd = -1;
    int result = read_folder(layers, err);
    if (result != 0)
        layers_free(layers);
    else
        *out = layers;
    return result;
}

void layers_free(struct layers *layers)
{
    if (!layers)
        return;
    loop_unwatch(layers->loop, &layers->watch);
    loop_stop_timer(&layers->timer);
    if (layers->pid != 0) {
        (void)kill(layers->pid, SIGKILL);
        (void)waitpid(layers->pid, NULL, 0);
    }
    for (size_t i = 0; i < layers->queued; i++)
        fd_close(&layers->queue[i].tar_fd);
    fd_close(&layers->pidfd);
    fd_close(&layers->status_fd);
    fd_close(&layers->folder_fd);
    free(layers->list);
    free(layers);
}
