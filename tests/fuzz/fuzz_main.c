/* Runs a fuzz target over files, for the normal test run: every kept input has to pass. The first
 * argument is a folder; its files are taken in the order of their names. Also cuts each of them
 * short at every length up to a limit, which finds reads past the end. */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

enum { INPUT_MAX = 1 << 20, CUTS_MAX = 512 };

/* Runs one input from a heap block of exactly its size, so that AddressSanitizer sees the edges. */
static void run_exactly(const uint8_t *data, size_t size)
{
    MEM_AUTO uint8_t *copy = malloc(size > 0 ? size : 1);
    if (!copy)
        abort();
    if (size > 0)
        memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
}

static int run_file(int dir_fd, const char *name)
{
    static uint8_t data[INPUT_MAX];
    FD_AUTO int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, data, sizeof(data));
    if (size < 0)
        return -1;
    for (size_t cut = 0; cut < (size_t)size && cut < CUTS_MAX; cut++)
        run_exactly(data, cut);
    run_exactly(data, (size_t)size);
    return 0;
}

int main(int argc, char **argv)
{
    struct dirent **entries = NULL;
    int count = argc == 2 ? scandir(argv[1], &entries, NULL, alphasort) : -1;
    FD_AUTO int dir_fd = count < 0 ? -1 : open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) {
        (void)fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    int files = 0;
    int failed = 0;
    for (int i = 0; i < count; i++) {
        if (entries[i]->d_name[0] != '.') {
            failed += run_file(dir_fd, entries[i]->d_name) != 0;
            files++;
        }
        free(entries[i]);
    }
    free(entries);
    /* A corpus that went missing would pass in silence. */
    (void)printf("1..1\n%s 1 - %d kept inputs\n", failed == 0 && files > 0 ? "ok" : "not ok",
                 files);
    return failed == 0 && files > 0 ? 0 : 1;
}
