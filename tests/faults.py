"""What the suites share that end processes on purpose: the file that lets a fault strike once, the
points by what they belong to, and the look at what a server or an engine left anywhere on the
host."""
import functools
import os
import pathlib
import tempfile
import time

import pytest

import harness
from engine import CAP_CONTAINER, CAP_DISK, CAP_LAYERS, Engine

# The points of src/, in the order of a sandbox's life. Those of the server are in
# test_fault_points.py.
CREATION = ("native.groups", "native.stage", "setup.begin", "native.root", "setup.root",
            "setup.init", "init.start", "init.listen", "native.ready", "init.ready",
            "native.commit", "init.commit")
DISK = ("disk.file", "disk.mkfs", "disk.loop", "disk.mount", "disk.named")
RUN = ("init.exec", "init.exit")  # of a program
CELL = ("init.run", "init.done", "init.exit")  # of a run in a kernel; a script is never "done"
END = ("native.kill", "native.killed", "native.disk", "native.gone")

# What lies in a state folder when nothing runs, beside the database.
AT_REST = {"images", "priv", "priv/disks", "priv/images", "priv/images/host", "priv/images/store",
           "priv/instance", "priv/layers", "priv/lock", "priv/mnt", "priv/run", "run", "run/native.sock", "run/egress.sock",
           "engine.sock"}


@functools.cache
def host():
    """What an engine says of this host."""
    with Engine() as engine:
        return engine.probe()


def can_make(disk=False, container=False, layers=False):
    needed = ((CAP_DISK if disk else 0) | (CAP_CONTAINER if container else 0)
              | (CAP_LAYERS if layers else 0))
    return host()["capabilities"] & needed == needed


def skip_unless(**kind):
    if not can_make(**kind):
        pytest.skip(f"this host lacks something: {host()['missing']}")


class Fault:
    """A fault point that strikes once, from the moment that it is armed."""

    def __init__(self, point, armed=True):
        self.folder = tempfile.TemporaryDirectory(prefix="berth-fault-")
        os.chmod(self.folder.name, 0o777)  # noqa: S103: the server's user removes the file
        self.path = pathlib.Path(self.folder.name) / "once"
        self.path.write_bytes(b"\0" if armed else b"\1")
        self.path.chmod(0o666)
        self.armed = armed
        self.env = {"BERTH_TESTING": "1", "BERTH_FAULT": point, "BERTH_FAULT_ONCE": str(self.path)}

    def arm(self):
        with open(self.path, "r+b") as file:  # in place: every process has it mapped
            file.write(b"\0")
        self.armed = True

    def struck(self):
        try:
            return self.path.read_bytes() != b"\0"
        except FileNotFoundError:  # who strikes removes it
            return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.folder.cleanup()


def settled_traces(state):
    """What is left on the host, and does not go. Something that others do comes and goes; what is
    left stays."""
    end = time.monotonic() + harness.HANG_SECS
    left = set(harness.snapshot_tool.traces(state))
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left &= set(harness.snapshot_tool.traces(state))
    return sorted(left)


def assert_nothing_left(state, kept=()):
    """After the end of every process: no trace anywhere but the files of an idle server. kept: the
    ids of sandboxes whose disks have to be there."""
    left = settled_traces(state)
    assert not left, "left behind:\n" + "\n".join(left[:40])
    files = set(harness.snapshot_tool.state_files(state)) - AT_REST
    assert files == {f"priv/disks/{name}.keep" for name in kept}, files
