/* base/mem: the owner is freed, what was taken is not. A leak shows under AddressSanitizer. */
#include "check.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static char *make(bool keep)
{
    MEM_AUTO char *text = strdup("text");
    return keep ? take(text) : NULL;
}

static void test_auto_and_take(void **state)
{
    (void)state;
    assert_null(make(false));
    char *kept = make(true);
    assert_string_equal(kept, "text");
    char *moved = take(kept);
    assert_null(kept);
    mem_free_at(&moved);
}

static void test_null_is_fine(void **state)
{
    (void)state;
    MEM_AUTO char *nothing = NULL;
    mem_free_at(&nothing);
    assert_null(nothing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_auto_and_take),
        cmocka_unit_test(test_null_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
