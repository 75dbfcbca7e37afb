/* A store in a folder of the test's own. */
#ifndef BERTH_TESTS_UNIT_STORE_RIG_H
#define BERTH_TESTS_UNIT_STORE_RIG_H

#include "check.h"

#include "db_folder.h"
#include "store/store.h"

/* The same one each time. */
static inline struct store *open_store(void)
{
    struct store *store = NULL;
    struct err err = ERR_INIT;
    assert_ok(store_open(db_path, &store, &err), err);
    return store;
}

#endif
