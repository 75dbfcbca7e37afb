/* berth-unpack: unpacks the tar of an image, or of a library layer, into a folder, in a cage; or
 * writes the tar of a layer anew. Started by berth-native in namespaces of its own, or by
 * berth-docker, with the descriptors of wire/unpack_status.h; the only program that links
 * libarchive. Executes nothing and looks up no name of a user. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/parse.h"
#include "unpack/cage.h"
#include "unpack/oci.h"
#include "unpack/tree.h"
#include "wire/unpack_status.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, NICE = 10, REPACK_HEADER = 16384 };

static void say(enum unpack_status kind, const char *text)
{
    char message[UNPACK_STATUS_MAX + 1]; /* the NUL stays here */
    int size = snprintf(message, sizeof(message), "%c%s", (char)kind, text);
    if (size > UNPACK_STATUS_MAX)
        size = UNPACK_STATUS_MAX;
    if (size > 0 && write(UNPACK_FD_STATUS, message, (size_t)size) != size)
        _exit(EXIT_FAILED);
}

/* The engine may have died before the death signal was set; its end of the pipe is gone then. */
static int engine_lives(void)
{
    struct pollfd poller = {.fd = UNPACK_FD_STATUS, .events = 0};
    return poll(&poller, 1, 0) == 0;
}

/* On the disk before it counts as whole: a machine that loses power must not find an image of empty
 * files. */
static int write_out(struct err *err)
{
    FD_AUTO int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || syncfs(fd) != 0)
        return err_sys(err, errno, "write to the disk");
    return 0;
}

/* Without namespaces: whoever starts it may have no right to any. */
static int repack(uint64_t size_max_bytes, uint64_t entries_max, struct tree **tree,
                  struct err *err)
{
    int result = tree_open_tar(size_max_bytes, entries_max, UNPACK_FD_TARGET, tree, err);
    if (result == 0) /* headers, and what fills blocks, come on top */
        result = cage_lock_paths(size_max_bytes + entries_max * REPACK_HEADER, err);
    if (result == 0)
        result = tree_repack(*tree, UNPACK_FD_TAR, err);
    if (result == 0 && fsync(UNPACK_FD_TARGET) != 0)
        result = err_sys(err, errno, "write to the disk");
    return result;
}

static int unpack(uint64_t size_max_bytes, uint64_t entries_max, const char *kind,
                  struct tree **tree, struct err *err)
{
    if (strcmp(kind, UNPACK_REPACK) == 0)
        return repack(size_max_bytes, entries_max, tree, err);
    const bool is_oci = strcmp(kind, UNPACK_KIND_OCI) == 0;
    const bool is_layer = strcmp(kind, UNPACK_LAYER) == 0;
    int result = tree_open(size_max_bytes, entries_max, is_layer, tree, err);
    if (result == 0 && is_oci)
        oci_prepare();
    if (result == 0)
        result = cage_enter_root(UNPACK_FD_TARGET, err);
    if (result == 0)
        result = cage_lock(size_max_bytes, err);
    if (result == 0)
        result =
            is_oci ? oci_unpack(*tree, UNPACK_FD_TAR, err) : tree_unpack(*tree, UNPACK_FD_TAR, err);
    return result != 0 ? result : write_out(err);
}

int main(int argc, char **argv)
{
    uint64_t size_max_bytes = 0;
    uint64_t entries_max = 0;
    struct tree *tree = NULL;
    struct err err = ERR_INIT;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("berth-unpack %s\n", BERTH_VERSION);
        return 0;
    }
    const char *kind = argc == 4 ? argv[3] : "";
    bool is_known = strcmp(kind, UNPACK_KIND_OCI) == 0 || strcmp(kind, UNPACK_LAYER) == 0 ||
                    strcmp(kind, UNPACK_REPACK) == 0;
    if ((argc != 3 && !is_known) || parse_u64(argv[1], 1, INT64_MAX, &size_max_bytes, &err) != 0 ||
        parse_u64(argv[2], 1, INT64_MAX, &entries_max, &err) != 0 ||
        fcntl(UNPACK_FD_TARGET, F_GETFD) < 0) {
        (void)fputs("berth-unpack is started by berth-native and berth-docker\n", stderr);
        return EXIT_USAGE;
    }
    fault_init();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (!engine_lives())
        return EXIT_FAILED;
    (void)setpriority(PRIO_PROCESS, 0, NICE); /* sandboxes come first */
    if (unpack(size_max_bytes, entries_max, kind, &tree, &err) != 0) {
        say(err.kind == ERR_BAD_INPUT || err.kind == ERR_TOO_LARGE ? UNPACK_STATUS_BAD
                                                                   : UNPACK_STATUS_HOST,
            err.message);
        _exit(EXIT_FAILED);
    }
    fault_point("unpack.done");
    char text[96];
    const struct tree_counts counts = tree_counts(tree);
    (void)snprintf(text, sizeof(text), "%" PRIu64 " %" PRIu64 " %" PRIu64, counts.entries,
                   counts.bytes, counts.skipped);
    say(UNPACK_STATUS_DONE, text);
    _exit(0); /* the kernel frees faster, and nothing of libarchive runs again */
}
