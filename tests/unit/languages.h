/* The languages, loaded around a test or a group of tests. */
#ifndef BERTH_TESTS_UNIT_LANGUAGES_H
#define BERTH_TESTS_UNIT_LANGUAGES_H

#include "lang/lang.h"

static inline int languages_load(void **state)
{
    (void)state;
    return lang_load(NULL);
}

static inline int languages_unload(void **state)
{
    (void)state;
    lang_unload();
    return 0;
}

#endif
