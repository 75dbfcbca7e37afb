"""SIGINT: ends the code that runs, and nothing else, whenever it comes."""
import signal
import time

import pytest

WAITS = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(600)",
    "print": "while True: print('x')",
    "child": "import subprocess\nsubprocess.run(['sleep', '600'])",
    "await": "import asyncio\nawait asyncio.sleep(600)",
    "await_loop": "async def f():\n  while True: pass\nawait f()",
    "run": "import asyncio\nasync def f(): await asyncio.sleep(600)\nasyncio.run(f())",
    "input": "input()",
    "display": "while True: display(1)",
    "repr": "class A:\n  def __repr__(self):\n    while True: pass\nA()",
    "str": "class E(Exception):\n  def __str__(self):\n    while True: pass\nraise E",
    "html": "class A:\n  def _repr_html_(self):\n    while True: pass\nA()",
    "lock": "import threading\nl = threading.Lock(); l.acquire(); l.acquire()",
    "join": "import threading, time\n"
            "t = threading.Thread(target=time.sleep, args=(600,), daemon=True); t.start(); t.join()",
    "exec": "exec('while True: pass')",
    "flush": "import sys\nclass W:\n  def write(self, x): pass\n  def flush(self):\n"
             "    while True: pass\nsys.stdout = W()",
}


@pytest.mark.parametrize("wait", WAITS)
def test_ends_what_waits(kernel, wait):
    flight = kernel.start("print('go')\n" + WAITS[wait], stdin=None).until("go\n")
    for _ in range(3):  # it may come while the child is only being started
        time.sleep(0.2)
        if flight.outcome.code is not None:
            break
        kernel.interrupt()
        if wait != "str":
            break
    done = flight.wait()
    if wait == "str":  # the error stands; only its text was interrupted
        assert done.code == 1 and done.error["name"] == "E", done
        return
    assert done.code == 130, done
    assert done.error["name"] == "KeyboardInterrupt", done
    assert done.err.endswith("KeyboardInterrupt\n") and "<kernel>" not in done.err, done


def test_traceback_of_an_interrupted_await(kernel):
    flight = kernel.start("import asyncio\nprint('go')\nawait asyncio.sleep(600)", stdin=None).until("go\n")
    time.sleep(0.2)
    kernel.interrupt()
    done = flight.wait()
    assert 'File "cell 1", line 3' in done.err and "base_events" not in done.err, done.err


def test_tasks_survive_an_interrupt(kernel):
    kernel.run("import asyncio\nseen = []\nasync def work():\n  while True:\n    seen.append(1)\n"
               "    await asyncio.sleep(0.001)\ntask = asyncio.create_task(work())\n"
               "await asyncio.sleep(0.01)")
    flight = kernel.start("print('go')\nawait asyncio.sleep(600)", stdin=None).until("go\n")
    kernel.interrupt()
    assert flight.wait().code == 130
    done = kernel.run("before = len(seen)\nawait asyncio.sleep(0.05)\n(len(seen) > before, task.done())")
    assert done.plain == "(True, False)", done


def test_caught_by_the_code(kernel):
    flight = kernel.start("import time\ntry:\n  print('go')\n  time.sleep(600)\n"
                          "except KeyboardInterrupt:\n  print('caught')",
                          stdin=None).until("go\n")
    kernel.interrupt()
    done = flight.wait()
    assert (done.code, done.out, done.error) == (0, "go\ncaught\n", None)


def test_own_handler_is_of_one_run(kernel):
    flight = kernel.start("import signal, time\nhit = []\nsignal.signal(signal.SIGINT, lambda *a: hit.append(1))\n"
                          "print('go')\nwhile not hit: time.sleep(0.01)\nlen(hit)", stdin=None).until("go\n")
    kernel.interrupt()
    assert flight.wait().plain == "1"
    kernel.run("signal.signal(signal.SIGINT, signal.SIG_IGN)")
    test_ends_what_waits(kernel, "loop")
    kernel.run("signal.signal(signal.SIGINT, signal.SIG_DFL)")
    kernel.interrupt()


@pytest.mark.parametrize("code", ("while True: pass", WAITS["await_loop"], WAITS["sleep"], "1", "1 +"))
def test_before_the_code_runs(kernel, code):
    """The signal finds a kernel that has not read the run yet: it is that run's all the same."""
    kernel.run("x = 1")
    for _ in range(3):
        kernel.stop()
        flight = kernel.start(code, stdin=None)
        kernel.interrupt()
        kernel.go()
        done = flight.wait()
        assert (done.code, done.err, done.plain) == (130, "KeyboardInterrupt\n", None), done
        assert done.error["name"] == "KeyboardInterrupt", done
        assert kernel.run("x").plain == "1"


def test_at_any_moment_it_ends_a_loop(kernel):
    """From before the kernel has the run to within its code: none is lost, and none is left over."""
    for count in range(300):
        flight = kernel.start("while True: pass", stdin=None)
        time.sleep((count % 60) * 0.00005)
        kernel.interrupt()
        done = flight.wait()
        assert (done.code, done.error["name"]) == (130, "KeyboardInterrupt"), done
        flight.close()
        if count % 3 == 0:
            assert kernel.run("1").plain == "1"


def test_late_for_the_run_before(kernel):
    """Its message comes before the next run, which is not struck."""
    for _ in range(20):
        kernel.run("1")
        kernel.stop()
        kernel.interrupt()
        flight = kernel.start("2")
        kernel.go()
        assert flight.wait().plain == "2"


def test_an_interrupt_of_another_run(kernel):
    kernel.stop()
    flight = kernel.start("2")
    kernel.interrupt(count=7)
    kernel.go()
    assert flight.wait().plain == "2"


def test_late_for_one_run_and_in_time_for_the_next(kernel):
    kernel.run("1")
    kernel.stop()
    kernel.interrupt()
    flight = kernel.start("while True: pass")
    kernel.interrupt()
    kernel.go()
    assert flight.wait().code == 130


def test_without_the_message(kernel):
    """From an init that sends none: within the code it strikes, before it it is taken for a late one."""
    kernel.stop()
    flight = kernel.start("print('go')\nwhile True: pass")
    kernel.signal()
    kernel.go()
    flight.until("go\n")
    kernel.signal()
    assert flight.wait().code == 130


def test_each_of_several_strikes_once(kernel):
    """Further ones come without a message."""
    kernel.run("x = 1")
    flight = kernel.start("struck = []\nfor i in range(10):\n  try:\n    print('on', i)\n    while True: pass\n"
                          "  except KeyboardInterrupt: struck.append(i)\nprint(struck)\nx")
    for i in range(10):
        flight.until(f"on {i}\n")
        kernel.signal() if i else kernel.interrupt()
    done = flight.wait()
    assert (done.code, done.plain) == (0, "1") and done.out.endswith(f"{list(range(10))}\n"), done


def test_many_at_once(kernel):
    kernel.run("x = 1")
    for _ in range(20):
        flight = kernel.start("while True: pass")
        kernel.interrupt()
        for _ in range(9):
            kernel.signal()
        assert flight.wait().code == 130
        flight.close()
        assert kernel.run("x").plain == "1"


@pytest.mark.parametrize("env", ((), ("PYTHONSTARTUP=/nothing",)))
@pytest.mark.parametrize("code", ("while True: pass", "x = 1"))
def test_before_a_script_runs(script_kernel, code, env):
    """With the variable a new interpreter would run it."""
    script_kernel.stop()

    def interrupt():
        script_kernel.interrupt()
        script_kernel.go()

    done = script_kernel.script(code, env=env, given=interrupt)
    assert done.code == 128 + signal.SIGINT, done


def test_between_runs_it_strikes_nobody(kernel):
    for _ in range(50):
        kernel.interrupt()
        done = kernel.run("1")
        assert (done.code, done.plain, done.err) == (0, "1", ""), done


def test_at_any_moment_the_kernel_survives(kernel):
    """Signals all along short runs: each ends as itself or as interrupted, and says DONE once."""
    ends = set()
    for count in range(300):
        flight = kernel.start("x = 1\nfor i in range(20000): x += i\nclass A: pass\nx")
        time.sleep((count % 60) * 0.00005)
        kernel.interrupt()
        done = flight.wait()
        ends.add(done.code)
        if done.code == 0:
            assert done.plain == str(1 + sum(range(20000))), done
            assert done.error is None, done
        else:
            assert done.code == 130 and done.error["name"] == "KeyboardInterrupt", done
        flight.close()
        after = kernel.run("2")
        assert (after.code, after.plain) == (0, "2"), after
    assert 130 in ends, ends


def test_signals_of_the_users_own_between_runs(kernel):
    kernel.run("import signal\ndef late(*a): raise OSError('late')\nsignal.signal(signal.SIGALRM, late)\n"
               "signal.signal(signal.SIGUSR1, late)")
    for _ in range(20):
        kernel.process.send_signal(signal.SIGUSR1)
        time.sleep(0.002)
    assert kernel.run("1").plain == "1"
