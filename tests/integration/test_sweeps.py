"""What a killed engine left is removed by the next one and by its sweeps, without a server that
asks; what lives, what is kept and what is another instance's stays."""
import os
import signal
import socket

import pytest

from engine import ID, MIB, Engine, EngineError, tlv
from faults import assert_nothing_left, can_make, skip_unless
from harness import HANG_SECS, cgroup_bases, snapshot_tool, wait_until

listed = snapshot_tool.listed

QUICK = {"BERTH_TESTING": "1", "BERTH_SWEEP_MS": "50"}
KEPT = {"disk": True, "keep_files": True, "storage": 16 * MIB}


@pytest.fixture
def make_engine():
    skip_unless(disk=True)
    made = []

    def make(env=None):
        one = Engine(env=env or QUICK).start()
        made.append(one)
        one.probe()  # it has its folders
        return one

    yield make
    problems = []
    for one in made:
        try:
            one.restart()
            one.stop()
            assert_nothing_left(one.state)
        except Exception as problem:  # noqa: BLE001: the others have to be stopped as well
            problems.append(problem)
        one.remove()
    assert not problems, problems


class Litter:
    """Traces as an engine leaves them that dies at the worst moments: groups without a process, a
    half-made disk, one that was handed out, a socket."""

    def __init__(self, engine, name):
        self.engine, self.name = engine, name
        self.folder = engine.state / "priv"

    def drop(self):
        """While the engine stands still, so that no sweep sees a part."""
        if self.engine.process:
            self.engine.process.send_signal(signal.SIGSTOP)
            wait_until(self.stands_still, "the engine stands still")
        self.drop_groups()
        self.drop_files()
        assert self.left()
        if self.engine.process:
            self.engine.process.send_signal(signal.SIGCONT)

    def stands_still(self):
        status = snapshot_tool.status_of(self.engine.process.pid)
        return status["State"].startswith("T")

    def drop_groups(self):
        for base in cgroup_bases(self.engine.instance):
            for group in ("init", "code"):
                (base / self.name / group).mkdir(parents=True)

    def drop_files(self):
        for suffix in ("new", "img"):
            (self.folder / "disks" / f"{self.name}.{suffix}").write_bytes(b"\0" * 5000)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(self.folder / "run" / f"{self.name}.sock"))

    def left(self):
        found = [str(base / self.name) for base in cgroup_bases(self.engine.instance)
                 if (base / self.name).exists()]
        for folder in ("disks", "run"):
            found += [name for name in listed(self.folder / folder)
                      if name.startswith(self.name + ".")]
        return found


def test_intervals_remove_what_was_left(make_engine):
    """The engine runs; nobody speaks to it."""
    engine = make_engine()
    engine.close_client()
    litter = Litter(engine, "litter")
    litter.drop()
    wait_until(lambda: not litter.left(), lambda: f"left: {litter.left()}")
    assert engine.process.poll() is None


def test_a_start_removes_what_was_left(make_engine):
    engine = make_engine({"BERTH_TESTING": "1", "BERTH_SWEEP_MS": "86400000"})
    engine.kill()
    litter = Litter(engine, "litter")
    litter.drop()
    engine.start()
    wait_until(lambda: not litter.left(), lambda: f"left: {litter.left()}")


def test_sweeps_leave_what_lives_and_what_is_kept(make_engine):
    engine = make_engine()
    kept = engine.create("kept", **KEPT)
    assert kept.sh("echo kept > /workspace/f").exit_code == 0
    kept.channel.close()
    engine.stop_sandbox("kept")
    with engine.create() as in_memory, engine.create(disk=True, storage=16 * MIB) as on_disk:
        litter = Litter(engine, "litter")
        for _ in range(3):  # each of them seen to end: so many sweeps have passed
            litter.drop()
            wait_until(lambda: not litter.left(), lambda: f"left: {litter.left()}")
        for box in (in_memory, on_disk):
            assert box.sh("echo on > /workspace/f && cat /workspace/f").stdout == b"on\n"
    with engine.restart_sandbox("kept", **KEPT) as again:
        assert again.sh("cat /workspace/f").stdout == b"kept\n"


def test_an_engine_that_can_make_none_denies_none(make_engine):
    """Whoever is told that there is no such sandbox forgets it."""
    engine = make_engine()
    engine.create("alive").channel.close()
    images = engine.state / "priv" / "images"
    engine.kill()
    images.rename(images.with_name("aside"))
    images.write_text("no folder")
    engine.start()
    for ask in (engine.inspect, engine.open_channel, engine.destroy, engine.stop_sandbox):
        with pytest.raises(EngineError) as problem:
            ask("alive")
        assert problem.value.kind == "unavailable", problem.value
    with pytest.raises(EngineError) as problem:
        engine.list()
    assert problem.value.kind == "unavailable", problem.value
    engine.kill()
    images.unlink()
    images.with_name("aside").rename(images)
    engine.start()
    with engine.open_channel("alive") as box:
        assert box.sh("echo here").stdout == b"here\n"
    engine.destroy("alive")


def test_what_outlives_a_killed_engine_ends_by_itself(make_engine):
    """No server ever asks: init goes when its time without a connection is over, and the new engine
    removes the rest, but not a kept disk."""
    engine = make_engine()
    for options in ({}, {"disk": True, "storage": 16 * MIB}, {"profile": "container"}):
        if "profile" in options and not can_make(container=True):
            continue
        engine.create(orphan_ms=300, **options).channel.close()
    kept = engine.create("kept", orphan_ms=300, **KEPT)
    assert kept.sh("echo kept > /workspace/f").exit_code == 0
    kept.channel.close()
    engine.kill()
    engine.start()
    engine.close_client()

    def left():
        groups = [str(base / name) for base in cgroup_bases(engine.instance)
                  for name in os.listdir(base) if (base / name).is_dir()]
        files = listed(engine.state / "priv" / "disks") + listed(engine.state / "priv" / "run")
        return groups + [name for name in files if name != "kept.keep"]

    wait_until(lambda: not left(), lambda: f"left: {left()}")
    engine.connect()
    assert engine.list() == ["kept"]
    with engine.restart_sandbox("kept", **KEPT) as again:
        assert again.sh("cat /workspace/f").stdout == b"kept\n"


def test_another_instance_is_not_touched(make_engine):
    """One engine is killed with everything that it has; the other one sweeps and sweeps."""
    one, other = make_engine(), make_engine()
    boxes = [one.create("memory"), one.create("disk", disk=True, storage=16 * MIB),
             one.create("kept", **KEPT)]
    for box in boxes:
        assert box.sh("echo mine > /workspace/f").exit_code == 0
    one.kill()
    foreign = Litter(one, "litter")
    foreign.drop()
    before = sorted(foreign.left())
    assert len(before) > 3
    own = Litter(other, "litter")  # the same id in both
    for _ in range(3):
        own.drop()
        wait_until(lambda: not own.left(), lambda: f"left: {own.left()}")
    other.kill()
    own.drop()
    other.start()
    wait_until(lambda: not own.left(), lambda: f"left: {own.left()}")
    assert sorted(foreign.left()) == before
    for box in boxes:
        assert box.sh("cat /workspace/f").stdout == b"mine\n"
        box.channel.close()
    one.start()
    wait_until(lambda: not foreign.left(), lambda: f"left: {foreign.left()}")
    assert sorted(one.list()) == ["disk", "kept", "memory"]
    for name in ("memory", "disk", "kept"):
        box = one.open_channel(name)
        assert box.sh("cat /workspace/f").stdout == b"mine\n"
        box.destroy()


def test_two_instances_never_share_an_id_range(make_engine):
    """Ranges are the host's: an engine that is killed keeps those of its sandboxes, by their inits."""
    one, other = make_engine(), make_engine()
    boxes = [engine.create() for _ in range(4) for engine in (one, other)]
    one.kill()
    boxes += [other.create() for _ in range(4)]
    one.start()
    boxes += [one.create() for _ in range(4)]
    status = [open(f"/proc/{box.engine.init_pid(box.id)}/status", encoding="ascii").read()
              for box in boxes]
    uids = [int(text.split("Uid:")[1].split()[0]) for text in status]
    assert len(set(uids)) == len(boxes), uids
    assert all(uid >= 0x70000000 and uid % 65536 == 0 for uid in uids), uids
    for box in boxes:
        box.channel.close()


def test_a_list_is_whole(make_engine):
    """However many there are: kept disks cost nothing but a name."""
    engine = make_engine()
    names = [f"{number:0>64}" for number in range(2000)]
    for name in names:
        (engine.state / "priv" / "disks" / f"{name}.keep").touch()
    wait_until(lambda: len(engine.list()) >= len(names), "the sweep has found them")
    assert engine.list() == names
    first, more = engine.list_page()
    assert more and first == names[:len(first)]
    assert engine.list_page(names[-1]) == ([], False)


@pytest.mark.parametrize("what", ["destroy", "create"])
def test_a_stop_leaves_nothing_half_done(make_engine, what):
    """SIGTERM together with requests that nobody waits for: no other engine need come after it."""
    engine = make_engine({})
    options = {"disk": True, "storage": 16 * MIB, "memory": 64 * MIB}
    names = [f"box{number}" for number in range(4)]
    if what == "destroy":
        for name in names:
            engine.create(name, **options).channel.close()
    process = engine.process
    process.send_signal(signal.SIGSTOP)
    for name in names:
        if what == "destroy":
            engine.send("destroy", tlv(ID, name))
        else:
            engine.send("create", engine.spec(name, **options))
    if what == "create":  # until the first are being made
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: list(cgroup_bases(engine.instance)), "groups are made",
                   step_secs=0.0002)
        process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    engine.close_client()
    process.send_signal(signal.SIGCONT)
    assert process.wait(HANG_SECS) == 0
    engine.process = None
    running = [base for base in cgroup_bases(engine.instance) if base.exists()]
    left = listed(engine.state / "priv" / "disks") + listed(engine.state / "priv" / "run")
    assert (running, left) == ([], []), engine.log()
