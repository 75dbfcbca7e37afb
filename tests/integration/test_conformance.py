"""What every engine has to do with one execution, through the same HTTP contract: each case has a program
for each kind of engine. What it can't do is a capability that it lacks (test_conformance_limits.py); on
the fake engine each fault is injected as well (test_fake_faults.py)."""
import base64

import pytest

from harness import at_once, wait_until

WIDTH = 4  # of the crowds that are to leave nothing
# case: (Python for native, the script of fake)
PROGRAMS = {
    "hello": ("print('hello')", "out hello"),
    "both": ("import sys\nprint('one', flush=True)\nprint('two', file=sys.stderr)",
             "out one\nerr two"),
    "fails": ("raise SystemExit(3)", "exit 3"),
    "signal": ("import os; os.kill(os.getpid(), 15)", "signal 15"),
    "stdin": ("import sys; sys.stdout.write(sys.stdin.read())", "stdin"),
    "env": ("import os; print(os.environ['NAME'], end='')", "env NAME"),
    "file": ("print(open('data.txt').read(), end='')", "cat data.txt"),
    "sleep": ("print('on', flush=True)\nimport time; time.sleep(600)", "out on\nsleep 600000"),
    "flood": ("import os\nwhile True: os.write(1, b'x' * 65536)", "flood 100000000"),
    "much": ("import sys; sys.stdout.write('x' * 3000000)", "flood 3000000"),
    "oom": ("x = bytearray(1 << 30)", "oom"),
    "short": ("import time; time.sleep(0.2); print('hello')", "sleep 200\nout hello"),
}


@pytest.mark.every_way("podman")
def test_create_and_execute(subject):
    done = subject.run(PROGRAMS["hello"])
    assert (done["status"], done["stdout"], done["stderr"]) == ("success", "hello\n", "")


@pytest.mark.every_way
def test_both_streams(subject):
    done = subject.run(PROGRAMS["both"])
    assert (done["stdout"], done["stderr"]) == ("one\n", "two\n")
    assert sorted(done["output"].splitlines()) == ["one", "two"]


@pytest.mark.every_way
def test_exit_code(subject):
    done = subject.run(PROGRAMS["fails"])
    assert (done["status"], done["exit_code"], done["killed_by"]) == ("error", 3, None)


@pytest.mark.every_way
def test_signal(subject):
    done = subject.run(PROGRAMS["signal"])
    assert (done["exit_code"], done["killed_by"]) == (143, "signal")


@pytest.mark.parametrize("text", ["", "hello", "é€😀", "x" * 1_000_000])
def test_stdin(subject, text):
    assert subject.run(PROGRAMS["stdin"], stdin=text)["stdout"] == text


def test_env(subject):
    assert subject.run(PROGRAMS["env"], env={"NAME": "the value"})["stdout"] == "the value"


@pytest.mark.every_way
def test_files(subject):
    content = base64.b64encode(b"what was put").decode()
    done = subject.run(PROGRAMS["file"], files=[{"path": "data.txt", "content": content}])
    assert done["stdout"] == "what was put"


@pytest.mark.every_way
def test_timeout(subject):
    done = subject.run(PROGRAMS["sleep"], timeout=0.5)
    assert (done["status"], done["killed_by"], done["exit_code"]) == ("timeout", "timeout", 137)
    assert done["stdout"] == "on\n"


def test_output_is_cut(subject):
    done = subject.run(PROGRAMS["much"])
    assert done["status"] == "success" and done["truncated"] is True
    assert len(done["stdout"]) == 1 << 20
    assert done["usage"]["stdout_bytes"] == 3_000_000


@pytest.mark.every_way
def test_output_flood(subject):
    done = subject.run(PROGRAMS["flood"], timeout=60)
    assert (done["status"], done["killed_by"]) == ("killed", "output")


@pytest.mark.every_way("podman")
def test_oom(subject):
    assert subject.can("memory"), "each way of running enforces it where groups are to be had"
    done = subject.run(PROGRAMS["oom"], resources=subject.small())
    assert (done["killed_by"], done["limits_hit"]) == ("oom", ["memory"])


@pytest.mark.every_way
def test_delete(subject):
    stream = subject.server.stream(subject.say(PROGRAMS["sleep"]))
    name = next(stream)[1]["execution_id"]
    assert next(stream)[0] == "stdout"
    answer = subject.server.request("DELETE", f"/executions/{name}")
    assert answer.json()["killed_by"] == "user"
    assert list(stream)[-1][0] == "end"


def test_a_client_that_leaves(subject):
    stream = subject.server.stream(subject.say(PROGRAMS["sleep"]))
    name = next(stream)[1]["execution_id"]
    stream.close()
    path = f"/executions/{name}"
    done = wait_until(lambda: (one := subject.server.get(path).json())
                      ["status"] not in ("queued", "running") and one, "it ends")
    assert done["killed_by"] == "user"


def test_many_at_once(subject):
    for done in at_once([lambda: subject.run(PROGRAMS["short"]) for _ in range(subject.size)]):
        assert (done["stdout"], done["killed_by"]) == ("hello\n", None)


@pytest.mark.every_way
def test_no_leak(subject):
    def crowd(count):
        at_once([lambda: subject.run(PROGRAMS["hello"]) for _ in range(count)], WIDTH)
        wait_until(lambda: subject.living() == 0, "no sandbox lives")

    crowd(subject.size)  # connections that are kept and threads that wait: as many as that takes at once
    before = subject.server.snapshot()
    # libcurl keeps as many connections to the daemon as requests met at one moment, so a crowd of the same
    # width may leave some more; a leak is one an execution, which is far more.
    spare = {"berth-docker.fds": WIDTH}
    crowd(3 * subject.size)

    def grown():
        after = subject.server.snapshot()
        return {name: (before.get(name, 0), value) for name, value in after.items()
                if name.endswith((".fds", ".threads", ".processes", "cgroups", "zombies"))
                and value > before.get(name, 0) + spare.get(name, 0)}

    wait_until(lambda: not grown(), lambda: f"grew: {grown()}", secs=20)
