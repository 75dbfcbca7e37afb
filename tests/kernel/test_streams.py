"""The descriptors of a run: what is written when and where, and that a run keeps none of another."""
import os

import pytest


def test_order_of_stdout_and_stderr(kernel):
    done = kernel.run("""
import os, subprocess, sys
print("1", end=" ")
print("2", file=sys.stderr, end=" ")
os.write(1, b"3 ")
subprocess.run("printf '4 '; printf '5 ' >&2", shell=True)
sys.stdout.buffer.write(b"6 ")
sys.__stderr__.write("7 ")
print("8")""", merged=True)
    assert done.out == "1 2 3 4 5 6 7 8\n", done


def test_output_is_there_at_once(kernel):
    flight = kernel.start("import sys\nprint('dot', end='')\nsys.stdin.read()", stdin=None)
    flight.until("dot")
    os.close(flight.stdin_write)
    flight.stdin_write = None
    assert flight.wait().code == 0


def test_bytes_and_encoding(kernel):
    done = kernel.run("import sys\nprint('é\\udcff')\nsys.stdout.buffer.write(bytearray(b'\\xfe'));\n"
                      "sys.stderr.write('\\ud800');\n(sys.stdout.encoding, sys.stdout.fileno(), sys.stdout.isatty(),"
                      " sys.stdout.name, sys.stderr.name, sys.stdin.fileno())")
    assert done.stdout == "é".encode() + b"\xff\n\xfe" and done.err == "\\ud800", done
    assert done.plain == "('utf-8', 1, False, '<stdout>', '<stderr>', 0)"


def test_more_than_a_pipe_holds(kernel):
    done = kernel.run("print('x' * 3_000_000)\nfor i in range(20000): print(i)")
    assert len(done.stdout) == 3_000_001 + sum(len(str(i)) + 1 for i in range(20000))


def test_a_pipe_made_non_blocking_by_a_child(kernel):
    done = kernel.run("import os\nos.set_blocking(1, False)\nprint('x' * 1_000_000)")
    assert (done.code, len(done.stdout)) == (0, 1_000_001)


def test_stdin_of_each_run(kernel):
    done = kernel.run("[input('name? '), input()]", stdin=b"one\nt\xc3\xa9o\nrest\n")
    assert (done.plain, done.out) == ("['one', 'téo']", "name? ")
    done = kernel.run("import sys\nsys.stdin.read()", stdin=b"second")
    assert done.plain == "'second'"
    done = kernel.run("try: input()\nexcept EOFError: print('end')")
    assert done.out == "end\n"
    done = kernel.run("import subprocess\nsubprocess.run('cat')", stdin=b"to the child")
    assert done.out == "to the child"
    assert kernel.run("sys.stdin.close()\nimport os; os.close(0)").code == 0
    assert kernel.run("input()", stdin=b"again\n").plain == "'again'"


@pytest.mark.parametrize("code", (
    "sys.stdout.close(); sys.stderr.close()", "os.close(1); os.close(2); os.close(0)",
    "sys.stdout = sys.stderr = sys.stdin = None", "del sys.stdout, sys.stderr, sys.__stdout__",
    "sys.stdout.detach(); sys.stderr.detach()", "os.dup2(os.open('log', os.O_CREAT | os.O_WRONLY), 1)",
    "sys.stdout = io.StringIO()", "sys.stdout.reconfigure(encoding='utf-16', write_through=False)", "sys.stdout = 5",
    "sys.stdout = open('/dev/full', 'w', buffering=1 << 16); print('x')", "os.closerange(0, 90)",
    "class W:\n  def flush(self): raise SystemExit(9)\n  write = flush\nsys.stdout = W()",
))
def test_what_became_of_the_streams_is_over(kernel, code):
    done = kernel.run("import io, os, sys\n" + code)
    assert done.code in (0, 9), done  # the fixture looks at the next run
    done = kernel.run("import io, os, sys\n" + code + "\n1/0")
    assert done.code == 1 and "ZeroDivisionError" in done.err + done.error["traceback"]


def test_own_buffers_are_flushed_before_the_end(kernel):
    done = kernel.run("import os, sys\nsys.stdout = os.fdopen(os.dup(1), 'w')\nprint('held')")
    assert done.out == "held\n"


def test_output_of_the_c_library(kernel):
    done = kernel.run("import ctypes\nctypes.CDLL(None).printf(b'from C\\n')")
    assert (done.out, done.plain) == ("from C\n", "7")
    assert kernel.run("print('next')").out == "next\n"


def test_a_reader_that_left(kernel):
    flight = kernel.start("import sys\nsys.stdin.read()\nprint('x')", stdin=None)
    os.close(flight.out_read)
    flight.out_read = os.open("/dev/null", os.O_RDONLY)
    os.close(flight.stdin_write)
    flight.stdin_write = None
    done = flight.wait()
    assert (done.code, done.error["name"]) == (1, "BrokenPipeError"), done


THREAD = """
import sys, threading
go, ended = threading.Event(), threading.Event()
def work():
    go.wait()
    {print}
    ended.set()
thread = threading.Thread(target=work, daemon=True)
thread.start()
"""


@pytest.mark.parametrize("line", ("print('late')", "print('late', file=sys.stderr)", "sys.stdout.buffer.write(b'late')",
                                  "t = threading.Thread(target=print, args=('late',)); t.start(); t.join()", "1/0"))
def test_a_thread_writes_to_its_own_run(kernel, line):
    first = kernel.start(THREAD.replace("{print}", line))
    assert first.wait().code == 0
    second = kernel.run("print('mine')\ngo.set()\nended.wait(1 if '/' in " + repr(line) + " else 60)\nthread.join()")
    assert (second.out, second.err, second.code) == ("mine\n", "", 0), second
    first.drain()
    assert "late" in first.outcome.out + first.outcome.err or "ZeroDivisionError" in first.outcome.err


def test_a_thread_whose_reader_left_is_not_in_the_way(kernel):
    first = kernel.start(THREAD.replace("{print}", "[print('x' * 1000) for i in range(100)]"))
    first.wait()
    os.close(first.out_read)
    first.out_read = os.open("/dev/null", os.O_RDONLY)
    assert kernel.run("go.set(); ended.wait(60)").plain == "True"


def test_a_pool_works_for_whoever_asks(kernel):
    kernel.run("from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)\n"
               "pool.submit(print, 'first').result()")
    assert kernel.run("pool.submit(print, 'second').result()").out == "second\n"
    assert kernel.run("import asyncio\nawait asyncio.to_thread(print, 'third')").out == "third\n"
    done = kernel.run("pool.submit(lambda: 1 / 0).result()")
    assert done.code == 1 and "<kernel>" not in done.err


def test_descriptors_do_not_grow(kernel):
    count = "import os\nlen(os.listdir('/proc/self/fd'))"
    before = kernel.run(count).plain
    for _ in range(5):
        kernel.run("import threading\nt = threading.Thread(target=print, args=(1,)); t.start(); t.join()\n1/0")
    assert kernel.run(count).plain == before


def test_the_end_closes_the_pipes(kernel):
    flight = kernel.start("print('x')")
    flight.wait()
    os.set_blocking(flight.out_read, True)
    assert os.read(flight.out_read, 10) == b""  # else this would wait
