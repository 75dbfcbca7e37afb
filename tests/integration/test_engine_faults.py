"""The engine alone, without a server that asks again: each of its processes dies once at each of
its points, and the caller gets an error or a result. Afterwards the next request is served, a disk
that was to be kept still has its files, and nothing is left on the host."""
import os
import signal

import pytest

from engine import CAP_DISK, Engine, EngineError, MIB
from faults import CREATION, DISK, END, Fault, RUN, assert_nothing_left, skip_unless
from harness import at_rest, snapshot_tool, wait_until

KINDS = {
    "memory": {},
    "disk": {"disk": True},
    "container": {"profile": "container"},
    "container-disk": {"profile": "container", "disk": True},
}
# Any of them ends a request in a way that its caller sees. A timeout does not: that is a hang.
BROKEN = (EngineError, ConnectionError, BrokenPipeError)
TEXT = "kept through every death\n"


def points():
    for kind, options in KINDS.items():
        for point in CREATION + (DISK if "disk" in options else ()) + RUN + END:
            yield pytest.param(kind, point, id=f"{kind}-{point}")


@pytest.fixture
def make_engine():
    """make_engine(fault): an engine with that fault; looked at when it has ended."""
    made = []

    def make(fault):
        one = Engine(env=fault.env).start()
        made.append(one)
        return one

    yield make
    for one in made:
        one.restart()
        one.remove()


def finish(engine, kept=()):
    """Ends the engine and looks at what is left; every sandbox that it knows is destroyed."""
    for name in engine.list():
        if name not in kept:
            engine.destroy(name)
    engine.kill(15)
    assert_nothing_left(engine.state, kept)


def hello(engine, **options):
    with engine.create(**options) as sandbox:
        result = sandbox.sh("echo hello > /workspace/f && cat /workspace/f")
        assert (result.exit_code, result.stdout) == (0, b"hello\n"), result


def descriptors(engine):
    return len(snapshot_tool.listed(f"/proc/{engine.process.pid}/fd"))


def attempt(engine, **options):
    """One sandbox from its creation to its end. Returns whether all of it went well."""
    try:
        hello(engine, **options)
        return True
    except BROKEN:
        return False


@pytest.mark.parametrize("kind, point", list(points()))
def test_a_death_at(make_engine, kind, point):
    options = KINDS[kind]
    skip_unless(disk="disk" in options, container="profile" in options)
    with Fault(point, armed=False) as fault:
        engine = make_engine(fault)
        hello(engine, **options)
        fds = at_rest(lambda: descriptors(engine))
        fault.arm()
        well = attempt(engine, **options)
        assert fault.struck(), f"{point} was not reached"
        died = engine.restart()
        assert died == point.startswith("native."), engine.log()
        assert not well or point in ("native.gone", "init.exit"), "who saw a death got no error"
        hello(engine, **options)
        for name in engine.list():  # an answer may have died with the engine after the commit
            engine.destroy(name)
        # It answers that a sandbox is gone, and then closes what it had of it.
        wait_until(lambda: descriptors(engine) == fds,
                   lambda: f"the engine had {fds} descriptors, now {descriptors(engine)}")
        finish(engine)


# ---- disks that are kept ----

KEPT = {"disk": True, "keep_files": True, "storage": 16 * MIB}


def kept_points():
    for phase, names in (("create", CREATION + DISK + RUN), ("stop", END),
                         ("start", CREATION + DISK + RUN), ("destroy", END)):
        for point in names:
            yield pytest.param(phase, point, id=f"{phase}-{point}")


class Kept:
    """A sandbox with a file in it, led through its life by requests that are repeated when they
    fail."""

    def __init__(self, engine, name):
        self.engine, self.name = engine, name
        self.written = False
        self.sandbox = None
        self.failures = 0

    def leave(self):
        if self.sandbox:
            self.sandbox.channel.close()
        self.sandbox = None

    def insist(self, step):
        """Repeats a step until it goes well, with a new engine when the old one died."""
        for _ in range(4):
            try:
                return step()
            except BROKEN:
                self.failures += 1
                self.leave()
                self.engine.restart()
                self.engine.settled(self.name)
        return step()

    def create(self):
        state = self.engine.settled(self.name)
        if state:  # made, or half-made, by the request that failed
            self.engine.destroy(self.name)
        self.sandbox = self.engine.create(self.name, **KEPT)
        self.write()

    def write(self):
        result = self.sandbox.run("/bin/sh", "-c", "cat > /workspace/kept", stdin=TEXT.encode())
        assert (result.exit_code, result.cause) == (0, "none"), result
        self.written = True

    def check(self):
        result = self.sandbox.sh("cat /workspace/kept")
        assert (result.exit_code, result.stdout.decode()) == (0, TEXT), result

    def stop(self):
        self.leave()
        if self.engine.settled(self.name) == "running":
            self.engine.stop_sandbox(self.name)
        assert self.engine.settled(self.name) == "stopped"

    def start(self):
        state = self.engine.settled(self.name)
        assert state in ("running", "stopped"), f"{self.name} is {state}"
        if state == "running":  # the answer to a start died with the engine
            self.engine.stop_sandbox(self.name)
        self.sandbox = self.engine.restart_sandbox(self.name, **KEPT)
        self.check()

    def destroy(self):
        self.leave()
        self.engine.destroy(self.name)
        assert self.engine.settled(self.name) is None


@pytest.mark.parametrize("phase, point", list(kept_points()))
def test_kept_files_outlive_a_death_at(make_engine, phase, point):
    skip_unless(disk=True)
    with Fault(point, armed=False) as fault:
        engine = make_engine(fault)
        kept = Kept(engine, "kept-one")
        for step in ("create", "stop", "start", "stop", "start", "destroy"):
            if step == phase and not fault.armed:
                fault.arm()
            kept.insist(getattr(kept, step))
        assert fault.struck(), f"{point} was not reached"
        assert kept.failures > 0 or point == "native.gone"
        hello(engine, **KEPT)
        finish(engine)


def test_kept_files_outlive_the_engine_that_stops_and_a_new_one(make_engine):
    skip_unless(disk=True)
    with Fault("none") as fault:
        engine = make_engine(fault)
        kept = Kept(engine, "kept-two")
        kept.create()
        kept.leave()
        engine.kill()
        engine.start()
        kept.stop()
        engine.kill(15)
        assert_nothing_left(engine.state, ["kept-two"])
        engine.start()
        assert engine.list() == ["kept-two"]
        kept.start()
        kept.destroy()
        finish(engine)


def test_an_init_that_is_killed_leaves_its_files(make_engine):
    skip_unless(disk=True)
    with Fault("none") as fault:
        engine = make_engine(fault)
        kept = Kept(engine, "kept-three")
        kept.create()
        for _ in range(3):
            kept.leave()
            os.kill(engine.init_pid("kept-three"), signal.SIGKILL)
            wait_until(lambda: engine.inspect("kept-three") == "stopped", "its end is seen")
            kept.start()
        kept.destroy()
        finish(engine)


# ---- an engine that finds less than the one before ----

def test_kept_files_outlive_an_engine_without_the_tools(make_engine):
    """It can neither make nor open a disk, but knows which are kept: who heard that there is none
    would forget the files."""
    skip_unless(disk=True)
    with Fault("none") as fault:
        engine = make_engine(fault)
        kept = {name: Kept(engine, name) for name in ("kept-four", "kept-five")}
        for one in kept.values():
            one.create()
            one.leave()
            one.stop()
        engine.kill(15)
        engine.start(hidden=["/usr/sbin/mke2fs"])
        info = engine.probe()
        assert "mke2fs is missing" in info["missing"], info
        assert not info["capabilities"] & CAP_DISK, info
        assert sorted(engine.list()) == sorted(kept)
        assert engine.inspect("kept-four") == "stopped"
        for broken in (kept["kept-four"].start, lambda: engine.create(**KEPT)):
            with pytest.raises(EngineError) as problem:
                broken()
            assert problem.value.kind == "unsupported", problem.value
        engine.destroy("kept-five")
        engine.kill(15)
        engine.start()
        assert engine.list() == ["kept-four"]
        kept["kept-four"].start()
        kept["kept-four"].destroy()
        finish(engine)


def test_an_engine_whose_trial_was_killed_makes_it_again(make_engine):
    with Fault("native.trial_child") as fault:
        engine = make_engine(fault)
        hello(engine)
        assert fault.struck()
        finish(engine)


def test_an_engine_whose_trials_are_all_killed_ends_itself(make_engine):
    """What lives is not known to it: it says so, and leaves the next engine to try again."""
    with Fault("none") as fault:
        engine = make_engine(fault)
        sandbox = engine.create("alive")
        sandbox.channel.close()
        engine.kill()
        healthy = engine.env
        engine.env = {**healthy, "BERTH_FAULT": "native.trial_child", "BERTH_SWEEP_MS": "1000"}
        engine.env.pop("BERTH_FAULT_ONCE")
        engine.start()
        assert "trial" in engine.probe()["unavailable"]
        for broken in (lambda: engine.inspect("alive"), engine.list, engine.create):
            with pytest.raises(EngineError) as problem:
                broken()
            assert problem.value.kind == "unavailable", problem.value
        assert engine.process.wait(20) == 0, engine.log()
        engine.env = healthy
        engine.start()
        assert engine.inspect("alive") == "running"
        engine.destroy("alive")
        finish(engine)
