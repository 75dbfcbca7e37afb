/* A folder of the test's own with a database in it, and nothing else: what else is there in the end
 * fails the teardown. */
#ifndef BERTH_TESTS_UNIT_DB_FOLDER_H
#define BERTH_TESTS_UNIT_DB_FOLDER_H

#include <stdio.h>
#include <unistd.h>

#include "folder.h"

static char db_path[sizeof(folder) + 16];

static inline int db_folder_make(void **state)
{
    int result = folder_make(state);
    (void)snprintf(db_path, sizeof(db_path), "%s/berth.db", folder);
    return result;
}

static inline int db_folder_remove(void **state)
{
    const char *const names[] = {"berth.db", "berth.db-wal", "berth.db-shm"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        (void)unlinkat(folder_fd, names[i], 0);
    int result = rmdir(folder);
    (void)folder_remove(state);
    return result;
}

#endif
