"""SIGKILL to a random process of berth at a random moment, under a load of every kind of request:
callers get honest answers, what they were told is what is kept, files on kept disks are never lost,
and nothing is left on the host.

A short form runs with the suites. BERTH_SOAK=1 (`make soak`) runs 300 kills and at least 3000
requests. BERTH_SEED=N repeats the choices of a run, whose seed is printed; moments differ."""
import base64
import http.client
import json
import random
import re
import threading
import time

from engine import Engine, EngineError, MIB
from faults import assert_nothing_left, can_make, skip_unless
from harness import HANG_SECS, at_rest, read, snapshot_tool, wait_until
from kills import SOAK, catch, counts, end, plain, settle

KILLS = 300 if SOAK else 40
KEPT_KILLS = 120 if SOAK else 30
REQUESTS = 3000 if SOAK else 100
BATCH = 20


# ---- the load ----

def with_stdin(number):
    return {"code": "import sys; print(sys.stdin.read()[-len(sys.argv[0]) - 20:].strip().split()[-1])",
            "stdin": "x" * 20000 + f"\n{number}\n"}


def with_files(number):
    content = base64.b64encode(f"{number}\n".encode()).decode()
    return {"code": "print(open('in/data').read(), end='')",
            "files": [{"path": "in/data", "content": content}]}


def on_disk(number):
    return {"code": "f = open('/workspace/big', 'wb'); f.write(b'x' * 3000000); f.flush()\n"
                    f"print({number})", "resources": {"ram": "64MB", "storage": "128MB"}}


def as_container(number):
    return {"code": f"import os; os.chown('/workspace', 1, 1)\nprint({number})",
            "profile": "container"}


def container_on_disk(number):
    return {**as_container(number), "resources": {"ram": "64MB", "storage": "128MB"}}


def for_too_long(number):
    return {"code": f"print({number}, flush=True)\nwhile True: pass", "timeout": 0.5}


def mix():
    """What this host can make, the common things more often."""
    kinds = [plain, plain, plain, with_stdin, with_files, for_too_long]
    kinds += [on_disk] if can_make(disk=True) else []
    kinds += [as_container] if can_make(container=True) else []
    return kinds + ([container_on_disk] if can_make(disk=True, container=True) else [])


class Load:
    """Clients that ask for everything without a pause, and check what they are told."""

    def __init__(self, server, dice, threads=4):
        self.server = server
        self.mix = mix()
        self.over = threading.Event()
        self.may_run = threading.Event()
        self.may_run.set()
        self.idle = [threading.Event() for _ in range(threads)]
        self.wrong, self.known = [], []
        self.counts = {"answered": 0, "killed": 0, "refused": 0, "broken": 0}
        self.threads = [threading.Thread(target=self.run, daemon=True,
                                         args=(index, random.Random(dice.random())))
                        for index in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, index, dice):
        number = index
        while not self.over.is_set():
            if not self.may_run.is_set():
                self.idle[index].set()
                self.may_run.wait(1)
                continue
            self.idle[index].clear()
            number += len(self.threads)
            make = dice.choice(self.mix)
            try:
                answer = self.server.post(make(number))
            except TimeoutError:
                self.wrong.append((make.__name__, number, "no answer: a hang"))
                continue
            except (OSError, http.client.HTTPException):
                self.counts["broken"] += 1
                time.sleep(0.01)
                continue
            try:
                self.check(make, number, answer)
            except (AssertionError, KeyError, json.JSONDecodeError) as problem:
                self.wrong.append((make.__name__, number, repr(problem), answer))

    def check(self, make, number, answer):
        assert answer.status in (200, 503), "a wrong status"
        if answer.status == 503:
            assert answer.headers["Retry-After"]
            self.counts["refused"] += 1
            return
        done = answer.json()
        self.known.append(done)
        if done["killed_by"] in ("server", "user"):
            assert (done["status"], done["exit_code"]) == ("killed", 137), "a wrong outcome"
            self.counts["killed"] += 1
            return
        self.counts["answered"] += 1
        if make is for_too_long:
            assert (done["status"], done["killed_by"]) == ("timeout", "timeout"), "a wrong cause"
            assert done["stdout"] in (f"{number}\n", ""), "a wrong output"
        else:
            assert done["killed_by"] is None, "a wrong cause"
            assert (done["stdout"], done["exit_code"]) == (f"{number}\n", 0), "a wrong outcome"

    def pause(self):
        self.may_run.clear()
        for event in self.idle:
            event.clear()
        for event in self.idle:
            assert event.wait(2 * HANG_SECS), "a client hangs"

    def resume(self):
        self.may_run.set()

    def stop(self):
        self.over.set()
        self.may_run.set()
        for thread in self.threads:
            thread.join(2 * HANG_SECS)
            assert not thread.is_alive(), "a client hangs"

    def total(self):
        return self.counts["answered"] + self.counts["killed"] + self.counts["refused"]


# ---- the victims ----

class Killer:
    """Chooses and ends. Counts what it ended."""

    CHOICES = ("server", "engine", "init", "init", "stage", "stage", "disk", "disk", "monitor")

    def __init__(self, server, dice, make_server):
        self.server, self.dice, self.make_server = server, dice, make_server
        self.ended = {}

    def strike(self):
        kind = self.dice.choice(self.CHOICES)
        time.sleep(self.dice.uniform(0.0, 0.3))
        if getattr(self, "end_" + kind)():
            self.ended[kind] = self.ended.get(kind, 0) + 1
            return True
        return False

    def end_server(self):
        return end(self.server.children().get("berth-server", 1 << 22))

    def end_engine(self):
        return end(self.server.children().get("berth-native", 1 << 22))

    def end_init(self):
        pids = sorted(self.server.inits().values())
        return bool(pids) and end(self.dice.choice(pids))

    def end_stage(self):
        return self.end_child(True)

    def end_disk(self):
        return self.end_child(False)

    def end_child(self, stage):
        engine = self.server.children().get("berth-native")
        pid = catch(engine, stage) if engine else None
        return pid is not None and end(pid)

    def end_monitor(self):
        """And so the server and the engine, with everything that they were doing."""
        self.server.kill()
        self.server.start()
        return True


def kernel_objects():
    """What the kernel holds of namespaces, a coarse figure: its caches count in slabs."""
    found = {}
    for line in read("/proc/slabinfo").splitlines():
        match = re.match(r"((?:user|pid|net|mnt|uts)_namespace) +(\d+)", line)
        if match:
            found[match.group(1)] = int(match.group(2))
    return found


def check_batch(server, load, first):
    load.pause()
    settle(server)
    assert not load.wrong, load.wrong[:5]
    files = [name for name in snapshot_tool.state_files(server.state)
             if name.startswith(("priv/disks/", "priv/run/"))]
    assert not files, files

    def changed():
        now = counts(server)
        return {name: (first[name], now[name]) for name in first if now[name] != first[name]}

    wait_until(lambda: not changed(), lambda: f"before, now: {changed()}")
    for done in load.known[-20:]:  # what a client was told is what is kept
        assert server.get(f"/executions/{done['execution_id']}").json() == done
    load.resume()


def test_random_kills_under_load(make_server, dice):
    server = make_server()
    settle(server)
    first, before = at_rest(lambda: counts(server)), kernel_objects()
    killer = Killer(server, dice, make_server)
    load = Load(server, dice)
    kills = 0
    try:
        while kills < KILLS or load.total() < REQUESTS:
            if killer.strike():
                kills += 1
                if kills % BATCH == 0:
                    check_batch(server, load, first)
                    print(f"{kills} kills {killer.ended}, requests {load.counts}", flush=True)
            assert not load.wrong, load.wrong[:5]
        check_batch(server, load, first)
    finally:
        load.stop()
    assert not load.wrong, load.wrong[:5]
    assert load.counts["answered"] > 0
    settle(server)
    assert server.stop() == 0, server.log()
    assert_nothing_left(server.state)
    print(f"{kills} kills {killer.ended}, requests {load.counts}")
    print(f"namespaces in the kernel's caches, before {before}, after {kernel_objects()}")


# ---- files that are kept ----

class KeptLife:
    """A sandbox with a kept disk, led through random steps by an owner that only knows what it was
    told: whatever it was told is written has to be there."""

    SPEC = {"disk": True, "keep_files": True, "storage": 32 * MIB}

    def __init__(self, engine, name):
        self.engine, self.name = engine, name
        self.sandbox = None
        self.files = {}

    def forget_channel(self):
        if self.sandbox:
            self.sandbox.channel.close()
        self.sandbox = None

    def step(self, dice):
        state = self.engine.settled(self.name)
        if state != "running":
            self.forget_channel()
        if state is None:
            if self.files:
                print(self.engine.log())
            assert not self.files, f"{self.name} is gone with {sorted(self.files)}"
            self.sandbox = self.engine.create(self.name, **self.SPEC)
        elif state == "stopped":
            if self.files or dice.random() < 0.9:
                self.sandbox = self.engine.restart_sandbox(self.name, **self.SPEC)
                self.check()
            else:
                self.engine.destroy(self.name)
        elif dice.random() < 0.3:
            self.forget_channel()
            self.engine.stop_sandbox(self.name)
        elif dice.random() < 0.1:
            self.forget_channel()
            self.files = {}  # from here on it may be there or not
            self.engine.destroy(self.name)
        else:
            self.sandbox = self.sandbox or self.engine.open_channel(self.name)
            self.write(dice)

    def write(self, dice):
        name = f"f{dice.randrange(8)}"
        text = f"{dice.random()}" * 500
        self.files.pop(name, None)  # until we are told, the old or the new one, or a part
        result = self.sandbox.put_file(f"/workspace/{name}", text.encode())
        if result.errno == 0:
            self.files[name] = text

    def check(self):
        for name, text in self.files.items():
            result = self.sandbox.get_file(f"/workspace/{name}")
            assert result.errno == 0 and result.stdout.decode() == text, (
                f"{self.name}: {name} is lost: {result}")


def test_kept_files_under_random_kills(dice):
    """The engine, inits, setup stages and makers of disks die at random; no file that was written
    is ever lost, until the sandbox is destroyed."""
    skip_unless(disk=True)
    engine = Engine().start()
    lives = [KeptLife(engine, f"kept-{number}") for number in range(3)]
    over = threading.Event()
    ended = {"engine": 0, "init": 0, "stage": 0, "disk": 0}

    def kill_now_and_then():
        own = random.Random(dice.random())
        while not over.is_set():
            time.sleep(own.uniform(0.0, 0.25))
            process = engine.process
            if not process:
                continue
            kind = own.choice(sorted(ended))
            if kind == "engine":
                pid = process.pid
            elif kind == "init":
                pid = engine.init_pid(own.choice(lives).name)
            else:
                pid = catch(process.pid, kind == "stage")
            if pid and end(pid):
                ended[kind] += 1

    thread = threading.Thread(target=kill_now_and_then, daemon=True)
    thread.start()
    steps = failed = 0
    try:
        while sum(ended.values()) < KEPT_KILLS:
            life = dice.choice(lives)
            steps += 1
            try:
                life.step(dice)
            except (EngineError, ConnectionError, BrokenPipeError):
                failed += 1
                for one in lives:
                    one.forget_channel()
                engine.restart()
    except BaseException:
        engine.restart()
        engine.remove()
        raise
    finally:
        over.set()
        thread.join(HANG_SECS)
    engine.restart()
    print(f"kills {ended}, {steps} steps, {failed} of them failed")
    for life in lives:
        life.forget_channel()
        state = engine.settled(life.name)
        if state == "running":
            engine.stop_sandbox(life.name)
        if state is None:
            assert not life.files, f"{life.name} is gone"
        else:
            life.sandbox = engine.restart_sandbox(life.name, **life.SPEC)
            life.check()
            life.sandbox.destroy()
    engine.stop()
    assert_nothing_left(engine.state)
    engine.remove()
