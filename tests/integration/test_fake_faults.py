"""Each fault that the fake engine can inject: the client sees an honest answer, and nothing is left."""
import pytest

from harness import assert_error, at_once, wait_until
from ways import FAKE

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
