"""Podman's Docker-compatible socket, of the tests' own: `podman system service` by process id, with its
storage, locks, events and socket on a temporary folder. Podman has no daemon behind it: containers live
on conmon, which outlives the service, and the command line sees the same ones."""
import contextlib
import json
import os
import pathlib
import resource
import subprocess
import urllib.parse

import dockerd
import harness
import images
from harness import HANG_SECS, snapshot_tool, wait_until

PARENT = "libpod_parent"  # Podman's own group of all containers, whatever it is told
CONF = """[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "runc"
[engine.runtimes]
runc = ["{runc}"]
"""
# Podman gives containers 1048576 processes and files. Where root may not raise its limits (no
# CAP_SYS_RESOURCE), none would start: what is above ours is left as it is.
RUNC = """#!/bin/sh
previous=
for word in "$@"; do
    [ "$previous" = --bundle ] && /usr/bin/python3 - "$word/config.json" <<'END'
import json, resource, sys
with open(sys.argv[1]) as file:
    config = json.load(file)
process = config["process"]
process["rlimits"] = [one for one in process.get("rlimits", [])
                      if one["hard"] <= resource.getrlimit(getattr(resource, one["type"]))[1]]
with open(sys.argv[1], "w") as file:
    json.dump(config, file)
END
    previous=$word
done
exec {runc} "$@"
"""
CAP_SYS_RESOURCE = 24


def _may_raise_limits():
    mask = int(snapshot_tool.status_of("self")["CapEff"], 16)
    return mask >> CAP_SYS_RESOURCE & 1 or resource.getrlimit(resource.RLIMIT_NPROC)[1] >= 1 << 20


def _runc(folder):
    real = dockerd.which("runc")
    if _may_raise_limits():
        return real
    path = folder / "runc"
    path.write_text(RUNC.replace("{runc}", real))
    path.chmod(0o755)
    return path


class Service(dockerd.Daemon):
    PREFIX = "berth-podman-"
    PROGRAMS = ("podman", "conmon", "runc")

    def __init__(self):
        super().__init__()
        # Those where it makes the first group of Podman's.
        self.hierarchies = [path for path in self._hierarchies() if not (path / PARENT).is_dir()]
        (self.folder / "containers.conf").write_text(CONF.format(runc=_runc(self.folder)))
        kind = subprocess.run(["stat", "-f", "-c", "%T", self.folder], check=True, text=True,
                              stdout=subprocess.PIPE).stdout.strip()
        storage = {"driver": "vfs" if kind == "overlayfs" else "overlay",
                   "graphroot": f"{self.folder}/data", "runroot": f"{self.folder}/run"}
        (self.folder / "storage.conf").write_text(
            "[storage]\n" + "".join(f'{name} = "{value}"\n' for name, value in storage.items()))

    # ---- life ----

    def _command(self, *words):
        return ["podman", "--tmpdir", f"{self.folder}/tmp", *words]

    def environment(self):
        return {**super().environment(), "CONTAINERS_CONF": f"{self.folder}/containers.conf",
                "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf"}

    def _start(self):
        self.dockerd = self._spawn(*self._command("system", "service", "-t", "0", f"unix://{self.socket}"))
        wait_until(self.answers, self.log)

    def _end_containerd(self):
        """Containers that a service which is no more has left."""
        subprocess.run(self._command("rm", "--all", "--force", "--time", "0"), check=False,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       env=self.environment(), timeout=HANG_SECS)

    def _remove_traces(self, ids):
        super()._remove_traces(ids)
        for path in self.hierarchies:  # Podman's own groups; not empty while another Podman is at work
            for empty in (path / PARENT / "conmon", path / PARENT):
                with contextlib.suppress(OSError):
                    empty.rmdir()

    # ---- what is there of it on the host ----

    @staticmethod
    def _hierarchies():
        root = pathlib.Path("/sys/fs/cgroup")
        return [root] + [root / name for name in snapshot_tool.listed(root)
                         if (root / name).is_dir() and not (root / name).is_symlink()]

    def owns(self, words, groups):
        return f"{self.folder}/" in words or any(one in groups for one in self._ids())

    def _ids(self):
        """Of all containers that there ever were: the group of them all may have others', too."""
        found = set()
        for line in harness.read(self.folder / "tmp/events/events.log").splitlines():
            with contextlib.suppress(ValueError):
                one = json.loads(line)
                found |= {one["ID"]} if one["Type"] == "container" else set()
        return found

    def groups(self):
        return list(self.container_groups())

    def container_groups(self):
        ids = self._ids()
        return {path: one for hierarchy in self._hierarchies() for one in ids
                if (path := hierarchy / PARENT / f"libpod-{one}").is_dir()}

    def shims(self):
        return [pid for pid in self.processes() if harness.read(f"/proc/{pid}/comm").strip() == "conmon"]

    def mounts(self):
        """Less that of the storage itself, which stays for as long as the service was ever there."""
        return [path for path in super().mounts() if path != f"{self.folder}/data/overlay"
                or not self.dockerd]

    # ---- the Engine API ----

    def import_image(self, name=images.NAME, path=None):
        """It takes no tag with the tar: the image gets it afterwards."""
        repository, _, tag = name.partition(":")
        super().import_image(repository, path)
        query = urllib.parse.urlencode({"repo": repository, "tag": tag})
        answer = self.request("POST", f"/images/{repository}:latest/tag?{query}")
        assert answer.status == 201, answer
        return name
