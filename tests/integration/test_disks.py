"""Writable roots on disk, from the request to the image file: storage beyond memory, what a full one
says, what files may hold, and a host whose own disk is full."""
import os
import subprocess

import pytest

from engine import Engine, EngineError, MIB
from faults import assert_nothing_left, skip_unless
from harness import HANG_SECS, wait_until


@pytest.fixture(autouse=True)
def disks():
    skip_unless(disk=True)


DISK = {"ram": "64MB", "storage": "100MB"}
MEMORY = {"ram": "256MB", "storage": "50MB"}


def test_a_file_larger_than_memory(make_server):
    """1 GB in 512 MB: written, synced, and read back whole."""
    server = make_server()
    done = server.execute(
        "import hashlib, os\n"
        "block = bytes(range(256)) * 4096\n"
        "said = hashlib.sha256()\n"
        "with open('/workspace/big', 'wb') as f:\n"
        "    for i in range(953):\n"
        "        piece = i.to_bytes(8, 'little') + block[8:]\n"
        "        said.update(piece); f.write(piece)\n"
        "    f.flush(); os.fsync(f.fileno())\n"
        "size = os.path.getsize('/workspace/big')\n"
        "read = hashlib.sha256()\n"
        "with open('/workspace/big', 'rb') as f:\n"
        "    while piece := f.read(1 << 20): read.update(piece)\n"
        "print(size, read.digest() == said.digest())\n",
        resources={"ram": "512MB", "storage": "1GB"}, timeout=200)
    assert (done["stdout"], done["exit_code"]) == (f"{953 << 20} True\n", 0), done
    assert (done["killed_by"], "memory" in done["limits_hit"]) == (None, False), done
    server.wait_clean()


FILL = """
import errno, os
written = 0
try:
    with open({path!r}, 'wb', buffering=0) as f:
        while True:
            written += f.write(b'x' * 65536)
except OSError as problem:
    print(errno.errorcode[problem.errno], written)
{after}
"""


@pytest.mark.parametrize("path", ["/workspace/f", "/tmp/f", "/dev/shm/f"])
@pytest.mark.parametrize("resources", [DISK, MEMORY], ids=["disk", "memory"])
def test_a_full_root_is_no_space_and_a_limit(server, resources, path):
    done = server.execute(FILL.format(path=path, after=""), resources=resources)
    word, written = done["stdout"].split()
    size = int(resources["storage"][:-2]) * 1000000
    assert word == "ENOSPC" and size * 0.9 <= int(written) <= size * 1.2, done
    assert (done["status"], done["killed_by"]) == ("success", None), done
    assert done["limits_hit"] == ["disk"], done


@pytest.mark.parametrize("resources", [DISK, MEMORY], ids=["disk", "memory"])
@pytest.mark.parametrize("profile", ["strict", "container"])
def test_no_program_is_killed_for_it(server, resources, profile):
    """One that handles no signal: dd, which says what it could write."""
    done = server.execute("import subprocess\nprint(subprocess.run(['dd', 'if=/dev/zero', 'bs=1M',"
                          "'of=/workspace/f'], capture_output=True, text=True))",
                          resources=resources, profile=profile)
    assert "returncode=1" in done["stdout"] and "No space left" in done["stdout"], done
    assert (done["limits_hit"], done["killed_by"]) == (["disk"], None), done


@pytest.mark.parametrize("resources", [DISK, MEMORY], ids=["disk", "memory"])
def test_space_comes_back_with_deleted_files(server, resources):
    after = ("os.unlink('/workspace/f')\n"
             "with open('/workspace/g', 'wb') as f: f.write(b'y' * 30000000)\nprint('again')")
    done = server.execute(FILL.format(path="/workspace/f", after=after), resources=resources)
    assert done["stdout"].endswith("again\n") and done["limits_hit"] == [], done


@pytest.mark.parametrize("resources", [DISK, MEMORY], ids=["disk", "memory"])
def test_as_many_files_as_fit(server, resources):
    """Empty ones: what ends first is not the space."""
    done = server.execute(
        "import errno, os\ncount = 0\ntry:\n    while True:\n"
        "        os.close(os.open(f'/tmp/{count}', os.O_CREAT | os.O_WRONLY)); count += 1\n"
        "except OSError as problem:\n    print(errno.errorcode[problem.errno], count)\n",
        resources=resources, timeout=100)
    word, count = done["stdout"].split()
    assert word == "ENOSPC" and int(count) > 1000, done
    assert "files" in done["limits_hit"] and done["killed_by"] is None, done


@pytest.mark.parametrize("resources", [DISK, MEMORY], ids=["disk", "memory"])
def test_a_sparse_file_of_ten_terabytes(server, resources):
    """No file is larger than the root, holes or not; within it holes cost nothing."""
    done = server.execute(
        "import errno, os, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "f = open('/workspace/f', 'wb')\n"
        "try:\n    f.truncate(10 << 40)\n    print('made')\n"
        "except OSError as problem: print(errno.errorcode[problem.errno])\n"
        "f.truncate(40 << 20)\nprint(os.stat('/workspace/f').st_blocks)\n", resources=resources)
    assert done["stdout"] == "EFBIG\n0\n", done
    done = server.execute("import os, subprocess\n"
                          "print(subprocess.call(['truncate', '-s', '10T', '/workspace/f']) != 0)",
                          resources=resources)
    assert done["stdout"] == "True\n" and done["limits_hit"] == [], done


def test_disks_are_private_and_start_empty(server):
    mark = "import os; print(sorted(os.listdir('/workspace'))); open('/workspace/left', 'w').close()"
    first = server.execute(mark, resources=DISK)
    assert server.execute(mark, resources=DISK)["stdout"] == first["stdout"]
    assert "left" not in first["stdout"]


# ---- the host's own disk is full ----

class SmallHost:
    """A folder on a file system of its own, of a few MiB."""

    def __init__(self, folder, size):
        self.image, self.path = folder / "host.img", folder / "host"
        self.path.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(size)
        subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-m", "0", str(self.image)],
                       check=True)
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.path)], check=True)

    def free(self):
        info = os.statvfs(self.path)
        return info.f_bavail * info.f_frsize

    def fill(self):
        """To the last block."""
        for size in (1 << 20, 4096):
            try:
                with open(self.path / "ballast", "ab", buffering=0) as file:
                    while True:
                        file.write(b"b" * size)
                        os.fsync(file.fileno())
            except OSError:
                pass

    def relieve(self):
        (self.path / "ballast").unlink(missing_ok=True)

    def remove(self):
        subprocess.run(["umount", str(self.path)], check=True)


@pytest.fixture
def small(tmp_path):
    host = SmallHost(tmp_path, 160 * MIB)
    state = host.path / "state"
    state.mkdir()
    engine = Engine(state=state).start()
    yield host, engine
    try:
        engine.restart()
        engine.stop()
        assert_nothing_left(state)
    finally:
        wait_until(lambda: unmounts(host), "the small host is free", HANG_SECS, 0.2)


def unmounts(host):
    try:
        host.remove()
        return True
    except subprocess.CalledProcessError:
        return False


def hello(engine):
    with engine.create(disk=True, storage=8 * MIB) as box:
        result = box.sh("echo hello > /workspace/f && sync && cat /workspace/f")
        assert (result.exit_code, result.stdout) == (0, b"hello\n"), result


def test_a_sandbox_on_a_host_that_runs_full(small):
    """It gets an error; the engine and the others go on, and the space comes back with its end."""
    host, engine = small
    at_rest = host.free()
    with engine.create(storage=8 * MIB) as other:  # in memory
        with engine.create(disk=True, storage=1024 * MIB) as box:
            result = box.sh("dd if=/dev/zero of=/workspace/f bs=1M count=300 conv=fsync",
                            timeout_ms=100000)
            assert result.exit_code != 0 and result.cause == "none", result
            assert other.sh("echo well > /workspace/f && cat /workspace/f").stdout == b"well\n"
        assert engine.process.poll() is None
    wait_until(lambda: host.free() > at_rest - 2 * MIB, lambda: f"{host.free()} of {at_rest}")
    hello(engine)


def test_a_full_host_makes_no_disks(small):
    host, engine = small
    host.fill()
    with pytest.raises(EngineError):
        for _ in range(50):  # a sparse file may still find a block or two
            engine.create(disk=True, storage=64 * MIB)
    assert engine.process.poll() is None
    for name in engine.list():
        engine.destroy(name)
    host.relieve()
    hello(engine)


def test_disks_count_once_after_a_restart(small):
    """What living and kept disks hold is promised to them; a new engine takes it off no second time."""
    host, engine = small
    before = engine.probe()["disk"]
    assert abs(host.free() - before) < 4 * MIB, "what was free at the start"
    spec = {"disk": True, "keep_files": True, "storage": 64 * MIB}
    write = "dd if=/dev/urandom of=/workspace/f bs=1M count=30 conv=fsync"
    with engine.create("kept", **spec) as kept, engine.create(**spec) as living:
        assert kept.sh(write).exit_code == living.sh(write).exit_code == 0
        kept.channel.close()
        engine.stop_sandbox("kept")
        assert host.free() < before - 50 * MIB, "they take what they hold"
        engine.kill()
        engine.start()
        assert abs(engine.probe()["disk"] - before) < 4 * MIB
    wait_until(lambda: abs(host.free() - before) < 4 * MIB, "what they held is free")
    engine.kill()
    engine.start()
    assert abs(engine.probe()["disk"] - before) < 4 * MIB


def test_a_kept_disk_starts_after_a_full_host(small):
    """Nothing was synced before the host was full, so that files may be gone; the disk is not."""
    host, engine = small
    spec = {"disk": True, "keep_files": True, "storage": 64 * MIB}
    box = engine.create("unsynced", **spec)
    assert box.sh("for i in 1 2 3 4; do mkdir -p /workspace/$i/deep; head -c 1000000 /dev/zero >"
                  " /workspace/$i/deep/file; done").exit_code == 0
    host.fill()
    box.sh("dd if=/dev/zero of=/workspace/f bs=1M count=50 conv=fsync; mkdir /workspace/late",
           timeout_ms=100000)
    box.channel.close()
    engine.stop_sandbox("unsynced")
    host.relieve()
    with engine.restart_sandbox("unsynced", **spec) as again:
        assert again.sh("rm -rf /workspace/* && echo more > /workspace/more &&"
                        " sync /workspace/more && cat /workspace/more").stdout == b"more\n"


def test_kept_files_outlive_a_full_host(small):
    """What was written and synced before is there after, when there is space again."""
    host, engine = small
    spec = {"disk": True, "keep_files": True, "storage": 64 * MIB}
    box = engine.create("kept", **spec)
    assert box.sh("head -c 4000000 /dev/zero | tr '\\0' k > /workspace/kept && "
                  "sync /workspace/kept").exit_code == 0  # fsync(2): sync(2) does nothing inside
    host.fill()
    result = box.sh("dd if=/dev/zero of=/workspace/f bs=1M count=50 conv=fsync", timeout_ms=100000)
    assert result.exit_code != 0, result
    box.channel.close()
    engine.stop_sandbox("kept")
    host.relieve()
    with engine.restart_sandbox("kept", **spec) as again:
        result = again.sh("tr -d k < /workspace/kept | wc -c; stat -c %s /workspace/kept")
        assert result.stdout.split() == [b"0", b"4000000"], result
        assert again.sh("echo more > /workspace/more && sync && cat /workspace/more").exit_code == 0
