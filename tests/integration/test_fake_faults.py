"""Each fault that the fake engine can inject: the client sees an honest answer, and nothing is left."""
import re

import pytest

from harness import REPO, assert_error, at_once, wait_until
from sessions import Session
from ways import FAKE

UNAVAILABLE = "unavailable"  # 503, and nothing was run
REPEATED = "repeated"        # made again: the client sees nothing
LOST = "lost"                # it may have run: an outcome, killed by the server
FAILED = "failed"            # 500, the engine's own fault

REFUSED = "refused"          # 400, in the engine's words
OOM = "oom"                  # an outcome, of the memory limit

# fault: what a client sees of it
FAULTS = {
    "create-fails": UNAVAILABLE,
    "create-hangs": UNAVAILABLE,
    "create-refused": REFUSED,
    "unpacking": UNAVAILABLE,
    "restart": REPEATED,
    "destroy-fails": REPEATED,
    "destroy-lost": REPEATED,
    "close-early": UNAVAILABLE,
    "close-output": LOST,
    "close-exit": LOST,
    "dies": LOST,
    "garbage": LOST,
    "oversized": LOST,
    "wrong-nonce": UNAVAILABLE,
    "wrong-exit": LOST,
    "wrong-stream": LOST,
    "silent": LOST,
    "kernel-fails": REPEATED,  # a program needs none
    "dies-of-memory": OOM,
}
LAYERS = {"layer-refused": REFUSED, "layer-fails": UNAVAILABLE, "layer-away": UNAVAILABLE}
LIMITS = ("limit-refused", "limit-hangs", "limit-away")
# Each with a test of its own below.
OTHERS = ("none", "no-credit", "mute", "kernel-fails", "kernel-dies", "attach-unknown", "put-refused",
          "timers-dies", "channel-away")


def test_each_fault_is_injected():
    """None that the engine knows is left out here."""
    names = re.search(r"fault_names\[FAKE_FAULT_COUNT\] = \{(.*?)\};",
                      (REPO / "src/engine/fake.c").read_text(), re.S)[1]
    assert set(re.findall(r'"([a-z-]+)"', names)) == {*FAULTS, *LAYERS, *LIMITS, *OTHERS}


def what_came(answer):
    if answer.status == 503:
        assert_error(answer, 503)
        assert answer.headers["Retry-After"]
        return UNAVAILABLE
    if answer.status == 500:
        assert_error(answer, 500)
        return FAILED
    if answer.status == 400:
        assert_error(answer, 400, "injected")
        return REFUSED
    assert answer.status == 200, answer
    done = answer.json()
    if done["killed_by"] == "oom":
        assert (done["status"], done["limits_hit"]) == ("killed", ["memory"]), done
        return OOM
    if done["killed_by"] == "server":
        assert (done["status"], done["exit_code"]) == ("killed", 137), done
        return LOST
    assert (done["status"], done["stdout"], done["killed_by"]) == ("success", "hello\n", None), done
    return REPEATED


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(make_server, fault):
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": f"{fault}:1"})
    assert what_came(server.post({"code": "out hello", "timeout": 1})) == FAULTS[fault], server.log()
    assert server.execute("out next")["stdout"] == "next\n"
    wait_until(lambda: server.metric("berth_sandboxes") == 0, "no sandbox lives")
    assert server.metric("berth_executions_running") == 0


@pytest.mark.parametrize("fault", [one for one in FAULTS if FAULTS[one] == LOST and one != "silent"])
def test_fault_in_a_stream_never_looks_whole_or_says_what_was(make_server, fault):
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": f"{fault}:1"})
    events = list(server.stream("out hello\nout more"))
    assert events[-1][0] == "end", events
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


@pytest.mark.parametrize("fault", LIMITS)
def test_fault_while_one_that_waits_gets_its_limits(make_server, fault):
    """It is thrown away, and the client has another one."""
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": f"{fault}:1", "BERTH_POOL_MIN": "1",
                          "BERTH_POOL_MAX": "4"})
    wait_until(lambda: server.metric("berth_pool_ready") >= 1, "one waits")
    assert what_came(server.post({"code": "out hello", "resources": {"ram": "100MiB"}})) == REPEATED
    assert server.metric("berth_pool_discarded_total") == 1


@pytest.mark.parametrize("fault", LAYERS)
def test_fault_in_a_layer(make_server, fault):
    """The installed libraries are refused or not there, and the next request has them."""
    wish = {"code": "out hello", "libraries": ["version"]}  # a word that the fake's installer knows
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": f"{fault}:2"})  # the first when the server starts
    assert what_came(server.post(wish)) == LAYERS[fault], server.log()
    wait_until(lambda: what_came(server.post(wish)) == REPEATED, "it is installed")
    assert [one["libraries"] for one in server.get("/api/v1/layers").json()["layers"]] == [["version"]]


def test_no_kernel_can_be_started(make_server):
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "kernel-fails:1"})
    assert_error(server.post({}, path="/sessions"), 400, "kernel of python")
    one = Session(server)
    assert one.run("out hello")["stdout"] == "hello\n"
    one.delete()


def test_a_source_that_cannot_be_written(make_server):
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "put-refused:1"})
    assert_error(server.post({"code": "out hello", "lang": "lua"}), 400, "main.lua")
    assert server.execute("out next", lang="lua")["stdout"] == "next\n"


def test_a_sandbox_that_ends_before_it_is_a_session(make_server):
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "timers-dies:1"})
    assert_error(server.post({}, path="/sessions"), 503, "ended while it was made")
    one = Session(server)
    assert one.run("out hello")["stdout"] == "hello\n"
    one.delete()


def test_no_way_to_a_session_for_a_moment(make_server):
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "channel-away:3"})
    one = Session(server)
    done = one.run("fault close-output\nout hello\nout more")
    assert (done["status"], done["stdout"], done["state"]) == ("success", "hello\nmore\n", "kept"), done
    one.delete()


def test_a_kernel_that_dies(make_server):
    """Its session goes on, with a new one, and says that the state is lost."""
    server = make_server(FAKE)
    one = Session(server)
    one.run("set x 1")
    done = one.run("fault kernel-dies\nout hello")
    assert (done["killed_by"], done["exit_code"], done["state"]) == ("signal", 139, "lost"), done
    assert one.run("get x")["error"]["name"] == "NameError"
    assert one.run("out hello")["state"] == "kept"
    one.delete()


def test_an_init_that_knows_an_execution_no_more(make_server):
    """Its channel broke, and whoever asks again is told that it was lost, not that it goes on."""
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "attach-unknown:2"})  # of its init, and of a new channel
    one = Session(server)
    answer = one.post("fault close-output\nout a\nout b")
    assert_error(answer, 503, "goes on")
    name = re.search(r"execution ([0-9a-f-]+)", answer.json()["detail"])[1]
    done = wait_until(lambda: (found := server.get(f"/executions/{name}").json())
                      ["status"] not in ("queued", "running") and found, "it has an outcome")
    assert (done["status"], done["killed_by"]) == ("killed", "server"), done
    wait_until(lambda: one.get().status == 404, "the session has ended")


def test_an_engine_that_is_away_when_a_channel_broke(make_server):
    """It is asked again, and what ran meanwhile is told whole."""
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "channel-away:2"})
    one = Session(server)
    done = one.run("fault close-output\nout a\nout b")
    assert (done["status"], done["stdout"], done["state"]) == ("success", "a\nb\n", "kept"), done
    one.delete()


def test_a_file_that_can_not_be_put(make_server):
    """The code is not run without it."""
    server = make_server({**FAKE, "BERTH_FAKE_FAULT": "put-refused:1"})
    wish = {"code": "cat data.txt", "files": [{"path": "data.txt", "content": "aGVsbG8K"}]}
    answer = server.post(wish)
    assert_error(answer, 400, "data.txt")
    assert server.post(wish).json()["stdout"] == "hello\n"


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
