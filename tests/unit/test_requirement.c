/* lang/requirement: what becomes an installer's argument, and what never does. */
#include "check.h"

#include <stdbool.h>
#include <string.h>

#include "lang/requirement.h"

struct example {
    enum requirement_notation notation;
    const char *text, *form;
};

static void test_forms(void **state)
{
    (void)state;
    static const struct example cases[] = {
        {REQUIREMENT_PIP, "numpy", "numpy"},
        {REQUIREMENT_PIP, "NumPy==1.24.0", "numpy==1.24.0"},
        {REQUIREMENT_PIP, "ruamel.yaml_Clib", "ruamel-yaml-clib"},
        {REQUIREMENT_PIP, "a.-_b", "a-b"},
        {REQUIREMENT_PIP, "scipy >= 1.2 , <2", "scipy<2,>=1.2"},
        {REQUIREMENT_PIP, "requests[socks, Security]~=2.0", "requests[security,socks]~=2.0"},
        {REQUIREMENT_PIP, "x[a,a]>1,>1", "x[a]>1"},
        {REQUIREMENT_PIP, "torch==2.1.0+cpu", "torch==2.1.0+cpu"},
        {REQUIREMENT_PIP, "x==1!2.*", "x==1!2.*"},
        {REQUIREMENT_PIP, "x===1", "x===1"},
        {REQUIREMENT_NPM, "lodash", "lodash"},
        {REQUIREMENT_NPM, "lodash@^4.17.0", "lodash@^4.17.0"},
        {REQUIREMENT_NPM, "@types/node@20", "@types/node@20"},
        {REQUIREMENT_NPM, "left-pad@latest", "left-pad@latest"},
        {REQUIREMENT_NPM, "a@>=1.0.0", "a@>=1.0.0"},
        {REQUIREMENT_GEM, "rake", "rake"},
        {REQUIREMENT_GEM, "rake:~> 13.0", "rake:~>13.0"},
        {REQUIREMENT_GEM, "active_support:7.0.1", "active_support:7.0.1"},
        {REQUIREMENT_CRAN, "data.table", "data.table"},
        {REQUIREMENT_CPAN, "JSON::PP", "JSON::PP"},
        {REQUIREMENT_CPAN, "JSON::PP@4.16", "JSON::PP@4.16"},
        {REQUIREMENT_CARGO, "itoa", "itoa"},
        {REQUIREMENT_CARGO, "proc-macro2@=1.0.60", "proc-macro2@=1.0.60"},
        {REQUIREMENT_CARGO, "serde[derive, alloc]@ ^1 , < 1.5", "serde[alloc,derive]@^1,<1.5"},
        {REQUIREMENT_CARGO, "rand_core[std]", "rand_core[std]"},
        {REQUIREMENT_CARGO, "x@1.0.0-rc.1", "x@1.0.0-rc.1"},
        {REQUIREMENT_MAVEN, "org.apache.commons:commons-lang3:3.12.0",
         "org.apache.commons:commons-lang3:3.12.0"},
        {REQUIREMENT_GO, "github.com/google/uuid", "github.com/google/uuid"},
        {REQUIREMENT_GO, "gopkg.in/yaml.v3@v3.0.1", "gopkg.in/yaml.v3@v3.0.1"},
        {REQUIREMENT_GO, "example.com/A/b~c/v2@latest", "example.com/A/b~c/v2@latest"},
        {REQUIREMENT_GO, "a.b/c@v0.0.0-2023+incompatible", "a.b/c@v0.0.0-2023+incompatible"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct err err = ERR_INIT;
        char form[REQUIREMENT_MAX];
        assert_ok(requirement_normalise(cases[i].notation, cases[i].text, strlen(cases[i].text),
                                        form, &err),
                  err);
        assert_string_equal(form, cases[i].form);
    }
}

/* Whatever the notation: no option, no shell, no path, no address, no trick with blanks. */
static void test_refused_by_all(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        " ",
        " numpy",
        "numpy; rm -rf /",
        "numpy;rm",
        "numpy && id",
        "numpy|id",
        "numpy`id`",
        "$(id)",
        "numpy$(id)",
        "--index-url=http://x/",
        "-e .",
        "-e",
        "-rrequirements.txt",
        "--",
        "../x",
        "./x",
        ".",
        "..",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "~/x",
        "C:\\x",
        "http://example.com/x.whl",
        "https://example.com/x",
        "git+https://example.com/x",
        "file:///x",
        "x @ https://example.com/x.whl",
        "x@https://example.com/x",
        "x@npm:y@1",
        "x@file:y",
        "x@..",
        "x@.",
        "x@user/repo",
        "user/repo",
        "numpy --index-url=http://x/",
        "numpy -e",
        "numpy==1 -e",
        "numpy scipy",
        "numpy\n",
        "numpy\nscipy",
        "\nnumpy",
        "numpy\t",
        "numpy\r\n",
        "numpy\v==1",
        "num\xc2\xa0py",
        "n\xc3\xbcmpy",
        "numpy\xe2\x80\x8b",
        "\xff",
        "x==1.zip",
        "numpy,scipy",
        "numpy==",
        "numpy=",
        "numpy=1",
        "numpy>=",
        "numpy>=1,",
        "numpy==1;",
        "numpy==$x",
        "numpy; python_version < \"3\"",
        "x[",
        "x[a",
        "x[]",
        "x[a]b",
        "x(>=1)",
        "@",
        "@scope",
        "@scope/",
        "@/x",
        "@a/b/c",
        "x@",
        "x:",
        "x:~>",
        "x::y:z",
        "%s%n",
        "*",
    };
    for (int notation = REQUIREMENT_NONE; notation < REQUIREMENT_NOTATION_COUNT; notation++) {
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
            struct err err = ERR_INIT;
            char form[REQUIREMENT_MAX] = "untouched";
            int result = requirement_normalise((enum requirement_notation)notation, wrong[i],
                                               strlen(wrong[i]), form, &err);
            if (result == 0)
                fail_msg("notation %d takes %s as %s", notation, wrong[i], form);
            assert_fails(result, ERR_BAD_INPUT, err);
            assert_true(err.public_message[0] != '\0');
            assert_string_equal(form, "untouched");
        }
    }
}

static void test_bytes(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char form[REQUIREMENT_MAX];
    assert_fails(requirement_normalise(REQUIREMENT_PIP, "numpy\0scipy", 11, form, &err),
                 ERR_BAD_INPUT, err);
    assert_fails(requirement_normalise(REQUIREMENT_PIP, "numpy\0", 6, form, &err), ERR_BAD_INPUT,
                 err);
    char text[2 * REQUIREMENT_MAX];
    memset(text, 'a', sizeof(text));
    assert_fails(requirement_normalise(REQUIREMENT_NPM, text, sizeof(text), form, &err),
                 ERR_BAD_INPUT, err);
    assert_fails(requirement_normalise(REQUIREMENT_NPM, text, REQUIREMENT_MAX, form, &err),
                 ERR_BAD_INPUT, err);
    assert_ok(requirement_normalise(REQUIREMENT_NPM, text, REQUIREMENT_MAX - 1, form, &err), err);
    assert_fails(requirement_normalise(REQUIREMENT_PIP, text, REQUIREMENT_MAX - 1, form, &err),
                 ERR_BAD_INPUT, err);
    /* Every single byte but those of a name; x<y is a version, if an odd one. */
    for (int c = 0; c < 256; c++) {
        char one[] = {'x', (char)c, 'y'};
        bool of_name = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        int result = requirement_normalise(REQUIREMENT_PIP, one, sizeof(one), form, NULL);
        assert_int_equal(result == 0, of_name || (c && strchr("._-<>", c)));
    }
}

/* What an installer would look for among files; pip gets names without dots. */
static void test_archives(void **state)
{
    (void)state;
    static const struct example wrong[] = {
        {REQUIREMENT_PIP, "x==1.whl", ""}, {REQUIREMENT_PIP, "x==1.tar.gz", ""},
        {REQUIREMENT_NPM, "x.tgz", ""},    {REQUIREMENT_NPM, "x.tar.gz", ""},
        {REQUIREMENT_NPM, "x@y.TGZ", ""},  {REQUIREMENT_NPM, "@s/x.tar", ""},
        {REQUIREMENT_GEM, "x.gem", ""},    {REQUIREMENT_CRAN, "x.tar.gz", ""},
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct err err = ERR_INIT;
        char form[REQUIREMENT_MAX];
        assert_fails(requirement_normalise(wrong[i].notation, wrong[i].text, strlen(wrong[i].text),
                                           form, &err),
                     ERR_BAD_INPUT, err);
    }
    char form[REQUIREMENT_MAX];
    assert_int_equal(requirement_normalise(REQUIREMENT_PIP, "backports.lzma", 14, form, NULL), 0);
    assert_string_equal(form, "backports-lzma");
}

/* What others take and these do not. */
static void test_refused_by_compiled(void **state)
{
    (void)state;
    static const struct example wrong[] = {
        {REQUIREMENT_CARGO, "1x", ""},        {REQUIREMENT_CARGO, "x.y", ""},
        {REQUIREMENT_CARGO, "x@*", ""},       {REQUIREMENT_CARGO, "x@latest", ""},
        {REQUIREMENT_CARGO, "x@1,", ""},      {REQUIREMENT_CARGO, "x@1 2", ""},
        {REQUIREMENT_CARGO, "x@1\"", ""},     {REQUIREMENT_CARGO, "x[a/b]", ""},
        {REQUIREMENT_CARGO, "x[\"a\"]", ""},  {REQUIREMENT_CARGO, "x[dep:a]", ""},
        {REQUIREMENT_CARGO, "x@1[a]", ""},    {REQUIREMENT_GO, "fmt", ""},
        {REQUIREMENT_GO, "golang.org", ""},   {REQUIREMENT_GO, "x.y/", ""},
        {REQUIREMENT_GO, "x.y//z", ""},       {REQUIREMENT_GO, "x.y/../z", ""},
        {REQUIREMENT_GO, "x.y/...", ""},      {REQUIREMENT_GO, "x.y/-z", ""},
        {REQUIREMENT_GO, "x.y/z.", ""},       {REQUIREMENT_GO, "x.y/z@none", ""},
        {REQUIREMENT_GO, "x.y/z@>v1", ""},    {REQUIREMENT_GO, "x.y/z@v1/w", ""},
        {REQUIREMENT_GO, "x.y:80/z", ""},     {REQUIREMENT_MAVEN, "a", ""},
        {REQUIREMENT_MAVEN, "a:b", ""},       {REQUIREMENT_MAVEN, "a:b:", ""},
        {REQUIREMENT_MAVEN, "a:b:[1,2)", ""}, {REQUIREMENT_MAVEN, "a:b:1:jar", ""},
        {REQUIREMENT_MAVEN, "a:b:<x>", ""},   {REQUIREMENT_MAVEN, "a:b:${x}", ""},
        {REQUIREMENT_MAVEN, "a:b:-1", ""},    {REQUIREMENT_MAVEN, "a:../b:1", ""},
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct err err = ERR_INIT;
        char form[REQUIREMENT_MAX];
        assert_fails(requirement_normalise(wrong[i].notation, wrong[i].text, strlen(wrong[i].text),
                                           form, &err),
                     ERR_BAD_INPUT, err);
    }
}

static void test_notations(void **state)
{
    (void)state;
    assert_int_equal(requirement_notation("pip"), REQUIREMENT_PIP);
    assert_int_equal(requirement_notation("npm"), REQUIREMENT_NPM);
    assert_int_equal(requirement_notation("cpan"), REQUIREMENT_CPAN);
    assert_int_equal(requirement_notation("cargo"), REQUIREMENT_CARGO);
    assert_int_equal(requirement_notation("go"), REQUIREMENT_GO);
    assert_int_equal(requirement_notation("maven"), REQUIREMENT_MAVEN);
    assert_int_equal(requirement_notation(""), REQUIREMENT_NONE);
    assert_int_equal(requirement_notation("apt"), REQUIREMENT_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),     cmocka_unit_test(test_refused_by_all),
        cmocka_unit_test(test_bytes),     cmocka_unit_test(test_archives),
        cmocka_unit_test(test_notations), cmocka_unit_test(test_refused_by_compiled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
