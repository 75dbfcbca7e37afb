"""Each program dies at each of its named points, once, and is started again by the monitor: a
request with an Idempotency-Key that is sent again gets one honest outcome and is never run twice,
every caller gets an answer, and nothing is left on the host. test_engine_faults.py has the same for
an engine that nobody asks again."""
import http.client
import os

import pytest

from faults import CELL, CREATION, DISK, END, Fault, RUN, assert_nothing_left, skip_unless
from harness import at_rest, snapshot_tool, wait_until

POOL = {"BERTH_POOL_MIN": "2", "BERTH_POOL_MAX": "4"}
KINDS = {
    "memory": {},
    "disk": {"resources": {"ram": "64MB", "storage": "200MB"}},
    "container": {"profile": "container"},
}

# point: what the client gets that asks again. "ran": the first outcome, whole. "lost": the code may
# have run and its end is not known.
POINTS = {
    "server.queued": "lost",
    "server.create": "lost",
    "server.created": "lost",
    "server.started": "lost",
    "server.destroy": "lost",
    "server.exited": "lost",
    "server.stored": "ran",
}


def need(kind):
    skip_unless(disk=kind == "disk", container=kind == "container")


def hello(kind):
    return {"code": "open('/workspace/f', 'w').write('hello')\nprint(open('/workspace/f').read())",
            **KINDS[kind]}


def ask_until_answered(server, fields, headers):
    """The answer of the first request that gets one; the connection of one before may break."""
    def attempt():
        try:
            return server.post(fields, headers=headers)
        except (ConnectionError, http.client.HTTPException):
            return None
    return wait_until(attempt, "it is answered")


def finish(server):
    """Idle, then ended: what both leave."""
    server.hello()
    server.wait_idle()
    assert server.stop() == 0, server.log()
    assert_nothing_left(server.state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", POINTS)
def test_the_server_dies_at(make_server, point, kind):
    need(kind)
    with Fault(point) as fault:
        server = make_server(fault.env)
        old = server.child("berth-server")
        headers = {"Idempotency-Key": f"key-{point}"}
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            server.post(hello(kind), headers=headers)
        assert fault.struck(), "the point was not reached"
        answer = ask_until_answered(server, hello(kind), headers)
        assert server.child("berth-server") != old
        assert answer.status == 200, answer
        done = answer.json()
        if POINTS[point] == "ran":
            assert (done["status"], done["stdout"]) == ("success", "hello\n")
        else:
            assert (done["status"], done["killed_by"]) == ("killed", "server"), done
            assert done["exit_code"] == 137
        assert ask_until_answered(server, hello(kind), headers).json() == done  # and so it stays
        assert server.get(f"/executions/{done['execution_id']}").json() == done
        finish(server)


def pooled_server(make_server, fault):
    """A server whose pool has what it is to have, and where the fault strikes from now on."""
    server = make_server({**fault.env, **POOL})
    wait_until(lambda: server.metric("berth_pool_ready") >= 2, "the pool is filled")
    fault.arm()
    return server


# Those of a creation strike in a refill, which no request waits for.
@pytest.mark.parametrize("point", [p for p in POINTS if p not in ("server.create",
                                                                  "server.created")])
def test_the_server_dies_with_a_pool_at(make_server, point):
    with Fault(point, armed=False) as fault:
        server = pooled_server(make_server, fault)
        headers = {"Idempotency-Key": f"key-{point}"}
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            server.post(hello("memory"), headers=headers)
        assert fault.struck(), "the point was not reached"
        done = ask_until_answered(server, hello("memory"), headers).json()
        if POINTS[point] == "ran":
            assert (done["status"], done["stdout"]) == ("success", "hello\n"), done
        else:
            assert (done["status"], done["killed_by"]) == ("killed", "server"), done
        assert server.post(hello("memory")).json()["stdout"] == "hello\n"
        assert server.stop() == 0, server.log()
        assert_nothing_left(server.state)


@pytest.mark.parametrize("point", ["server.session", "server.session_stored"])
@pytest.mark.parametrize("pool", [False, True], ids=["plain", "pool"])
def test_the_server_dies_while_a_session_is_made_at(make_server, point, pool):
    """Asked for again there is one session, with all of its rights, and one sandbox of it."""
    with Fault(point, armed=not pool) as fault:
        server = pooled_server(make_server, fault) if pool else make_server(fault.env)
        asked = {"timeout": 3600, "idle_timeout": 1800}
        headers = {"Idempotency-Key": f"key-{point}"}
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            server.post(asked, headers=headers, path="/sessions")
        assert fault.struck(), "the point was not reached"

        def attempt():
            try:
                return server.post(asked, headers=headers, path="/sessions")
            except (ConnectionError, http.client.HTTPException):
                return None
        answer = wait_until(attempt, "it is answered")
        assert answer.status == 200, answer
        session = answer.json()["session_id"]
        assert server.get("/sessions").json() == {"sessions": [session]}
        path = f"/sessions/{session}"
        for code, said in (("x = 41", ""), ("print(x + 1)", "42\n")):
            done = server.post({"code": code}, path=path + "/execute").json()
            assert (done["status"], done["stdout"], done["state"]) == ("success", said, "kept"), done
        server.kill()  # and it is as durable as any other
        server.start()
        done = server.post({"code": "print(x)"}, path=path + "/execute").json()
        assert done["stdout"] == "41\n", done
        assert server.request("DELETE", path).status == 200
        assert server.stop() == 0, server.log()
        assert_nothing_left(server.state)


def other_points():
    for kind in KINDS:
        for point in CREATION + (DISK if kind == "disk" else ()) + RUN + END:
            yield pytest.param(point, kind, id=f"{kind}-{point}")


@pytest.mark.parametrize("point, kind", list(other_points()))
def test_another_process_dies_at(make_server, point, kind):
    """The engine, one of its children, or an init: the server goes on and says what became of the
    request."""
    need(kind)
    with Fault(point, armed=False) as fault:
        server = make_server(fault.env)
        old = {name: server.child(name) for name in ("berth-server", "berth-native")}
        assert server.post(hello(kind)).json()["stdout"] == "hello\n"
        server.wait_idle()
        fds = at_rest(lambda: server.snapshot()["berth-native.fds"])
        fault.arm()
        answer = server.post(hello(kind))
        wait_until(fault.struck, f"{point} is reached")
        assert answer.status in (200, 503), answer
        if answer.status == 503:
            assert answer.headers["Retry-After"]
        elif answer.json()["killed_by"] is None:
            assert (answer.json()["stdout"], answer.json()["exit_code"]) == ("hello\n", 0), answer
        else:
            assert answer.json()["killed_by"] == "server", answer
            assert point.startswith("init."), "the code can't have run"
        again = ask_until_answered(server, hello(kind), {})
        assert again.status == 200 and again.json()["stdout"] == "hello\n", again
        assert server.child("berth-server") == old["berth-server"], "the server died too"
        died = server.child("berth-native") != old["berth-native"]
        assert died == point.startswith("native."), server.log()
        server.wait_clean()
        # The engine forgets a sandbox a moment after the last trace of it is gone.
        wait_until(lambda: server.snapshot()["berth-native.fds"] == fds,
                   lambda: f"{fds} before: {server.snapshot()}")
        finish(server)


def open_session(server, kind):
    """Its path."""
    answer = server.post(KINDS[kind], path="/sessions")
    assert answer.status == 200, f"{answer}\n{server.log()}"
    return f"/sessions/{answer.json()['session_id']}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", CELL)
def test_an_init_dies_around_a_run_of_a_session_at(make_server, point, kind):
    """Its end is not known and the session is over; the next one is served."""
    need(kind)
    with Fault(point, armed=False) as fault:
        server = make_server(fault.env)
        before = open_session(server, kind)
        fault.arm()
        path = open_session(server, kind)  # an init is told at its start where it is to die
        answer = server.post({"code": "x = 1"}, path=path + "/execute")
        assert fault.struck()
        done = answer.json()
        assert (done["status"], done["killed_by"], done["exit_code"]) == ("killed", "server", 137)
        assert server.get(f"/executions/{done['execution_id']}").json()["killed_by"] == "server"
        wait_until(lambda: server.get(path).status == 404, "the session is over")
        for other in (before, open_session(server, kind)):
            done = server.post({"code": "print('hello')"}, path=other + "/execute").json()
            assert (done["status"], done["stdout"]) == ("success", "hello\n"), done
            assert server.request("DELETE", other).status == 200
        server.wait_clean()
        finish(server)


def test_no_point_strikes_outside_of_tests(make_server):
    with Fault("server.create") as fault:
        server = make_server({**fault.env, "BERTH_TESTING": "0"})
        server.hello()
        assert not fault.struck()


def test_what_is_left_would_be_seen(make_server):
    """The look at the host itself: every kind of trace that it tells is told."""
    need("disk")
    server = make_server()
    server.hello()
    seen = " ".join(snapshot_tool.traces(server.state))
    for word in ("process", "mount", "namespace", "berth-native"):
        assert word in seen, seen
    stream = server.stream("print('on', flush=True)\nimport time; time.sleep(600)",
                           **KINDS["disk"])
    assert [next(stream)[0], next(stream)[0]][1] == "stdout"
    seen = " ".join(snapshot_tool.traces(server.state))
    for word in ("cgroup /sys", "lock /run", "loop device", "socket ", "berth-init", "user:[",
                 "net:["):
        assert word in seen, f"{word}: {seen}"
    stream.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_dies_with_its_monitor_after_making(make_server, kind):
    """Making a sandbox changes the engine's ids for a moment, which clears its death signal."""
    need(kind)
    server = make_server()
    assert server.post(hello(kind)).json()["stdout"] == "hello\n"
    engine = server.child("berth-native")
    server.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{engine}"), "the engine dies with it")
    server.start()
    finish(server)
