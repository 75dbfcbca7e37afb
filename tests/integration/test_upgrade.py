"""Sessions of the previous build under this one's server and engine: their inits and kernels are older
than what speaks with them. BERTH_PREVIOUS is the build folder of the older one; `make test-upgrade`
makes it. Without it this file is not collected (tests/conftest.py)."""
import os
import pathlib

import pytest

from faults import assert_nothing_left
from harness import SLOW, Server, wait_until
from test_sessions import Session, answers_again, in_background

PREVIOUS = pathlib.Path(os.environ.get("BERTH_PREVIOUS") or ".").resolve()


def upgrade(server, how):
    """Ends the previous build in one of the ways in which it ends, and starts this one."""
    if how == "stop":
        assert server.stop() == 0, server.log()
    else:
        server.kill()
    server.folder = Server.folder
    server.start()
    answers_again(server)


def run_quietly(session, code):
    try:
        return session.post(code)
    except OSError:
        return None  # the server went away under it


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("pool_max", [0, 4])
def test_sessions_outlive_an_upgrade(make_server, how, pool_max):
    server = make_server({"BERTH_POOL_MAX": str(pool_max)}, start=False)
    server.folder = PREVIOUS
    server.start()
    sessions = [Session(server, env={"MINE": str(i)}) for i in range(3)]
    for i, session in enumerate(sessions):
        session.run(f"import os\nx = {i}\nopen('/workspace/f', 'w').write('kept {i}'); None")
    in_background(lambda: run_quietly(
        sessions[2], f"import time\nprint('begun', flush=True)\ntime.sleep({2 * SLOW})\ny = 7\ny"))
    running = sessions[2].running()
    wait_until(lambda: server.get(f"/executions/{running}").json()["status"] == "running", "it runs")
    upgrade(server, how)
    assert server.get("/sessions").json()["sessions"] == [s.id for s in sessions]
    for i, session in enumerate(sessions):
        done = session.run("print(open('/workspace/f').read(), os.environ['MINE'])\nx")
        assert (done["stdout"], done["state"]) == (f"kept {i} {i}\n", "kept"), done
        assert done["results"] == [{"text/plain": str(i)}], done
    done = server.get(f"/executions/{running}").json()
    assert (done["status"], done["stdout"]) == ("success", "begun\n"), done
    assert sessions[2].run("y")["results"] == [{"text/plain": "7"}]
    use_it(server, sessions[0])
    server.hello()
    fresh = Session(server)
    assert fresh.run("1 + 1")["results"] == [{"text/plain": "2"}]
    for session in [*sessions, fresh]:
        session.delete()
    assert server.stop() == 0, server.log()
    assert_nothing_left(server.state)


def use_it(server, session):
    """All that a client can do in a session."""
    data = b"new" * 100000
    assert server.request("PUT", session.path + "/files?path=g", data).status < 300
    assert server.get(session.path + "/files?path=g").body == data
    assert session.run("print(len(open('g').read()))")["stdout"] == "300000\n"
    renewed = server.post({"timeout": 100, "idle_timeout": 50}, path=session.path + "/renew").json()
    assert (renewed["timeout"], renewed["idle_timeout"]) == (100, 50)
    answer = in_background(lambda: session.run("while True: pass"))
    session.running()
    server.post({}, path=session.path + "/interrupt")
    done = answer()
    assert (done["error"]["name"], done["state"]) == ("KeyboardInterrupt", "kept"), done
    done = session.run("while True: pass", timeout=0.3)
    assert (done["killed_by"], done["state"]) == ("timeout", "kept"), done
    done = session.run("import os; os._exit(3)")
    assert (done["exit_code"], done["state"]) == (3, "lost"), done
    assert session.run("print(open('/workspace/f').read())")["stdout"] == "kept 0\n"
