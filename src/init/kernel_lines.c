/* Owns the descriptors of a kernel that speaks lines. Never blocks. */
#include "init/kernel_lines.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

#define REST_NS (5 * CLOCK_NS_PER_MS)
#define COPY_STEP (64U << 10)
enum { CHUNK = 16 * 1024 };

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

void kernel_lines_init(struct kernel_lines *lines)
{
    memset(lines, 0, sizeof(*lines));
    lines->to_fd = lines->file_fd = lines->shared_fd = -1;
    lines->outputs[0] = lines->outputs[1] = -1;
}

void kernel_lines_done(struct kernel_lines *lines)
{
    fd_close(&lines->to_fd);
    fd_close(&lines->file_fd);
    fd_close(&lines->shared_fd);
    fd_close(&lines->outputs[0]);
    fd_close(&lines->outputs[1]);
    kernel_lines_init(lines);
}

/* ---- standard input ---- */

int kernel_lines_new_file(void)
{
    /* Without MFD_ALLOW_SEALING nobody can seal it. The other flag allows that as well, so then the
     * seals are sealed. A host may refuse a file that could be executed (vm.memfd_noexec). */
    int fd = memfd_create("stdin", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        return memfd_create("stdin", MFD_CLOEXEC);
    if (fd >= 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) != 0)
        fd_close(&fd);
    return fd;
}

/* The same file once more, for reading only: then the code can't write to it, nor hold it up while
 * we do. Where there is no /proc it can, and harms itself. */
static int open_for_reading(int fd)
{
    char path[32];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int opened = open(path, O_RDONLY | O_CLOEXEC);
    if (opened >= 0)
        (void)fchmod(fd, 0444); /* the code may open it again by name, as /dev/stdin */
    else
        opened = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return opened;
}

static int copy_all(int from_fd, int to_fd)
{
    static uint8_t chunk[COPY_STEP];
    for (off_t at = 0;;) {
        ssize_t got = pread(from_fd, chunk, sizeof(chunk), at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : 0;
        if (pwrite(to_fd, chunk, (size_t)got, at) != got)
            return errno != 0 ? errno : EIO;
        at += got;
    }
}

int kernel_lines_set_input(const struct kernel_lines *lines, int input_fd)
{
    errno = 0;
    if (ftruncate(lines->file_fd, 0) != 0)
        return errno;
    int sys_errno = input_fd >= 0 ? copy_all(input_fd, lines->file_fd) : 0;
    if (sys_errno == 0 && lseek(lines->shared_fd, 0, SEEK_SET) != 0)
        sys_errno = errno != 0 ? errno : EIO;
    return sys_errno;
}

/* ---- how it is made ---- */

static int make_input(struct kernel_lines *lines, const void *text, size_t size, struct err *err)
{
    lines->file_fd = kernel_lines_new_file();
    if (lines->file_fd < 0)
        return err_sys(err, errno, "a file in memory");
    lines->shared_fd = open_for_reading(lines->file_fd);
    if (lines->shared_fd < 0)
        return err_sys(err, errno, "open a file in memory");
    return fd_write_all(lines->file_fd, text, size, err);
}

/* A fallback shares one offset, which the writing has moved. */
static int rewind_input(const struct kernel_lines *lines, struct err *err)
{
    return lseek(lines->shared_fd, 0, SEEK_SET) == 0 ? 0 : err_sys(err, errno, "lseek");
}

int kernel_lines_make(struct kernel_lines *lines, const void *text, size_t size,
                      struct kernel_lines_ends *ends, int *from_fd, struct err *err)
{
    kernel_lines_done(lines);
    ends->talk = ends->outputs = PIPES_INIT;
    int result = make_input(lines, text, size, err);
    if (result == 0)
        result = rewind_input(lines, err);
    if (result == 0)
        result = pipes_make(&ends->talk, PIPES_STDIN | PIPES_STDOUT | PIPES_STATUS, err);
    if (result == 0)
        result = pipes_make(&ends->outputs, PIPES_STDOUT | PIPES_STDERR, err);
    if (result != 0) {
        kernel_lines_done(lines);
        return result;
    }
    lines->on = true;
    ends->stdin_fd = lines->shared_fd;
    lines->to_fd = fd_take(&ends->talk.ours[0]);
    *from_fd = fd_take(&ends->talk.ours[1]);
    for (int i = 0; i < 2; i++)
        lines->outputs[i] = fd_take(&ends->outputs.ours[1 + i]);
    return 0;
}

/* ---- what is said ---- */

bool kernel_lines_is_deaf(const struct kernel_lines *lines)
{
    struct pollfd entry = {.fd = lines->to_fd};
    return lines->to_fd < 0 || (poll(&entry, 1, 0) > 0 && entry.revents != 0);
}

bool kernel_lines_flush(struct kernel_lines *lines, struct buf *out)
{
    size_t done = 0;
    while (done < out->size) {
        ssize_t sent =
            lines->to_fd >= 0 ? write(lines->to_fd, out->data + done, out->size - done) : 0;
        if (sent < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (sent <= 0) {
            fd_close(&lines->to_fd);
            out->size = 0;
            return false;
        }
        done += (size_t)sent;
    }
    buf_consume(out, done); /* once: a move of all the rest for each would take longer */
    return true;
}

bool kernel_lines_send_short(const struct kernel_lines *lines, const struct buf *text)
{
    /* Below PIPE_BUF it goes whole or not at all (pipe(7)). */
    return lines->to_fd < 0 || write(lines->to_fd, text->data, text->size) >= 0 || errno != EAGAIN;
}

ssize_t kernel_lines_receive(struct kernel_lines *lines, int from_fd, struct buf *in)
{
    static uint8_t chunk[CHUNK];
    ssize_t got = read(from_fd, chunk, sizeof(chunk));
    if (got > 0 && lines_read(&lines->reader, chunk, (size_t)got, in, NULL) != 0)
        return 0; /* no memory: what comes can't be made out any more */
    return got;
}

/* ---- outputs ---- */

/* One look; false: nothing was there. Its end is seen once. */
static bool drop_some(struct kernel_lines *lines, int index)
{
    static uint8_t dropped[COPY_STEP];
    ssize_t got = read(lines->outputs[index], dropped, sizeof(dropped));
    if (got == 0)
        fd_close(&lines->outputs[index]);
    return got > 0;
}

int kernel_lines_lend_outputs(struct kernel_lines *lines, struct pipes *pipes, struct err *err)
{
    for (int i = 0; i < 2; i++) {
        /* What is there now, and no more: somebody may write without end. */
        uint64_t rest = lines->outputs[i] >= 0 ? pipes_filled(lines->outputs[i]) : 0;
        for (uint64_t read = 0; read < rest && drop_some(lines, i);)
            read += COPY_STEP;
        if (lines->outputs[i] < 0)
            continue; /* its end: the run has none */
        pipes->ours[1 + i] = fcntl(lines->outputs[i], F_DUPFD_CLOEXEC, 0);
        if (pipes->ours[1 + i] < 0)
            return err_sys(err, errno, "dup of an output");
    }
    return 0;
}

bool kernel_lines_wants_output(const struct kernel_lines *lines, int64_t now_ns)
{
    return lines->on && now_ns >= lines->rests_ns;
}

void kernel_lines_step(struct kernel_lines *lines, int64_t now_ns)
{
    bool said = false;
    for (int i = 0; i < 2; i++) {
        if (lines->output_seen[i] != 0 && lines->outputs[i] >= 0)
            said |= drop_some(lines, i);
        lines->output_seen[i] = 0;
    }
    if (said)
        lines->rests_ns = now_ns + REST_NS;
}

int64_t kernel_lines_wakeup_ns(const struct kernel_lines *lines, int64_t now_ns)
{
    return lines->on && now_ns < lines->rests_ns ? lines->rests_ns : INT64_MAX;
}
