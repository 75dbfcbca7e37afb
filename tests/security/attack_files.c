/* Attacks on the host's files, and on the image as a way to them. */
#include "attack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char program[] = "/usr/bin/env"; /* of the host, by the image */

void attack_host_file(struct finding *finding)
{
    judge_fd(finding, open(given("ATTACK_HOST_FILE"), O_RDONLY | O_CLOEXEC), "open for reading");
    judge_fd(finding, open(given("ATTACK_HOST_FILE"), O_WRONLY | O_CLOEXEC), "open for writing");
    judge_fd(finding, open(given("ATTACK_HOST_FILE"), O_PATH | O_CLOEXEC), "open as a path");
}

/* FNV-1a of a file; 0 when there is none. */
static unsigned long hash_of(const char *path)
{
    unsigned char data[65536];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, data, sizeof(data)) : -1;
    if (fd >= 0)
        (void)close(fd);
    unsigned long hash = 14695981039346656037UL;
    for (ssize_t i = 0; i < got; i++)
        hash = (hash ^ data[i]) * 1099511628211UL;
    return got > 0 ? hash : 0;
}

/* The image may have files of these names; the host's are known by their hashes. */
void attack_host_shadow(struct finding *finding)
{
    static const char *const names[] = {"shadow", "gshadow", "sudoers"};
    for (size_t i = 0; i < 3; i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "/etc/%s", names[i]);
        unsigned long hash = hash_of(path);
        (void)snprintf(path, sizeof(path), "ATTACK_HASH_%s", names[i]);
        if (hash != 0 && hash == given_number(path))
            escaped(finding, "the host's %s was read", names[i]);
        else if (hash != 0)
            harmless(finding, "the image has another %s", names[i]);
        else if (finding->verdict == VERDICT_NONE)
            absent(finding, "none is there");
    }
}

void attack_state_folder(struct finding *finding)
{
    static const char *const names[] = {"", "/secret", "/priv", "/priv/instance", "/db", "/run"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[4096];
        (void)snprintf(path, sizeof(path), "%s%s", given("ATTACK_STATE"), names[i]);
        judge_fd(finding, open(path, O_RDONLY | O_CLOEXEC), names[i]);
    }
}

void attack_dotdot(struct finding *finding)
{
    static const char up[] = "../../../../../../../../../../../../../../../..";
    static const char *const starts[] = {"/", "/workspace", "/proc/self", "/usr", "/dev/pts"};
    struct stat root;
    if (stat("/", &root) != 0)
        return;
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        char path[4096];
        struct stat info;
        int start = open(starts[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fstatat(start, up, &info, 0) == 0 &&
            (info.st_dev != root.st_dev || info.st_ino != root.st_ino))
            escaped(finding, ".. left the root from %s", starts[i]);
        (void)snprintf(path, sizeof(path), "%s%s", up, given("ATTACK_HOST_FILE"));
        judge_fd(finding, openat(start, path, O_RDONLY | O_CLOEXEC), "the host's file from below");
        (void)close(start);
    }
}

/* Calls use(path) for /proc/N/what of each process and of ourselves. */
static void each_process(struct finding *finding, const char *what,
                         void (*use)(struct finding *finding, const char *path))
{
    char path[512];
    DIR *folder = opendir("/proc");
    struct dirent *entry;
    while (folder && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        (void)snprintf(path, sizeof(path), "/proc/%.20s/%s", entry->d_name, what);
        use(finding, path);
    }
    if (folder)
        (void)closedir(folder);
}

/* A root or working directory of a process of ours is our own root; the host's file is below
 * neither. */
static void use_root(struct finding *finding, const char *path)
{
    char full[4096];
    (void)snprintf(full, sizeof(full), "%s/%s", path, given("ATTACK_HOST_FILE"));
    judge_fd(finding, open(full, O_RDONLY | O_CLOEXEC), path);
    (void)snprintf(full, sizeof(full), "%s/../../../..%s", path, given("ATTACK_HOST_FILE"));
    judge_fd(finding, open(full, O_RDONLY | O_CLOEXEC), path);
}

void attack_proc_root_links(struct finding *finding)
{
    each_process(finding, "root", use_root);
    each_process(finding, "cwd", use_root);
    judge_fd(finding, open("/proc/1/root", O_PATH | O_CLOEXEC), "/proc/1/root");
    judge_fd(finding, open("/proc/1/cwd", O_PATH | O_CLOEXEC), "/proc/1/cwd");
}

/* Opens all that a folder of /proc has; what leads to a file is only an escape when it is
 * foreign. */
static void use_links(struct finding *finding, const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;
    if (!folder) {
        judge(finding, -1, path);
        return;
    }
    while ((entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] != '.')
            judge_fd(finding, openat(dirfd(folder), entry->d_name, O_RDWR | O_CLOEXEC), path);
    }
    (void)closedir(folder);
}

void attack_proc_map_files(struct finding *finding)
{
    use_links(finding, "/proc/1/map_files");
    use_links(finding, "/proc/self/map_files");
}

void attack_proc_fd_links(struct finding *finding)
{
    use_links(finding, "/proc/1/fd");
    for (int fd = 0; fd < 64; fd++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/1/fd/%d", fd);
        judge_fd(finding, open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), path);
    }
}

void attack_leaked_fds(struct finding *finding)
{
    if (first_fds[0])
        escaped(finding, "%s", first_fds);
    else
        stopped(finding, "none beyond 0, 1 and 2");
}

void attack_fd_as_cwd(struct finding *finding)
{
    stopped(finding, "no folder among the descriptors");
    for (int fd = 0; fd < 1024; fd++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (chdir(path) == 0)
            escaped(finding, "%s is a folder", path);
        (void)snprintf(path, sizeof(path), "/proc/1/fd/%d", fd);
        if (chdir(path) == 0)
            escaped(finding, "%s is a folder", path);
    }
}

/* The handle of an inode by its number: 2 is the root of most disks. */
void attack_file_handles(struct finding *finding)
{
    struct {
        unsigned size;
        int type;
        unsigned char bytes[128];
    } handle;
    static const char *const mounts[] = {"/usr", "/etc", "/", "/proc"};
    for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
        int mount_fd = open(mounts[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (unsigned inode = 1; inode < 4; inode++) {
            memset(&handle, 0, sizeof(handle));
            handle.size = 8;
            handle.type = 1; /* FILEID_INO32_GEN */
            memcpy(handle.bytes, &inode, sizeof(inode));
            judge_fd(finding,
                     (int)syscall(SYS_open_by_handle_at, mount_fd, &handle, O_RDONLY | O_CLOEXEC),
                     mounts[i]);
        }
        (void)close(mount_fd);
    }
}

void attack_chroot_escape(struct finding *finding)
{
    struct stat before;
    struct stat after;
    int outside = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    (void)mkdir("/tmp/below", 0755);
    if (stat("/", &before) != 0 || chroot("/tmp/below") != 0) {
        judge(finding, -1, "chroot");
        return;
    }
    (void)!fchdir(outside);
    for (int i = 0; i < 64; i++)
        (void)!chdir("..");
    (void)!chroot(".");
    if (stat("/", &after) == 0 && after.st_dev == before.st_dev && after.st_ino == before.st_ino)
        harmless(finding, "chroot is allowed; the way out of it ends in the sandbox's root");
    judge_fd(finding, open(given("ATTACK_HOST_FILE"), O_RDONLY | O_CLOEXEC), "the host's file");
    if (finding->verdict == VERDICT_ABSENT)
        harmless(finding, "chroot is allowed; the way out of it ends in the sandbox's root");
}

void attack_symlink_to_host(struct finding *finding)
{
    (void)unlink("/tmp/link");
    if (symlink(given("ATTACK_HOST_FILE"), "/tmp/link") != 0)
        return;
    judge_fd(finding, open("/tmp/link", O_RDONLY | O_CLOEXEC), "the link");
    judge_any(finding, open("/tmp/link", O_WRONLY | O_CREAT | O_CLOEXEC, 0600),
              "creation through it");
}

void attack_hardlink_to_host(struct finding *finding)
{
    int fd = open(program, O_RDONLY | O_CLOEXEC);
    judge(finding, link(program, "/tmp/hard"), "link");
    judge(finding, linkat(fd, "", AT_FDCWD, "/tmp/hard", AT_EMPTY_PATH), "link of a descriptor");
    judge(finding, linkat(AT_FDCWD, "/proc/self/exe", AT_FDCWD, "/usr/bin/x", AT_SYMLINK_FOLLOW),
          "link into the image");
    (void)close(fd);
}

void attack_host_program(struct finding *finding)
{
    int fd = open(program, O_RDONLY | O_CLOEXEC);
    char again[64];
    (void)snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
    judge_fd(finding, open(program, O_WRONLY | O_CLOEXEC), "open for writing");
    judge_fd(finding, open(again, O_RDWR | O_CLOEXEC), "open again for writing");
    judge(finding, truncate(program, 0), "truncate");
    judge(finding, chmod(program, 06777), "chmod");
    judge(finding, fchmod(fd, 06777), "fchmod");
    judge(finding, chown(program, getuid(), getgid()), "chown");
    judge(finding, utimensat(AT_FDCWD, program, NULL, 0), "utimensat");
    judge(finding, setxattr(program, "user.berth", "x", 1, 0), "setxattr");
    judge(finding, unlink(program), "unlink");
    judge(finding, rename(program, "/usr/bin/env2"), "rename");
    judge(finding, rename("/usr/bin", "/usr/bin2"), "rename of its folder");
    judge(finding, symlink("/tmp", "/usr/bin/berth-attack"), "symlink beside it");
    (void)close(fd);
}

static void try_device(struct finding *finding, mode_t kind, dev_t number, const char *what)
{
    (void)unlink("/tmp/device");
    if (mknod("/tmp/device", kind | 0666, number) != 0) {
        judge(finding, -1, what);
        return;
    }
    int fd = open("/tmp/device", O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    judge_fd(finding, fd, what);
    judge_fd(finding, open("/tmp/device", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC), what);
}

void attack_host_disk(struct finding *finding)
{
    struct stat info;
    if (stat("/usr", &info) == 0)
        try_device(finding, S_IFBLK, info.st_dev, "the device below /usr");
    for (unsigned major = 8; major < 11; major++)
        try_device(finding, S_IFBLK, makedev(major, 0), "a disk");
    try_device(finding, S_IFBLK, makedev(254, 0), "a virtual disk");
    try_device(finding, S_IFBLK, makedev(259, 0), "an NVMe disk");
}

void attack_host_devices(struct finding *finding)
{
    static const struct {
        unsigned major, minor;
        const char *what;
    } devices[] = {{1, 1, "mem"},     {1, 2, "kmem"},
                   {1, 4, "port"},    {1, 11, "kmsg"},
                   {4, 0, "tty0"},    {5, 1, "console"},
                   {10, 229, "fuse"}, {10, 232, "kvm"},
                   {10, 200, "tun"},  {10, 237, "loop-control"},
                   {1, 3, "null"}};
    for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++)
        try_device(finding, S_IFCHR, makedev(devices[i].major, devices[i].minor), devices[i].what);
    try_device(finding, S_IFBLK, makedev(7, 0), "loop0");
}

void attack_file_system_ioctls(struct finding *finding)
{
    static const char *const places[] = {"/usr", "/usr/bin/env", "/etc/passwd"};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        int fd = open(places[i], O_RDONLY | O_CLOEXEC);
        int flags = 0x10; /* FS_IMMUTABLE_FL */
        struct fsxattr attributes;
        struct fstrim_range range = {.start = 0, .len = 4096, .minlen = 0};
        memset(&attributes, 0, sizeof(attributes));
        attributes.fsx_projid = 77;
        judge_any(finding, ioctl(fd, FS_IOC_SETFLAGS, &flags), "flags");
        judge_any(finding, ioctl(fd, FS_IOC_FSSETXATTR, &attributes), "project id");
        judge_any(finding, ioctl(fd, FITRIM, &range), "trim");
        (void)close(fd);
    }
}

void attack_foreign_names(struct finding *finding)
{
    static const char *const folders[] = {"/tmp",       "/var/tmp", "/dev/shm", "/home",
                                          "/workspace", "/mnt",     "/run",     "/root"};
    stopped(finding, "none");
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        DIR *folder = opendir(folders[i]);
        struct dirent *entry;
        while (folder && (entry = readdir(folder)) != NULL)
            look_at(finding, entry->d_name, strlen(entry->d_name), folders[i]);
        if (folder)
            (void)closedir(folder);
    }
}

void attack_host_fifo(struct finding *finding)
{
    judge_fd(finding, open(given("ATTACK_HOST_FIFO"), O_RDWR | O_NONBLOCK | O_CLOEXEC), "open");
}
