"""Small programs, each run both ways: by `python3 FILE`, and by a kernel in script mode. What they
print and how they end must not differ."""
import ast
import functools
import re
import subprocess

import pytest
import rig

# name: code, or (code, bytes of stdin). What differs between two runs of the interpreter itself is replaced in both.
PROGRAMS = {
    "empty": "",
    "comment": "# nothing",
    "print": "print(1)\nprint('x', end='')",
    "docstring": '"""of the module"""\nprint(__doc__)',
    "only a docstring": '"""of the module"""',
    "only an expression": "6 * 7",
    "value at the end": "x = [1]\nx",
    "value that prints itself": "class A:\n  def __repr__(self): return 1/0\nA()",
    "future": "from __future__ import annotations\ndef f(x: y): pass\nprint(f.__annotations__)",
    "names": "print(sorted(k for k in globals() if k != '__annotations__'), __name__, __spec__, __package__, __cached__ is None)",
    "file": "import os, sys\nprint(__file__, sys.argv, sys.path[0], os.getcwd())",
    "orig_argv": "import sys\nprint(getattr(sys, 'orig_argv', ['', ''])[1:])",
    "main module": "import __main__, sys\nx = 5\nprint(__main__.x, sys.modules['__main__'] is __main__, vars(__main__) is globals())",
    "loader": "print(type(__loader__).__name__, __loader__.get_source('__main__'))",
    "builtins": "import builtins\nprint(__builtins__ is builtins)",
    "guard": "def main():\n  print('in main')\nif __name__ == '__main__':\n  main()",
    "flags": "import sys\nprint(sys.flags, sys.warnoptions, sys.dont_write_bytecode)",
    "path": "import sys\nprint(sys.path)",
    "limits": "import sys\nprint(sys.getrecursionlimit())\nsys.setrecursionlimit(400)\nprint(sys.getrecursionlimit())",
    "limits wrong": "import sys\nsys.setrecursionlimit('x')",
    "depth": "n = 0\ndef f():\n  global n\n  n += 1\n  f()\ntry: f()\nexcept RecursionError: print(n)",
    "depth told": "def f(x): return f(x + 1)\nf(1)",
    "depth of less": "import sys\nsys.setrecursionlimit(100)\nn = 0\ndef f():\n  global n\n  n += 1\n  f()\ntry: f()\n"
                     "except RecursionError: print(n)",
    "repr deep": "x = []\nfor _ in range(100000): x = [x]\nrepr(x)",
    "division": "def f():\n  return 1 / 0\nf()",
    "chain": "try:\n  {}['a']\nexcept KeyError as e:\n  raise ValueError('b') from e",
    "context": "try:\n  {}['a']\nexcept KeyError:\n  int('x')",
    "long lines": "x = {'a': 1}\nprint((x['a'] +\n  x['b']\n  * 2))",
    "unicode": "print('äöü 日本 \\U0001f600')\nx = 'ä' + 1",
    "surrogate": "print('\\udc80')",
    "error without text": "raise Exception",
    "error of many lines": "raise ValueError('one\\ntwo')",
    "error of a class of its own": "class Odd(Exception):\n  def __str__(self): return 1\nraise Odd()",
    "bare base exception": "class B(BaseException): pass\nraise B('x')",
    "attribute hint": "import sys\nsys.versoin",
    "name hint": "value = 1\nvalu",
    "import error": "import nothing_of_this_name",
    "import from error": "from os import nothing_of_this_name",
    "assert": "assert 1 == 2, 'no'",
    "unicode error": "'ä'.encode('ascii')",
    "error in a generator": "def g():\n  yield 1\n  raise KeyError('g')\nfor _ in g(): pass",
    "error in a comprehension": "[1 // x for x in (1, 0)]",
    "error in json": "import json\njson.loads('{')",
    "error in eval": "eval('1 +')",
    "error in exec": "exec('def f():\\n  1/0\\nf()')",
    "stop": "raise StopIteration(3)",
    "generator exit": "raise GeneratorExit",
    "keyboard interrupt": "raise KeyboardInterrupt('by hand')",
    "interrupt itself": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(5)",
    "interrupt caught": "import os, signal, time\ntry:\n  os.kill(os.getpid(), signal.SIGINT)\n  time.sleep(5)\n"
                        "except KeyboardInterrupt: print('caught')",
    "terminate": "import os, signal\nprint(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))\n"
                 "os.kill(os.getpid(), signal.SIGTERM)",
    "terminate handled": "import os, signal, sys\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit(7))\n"
                         "os.kill(os.getpid(), signal.SIGTERM)\nprint('not here')",
    "signals": "import signal\nprint([(s.name, str(signal.getsignal(s))) for s in sorted(signal.valid_signals()) "
               "if isinstance(s, signal.Signals) and signal.getsignal(s) not in (signal.SIG_DFL, signal.default_int_handler)])",
    "abort": "import os\nprint('x')\nos.abort()",
    "kill": "import os\nprint('x')\nos.kill(os.getpid(), 9)",
    "exit": "import sys\nsys.exit()",
    "exit 0": "raise SystemExit(0)",
    "exit 3": "exit(3)",
    "exit 256": "import sys\nsys.exit(256 + 4)",
    "exit -1": "import sys\nsys.exit(-1)",
    "exit True": "import sys\nsys.exit(True)",
    "exit text": "import sys\nsys.exit('gone: ä')",
    "exit list": "import sys\nsys.exit([1, 2])",
    "exit float": "import sys\nsys.exit(1.5)",
    "exit huge": "import sys\nsys.exit(1 << 70)",
    "exit in try": "import sys\ntry:\n  sys.exit(4)\nfinally:\n  print('finally')",
    "os exit": "import os\nprint('x')\nos._exit(9)",
    "quit": "quit('bye')",
    "exit in a thread": "import sys, threading\nt = threading.Thread(target=sys.exit, args=(5,))\nt.start(); t.join()\nprint('on')",
    "atexit order": "import atexit\nfor i in range(3): atexit.register(print, i)\nprint('end')",
    "atexit error": "import atexit\natexit.register(print, 'first')\natexit.register(lambda: 1/0)\nprint('end')",
    "atexit after an error": "import atexit, sys\natexit.register(lambda: print('last', sys.last_type))\n1/0",
    "atexit exits": "import atexit, sys\natexit.register(lambda: sys.exit(5))",
    "atexit registers": "import atexit\natexit.register(lambda: atexit.register(print, 'late'))",
    "atexit and threads": "import atexit, threading, time\natexit.register(print, 'atexit')\n"
                          "threading.Thread(target=lambda: (threading.main_thread().join(), print('thread'))).start()\nprint('main')",
    "daemon thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\nprint('main')",
    "daemon thread at work": "import threading, time\ndef f():\n  while True:\n    import json\n    time.sleep(0.0001)\n"
                             "threading.Thread(target=f, daemon=True).start()\ntime.sleep(0.05)\nprint('main')",
    "thread error": "import threading\nt = threading.Thread(target=lambda: 1/0, name='T')\nt.start()\nt.join()\nprint('on')",
    "thread waits for main": "import threading\ndef f():\n  threading.main_thread().join()\n  print('after main')\n"
                             "threading.Thread(target=f).start()\nprint('main')",
    "thread names": "import threading\nt = threading.Thread(target=lambda: print(threading.current_thread().name))\n"
                    "t.start(); t.join()\nprint(threading.current_thread(), threading.active_count())",
    "pool": "from concurrent.futures import ThreadPoolExecutor\np = ThreadPoolExecutor(2)\n"
            "print(list(p.map(lambda x: x * 2, range(5))))\np.submit(print, 'late')",
    "deleted": "class A:\n  def __del__(self): print('deleted', __name__, X)\nX = 5\na = A()",
    "deleted in a cycle": "class A:\n  def __del__(self): print('deleted', self.n)\na = A(); a.n = 1; a.me = a\nb = A(); b.n = 2\ndel a",
    "deleted twice": "class A:\n  def __init__(self, n): self.n = n\n  def __del__(self): print('deleted', self.n)\n"
                     "def f(a=A(1)): pass\nclass B: x = A(2)\ny = [A(3)]",
    "deleted, held by a default": "class A:\n  def __del__(self): print('deleted')\ndef f(x=A()): pass\ndel A",
    "deleted, held by a document": "class A:\n  def __del__(self): print('deleted')\ndef f(): pass\nf.__doc__ = A()\ndel A",
    "deleted, held by a closure": "class A:\n  def __del__(self): print('deleted')\ndef g(a):\n  return lambda: a\nf = g(A())\ndel A, g",
    "deleted, held by an annotation": "class A:\n  def __del__(self): print('deleted')\ndef f(x: A()): pass\ndel A",
    "deleted, held by a method": "class A:\n  def __del__(self): print('deleted')\nf = [A()].append\ndel A",
    "deleted, held by a container": "class A:\n  def __del__(self): print('deleted')\nx = {'a': [(1, {'b': A()})]}\ndel A",
    "deleted, held by a module": "class A:\n  def __del__(self): print('deleted')\nimport types\nm = types.ModuleType('json')\nm.a = A()\ndel A",
    "deleted, held by a namespace": "class A:\n  def __del__(self): print('deleted')\nn = {}\nexec('def f(): pass', n)\nf, n['a'] = n['f'], A()\ndel A, n",
    "deleted after an error": "class A:\n  def __del__(self): print('deleted')\ndef f():\n  a = A()\n  1/0\nf()",
    "deleted with an error": "class A:\n  def __del__(self): 1/0\na = A()",
    "generator closed": "def g():\n  try: yield 1\n  finally: print('closed')\nx = g()\nnext(x)",
    "file left open": "f = open('left.txt', 'w')\nf.write('x' * 10)\nimport atexit\n"
                      "import subprocess\np = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\np.stdin.write(b'to the child\\n')",
    "weak finalizer": "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'finalized')\nprint('end')",
    "temporary folder": "import os, tempfile\nt = tempfile.TemporaryDirectory()\nprint(os.path.isdir(t.name))",
    "unraisable": "import sys\nsys.unraisablehook = lambda u: print('unraisable', u.exc_type)\n"
                  "class A:\n  def __del__(self): 1/0\nA()\nb = A()",
    "excepthook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0], a[1], a[2].tb_lineno)\n1/0",
    "excepthook fails": "import sys\ndef hook(*a): raise KeyError('in the hook')\nsys.excepthook = hook\n1/0",
    "excepthook exits": "import sys\nsys.excepthook = lambda *a: sys.exit(9)\n1/0",
    "no excepthook": "import sys\ndel sys.excepthook\n1/0",
    "stdout closed": "import sys\nsys.stdout.close()\n1/0",
    "stderr closed": "import sys\nsys.stderr.close()\n1/0",
    "stderr none": "import sys\nsys.stderr = None\n1/0",
    "stderr its own": "import sys\nclass E:\n  def write(self, t): sys.__stdout__.write(t.upper())\n  def flush(self): pass\n"
                      "sys.stderr = E()\n1/0",
    "stdout its own": "import io, sys\nsys.stdout = io.TextIOWrapper(open(1, 'wb', closefd=False))\nprint('held back')",
    "stdout to a full device": "import sys\nsys.stdout = open('/dev/full', 'w')\nprint('x')",
    "streams": "import sys\nfor s in (sys.stdin, sys.stdout, sys.stderr):\n  print(s, s.errors, s.newlines, s.line_buffering, "
               "s.write_through, s.buffer, s.fileno(), s.isatty(), s.seekable(), s.readable(), s.writable())\n"
               "print(sys.stdin.buffer.raw, sys.__stdout__ is sys.stdout)",
    "streams interleaved": "import os, sys\nprint('a', end='')\nos.write(1, b'b')\nsys.stdout.buffer.write(b'c')\n"
                           "os.system('echo d')\nprint('e', end='')\nprint('f', file=sys.stderr)",
    "encoding": "import locale, sys\nprint(sys.stdout.encoding, sys.getdefaultencoding(), sys.getfilesystemencoding(), "
                "locale.getlocale(), locale.setlocale(locale.LC_CTYPE))",
    "input": ("print(input('? '), input())", b"one\ntwo\n"),
    "input past the end": ("print(input())\ninput()", b"one"),
    "stdin text": ("import sys\nprint(repr(sys.stdin.read()))", "ä\r\nb\rc".encode()),
    "stdin lines": ("import sys\nfor l in sys.stdin: print(repr(l))", b"a\nb\n\nc"),
    "stdin bytes": ("import sys\nprint(sys.stdin.buffer.read())", b"\xff\x00\n"),
    "stdin not text": ("import sys\nprint(ascii(sys.stdin.read()))", b"\xff\xfe\n"),
    "stdin descriptor": ("import os\nprint(os.read(0, 100), os.read(0, 100))", b"abc"),
    "stdin for a child": ("import subprocess\nsubprocess.run(['cat'])\nprint('end')", b"for cat\n"),
    "fileinput": ("import fileinput\nfor l in fileinput.input(): print(repr(l), fileinput.filename())", b"a\nb"),
    "first descriptor": "import os\nprint(os.open('/dev/null', 0), sorted(map(int, os.listdir('/proc/self/fd')))[:4])",
    "subprocess": "import subprocess, sys\nsubprocess.run(['sh', '-c', 'echo out; echo err >&2; exit 3'])\n"
                  "print(subprocess.check_output(['echo', 'x']))\nsubprocess.run([sys.executable, '-c', 'print(1)'], check=True)",
    "subprocess fails": "import subprocess\nsubprocess.run(['false'], check=True)",
    "runs itself": "import subprocess, sys\nif len(sys.argv) > 1: print('child', sys.argv[1:], __name__)\n"
                   "else: subprocess.run([sys.executable, __file__, 'x'])",
    "exec": "import os\nprint('before')\nos.execvp('echo', ['echo', 'after'])",
    "exec itself": "import os, sys\nprint(sys.argv[1:])\nif len(sys.argv) < 2: os.execv(sys.executable, [sys.executable, __file__, 'x'])",
    "fork": "import os, sys\npid = os.fork()\nif pid == 0:\n  print('child')\n  sys.exit(3)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
    "fork and fall through": "import atexit, os\natexit.register(print, 'atexit')\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint(pid == 0)",
    "fork and fail": "import os\npid = os.fork()\nif pid == 0: 1/0\nprint(os.waitpid(pid, 0)[1] >> 8)",
    "fork in a function": "import os\ndef f():\n  if os.fork() == 0:\n    raise KeyError('child')\n  os.wait()\nf()\nprint('end')",
    **{f"multiprocessing {method}": f"""
import multiprocessing as mp, os
class A:
    def __init__(self, x): self.x = x
def work(a): return A(a.x + 1)
def fail(): raise KeyError("in the child")
if __name__ == "__main__":
    mp.set_start_method("{method}")
    with mp.Pool(2) as pool: print([a.x for a in pool.map(work, [A(1), A(2)])])
    p = mp.Process(target=fail, name="P")
    p.start(); p.join()
    q = mp.Queue()
    r = mp.Process(target=q.put, args=(5,))
    r.start(); print(q.get()); r.join()
    print(p.exitcode, __name__)
""" for method in ("fork", "spawn", "forkserver")},
    "process pool": "from concurrent.futures import ProcessPoolExecutor\ndef f(x): return x * x\nif __name__ == '__main__':\n"
                    "  with ProcessPoolExecutor(2) as p: print(list(p.map(f, range(4))))",
    "shared memory": "from multiprocessing import shared_memory\ns = shared_memory.SharedMemory(create=True, size=10)\n"
                     "s.buf[0] = 5\nprint(s.buf[0])\ns.close(); s.unlink()",
    "pickle": "import pickle\nclass A:\n  def __eq__(self, o): return type(o) is A\nprint(pickle.loads(pickle.dumps(A())) == A(), A)",
    "getsource": "import inspect\nclass A:\n  x = 1\ndef f():\n  'of f'\nprint(inspect.getsource(f), inspect.getsource(A), "
                 "inspect.getfile(A), inspect.getsourcelines(f))",
    "inspect stack": "import inspect\ndef f():\n  for one in inspect.stack(): print(one.filename, one.lineno, one.function, one.code_context)\nf()",
    "print stack": "import traceback\ndef f(): traceback.print_stack()\nf()\nprint(len(traceback.extract_stack()))",
    "format exc": "import traceback\ntry: 1/0\nexcept Exception: print(traceback.format_exc())",
    "logging": "import logging\nlogging.basicConfig(format='%(filename)s %(lineno)d %(funcName)s %(message)s')\nlogging.warning('w', "
               "stack_info=True)\ntry: 1/0\nexcept Exception: logging.exception('e')",
    "warning": "import warnings\nwarnings.warn('w')\ndef f(): warnings.warn('of the caller', stacklevel=2)\nf()",
    "warning above all": "import warnings\nwarnings.warn('x', stacklevel=2)",
    "warning as error": "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('w')",
    "deprecation": "import warnings\nwarnings.warn('old', DeprecationWarning)",
    "syntax warning": "x = 1\nif x is 1: print('y')\nprint('\\d')",
    "resource warning": "import warnings\nwarnings.simplefilter('always')\nf = open('/dev/null')\nf = None\nprint('end')",
    "resource at the end": "import warnings\nwarnings.simplefilter('always')\nf = open('/dev/null')\nprint('end')",
    "syntax error": "x = = 1",
    "syntax error after lines": "print('no')\n\ndef f(:\n  pass",
    "syntax error, unclosed": "print(1\nx = 2",
    "syntax error, unfinished": "def f():",
    "syntax error, string": "x = 'abc",
    "syntax error, text": 'x = """abc\n\n',
    "syntax error, tabs": "if 1:\n\tx = 1\n        y = 2",
    "syntax error, indent": "  x = 1",
    "syntax error, dedent": "if 1:\n    x = 1\n  y = 2",
    "syntax error, f-string": "x = f'{a b}'",
    "syntax error, escape": "x = '\\N{no such name}'",
    "syntax error, keyword": "for = 1",
    "syntax error, return": "return 5",
    "syntax error, unicode": "x = 5 ä€",
    "syntax error, nonlocal": "def f():\n  nonlocal x",
    "syntax error, walrus": "(x := 1) = 2",
    "syntax error, long": "x = " + "(" * 250,
    "syntax error, print": "print 'hello'",
    "syntax error, await": "import asyncio\nawait asyncio.sleep(0)",
    "syntax error, future": "x = 1\nfrom __future__ import annotations",
    "null byte": "x = 1\x00\nprint(2)",
    "latin-1": b"# -*- coding: latin-1 -*-\nprint('\xe4')",
    "unknown coding": "# -*- coding: nothing -*-\nprint(1)",
    "not utf-8": b"x = 1\nprint('\xff')",
    "bom": b"\xef\xbb\xbfprint('bom')\n1/0",
    "crlf": "def f():\r\n  print('x')\r\nf()\r\n1/0\r\n",
    "no newline": "def f():\n  print('x')\nf()",
    "form feed": "x = 1\n\x0cprint(x)",
    "semicolons": "import sys; print(1); 5",
    "asyncio": "import asyncio\nasync def main():\n  await asyncio.sleep(0)\n  print('in')\n  return 5\nprint(asyncio.run(main()))",
    "asyncio error": "import asyncio\nasync def main():\n  await asyncio.sleep(0)\n  1/0\nasyncio.run(main())",
    "asyncio never awaited": "async def f(): pass\nf()",
    "asyncio task error": "import asyncio\nasync def bad(): 1/0\nasync def main():\n  t = asyncio.create_task(bad())\n"
                          "  await asyncio.sleep(0.01)\nasyncio.run(main())",
    "asyncio subprocess": "import asyncio\nasync def main():\n  p = await asyncio.create_subprocess_exec('echo', 'x')\n  print(await p.wait())\nasyncio.run(main())",
    "asyncio interrupted": "import asyncio, os, signal\nasync def main():\n  try:\n    os.kill(os.getpid(), signal.SIGINT)\n    "
                           "await asyncio.sleep(5)\n  finally: print('cleaned')\nasyncio.run(main())",
    "dataclass": "from dataclasses import dataclass\nfrom typing import get_type_hints\n@dataclass\nclass A:\n  x: int\n  y: 'A' = None\n"
                 "print(A(1), get_type_hints(A))",
    "annotations": "x: int = 5\nprint(__annotations__)",
    "named tuple": "from collections import namedtuple\nfrom enum import Enum\nfrom typing import NamedTuple\nP = namedtuple('P', 'x')\n"
                   "E = Enum('E', 'A B')\nclass N(NamedTuple):\n  x: int\nprint(P.__module__, E.__module__, N.__module__, P(1), E.A, N(1))",
    "abc": "from abc import ABC, abstractmethod\nclass A(ABC):\n  @abstractmethod\n  def f(self): pass\nA()",
    "runpy": "import runpy\nopen('other.py', 'w').write('print(__name__, __file__)')\nrunpy.run_path('other.py', run_name='__main__')\n"
             "print(__name__)\nrunpy.run_module('other')",
    "import beside": "open('beside.py', 'w').write('import sys\\nprint(__name__, __file__)\\nclass A:\\n  def __del__(self): print(\"of beside\")\\na = A()\\n')\n"
                     "import beside\nprint(beside.__spec__.name)",
    "import itself": "import main\nprint(main.__name__, main.__file__)",
    "error in an import": "open('broken.py', 'w').write('def f():\\n  1/0\\nf()\\n')\nimport broken",
    "syntax error in an import": "open('broken.py', 'w').write('x = = 1\\n')\nimport broken",
    "importlib": "import importlib, importlib.util\nprint(importlib.import_module('json').__name__, importlib.util.find_spec('linecache').name)",
    "code module": "import code\ncode.InteractiveInterpreter().runsource('1/0')",
    "doctest": "def f():\n  '''\n  >>> f()\n  5\n  '''\n  return 6\nimport doctest\ndoctest.testmod()",
    "unittest": "import unittest\nclass T(unittest.TestCase):\n  def test_a(self): self.assertEqual(1, 1)\n  def test_b(self): self.assertEqual(1, 2)\n"
                "unittest.main()",
    "argparse": "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\np.parse_args()",
    "gc": "import gc\nprint(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.garbage)",
    "hooks": "import sys, threading\nprint(sys.gettrace(), sys.getprofile(), sys.displayhook is sys.__displayhook__, "
             "sys.excepthook is sys.__excepthook__, threading.excepthook is threading.__excepthook__)",
    "tracing": "import sys\ndef t(f, e, a):\n  print(e, f.f_code.co_name, f.f_lineno)\n  return t\ndef f():\n  return 1\nsys.settrace(t)\nf()\nx = 1",
    "exc info": "import sys\nprint(sys.exc_info())",
    "last value": "import atexit, sys\natexit.register(lambda: print(sys.last_type, sys.last_value, sys.last_traceback.tb_lineno))\nint('x')",
    "identity": "import os\nprint(os.getuid(), os.umask(0o22) == 0o22, os.getsid(0) == os.getsid(os.getppid()))",
    "environment": "import os\nprint(sorted(k for k in os.environ if k not in ('_', 'LC_CTYPE')))",
    "nested functions": "def a():\n  def b():\n    def c(): raise RuntimeError('deep')\n    c()\n  b()\na()",
    "exec with names": "ns = {}\nexec(compile('x = 1', 'made up', 'exec'), ns)\nprint(ns['x'], sorted(ns))",
    "set builtins": "import builtins\nbuiltins.print = None\nbuiltins.open = None\n1/0",
    "modules emptied": "import sys\nsys.modules.clear()",
    "groups": "import sys\nif sys.version_info >= (3, 11):\n  exec(\"raise ExceptionGroup('g', [ValueError(1), ExceptionGroup('h', [KeyError('k')])])\")",
    "notes": "e = ValueError('x')\nif hasattr(e, 'add_note'): e.add_note('a note')\nraise e",
    "ctypes": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.printf(b'by printf\\n')\nprint('by print')",
    "big output": "print('x' * 300000)",
    "cwd gone": "import os\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n1/0",
    "file changed": "open(__file__, 'w').write('# other\\n')\n1/0",
    "display hook": "import sys\nsys.displayhook(5)\nprint(_)",
    "help": "help(len)",
    "site": "print(type(exit).__name__, type(copyright).__name__)",
    "sqlite": "import sqlite3\nc = sqlite3.connect(':memory:')\nprint(c.execute('select 1 + 1').fetchall())\nc.execute('select nothing')",
    "time zone": "import time\nprint(time.tzname, time.localtime(0).tm_hour)",
}


# What is not mended, by the version from which on it differs; kernels/README.md says why.
DIFFERENT = {"exit huge": (3, 12), "stdout to a full device": (3, 13)}


@functools.lru_cache
def version():
    code = "import sys; print(tuple(sys.version_info[:2]))"
    return ast.literal_eval(subprocess.check_output([rig.PYTHON, "-c", code], text=True))


def same(text):
    """Without what differs from one process to the next."""
    text = re.sub(r"0x[0-9a-f]{6,}", "ADDRESS", text)
    text = re.sub(r"(MainThread, started |ForkProcess-|SpawnProcess-|ForkServerProcess-)\d+", r"\1N", text)
    text = re.sub(r"in \d+\.\d+s", "in N s", text)
    text = re.sub(r"(object refcount : )\d+", r"\1N", text)
    return text


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_python_runs_it(make_kernel, tmp_path, name):
    if version() >= DIFFERENT.get(name, (99,)):
        pytest.skip("differs from this version of Python on")
    code, stdin = PROGRAMS[name] if isinstance(PROGRAMS[name], tuple) else (PROGRAMS[name], b"")
    code = code if isinstance(code, bytes) else code.encode()
    file = tmp_path / "main.py"
    # The kernel first: it writes the file itself.
    done = make_kernel(env={"PYTHONUNBUFFERED": "1"}).script(code, name=str(file), write=False, to_end=True, stdin=stdin)
    assert file.read_bytes() == code or name == "file changed"
    for left in tmp_path.iterdir():
        if left.is_file() and left != file:
            left.unlink()
    file.write_bytes(code)
    plain = subprocess.run(
        [rig.PYTHON, str(file)], cwd=tmp_path, input=stdin, capture_output=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1",
             "MPLCONFIGDIR": str(tmp_path / "mpl")})
    status = plain.returncode if plain.returncode >= 0 else 128 - plain.returncode
    seen = (done.code, same(done.stdout.decode("utf-8", "replace")), same(done.stderr.decode("utf-8", "replace")))
    wanted = (status, same(plain.stdout.decode("utf-8", "replace")), same(plain.stderr.decode("utf-8", "replace")))
    assert seen == wanted
