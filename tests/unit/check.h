/* What every unit test includes: cmocka, and a word for "succeeded, or show the error". */
#ifndef BERTH_TESTS_UNIT_CHECK_H
#define BERTH_TESTS_UNIT_CHECK_H

#include <setjmp.h> /* cmocka.h wants these four before it */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/mem.h"

/* The call returned 0 or more; prints the operator's message otherwise. */
#define assert_ok(call, err)                                                                       \
    do {                                                                                           \
        if ((call) < 0)                                                                            \
            fail_msg("%s: %s", #call, (err).message);                                              \
    } while (0)

/* The call failed with this kind, and filled the error. */
#define assert_fails(call, error_kind, err)                                                        \
    do {                                                                                           \
        assert_int_equal((call), -(int)(error_kind));                                              \
        assert_int_equal((err).kind, (error_kind));                                                \
        assert_true((err).message[0] != '\0');                                                     \
    } while (0)

#endif
