/* cli/block: when typed lines are a whole piece of Python. */
#include "check.h"

#include <string.h>

#include "cli/block.h"

static void whole(const char *text)
{
    if (!block_is_whole(text, strlen(text)))
        fail_msg("more is wanted after: %s", text);
}

static void open_still(const char *text)
{
    if (block_is_whole(text, strlen(text)))
        fail_msg("nothing more is wanted after: %s", text);
}

static void test_lines(void **state)
{
    (void)state;
    whole("x = 1\n");
    whole("print('hello')\n");
    whole("x: int = 1\n");
    whole("d = {'a': 1}\n");
    whole("if x: print(1)\n");
    whole("# if x:\n");
    whole("x = 1 # so:\n");
    whole("1 +\n"); /* wrong, and for Python to say */
    whole("x[1:\n]\n");
    whole("\n");
    whole("");
}

static void test_blocks(void **state)
{
    (void)state;
    open_still("if x:\n");
    open_still("if x:  # why\n");
    open_still("if x:\n    y\n");
    open_still("def f():\n    return 1\n");
    open_still("if x:\n    y\nelse:\n");
    open_still("if x:\n    y\nelse:\n    z\n");
    open_still("class A:\n    x = 1\nclass B:\n");
    open_still("@wraps\n");
    open_still("@wraps\ndef f():\n    pass\n");
    open_still("  x\n");
    whole("if x:\n    y\n\n");
    whole("if x:\n    y\n    \n");
    whole("@wraps\ndef f():\n    pass\n\n");
    whole("y = a @ b\n");
}

static void test_brackets(void **state)
{
    (void)state;
    open_still("f(\n");
    open_still("f(1,\n2,\n");
    open_still("f(\n\n");
    open_still("x = [{(\n)}\n");
    open_still("f(a, # )\n");
    open_still("f(')',\n");
    whole("f(\n    1)\n");
    whole("x = [{(\n)}]\n");
    whole("f(')')\n");
    whole(")\n");
    open_still("f(lambda:\n");
    whole("f(lambda:\n1)\n");
    open_still("def f(a,\nb):\n");
}

static void test_strings(void **state)
{
    (void)state;
    open_still("x = '''\n");
    open_still("x = \"\"\"a 'b' \"\n");
    open_still("x = '''\n\n");
    open_still("x = '''a\\'''\n");
    whole("x = '''\n'''\n");
    whole("x = \"\"\"a\nb\"\"\"\n");
    whole("x = ''\n");
    whole("x = '\\''\n");
    whole("x = 'if y:'\n");
    whole("x = 'open\n"); /* wrong */
    open_still("x = 'open\\\n");
    whole("x = 'open\\\nended'\n");
    open_still("if x == ':':\n");
    whole("'#'\n");
    open_still("f('#',\n");
}

static void test_backslashes(void **state)
{
    (void)state;
    open_still("x = 1 + \\\n");
    whole("x = 1 + \\\n2\n");
    open_still("if x and \\\ny:\n");
    whole("x = 1 # \\\n");
    whole("x = \\\n\n");
}

static void test_bytes_that_are_no_text(void **state)
{
    (void)state;
    assert_true(block_is_whole("(\0\n", 3));
    whole("h\xc3\xa9 = 1\n");
    whole("\xff\n");
    assert_true(block_is_whole("x", 1));
    assert_false(block_is_whole("x = '\\", 6));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),       cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_brackets),    cmocka_unit_test(test_strings),
        cmocka_unit_test(test_backslashes), cmocka_unit_test(test_bytes_that_are_no_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
