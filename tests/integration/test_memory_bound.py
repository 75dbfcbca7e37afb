"""What may be reserved in all where the control groups themselves have a limit: a container's, or
MemoryMax= of the unit that holds the sandboxes."""
import os
import pathlib
import uuid

import pytest

import harness

MIB = 1 << 20
ROOT = pathlib.Path("/sys/fs/cgroup")
# As in a container of cgroup v1: a group of the host is all that there is to see of the hierarchy.
SEE_ONLY = ("mount --bind \"$1\" \"$2\" && umount /sys/fs/cgroup/memory && "
            "mount --move \"$2\" /sys/fs/cgroup/memory && shift 2 && exec \"$@\"")


class Group:
    """A control group of ours with a memory limit, and a server whose sandboxes' groups go below."""

    def __init__(self, folder):
        self.v2 = (ROOT / "cgroup.controllers").exists()
        self.name = f"berth-test-{uuid.uuid4().hex[:8]}"
        self.path = (ROOT if self.v2 else ROOT / "memory") / self.name
        self.limit = self.path / ("memory.max" if self.v2 else "memory.limit_in_bytes")
        self.folder = folder
        if not self.v2 and not os.path.ismount(ROOT / "memory"):
            pytest.skip("the memory controller is not at its usual place")
        self.path.mkdir()

    def server(self, env=None):
        one = harness.Server({**(env or {}), **({"BERTH_CGROUP": f"/{self.name}"} if self.v2 else {})})
        if not self.v2:
            one.command = ("unshare", "--mount", "/bin/sh", "-c", SEE_ONLY, "sh", str(self.path),
                           str(self.folder))
        return one.start()

    def folders(self, server):
        return [self.path / f"berth-{server.instance}"] + harness.cgroup_bases(server.instance)


@pytest.fixture
def group(tmp_path):
    one = Group(tmp_path)
    yield one
    one.path.rmdir()


def memory_of(server):
    info = server.get("/api/v1/info").json()
    return info["engines"][0]["limits"]["ram_bytes"], info["capacity"]["memory"]["budget_bytes"]


def test_the_limit_of_the_groups_is_what_there_is(group):
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group.limit.write_text(str(640 * MIB))
    server = group.server()
    try:
        server.hello()
        assert memory_of(server) == (640 * MIB, 640 * MIB // 5 * 4)
        answer = server.post({"code": "print(1)", "resources": {"ram": "700MiB"}})
        harness.assert_error(answer, 400, "resources.ram", str(700 * MIB), str(640 * MIB))
        server.wait_idle()
    finally:
        server.stop()
    assert not [path for path in group.folders(server) if path.exists()]
    server.remove()
    group.limit.write_text("max" if group.v2 else "-1")
    server = group.server()
    try:
        assert memory_of(server)[0] == pytest.approx(ram, rel=0.05)
    finally:
        harness.end(server)


def test_the_operators_figure_is_taken_as_it_is(group):
    group.limit.write_text(str(640 * MIB))
    server = group.server({"BERTH_MEMORY": "1GiB"})
    try:
        assert memory_of(server) == (640 * MIB, 1024 * MIB)
    finally:
        harness.end(server)
