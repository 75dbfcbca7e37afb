"""What every engine has to do, through the same HTTP contract: each case has a program for each
engine, and runs where the engine says that it can (its capabilities in /api/v1/info). On the fake
engine, each fault is injected as well: the client sees an honest answer, and nothing is left."""
import base64

import pytest

import harness
from harness import Server, assert_error, at_once, wait_until

FAKE = {"BERTH_ENGINE": "fake", "BERTH_TESTING": "1"}


class Engine:
    """A server, and the way to say a thing in the language of its sandboxes."""

    def __init__(self, name, server):
        self.name = name
        self.server = server
        info = server.get("/api/v1/info").json()["engines"][0]
        assert info["name"] == name
        self.capabilities = set(info["capabilities"])

    def run(self, case, **fields):
        return self.server.execute(PROGRAMS[case][self.name == "fake"], **fields)

    def living(self):
        return self.server.metric("berth_sandboxes")


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


@pytest.fixture(scope="module")
def fake_server():
    one = Server(FAKE).start()
    yield one
    harness.end(one)


@pytest.fixture(params=["native", "fake"])
def engine(request):
    server = request.getfixturevalue("server" if request.param == "native" else "fake_server")
    one = Engine(request.param, server)
    yield one
    wait_until(lambda: one.living() == 0, "no sandbox lives")
    done = one.run("hello")
    assert (done["stdout"], done["exit_code"]) == ("hello\n", 0)


def test_capabilities_are_known_words(engine):
    assert engine.capabilities <= {"memory", "cpu", "pids", "storage", "isolated", "idmap", "stop",
                                   "freeze", "snapshot", "stats", "disk", "container",
                                   "private_ids", "limit", "zygote", "layers", "gpu", "full"}


def test_create_and_execute(engine):
    done = engine.run("hello")
    assert (done["status"], done["stdout"], done["stderr"]) == ("success", "hello\n", "")


def test_both_streams(engine):
    done = engine.run("both")
    assert (done["stdout"], done["stderr"]) == ("one\n", "two\n")
    assert sorted(done["output"].splitlines()) == ["one", "two"]


def test_exit_code(engine):
    done = engine.run("fails")
    assert (done["status"], done["exit_code"], done["killed_by"]) == ("error", 3, None)


def test_signal(engine):
    done = engine.run("signal")
    assert (done["exit_code"], done["killed_by"]) == (143, "signal")


@pytest.mark.parametrize("text", ["", "hello", "é€😀", "x" * 1_000_000])
def test_stdin(engine, text):
    assert engine.run("stdin", stdin=text)["stdout"] == text


def test_env(engine):
    assert engine.run("env", env={"NAME": "the value"})["stdout"] == "the value"


def test_files(engine):
    content = base64.b64encode(b"what was put").decode()
    done = engine.run("file", files=[{"path": "data.txt", "content": content}])
    assert done["stdout"] == "what was put"


def test_timeout(engine):
    done = engine.run("sleep", timeout=0.5)
    assert (done["status"], done["killed_by"], done["exit_code"]) == ("timeout", "timeout", 137)
    assert done["stdout"] == "on\n"


def test_output_is_cut(engine):
    done = engine.run("much")
    assert done["status"] == "success" and done["truncated"] is True
    assert len(done["stdout"]) == 1 << 20
    assert done["usage"]["stdout_bytes"] == 3_000_000


def test_output_flood(engine):
    done = engine.run("flood", timeout=60)
    assert (done["status"], done["killed_by"]) == ("killed", "output")


def test_oom(engine):
    if engine.name != "fake" and "memory" not in engine.capabilities:
        pytest.skip("the engine enforces no memory limit")
    done = engine.run("oom", resources={"ram": "64MiB", "storage": "8MiB"})
    assert (done["killed_by"], done["limits_hit"]) == ("oom", ["memory"])


def test_delete(engine):
    stream = engine.server.stream(PROGRAMS["sleep"][engine.name == "fake"])
    name = next(stream)[1]["execution_id"]
    assert next(stream)[0] == "stdout"
    answer = engine.server.request("DELETE", f"/executions/{name}")
    assert answer.json()["killed_by"] == "user"
    assert list(stream)[-1][0] == "end"


def test_a_client_that_leaves(engine):
    stream = engine.server.stream(PROGRAMS["sleep"][engine.name == "fake"])
    name = next(stream)[1]["execution_id"]
    stream.close()
    path = f"/executions/{name}"
    done = wait_until(lambda: (one := engine.server.get(path).json())
                      ["status"] not in ("queued", "running") and one, "it ends")
    assert done["killed_by"] == "user"


def test_many_at_once(engine):
    for done in at_once([lambda: engine.run("short") for _ in range(30)]):
        assert (done["stdout"], done["killed_by"]) == ("hello\n", None)


def test_no_leak(engine):
    engine.run("hello")
    wait_until(lambda: engine.living() == 0, "no sandbox lives")
    before = engine.server.snapshot()
    at_once([lambda: engine.run("hello") for _ in range(40)], 4)
    wait_until(lambda: engine.living() == 0, "no sandbox lives")

    def grown():
        after = engine.server.snapshot()
        return {name: (before.get(name, 0), value) for name, value in after.items()
                if name.endswith((".fds", ".threads", ".processes", "cgroups", "zombies"))
                and value > before.get(name, 0)}

    wait_until(lambda: not grown(), lambda: f"grew: {grown()}", secs=20)


# ---- the faults of the fake engine ----

UNAVAILABLE = "unavailable"  # 503, and nothing was run
REPEATED = "repeated"        # made again: the client sees nothing
LOST = "lost"                # it may have run: an outcome, killed by the server
FAILED = "failed"            # 500, the engine's own fault

# fault: what a client may see of it
FAULTS = {
    "create-fails": (UNAVAILABLE, FAILED, REPEATED),
    "create-hangs": (UNAVAILABLE, REPEATED),
    "restart": (UNAVAILABLE, REPEATED),
    "destroy-fails": (REPEATED,),
    "close-early": (UNAVAILABLE, LOST, REPEATED),
    "close-output": (LOST,),
    "close-exit": (LOST,),
    "dies": (LOST,),
    "garbage": (LOST,),
    "oversized": (LOST,),
    "wrong-nonce": (UNAVAILABLE, FAILED, LOST, REPEATED),
    "wrong-exit": (LOST,),
    "wrong-stream": (LOST,),
}


def what_came(answer):
    if answer.status == 503:
        assert_error(answer, 503)
        assert answer.headers["Retry-After"]
        return UNAVAILABLE
    if answer.status == 500:
        assert_error(answer, 500)
        return FAILED
    assert answer.status == 200, answer
    done = answer.json()
    if done["killed_by"] == "server":
        assert (done["status"], done["exit_code"]) == ("killed", 137), done
        return LOST
    assert (done["status"], done["stdout"], done["killed_by"]) == ("success", "hello\n", None), done
    return REPEATED


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(make_server, fault):
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": f"{fault}:1"})
    came = what_came(server.post({"code": "out hello"}))
    assert came in FAULTS[fault], came
    assert server.execute("out next")["stdout"] == "next\n"
    wait_until(lambda: server.metric("berth_sandboxes") == 0, "no sandbox lives")
    assert server.metric("berth_executions_running") == 0


@pytest.mark.parametrize("fault", [one for one in FAULTS if FAULTS[one] == (LOST,)])
def test_fault_in_a_stream_never_looks_whole_or_says_what_was(make_server, fault):
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": f"{fault}:1"})
    events = list(server.stream("out hello\nout more"))
    if events and events[-1][0] == "end":
        assert (events[-1][1]["status"], events[-1][1]["killed_by"]) == ("killed", "server")
    assert server.execute("out next")["stdout"] == "next\n"


def test_output_without_credit(make_server):
    """It is a fault only while the server has not given credit; a fast server may be ahead."""
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "no-credit:1"})
    done = server.execute("out hello")
    assert done["killed_by"] in ("server", None), done
    assert server.execute("out next")["stdout"] == "next\n"


def test_an_exit_that_never_comes(make_server):
    """The server has a deadline of its own behind that of the sandbox."""
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "mute:1"})
    done = server.execute("out hello", timeout=0.2)
    assert done["status"] in ("killed", "timeout"), done
    assert done["killed_by"] in ("server", "timeout")
    assert server.execute("out next")["stdout"] == "next\n"


def test_faults_under_load(make_server):
    """Every second kind of trouble at once: each client gets an answer of its own."""
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "close-exit:20"})
    calls = [lambda number=number: (number, server.post({"code": f"out {number}"}))
             for number in range(60)]
    lost = 0
    for number, answer in at_once(calls, 10):
        assert answer.status == 200, answer
        done = answer.json()
        lost += done["killed_by"] == "server"
        if done["killed_by"] is None:
            assert done["stdout"] == f"{number}\n"
    assert lost == 20
    wait_until(lambda: server.metric("berth_sandboxes") == 0, "no sandbox lives")


def test_the_fake_engine_needs_to_be_asked_for_twice(make_server):
    server = make_server({"BERTH_ENGINE": "fake"}, start=False)
    with pytest.raises(AssertionError, match="BERTH_TESTING"):
        server.start()
    server.process.wait(30)
    server.process.stdout.close()
    server.process = None
