"""Clients that ask for large outcomes and do not read them: what is held for all of them is held once,
within BERTH_ANSWERS_MAX; others are served beside them, and it is gone when they are."""
import json

import pytest

import harness
from harness import HANG_SECS, Stream, wait_until
from test_sessions import Session, in_background
from test_stalled_clients import NDJSON, Peak, others_are_served, unread

STALLED = 30
SHOWN = 7_900_000           # of one result
SAID = 1 << 20              # of each stream, six bytes of JSON for each
SLACK_KB = 64 << 10         # for all of them: one of these answers is half as much
LARGE = f"""
import sys
display({{"text/plain": "x" * {SHOWN}}}, raw=True)
sys.stdout.write("\\1" * {SAID})
sys.stderr.write("\\1" * {SAID})
sys.stderr.flush()
"""
HEAP = SHOWN + 2 * SAID     # what is kept of it, and a little more


@pytest.fixture(scope="module")
def small():
    """A server that holds two of them and no third."""
    server = harness.Server({"BERTH_ANSWERS_MAX": "24MiB"}).start()
    yield server
    harness.end(server)


def large(session):
    done = session.run(LARGE)
    assert (len(done["stdout"]), len(done["stderr"]), done["truncated"]) == (SAID, SAID, False)
    return done


def held(server):
    return server.metric("berth_answers_held_bytes")


def hold(server, count, path):
    socks = [unread(server, path, None) for _ in range(count)]
    for sock in socks:  # the answer has begun
        assert sock.recv(8) == b"HTTP/1.1"
    return socks


def let_go(server, socks):
    for sock in socks:
        sock.close()
    wait_until(lambda: held(server) == 0, "nothing is held any more")


@pytest.mark.parametrize("what", ["", "/events"])
def test_many_readers_of_one(make_server, what):
    """Each by itself had the whole object in the server."""
    server = make_server()
    session = Session(server)
    done = large(session)
    path = f"/executions/{done['execution_id']}"
    others_are_served(server)
    peak = Peak(server)
    socks = hold(server, STALLED, path + what)
    assert HEAP <= held(server) < HEAP + (1 << 20), "held more than once, or not at all"
    others_are_served(server)
    assert server.get(path).json() == done
    print(f"{STALLED} readers of {path + what}: {peak.grown()} kB")
    assert peak.grown() < SLACK_KB
    let_go(server, socks)
    session.delete()


def test_a_stalled_caller_holds_it_as_its_readers_do(small):
    """An answer to the call itself, too, is written as it is taken, and shared with who reads it again."""
    session = Session(small)
    others_are_served(small)
    peak = Peak(small)
    sock = unread(small, session.path + "/execute", {"code": LARGE}, accept="application/json")
    assert sock.recv(8) == b"HTTP/1.1"
    assert HEAP <= held(small) < HEAP + (1 << 20)
    name = small.get("/executions").json()["executions"][0]["execution_id"]
    socks = hold(small, 3, f"/executions/{name}")
    assert held(small) < HEAP + (1 << 20)
    print(f"a caller: {peak.grown()} kB")
    assert peak.grown() < SLACK_KB
    let_go(small, [sock, *socks])
    session.delete()


def test_more_than_may_be_held(small):
    """A read is refused and may be repeated; what is small, and what runs, is answered."""
    session = Session(small)
    paths = [f"/executions/{large(session)['execution_id']}" for _ in range(3)]
    hello = f"/executions/{small.execute('print(1)')['execution_id']}"
    wait_until(lambda: held(small) == 0, "the callers have their answers")
    socks = hold(small, 2, paths[0]) + hold(small, 2, paths[1] + "/events")
    refused = small.metric("berth_answers_refused_total")
    for path in (paths[2], paths[2] + "/events"):
        answer = small.get(path)
        harness.assert_error(answer, 503, "holds as many answers")
        assert answer.headers["Retry-After"] == "1"
    assert small.metric("berth_answers_refused_total") == refused + 2
    for path in paths[:2]:  # held already: it costs nothing to read it
        assert len(small.get(path).json()["stdout"]) == SAID
    assert small.get(hello).json()["stdout"] == "1\n"
    assert large(session)["status"] == "success", "what has run is always answered"
    others_are_served(small)
    let_go(small, socks)
    assert len(small.get(paths[2]).json()["stdout"]) == SAID
    session.delete()


def test_a_trickling_reader_falls_behind(small):
    """Past the patience with it the execution ends without it; it reads the rest, and misses nothing."""
    fields = {"code": "import os\nfor i in range(64):\n    os.write(1, b'\\1' * 16384)\n"
                      "    os.write(2, b'\\2' * 16384)\nprint('last')", "timeout": 2 * HANG_SECS}
    sock = unread(small, "/execute", fields)
    answer = bytearray()

    def ended():
        answer.extend(sock.recv(512))
        return not small.get("/executions?status=running").json()["executions"]

    answer.extend(sock.recv(512))
    wait_until(ended, "it waits for its reader for ever", secs=2 * HANG_SECS, step_secs=0.1)
    behind = len(answer)
    while not answer.endswith(b"\r\n0\r\n\r\n"):
        answer.extend(sock.recv(1 << 16))
    sock.close()
    assert behind < len(answer) // 2, "it did not fall behind: this tries nothing"
    _, _, rest = bytes(answer).partition(b"\r\n\r\n")
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[:int(size, 16)]
        rest = rest[int(size, 16) + 2:]
    events = [json.loads(line) for line in body.splitlines()]
    assert [e["event"] for e in events[:1] + events[-1:]] == ["started", "end"]
    assert [e["id"] for e in events] == list(range(1, len(events) + 1))
    for name, text in (("stdout", "\1"), ("stderr", "\2")):
        said = "".join(e["data"]["text"] for e in events if e["event"] == name)
        assert said == (text * SAID)[:SAID], name
    assert events[-1]["data"]["truncated"] is True


def test_a_large_result_as_an_event(small):
    """It comes in parts inside of the server, and is one event all the same: live, and kept."""
    session = Session(small)
    *events, (end, done) = Stream(small, {"code": LARGE}, "text/event-stream",
                                  path=session.path + "/execute")
    assert end == "end"
    shown = [data for event, data in events if event == "result"]
    assert shown == [{"text/plain": "x" * SHOWN}] == done["results"]
    kept = small.get(f"/executions/{done['execution_id']}/events", headers={"Accept": NDJSON})
    again = [json.loads(line) for line in kept.body.splitlines()]
    assert [(e["event"], e["data"]) for e in again] == [*events, (end, done)]
    session.delete()


def test_a_follower_of_one_that_runs(small):
    """A large result of an execution that goes on is passed on in parts as well."""
    session = Session(small)
    code = LARGE + "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\n"
    call = in_background(lambda: session.run(code, timeout=HANG_SECS))
    name = session.running()
    peak = Peak(small)
    socks = hold(small, STALLED, f"/executions/{name}/events")
    others_are_served(small)
    print(f"{STALLED} followers: {peak.grown()} kB")
    assert peak.grown() < SLACK_KB
    assert small.request("PUT", session.path + "/files?path=go", b"go").status < 300
    done = call()
    assert done["status"] == "success", done["error"]
    let_go(small, socks)
    session.delete()
