"""SIGKILL to the server, the engine, its zygote or all of berth (now and then a clean stop) at a random
moment, under a load of sessions that are made, used and ended: one that was acknowledged is there with
its variables and files until it is deleted, what ran has one outcome, no code runs twice, and nothing
is left on the host.

A short form runs with the suites; BERTH_SOAK=1 (`make soak`) makes it 100 kills. BERTH_SEED=N repeats
the choices of a run, whose seed is printed; moments differ."""
import http.client
import json
import random
import threading
import time
import uuid

import pytest

from faults import Fault, assert_nothing_left
from harness import HANG_SECS, Stream, at_rest, cgroup_bases, read, wait_until
from kills import SOAK, counts, end, served, settle

KILLS = 100 if SOAK else 16
EXECUTED = 300 if SOAK else 24  # in sessions, at the least: a slow machine gets more kills, or time
BATCH = 10 if SOAK else 8
OWNERS = 6
SESSIONS_EACH = 3
BROKEN = (OSError, http.client.HTTPException)
NDJSON = "application/x-ndjson"
OVER = ("success", "error", "timeout", "killed")


class Wrong(Exception):
    """berth broke a promise."""


def require(holds, what, *more):
    if not holds:
        raise Wrong(f"{what}: {more}")


class Asker:
    """Asks as a client has to whose server may die: again, until there is an answer."""

    def __init__(self, server, counted):
        self.server, self.counted = server, counted

    def once(self, method, path, body=None, headers=None):
        """An answer, or None when the connection broke. A hang is wrong."""
        data = json.dumps(body) if isinstance(body, dict) else body
        kind = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
        try:
            answer = self.server.request(method, path, data, {**kind, **(headers or {})})
        except TimeoutError:
            raise Wrong(f"{method} {path}: no answer") from None
        except BROKEN:
            self.counted["broken"] += 1
            time.sleep(0.01)
            return None
        if answer.status == 503:
            require(answer.headers["Retry-After"], "503 that does not say when", answer)
            self.counted["refused"] += 1
            time.sleep(0.02)
            return None
        return answer

    def until_answered(self, method, path, body=None, headers=None):
        limit = time.monotonic() + 2 * HANG_SECS
        while time.monotonic() < limit:
            answer = self.once(method, path, body, headers)
            if answer:
                return answer
        raise Wrong(f"{method} {path}: refused for good")

    def outcome(self, execution_id):
        """What an execution whose id is known came to."""
        limit = time.monotonic() + 2 * HANG_SECS
        while time.monotonic() < limit:
            answer = self.until_answered("GET", f"/executions/{execution_id}")
            require(answer.status == 200, "an execution whose id was told is unknown", answer)
            if answer.json()["status"] in OVER:
                return answer.json()
            time.sleep(0.02)
        raise Wrong(f"execution {execution_id} never ends")


class Owned:
    """An acknowledged session, and what has to be in it."""

    def __init__(self, asker, session_id):
        self.asker, self.id = asker, session_id
        self.path = f"/sessions/{session_id}"
        self.values = {None}  # what n may be; None: there is none
        self.files = {}

    def count(self, dice):
        """Adds one to n. Kinds: asked again under a key, streamed, or left alone when it breaks."""
        pause = dice.choice((0, 0, 0, 0.05, 0.3))
        code = ("import time\nn = globals().get('n', 0) + 1\nprint('n is', n, flush=True)\n"
                f"time.sleep({pause})\nprint('x' * {dice.choice((0, 10, 100000))})\nn")
        kind = dice.choice((self.keyed, self.streamed, self.careless))
        done = kind(code)
        if done is None:  # nobody knows
            self.values |= {(value or 0) + 1 for value in self.values}
            self.look()
            return
        self.take(done)

    def take(self, done):
        if done["killed_by"] == "server":
            self.asker.counted["killed"] += 1
            require((done["status"], done["exit_code"]) == ("killed", 137), "a wrong outcome", done)
            self.values |= {(value or 0) + 1 for value in self.values}
            self.look()
            return
        require(done["status"] == "success" and done["state"] == "kept", "a wrong outcome", done)
        self.asker.counted["executed"] += 1
        value = int(done["results"][0]["text/plain"])
        require(value in {(old or 0) + 1 for old in self.values}, "a lost or repeated run",
                self.values, done)
        require(done["stdout"].startswith(f"n is {value}\n"), "a wrong output", done)
        self.values = {value}

    def keyed(self, code):
        answer = self.asker.until_answered("POST", self.path + "/execute", {"code": code},
                                           {"Idempotency-Key": str(uuid.uuid4())})
        require(answer.status == 200, "a session is lost", answer)
        return answer.json()

    def careless(self, code):
        answer = self.asker.once("POST", self.path + "/execute", {"code": code})
        require(not answer or answer.status == 200, "a session is lost", answer)
        return answer.json() if answer else None

    def streamed(self, code):
        """Reads the outcome by the id when the stream broke after it."""
        name = None
        try:
            stream = Stream(self.asker.server, {"code": code}, NDJSON, path=self.path + "/execute")
            require(stream.status in (200, 503), "a session is lost", stream.status)
            for event, data in stream if stream.status == 200 else ():
                name = data["execution_id"] if event == "started" else name
            stream.close()
        except TimeoutError:
            raise Wrong("a stream hangs") from None
        except BROKEN + (json.JSONDecodeError,):
            pass
        return self.asker.outcome(name) if name else None

    def look(self):
        """n is what it has to be, and is known from here on."""
        while True:
            answer = self.asker.until_answered(
                "POST", self.path + "/execute", {"code": "globals().get('n')"},
                {"Idempotency-Key": str(uuid.uuid4())})
            require(answer.status == 200, "a session is lost", answer)
            done = answer.json()
            if done["killed_by"] != "server":
                break
            self.asker.counted["killed"] += 1
        require(done["status"] == "success" and done["state"] == "kept", "a wrong outcome", done)
        value = int(done["results"][0]["text/plain"]) if done["results"] else None
        require(value in self.values, "variables are lost", self.values, done)
        self.values = {value}

    def put(self, dice):
        name, content = f"f{dice.randrange(3)}", dice.randbytes(dice.choice((10, 5000, 400000)))
        answer = self.asker.once("PUT", f"{self.path}/files?path={name}", content)
        self.files.pop(name, None)
        if answer:
            require(answer.status < 300, "a file is refused", answer)
            self.files[name] = content

    def get(self, dice):
        if not self.files:
            return
        name = dice.choice(sorted(self.files))
        answer = self.asker.until_answered("GET", f"{self.path}/files?path={name}")
        require(answer.status == 200 and answer.body == self.files[name], "a file is lost",
                name, answer)

    def renew(self, dice):
        answer = self.asker.until_answered(
            "POST", self.path + "/renew", {"timeout": dice.choice((600, 1000))})
        require(answer.status == 200, "a session is lost", answer)

    def is_listed(self, dice):
        answer = self.asker.until_answered("GET", "/sessions")
        require(self.id in answer.json()["sessions"], "a session is not listed", self.id, answer)

    def delete(self):
        first = self.asker.once("DELETE", self.path)
        answer = first or self.asker.until_answered("DELETE", self.path)
        require(answer.status == 200 or (first is None and answer.status == 404), "a session is lost",
                answer)
        gone = self.asker.until_answered("GET", self.path)
        require(gone.status == 404, "a deleted session is there", gone)


class Owner:
    """One client with sessions of its own, in a thread. It stops at the first thing that is
    wrong."""

    def __init__(self, server, dice):
        self.counted = {"made": 0, "executed": 0, "once": 0, "once_killed": 0, "deleted": 0,
                        "killed": 0, "refused": 0, "broken": 0}
        self.asker = Asker(server, self.counted)
        self.dice = random.Random(dice.random())
        self.sessions, self.wrong = [], None
        self.over, self.may_run, self.idle = (threading.Event() for _ in range(3))
        self.may_run.set()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while not self.over.is_set():
                if self.may_run.is_set():
                    self.step()
                else:
                    self.idle.set()
                    self.may_run.wait(1)
        except Exception as problem:  # noqa: BLE001: the test's own thread reports it
            self.wrong = problem
        self.idle.set()

    def step(self):
        dice = self.dice
        chance = dice.random()
        if len(self.sessions) < SESSIONS_EACH and (not self.sessions or chance < 0.3):
            self.make()
        elif chance < 0.4:
            self.execute()
        elif chance < 0.48:
            session = dice.choice(self.sessions)
            session.delete()  # it stays ours when that fails
            self.sessions.remove(session)
            self.counted["deleted"] += 1
        else:
            one = dice.choice(self.sessions)
            dice.choice((one.count, one.count, one.count, one.put, one.get, one.renew,
                         one.is_listed))(dice)

    def make(self):
        body = {"timeout": 900, "idle_timeout": 900}
        if self.dice.random() < 0.6:
            answer = self.asker.until_answered("POST", "/sessions", body,
                                               {"Idempotency-Key": str(uuid.uuid4())})
        else:  # one that nobody was told of may be left, until the batch ends
            answer = self.asker.once("POST", "/sessions", body)
        if answer:
            require(answer.status == 200, "a session is refused", answer)
            self.sessions.append(Owned(self.asker, answer.json()["session_id"]))
            self.counted["made"] += 1

    def execute(self):
        """Outside of any session, read by its id when the stream breaks."""
        name, pause = None, self.dice.choice((0, 0.3))
        body = {"code": f"import time\nprint('on', flush=True)\ntime.sleep({pause})\nprint('off')"}
        try:
            stream = Stream(self.asker.server, body, NDJSON)
            for event, data in stream if stream.status == 200 else ():
                name = data["execution_id"] if event == "started" else name
            stream.close()
        except TimeoutError:
            raise Wrong("a stream hangs") from None
        except BROKEN + (json.JSONDecodeError,):
            pass
        if not name:
            return
        done = self.asker.outcome(name)
        if done["killed_by"] == "server":
            require((done["status"], done["exit_code"]) == ("killed", 137), "a wrong outcome", done)
            self.counted["once_killed"] += 1
        else:
            require((done["status"], done["stdout"]) == ("success", "on\noff\n"), "a wrong outcome",
                    done)
            self.counted["once"] += 1

    def stop(self):
        self.over.set()
        self.may_run.set()
        self.thread.join(4 * HANG_SECS)
        assert not self.thread.is_alive(), "a client hangs"


def zygote(server):
    """The process of which the engine forks kernels, or one of its children on their way."""
    for base in cgroup_bases(server.instance):
        pids = read(base / "zygote.python" / "cgroup.procs").split()
        if pids:
            return int(pids[-1])
    return 1 << 22


def strike(server, dice, ended):
    """Ends one or two processes; whether it did. At times so soon after the one before that what was
    ended still takes over what it finds."""
    time.sleep(dice.uniform(0.0, dice.choice((0.06, 0.6, 1.5))))
    names = ["server", "server", "native", "both", "monitor", "stop"]
    name = dice.choice(names + ["zygote"] * (2 if "BERTH_ZYGOTE" in server.env else 0))
    if name == "monitor":
        server.kill()
        server.start()
    elif name == "stop":  # a clean end is no better, nor worse
        assert server.stop() == 0, server.log()
        server.start()
    elif name == "zygote":
        if not end(zygote(server)):
            return False
    else:
        found = server.children()
        wanted = [one for one in ("server", "native") if name in (one, "both")]
        if not all([end(found.get(f"berth-{one}", 1 << 22)) for one in wanted]):
            return False  # it is being started
    ended[name] = ended.get(name, 0) + 1
    return True


def total(owners, name):
    return sum(owner.counted[name] for owner in owners)


def assert_right(server, owners):
    wrong = [repr(owner.wrong) for owner in owners if owner.wrong]
    assert not wrong, "\n".join(wrong) + "\n" + server.log()


def pooled(server):
    """Whether there are always sandboxes."""
    return server.env["BERTH_POOL_MAX"] != "0"


def check_batch(server, owners):
    """With every client at rest: each session has what its owner knows, and there are no others but
    those of which nobody was told."""
    for owner in owners:
        owner.may_run.clear()
        owner.idle.clear()
    for owner in owners:
        assert owner.idle.wait(4 * HANG_SECS), "a client hangs"
    assert_right(server, owners)
    wait_until(lambda: served(server), "requests are served again")
    for session in [session for owner in owners for session in owner.sessions]:
        session.look()
        session.get(random.Random(0))
    known = {session.id for owner in owners for session in owner.sessions}
    listed = set(server.get("/sessions").json()["sessions"])
    assert known <= listed, known - listed
    for session_id in listed - known:
        assert server.request("DELETE", f"/sessions/{session_id}").status == 200
    if not pooled(server):
        wait_until(lambda: len(server.inits()) == len(known),
                   lambda: f"{len(known)} sessions, {len(server.inits())} sandboxes")
    for owner in owners:
        owner.may_run.set()


def assert_as_at_first(server, first):
    """Nothing is left though the server runs on; one with a pool always has sandboxes."""
    if pooled(server):
        wait_until(lambda: served(server), "requests are served again")
        return
    settle(server)
    wait_until(lambda: counts(server) == first, lambda: f"before {first}, now {counts(server)}")


@pytest.mark.parametrize("settings", [
    pytest.param({"BERTH_POOL_MAX": "0"}, id="plain"),
    pytest.param({"BERTH_POOL_MAX": "6"}, id="pool"),
    pytest.param({"BERTH_POOL_MAX": "6", "BERTH_ZYGOTE": "on"}, id="zygote"),
])
def test_sessions_under_random_kills(make_server, dice, settings):
    server = make_server(settings)
    wait_until(lambda: served(server), "requests are served")
    first = None
    if not pooled(server):
        settle(server)
        first = at_rest(lambda: counts(server))
    ended = {}
    owners = [Owner(server, dice) for _ in range(OWNERS)]
    try:
        while sum(ended.values()) < KILLS or total(owners, "executed") < EXECUTED:
            struck = strike(server, dice, ended)
            assert_right(server, owners)
            if struck and sum(ended.values()) % BATCH == 0:
                check_batch(server, owners)
                print(f"kills {ended}", flush=True)
    finally:
        for owner in owners:
            owner.stop()
    assert_right(server, owners)
    for session in [session for owner in owners for session in owner.sessions]:
        session.look()
        session.delete()
    assert_as_at_first(server, first)
    assert server.get("/sessions").json() == {"sessions": []}
    totals = {name: total(owners, name) for name in owners[0].counted}
    print(f"kills {ended}, clients {totals}")
    assert totals["deleted"] > 0, totals
    assert server.stop() == 0, server.log()
    assert_nothing_left(server.state)


def test_an_engine_that_dies_while_it_starts(make_server):
    """It leaves none of its children, one of which once held the socket that the next berth takes."""
    with Fault("native.trial") as fault:
        server = make_server(fault.env)
        server.hello()
        assert fault.struck()
        server.kill()
        server.start()
        server.hello()
