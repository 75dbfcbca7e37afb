"""Sessions when things happen at the same moment: keys and restarts, many renewals, a kernel that
goes deaf."""
import os
import signal
import time

from harness import assert_error, at_once, wait_until
from test_sessions import Session, answers_again, in_background

CODE = "import time\nprint('a', flush=True)\ntime.sleep(2)\nprint('b')"


def keyed(session):
    try:
        return session.server.post({"code": CODE}, path=session.path + "/execute",
                                   headers={"Idempotency-Key": "k"})
    except OSError:
        return None


def begin(session):
    """Starts the code under its key; returns its id, when it runs, and the call's end."""
    call = in_background(lambda: keyed(session))
    execution_id = session.running()
    wait_until(lambda: session.server.get(f"/executions/{execution_id}").json()["status"] ==
               "running", "it runs")
    return execution_id, call


def test_a_key_over_a_kill(make_server):
    """Asked again before the next server has taken the execution over: it is waited for."""
    server = make_server()
    session = Session(server)
    execution_id, _ = begin(session)
    os.kill(server.child("berth-server"), signal.SIGKILL)
    answer = wait_until(lambda: keyed(session), "it is answered", step_secs=0.002)
    done = answer.json()
    assert done["execution_id"] == execution_id
    assert (done["status"], done["stdout"]) == ("success", "a\nb\n"), done
    session.delete()


def test_a_key_over_a_stop(make_server):
    server = make_server()
    session = Session(server)
    execution_id, first = begin(session)
    again = in_background(lambda: keyed(session))
    time.sleep(0.2)
    assert server.stop() == 0
    for call in (first, again):
        answer = call()
        if answer is not None:
            assert_error(answer, 503)
    server.start()
    answers_again(server)
    done = wait_until(lambda: [one for one in [server.get(f"/executions/{execution_id}").json()]
                               if one["status"] != "running"], "it ends")[0]
    assert (done["status"], done["stdout"]) == ("success", "a\nb\n"), done
    session.delete()


def test_many_renewals_at_once(server):
    session = Session(server)
    for _ in range(4):
        answers = at_once([lambda: server.post({}, path=session.path + "/renew")] * 24)
        assert {answer.status for answer in answers} == {200}, answers
    session.delete()


def test_a_kernel_that_goes_deaf(server):
    """It shuts its socket to init and stops itself: it is replaced."""
    session = Session(server)
    session.run("import os, threading, socket, signal\n"
                "def deaf():\n"
                "    for n in os.listdir('/proc/self/fd'):\n"
                "        try:\n"
                "            if int(n) > 2 and 'socket' in os.readlink('/proc/self/fd/' + n):\n"
                "                socket.socket(fileno=os.dup(int(n))).shutdown(2)\n"
                "        except OSError: pass\n"
                "    os.kill(os.getpid(), signal.SIGSTOP)\n"
                "threading.Timer(0.05, deaf).start()")
    time.sleep(0.1)
    session.post("print('lost')", timeout=3)
    done = session.run("print('next')")
    assert (done["stdout"], done["exit_code"]) == ("next\n", 0), done
    session.delete()


def test_idle_from_the_first_moment(server):
    for _ in range(4):
        answer = server.post({"idle_timeout": 0.001}, path="/sessions")
        assert answer.status in (200, 404, 503), answer
    wait_until(lambda: server.get("/sessions").json()["sessions"] == [], "they are gone")
    server.wait_clean()
