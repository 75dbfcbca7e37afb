/* The rig of the core's tests: a core on the fake engine, with its database in a folder of its own.
 *
 * Its figures are those of a host with room for all: a test of a bound sets that one. */
#ifndef BERTH_TESTS_UNIT_CORE_RIG_H
#define BERTH_TESTS_UNIT_CORE_RIG_H

#include "base/id.h"
#include "core/core.h"

struct lang;
struct session_request;

struct rig {
    struct core *core; /* the test's to free */
    struct engine *engine;
};

/* A language with a kernel, for those who load none. */
extern const struct lang rig_lang;

/* For cmocka: a folder and the languages, around a test or a group of tests. */
int rig_make_folder(void **state);
int rig_remove_folder(void **state);

/* Its db_path lies in the folder. */
struct core_config rig_config(void);
/* A core and its engine, which knows of nothing; after core_free() the same database again. */
void rig_open(struct rig *rig, const struct core_config *config);

/* Makes a session and gives its id. */
void rig_make_session(struct core *core, const struct session_request *request,
                      char out_id[static ID_UUID_SIZE]);

/* Fails unless each of the parts is in the text. what: for the message. */
void rig_assert_parts(const char *what, const char *text, const char *const *parts);

#endif
