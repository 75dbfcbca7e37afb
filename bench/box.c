/* Owns the shortest way from clone3(2) to execve(2) in a root of its own. Refuses to be safe. */
#include "box.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

#define ID_MAP "0 1879048192 65536\n"

enum { EXIT_BOX = 125 };

static const char *const folders[] = {"usr", "proc", "tmp"};
/* Debian and its kin since 2020: these are links into /usr. */
static const char *const links[] = {"bin", "lib", "lib64"};

static _Noreturn void fail(const char *step)
{
    perror(step);
    _exit(EXIT_BOX);
}

static void build_root(void)
{
    /* A mount point that is there on every host; in this namespace nobody misses it. */
    if (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=0755") != 0 ||
        chdir("/tmp") != 0)
        fail("root");
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        if (mkdir(folders[i], 0755) != 0)
            fail(folders[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
        char target[32];
        (void)snprintf(target, sizeof(target), "usr/%s", links[i]);
        if (symlink(target, links[i]) != 0)
            fail(links[i]);
    }
    if (mount("/usr", "usr", NULL, MS_BIND | MS_REC, NULL) != 0)
        fail("bind /usr");
    if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
        fail("mount /proc");
    if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
        fail("pivot_root");
}

static _Noreturn void run_child(char *const *argv, char *const *envp, int stdout_fd, const int *go)
{
    char byte = 0;
    (void)close(go[1]); /* else its end is never seen */
    if (read(go[0], &byte, 1) != 1)
        _exit(EXIT_BOX);
    /* The raw calls: glibc's ask every thread to follow, and in here there is only this one. */
    if (syscall(SYS_setresgid, 0, 0, 0) != 0 || syscall(SYS_setresuid, 0, 0, 0) != 0)
        fail("ids");
    build_root();
    if (dup2(stdout_fd, STDOUT_FILENO) < 0)
        fail("standard output");
    (void)execve(argv[0], argv, envp);
    fail(argv[0]);
}

static int write_maps(pid_t pid, struct err *err)
{
    static const char *const files[] = {"uid_map", "gid_map"};
    int result = 0;
    for (size_t i = 0; i < ARRAY_SIZE(files) && result == 0; i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, files[i]);
        result = fd_write_file_at(AT_FDCWD, path, ID_MAP, err);
    }
    return result;
}

int box_start(char *const *argv, char *const *envp, int stdout_fd, pid_t *out_pid, struct err *err)
{
    int go[2];
    if (pipe2(go, O_CLOEXEC) != 0)
        return err_sys(err, errno, "pipe");
    FD_AUTO int read_fd = go[0];
    FD_AUTO int write_fd = go[1];
    struct clone_args args;
    memset(&args, 0, sizeof(args));
    args.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                 CLONE_NEWUTS | CLONE_NEWCGROUP;
    args.exit_signal = SIGCHLD;
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid < 0)
        return err_sys(err, errno, "clone into new namespaces");
    if (pid == 0)
        run_child(argv, envp, stdout_fd, go);
    *out_pid = pid;
    /* Without its maps the child reads the end of the pipe and leaves: reaping finds that out. */
    int result = write_maps(pid, err);
    if (result == 0)
        result = fd_write_all(write_fd, "G", 1, err);
    return result;
}
