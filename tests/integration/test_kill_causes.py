"""Every way in which an execution is ended, told apart in killed_by, against code that resists;
after each a normal request is served and nothing is left (the clean_server fixture)."""
import os
import signal

from harness import at_once, wait_until

STAY = "import time\nwhile True: time.sleep(100)\n"
DAEMON = ("import os, signal, sys, time\n"
          "def daemon():\n"
          "    if os.fork(): return\n"
          "    os.setsid()\n"
          "    if os.fork(): os._exit(0)\n"
          "    for n in range(1, 64):\n"
          "        try: signal.signal(n, signal.SIG_IGN)\n"
          "        except (OSError, ValueError): pass\n"
          "    for fd in range(3): os.close(fd)\n"
          "    while True: time.sleep(100)\n")


def ended_by(done, cause, status="killed"):
    assert (done["killed_by"], done["status"], done["exit_code"]) == (cause, status, 137), done


def running(stream):
    """The id of a stream's execution, once the code itself has printed something."""
    name, data = next(stream)
    assert name == "started"
    for kind, _ in stream:
        if kind == "stdout":
            return data["execution_id"]
    raise AssertionError("the stream ended early")


# ---- timeout ----


def test_timeout_of_code_that_ignores_signals(clean_server):
    code = ("import signal, time\n"
            "for n in range(1, 64):\n"
            "    try: signal.signal(n, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): pass\n"
            "try:\n"
            "    while True: time.sleep(100)\n"
            "except BaseException: time.sleep(1000)\n")
    ended_by(clean_server.execute(code, timeout=0.5), "timeout", "timeout")


def test_timeout_right_at_the_start(clean_server):
    """A kill also reaches a child that was forked and is not in its control group yet."""
    for i in range(100):
        done = clean_server.execute(STAY, timeout=0.0005 * (1 + i % 8))
        assert (done["killed_by"], done["exit_code"]) == ("timeout", 137), (i, done)


def test_timeout_of_daemons_with_closed_streams(clean_server):
    ended_by(clean_server.execute(DAEMON + "for _ in range(5): daemon()\n" + STAY, timeout=1),
             "timeout", "timeout")


def test_daemons_do_not_outlive_the_program(clean_server):
    done = clean_server.execute(DAEMON + "daemon(); daemon(); print('bye')\n")
    assert (done["stdout"], done["exit_code"], done["killed_by"]) == ("bye\n", 0, None)


def test_children_that_hold_the_output_do_not_hold_the_answer(clean_server):
    done = clean_server.execute("import subprocess\n"
                                "subprocess.Popen(['sleep', '1000'])\nprint('bye')\n")
    assert (done["stdout"], done["exit_code"], done["killed_by"]) == ("bye\n", 0, None)


def test_timeout_of_a_busy_fork_tree(clean_server):
    code = ("import os\n"
            "while True:\n"
            "    try:\n"
            "        if os.fork() == 0: os.setsid()\n"
            "    except OSError: pass\n")
    done = clean_server.execute(code, timeout=1)
    ended_by(done, "timeout", "timeout")
    assert "pids" in done["limits_hit"]


def test_timeout_of_code_that_stops_itself(clean_server):
    done = clean_server.execute("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
                                timeout=0.5)
    ended_by(done, "timeout", "timeout")


def test_timeout_of_a_vfork_that_never_executes(clean_server):
    code = ("import ctypes\n"
            "libc = ctypes.CDLL(None)\n"
            "if libc.syscall(58) == 0:\n"
            "    while True: libc.pause()\n")
    ended_by(clean_server.execute(code, timeout=0.5), "timeout", "timeout")


# ---- memory ----


def test_memory_bomb(clean_server):
    done = clean_server.execute("x = []\nwhile True: x.append(bytearray(8 << 20))\n",
                                resources={"ram": "64MiB", "storage": "8MiB"})
    ended_by(done, "oom")
    assert done["limits_hit"] == ["memory"]


def test_memory_bomb_in_a_child_that_is_caught(clean_server):
    """The parent sees its child die and would go on: the group is ended all the same."""
    code = ("import os, time\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    x = []\n"
            "    while True: x.append(bytearray(8 << 20))\n"
            "os.waitpid(pid, 0)\n"
            "time.sleep(600)\n"
            "print('survived')\n")
    done = clean_server.execute(code, resources={"ram": "64MiB", "storage": "8MiB"}, timeout=30)
    ended_by(done, "oom")
    assert "survived" not in done["stdout"]


def test_memory_bomb_in_a_child_whose_parent_ends_at_once(clean_server):
    code = ("import os, subprocess, sys\n"
            "gone = subprocess.run([sys.executable, '-c',"
            " 'x = []\\nwhile True: x.append(bytearray(8 << 20))'])\n"
            "print('caught', gone.returncode)\n")
    done = clean_server.execute(code, resources={"ram": "64MiB", "storage": "8MiB"})
    assert "memory" in done["limits_hit"], done
    assert done["killed_by"] in ("oom", None), "the parent may be through before it is killed"


def test_files_in_memory_count(clean_server):
    code = ("x = []\n"
            "f = open('/tmp/fill', 'wb', buffering=0)\n"
            "for _ in range(24): f.write(b'x' * (1 << 20))\n"
            "while True: x.append(bytearray(4 << 20))\n")
    done = clean_server.execute(code, resources={"ram": "64MiB", "storage": "32MiB"})
    ended_by(done, "oom")


# ---- output ----


def test_output_flood(clean_server):
    done = clean_server.execute("import os\nwhile True: os.write(1, b'x' * 65536)\n", timeout=60)
    ended_by(done, "output")
    assert done["limits_hit"][-1:] == ["output"] and done["truncated"] is True
    assert len(done["stdout"]) == 1 << 20
    assert done["usage"]["stdout_bytes"] > 64 << 20


def test_output_flood_on_both_streams(clean_server):
    code = "import os\nwhile True:\n    os.write(1, b'o' * 32768)\n    os.write(2, b'e' * 32768)\n"
    done = clean_server.execute(code, timeout=60)
    ended_by(done, "output")
    assert len(done["stdout"]) == len(done["stderr"]) == 1 << 20
    assert len(done["output"]) <= 2 << 20


# ---- user ----


def test_delete_kills(clean_server):
    stream = clean_server.stream(DAEMON + "daemon(); print('on', flush=True)\n" + STAY)
    name = running(stream)
    answer = clean_server.request("DELETE", f"/executions/{name}")
    ended_by(answer.json(), "user")
    kind, end = list(stream)[-1]
    assert kind == "end"
    ended_by(end, "user")


def test_delete_twice_is_fine(clean_server):
    stream = clean_server.stream("print('on', flush=True)\n" + STAY)
    name = running(stream)
    first = clean_server.request("DELETE", f"/executions/{name}")
    again = clean_server.request("DELETE", f"/executions/{name}")
    assert (first.status, again.status) == (200, 200)
    assert first.json() == again.json()
    stream.close()


# ---- server ----


def test_death_of_the_sandbox(clean_server):
    stream = clean_server.stream("print('on', flush=True)\n" + STAY)
    name = running(stream)
    init = wait_until(clean_server.inits, "the sandbox lives")
    assert len(init) == 1
    os.kill(next(iter(init.values())), signal.SIGKILL)
    kind, end = list(stream)[-1]
    assert kind == "end"
    ended_by(end, "server")
    ended_by(clean_server.get(f"/executions/{name}").json(), "server")


def test_signal_of_the_code_is_no_kill_of_ours(clean_server):
    done = clean_server.execute("import os; os.kill(os.getpid(), 9)")
    assert (done["killed_by"], done["exit_code"], done["limits_hit"]) == ("signal", 137, [])


def test_the_code_cannot_forge_a_cause(clean_server):
    """An exit code of 137 is an exit code."""
    done = clean_server.execute("import sys; sys.exit(137)")
    assert (done["killed_by"], done["exit_code"], done["status"]) == (None, 137, "error")


def test_many_ends_at_once(clean_server):

    bomb = {"resources": {"ram": "32MiB", "storage": "8MiB"}}
    calls = []
    for _ in range(4):
        calls += [lambda: ("timeout", clean_server.execute(STAY, timeout=1)),
                  lambda: ("oom", clean_server.execute("x = bytearray(1 << 30)", **bomb)),
                  lambda: ("signal", clean_server.execute("import os; os.abort()")),
                  lambda: (None, clean_server.execute("print(1)"))]
    for cause, done in at_once(calls):
        assert done["killed_by"] == cause, done
