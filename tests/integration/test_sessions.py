"""Sessions over HTTP on the real engine: state, results, order, limits, ends of every kind, and the
deaths of server, engine and monitor around them."""
import json
import os
import signal
import threading
import time

import pytest

from faults import assert_nothing_left
from harness import SLOW, Stream, assert_error, at_once, wait_until
from sessions import Session, in_background


@pytest.fixture
def session(server):
    one = Session(server)
    yield one
    if one.get().status == 200:
        one.delete()


# ---- state and results ----

def test_state_is_kept(session):
    done = session.run("x = 41\nimport math")
    assert (done["status"], done["state"], done["results"]) == ("success", "kept", []), done
    assert done["session_id"] == session.id
    done = session.run("x += 1\nprint(x, math.floor(2.5))\nx")
    assert done["stdout"] == "42 2\n" and done["results"] == [{"text/plain": "42"}], done
    assert session.run("open('f', 'w').write('kept'); None")["exit_code"] == 0
    assert session.run("print(open('/workspace/f').read())")["stdout"] == "kept\n"


def test_two_sessions_share_nothing(server, session):
    other = Session(server)
    session.run("x = 1; open('/workspace/mine', 'w').close()")
    done = other.run("import os\nprint(os.listdir('/workspace'))\nx")
    assert done["stdout"] == "[]\n" and done["error"]["name"] == "NameError", done
    other.delete()


def test_errors_and_exits(session):
    done = session.run("def f():\n    return 1 / 0\nf()")
    assert (done["status"], done["exit_code"], done["state"]) == ("error", 1, "kept"), done
    assert done["error"]["name"] == "ZeroDivisionError"
    assert "return 1 / 0" in done["stderr"] and done["error"]["traceback"] in done["stderr"] + "\n"
    done = session.run("import sys\nsys.exit(3)")
    assert (done["status"], done["exit_code"], done["state"]) == ("error", 3, "kept"), done
    assert session.run("f")["status"] == "success"


def test_stdin_and_streams(session):
    done = session.run("a = input(); import sys\nprint(a, file=sys.stderr); print(sys.stdin.read())",
                       stdin="first\nrest")
    assert (done["stdout"], done["stderr"]) == ("rest\n", "first\n"), done
    done = session.run("input()")
    assert done["error"]["name"] == "EOFError", done


def test_subprocesses_and_threads_write_to_their_execution(session):
    first = session.run("import threading, time, subprocess\n"
                        "go = threading.Event()\n"
                        "def late():\n    go.wait(); print('late'); done.set()\n"
                        "done = threading.Event()\n"
                        "threading.Thread(target=late).start()\n"
                        "p = subprocess.Popen(['sh', '-c', 'sleep 0.2; echo background'])\n"
                        "subprocess.run(['echo', 'child'])")
    assert first["stdout"] == "child\n", first
    second = session.run("go.set(); done.wait(); p.wait(); print('second')")
    assert second["stdout"] == "second\n", second


def test_a_program_that_cannot_be_written_is_none(server):
    """The source has a folder in its place: nothing began, so nothing runs, and the key is free."""
    one = Session(server, lang="perl")
    assert one.run("unlink 'main.pl'; mkdir 'main.pl' or die; print 'made'")["stdout"] == "made"
    for _ in range(2):
        answer = one.server.post({"code": "print 1"}, path=one.path + "/execute",
                                 headers={"Idempotency-Key": "folder"})
        assert_error(answer, 400, "main.pl")
    listed = server.get("/executions?status=running").json()["executions"]
    assert not [entry for entry in listed if entry.get("session_id") == one.id], listed
    assert one.get().json()["running"] is None
    one.delete()


def test_one_that_is_cancelled_before_its_source_is_there(server):
    """Init waits for the rest of the source; what comes next does not wait with it."""
    one = Session(server, lang="perl")
    source = "# " + "x" * 3_500_000 + "\nsleep 600"
    for i in range(5):
        stream = Stream(server, {"code": source}, "application/x-ndjson", path=one.path + "/execute")
        name, started = next(stream)
        assert name == "started", name
        cancelled = server.request("DELETE", f"/executions/{started['execution_id']}").json()
        assert cancelled["killed_by"] == "user", cancelled
        assert [name for name, _ in stream][-1] == "end"
        done = one.run(f"print {i}", timeout=20 * SLOW)
        assert (done["stdout"], done["killed_by"], done["state"]) == (str(i), None, "kept"), done
    one.delete()


def test_interrupt(session):
    for code in ("while True: pass", "import time; time.sleep(600)",
                 "import subprocess; subprocess.run(['sleep', '600'])"):
        session.run("kept = 'yes'")
        answer = in_background(lambda code=code: session.run(code))
        running = session.running()
        said = session.server.post({}, path=session.path + "/interrupt").json()
        assert said == {"session_id": session.id, "interrupted": running}
        done = answer()
        assert done["error"]["name"] == "KeyboardInterrupt", done
        assert done["state"] == "kept"
        assert session.run("print(kept)")["stdout"] == "yes\n"
    said = session.server.post({}, path=session.path + "/interrupt").json()
    assert said["interrupted"] is None


def test_interrupts_as_soon_as_it_runs(session):
    """Whatever the kernel has read of the run by then."""
    session.run("kept = 'yes'")
    for _ in range(100):
        answer = in_background(lambda: session.run("while True: pass", timeout=20 * SLOW))
        running = wait_until(lambda: session.get().json()["running"], "it runs", step_secs=0)
        said = session.server.post({}, path=session.path + "/interrupt").json()
        assert said["interrupted"] == running
        done = answer()
        assert (done["execution_id"], done["exit_code"], done["state"]) == (running, 130, "kept"), done
        # A timeout interrupts too.
        assert (done["killed_by"], done["error"]["name"]) == (None, "KeyboardInterrupt"), done
        assert session.run("print(kept)")["stdout"] == "yes\n"


# ---- ends ----

def test_a_timeout_keeps_the_state_when_it_can(session):
    session.run("x = 1")
    done = session.run("while True: pass", timeout=0.3)
    assert (done["status"], done["killed_by"], done["state"]) == ("timeout", "timeout", "kept"), done
    assert session.run("x")["results"] == [{"text/plain": "1"}]
    done = session.run("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                       "while True: pass", timeout=0.3)
    assert (done["status"], done["killed_by"], done["state"]) == ("timeout", "timeout", "lost"), done
    assert session.run("x")["error"]["name"] == "NameError"


@pytest.mark.parametrize("code, cause, exit_code", [
    ("import os; os._exit(7)", None, 7),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal", 139),
    ("x = bytearray(1 << 30)\nx[::4096] = b'1' * len(x[::4096])", "oom", 137),
    ("while True: print('y' * 100000)", "output", 137),
])
def test_a_kernel_that_dies_is_replaced(server, code, cause, exit_code):
    session = Session(server, resources={"ram": "128MB"})
    session.run("x = 1")
    done = session.run(code, timeout=120)
    assert (done["killed_by"], done["exit_code"], done["state"]) == (cause, exit_code, "lost"), done
    done = session.run("print('x' in globals())")
    assert done["stdout"] == "False\n" and done["exit_code"] == 0, done
    session.delete()


def test_executions_of_one_session_come_in_order(session):
    session.run("seen = []")
    calls = []
    for i in range(8):
        before = session.get().json()["waiting"]
        calls.append(in_background(
            lambda i=i: session.run(f"import time; time.sleep(0.05); seen.append({i})")))
        wait_until(lambda before=before, i=i:
                   session.get().json()["waiting"] > before or
                   session.get().json()["execution_count"] >= i + 2, "it waits, or ran")
    for call in calls:
        assert call()["status"] == "success"
    assert session.run("seen")["results"] == [{"text/plain": str(list(range(8)))}]


def test_many_sessions_side_by_side(server):
    sessions = at_once([lambda: Session(server)] * 12)
    assert sorted(server.get("/sessions").json()["sessions"]) == sorted(s.id for s in sessions)
    for round_number in range(3):
        at_once([lambda s=s, i=i: s.run(f"x = globals().get('x', 0) + {i}") for i, s in
                 enumerate(sessions)])
    results = at_once([lambda s=s: s.run("x") for s in sessions])
    assert [r["results"][0]["text/plain"] for r in results] == [str(3 * i) for i in range(12)]
    at_once([s.delete for s in sessions])
    assert server.get("/sessions").json() == {"sessions": []}


def test_limits_hold_as_in_execute(server):
    session = Session(server, resources={"ram": "64MB", "storage": "16MB", "cpu": "0.5"},
                      env={"MINE": "yes"})
    assert session.run("import os; print(os.environ['MINE'])")["stdout"] == "yes\n"
    done = session.run("f = open('/workspace/f', 'wb')\nfor _ in range(40): f.write(b'x' * (1 << 20))")
    assert done["error"]["name"] == "OSError", done
    assert "disk" in done["limits_hit"], done
    resources = session.get().json()["resources"]
    assert (resources["ram"], resources["cpu"]) == (64_000_000, 0.5), resources
    session.delete()


# ---- the object ----

def test_what_is_unknown_or_wrong_is_told(server):
    none = "/sessions/00000000-0000-4000-8000-000000000000"
    assert_error(server.get(none), 404, "session")
    assert_error(server.post({"code": "1"}, path=none + "/execute"), 404, "session")
    assert_error(server.request("DELETE", none), 404, "session")
    assert_error(server.post({}, path=none + "/renew"), 404, "session")
    assert_error(server.post({"timeout": "soon"}, path="/sessions"), 400, "timeout")
    assert_error(server.post({"timeout": 1e9}, path="/sessions"), 400, "timeout")
    assert_error(server.post({"lang": "cobol"}, path="/sessions"), 400, "lang")
    assert_error(server.request("PUT", "/sessions"), 405)


def test_a_session_is_an_object(server, session):
    seen = session.get().json()
    assert seen["session_id"] == session.id and seen["status"] == "active"
    assert seen["lang"] == "python" and seen["execution_count"] == 0 and seen["running"] is None
    assert seen["created_at"] < seen["expires_at"]
    renewed = server.post({"timeout": 100, "idle_timeout": 50}, path=session.path + "/renew").json()
    assert (renewed["timeout"], renewed["idle_timeout"]) == (100, 50)
    assert renewed["expires_at"] != seen["expires_at"]
    again = server.post({}, path=session.path + "/renew").json()
    assert again["expires_at"] >= renewed["expires_at"]


def test_idempotency_key(server):
    headers = {"Idempotency-Key": "one-session"}
    first = server.post({}, path="/sessions", headers=headers).json()
    again = server.post({}, path="/sessions", headers=headers).json()
    assert first["session_id"] == again["session_id"]
    server.request("DELETE", f"/sessions/{first['session_id']}")


def test_idle_and_lifetime_end_it(server):
    idle = Session(server, idle_timeout=0.4)
    short = Session(server, timeout=1.2)
    busy = Session(server, idle_timeout=0.4)
    answer = in_background(lambda: busy.run("import time; time.sleep(2); 'done'", timeout=60))
    wait_until(lambda: idle.get().status == 404, "the idle one ends")
    wait_until(lambda: short.get().status == 404, "the short one ends")
    assert answer()["results"] == [{"text/plain": "'done'"}], "one that works is not idle"
    wait_until(lambda: busy.get().status == 404, "it ends when it is idle")
    server.wait_clean()


def test_deleting_ends_what_runs(server):
    session = Session(server)
    answer = in_background(lambda: session.post("print('on', flush=True)\nwhile True: pass"))
    session.running()
    session.delete()
    done = answer().json()
    assert (done["status"], done["killed_by"]) == ("killed", "user"), done
    assert_error(session.get(), 404)
    server.wait_clean()


# ---- streams ----

def events_of(server, execution_id, after=0):
    answer = server.get(f"/executions/{execution_id}/events?after={after}",
                        headers={"Accept": "application/x-ndjson"})
    assert answer.status == 200, answer
    return [json.loads(line) for line in answer.body.decode().splitlines()]


def test_streams_can_be_taken_up_again(server, session):
    code = ("import time, sys\nfor i in range(4):\n    print(i, flush=True); time.sleep(0.05)\n"
            "print('oh', file=sys.stderr)\n{'a': 1}")
    answer = in_background(lambda: session.run(code))
    execution_id = session.running()
    live = events_of(server, execution_id)
    answer()
    names = [event["event"] for event in live]
    assert names[0] == "started" and names[-1] == "end" and "result" in names, names
    assert [event["id"] for event in live] == list(range(1, len(live) + 1))
    text = "".join(event["data"]["text"] for event in live if event["event"] == "stdout")
    assert text == "0\n1\n2\n3\n"
    assert live[names.index("result")]["data"] == {"text/plain": "{'a': 1}"}
    for after in range(len(live)):
        assert events_of(server, execution_id, after) == live[after:]


def test_what_is_known_without_waiting(server, session):
    # One write(2), so one event; print() may make two of a line and its end.
    code = "import os, time\nos.write(1, b'on\\n')\ntime.sleep(600)"
    answer = in_background(lambda: session.run(code))
    execution_id = session.running()
    path = f"/executions/{execution_id}/events?follow=0"

    def look(accept="application/x-ndjson", after=0):
        return server.get(f"{path}&after={after}", headers={"Accept": accept})

    wait_until(lambda: "on" in look().body.decode(), "it says something")
    events = [json.loads(line) for line in look().body.decode().splitlines()]
    assert [event["event"] for event in events] == ["started", "stdout", "open"]
    assert "id" not in events[-1] and events[-1]["data"]["status"] == "running"
    assert events[-1]["data"]["execution_id"] == execution_id
    known = look(after=events[1]["id"]).body.decode().splitlines()
    assert [json.loads(line)["event"] for line in known] == ["open"]
    assert "event: open\ndata: {" in look("text/event-stream").body.decode()
    session.server.post({}, path=session.path + "/interrupt")
    answer()
    events = [json.loads(line) for line in look().body.decode().splitlines()]
    assert events[-1]["event"] == "end" and events == events_of(server, execution_id)
    assert_error(server.get(path.replace("=0", "=2")), 400, "follow")
    assert_error(server.get("/executions/00000000-0000-4000-8000-000000000000/events?follow=0"), 404)


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_who_waits_is_told_its_id(server, session, accept):
    first = in_background(lambda: session.run("import time; time.sleep(600)"))
    session.running()
    waits = Stream(server, {"code": "1"}, accept, path=session.path + "/execute")
    name, data = next(waits)
    assert name == "queued" and waits.response.headers["X-Execution-Id"] == data["execution_id"]
    path = f"/executions/{data['execution_id']}"
    assert server.get(path).json()["status"] == "queued"
    assert server.request("DELETE", path).json()["killed_by"] == "user"
    (name, end), = list(waits)
    assert name == "end" and end["execution_id"] == data["execution_id"]
    assert end["started_at"] is None
    server.post({}, path=session.path + "/interrupt")
    assert first()["error"]["name"] == "KeyboardInterrupt"


def test_every_answer_names_its_execution(server, session):
    for path in ("/execute", session.path + "/execute"):
        answer = server.post({"code": "1"}, path=path, headers={"Idempotency-Key": "named" + path})
        assert answer.headers["X-Execution-Id"] == answer.json()["execution_id"]
        again = server.post({"code": "1"}, path=path, headers={"Idempotency-Key": "named" + path})
        assert again.headers["X-Execution-Id"] == answer.headers["X-Execution-Id"]
    assert "X-Execution-Id" not in server.post({"code": 1}, path="/execute").headers


def test_a_client_that_leaves_does_not_end_it(server, session):
    stream = Stream(server, {"code": "import time\nprint('on', flush=True)\ntime.sleep(1)\n"
                                     "left = True"},
                    "application/x-ndjson", path=session.path + "/execute")
    next(stream)
    execution_id = session.running()
    stream.close()
    wait_until(lambda: server.get(f"/executions/{execution_id}").json()["status"] == "success",
               "it ends by itself")
    assert session.run("left")["results"] == [{"text/plain": "True"}]


# ---- a drain ----

def test_drain(make_server):
    server = make_server()
    session = Session(server)
    answers = [in_background(lambda: session.post("import time; time.sleep(600)"))]
    session.running()
    answers.append(in_background(lambda: server.post({"code": "import time; time.sleep(600)"})))
    wait_until(lambda: len(server.get("/executions?status=running").json()["executions"]) == 2, "both run")
    drained = server.request("PUT", "/api/v1/drain").json()
    assert drained == {"status": "drained", "ended": {"executions": 2, "sessions": 1},
                       "left": {"executions": 0, "sessions": 0, "sandboxes": 0}}
    for answer in answers:
        assert answer().json()["killed_by"] == "server"
    server.wait_clean()
    assert server.get("/health").json()["draining"] is True
    for path in ("/execute", "/sessions"):
        refused = server.post({"code": "1"}, path=path)
        assert_error(refused, 503, "drained")
        assert int(refused.headers["Retry-After"]) > 0
    assert_error(session.post("1"), 404)
    assert server.get("/api/v1/drain").json() == drained
    assert_error(server.request("PUT", "/api/v1/drain?wait=x"), 400, "wait")
    assert_error(server.request("POST", "/api/v1/drain"), 405)  # a form could send that
    assert server.request("DELETE", "/api/v1/drain").json()["status"] == "active"
    assert server.execute("print(1)")["stdout"] == "1\n"
    text = server.get("/metrics").body.decode()
    assert 'berth_sessions_ended_total{cause="drained"} 1\n' in text and "berth_sessions 0\n" in text


# ---- deaths ----

def end_of(server, name):
    if name == "monitor":
        server.kill()
        server.start()
    else:
        pid = server.child(name)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.children().get(name) not in (None, pid), f"another {name}")


def answers_again(server):
    def look():
        try:
            return server.get("/health").status == 200
        except OSError:
            return False
    wait_until(look, "it answers again")


@pytest.mark.parametrize("name", ["berth-server", "berth-native", "monitor"])
def test_sessions_outlive(make_server, name):
    server = make_server()
    sessions = [Session(server) for _ in range(3)]
    for i, session in enumerate(sessions):
        session.run(f"x = {i}")
    for _ in range(2):
        end_of(server, name)
        answers_again(server)
        assert server.get("/sessions").json()["sessions"] == [s.id for s in sessions]
        for i, session in enumerate(sessions):
            assert session.run("x")["results"] == [{"text/plain": str(i)}]
    for session in sessions:
        session.delete()
    server.wait_clean()
    assert server.stop() == 0
    assert_nothing_left(server.state)


@pytest.mark.parametrize("name", ["berth-server", "monitor"])
def test_what_runs_ends_with_its_result(make_server, name):
    server = make_server()
    session = Session(server)

    def try_it():
        try:
            return session.post("import time\nprint('begun', flush=True)\ntime.sleep(1.5)\n"
                                "print('ended')\nx = 7\nx")
        except OSError:
            return None
    in_background(try_it)
    execution_id = session.running()
    wait_until(lambda: server.get(f"/executions/{execution_id}").json()["status"] == "running", "")
    end_of(server, name)
    answers_again(server)
    live = events_of(server, execution_id)
    assert live[-1]["event"] == "end", live
    done = server.get(f"/executions/{execution_id}").json()
    assert (done["status"], done["stdout"]) == ("success", "begun\nended\n"), done
    assert done["results"] == [{"text/plain": "7"}]
    assert session.run("x + 1")["results"] == [{"text/plain": "8"}]
    session.delete()
    server.wait_clean()


def test_a_stop_and_a_start_keep_sessions(make_server):
    server = make_server()
    session = Session(server)
    session.run("x = 'still here'")
    assert server.stop() == 0
    server.start()
    assert session.run("print(x)")["stdout"] == "still here\n"
    session.delete()
    server.wait_clean()


def test_a_dead_init_ends_its_session(make_server):
    server = make_server()
    session = Session(server)
    (pid,) = server.inits().values()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: session.get().status == 404, "the session is over")
    server.wait_clean()


def test_expiry_while_nobody_watches(make_server):
    """Init ends it while no server runs; the next one knows."""
    server = make_server()
    session = Session(server, timeout=1)
    server.kill()
    time.sleep(1.2)
    server.start()
    wait_until(lambda: session.get().status == 404, "it is over")
    server.wait_clean()
    assert server.stop() == 0
    assert_nothing_left(server.state)


def test_renewal_against_expiry(server):
    """A renewal that was acknowledged holds; one that was not is 404."""
    renewed = gone = 0
    for i in range(24):
        session = Session(server, timeout=0.5)
        time.sleep(0.44 + (i % 12) * 0.01)
        answer = server.post({"timeout": 60}, path=session.path + "/renew")
        if answer.status == 200:
            renewed += 1
            time.sleep(0.1)
            assert session.run("1")["results"] == [{"text/plain": "1"}]
            session.delete()
        else:
            gone += 1
            assert_error(answer, 404)
            wait_until(lambda session=session: session.get().status == 404, "it is gone")
    print(f"{renewed} renewed, {gone} gone")
    server.wait_clean()


# ---- libraries of the host's image ----

def test_plots_and_tables(session):
    """Debian's packages: a figure is a PNG with no call, a table HTML."""
    import base64
    import struct
    import zlib
    session.run("import matplotlib.pyplot as plt\nimport pandas as pd\nimport numpy as np", timeout=60)
    assert session.run("np.__version__")["results"], "numpy is there in the next call"
    done = session.run("plt.plot([1, 2, 4])\nNone", timeout=60)
    (data,) = [result["image/png"] for result in done["results"] if "image/png" in result]
    png = base64.b64decode(data)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    pixels, at = b"", 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at:at + 8])
        pixels += png[at + 8:at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    rows = zlib.decompress(pixels)
    assert width > 300 and height > 200 and len(rows) == height * (1 + 4 * width)
    assert len(set(rows)) > 20, "something is drawn"
    done = session.run("pd.DataFrame({'a': [1, 2]})")
    assert "<table" in done["results"][0]["text/html"] and "text/plain" in done["results"][0]
