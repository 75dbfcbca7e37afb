/* Owns the steps from an empty file to a mounted disk. Runs in a child that holds three descriptors
 * of the engine and dies with it, the first process of a pid namespace, so that the tools which it
 * runs die with it too; refuses to mount what another loop device holds.
 *
 * Measured on an idle host, in ms: 2.5 in all; mke2fs 1.7 (its process is most of that), loop
 * device 0.05, mount 0.25, lost+found 0.2; a journal adds 0.1 to the mount and 0.6 to its end. The
 * options of mke2fs make no difference of time, but 2 MiB (64 MiB disk) to 37 MiB (1 GiB) written
 * or not: nothing zeroes what is a hole in a fresh sparse file (lazy_itable_init, noinit_itable).
 */
#include "native/disk_make.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <linux/mount.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/mem.h"
#include "native/spare.h"

enum {
    BLOCK_BYTES = 4096,
    GROUP_BLOCKS = 8 * BLOCK_BYTES, /* one bitmap block counts them */
    INODE_BYTES = 256,
    DESCRIPTOR_BYTES = 32,
    TOOL_IMAGE_FD = 3,
    LOOP_TRIES = 64,
    EXIT_NO_EXEC = 127,
    E2FSCK_BAD = ~3, /* 0: clean, 1 and 2: repaired (e2fsck(8)) */
};

/* No backups of the superblock: they are written, and nobody would look for them here.
 * metadata_csum lets the kernel see what a bad block of the host did. */
#define FEATURES                                                                                   \
    "none,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,huge_file,large_file,"  \
    "metadata_csum,sparse_super2"

static uint64_t divide_up(uint64_t value, uint64_t by)
{
    return (value + by - 1) / by;
}

static uint64_t inode_count(uint64_t size_bytes, bool keep)
{
    uint64_t count = size_bytes / DISK_BYTES_PER_INODE;
    return (count < DISK_INODES_MIN ? DISK_INODES_MIN : count) + (keep ? SPARE_FILES : 0);
}

/* 1024 blocks is the smallest that jbd2 takes. A journal is filled round and round, so all of it is
 * written in the end. */
static uint64_t journal_bytes(uint64_t size_bytes)
{
    return size_bytes <= UINT64_C(256) << 20 ? UINT64_C(4) << 20 : UINT64_C(16) << 20;
}

/* The layout: Documentation/filesystems/ext4/. What the kernel holds back for its own metadata
 * (2 %, at most 4096 blocks) comes on top, and so does a little for extent trees and folders. */
uint64_t disk_image_bytes(uint64_t size_bytes, bool keep)
{
    const uint64_t files = divide_up(size_bytes, BLOCK_BYTES);
    const uint64_t inodes = inode_count(size_bytes, keep);
    const uint64_t journal = keep ? journal_bytes(size_bytes) / BLOCK_BYTES : 0;
    uint64_t total = 0;
    uint64_t groups = files / GROUP_BLOCKS;
    do {
        groups++;
        uint64_t table = divide_up(divide_up(inodes, groups) * INODE_BYTES, BLOCK_BYTES);
        uint64_t own = groups * (2 + table) + divide_up(groups * DESCRIPTOR_BYTES, BLOCK_BYTES) +
                       journal + (keep ? SPARE_BLOCKS : 0) + 16;
        uint64_t held = (files + own) / 49 + 1;
        total = files + files / BLOCK_BYTES + 64 + own + (held < 4096 ? held : 4096);
        /* mke2fs drops a last group that holds little more than its own tables. */
        uint64_t least = (groups - 1) * GROUP_BLOCKS + table + 2 + 64;
        if (groups > 1 && total < least)
            total = least;
    } while (total > groups * GROUP_BLOCKS);
    return total * BLOCK_BYTES;
}

bool disk_find_tool(const char *name, char *out, size_t size)
{
    static const char *const folders[] = {"/usr/sbin", "/sbin"};
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        int length = snprintf(out, size, "%s/%s", folders[i], name);
        if (length > 0 && (size_t)length < size && access(out, X_OK) == 0)
            return true;
    }
    return false;
}

int disk_open_node(const char *path, mode_t type, const char *sys_path, struct err *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        char text[32];
        unsigned major_number = 0;
        unsigned minor_number = 0;
        ssize_t size = fd_read_file_at(AT_FDCWD, sys_path, text, sizeof(text), err);
        if (size < 0)
            return (int)size;
        char *rest = NULL;
        major_number = (unsigned)strtoul(text, &rest, 10);
        minor_number = *rest == ':' ? (unsigned)strtoul(rest + 1, NULL, 10) : 0;
        if (mknod(path, type | 0600, makedev(major_number, minor_number)) != 0 && errno != EEXIST)
            return err_sys(err, errno, "make %s", path);
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    }
    return fd < 0 ? err_sys(err, errno, "open %s", path) : fd;
}

/* Before exec: the image is the one descriptor beside the usual three, but for a copy of the
 * socket, which is not to end before the tool: whoever then waits for us waits for it, too. */
static _Noreturn void exec_tool(char *const argv[], const struct disk_plan *plan, int output_fd)
{
    char *const environment[] = {NULL};
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fcntl(plan->reply_fd, F_DUPFD, TOOL_IMAGE_FD + 1) < 0 || dup2(null_fd, STDIN_FILENO) < 0 ||
        dup2(output_fd, STDOUT_FILENO) < 0 || dup2(output_fd, STDERR_FILENO) < 0 ||
        dup2(plan->image_fd, TOOL_IMAGE_FD) < 0)
        _exit(EXIT_NO_EXEC);
    (void)execve(argv[0], argv, environment);
    _exit(EXIT_NO_EXEC);
}

/* Reads to the end and keeps the last line: a tool's warnings come before what it died of. */
static void read_last_line(int fd, char *out, size_t size)
{
    size_t used = 0;
    bool ended = false;
    out[0] = '\0';
    for (;;) {
        char byte = '\0';
        ssize_t got = read(fd, &byte, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return;
        if (byte == '\n') {
            ended = true;
            continue;
        }
        if (ended)
            used = 0;
        ended = false;
        if (used + 1 < size)
            out[used++] = byte >= ' ' ? byte : ' ';
        out[used] = '\0';
    }
}

/* Runs a program of e2fsprogs on the image. It gets a descriptor and no path. */
static int run_tool(char *const argv[], const struct disk_plan *plan, int *out_code,
                    struct err *err)
{
    int pair[2];
    if (pipe2(pair, O_CLOEXEC) != 0)
        return err_sys(err, errno, "pipe of %s", argv[0]);
    FD_AUTO int read_fd = pair[0];
    FD_AUTO int write_fd = pair[1];
    pid_t pid = fork();
    if (pid < 0)
        return err_sys(err, errno, "fork for %s", argv[0]);
    if (pid == 0)
        exec_tool(argv, plan, write_fd);
    fd_close(&write_fd);
    char line[200];
    read_last_line(read_fd, line, sizeof(line));
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return err_sys(err, errno, "wait for %s", argv[0]);
    }
    *out_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (*out_code != 0)
        (void)err_set(err, ERR_INTERNAL, "%s ended with %d: %s", argv[0], *out_code, line);
    return 0;
}

/* A literal as an argument of exec, which writes to none (execve(2)). */
static char *word(const char *text)
{
    union {
        const char *in;
        char *out;
    } cast = {.in = text};
    return cast.out;
}

static int make_filesystem(const struct disk_plan *plan, struct err *err)
{
    char tool[64];
    char inodes[24];
    char reserved[32];
    char journal[32];
    char image[32];
    if (!disk_find_tool("mke2fs", tool, sizeof(tool)))
        return err_public(err, ERR_UNSUPPORTED, "mke2fs is missing (package e2fsprogs)");
    (void)snprintf(inodes, sizeof(inodes), "%" PRIu64, inode_count(plan->size_bytes, plan->keep));
    /* It wants a percentage, and rounds the blocks down. */
    (void)snprintf(reserved, sizeof(reserved), "-m%.15f",
                   100.0 * (SPARE_BLOCKS + 0.5) * BLOCK_BYTES /
                       (double)disk_image_bytes(plan->size_bytes, true));
    (void)snprintf(journal, sizeof(journal), "size=%" PRIu64,
                   journal_bytes(plan->size_bytes) >> 20);
    (void)snprintf(image, sizeof(image), "/proc/self/fd/%d", TOOL_IMAGE_FD);
    char *const argv[] = {
        tool,
        word("-qF"),
        word("-b4096"),
        word("-I256"),
        plan->keep ? reserved : word("-m0"),
        word("-N"),
        inodes,
        word("-O"),
        word(plan->keep ? FEATURES ",has_journal" : FEATURES),
        word("-E"),
        word("nodiscard,num_backup_sb=0,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"),
        word(plan->keep ? "-J" : image),
        plan->keep ? journal : NULL,
        image,
        NULL,
    };
    int code = 0;
    int result = run_tool(argv, plan, &code, err);
    return result == 0 && code != 0 ? -ERR_INTERNAL : result;
}

/* Replays the journal, and repairs what can be repaired without asking anybody when the kernel had
 * marked the file system as faulty; quick for one that is well. */
static int check_filesystem(const struct disk_plan *plan, struct err *err)
{
    char tool[64];
    char image[32];
    if (!disk_find_tool("e2fsck", tool, sizeof(tool)))
        return err_public(err, ERR_UNSUPPORTED, "e2fsck is missing (package e2fsprogs)");
    (void)snprintf(image, sizeof(image), "/proc/self/fd/%d", TOOL_IMAGE_FD);
    /* What the preening of -p leaves alone, when the host was full or a block of it is bad, is
     * mended the other way: some of what was not synced may be gone, but the rest is to be had
     * again. */
    char *const preen[] = {tool, word("-p"), image, NULL};
    char *const mend[] = {tool, word("-f"), word("-y"), image, NULL};
    int code = 0;
    int result = run_tool(preen, plan, &code, err);
    if (result == 0 && (code & E2FSCK_BAD) != 0)
        result = run_tool(mend, plan, &code, err);
    return result == 0 && (code & E2FSCK_BAD) != 0 ? -ERR_INTERNAL : result;
}

/* Takes a free loop device. Between LOOP_CTL_GET_FREE and LOOP_CONFIGURE any program of the host
 * may take it or remove it: then the next one (loop(4)). Direct I/O where the file's file system
 * has it (the kernel itself goes on without where not): nothing is in the page cache twice. */
static int attach_loop(int image_fd, int *out_fd, struct err *err)
{
    FD_AUTO int control_fd =
        disk_open_node("/dev/loop-control", S_IFCHR, "/sys/class/misc/loop-control/dev", err);
    if (control_fd < 0)
        return control_fd;
    for (int i = 0; i < LOOP_TRIES; i++) {
        char path[32];
        char sys_path[48];
        int number = ioctl(control_fd, LOOP_CTL_GET_FREE);
        if (number < 0)
            return err_sys(err, errno, "find a free loop device");
        (void)snprintf(path, sizeof(path), "/dev/loop%d", number);
        (void)snprintf(sys_path, sizeof(sys_path), "/sys/block/loop%d/dev", number);
        FD_AUTO int fd = disk_open_node(path, S_IFBLK, sys_path, err);
        if (fd < 0)
            continue;
        struct loop_config config = {
            .fd = (unsigned)image_fd,
            .block_size = BLOCK_BYTES,
            .info = {.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO},
        };
        if (ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            *out_fd = fd_take(&fd);
            return 0;
        }
        if (errno != EBUSY && errno != ENXIO && errno != ENODEV)
            return err_sys(err, errno, "set up %s", path);
    }
    return err_set(err, ERR_INTERNAL, "no loop device could be had in %d tries", LOOP_TRIES);
}

/* Puts what the file system says of a failure into the error (fsopen(2) contexts are read). */
static int fail_mount(int context_fd, const char *step, struct err *err)
{
    char text[200];
    int saved = errno;
    ssize_t size = read(context_fd, text, sizeof(text) - 1);
    text[size > 0 ? size : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return err_sys(err, saved, "%s of ext4 (%s)", step, text);
}

static int mount_loop(int loop_fd, bool keep, int *out_fd, struct err *err)
{
    /* Read-only after an error: nothing is written over what might be damaged. Syncs of a disk that
     * nobody reads later need not reach the hardware. Deleted space goes back at once only with a
     * journal, which gathers it: without one, removing 5,000 files took 0.4 s and not 0.05. */
    const char *const by_kind = keep ? "discard" : "nobarrier";
    char source[32];
    /* The device that we hold, whatever lies at its path; and no name of the host in mountinfo. */
    (void)snprintf(source, sizeof(source), "/proc/self/fd/%d", loop_fd);
    FD_AUTO int context_fd = (int)syscall(SYS_fsopen, "ext4", FSOPEN_CLOEXEC);
    if (context_fd < 0)
        return err_sys(err, errno, "fsopen ext4");
    if (syscall(SYS_fsconfig, context_fd, FSCONFIG_SET_STRING, "source", source, 0) != 0 ||
        syscall(SYS_fsconfig, context_fd, FSCONFIG_SET_STRING, "errors", "remount-ro", 0) != 0 ||
        syscall(SYS_fsconfig, context_fd, FSCONFIG_SET_FLAG, "noinit_itable", NULL, 0) != 0 ||
        syscall(SYS_fsconfig, context_fd, FSCONFIG_SET_FLAG, by_kind, NULL, 0) != 0)
        return fail_mount(context_fd, "options", err);
    if (syscall(SYS_fsconfig, context_fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0)
        return fail_mount(context_fd, "mount", err);
    *out_fd = (int)syscall(SYS_fsmount, context_fd, FSMOUNT_CLOEXEC,
                           MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME);
    return *out_fd < 0 ? err_sys(err, errno, "fsmount ext4") : 0;
}

/* A new disk gets its name once it is good to be used. The name of one that is kept is on the
 * hardware before anybody writes to it. */
static int name_disk(const struct disk_plan *plan, struct err *err)
{
    if (renameat(plan->dir_fd, plan->made_name, plan->dir_fd, plan->name) != 0)
        return err_sys(err, errno, "rename %s", plan->made_name);
    if (plan->keep && (fsync(plan->image_fd) != 0 || fsync(plan->dir_fd) != 0))
        return err_sys(err, errno, "sync %s", plan->name);
    return 0;
}

static int make_spare(int mount_fd, struct err *err)
{
    int failed = spare_make(mount_fd);
    return failed != 0 ? err_sys(err, failed, "make the folder of spare files") : 0;
}

static int make(const struct disk_plan *plan, int *out_mount_fd, struct err *err)
{
    const bool fresh = plan->size_bytes > 0;
    FD_AUTO int loop_fd = -1;
    FD_AUTO int mount_fd = -1;
    fault_point("disk.file");
    /* The loop device holds this same open file and with it the lock. Waits for the end of an
     * earlier mount. */
    while (flock(plan->image_fd, LOCK_EX) != 0) {
        if (errno != EINTR)
            return err_sys(err, errno, "lock %s", plan->name);
    }
    int result = fresh ? make_filesystem(plan, err) : check_filesystem(plan, err);
    if (result != 0)
        return result;
    fault_point("disk.mkfs");
    result = attach_loop(plan->image_fd, &loop_fd, err);
    if (result != 0)
        return result;
    fault_point("disk.loop");
    result = mount_loop(loop_fd, plan->keep, &mount_fd, err);
    if (result != 0)
        return result;
    fault_point("disk.mount");
    /* e2fsck makes it again when it is needed. One with something in it stays. */
    if (unlinkat(mount_fd, "lost+found", AT_REMOVEDIR) != 0 && errno != ENOENT &&
        errno != ENOTEMPTY && errno != EEXIST)
        return err_sys(err, errno, "remove lost+found");
    if (fresh && plan->keep)
        result = make_spare(mount_fd, err);
    else
        spare_release(mount_fd);
    if (fresh && result == 0)
        result = name_disk(plan, err);
    fault_point("disk.named");
    if (result == 0)
        *out_mount_fd = fd_take(&mount_fd);
    return result;
}

/* Closes every copy of the engine's descriptors but three, which become 3 to 5. */
static int leave_engine(struct disk_plan *plan, struct err *err)
{
    enum { FIRST = 3, COUNT = 3 };
    int *const kept[COUNT] = {&plan->reply_fd, &plan->dir_fd, &plan->image_fd};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGCHLD, SIG_DFL);
    for (int i = 0; i < COUNT; i++) {
        *kept[i] = fcntl(*kept[i], F_DUPFD_CLOEXEC, FIRST + COUNT);
        if (*kept[i] < 0)
            return err_sys(err, errno, "descriptors of a disk");
    }
    for (int i = 0; i < COUNT; i++) {
        *kept[i] = dup3(*kept[i], FIRST + i, O_CLOEXEC);
        if (*kept[i] < 0)
            return err_sys(err, errno, "descriptors of a disk");
    }
    (void)syscall(SYS_close_range, FIRST + COUNT, ~0U, 0U);
    /* An engine that died before it could be a cause of our death. */
    struct pollfd poller = {.fd = plan->reply_fd};
    if (poll(&poller, 1, 0) != 0)
        _exit(1);
    return 0;
}

_Noreturn void disk_make(const struct disk_plan *plan)
{
    struct disk_plan own = *plan;
    struct err err = ERR_INIT;
    int mount_fd = -1;
    int result = leave_engine(&own, &err);
    if (result == 0)
        result = make(&own, &mount_fd, &err);
    if (result == 0)
        err = ERR_INIT; /* what a tool said of a repair is no failure */
    (void)fd_send(own.reply_fd, &err, sizeof(err), &mount_fd, result == 0 ? 1 : 0, 0, NULL);
    _exit(0);
}
