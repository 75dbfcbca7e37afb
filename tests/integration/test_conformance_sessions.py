"""What every engine has to do with sessions: state, files, streams, ends of each kind, and the deaths of
server, engine and monitor around them. The fake engine is part of the server's process: its sandboxes
end with it, so only the deaths of others are tried there."""
import json
import time

import pytest

import harness
import ways
from harness import assert_error, wait_until
from sessions import Session, in_background

SET = ("x = 41", "set x 41")
SHOW = ("print(x)", "get x")
BUSY = ("print('on', flush=True)\nimport time; time.sleep(600)", "out on\nsleep 600000")
LATER = ("import time\nprint('begun', flush=True)\ntime.sleep(2)\nprint('ended')\nx = 7",
         "out begun\nsleep 2000\nout ended\nset x 7")


@pytest.fixture
def session(subject):
    one = Session(subject.server)
    yield one
    if one.get().status == 200:
        one.delete()


def has_said(server, name, text):
    """Waits until the code of an execution has written a line."""
    wait_until(lambda: f'"text":"{text}'.encode() in
               server.get(f"/executions/{name}/events?follow=0").body, f"the code says {text}")


@pytest.mark.every_way("podman")
def test_state_is_kept(subject, session):
    assert session.run(subject.say(SET))["status"] == "success"
    done = session.run(subject.say(SHOW))
    assert (done["stdout"], done["state"]) == ("41\n", "kept"), done


def test_two_sessions_share_nothing(subject, session):
    other = Session(subject.server)
    session.run(subject.say(SET))
    done = other.run(subject.say(SHOW))
    assert (done["status"], done["error"]["name"]) == ("error", "NameError"), done
    assert session.run(subject.say(SHOW))["stdout"] == "41\n"
    other.delete()


@pytest.mark.every_way
def test_files_go_in_and_out(subject, session):
    body = bytes(range(256)) * 4096
    path = session.path + "/files?path=data.bin"
    assert subject.server.request("PUT", path, body).status == 200
    assert subject.server.get(path).body == body
    assert_error(subject.server.get(session.path + "/files?path=absent"), 404)
    if not subject.fake:  # whose files are of its own
        done = session.run("import hashlib; d = open('data.bin', 'rb').read()\nlen(d), sum(d)")
        assert done["results"] == [{"text/plain": str((len(body), sum(body)))}]
        session.run("open('made', 'w').write('by the code')")
        assert subject.server.get(session.path + "/files?path=made").body == b"by the code"


@pytest.mark.every_way
def test_an_interrupt_keeps_the_state(subject, session):
    session.run(subject.say(SET))
    call = in_background(lambda: session.run(subject.say(BUSY)))
    started = session.running()
    has_said(subject.server, started, "on")
    assert subject.server.request("POST", session.path + "/interrupt").status == 200
    done = call()
    assert (done["status"], done["killed_by"], done["state"]) == ("error", None, "kept"), done
    assert done["error"]["name"] == "KeyboardInterrupt"
    assert session.run(subject.say(SHOW))["stdout"] == "41\n"


def test_a_timeout_keeps_the_state(subject, session):
    session.run(subject.say(SET))
    done = session.run(subject.say(BUSY), timeout=1)
    assert (done["status"], done["killed_by"], done["state"]) == ("timeout", "timeout", "kept"), done
    assert session.run(subject.say(SHOW))["stdout"] == "41\n"


@pytest.mark.every_way
def test_code_that_ends_its_kernel(subject, session):
    session.run(subject.say(SET))
    done = session.run(subject.say(("import os; os.kill(os.getpid(), 9)", "signal 9")))
    assert (done["killed_by"], done["exit_code"], done["state"]) == ("signal", 137, "lost"), done
    assert session.run(subject.say(SHOW))["error"]["name"] == "NameError"


@pytest.mark.every_way
def test_oom_in_a_session(subject):
    one = Session(subject.server, resources=subject.small())
    done = one.run(subject.say(("x = bytearray(1 << 30)", "oom")))
    assert (done["killed_by"], done["limits_hit"]) == ("oom", ["memory"]), done
    if one.get().status == 200:  # its sandbox may have gone with it, or go on with a new kernel
        one.delete()


def test_a_stream_comes_as_it_is_written(subject, session):
    stream = harness.Stream(subject.server, {"code": subject.say(LATER)}, "application/x-ndjson",
                            path=session.path + "/execute")
    kind, started = next(stream)
    assert kind == "started"
    kind, first = next(stream)
    assert kind == "stdout"
    name = started["execution_id"]
    assert subject.server.get(f"/executions/{name}").json()["status"] == "running"
    rest = list(stream)
    texts = [data["text"] for kind, data in rest if kind == "stdout"]
    assert first["text"] + "".join(texts) == "begun\nended\n", rest
    assert rest[-1][0] == "end" and rest[-1][1]["status"] == "success", rest


def test_idle_time_ends_it(subject):
    one = Session(subject.server, idle_timeout=1)
    one.run(subject.say(SET))
    wait_until(lambda: one.get().status == 404, "it has ended")
    subject.wait_clean()


@pytest.mark.every_way
def test_delete_ends_what_runs(subject, session):
    call = in_background(lambda: session.post(subject.say(BUSY)))
    session.running()
    session.delete()
    answer = call()
    assert answer.status == 200, answer
    assert (answer.json()["status"], answer.json()["killed_by"]) == ("killed", "user"), answer
    subject.wait_clean()


# ---- deaths ----


def ended(sessions):
    wait_until(lambda: all(one.get().status == 404 for one in sessions), "the sessions have ended")


@pytest.mark.every_way
@pytest.mark.not_on("fake")  # it dies with the server
@pytest.mark.parametrize("which", ["server", "engine", "monitor"])
def test_sessions_outlive(make_subject, which):
    subject = make_subject()
    program = {"server": "berth-server", "engine": subject.program, "monitor": "monitor"}[which]
    sessions = [Session(subject.server) for _ in range(3)]
    for number, one in enumerate(sessions):
        one.run(f"x = {number}")
    ways.kill_program(subject.server, program)
    if which != "server" and not subject.outlives:
        ended(sessions)
        subject.wait_clean()
        return
    assert sorted(subject.server.get("/sessions").json()["sessions"]) == sorted(
        one.id for one in sessions)
    for number, one in enumerate(sessions):
        assert one.run("x")["results"] == [{"text/plain": str(number)}], subject.server.log()
        one.delete()
    subject.wait_clean()


@pytest.mark.every_way
@pytest.mark.not_on("fake")
@pytest.mark.parametrize("which", ["server", "monitor"])
def test_what_runs_ends_with_its_result(make_subject, which):
    subject = make_subject()
    one = Session(subject.server)

    def ask():
        try:
            return one.post(subject.say(LATER))
        except OSError:
            return None

    in_background(ask)
    name = one.running()
    has_said(subject.server, name, "begun")
    ways.kill_program(subject.server, {"server": "berth-server", "monitor": "monitor"}[which])
    done = wait_until(lambda: (found := subject.server.get(f"/executions/{name}").json())
                      ["status"] not in ("queued", "running") and found, "it has an outcome")
    if which != "server" and not subject.outlives:
        assert (done["status"], done["killed_by"]) == ("killed", "server"), done
        ended([one])
    else:
        assert (done["status"], done["stdout"]) == ("success", "begun\nended\n"), done
        assert one.run("x")["results"] == [{"text/plain": "7"}]
        one.delete()
    subject.wait_clean()


@pytest.mark.every_way("podman")
@pytest.mark.not_on("fake")  # its sandboxes are threads
def test_a_sandbox_that_dies_is_said_to_have_died(make_subject):
    subject = make_subject()
    one = Session(subject.server)
    one.run("x = 1")
    call = in_background(lambda: one.post("import time; time.sleep(600)"))
    one.running()
    subject.kill_sandboxes()
    answer = call()
    assert answer.status == 200, answer
    done = answer.json()
    assert (done["status"], done["killed_by"], done["exit_code"]) == ("killed", "server", 137), done
    wait_until(lambda: one.get().status == 404, "the session has ended")
    subject.wait_clean()
    subject.server.hello()


@pytest.mark.every_way
@pytest.mark.not_on("fake")
def test_all_at_once_and_nothing_is_left(make_subject):
    """Sessions and executions of which each part dies in turn; then all is deleted."""
    subject = make_subject()
    sessions = [Session(subject.server) for _ in range(2)]
    for program in (subject.program, "berth-server"):
        stream = subject.server.stream(subject.say(LATER))
        name = next(stream)[1]["execution_id"]
        kind, first = next(stream)
        assert kind == "stdout" and "begun\n".startswith(first["text"]), first
        ways.kill_program(subject.server, program)
        ends = [data for kind, data in stream if kind == "end"]
        done = wait_until(lambda: (found := subject.server.get(f"/executions/{name}").json())
                          ["status"] not in ("queued", "running") and found, "it has an outcome")
        assert (done["status"], done["killed_by"]) in (("success", None), ("killed", "server")), done
        if done["status"] == "success":
            assert done["stdout"] == "begun\nended\n", done
        else:
            assert "begun\n".startswith(done["stdout"]), done
        assert [one["status"] for one in ends] in ([done["status"]], []), (ends, done)
        assert ends or program == "berth-server", "the server lived, and the stream has no end"
    if not subject.outlives:
        ended(sessions)
    for one in sessions if subject.outlives else []:
        assert one.run("print(1 + 1)")["stdout"] == "2\n"
        assert json.loads(subject.server.request("DELETE", one.path).body)["status"] == "closed"
    subject.wait_clean()
