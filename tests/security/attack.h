/* The attacks of attacks.def in C: what their functions share.
 *
 * An attack runs in a process of its own and says what came of it in a struct finding. It never
 * says "stopped" because a call failed in any way: the error has to be one of refusal, or the
 * effect was looked for and not seen. */
#ifndef BERTH_TESTS_ATTACK_H
#define BERTH_TESTS_ATTACK_H

#include <stddef.h>
#include <sys/types.h>

enum verdict {
    VERDICT_NONE,    /* the attack has not decided; the suite fails it */
    VERDICT_STOPPED, /* refused, or without effect */
    VERDICT_ESCAPED,
    VERDICT_HARMLESS, /* allowed, and changes only what is the code's own */
    VERDICT_ABSENT    /* what it aims at is not there */
};

struct finding {
    enum verdict verdict;
    int sys_errno; /* of the refusal; 0: none */
    int unsure;    /* a call failed in a way that is no refusal */
    char detail[1000];
};

/* Each sets the verdict; an escape is never overwritten, and a further one is told behind it. The
 * detail is a printf format. */
__attribute__((format(printf, 2, 3))) void stopped(struct finding *finding, const char *format,
                                                   ...);
__attribute__((format(printf, 2, 3))) void escaped(struct finding *finding, const char *format,
                                                   ...);
__attribute__((format(printf, 2, 3))) void harmless(struct finding *finding, const char *format,
                                                    ...);
__attribute__((format(printf, 2, 3))) void absent(struct finding *finding, const char *format, ...);

/* Judges what a call returned, errno included: success is an escape, an error of refusal is
 * stopped, "no such thing" is absent, and any other error leaves the attack undecided, since the
 * kernel looked at the arguments before it refused. */
void judge(struct finding *finding, long result, const char *what);
/* The same, and closes what was opened. */
void judge_fd(struct finding *finding, int fd, const char *what);
/* The same for a call in which every error is as good: nothing came of it. */
void judge_any(struct finding *finding, long result, const char *what);

/* A signal by a pidfd, judged. */
void judge_pidfd_kill(struct finding *finding, pid_t pid, int number);

/* A parameter that the suite gave in the environment, as text or number; "" and 0 when missing. */
const char *given(const char *name);
unsigned long given_number(const char *name);

/* Reads what it can of a path; bytes read, or -1. An escape when the host's or a neighbour's secret
 * is in it. */
long look_into(struct finding *finding, const char *path);
/* Whether the bytes hold the mark that each of the suite's secrets begins with. */
int has_secret(const void *data, size_t size);
/* An escape when they do. */
void look_at(struct finding *finding, const void *data, size_t size, const char *where);

/* Runs a program with its output read; the exit status as of waitpid, or -1. `out` is a string. */
int run_program(char *const argv[], char *out, size_t size);
/* Copies a file, with a mode; 0 or -1. */
int copy_file(const char *from, const char *to, unsigned mode);

/* What the program was started with, before it opened anything: one text. */
extern char first_fds[512];

#define CALL(name, how, number, a, b, c, d, e, f)
#define READ(name, how, path)
#define WRITE(name, how, path, text)
#define SECTION(title)
#define HOST(name, how)
#define CODE(name, how) void attack_##name(struct finding *finding);
#define ALONE(name, how) CODE(name, how)
#include "attacks.def"
#undef CALL
#undef READ
#undef WRITE
#undef SECTION
#undef HOST
#undef CODE
#undef ALONE

#endif
