/* The embedded languages load, are found by every name, and unknown ones are refused in words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
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

static const struct lang *get(const char *name)
{
    const struct lang *lang = NULL;
    struct err err = ERR_INIT;
    if (lang_find(name, &lang, &err) != 0)
        fail_msg("%s", err.message);
    return lang;
}

/* A word that names a script is its text. */
static void holds_scripts(void **state)
{
    (void)state;
    const struct lang *rust = get("rust");
    assert_string_equal(rust->compile[0], "sh");
    assert_string_equal(rust->compile[1], "-c");
    assert_non_null(strstr(rust->compile[2], "exec rustc --edition 2021 "));
    assert_string_equal(rust->compile[4], "{source}");
    assert_non_null(strstr(rust->install[2], "cargo build "));
    assert_int_equal(rust->install[2][strlen(rust->install[2]) - 1], '\n'); /* whole */
}

static void holds_what_each_says(void **state)
{
    (void)state;
    const struct lang *c = get("c");
    assert_string_equal(c->compile[0], "cc");
    assert_string_equal(c->program, "main");
    assert_string_equal(c->run[0], "./main");
    assert_string_equal(c->hello, "#include <stdio.h>\n"
                                  "int main(void) { puts(\"hello\"); return 0; }");
    assert_ptr_equal(get("C++"), get("cpp"));
    const struct lang *sql = get("sqlite");
    assert_string_equal(sql->run[4], ".read main.sql"); /* a quoted word */
    assert_null(sql->run[5]);
    assert_null(sql->compile[0]);
    const struct lang *java = get("java");
    assert_string_equal(java->compile[1], "-c");
    assert_non_null(strstr(java->compile[2], "&& jar"));
    assert_string_equal(java->compile[3], "{memory_bytes}");
    const struct lang *python = get("python");
    assert_true(python->scripts);
    assert_int_equal(python->protocol, LANG_PROTOCOL_FRAMES);
    assert_string_equal(python->at_start[0], "PYTHON*");
    assert_string_equal(python->version[1], "--version");
}

/* What every declaration has to be for a test of all of them to mean something. */
static void each_is_whole(void **state)
{
    (void)state;
    size_t count = 0;
    const struct lang *const *all = lang_all(&count);
    assert_true(count >= 15);
    for (size_t i = 0; i < count; i++) {
        assert_non_null(strstr(all[i]->hello, "hello"));
        assert_non_null(all[i]->version[0]);
        assert_true(!all[i]->compile[0] || all[i]->program); /* all that is compiled can be kept */
        bool own_file = false;
        for (size_t word = 0; all[i]->run[word]; word++)
            own_file = own_file || strcmp(all[i]->run[word], "{source}") == 0 ||
                       strstr(all[i]->run[word], all[i]->source) ||
                       (all[i]->program && strstr(all[i]->run[word], all[i]->program));
        assert_true(own_file);
    }
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
        cmocka_unit_test(holds_scripts),    cmocka_unit_test(holds_what_each_says),
        cmocka_unit_test(each_is_whole),    cmocka_unit_test(finds_by_name_and_alias),
        cmocka_unit_test(holds_the_kernel), cmocka_unit_test(refuses_unknown_in_words),
        cmocka_unit_test(lists_in_order),   cmocka_unit_test(loads_again_after_unload),
    };
    return cmocka_run_group_tests_name("lang", tests, languages_load, languages_unload);
}
