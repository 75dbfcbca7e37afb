"""Sessions when things happen at the same moment: keys and restarts, renewal and expiry, many
renewals, a kernel that goes deaf. BERTH_SOAK=1 (`make soak`) races renewal and expiry 1000 times."""
import os
import random
import signal
import threading
import time

import pytest

from harness import assert_error, at_once, wait_until
from kills import SOAK
from sessions import Session, in_background
from test_sessions import answers_again

RACES = 1000 if SOAK else 96
RACERS = 12
SHORT_SECS = 0.1  # a time that is about to end
LONG_SECS = 900
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


# ---- renewal and expiry ----

class Moment:
    """When to act, from the start of a short time on: where both outcomes are about as likely on
    this machine now. It goes later while sessions are found alive, else earlier; by longer steps once
    none of those under way has turned."""

    def __init__(self):
        self.lock = threading.Lock()
        self.secs, self.same, self.alive_last = SHORT_SECS, 0, None
        self.counts = {True: 0, False: 0}

    def wait_secs(self):
        with self.lock:
            return max(0.0, self.secs + random.uniform(-0.002, 0.002))

    def saw(self, alive):
        with self.lock:
            self.counts[alive] += 1
            self.same = self.same + 1 if alive == self.alive_last else 0
            step = 0.001 * 2 ** min(self.same // RACERS, 10)
            self.secs = max(0.0, self.secs + (step if alive else -step))
            self.alive_last = alive


def renew(session, **times):
    answer = session.server.post(times, path=session.path + "/renew")
    assert answer.status in (200, 404), answer
    return answer.status == 200


def by_lifetime(session, moment):
    assert renew(session, timeout=SHORT_SECS)
    time.sleep(moment.wait_secs())
    return renew(session, timeout=LONG_SECS)


def by_idleness(session, moment):
    assert renew(session, idle_timeout=SHORT_SECS)
    time.sleep(moment.wait_secs())
    return renew(session, idle_timeout=LONG_SECS)


def by_code(session, moment):
    """Code that runs is use: it finds a session that is gone, or was lost on its way to one (which
    is an outcome then, since it might have run), or it runs to its end."""
    assert renew(session, idle_timeout=SHORT_SECS)
    time.sleep(moment.wait_secs())
    answer = session.post(f"import time; print('on', flush=True); time.sleep({1.5 * SHORT_SECS}); 'ran'")
    if answer.status == 404:
        return False
    assert answer.status == 200, answer
    done = answer.json()
    if done["killed_by"] == "server":
        assert (done["stdout"], done["state"]) == ("", "lost"), done
        return False
    assert done["results"] == [{"text/plain": "'ran'"}], done
    renew(session, idle_timeout=LONG_SECS)  # its idleness began anew, and is raced no more
    return True


def race(server, kind, moment, take_number, gone):
    """One racer: a session, raced until it is lost, then the next one."""
    session, marked = None, None
    while (number := take_number()) is not None:
        if session is None:
            session, marked = Session(server, timeout=LONG_SECS, idle_timeout=LONG_SECS), number
            session.run(f"mark = {marked}")
        alive = kind(session, moment)
        moment.saw(alive)
        if alive and kind is not by_code:
            time.sleep(SHORT_SECS)  # what was to be its end is over
            done = session.run("mark")
            assert done["results"] == [{"text/plain": str(marked)}], done
        elif alive:
            alive = session.get().status == 200
        if not alive:
            gone.append(session)
            wait_until(lambda session=session: session.get().status == 404, "it is gone")
            session = None
    if session:
        session.delete()


@pytest.mark.parametrize("kind", [by_lifetime, by_idleness, by_code])
def test_expiry_is_raced(make_server, kind):
    """What is renewed in time is never lost; what has ended never stays."""
    server, moment, gone = make_server(), Moment(), []
    numbers, lock = iter(range(RACES)), threading.Lock()

    def take_number():
        with lock:
            return next(numbers, None)

    at_once([lambda: race(server, kind, moment, take_number, gone)] * RACERS)
    print(f"{kind.__name__}: alive {moment.counts[True]}, gone {moment.counts[False]}, "
          f"{1000 * moment.secs:.1f} ms")
    assert sum(moment.counts.values()) == RACES and all(moment.counts.values()), moment.counts
    for session in gone:
        assert_error(session.get(), 404)
    assert server.get("/sessions").json() == {"sessions": []}
    server.wait_clean()


def test_renewals_of_different_length_at_once(make_server):
    """The last of them holds, and is what the session says of itself."""
    server = make_server()
    sessions = [Session(server, timeout=LONG_SECS) for _ in range(8)]
    for _ in range(10 if SOAK else 4):
        at_once([lambda s=s, secs=secs: renew(s, timeout=secs)
                 for s in sessions for secs in (SHORT_SECS, LONG_SECS)])
        said = [session.get() for session in sessions]
        time.sleep(2 * SHORT_SECS)
        for i, session in enumerate(sessions):
            if said[i].status == 200 and said[i].json()["timeout"] == LONG_SECS:
                assert session.run("1")["status"] == "success"
            else:
                wait_until(lambda session=session: session.get().status == 404, "it is gone")
                sessions[i] = Session(server, timeout=LONG_SECS)
    for session in sessions:
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
