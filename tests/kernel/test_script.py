"""Script mode: what `python3 main.py` does, and results beside it; the process ends by itself."""
import ast
import configparser
import os
import pathlib
import re
import resource
import signal
import subprocess

import pytest
import rig


def test_as_python_runs_it(script_kernel):
    code = """
import inspect, os, pickle, sys, atexit, threading
class A:
    x = 1
def f():
    "of f"
print(__name__, os.path.basename(__file__), os.path.isabs(__file__), sys.argv)
print(os.path.samefile(sys.path[0], os.path.dirname(os.path.abspath("main.py"))))
print(type(pickle.loads(pickle.dumps(A()))) is A, "of f" in inspect.getsource(f), "x = 1" in inspect.getsource(A))
print(sorted(globals()), __spec__, type(__loader__).__name__, __builtins__.__name__)
print(input())
atexit.register(print, "at exit")
def late():
    threading.main_thread().join()
    print("from a thread")
threading.Thread(target=late).start()
print("error", file=sys.stderr)
sys.exit(3)
"""
    done = script_kernel.script(code, stdin=b"line\n")
    plain = subprocess.run([rig.PYTHON, "main.py"], cwd=script_kernel.folder, input=b"line\n", capture_output=True)
    assert plain.returncode == 3
    assert (done.out, done.err, done.code) == (plain.stdout.decode(), plain.stderr.decode(), plain.returncode)


@pytest.mark.parametrize("code", (
    "1/0", "x = = 1", "raise SystemExit('gone')", "import sys\nsys.exit()", "raise KeyError('a') from ValueError('b')",
    "import sys\nsys.excepthook = lambda *a: print('hook', a[0])\n1/0", "import sys\nsys.exit(-1)", "await 1",
    "import atexit\natexit.register(lambda: 1/0)", "import os\nos._exit(9)", "import os\nos.kill(os.getpid(), 15)",
    "import threading\nt = threading.Thread(target=lambda: 1/0)\nt.start()\nt.join()", "def f(): f()\nf()",
    "class A:\n  def __del__(self): print('deleted')\na = A()",
    "import warnings\nwarnings.warn('w')", "import os\nos.fork()\nos.write(1, b'x\\n')",
))
def test_ends_as_python_does(script_kernel, code):
    done = script_kernel.script(code, to_end=True)
    plain = subprocess.run([rig.PYTHON, "main.py"], cwd=script_kernel.folder,
                           stdin=subprocess.DEVNULL, capture_output=True)
    status = plain.returncode if plain.returncode >= 0 else 128 - plain.returncode

    def same(text):
        """Without what may differ: the folder, addresses, the depth, what the C printer underlines."""
        text = text.replace(str(script_kernel.folder) + "/", "")
        text = re.sub(r"0x[0-9a-f]+|repeated \d+", "N", text)
        return re.sub(r"\n +[~^]+(?=\n)", "", text)

    assert done.code == status, done
    assert done.out == plain.stdout.decode(), done
    assert same(done.err) == same(plain.stderr.decode()), done


def test_the_error_is_told_too(script_kernel):
    done = script_kernel.script("x = 1\nx / 0")
    assert done.error["name"] == "ZeroDivisionError" and done.error["traceback"] == done.err
    assert 'File "main.py", line 2' in done.err and "<kernel>" not in done.err


def test_the_last_expression_is_a_result(script_kernel):
    done = script_kernel.script("print('x')\ndisplay(1)\n6 * 7")
    assert (done.out, [one["text/plain"] for one in done.results], done.code) == ("x\n", ["1", "42"], 0)


def test_results_of_exit_handlers(script_kernel):
    assert script_kernel.script("import atexit\natexit.register(lambda: display(5));").plain == "5"


@pytest.mark.parametrize("method", ("fork", "spawn"))
def test_processes_find_main(script_kernel, method):
    done = script_kernel.script(f"""
import multiprocessing as mp
class A:
    def __init__(self, x): self.x = x
def work(a): return A(a.x + 1)
if __name__ == "__main__":
    mp.set_start_method("{method}")
    with mp.Pool(2) as pool:
        print([a.x for a in pool.map(work, [A(1), A(2)])])
    p = mp.Process(target=print, args=("child",))
    p.start(); p.join()
    print(p.exitcode)
""")
    assert (done.out, done.err, done.code) == ("[2, 3]\nchild\n0\n", "", 0), done


def test_a_script_in_a_folder(script_kernel):
    (script_kernel.folder / "sub").mkdir()
    (script_kernel.folder / "sub" / "near.py").write_text("value = 5")
    done = script_kernel.script("import near, os, sys\nprint(near.value, sys.argv[0], os.getcwd() == os.path.realpath('.'))",
                                name="sub/main.py")
    assert done.out == "5 sub/main.py True\n"


def test_the_file_itself(script_kernel):
    (script_kernel.folder / "main.py").write_text("print(6 * 7)")
    done = script_kernel.script(None, write=False)
    assert (done.out, done.code) == ("42\n", 0)


def test_no_file(script_kernel):
    done = script_kernel.script(None, write=False)
    assert done.code == 2 and "can't open file 'main.py': [Errno 2]" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("plant", ("folder", "link", "pipe", "none"))
def test_a_file_that_cannot_be_written(script_kernel, plant):
    file = script_kernel.folder / ("gone/main.py" if plant == "none" else "main.py")
    target = script_kernel.folder / "target"
    target.write_text("kept")
    if plant == "folder":
        file.mkdir()
    elif plant == "link":
        file.symlink_to(target)
    elif plant == "pipe":
        os.mkfifo(file)
    done = script_kernel.script("print('ran')", name=str(file), write=False)
    assert (done.code, done.out) == (2, "") and done.err.startswith(f"python3: can't open file '{file}': [Errno "), done
    assert target.read_text() == "kept"


def test_no_space_for_the_file(make_kernel):
    """A limit in place of a full disk: the file can be made, not filled."""
    kernel = make_kernel()
    resource.prlimit(kernel.process.pid, resource.RLIMIT_FSIZE, (10, 10))
    done = kernel.script("print('ran')" + " " * 100, write=False)
    assert (done.code, done.out) == (2, "") and "[Errno 27] File too large" in done.err, done


def test_writes_over_an_old_file(script_kernel):
    file = script_kernel.folder / "main.py"
    file.write_text("print('old')" * 100)
    done = script_kernel.script("print(open(__file__).read())", name=str(file), write=False)
    assert done.out == "print(open(__file__).read())\n" and file.stat().st_mode & 0o777 == 0o644


START_CODE = """
import os, sys
print(sys.flags.optimize, sys.flags.hash_randomization, os.environ["OTHER"], sys.stdout.encoding, __file__)
print(input(), os.path.exists("/proc/self/fd/3"))
sys.exit(4)
"""


def test_variables_that_act_at_the_start(script_kernel):
    """They need a new interpreter: what it is told comes from them, results do not."""
    done = script_kernel.script(START_CODE + "6 * 7", write=False, stdin=b"line\n", name=str(script_kernel.folder / "main.py"),
                                env=("PYTHONOPTIMIZE=1", "PYTHONHASHSEED=0", "PYTHONIOENCODING=latin-1", "OTHER=5"))
    file = script_kernel.folder / "main.py"
    assert (done.code, done.out, done.err) == (4, f"1 0 5 iso8859-1 {file}\nline False\n", ""), done
    assert done.messages == []


@pytest.mark.parametrize("entry, restarts", (
    ("LANG=C.UTF-8", False), ("LANG=C", True), ("LC_ALL=C.UTF-8", True), ("TZ=UTC", False), ("MALLOC_ARENA_MAX=1", True),
    ("LD_LIBRARY_PATH=/nowhere", True), ("GLIBC_TUNABLES=glibc.malloc.check=0", True), ("PYTHONPATH=/nowhere", True),
    ("LANGUAGE=de", False), ("PYTHONUNBUFFERED=1", True), ("HOME=/", False)))
def test_which_variables_need_a_new_interpreter(script_kernel, entry, restarts):
    name, _, value = entry.partition("=")
    code = f"import os, sys\nprint(os.environ[{name!r}], 'display' in dir(__builtins__))\nprint(open('/proc/self/cmdline').read().count('main.py'))"
    done = script_kernel.script(code, env=(entry,))
    assert (done.out, done.err) == (f"{value} {not restarts}\n{int(restarts)}\n", "")


def test_a_time_zone_needs_none(script_kernel):
    done = script_kernel.script("import time\ntime.localtime(0).tm_hour, time.tzname[0]", env=("TZ=XYZ-5",))
    assert done.plain == "(5, 'XYZ')"


def test_in_a_cell_they_are_like_any_other(script_kernel):
    done = script_kernel.run("import os, sys\nos.environ['PYTHONOPTIMIZE'], sys.flags.optimize", env=("PYTHONOPTIMIZE=1",))
    assert done.plain == "('1', 0)"


@pytest.mark.parametrize("code, message", (("print('no')\nx = = 1\nprint(1)", "invalid syntax"), ("def f():", "expected an indented block")))
def test_a_syntax_error_is_told(script_kernel, code, message):
    """Also when a new interpreter says it: of the end of a file it says it in its own way."""
    done = script_kernel.script(code)
    assert done.code == 1 and done.out == "" and message in done.error["value"] and message in done.err
    assert done.error["name"] in ("SyntaxError", "IndentationError") and "<kernel>" not in done.error["traceback"]


def test_the_coroutine_at_the_end_is_no_result_that_lives(script_kernel):
    done = script_kernel.script("class A:\n  def __del__(self): print('dropped')\nimport atexit\natexit.register(print, 'atexit')\nA()")
    assert done.out == "dropped\natexit\n" and "<__main__.A object" in done.plain


def test_a_cell_before_leaves_no_names(script_kernel):
    script_kernel.run("x = 1")
    assert "NameError" in script_kernel.script("print(x)").err


def test_interrupt(script_kernel):
    (script_kernel.folder / "main.py").write_text("import time\nprint('go', flush=True)\ntime.sleep(600)\n")
    flight = script_kernel.start("import time\nprint('go', flush=True)\ntime.sleep(600)\n",
                                 mode=rig.SCRIPT, file="main.py").until("go\n")
    script_kernel.process.send_signal(signal.SIGINT)
    with pytest.raises(EOFError):
        flight.wait()
    assert script_kernel.process.wait(60) in (130, -signal.SIGINT)
    flight.drain()
    assert flight.outcome.err.endswith("KeyboardInterrupt\n") and "<kernel>" not in flight.outcome.err


def test_asyncio_run_handles_the_interrupt(script_kernel):
    code = ("import asyncio\nasync def main():\n  try:\n    print('go')\n    await asyncio.sleep(600)\n"
            "  finally:\n    print('cleaned')\nasyncio.run(main())")
    flight = script_kernel.start(code, mode=rig.SCRIPT, file="main.py").until("go\n")
    script_kernel.process.send_signal(signal.SIGINT)
    flight.until("cleaned")


def test_what_acts_at_the_start_is_the_same_list_for_the_server():
    repo = pathlib.Path(__file__).resolve().parents[2]
    words = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    words.read(repo / "languages" / "python.ini")
    declared = words["language"]["at_start"].split(", ")
    text = (repo / "kernels" / "python" / "script.py").read_text()
    prefixes, names = [ast.literal_eval(re.search(rf"^{name} = (.*)$", text, re.MULTILINE).group(1))
                       for name in ("START_PREFIXES", "START_NAMES")]
    assert sorted(declared) == sorted([prefix + "*" for prefix in prefixes] + list(names))
