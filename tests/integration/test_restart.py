"""kill -9 of every part, at idle and under load: what died is started again, what ran has an honest
outcome, nothing is left, and other instances notice nothing."""
import http.client
import json
import os
import random
import signal
import threading
import time

import pytest

from harness import HANG_SECS, Server, cgroup_bases, wait_until

LONG = "print('on', flush=True)\nimport time; time.sleep({})\nprint('through')\n"


def served_again(server):
    """Requests are served after a restart; until then they wait, or fail in a clean way."""
    end = time.monotonic() + HANG_SECS
    while True:
        try:
            answer = server.post({"code": "print('hello')"})
            if answer.status == 200 and answer.json()["killed_by"] is None:
                assert answer.json()["stdout"] == "hello\n"
                return
            assert answer.status in (200, 503), answer
        except (ConnectionError, http.client.HTTPException, TimeoutError):
            pass
        assert time.monotonic() < end, "not served again\n" + server.log()
        time.sleep(0.05)


def begin(server, code):
    """Starts an execution by a stream; returns the stream and the id once the code has printed."""
    stream = server.stream(code)
    _, data = next(stream)
    assert next(stream)[0] == "stdout"
    return stream, data["execution_id"]


def outcome(server, name):
    return wait_until(lambda: (one := server.get(f"/executions/{name}").json())
                      ["status"] not in ("queued", "running") and one, "it has an outcome")


@pytest.mark.parametrize("program", ["berth-server", "berth-native"])
def test_a_dead_program_is_started_again(make_server, program):
    server = make_server()
    server.hello()
    old = server.child(program)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: server.children().get(program) not in (None, old), "it is started again")
    served_again(server)
    assert server.process.poll() is None
    server.wait_clean()


def test_requests_queue_while_the_server_restarts(make_server):
    """The monitor holds the listening socket: a connection waits instead of being refused."""
    server = make_server()
    server.hello()
    os.kill(server.child("berth-server"), signal.SIGKILL)
    with server.connect() as sock:  # no ConnectionRefusedError
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := sock.recv(4096):
            data += piece
    assert b" 200 " in data.split(b"\r\n")[0] or data == b"", data


def test_what_ran_when_the_server_died(make_server):
    server = make_server()
    stream, name = begin(server, LONG.format(600))
    os.kill(server.child("berth-server"), signal.SIGKILL)
    assert "end" not in [kind for kind, _ in stream], "a broken stream never looks whole"
    served_again(server)
    done = outcome(server, name)
    assert (done["killed_by"], done["status"]) == ("server", "killed")
    server.wait_clean()


def test_what_ran_when_the_engine_died(make_server):
    server = make_server()
    stream, name = begin(server, LONG.format(1.5))
    old = server.child("berth-native")
    os.kill(old, signal.SIGKILL)
    events = list(stream)
    assert events[-1][0] == "end", events
    assert (events[-1][1]["status"], events[-1][1]["killed_by"]) == ("success", None), events[-1]
    assert server.get(f"/executions/{name}").json()["stdout"] == "on\nthrough\n"
    wait_until(lambda: server.children().get("berth-native") not in (None, old), "a new engine")
    served_again(server)
    server.wait_clean()


def test_death_of_the_engine_while_sandboxes_are_made(make_server):
    server = make_server()
    server.hello()
    failed = []

    def client():
        for _ in range(15):
            answer = server.post({"code": "print(1)"})
            if answer.status != 200 or answer.json()["stdout"] != "1\n":
                failed.append(answer)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.2)
        os.kill(server.child("berth-native"), signal.SIGKILL)
    for thread in threads:
        thread.join(HANG_SECS)
    # A sandbox that was being made is made again; only one whose engine stays away is refused.
    assert not [one for one in failed if one.status not in (200, 503)], failed
    served_again(server)
    server.wait_clean()


def test_death_of_the_monitor_takes_all_with_it(make_server):
    server = make_server()
    stream, name = begin(server, LONG.format(600))
    children = list(server.children().values())
    assert len(children) == 3
    state, port = server.state, server.port
    server.kill()
    for pid in children:
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its children die with it")
    assert "end" not in [kind for kind, _ in stream]
    second = make_server(state=state, port=port)
    assert second.port == port
    second.hello()
    assert outcome(second, name)["killed_by"] == "server"
    second.wait_clean()


def test_death_of_all_at_once(make_server):
    server = make_server()
    stream, name = begin(server, LONG.format(600))
    stream2, name2 = begin(server, LONG.format(600))
    state, port = server.state, server.port
    for pid in server.children().values():
        os.kill(pid, signal.SIGKILL)
    server.kill()
    second = make_server(state=state, port=port)
    second.hello()
    assert {outcome(second, one)["killed_by"] for one in (name, name2)} == {"server"}
    second.wait_clean()
    stream.close()
    stream2.close()


def test_outcomes_survive_a_restart(make_server):
    server = make_server()
    done = server.execute("print('kept')", headers={"Idempotency-Key": "k1"})
    state = server.state
    assert server.stop() == 0
    second = make_server(state=state)
    assert second.get(f"/executions/{done['execution_id']}").json() == done
    assert second.execute("print('again')", headers={"Idempotency-Key": "k1"}) == done


def test_a_second_server_on_the_same_state_is_refused(make_server):
    server = make_server()
    second = Server(state=server.state)  # not one of make_server: the state stays the first one's
    with pytest.raises(AssertionError, match="another berth"):
        second.start()
    assert second.process.wait(HANG_SECS) == 1
    second.process.stdout.close()
    second.process = None
    server.hello()


@pytest.mark.parametrize("name, value, words", [
    ("BERTH_MAX_SANDBOXES", "0", "from 1 to 2048"), ("BERTH_RAM", "lots", "a size such as 512MiB"),
    ("BERTH_CGROUP", "here", "a path from the root")])
def test_a_wrong_setting_is_said_once(name, value, words):
    """The server is not started again and again to say the same: status 2 ends all of it."""
    server = Server(env={name: value})
    try:
        with pytest.raises(AssertionError, match="no ready line"):
            server.start()
        assert server.process.wait(HANG_SECS) == 2
        said = [line for line in server.log().splitlines() if name in line]
        assert len(said) == 1 and words in said[0], server.log()
        assert "started again" not in server.log().replace("not started again", ""), server.log()
        assert not cgroup_bases(server.instance), "the engine was told to end while it began"
    finally:
        server.remove()


def test_two_instances_side_by_side(make_server):
    """Neither the start nor the sweep nor the end of one touches the other's sandboxes."""
    one, two = make_server(), make_server()
    assert one.instance != two.instance
    stream, _ = begin(one, LONG.format(4))
    stream_two, name_two = begin(two, LONG.format(600))
    os.kill(two.child("berth-server"), signal.SIGKILL)
    os.kill(two.child("berth-native"), signal.SIGKILL)
    served_again(two)
    assert outcome(two, name_two)["killed_by"] == "server"
    state = two.state
    assert two.stop() == 0
    make_server(state=state).hello()
    events = list(stream)
    assert events[-1][0] == "end" and events[-1][1]["status"] == "success", events[-1]
    stream_two.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(make_server, number):
    server = make_server()
    stream, name = begin(server, LONG.format(600))
    state = server.state
    assert server.stop(number) == 0, server.log()

    def left():  # nobody is there to remove it: only what is just ending may still be seen
        return [one for one in server.leftovers() if "cgroup" in one or "process" in one]

    wait_until(lambda: not left(), left)
    events = list(stream)
    assert events[-1][0] != "end" or events[-1][1]["killed_by"] in ("server", "user")
    second = make_server(state=state)
    done = outcome(second, name)
    assert done["status"] == "killed" and done["killed_by"] in ("server", "user"), done


def test_sigterm_lets_a_short_answer_out(make_server):
    """A request that is nearly through is answered before the server goes."""
    server = make_server()
    answers = []
    thread = threading.Thread(daemon=True, target=lambda: answers.append(
        server.post({"code": "import time; time.sleep(1); print('through')"})))
    thread.start()
    wait_until(server.code_pids, "the code runs")
    assert server.stop() == 0
    thread.join(HANG_SECS)
    assert answers and answers[0].status == 200, answers


class Load:
    """Clients that call without a pause, and check what they are told. They end with the block."""

    def __init__(self, server, threads=4):
        self.server = server
        self.over = threading.Event()
        self.wrong = []
        self.served = 0
        self.known = []
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self):
        number = 0
        while not self.over.is_set():
            number += 1
            try:
                answer = self.server.post({"code": f"print({number})"})
            except (ConnectionError, http.client.HTTPException, TimeoutError):
                time.sleep(0.01)
                continue
            try:
                self.check(answer, number)
            except (AssertionError, KeyError, json.JSONDecodeError) as problem:
                self.wrong.append((repr(problem), answer))

    def check(self, answer, number):
        assert answer.status in (200, 503), answer.status
        if answer.status == 503:
            assert answer.headers["Retry-After"]
            return
        done = answer.json()
        self.known.append(done)
        if done["killed_by"] is None:
            assert (done["stdout"], done["exit_code"]) == (f"{number}\n", 0), "a wrong outcome"
            self.served += 1
        else:
            assert done["killed_by"] in ("server", "user"), "a wrong cause"

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.over.set()

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(HANG_SECS)
            assert not thread.is_alive(), "a client hangs"


def test_thirty_random_kills_under_load(make_server):
    server = make_server()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    with Load(server) as load:
        for _ in range(30):
            time.sleep(dice.uniform(0.0, 0.4))
            victims = dice.choice([("berth-server",), ("berth-native",),
                                   ("berth-server", "berth-native"), ("init",)])
            pids = [pid for name, pid in server.children().items() if name in victims]
            if victims == ("init",):
                pids = list(server.inits().values())[:1]
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        time.sleep(0.5)
        load.stop()
    assert not load.wrong, load.wrong[:5]
    assert load.served > 0
    served_again(server)
    server.wait_clean()
    for done in load.known[-50:]:  # what a client was told is what is kept
        assert server.get(f"/executions/{done['execution_id']}").json() == done


def test_kills_of_the_monitor_under_load(make_server):
    server = make_server()
    state, port = server.state, server.port
    with Load(server) as load:
        for _ in range(4):
            time.sleep(0.5)
            server.kill()
            server = make_server(state=state, port=port)
            load.server = server
        time.sleep(0.5)
        load.stop()
    assert not load.wrong, load.wrong[:5]
    served_again(server)
    server.wait_clean()
