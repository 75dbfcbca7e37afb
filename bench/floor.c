/* bench-floor: a program N times, bare (posix_spawn) or in the least of a sandbox (box.h).
 *
 * Owns the threads and the children. A sample is from before the start until the output was read to
 * its end and the child was reaped. The program's output is checked, so that a failed start is no
 * fast one. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/parse.h"
#include "box.h"
#include "samples.h"

enum { THREADS_MAX = 64, EXIT_USAGE = 2, ARGS_MAX = 4 };

/* By full path: a first "python3" of the PATH may be a script that looks for another one. */
static const struct program {
    const char *name;
    const char *argv[ARGS_MAX];
    const char *output;
} programs[] = {
    {"python", {"/usr/bin/python3", "-c", "print(6*7)"}, "42\n"},
    {"true", {"/usr/bin/true"}, ""},
};

static const char *const environment[] = {"PATH=/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8", NULL};

struct options {
    bool box;
    const struct program *program;
    uint64_t threads;
    uint64_t count;
    const char *samples_path;
    const char *rate_path;
};

struct worker {
    const struct options *options;
    atomic_long *left;
    struct samples samples;
    struct err err; /* the first failure ends the worker */
};

static int start_bare(char *const *argv, char *const *envp, int stdout_fd, pid_t *out_pid,
                      struct err *err)
{
    posix_spawn_file_actions_t actions;
    int status = posix_spawn_file_actions_init(&actions);
    if (status != 0)
        return err_sys(err, status, "posix_spawn");
    status = posix_spawn_file_actions_adddup2(&actions, stdout_fd, STDOUT_FILENO);
    if (status == 0)
        status = posix_spawn(out_pid, argv[0], &actions, NULL, argv, envp);
    (void)posix_spawn_file_actions_destroy(&actions);
    return status == 0 ? 0 : err_sys(err, status, "start %s", argv[0]);
}

/* execve(2) wants arrays of non-const strings and promises not to write to them. */
static int start(const struct options *options, int stdout_fd, pid_t *out_pid, struct err *err)
{
    char *argv[ARGS_MAX];
    char *envp[ARRAY_SIZE(environment)];
    memcpy(argv, options->program->argv, sizeof(argv));
    memcpy(envp, environment, sizeof(envp));
    return options->box ? box_start(argv, envp, stdout_fd, out_pid, err)
                        : start_bare(argv, envp, stdout_fd, out_pid, err);
}

static int read_to_end(int fd, char *out, size_t size, struct err *err)
{
    size_t used = 0;
    for (;;) {
        ssize_t got = read(fd, out + used, size - 1 - used);
        if (got < 0 && errno != EINTR)
            return err_sys(err, errno, "read");
        if (got == 0)
            break;
        used += got > 0 ? (size_t)got : 0;
    }
    out[used] = '\0';
    return 0;
}

static int run_once(const struct options *options, struct err *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_sys(err, errno, "pipe");
    FD_AUTO int read_fd = ends[0];
    FD_AUTO int write_fd = ends[1];
    pid_t pid = 0;
    char output[64] = "";
    int status = 0;
    int result = start(options, write_fd, &pid, err);
    fd_close(&write_fd);
    if (result == 0)
        result = read_to_end(read_fd, output, sizeof(output), err);
    if (pid > 0 && waitpid(pid, &status, 0) != pid && result == 0)
        result = err_sys(err, errno, "wait");
    if (result == 0 && (status != 0 || strcmp(output, options->program->output) != 0))
        result = err_set(err, ERR_INTERNAL, "status 0x%x, output \"%s\"", (unsigned)status, output);
    return result;
}

static void *worker_main(void *context)
{
    struct worker *worker = context;
    while (worker->err.kind == ERR_NONE && atomic_fetch_sub(worker->left, 1) > 0) {
        int64_t begun_ns = clock_now_ns();
        if (run_once(worker->options, &worker->err) == 0)
            samples_add(&worker->samples, clock_now_ns() - begun_ns);
    }
    return NULL;
}

static int report(const struct options *options, struct samples *all, int64_t elapsed_ns,
                  struct err *err)
{
    char name[64];
    double rate = (double)all->count * 1e9 / (double)elapsed_ns;
    int result = options->samples_path ? samples_append_file(all, options->samples_path, err) : 0;
    FILE *file = result == 0 && options->rate_path ? fopen(options->rate_path, "ae") : NULL;
    if (file) {
        (void)fprintf(file, "%.3f\n", rate);
        (void)fclose(file);
    }
    samples_sort(all);
    (void)snprintf(name, sizeof(name), "%s %s x%" PRIu64, options->box ? "box" : "bare",
                   options->program->name, options->threads);
    samples_print(all, name);
    (void)printf("%.1f/s\n", rate);
    return result;
}

static int run_all(const struct options *options, struct err *err)
{
    MEM_AUTO struct worker *workers = calloc(options->threads, sizeof(*workers));
    pthread_t threads[THREADS_MAX];
    atomic_long left;
    atomic_init(&left, (long)options->count);
    int result = workers ? 0 : err_set(err, ERR_INTERNAL, "no memory");
    int64_t begun_ns = clock_now_ns();
    uint64_t started = 0;
    while (result == 0 && started < options->threads) {
        struct worker *worker = &workers[started];
        worker->options = options;
        worker->left = &left;
        result = samples_init(&worker->samples, options->count, err);
        if (result == 0 && pthread_create(&threads[started], NULL, worker_main, worker) != 0)
            result = err_set(err, ERR_INTERNAL, "a thread could not be started");
        started += result == 0;
    }
    for (uint64_t i = 0; i < started; i++) {
        (void)pthread_join(threads[i], NULL);
        if (workers[i].err.kind != ERR_NONE && result == 0)
            result = err_copy(err, &workers[i].err);
        if (i > 0)
            samples_merge(&workers[0].samples, &workers[i].samples);
    }
    if (result == 0)
        result = report(options, &workers[0].samples, clock_now_ns() - begun_ns, err);
    for (uint64_t i = 0; workers && i < options->threads; i++)
        samples_done(&workers[i].samples);
    return result;
}

static int parse_program(const char *name, const struct program **out, struct err *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
        if (strcmp(name, programs[i].name) == 0) {
            *out = &programs[i];
            return 0;
        }
    }
    return err_set(err, ERR_BAD_INPUT, "\"%s\" is neither python nor true", name);
}

static int parse_options(int argc, char **argv, struct options *options, struct err *err)
{
    static const struct option known[] = {
        {"box", no_argument, NULL, 'b'},
        {"program", required_argument, NULL, 'p'},
        {"threads", required_argument, NULL, 't'},
        {"count", required_argument, NULL, 'n'},
        {"samples", required_argument, NULL, 's'},
        {"rate", required_argument, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    int result = 0;
    for (int letter = 0; (letter = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (letter == 'b')
            options->box = true;
        else if (letter == 'p')
            result = parse_program(optarg, &options->program, err);
        else if (letter == 't')
            result = parse_u64(optarg, 1, THREADS_MAX, &options->threads, err);
        else if (letter == 'n')
            result = parse_u64(optarg, 1, 10000000, &options->count, err);
        else if (letter == 's')
            options->samples_path = optarg;
        else if (letter == 'r')
            options->rate_path = optarg;
        else
            return err_set(err, ERR_BAD_INPUT, "see bench/README.md");
        if (result != 0)
            return err_wrap(err, "option -%c", letter);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct options options = {.program = &programs[0], .threads = 1, .count = 100};
    struct err err = ERR_INIT;
    if (parse_options(argc, argv, &options, &err) != 0) {
        (void)fprintf(stderr, "bench-floor: %s\n", err.message);
        return EXIT_USAGE;
    }
    if (run_all(&options, &err) != 0) {
        (void)fprintf(stderr, "bench-floor: %s\n", err.message);
        return 1;
    }
    return 0;
}
