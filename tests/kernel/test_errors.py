"""Uncaught errors: what init is told, what is printed, the exit code."""
import pytest


def fails(kernel, code, name, exit_code=1, **options):
    done = kernel.run(code, **options)
    assert done.code == exit_code, done
    assert done.error["name"] == name, done
    assert done.error["traceback"] == done.err, done
    assert "<kernel>" not in done.err and "kernels" not in done.err, done.err
    return done


def test_lines_of_every_cell_are_shown(kernel):
    kernel.run("def f(a):\n    return 1 / a  # the first", file="same")
    kernel.run("def g(a):\n    return f(a)  # the second", file="same")
    done = fails(kernel, "x = 1\ng(0)", "ZeroDivisionError")
    assert done.error["value"] == "division by zero"
    for line in ("g(0)", "return f(a)  # the second", "return 1 / a  # the first"):
        assert line in done.err, done.err
    assert done.err.startswith("Traceback (most recent call last):\n  File \"cell 3\", line 2, in <module>")
    assert done.err.endswith("ZeroDivisionError: division by zero\n")


def test_syntax_error_has_its_caret(kernel):
    done = fails(kernel, "x = 1\ny = = 2", "SyntaxError")
    assert done.err.startswith('  File "cell 1", line 2\n    y = = 2\n') and "^" in done.err
    assert "x" not in kernel.run("dir()").plain  # nothing of it was run
    fails(kernel, "def f():\nreturn", "IndentationError")
    fails(kernel, "print(1)\nreturn 1", "SyntaxError")
    fails(kernel, "yield 1", "SyntaxError")


def test_chains_and_notes(kernel):
    done = fails(kernel, "try:\n  1/0\nexcept Exception as e:\n  raise KeyError('k') from e", "KeyError")
    assert "direct cause" in done.err and "ZeroDivisionError" in done.err
    done = fails(kernel, "try:\n  1/0\nfinally:\n  undefined", "NameError")
    assert "During handling" in done.err
    fails(kernel, "a = ValueError('a'); a.__context__ = b = ValueError('b')\nb.__context__ = a\nraise a",
          "ValueError")


def test_groups(kernel):
    if kernel.run("import sys\nsys.version_info >= (3, 11)").plain != "True":
        pytest.skip("ExceptionGroup is of Python 3.11")
    done = fails(kernel, "try:\n  1/0\nexcept Exception as e:\n  raise ExceptionGroup('two', [e, OSError('x')])",
                 "ExceptionGroup")
    assert "ZeroDivisionError" in done.err and "OSError: x" in done.err and "1/0" in done.err


def test_errors_within_what_the_kernel_called(kernel):
    done = fails(kernel, "class A:\n  def __repr__(self): return 1 / 0\ndisplay(A())", "ZeroDivisionError")
    assert done.err.count("  File") == 2, done.err


@pytest.mark.parametrize("body", (
    "def __str__(self): raise ValueError", "def __str__(self): return 5",
    "def __repr__(self): raise SystemExit\n  __str__ = __repr__",
    "__class__ = property(lambda s: 1 / 0)",
    "def __getattribute__(self, name): raise RuntimeError(name)",
))
def test_exceptions_that_fight_back(kernel, body):
    done = kernel.run(f"class E(Exception):\n  {body}\nraise E('x')")
    assert done.code == 1 and done.error["name"] == "E" and "E" in done.err, done


def test_huge_messages_are_cut(kernel):
    done = fails(kernel, "raise ValueError('x' * 20_000_000)", "ValueError")
    assert len(done.error["value"]) < 20000 and len(done.err) < 200000
    assert "characters left out" in done.err


def test_text_that_json_cannot_hold(kernel):
    done = fails(kernel, "raise ValueError('\\udc80 \\0 é')", "ValueError")
    assert done.error["value"] == "\\udc80 \ufffd é"


def test_deep_recursion(kernel):
    done = fails(kernel, "def f(): return f()\nf()", "RecursionError")
    assert "repeated" in done.err
    done = fails(kernel, "def a(n): return b(n)\ndef b(n): return a(n)\na(1)", "RecursionError")
    assert len(done.err) < 200000
    fails(kernel, "class R:\n  def __repr__(self): return repr(self)\nR()", "RecursionError")
    kernel.run("import sys; limit = sys.getrecursionlimit(); sys.setrecursionlimit(40)")
    assert kernel.run("def f(): return f()\nf()").code == 1
    assert kernel.run("sys.setrecursionlimit(limit)").code == 0


def test_memory_error(kernel):
    fails(kernel, "x = bytearray(1 << 60)", "MemoryError")
    done = kernel.run("import resource\nsoft, hard = resource.getrlimit(resource.RLIMIT_AS)\n"
                      "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, hard))\n"
                      "parts = []\nwhile True: parts.append('x' * (1 << 24))")
    assert (done.code, done.error["name"]) == (1, "MemoryError"), done
    assert kernel.run("del parts\nresource.setrlimit(resource.RLIMIT_AS, (soft, hard))").code == 0


@pytest.mark.parametrize("code, exit_code, err", (
    ("sys.exit(3)", 3, ""), ("sys.exit()", 0, ""), ("sys.exit(None)", 0, ""), ("sys.exit(0)", 0, ""),
    ("sys.exit('gone')", 1, "gone\n"), ("sys.exit(-1)", 255, ""), ("sys.exit(256)", 0, ""),
    ("raise SystemExit(2)", 2, ""), ("exit(5)", 5, ""), ("sys.exit(('a', 1))", 1, "('a', 1)\n"),
    ("try:\n  1/0\nfinally:\n  sys.exit(7)", 7, ""),
))
def test_sys_exit(kernel, code, exit_code, err):
    done = kernel.run("import sys\nkept = 1\n" + code)
    assert (done.code, done.err, done.error) == (exit_code, err, None), done
    assert kernel.run("kept").plain == "1"


def test_code_that_is_no_text(kernel):
    done = kernel.run(b"x = '\xff\xfe'\n")
    assert (done.code, done.error["name"]) == (1, "SyntaxError"), done
    done = kernel.run(b"x = 1\0\n")
    assert done.code == 1 and done.error["name"] in ("SyntaxError", "ValueError"), done


def test_a_cell_of_four_megabytes(kernel):
    line = "x = 'some text to fill the line with, and more'\n"
    done = kernel.run(line * (4_000_000 // len(line)) + "1/0")
    assert done.error["name"] == "ZeroDivisionError" and "1/0" in done.err
    done = kernel.run("(" * 100_000)
    assert done.code == 1, done


def test_post_mortem_is_there(kernel):
    kernel.run("def f():\n  local = 5\n  1/0\nf()")
    assert kernel.run("import sys\nsys.last_traceback.tb_next.tb_frame.f_locals").plain == "{'local': 5}"
    assert kernel.run("sys.last_traceback.tb_frame.f_code.co_filename").plain == "'cell 1'"


def test_stack_ends_at_the_cell(kernel):
    done = kernel.run("import traceback\ndef f(): traceback.print_stack()\nf()")
    assert done.err.count("  File") == 2 and "<kernel>" not in done.err, done.err
