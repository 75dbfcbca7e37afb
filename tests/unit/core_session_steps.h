/* What the tests of sessions on the fake engine share: a rig each, and the steps that they go by.
 */
#ifndef BERTH_TESTS_UNIT_CORE_SESSION_STEPS_H
#define BERTH_TESTS_UNIT_CORE_SESSION_STEPS_H

#include <pthread.h>
#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"
#include "core/session.h"
#include "core_rig.h"

/* For cmocka: *state is a struct rig with one engine. */
int steps_setup(void **state);
int steps_teardown(void **state);
#define on_rig(test) cmocka_unit_test_setup_teardown(test, steps_setup, steps_teardown)
/* A core on the same database, after core_free(). */
void open_rig(struct rig *rig);

/* A session without wishes. */
struct session_request request_of(void);
int run(struct core *core, const char *id, const char *code, struct buf *out, struct err *err);
/* Fails unless it runs, with each of the parts in its object. */
void expect(struct core *core, const char *id, const char *code, const char *const *parts);
#define EXPECT(core, id, code, ...) expect(core, id, code, (const char *const[]){__VA_ARGS__, NULL})
void remove_session(struct core *core, const char *id);
bool session_lives(struct core *core, const char *id);
void wait_until_gone(const struct rig *rig, const char *id);

/* An execution on a thread of its own. */
struct runner {
    struct core *core;
    const char *id;
    const char *code;
    pthread_t thread;
    struct buf out; /* the test's to free */
    struct err err;
    int result;
};
void runner_start(struct runner *runner, struct core *core, const char *id, const char *code);
/* The text of its answer, until the next call. */
const char *runner_join(struct runner *runner);

/* The execution that runs in the session. */
void wait_for_running(struct core *core, const char *id, char execution[static ID_UUID_SIZE]);
void wait_for_output(struct core *core, const char *execution);
/* Asks for an execution until it has ended, and gives its object. */
const char *wait_for_end(struct core *core, const char *execution, struct buf *out);
/* The id that an answer names, of one that goes on. */
void id_in(const struct err *err, char execution[static ID_UUID_SIZE]);

#endif
