"""Code that breaks what it can reach, forks, or asks for the channel: the next run does not notice.
The fixture `kernel` runs one more cell after each of these."""
import json
import subprocess

import pytest
import rig


@pytest.mark.parametrize("code", (
    "del __builtins__", "globals().clear()", "import sys; sys.modules.clear()",
    "import sys; sys.modules = {}",
    "import builtins; builtins.print = builtins.repr = builtins.len = None",
    "import builtins; vars(builtins).clear()",
    "json = os = sys = traceback = linecache = None",
    "import sys; sys.modules['__main__'] = None",
    "import linecache; linecache.cache.clear()", "import sys; del sys.path[:]", "import sys; sys.meta_path.clear()",
    "import sys; sys.excepthook = sys.displayhook = None",
    "import os; os.environ = {}", "import threading; del threading.Thread.start",
    "import gc; gc.set_threshold(1)",
    "import sys; sys.settrace(lambda *a: 1 / 0)", "import sys; sys.setprofile(lambda *a: 1 / 0)",
    "import os; os.chdir('/')",
    "import asyncio\nawait asyncio.sleep(0)\nasyncio.get_running_loop().close()",
    "import sys, io; sys.stderr = io.StringIO(); 1/0", "raise BaseException", "raise GeneratorExit",
    "import os; os.close(3)",
    "import warnings; warnings.simplefilter('error')", "import pdb; pdb.set_trace()",
    "import __main__; __main__.__dict__.clear(); del __main__",
    "import traceback; traceback.TracebackException = None; 1/0", "display = 5", "import builtins; del builtins.display",
))
def test_what_is_broken(kernel, code):
    done = kernel.run(code)
    assert done.code in (0, 1), done
    kernel.run("1/0")


def test_a_timer_that_strikes_all_the_time(kernel):
    kernel.run("import signal\nsignal.signal(signal.SIGALRM, lambda *a: 1 / 0)\n"
               "signal.setitimer(signal.ITIMER_REAL, .001, .001)")
    for _ in range(100):
        assert kernel.run("display(1)\n2").code in (0, 1)
    while kernel.run("signal.setitimer(signal.ITIMER_REAL, 0)").code:
        pass
    done = kernel.run("hit = []\nold = signal.signal(signal.SIGALRM, lambda *a: hit.append(1))\nold.__name__")
    assert done.plain == "'<lambda>'"  # the user's own, though it was held between the runs
    kernel.process.send_signal(14)
    assert kernel.run("hit").plain == "[1]"


def test_errors_without_a_working_interpreter(kernel):
    done = kernel.run("import builtins\nvars(builtins).clear()\nundefined")
    assert done.code == 1 and done.error["name"] == "NameError" and "NameError" in done.err, done


def test_a_forked_child_is_no_kernel(kernel):
    done = kernel.run("""
import os
pid = os.fork()
print("child" if pid == 0 else "parent", os.waitpid(pid, 0)[1] if pid else "", flush=True)
display("once")
pid and "parent's value" """)
    assert sorted(done.out.split()) == ["'once'", "0", "child", "parent"], done
    assert [one["text/plain"] for one in done.results] == ["'once'", '"parent\'s value"'], done


@pytest.mark.parametrize("end, status", (
    ("pass", 0), ("sys.exit(3)", 3), ("1/0", 1), ("os._exit(4)", 4), ("sys.exit('x')", 1)))
def test_how_a_forked_child_ends(kernel, end, status):
    done = kernel.run(f"""
import os, sys
pid = os.fork()
if pid == 0:
    {end}
else:
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))""")
    assert (done.out, done.code, done.results, done.error) == (f"{status}\n", 0, [], None), done
    assert ("ZeroDivisionError" in done.err) == (end == "1/0") and "<kernel>" not in done.err


def test_a_fork_in_a_thread_and_in_an_await(kernel):
    code = """
import os, threading, sys
def work():
    global pid
    pid = os.fork()
    if pid == 0:
        print("child")
        sys.stdout.flush()
t = threading.Thread(target=work)
t.start(); t.join()
os.waitpid(pid, 0)[1]"""
    assert (kernel.run(code).out, kernel.run(code).plain) == ("child\n", "0")
    done = kernel.run("import asyncio, os\nawait asyncio.sleep(0)\npid = os.fork()\n"
                      "os.write(1, b'x\\n');\nif pid: os.waitpid(pid, 0)")
    assert (done.out, done.code) == ("x\nx\n", 0), done


def test_processes(kernel):
    (kernel.folder / "work.py").write_text("def square(x): return x * x")
    for method in ("fork", "spawn"):
        done = kernel.run(f"import multiprocessing as mp, work\nwith mp.get_context('{method}').Pool(2) as pool:\n"
                          "  print(pool.map(work.square, range(4)))")
        assert (done.out, done.code) == ("[0, 1, 4, 9]\n", 0), done
    done = kernel.run("def own(x): print(x); return x + 1\n"
                      "with mp.get_context('fork').Pool(1) as pool: print(pool.map(own, [1]))")
    assert done.out == "1\n[2]\n", done


def test_children_have_no_channel(kernel):
    done = kernel.run("import subprocess\nsubprocess.run('ls -l /proc/self/fd', shell=True, close_fds=False)")
    assert "socket" not in done.out, done
    done = kernel.run("import os, sys\nif (pid := os.fork()) == 0:\n"
                      "  print([os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')"
                      " if os.path.exists(f'/proc/self/fd/{fd}')])\n  os._exit(0)\nos.waitpid(pid, 0);")
    assert "socket" not in done.out and "pipe" in done.out, done


def test_the_end_of_the_channel_is_the_end(make_kernel):
    kernel = make_kernel()
    kernel.run("import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()")
    kernel.socket.close()
    assert kernel.process.wait(60) == 0


WARM = """
import os, sys
space = {"__name__": "kernel"}
exec(compile(os.read(0, 1 << 24), "<kernel>", "exec"), space)
space["warm_up"]()
space["prepare_zygote"]()
import random, secrets, tempfile, threading, uuid
if len(sys.argv) > 1:
    import numpy.random
    numpy.random.seed(1)
random.seed(1)
next(tempfile._get_candidate_names()), uuid.uuid1()
if threading.active_count() != 1 or len(os.listdir("/proc/self/fd")) != 5:  # 0 to 3, and the folder
    sys.exit("a warm process has a thread or a file of its own")
pid = os.fork()
if pid == 0:
    fd = os.dup(3)
    os.close(3)
    space["serve"](fd, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OWN": "1", "TZ": "XYZ-5"})
os.close(3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture
def make_forked(make_kernel):
    return lambda *words: make_kernel(command=(rig.PYTHON, "-c", WARM, *words), env={"SECRET": "of the zygote"})


RANDOM = """
import multiprocessing, random, secrets, tempfile, uuid
[random.random(), secrets.token_hex(), str(uuid.uuid4()), str(uuid.uuid1()), tempfile.mktemp(),
 multiprocessing.current_process().authkey.hex(), *([__import__('numpy').random.rand()] if %r else [])]
"""


@pytest.mark.parametrize("words", ((), ("numpy",)))
def test_random_after_a_fork_from_a_warm_process(make_forked, words):
    if words and subprocess.run([rig.PYTHON, "-c", "import numpy"], capture_output=True).returncode:
        pytest.skip(f"{rig.PYTHON} has no numpy")
    one, other = (json.loads(make_forked(*words).run(RANDOM % bool(words)).plain.replace("'", '"')) for _ in range(2))
    assert len(one) == 6 + len(words) and not set(one) & set(other)


def test_forked_from_a_warm_process(make_forked):
    kernel = make_forked()
    assert kernel.run("def f(): 1/0\nf()").err.count("  File") == 2
    assert kernel.run("import asyncio\nawait asyncio.sleep(0, 3)").plain == "3"
    done = kernel.run("import os\nif os.fork() == 0: print('child')\nelse: os.wait();")
    assert done.out == "child\n", done
    done = kernel.run("import time\nprint(sorted(os.environ), time.localtime(0).tm_hour, time.tzname[0])\nos.system('env')")
    names = {line.partition("=")[0] for line in done.out.splitlines()[1:]}
    assert done.out.startswith("['LANG', 'OWN', 'PATH', 'TZ'] 5 XYZ\n") and "OWN" in names and "SECRET" not in names


def test_a_script_forked_from_a_warm_process(make_forked):
    code = "import sys, json, threading\nn = 0\ndef f():\n  global n\n  n += 1\n  f()\ntry: f()\nexcept RecursionError: print(n)\n" \
           "class A:\n  def __del__(self): print('deleted')\na = A()\nprint(sys.getrecursionlimit(), threading.active_count())\n1/0"
    done = make_forked().script(code)
    assert (done.code, done.out) == (1, "999\n1000 1\ndeleted\n"), done
    assert done.err.count("  File") == 1 and done.error["traceback"] == done.err


def test_random_is_of_its_own(make_kernel):
    values = {make_kernel().run("import random, uuid\nrandom.random(), uuid.uuid4()").plain for _ in range(2)}
    assert len(values) == 2


def test_not_started_by_init(tmp_path):
    text = tmp_path / "kernel"
    text.write_bytes(rig.kernel_text())
    with text.open("rb") as file:  # as init gives it: one read has all of it
        done = subprocess.run(rig.words("kernel_run"), stdin=file, capture_output=True)
    assert done.returncode == 1 and b"descriptor 3" in done.stderr


def other_version():
    """Compiled by a Python that is not this one: what is behind the magic number is never looked at."""
    return b"\0\0\r\n" + b"\xe3 no code\0" + rig.kernel_text()


@pytest.mark.parametrize("make_input", (lambda: rig.kernel_bytecode() + rig.kernel_text(), other_version))
def test_what_it_is_loaded_from(make_kernel, make_input):
    kernel = make_kernel(input_bytes=make_input())
    done = kernel.run("def f(): 1/0\nf()")
    assert done.err.count("  File") == 2 and "<kernel>" not in done.err, done
    assert kernel.run("len(__import__('os').read(0, 10))").plain == "0"


def test_compiled_text_ends_with_a_nul():
    """The loader finds the text behind the last one; the text has none."""
    assert rig.kernel_bytecode().endswith(b"\0") and b"\0" not in rig.kernel_text()
