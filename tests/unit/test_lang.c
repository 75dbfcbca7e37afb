/* The embedded languages load, are found by every name, and unknown ones are refused in words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "lang/lang.h"
#include "languages.h"

static void finds_by_name_and_alias(void **state)
{
    (void)state;
    const char *const names[] = {"python", "PYTHON", "python3", "py"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const struct lang *lang = NULL;
        assert_int_equal(lang_find(names[i], &lang, NULL), 0);
        assert_string_equal(lang->name, "python");
        assert_string_equal(lang->source, "main.py");
        assert_string_equal(lang->run[0], "python3");
        assert_string_equal(lang->run[1], "{source}");
        assert_null(lang->run[2]);
    }
}

static void holds_the_kernel(void **state)
{
    (void)state;
    const struct lang *lang = NULL;
    assert_int_equal(lang_find("python", &lang, NULL), 0);
    const struct embedded_file *kernel = lang_kernel_source(lang);
    assert_non_null(kernel);
    assert_string_equal(kernel->name, "python.py");
    assert_int_equal(strlen(kernel->data), kernel->size);
    assert_non_null(strstr(kernel->data, "KERNEL_FD = 3\n"));
    const char *end = kernel->data + kernel->size;
    assert_int_equal(end[-1], '\n'); /* whole */
    assert_string_equal(lang->kernel_run[0], "python3");
    assert_string_equal(lang->kernel_compile[0], "python3");
    for (size_t i = 0; lang->kernel_run[i]; i++)
        assert_null(strstr(lang->kernel_run[i], "{kernel}")); /* it comes as standard input */
    assert_null(lang_kernel_source(&(struct lang){.kernel = NULL}));
    assert_null(lang_kernel_source(&(struct lang){.kernel = "cobol.py"}));
}

static void refuses_unknown_in_words(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const struct lang *lang = NULL;
    assert_int_equal(lang_find("cobol", &lang, &err), -ERR_BAD_INPUT);
    assert_non_null(strstr(err.public_message, "cobol"));
    assert_non_null(strstr(err.public_message, "python"));
    assert_null(lang);
}

static void lists_in_order(void **state)
{
    (void)state;
    size_t count = 0;
    const struct lang *const *all = lang_all(&count);
    assert_true(count >= 1);
    for (size_t i = 1; i < count; i++)
        assert_true(strcmp(all[i - 1]->name, all[i]->name) < 0);
}

static void loads_again_after_unload(void **state)
{
    (void)state;
    lang_unload();
    size_t count = 1;
    (void)lang_all(&count);
    assert_int_equal(count, 0);
    assert_int_equal(lang_load(NULL), 0);
    assert_int_equal(lang_load(NULL), -ERR_INTERNAL); /* the names are taken */
    assert_int_equal(lang_load(NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_by_name_and_alias),  cmocka_unit_test(holds_the_kernel),
        cmocka_unit_test(refuses_unknown_in_words), cmocka_unit_test(lists_in_order),
        cmocka_unit_test(loads_again_after_unload),
    };
    return cmocka_run_group_tests_name("lang", tests, languages_load, languages_unload);
}
