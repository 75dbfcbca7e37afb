/* Owns the list of attacks and the way in which each is run: a process of its own, a time limit,
 * one line of JSON. `attack all` runs what can share a sandbox, `attack NAME...` those. */
#include "attack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

enum kind { KIND_CALL, KIND_READ, KIND_WRITE, KIND_CODE, KIND_ALONE };
enum { ATTACK_MS = 25000 };

struct attack {
    const char *name;
    enum kind kind;
    const char *path;
    const char *text;
    void (*run)(struct finding *finding);
    long number;
    long arguments[6];
};

#define SECTION(title)
#define HOST(name, how)
#define CALL(name, how, number, a, b, c, d, e, f)                                                  \
    {#name,                                                                                        \
     KIND_CALL,                                                                                    \
     NULL,                                                                                         \
     NULL,                                                                                         \
     NULL,                                                                                         \
     number,                                                                                       \
     {(long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)}},
#define READ(name, how, path) {#name, KIND_READ, path, NULL, NULL, 0, {0}},
#define WRITE(name, how, path, text) {#name, KIND_WRITE, path, text, NULL, 0, {0}},
#define CODE(name, how) {#name, KIND_CODE, NULL, NULL, attack_##name, 0, {0}},
#define ALONE(name, how) {#name, KIND_ALONE, NULL, NULL, attack_##name, 0, {0}},
static const struct attack attacks[] = {
#include "attacks.def"
};

#define COUNT (sizeof(attacks) / sizeof(attacks[0]))

char first_fds[512];

/* ---- findings ---- */

static void set(struct finding *finding, enum verdict verdict, const char *format, va_list words)
{
    char text[200];
    size_t used = 0;
    (void)vsnprintf(text, sizeof(text), format, words);
    if (finding->verdict == VERDICT_ESCAPED) { /* each of several is told, once */
        if (verdict != VERDICT_ESCAPED || strstr(finding->detail, text))
            return;
        used = strlen(finding->detail);
    }
    finding->verdict = verdict;
    (void)snprintf(finding->detail + used, sizeof(finding->detail) - used, "%s%s",
                   used > 0 ? "; " : "", text);
}

#define SETTER(name, verdict)                                                                      \
    void name(struct finding *finding, const char *format, ...)                                    \
    {                                                                                              \
        va_list words;                                                                             \
        va_start(words, format);                                                                   \
        set(finding, verdict, format, words);                                                      \
        va_end(words);                                                                             \
    }
SETTER(stopped, VERDICT_STOPPED)
SETTER(escaped, VERDICT_ESCAPED)
SETTER(harmless, VERDICT_HARMLESS)
SETTER(absent, VERDICT_ABSENT)

static enum verdict verdict_of(int number)
{
    static const int refusals[] = {EPERM,       EACCES,       ENOSYS,          EROFS,
                                   ESRCH,       EXDEV,        EAFNOSUPPORT,    EPROTONOSUPPORT,
                                   ENETUNREACH, ECONNREFUSED, ESOCKTNOSUPPORT, EHOSTUNREACH};
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        if (number == refusals[i])
            return VERDICT_STOPPED;
    }
    return number == ENOENT || number == ENXIO || number == ENODEV || number == ENOTDIR
               ? VERDICT_ABSENT
               : VERDICT_NONE;
}

void judge(struct finding *finding, long result, const char *what)
{
    int number = errno;
    if (result >= 0) {
        escaped(finding, "%s was allowed", what);
        return;
    }
    enum verdict verdict = verdict_of(number);
    if (finding->verdict == VERDICT_ESCAPED || finding->unsure)
        return;
    finding->sys_errno = number;
    if (verdict == VERDICT_STOPPED) {
        stopped(finding, "%s", what);
    } else if (verdict == VERDICT_ABSENT && finding->verdict != VERDICT_STOPPED) {
        absent(finding, "%s", what);
    } else if (verdict == VERDICT_NONE) {
        finding->verdict = VERDICT_NONE;
        finding->unsure = 1;
        (void)snprintf(finding->detail, sizeof(finding->detail), "%s got as far as its arguments",
                       what);
    }
}

void judge_fd(struct finding *finding, int fd, const char *what)
{
    judge(finding, fd, what);
    if (fd >= 0)
        (void)close(fd);
}

void judge_any(struct finding *finding, long result, const char *what)
{
    if (result < 0 && verdict_of(errno) == VERDICT_NONE) {
        finding->sys_errno = errno;
        stopped(finding, "%s", what);
    } else {
        judge(finding, result, what);
    }
}

/* ---- parameters and secrets ---- */

const char *given(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

unsigned long given_number(const char *name)
{
    return strtoul(given(name), NULL, 10);
}

int has_secret(const void *data, size_t size)
{
    const char *mark = given("ATTACK_MARK");
    return *mark && memmem(data, size, mark, strlen(mark)) != NULL;
}

void look_at(struct finding *finding, const void *data, size_t size, const char *where)
{
    if (has_secret(data, size))
        escaped(finding, "a secret came from %s", where);
}

long look_into(struct finding *finding, const char *path)
{
    static char data[65536];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, data, sizeof(data));
    int number = errno;
    (void)close(fd);
    errno = number;
    if (got > 0)
        look_at(finding, data, (size_t)got, path);
    return got;
}

/* ---- programs ---- */

int run_program(char *const argv[], char *out, size_t size)
{
    int ends[2];
    if (pipe(ends) != 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        int null_fd = open("/dev/null", O_RDWR);
        (void)dup2(null_fd, 0);
        (void)dup2(ends[1], 1);
        (void)dup2(ends[1], 2);
        (void)execv(argv[0], argv);
        _exit(127);
    }
    (void)close(ends[1]);
    size_t used = 0;
    ssize_t got = 0;
    while (used + 1 < size && (got = read(ends[0], out + used, size - used - 1)) > 0)
        used += (size_t)got;
    out[used] = '\0';
    (void)close(ends[0]);
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return status;
}

int copy_file(const char *from, const char *to, unsigned mode)
{
    char data[65536];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    ssize_t got = -1;
    while (in >= 0 && out >= 0 && (got = read(in, data, sizeof(data))) > 0) {
        if (write(out, data, (size_t)got) != got)
            break;
    }
    int result = got == 0 ? fchmod(out, mode) : -1;
    if (in >= 0)
        (void)close(in);
    if (out >= 0)
        (void)close(out);
    return result;
}

/* ---- the plain kinds ---- */

/* Names of a folder count like bytes of a file. */
static void run_read(const struct attack *attack, struct finding *finding)
{
    int fd = open(attack->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        judge(finding, -1, attack->path);
        return;
    }
    DIR *folder = fdopendir(fd);
    if (folder) {
        int names = 0;
        while (readdir(folder))
            names++;
        (void)closedir(folder);
        if (names > 2)
            escaped(finding, "%s has %d names", attack->path, names - 2);
        else
            stopped(finding, "%s is empty", attack->path);
        return;
    }
    char data[64];
    ssize_t got = read(fd, data, sizeof(data));
    if (got > 0)
        escaped(finding, "%s gave %zd bytes", attack->path, got);
    else if (got == 0)
        stopped(finding, "%s is empty", attack->path);
    else
        judge(finding, -1, attack->path);
    (void)close(fd);
}

static void run_write(const struct attack *attack, struct finding *finding)
{
    int created = 0;
    int fd = open(attack->path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        fd = open(attack->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        created = fd >= 0;
    }
    if (fd < 0) {
        judge(finding, -1, attack->path);
        return;
    }
    /* A file of /proc that is hidden is /dev/null, which takes everything. */
    struct stat info;
    if (fstat(fd, &info) == 0 && S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 3))
        stopped(finding, "%s is masked", attack->path);
    else
        judge(finding, write(fd, attack->text, strlen(attack->text)), attack->path);
    (void)close(fd);
    if (created)
        (void)unlink(attack->path); /* the attacks behind it find the image as it was */
}

static void run_call(const struct attack *attack, struct finding *finding)
{
    const long *a = attack->arguments;
    pid_t self = getpid();
    long result = syscall(attack->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (getpid() != self)
        _exit(0); /* a clone that was let through: the parent tells */
    judge(finding, result, attack->name);
}

static void run_attack(const struct attack *attack, struct finding *finding)
{
    switch (attack->kind) {
    case KIND_CALL:
        run_call(attack, finding);
        break;
    case KIND_READ:
        run_read(attack, finding);
        break;
    case KIND_WRITE:
        run_write(attack, finding);
        break;
    case KIND_CODE:
    case KIND_ALONE:
        attack->run(finding);
        break;
    }
}

/* ---- one process an attack ---- */

static void print_finding(const char *name, const struct finding *finding)
{
    static const char *const words[] = {"undecided", "stopped", "ESCAPED", "harmless", "absent"};
    char detail[sizeof(finding->detail)];
    size_t size = strnlen(finding->detail, sizeof(detail) - 1);
    for (size_t i = 0; i < size; i++) {
        char c = finding->detail[i];
        detail[i] = (char)(c < ' ' || c > '~' || c == '"' || c == '\\' ? '.' : c);
    }
    detail[size] = '\0';
    (void)printf("{\"name\": \"%s\", \"verdict\": \"%s\", \"errno\": %d, \"detail\": \"%s\"}\n",
                 name, words[finding->verdict], finding->sys_errno, detail);
    (void)fflush(stdout);
}

/* The finding comes over a pipe; what ends the process before is told as its detail. */
static void run_apart(const struct attack *attack)
{
    struct finding finding;
    int ends[2];
    memset(&finding, 0, sizeof(finding));
    if (pipe2(ends, O_CLOEXEC) != 0)
        exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        (void)setsid(); /* a group to kill, and a terminal can be its own */
        (void)close(ends[0]);
        run_attack(attack, &finding);
        _exit(write(ends[1], &finding, sizeof(finding)) == sizeof(finding) ? 0 : 1);
    }
    (void)close(ends[1]);
    struct pollfd waiting = {.fd = ends[0], .events = POLLIN};
    int ready = poll(&waiting, 1, ATTACK_MS);
    ssize_t got = ready > 0 ? read(ends[0], &finding, sizeof(finding)) : -1;
    (void)kill(-pid, SIGKILL);
    (void)kill(pid, SIGKILL);
    int status = 0;
    (void)waitpid(pid, &status, 0);
    (void)close(ends[0]);
    if (got != sizeof(finding)) {
        memset(&finding, 0, sizeof(finding));
        (void)snprintf(finding.detail, sizeof(finding.detail), "ended early: wait status %d%s",
                       status, ready == 0 ? ", out of time" : "");
    }
    print_finding(attack->name, &finding);
}

static void list_first_fds(void)
{
    size_t used = 0;
    for (int fd = 3; fd < 1024 && used + 128 < sizeof(first_fds); fd++) {
        char path[64];
        char target[96];
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t size = readlink(path, target, sizeof(target));
        if (size > 0)
            used += (size_t)snprintf(first_fds + used, sizeof(first_fds) - used, "%d %.*s ", fd,
                                     (int)size, target);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        (void)fprintf(stderr, "attack list | attack all | attack NAME...\n");
        return 2;
    }
    list_first_fds();
    for (size_t i = 0; i < COUNT; i++) {
        const struct attack *attack = &attacks[i];
        int wanted = strcmp(argv[1], "all") == 0 && attack->kind != KIND_ALONE;
        for (int j = 1; j < argc; j++)
            wanted |= strcmp(argv[j], attack->name) == 0;
        if (strcmp(argv[1], "list") == 0) {
            (void)puts(attack->name);
        } else if (wanted && attack->kind == KIND_ALONE) {
            struct finding finding;
            memset(&finding, 0, sizeof(finding));
            attack->run(&finding);
            print_finding(attack->name, &finding);
        } else if (wanted) {
            run_apart(attack);
        }
    }
    return 0;
}
