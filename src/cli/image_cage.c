/* Owns the child that runs as nobody in particular. What it says is shown with everything replaced
 * that is not printable. */
#include "cli/image_cage.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

enum { EXIT_MISSING = 127, EXIT_CAGE = 126, LINE_SIZE = 512, ENV_MAX = 24 };

#define FILE_SIZE_MAX (UINT64_C(64) << 30)

/* What a program that goes to a registry may need of the environment. */
static const char *const passed_names[] = {
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",      "http_proxy",   "https_proxy",
    "no_proxy",   "ALL_PROXY",   "SSL_CERT_FILE", "SSL_CERT_DIR", "LANG",
};

/* ---- in the child ---- */

static void close_cage(const char *work_path, uid_t id)
{
    const struct rlimit size = {.rlim_cur = FILE_SIZE_MAX, .rlim_max = FILE_SIZE_MAX};
    const struct rlimit core = {.rlim_cur = 1, .rlim_max = 1};
    /* By its path: only what is opened in a mount namespace can be bound in it. */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount(work_path, IMAGE_CAGE_FOLDER, NULL, MS_BIND, NULL) != 0 ||
        mount(NULL, IMAGE_CAGE_FOLDER, NULL,
              MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0 ||
        chdir(IMAGE_CAGE_FOLDER) != 0 || setrlimit(RLIMIT_FSIZE, &size) != 0 ||
        setrlimit(RLIMIT_CORE, &core) != 0 || setgroups(0, NULL) != 0 ||
        setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        (void)dprintf(STDERR_FILENO, "can't be run without rights: %s\n", strerror(errno));
        _exit(EXIT_CAGE);
    }
    (void)umask(077);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* after the ids, which clear it */
}

static void fill_environment(char *envp[static ENV_MAX])
{
    static char home[] = "HOME=" IMAGE_CAGE_FOLDER;
    static char temporary[] = "TMPDIR=" IMAGE_CAGE_FOLDER;
    static char runtime[] = "XDG_RUNTIME_DIR=" IMAGE_CAGE_FOLDER;
    static char path[] = "PATH=/usr/local/bin:/usr/bin:/bin";
    size_t count = 0;
    envp[count++] = home;
    envp[count++] = temporary;
    envp[count++] = runtime;
    envp[count++] = path;
    for (char **one = environ; *one && count + 1 < ENV_MAX; one++) {
        for (size_t i = 0; i < ARRAY_SIZE(passed_names); i++) {
            const size_t size = strlen(passed_names[i]);
            if (strncmp(*one, passed_names[i], size) == 0 && (*one)[size] == '=' &&
                count + 1 < ENV_MAX)
                envp[count++] = *one;
        }
    }
    envp[count] = NULL;
}

static _Noreturn void run_child(const char *work_path, uid_t id, char *const argv[], int out_fd,
                                int err_fd)
{
    char *envp[ENV_MAX];
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    /* No terminal to type commands into (ioctl_tty(2), TIOCSTI); its Ctrl-C is for the command,
     * which then kills us. */
    if (setsid() < 0 || null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 ||
        dup2(out_fd, STDOUT_FILENO) < 0 || dup2(err_fd, STDERR_FILENO) < 0)
        _exit(EXIT_CAGE);
    close_cage(work_path, id);
    (void)syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
    fill_environment(envp);
    environ = envp; /* for the search of PATH */
    (void)execvp(argv[0], argv);
    _exit(errno == ENOENT || errno == EACCES ? EXIT_MISSING : EXIT_CAGE);
}

/* ---- what it says ---- */

struct lines {
    char text[LINE_SIZE];
    size_t size;
    char last[LINE_SIZE]; /* the last one that said something */
    bool silent;
};

/* logrus, which skopeo logs by: time="…" level=fatal msg="…" */
static void pick_message(const char *line, char out[static LINE_SIZE])
{
    const char *at = strstr(line, "msg=\"");
    size_t used = 0;
    at = at ? at + 5 : line;
    while (*at != '\0' && *at != '"' && used + 1 < LINE_SIZE) {
        if (*at == '\\' && at[1] != '\0')
            at++;
        out[used++] = *at++;
    }
    out[used] = '\0';
}

static void end_line(struct lines *lines)
{
    lines->text[lines->size] = '\0';
    if (lines->size > 0) {
        pick_message(lines->text, lines->last);
        if (!lines->silent)
            (void)fprintf(stderr, "  %s\n", lines->last);
    }
    lines->size = 0;
}

static void take_lines(struct lines *lines, const char *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        char byte = data[i];
        if (byte == '\n' || byte == '\r')
            end_line(lines);
        else if (lines->size + 1 < sizeof(lines->text))
            lines->text[lines->size++] = (char)(byte >= ' ' && byte <= '~' ? byte : '?');
    }
}

struct run {
    int out_fd;
    int err_fd;
    int signal_fd;
    struct buf *out; /* NULL: lines */
    struct lines lines;
};

/* Returns whether the stream goes on. */
static int take_stream(struct run *run, int *fd, bool is_out, struct err *err)
{
    char data[4096];
    ssize_t size = read(*fd, data, sizeof(data));
    if (size < 0 && errno == EINTR)
        return 0;
    if (size <= 0) {
        fd_close(fd);
        return 0;
    }
    if (is_out && run->out)
        return buf_append(run->out, data, (size_t)size, err);
    take_lines(&run->lines, data, (size_t)size);
    return 0;
}

/* Until both streams have ended. */
static int follow(struct run *run, struct err *err)
{
    while (run->out_fd >= 0 || run->err_fd >= 0) {
        struct pollfd polls[] = {{.fd = run->out_fd, .events = POLLIN},
                                 {.fd = run->err_fd, .events = POLLIN},
                                 {.fd = run->signal_fd, .events = POLLIN}};
        int result = 0;
        if (poll(polls, ARRAY_SIZE(polls), -1) < 0 && errno != EINTR)
            return err_sys(err, errno, "poll");
        if ((polls[2].revents & POLLIN) != 0)
            return err_set(err, ERR_CLOSED, "interrupted");
        if (polls[0].revents != 0)
            result = take_stream(run, &run->out_fd, true, err);
        if (result == 0 && polls[1].revents != 0)
            result = take_stream(run, &run->err_fd, false, err);
        if (result != 0)
            return result;
    }
    end_line(&run->lines);
    return 0;
}

static int judge(const char *program, const siginfo_t *end, const struct lines *lines,
                 struct err *err)
{
    if (end->si_code == CLD_EXITED && end->si_status == 0)
        return 0;
    if (end->si_code == CLD_EXITED && end->si_status == EXIT_MISSING)
        return err_set(err, ERR_NOT_FOUND, "%s is not installed", program);
    if (lines->last[0] != '\0')
        return err_set(err, ERR_UNAVAILABLE, "%s: %.250s", program, lines->last);
    return err_set(err, ERR_UNAVAILABLE, "%s ended with %s %d", program,
                   end->si_code == CLD_EXITED ? "status" : "signal", end->si_status);
}

int image_cage_run(const char *work_path, uid_t id, char *const argv[], struct buf *out,
                   struct err *err)
{
    int out_ends[2] = {-1, -1};
    int err_ends[2] = {-1, -1};
    siginfo_t end;
    FD_AUTO int signal_fd = -1;
    int result = fd_open_end_signals(&signal_fd, err);
    if (result != 0)
        return result;
    if (pipe2(out_ends, O_CLOEXEC) != 0 || pipe2(err_ends, O_CLOEXEC) != 0) {
        result = err_sys(err, errno, "pipe");
        fd_close(&out_ends[0]);
        fd_close(&out_ends[1]);
        return result;
    }
    const long flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | SIGCHLD;
    pid_t pid = (pid_t)syscall(SYS_clone, flags, 0L, 0L, 0L, 0L);
    if (pid == 0)
        run_child(work_path, id, argv, out_ends[1], err_ends[1]);
    fd_close(&out_ends[1]);
    fd_close(&err_ends[1]);
    struct run run = {.out_fd = out_ends[0],
                      .err_fd = err_ends[0],
                      .signal_fd = signal_fd,
                      .out = out,
                      .lines.silent = out != NULL};
    result = pid < 0 ? err_sys(err, errno, "namespaces for %s", argv[0]) : follow(&run, err);
    fd_close(&run.out_fd);
    fd_close(&run.err_fd);
    if (pid < 0)
        return result;
    if (result != 0)
        (void)kill(pid, SIGKILL);
    memset(&end, 0, sizeof(end));
    while (waitid(P_PID, (id_t)pid, &end, WEXITED) != 0 && errno == EINTR)
        continue;
    return result != 0 ? result : judge(argv[0], &end, &run.lines, err);
}
