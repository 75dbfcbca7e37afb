/* The catalogue of images without an engine around it, driven over standard input: one command a
 * line, one line of answer each.
 *
 *   take NAME   "ok", or "error KIND RETRY_AFTER PUBLIC TEXT"; what was taken is given back
 *   hold NAME   the same, but kept until "drop"
 *   drop        "ok"
 *   mount NAME  takes it and attaches it, id-mapped from ID_FIRST on, at MOUNT
 *   names       the names */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "native/images.h"
#include "native/mountfd.h"

enum { EXIT_USAGE = 2, ID_FIRST = 1900000000 };

static struct image_folder held = {.root_fd = -1, .lock_fd = -1};

static void answer_error(const struct err *err)
{
    (void)printf("error %s %u %s\n", err_kind_name(err->kind), err->retry_after_s,
                 err->public_message);
}

static void give_back(struct image_folder *folder)
{
    fd_close(&folder->root_fd);
    fd_close(&folder->lock_fd);
}

/* A user namespace in which ID_FIRST + n is n, held by nothing but the descriptor. */
static int open_userns(void)
{
    char path[64];
    int stay[2];
    if (pipe2(stay, O_CLOEXEC) != 0)
        return -1;
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0L, 0L, 0L, 0L);
    if (pid == 0) {
        char byte = 0;
        (void)close(stay[1]);
        _exit(read(stay[0], &byte, 1) == 0 ? 0 : 1);
    }
    char map[64];
    (void)snprintf(map, sizeof(map), "0 %d 65536\n", (int)ID_FIRST);
    (void)snprintf(path, sizeof(path), "/proc/%d/uid_map", (int)pid);
    (void)fd_write_file_at(AT_FDCWD, path, map, NULL);
    (void)snprintf(path, sizeof(path), "/proc/%d/gid_map", (int)pid);
    (void)fd_write_file_at(AT_FDCWD, path, map, NULL);
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    (void)close(stay[0]);
    (void)close(stay[1]);
    (void)waitpid(pid, NULL, 0);
    return fd;
}

static int mount_image(const struct image_folder *folder, const char *target, struct err *err)
{
    FD_AUTO int mount_fd = -1;
    FD_AUTO int userns_fd = open_userns();
    int result = mountfd_clone(folder->root_fd, "", false, &mount_fd, err);
    if (result == 0)
        result = mountfd_idmap(mount_fd, userns_fd, err);
    if (result == 0)
        result = mountfd_attach(mount_fd, AT_FDCWD, target, err);
    return result;
}

static void handle(struct images *images, const char *line, const char *target)
{
    char names[1024];
    struct err err = ERR_INIT;
    struct image_folder folder = {.root_fd = -1, .lock_fd = -1};
    const char *name = strchr(line, ' ');
    name = name ? name + 1 : "";
    if (strcmp(line, "names") == 0) {
        images_names(images, names, sizeof(names));
        (void)printf("names %s\n", names);
    } else if (strcmp(line, "drop") == 0) {
        give_back(&held);
        (void)printf("ok\n");
    } else if (images_take(images, name, &folder, &err) != 0) {
        answer_error(&err);
    } else if (strncmp(line, "mount ", 6) == 0 && mount_image(&folder, target, &err) != 0) {
        (void)printf("error internal 0 %s\n", err.message);
    } else {
        (void)printf("ok\n");
        if (strncmp(line, "hold ", 5) == 0) {
            held = folder;
            folder = (struct image_folder){.root_fd = -1, .lock_fd = -1};
        }
    }
    give_back(&folder);
    (void)fflush(stdout);
}

/* Until standard input ends. */
static void serve(struct images *images, const char *target)
{
    char line[512];
    size_t size = 0;
    for (;;) {
        int64_t next = images_step(images);
        struct pollfd pollers[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                                   {.fd = images_event_fd(images), .events = POLLIN}};
        if (poll(pollers, 2, clock_poll_timeout_ms(next)) < 0 && errno != EINTR)
            return;
        if (pollers[0].revents == 0)
            continue;
        if (size == sizeof(line) || read(STDIN_FILENO, line + size, 1) != 1)
            return;
        if (line[size++] != '\n')
            continue;
        line[size - 1] = '\0';
        size = 0;
        handle(images, line, target);
    }
}

static int open_path(const char *path, int flags)
{
    return open(path, flags | O_CLOEXEC);
}

int main(int argc, char **argv)
{
    struct images_config config = {0};
    uint64_t timeout_s = 0;
    struct images *images = NULL;
    struct err err = ERR_INIT;
    log_init("images-tool");
    fault_init();
    if (argc != 9 || parse_u64(argv[4], 1, INT64_MAX, &config.size_max_bytes, &err) != 0 ||
        parse_u64(argv[5], 1, INT64_MAX, &config.entries_max, &err) != 0 ||
        parse_u64(argv[6], 0, 1 << 20, &timeout_s, &err) != 0) {
        (void)fputs("images-tool FOLDER STORE UNPACK BYTES ENTRIES SECONDS SCRATCH MOUNT\n",
                    stderr);
        return EXIT_USAGE;
    }
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* as the engine is */
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        chdir(argv[7]) != 0) {
        perror("images-tool");
        return 1;
    }
    /* In the namespace that they are used in: a mount of another one can't be cloned. */
    config.folder_fd = open_path(argv[1], O_PATH | O_DIRECTORY);
    config.store_fd = open_path(argv[2], O_PATH | O_DIRECTORY);
    config.unpack_fd = open_path(argv[3], O_PATH);
    config.timeout_s = (unsigned)timeout_s;
    if (config.folder_fd < 0 || config.store_fd < 0 || config.unpack_fd < 0) {
        perror("images-tool");
        return 1;
    }
    if (images_open(&config, &images, &err) != 0) {
        log_error("%s", err.message);
        return 1;
    }
    serve(images, argv[8]);
    images_free(images);
    return 0;
}
