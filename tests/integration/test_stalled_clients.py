"""Clients that would take all there is: endless output, readers that stop reading, a thousand
connections that ask nothing. Others are served beside them, the server's memory stays bounded, and
who makes no progress is cut off. How fast others are served meanwhile: bench/neighbours.py."""
import json
import pathlib
import socket

import pytest

import harness
from harness import HANG_SECS, LARGE, Stream, at_once, read, wait_until
from test_sessions import Session, in_background

IDLE = 1000
STALLED = 8                 # of each kind
NDJSON = "application/x-ndjson"
ENDLESS = "import os\nwhile True: os.write(1, b'y' * 65536)"
# Six bytes of a stream for each: what is passed on of it is more than a socket's buffers hold.
LONG = "import os\nwhile True: os.write(1, b'\\1' * 65536)"
SLACK_KB = 64 << 10         # of the server's memory for all of a test: one endless output is as much
# A thread for each connection has a stack and an arena of its own.
IDLE_KB_EACH = 64


@pytest.fixture(scope="module")
def crowded():
    """A server with clients that stall from here on, until the last test looks at them."""
    server = harness.Server({"BERTH_MAX_CONNECTIONS": str(IDLE + 200),
                             "BERTH_OUTPUT_KEEP": "2MiB"}).start()
    server.idle = []
    yield server
    for sock in server.idle:
        sock.close()
    harness.end(server)


class Peak:
    """How much memory the server came to hold since then, in kB."""

    def __init__(self, server):
        self.pid = server.child("berth-server")
        # proc(5): 5 sets the peak to what is held now.
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        self.before = self.now()

    def now(self):
        return int(read(f"/proc/{self.pid}/status").split("VmHWM:")[1].split()[0])

    def grown(self):
        return (self.now() - self.before) // LARGE


def others_are_served(server, count=20):
    for number, answer in enumerate(at_once(
            [lambda n=n: server.post({"code": f"print({n})"}) for n in range(count)], threads=4)):
        assert answer.status == 200, answer
        done = answer.json()
        assert (done["stdout"], done["killed_by"]) == (f"{number}\n", None), done


def unread(server, path, fields, accept=NDJSON):
    """A client that asks for a stream and reads nothing of it, with as small a buffer as there is."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.settimeout(HANG_SECS)
    sock.connect((harness.LOOPBACK, server.port))
    body = json.dumps(fields).encode() if fields is not None else b""
    sock.sendall(harness.head("POST" if body else "GET", path, "localhost", f"Accept: {accept}",
                              "Content-Type: application/json", f"Content-Length: {len(body)}")
                 + body)
    return sock


def running(server):
    return server.get("/executions?status=running").json()["executions"]


def test_endless_output(make_server):
    """Each of them ends at the cap on output, whoever reads it and whoever does not."""
    server = make_server()
    session = Session(server)
    others_are_served(server)
    peak = Peak(server)

    def read_all():
        *_, (event, done) = Stream(server, {"code": ENDLESS, "timeout": HANG_SECS}, NDJSON)
        assert event == "end"
        return done

    calls = [in_background(read_all) for _ in range(2)]
    calls += [in_background(lambda: server.execute(ENDLESS, timeout=HANG_SECS)) for _ in range(2)]
    calls += [in_background(lambda: session.run(ENDLESS, timeout=HANG_SECS))]
    others_are_served(server)
    for call in calls:
        done = call()
        assert (done["status"], done["killed_by"]) == ("killed", "output"), done["killed_by"]
        assert done["limits_hit"] == ["output"], done["limits_hit"]
    print(f"endless output: {peak.grown()} kB")
    assert peak.grown() < SLACK_KB
    session.delete()
    server.wait_idle()


def test_a_thousand_idle_connections(crowded):
    """Half of them have asked something before. All are there, and others are served."""
    others_are_served(crowded)
    peak = Peak(crowded)
    for number in range(IDLE):
        sock = crowded.connect()
        crowded.idle.append(sock)
        if number % 2:
            sock.sendall(harness.head("GET", "/health", "localhost"))
    for sock in crowded.idle[1::2]:
        assert harness.read_answer(sock).status == 200
    assert crowded.metric("berth_http_connections") >= IDLE
    others_are_served(crowded)
    for sock in crowded.idle[1::200]:  # one that waited is answered as any other
        sock.sendall(harness.head("GET", "/health", "localhost"))
        assert harness.read_answer(sock).status == 200
    print(f"{IDLE} connections: {peak.grown()} kB")
    assert peak.grown() < SLACK_KB + IDLE * IDLE_KB_EACH


def test_readers_that_stop_reading(crowded):
    """Streams of executions, of sessions, of events beside them, and a file: what nobody takes is held
    back where it comes from, and who takes nothing for long is gone."""
    sessions = [Session(crowded) for _ in range(2)]
    others_are_served(crowded)
    peak = Peak(crowded)
    file = b"z" * (24 << 20)
    assert crowded.request("PUT", sessions[0].path + "/files?path=f", file).status < 300
    endless = {"code": LONG, "timeout": 10 * HANG_SECS}
    socks = [unread(crowded, "/execute", endless) for _ in range(STALLED)]
    socks += [unread(crowded, session.path + "/execute", endless) for session in sessions]
    wait_until(lambda: len(running(crowded)) == STALLED + len(sessions), "all of them run")
    for one in running(crowded)[:STALLED]:
        socks.append(unread(crowded, f"/executions/{one['execution_id']}/events", None))
    for _ in range(3):
        socks.append(unread(crowded, sessions[0].path + "/files?path=f", None))
    others_are_served(crowded)
    assert len(running(crowded)) == STALLED + len(sessions), "one did not wait for its reader"
    kept = [session.running() for session in sessions]
    # Cut off one after the other: what nobody waits for ends, and a session's goes on without them.
    wait_until(lambda: not running(crowded), lambda: f"still running: {running(crowded)}",
               secs=3 * HANG_SECS)
    for name in kept:
        done = crowded.get(f"/executions/{name}").json()
        assert (done["status"], done["killed_by"]) == ("killed", "output"), done["killed_by"]
    others_are_served(crowded)
    print(f"{len(socks)} readers that stopped: {peak.grown()} kB")
    assert peak.grown() < SLACK_KB
    for session in sessions:
        assert session.run("print('on')")["stdout"] == "on\n"
        session.delete()
    for sock in socks:
        assert harness.is_closed(sock), "one that took nothing is still there"
        sock.close()
    crowded.wait_idle()


def test_idle_connections_are_closed(crowded):
    """By the server, in the end; and nothing of them is left in it."""
    for sock in crowded.idle:
        sock.settimeout(2 * HANG_SECS)
        assert harness.is_closed(sock), "an idle connection is kept for ever"
    wait_until(lambda: crowded.metric("berth_http_connections") == 1, "all have gone")
    wait_until(lambda: crowded.snapshot()["berth-server.threads"] < 50, "their threads have gone")
    crowded.hello()


def test_idle_connections_make_room(make_server):
    """More of them than connections may be: a new one takes the place of those that ask nothing."""
    server = make_server({"BERTH_MAX_CONNECTIONS": "32"})
    idle = []
    for _ in range(100):
        sock = server.connect()
        idle.append(sock)
        sock.sendall(harness.head("GET", "/health", "localhost"))
        assert harness.read_answer(sock).status == 200
    server.hello()
    for sock in idle:
        sock.close()
    others_are_served(server)
