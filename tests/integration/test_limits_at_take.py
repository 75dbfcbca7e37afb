"""Other limits for a sandbox that runs: what a pool gives one when it is taken."""
import errno
import os

import pytest

from engine import CAP_LIMIT, Engine, EngineError, MIB
from faults import skip_unless
from harness import cgroup_bases, read

ROOT = "import os; s = os.statvfs({!r}); print(s.f_blocks * s.f_frsize, s.f_files)"


@pytest.fixture
def engine():
    with Engine() as made:
        if not made.probe()["capabilities"] & CAP_LIMIT:
            pytest.skip("this host has no control groups")
        yield made


def numbers(engine, sandbox_id, *names):
    """Each file of the code group that is there, as text, whichever hierarchy has it."""
    found = []
    for name in names:
        texts = {read(base / sandbox_id / "code" / name).strip()
                 for base in cgroup_bases(engine.instance)} - {""}
        found += sorted(texts)
    return found


def memory(engine, sandbox_id):
    return numbers(engine, sandbox_id, "memory.limit_in_bytes", "memory.max")[0]


def storage(box, path="/"):
    done = box.run("/usr/bin/python3", "-c", ROOT.format(path))
    return tuple(int(text) for text in done.stdout.split())


def refused(engine, kind, *args, **limits):
    with pytest.raises(EngineError) as problem:
        engine.limit(*args, **limits)
    assert problem.value.kind == kind, problem.value
    return problem.value.message


def test_all_of_them_up_and_down(engine):
    with engine.create(memory=256 * MIB, storage=64 * MIB, cpu=1000, pids=128) as box:
        for memory_mib, storage_mib, cpu, pids in ((512, 128, 700, 200), (128, 32, 50, 64),
                                                   (512, 1, 1000, 2)):
            engine.limit(box.id, memory=memory_mib * MIB, storage=storage_mib * MIB, cpu=cpu,
                         pids=pids)
            assert memory(engine, box.id) == str(memory_mib * MIB)
            swap = numbers(engine, box.id, "memory.memsw.limit_in_bytes")
            assert swap in ([], [str(memory_mib * MIB)])
            assert numbers(engine, box.id, "pids.max") == [str(pids)]
            assert numbers(engine, box.id, "cpu.cfs_quota_us", "cpu.max") in (
                [str(cpu * 100)], [f"{cpu * 100} 100000"])
            assert storage(box) == (storage_mib * MIB, max(1024, storage_mib * MIB // 4096))
            assert storage(box, "/workspace")[0] == storage(box, "/dev/shm")[0] == storage_mib * MIB


def test_nothing_said_is_nothing_changed(engine):
    with engine.create(memory=256 * MIB, storage=64 * MIB, cpu=900, pids=128) as box:
        engine.limit(box.id)
        engine.limit(box.id, pids=50)
        engine.limit(box.id, pids=50)
        assert (memory(engine, box.id), numbers(engine, box.id, "pids.max"), storage(box)[0]) == (
            str(256 * MIB), ["50"], 64 * MIB)
        assert numbers(engine, box.id, "cpu.cfs_quota_us", "cpu.max")[0].split()[0] == "90000"


def test_the_new_ones_hold(engine):
    with engine.create(memory=512 * MIB, storage=64 * MIB, pids=128) as box:
        assert box.sh("head -c 1M /dev/zero > /workspace/kept").exit_code == 0
        engine.limit(box.id, memory=64 * MIB, storage=4 * MIB, pids=20)
        full = box.sh("head -c 8M /dev/zero > /workspace/more; echo $?; wc -c < /workspace/kept")
        assert full.stdout.split() == [b"1", str(MIB).encode()] and b"space" in full.stderr, full
        bomb = box.run("/usr/bin/python3", "-c", "x = bytearray(256 << 20); print(len(x))")
        assert (bomb.cause, bomb.exit_code) == ("oom", 137), bomb
        # Init writes back after a kill what it was told (FRAME_LIMITS), so again:
        engine.limit(box.id, pids=20)
        forks = box.run("/usr/bin/python3", "-c", "import os, time\nn = 0\ntry:\n"
                        " while n < 100:\n  if os.fork() == 0: time.sleep(60)\n  n += 1\n"
                        "except OSError: print(n, flush=True)\nos.kill(-1, 9)")
        assert forks.stdout == b"19\n", (forks, forks.limits_hit, numbers(
            engine, box.id, "memory.events", "pids.events", "pids.max", "memory.peak"))


def test_what_is_used_already_is_a_conflict(engine):
    with engine.create(memory=256 * MIB, storage=64 * MIB, pids=64) as box:
        assert box.sh("head -c 20M /dev/zero > /workspace/f").exit_code == 0
        assert "storage" in refused(engine, "conflict", box.id, storage=10 * MIB)
        assert storage(box)[0] == 64 * MIB
        # What lies in memory is memory, and can't be written out anywhere.
        refused(engine, "conflict", box.id, memory=10 * MIB)
        sleepers = box.begin(["/bin/sh", "-c", "for i in 1 2 3 4 5 6; do sleep 600 & done; echo up;"
                              "wait"], [])
        box.wait_output(sleepers, b"up")
        assert "processes" in refused(engine, "conflict", box.id, pids=4)
        assert numbers(engine, box.id, "pids.max") == ["64"]
        refused(engine, "conflict", box.id, storage=128 * MIB, pids=4)  # half of it was done
        engine.limit(box.id, storage=64 * MIB, pids=7)
        assert os.statvfs(f"/proc/{engine.init_pid(box.id)}/root").f_blocks == 64 * MIB // 4096


def test_another_number_of_processors_is_a_conflict(engine):
    with engine.create(cpu=1500) as box:
        for cpu in (1000, 2001, 500):
            assert "processors" in refused(engine, "conflict", box.id, cpu=cpu, pids=33)
        assert numbers(engine, box.id, "pids.max") == ["128"]
        engine.limit(box.id, cpu=2000)
        engine.limit(box.id, cpu=1001)


@pytest.mark.parametrize("limits", [
    {"memory": 4 * MIB - 1}, {"memory": 1 << 51}, {"storage": 65535}, {"storage": 1 << 51},
    {"cpu": 9}, {"cpu": 1024001}, {"pids": 1}, {"pids": 65537}])
def test_no_limit_is_taken_that_a_creation_would_refuse(engine, limits):
    with engine.create() as box:
        refused(engine, "bad_input", box.id, **limits)


def test_init_writes_no_more_processes_than_a_creation_may_have(engine):
    with engine.create(pids=64) as box:
        assert box.limits(pids=65537) == errno.EINVAL
        assert numbers(engine, box.id, "pids.max") == ["64"]
        assert box.limits(pids=65536) == 0


def test_only_what_runs_can_be_limited(engine):
    refused(engine, "not_found", "nobody", pids=10)
    refused(engine, "not_found", "../x", pids=10)


def test_one_that_an_earlier_engine_made(engine):
    box = engine.create(cpu=1500, storage=64 * MIB)
    engine.kill()
    engine.start()
    assert "processors" in refused(engine, "conflict", box.id, cpu=500)
    engine.limit(box.id, memory=128 * MIB, storage=8 * MIB, cpu=1100, pids=40)
    assert (memory(engine, box.id), numbers(engine, box.id, "pids.max"), storage(box)[0]) == (
        str(128 * MIB), ["40"], 8 * MIB)
    box.destroy()


def test_profile_container(engine):
    skip_unless(container=True)
    with engine.create(profile="container", storage=64 * MIB) as box:
        engine.limit(box.id, storage=32 * MIB, memory=128 * MIB)
        assert storage(box, "/workspace")[0] == 32 * MIB
        # Overlays of the writable part, so they have its bounds.
        full = box.sh("head -c 40M /dev/zero > /usr/full; echo $?")
        assert full.stdout == b"1\n" and b"space" in full.stderr, full


def test_files_on_disk_keep_their_size(engine):
    skip_unless(disk=True)
    with engine.create(disk=True, storage=32 * MIB) as box:
        refused(engine, "conflict", box.id, storage=64 * MIB)
        engine.limit(box.id, storage=32 * MIB, pids=40)
        assert numbers(engine, box.id, "pids.max") == ["40"]
        engine.kill()
        engine.start()
        refused(engine, "conflict", box.id, storage=64 * MIB)
