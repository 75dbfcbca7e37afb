"""Cells: one namespace, the value of the last expression, what can show itself, top-level await."""
import base64

import pytest


def test_state_stays(kernel):
    assert kernel.run("import math\nx = 5\ndef f(a): return a * x").code == 0
    assert kernel.run("x += 1").results == []
    assert kernel.run("f(math.floor(2.5))").plain == "12"


@pytest.mark.parametrize("code, plain", (
    ("1 + 1", "2"), ("'a\\nb'", "'a\\nb'"), ("None", None), ("x = 1", None), ("", None), ("# only", None),
    ("1;", None), ("1 ; # quiet", None), ("(1\n);", None), ("'a;b'  # ; no", "'a;b'"), ("'''a\n;'''", "'a\\n;'"),
    ("'é;' ;", None), ("for i in range(3): i", None), ("x = 1; x", "1"), ("'doc'", "'doc'"),
    ("\ufeff1", "1"), ("if True:\n  3", None), ("print", "<built-in function print>"), ("1\r\n2\r\n", "2"),
))
def test_last_expression(kernel, code, plain):
    done = kernel.run(code)
    assert (done.code, done.plain, done.err) == (0, plain, ""), done


def test_underscore_is_the_last_value(kernel):
    kernel.run("21")
    kernel.run("None")
    assert kernel.run("_ * 2").plain == "42"
    assert kernel.run("'_' in globals()").plain == "False"


def test_namespace_is_main_and_shows_nothing_of_the_kernel(kernel):
    clean = ["__builtins__", "__doc__", "__loader__", "__name__", "__package__", "__spec__"]
    assert kernel.run("dir()").plain == repr(clean)
    done = kernel.run("import sys, __main__, pickle\nclass A: pass\n"
                      "a = pickle.loads(pickle.dumps(A()))\n"
                      "(__name__, vars(__main__) is globals(), type(a) is A, sys.argv, sys.path[0],"
                      " [m for m in sys.modules if 'berth' in m or 'kernel' in m])")
    assert done.plain == "('__main__', True, True, [''], '', [])", done


def test_modules_come_from_the_folder(kernel):
    (kernel.folder / "mine.py").write_text("value = 7")
    assert kernel.run("import mine; mine.value").plain == "7"
    assert kernel.run("open('new.txt', 'w').fileno()").plain == "3"  # as in any program


def test_representations(kernel):
    done = kernel.run("""
class Rich:
    def __repr__(self): return "plain\\udc80"
    def _repr_html_(self): return "<b>é\\0</b>"
    def _repr_png_(self): return b"png"
    def _repr_jpeg_(self): return (b"jpeg", {"width": 1})
    def _repr_svg_(self): return "<svg/>"
    def _repr_json_(self): return {"a": [1, None, 10 ** 30]}
    def _repr_markdown_(self): return "*m*"
    def _repr_latex_(self): return None
Rich()""")
    assert done.results == [{
        "text/plain": "plain\\udc80", "text/html": "<b>é\ufffd</b>", "image/svg+xml": "<svg/>",
        "image/png": base64.b64encode(b"png").decode(), "text/markdown": "*m*",
        "image/jpeg": base64.b64encode(b"jpeg").decode(),
        "application/json": {"a": [1, None, 1e30]}}], done
    assert kernel.run("Rich").results[0].keys() == {"text/plain"}  # the class has no instance to show
    mock = kernel.run("from unittest.mock import MagicMock\nMagicMock()").results
    assert mock[0].keys() == {"text/plain"}


def test_bundle_and_its_order(kernel):
    done = kernel.run("""
class Bundle:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": "bundle", "application/x+json": {"k": 1}, "image/png": "aGk="}, {"meta": 1}
    def _repr_html_(self): return "own"
Bundle()""")
    assert done.results[0]["text/html"] == "bundle"
    assert done.results[0]["application/x+json"] == {"k": 1}
    assert done.results[0]["image/png"] == "aGk="


def test_a_broken_representation_costs_itself_only(kernel):
    done = kernel.run("""
class Broken:
    def __repr__(self): return "still"
    def _repr_html_(self): raise ValueError("no html")
    def _repr_json_(self): return float("nan")
    def _repr_png_(self): raise NotImplementedError
Broken()""")
    assert (done.code, done.results) == (0, [{"text/plain": "still"}]), done
    assert "no html" in done.err and "JSON compliant" in done.err and "<kernel>" not in done.err
    done = kernel.run("class Bad:\n  def __repr__(self): raise KeyError('bad')\nBad()")
    assert (done.code, done.error["name"], done.results) == (1, "KeyError", [])


def test_display(kernel):
    done = kernel.run("print('before')\nx = display(1, 'two')\ndisplay({'text/html': '<i>'}, raw=True)\nx")
    assert done.results == [{"text/plain": "1"}, {"text/plain": "'two'"}, {"text/html": "<i>"}]


def test_display_from_threads_and_handlers_stays_whole(kernel):
    done = kernel.run("""
import signal, threading
signal.signal(signal.SIGALRM, lambda *a: display("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
big = ["x" * 300000] * 3
threads = [threading.Thread(target=lambda: [display(text) for text in big]) for _ in range(4)]
for t in threads: t.start()
for text in big: display(text)
for t in threads: t.join()
signal.setitimer(signal.ITIMER_REAL, 0);""")
    assert done.code == 0, done.err
    texts = [one["text/plain"] for one in done.results]
    assert sum(len(text) > 300000 for text in texts) == 15
    assert set(texts) - {"'alarm'"} == {repr("x" * 300000)}


@pytest.mark.parametrize("run", ("down()", "threading.Thread(target=down).start()\nended.wait(60)"))
def test_display_where_the_stack_ends(kernel, run):
    """The last calls have no room in the midst of a message: it is sent whole, or not at all."""
    done = kernel.run(f"""
import threading
ended = threading.Event()
def down(level=0):
    display(level)
    try:
        down(level + 1)
    except RecursionError:
        pass
    ended.set()
{run};""")
    shown = [int(one["text/plain"]) for one in done.results]
    assert shown == list(range(len(shown))) and len(shown) > 400
    assert kernel.run("41 + 1").plain == "42"


def test_what_raises_in_the_midst_of_a_message(kernel):
    """As a RecursionError in handlers of handlers does: the next message goes out all the same."""
    done = kernel.run("""
import sys
def tracer(frame, event, argument):
    if frame.f_code.co_name == "drain":
        raise ZeroDivisionError
sys.settrace(tracer)
display("first")""")
    assert done.error["name"] == "ZeroDivisionError" and done.results == [{"text/plain": "'first'"}]
    assert kernel.run("41 + 1").plain == "42"


def test_a_thread_shows_nothing_in_a_later_run(kernel):
    kernel.run("import threading\ngo, ended = threading.Event(), threading.Event()\n"
               "def work():\n  go.wait()\n  display('late')\n  ended.set()\n"
               "threading.Thread(target=work).start()")
    done = kernel.run("go.set()\ndisplay('mine')\nended.wait(60)")
    assert [one["text/plain"] for one in done.results] == ["'mine'", "True"], done


def test_large_results_are_cut_or_named(kernel):
    done = kernel.run("'x' * 5000000")
    assert len(done.plain) < 1100000 and "characters left out" in done.plain
    done = kernel.run("display({'text/html': 'x' * 40_000_000, 'text/plain': 'small'}, raw=True)")
    assert done.results == [{"text/plain": "small"}] and "left out" in done.err


def test_future_statements_stay(kernel):
    kernel.run("from __future__ import annotations")
    assert kernel.run("def f(a: undefined): pass\nf.__annotations__").plain == "{'a': 'undefined'}"


def test_top_level_await(kernel):
    assert kernel.run("import asyncio\nawait asyncio.sleep(0)\nawait asyncio.sleep(0, 'v')").plain == "'v'"
    done = kernel.run("async with asyncio.Lock() as l: print('in')\n"
                      "async def g():\n  yield 1\n[x async for x in g()]")
    assert (done.out, done.plain) == ("in\n", "[1]")
    done = kernel.run("async def f():\n  1/0\nawait f()")
    assert done.code == 1 and "asyncio" not in done.err and done.err.count("File") == 2, done


def test_tasks_go_on_in_a_later_await(kernel):
    kernel.run("import asyncio\nseen = []\nasync def work():\n  for i in range(3):\n    seen.append(i)\n"
               "    await asyncio.sleep(0)\n  return 'done'\n"
               "task = asyncio.ensure_future(work())\nawait asyncio.sleep(0)")
    assert kernel.run("await task, seen").plain == "('done', [0, 1, 2])"
    # A loop of the user's own, and one that is closed, leave the kernel's usable.
    assert kernel.run("asyncio.run(work())").plain == "'done'"
    assert kernel.run("await work()").plain == "'done'"
    kernel.run("loop = asyncio.get_running_loop() if False else None\n"
               "async def l(): return asyncio.get_running_loop()\nloop = await l()")
    assert kernel.run("loop.close()\n1").plain == "1"
    assert kernel.run("await work()").plain == "'done'"


def test_stopped_loop_is_an_error(kernel):
    done = kernel.run("import asyncio\nasyncio.get_running_loop().stop()\nawait asyncio.sleep(30)")
    assert done.error["name"] == "RuntimeError"
    assert kernel.run("await asyncio.sleep(0, 5)").plain == "5"


def test_exit_within_await(kernel):
    assert kernel.run("import asyncio, sys\nawait asyncio.sleep(0)\nsys.exit(4)").code == 4
    assert kernel.run("await asyncio.sleep(0, 5)").plain == "5"


def test_environment_of_a_run(kernel):
    done = kernel.run("import os, subprocess\nsubprocess.run('echo $NEW', shell=True)\nos.environ['NEW']",
                      env=("NEW=a=b", "broken"))
    assert (done.plain, done.out) == ("'a=b'", "a=b\n")


def test_inspect_sees_the_source_of_cells(kernel):
    kernel.run("def f():\n    return 'é'  # here\n")
    assert "# here" in kernel.run("import inspect\ninspect.getsource(f)").plain


def test_warnings_are_shown_each_time(kernel):
    for _ in range(2):
        done = kernel.run("import warnings\nwarnings.warn('mind')")
        assert "UserWarning: mind" in done.err and "warnings.warn('mind')" in done.err
