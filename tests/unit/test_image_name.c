/* cli/image_name: what an image is called when nobody says. */
#include "check.h"

#include <string.h>

#include "cli/image.h"

static void test_names(void **state)
{
    static const struct {
        const char *source;
        const char *name; /* NULL: none */
    } table[] = {
        {"docker://docker.io/library/python:3.12-slim", "python"},
        {"docker://127.0.0.1:5000/team/App", "app"},
        {"docker://alpine", "alpine"},
        {"docker://alpine@sha256:0123", "alpine"},
        {"docker://r.example/a_b/c_d:x", "c-d"},
        {"oci:/var/tmp/layout", "layout"},
        {"oci-archive:some/image.oci.tar:tag", "image"},
        {"docker-archive:saved.tar", "saved"},
        {"/tmp/saved.tar.gz", "saved"},
        {"docker://", NULL},
        {"docker://a/", "a"},
        {"docker://x/-y", NULL},
        {"docker://x/host:1", NULL},
        {"docker://x/h\xc3\xa9", NULL},
        {".hidden.tar", NULL},
        {"", NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        char name[IMAGE_NAME_MAX + 1] = "untouched";
        struct err err = ERR_INIT;
        int result = image_name_of(table[i].source, name, &err);
        assert_string_equal(name, table[i].name ? table[i].name : "untouched");
        assert_int_equal(result, table[i].name ? 0 : -ERR_BAD_INPUT);
    }
}

static void test_long_name_is_cut(void **state)
{
    char source[200];
    char name[IMAGE_NAME_MAX + 1];
    struct err err = ERR_INIT;
    (void)state;
    memset(source, 'x', sizeof(source) - 1);
    source[sizeof(source) - 1] = '\0';
    assert_ok(image_name_of(source, name, &err), err);
    assert_int_equal(strlen(name), IMAGE_NAME_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_long_name_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
