"""Sandboxes made ahead: each is used once, has what the request asked for, and none is left behind."""
import base64
import os
import signal

import pytest

from harness import at_once, wait_until

POOL = {"BERTH_POOL_MIN": "3", "BERTH_POOL_MAX": "6"}


@pytest.fixture
def pooled(make_server):
    server = make_server(POOL)
    wait_ready(server, 3)
    return server


def wait_ready(server, count):
    wait_until(lambda: server.metric("berth_pool_ready") >= count, "the pool is filled")


def hit(server, code, **fields):
    """One execution in a sandbox of the pool."""
    wait_ready(server, 1)
    before = server.metric("berth_pool_hits_total")
    done = server.execute(code, **fields)
    assert server.metric("berth_pool_hits_total") == before + 1, done
    return done


def test_each_is_used_once(pooled):
    leave = ("import os; seen = os.path.exists('/tmp/mark'), os.path.exists('/workspace/mark')\n"
             "open('/tmp/mark', 'w').close(); open('/workspace/mark', 'w').close(); print(seen)")
    seen = [hit(pooled, leave)["stdout"] for _ in range(5)]
    assert seen == ["(False, False)\n"] * 5


def test_nothing_random_is_shared(pooled):
    code = ("import random, uuid, secrets\n"
            "print(hash('seed'), random.random(), uuid.uuid4(), secrets.token_hex(8))")
    said = [hit(pooled, code)["stdout"].split() for _ in range(6)]
    for values in zip(*said):
        assert len(set(values)) == len(said), values


def test_a_zygote_helps_out_when_it_is_empty(make_server):
    """Made at leisure each has an interpreter of its own; copies of a zygote, whose layout of memory is the
    same, come when requests find nothing."""
    code = "print([line.split()[0] for line in open('/proc/self/maps') if 'libc.so' in line][0])"
    server = make_server({**POOL, "BERTH_ZYGOTE": "auto"})
    wait_ready(server, 3)
    calm = []
    for _ in range(4):
        calm.append(hit(server, code)["stdout"])
        wait_ready(server, 3)
    assert len(set(calm)) == len(calm), calm

    def a_copy_was_used():
        layouts = [done["stdout"] for done in at_once([lambda: server.execute(code)] * 16)]
        return len(set(layouts)) < len(layouts)

    wait_until(a_copy_was_used, "two run in copies of one zygote")


def test_it_is_a_program_of_its_own(pooled):
    code = ("import sys, inspect\n"
            "def double(x):\n    return 2 * x\n"
            "print(__name__, __file__, sys.argv, open(__file__).read()[:10])\n"
            "print(inspect.getsource(double), end='')\n"
            "double(21)")
    done = hit(pooled, code)
    assert done["stdout"] == ("__main__ /workspace/main.py ['/workspace/main.py'] import sys\n"[:-1] +
                              "\ndef double(x):\n    return 2 * x\n"), done
    assert done["results"] == [{"text/plain": "42"}], done
    assert (done["status"], done["exit_code"], done["killed_by"]) == ("success", 0, None)


def test_an_error_is_that_of_the_code(pooled):
    done = hit(pooled, "def f():\n    return missing\nf()\n")
    assert done["exit_code"] == 1 and done["error"]["name"] == "NameError", done
    assert 'File "/workspace/main.py", line 2, in f' in done["stderr"], done
    assert "kernel" not in done["stderr"], done


def test_what_the_request_brings(pooled):
    content = base64.b64encode(b"brought").decode()
    done = hit(pooled, "import os, sys; print(os.environ['WHO'], sys.stdin.read(), open('a/b').read())",
               env={"WHO": "me"}, stdin="typed", files=[{"path": "a/b", "content": content}])
    assert done["stdout"] == "me typed brought\n", done


def test_a_variable_of_the_interpreters_start(pooled):
    done = hit(pooled, "print(hash('a'))", env={"PYTHONHASHSEED": "0"})
    again = hit(pooled, "print(hash('a'))", env={"PYTHONHASHSEED": "0"})
    assert done["stdout"] == again["stdout"] and done["exit_code"] == 0, (done, again)


def test_memory_is_what_was_asked_for(pooled):
    done = hit(pooled, "x = bytearray(100 << 20)", resources={"ram": "64MB"})
    assert (done["status"], done["killed_by"]) == ("killed", "oom"), done
    done = hit(pooled, "x = bytearray(600 << 20); print(len(x) >> 20)", resources={"ram": "1GB"})
    assert done["stdout"] == "600\n", done


def test_storage_is_what_was_asked_for(pooled):
    fill = ("try:\n    with open('/workspace/f', 'wb') as f:\n"
            "        for _ in range(64): f.write(bytes(1 << 20)); f.flush()\n"
            "except OSError as e: print(e.errno)")
    assert hit(pooled, fill, resources={"storage": "8MB"})["stdout"] == "28\n"  # ENOSPC
    assert hit(pooled, fill)["stdout"] == ""


def test_more_storage_than_they_were_made_with(pooled):
    write = ("with open('/workspace/f', 'wb') as f:\n"
             "    for _ in range(300): f.write(bytes(1 << 20))\nprint('ok')")
    done = pooled.execute(write, resources={"ram": "1GB", "storage": "400MB"})
    assert done["stdout"] == "ok\n", done


def test_processor_and_processes(pooled):
    done = hit(pooled, "import os; print(os.sched_getaffinity(0) is not None)",
               resources={"cpu": "0.5"})
    assert done["stdout"] == "True\n", done
    done = hit(pooled, "import os\nn = 0\ntry:\n    while n < 500:\n"
                       "        if os.fork() == 0: os.pause() if hasattr(os, 'pause') else __import__('time').sleep(60)\n"
                       "        n += 1\nexcept BlockingIOError: print('full')")
    assert done["stdout"] == "full\n" and "pids" in done["limits_hit"], done


def test_a_timeout(pooled):
    done = hit(pooled, "while True: pass", timeout=0.3)
    assert (done["status"], done["killed_by"], done["exit_code"]) == ("timeout", "timeout", 137), done


def test_the_other_profile_has_a_shelf_of_its_own(pooled):
    code = "import os; print(os.getuid())"
    assert pooled.execute(code, profile="container")["stdout"] == "0\n"
    wait_until(lambda: pooled.metric("berth_pool_ready") >= 4, "one of profile container is made")
    assert hit(pooled, code, profile="container")["stdout"] == "0\n"
    assert hit(pooled, code)["stdout"] == "1000\n"


def test_sessions_take_from_it(pooled):
    wait_ready(pooled, 1)
    hits = pooled.metric("berth_pool_hits_total")
    session = pooled.post({"env": {"WHO": "me", "TZ": "ABC-3"}}, "/sessions").json()["session_id"]
    assert pooled.metric("berth_pool_hits_total") == hits + 1

    def run(code):
        return pooled.post({"code": code}, f"/sessions/{session}/execute").json()

    assert run("import os; x = os.environ['WHO']; x")["results"] == [{"text/plain": "'me'"}]
    assert run("import time; time.tzname[0]")["results"] == [{"text/plain": "'ABC'"}]
    died = run("os._exit(3)")
    assert died["state"] == "lost", died
    assert run("import time; time.tzname[0]")["results"] == [{"text/plain": "'ABC'"}]
    assert run("import os; os.environ['WHO']")["results"] == [{"text/plain": "'me'"}]
    pooled.request("DELETE", f"/sessions/{session}")


def test_it_grows_with_demand_and_stays_within_bounds(pooled):
    for _ in range(3):
        at_once([lambda: pooled.execute("print(1)") for _ in range(12)])
    assert 3 < pooled.metric("berth_pool_wanted") <= 6
    wait_ready(pooled, 4)
    assert pooled.metric("berth_pool_ready") <= 6
    assert pooled.metric("berth_pool_misses_total") > 0


def test_one_that_died_is_not_given_out(pooled):
    dead = pooled.inits().values()
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in dead), "they are gone")
    for _ in range(4):
        assert pooled.execute("print('alive')")["stdout"] == "alive\n"


def test_a_kernel_that_was_killed_while_it_waited(pooled):
    dead = pooled.code_pids()
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in dead), "init has reaped them")
    for _ in range(4):
        assert pooled.execute("print('alive')")["stdout"] == "alive\n"


def test_the_engine_killed(pooled):
    os.kill(pooled.child("berth-native"), signal.SIGKILL)
    for _ in range(4):
        assert pooled.execute("print('alive')")["stdout"] == "alive\n"
    wait_ready(pooled, 3)


def test_the_server_killed_leaves_none_of_them(pooled):
    before = set(pooled.inits())
    os.kill(pooled.child("berth-server"), signal.SIGKILL)
    wait_until(lambda: not before & set(pooled.inits()), "those of the dead server are gone")
    wait_ready(pooled, 3)


def test_a_stop_leaves_none_of_them(pooled):
    assert pooled.stop() == 0
    pooled.wait_clean()


def test_without_a_pool(make_server):
    server = make_server({"BERTH_POOL_MAX": "0"})
    done = server.execute("1 + 1")
    assert done["results"] == [{"text/plain": "2"}], done
    assert server.metric("berth_pool_ready") == 0
    server.wait_clean()
