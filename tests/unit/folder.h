/* A folder of the test's own, empty at first and removed behind it with all that is in it. */
#ifndef BERTH_TESTS_UNIT_FOLDER_H
#define BERTH_TESTS_UNIT_FOLDER_H

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "child.h"

static char folder[] = "/tmp/berth-test-XXXXXX";
static int folder_fd = -1;

static inline int folder_make(void **state)
{
    (void)state;
    memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
    folder_fd = mkdtemp(folder) ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    return folder_fd < 0 ? -1 : 0;
}

static inline int folder_remove(void **state)
{
    (void)state;
    fd_close(&folder_fd);
    child_remove_tree(folder);
    return 0;
}

#define in_folder(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)

#endif
