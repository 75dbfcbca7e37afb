"""A Docker daemon of the tests' own: containerd and dockerd by process id, on a temporary folder and a
unix socket there, without a network, with gVisor's runsc as a second runtime. Neither a daemon that the
host runs already nor its containers are touched. The Engine API is spoken by hand: no client's library
is between a test and what the daemon says."""
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse

import images
from harness import HANG_SECS, Answer, read, snapshot_tool, wait_until

SHIM_SOCKETS = pathlib.Path("/run/containerd/s")  # shims' own place, whatever containerd is told
# Its way to tell the host's network namespace from others fails on newer kernels, so it gets no network
# at all; "ptrace" is the platform that needs nothing of the host.
RUNSC_ARGUMENTS = ["--platform=ptrace", "--network=none"]
CONTAINERD = """version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
"""


def search_path():
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def which(program):
    return shutil.which(program, path=search_path())


def missing(programs=None):
    """The programs that are not there; a test that needs them skips with their names."""
    return [name for name in programs or Daemon.PROGRAMS if not which(name)]


class _Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout_secs):
        super().__init__("docker", timeout=timeout_secs)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon:
    """containerd, which stays when dockerd is killed, as systemd keeps them, and dockerd."""

    PREFIX = "berth-docker-"
    PROGRAMS = ("dockerd", "containerd", "runc", "runsc")

    @classmethod
    def missing(cls):
        return missing(cls.PROGRAMS)

    def __init__(self, live_restore=False, arguments=()):
        self.arguments = list(arguments)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=self.PREFIX))
        self.name = self.folder.name
        self.log_path = self.folder / "log"
        self.socket = str(self.folder / "docker.sock")
        self.containerd = self.dockerd = None
        config = {"runtimes": {"runsc": {"path": shutil.which("runsc") or "runsc",
                                         "runtimeArgs": RUNSC_ARGUMENTS}},
                  "live-restore": live_restore}
        (self.folder / "daemon.json").write_text(json.dumps(config))
        (self.folder / "containerd.toml").write_text(CONTAINERD.format(folder=self.folder))

    # ---- life ----

    def environment(self):
        return {**os.environ, "PATH": search_path()}

    def _spawn(self, *command):
        with open(self.log_path, "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    env=self.environment(), start_new_session=True)

    def start(self):
        """Both, or dockerd alone after kill(). One that does not come up leaves nothing behind."""
        try:
            self._start()
        except BaseException:
            self.remove()
            raise
        return self

    def _start(self):
        if not self.containerd:
            self.containerd = self._spawn("containerd", "--config", f"{self.folder}/containerd.toml")
            wait_until(lambda: os.path.exists(self.folder / "containerd.sock"), self.log)
        (self.folder / "docker.pid").unlink(missing_ok=True)
        self.dockerd = self._spawn(
            "dockerd", "--config-file", f"{self.folder}/daemon.json", "--containerd",
            f"{self.folder}/containerd.sock", "--data-root", f"{self.folder}/data", "--exec-root",
            f"{self.folder}/exec", "--pidfile", f"{self.folder}/docker.pid", "-H",
            f"unix://{self.socket}", "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--cgroup-parent", f"/{self.name}", "--bridge=none", "--iptables=false",
            "--ip6tables=false", "--ip-masq=false", *self.arguments)
        wait_until(self.answers, self.log)

    def answers(self):
        assert self.dockerd.poll() is None, f"dockerd ended\n{self.log()}"
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.request("GET", "/_ping", timeout_secs=5).status == 200
        return False

    def kill(self, signal_number=signal.SIGKILL):
        """Ends dockerd alone; containers live on where the daemon restores them, or it was killed."""
        self.dockerd.send_signal(signal_number)
        self.dockerd.wait(HANG_SECS)
        self.dockerd = None

    def freeze(self):
        """A daemon that takes connections and says nothing, until thaw()."""
        self.dockerd.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.dockerd.send_signal(signal.SIGCONT)

    def remove(self):
        """Ends all that there is of it: containers, daemons, shims, mounts, groups, files. Each step is
        taken, whatever became of the one before; a second call finds nothing to do."""
        ids = [path.name for path in (self.folder / "data/containers").glob("*")]
        failures = []
        for step in (self._end_dockerd, self._end_containerd, self._kill_what_is_left,
                     lambda: self._remove_traces(ids)):
            try:
                step()
            except Exception as problem:  # noqa: BLE001: the others have to be taken as well
                failures.append(repr(problem))
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not failures, failures

    def _end_dockerd(self):
        if not self.dockerd:
            return
        if self.dockerd.poll() is None:
            self.thaw()
            for one in self.containers():
                self.delete(one["Id"])
        self.kill(signal.SIGTERM)

    def _end_containerd(self):
        for pid in self.shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if self.containerd:
            self.containerd.terminate()
            self.containerd.wait(HANG_SECS)
            self.containerd = None

    def _kill_what_is_left(self):
        for pid in {*self.processes(), *self._in_groups()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for daemon in filter(None, (self.dockerd, self.containerd)):
            daemon.wait(HANG_SECS)
        self.dockerd = self.containerd = None

    def _remove_traces(self, ids):
        for path in reversed(self.mounts()):
            subprocess.run(["umount", "-l", path], check=False)
        for one in ids:
            at = f"{self.folder}/containerd.sock/moby/{one}".encode()
            (SHIM_SOCKETS / hashlib.sha256(at).hexdigest()).unlink(missing_ok=True)
        wait_until(lambda: not self.processes() and not self._remove_groups(), "its processes end")

    def _in_groups(self):
        """Process ids of what runs in its control groups: a container that its daemon did not end."""
        return [int(pid) for path in self.groups() for folder, _, _ in os.walk(path)
                for pid in read(f"{folder}/cgroup.procs").split()]

    def _remove_groups(self):
        """Removes its control groups, bottom up; returns those that stay."""
        for path in self.groups():
            for folder, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        return self.groups()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.remove()

    def log(self):
        return read(self.log_path)[-4000:]

    # ---- what is there of it on the host ----

    def processes(self):
        """Process ids of all that was started with its folder in the command line."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            status = snapshot_tool.status_of(name)
            if status and not status.get("State", "Z").startswith("Z") and \
                    f"{self.folder}/" in read(f"/proc/{name}/cmdline"):
                found.append(int(name))
        return found

    def owns(self, words, groups):
        """Whether a process with this command line and these control groups is of it."""
        return f"{self.folder}/" in words or f"/{self.name}/" in groups

    def shims(self):
        return [pid for pid in self.processes() if "containerd-shim" in read(f"/proc/{pid}/cmdline")]

    def mounts(self):
        lines = read("/proc/self/mountinfo").splitlines()
        return [path for line in lines if (path := line.split()[4]).startswith(f"{self.folder}/")]

    def groups(self):
        root = pathlib.Path("/sys/fs/cgroup")
        places = [root / self.name] + [root / mount / self.name
                                       for mount in snapshot_tool.listed(root)]
        return [path for path in places if path.is_dir() and not path.parent.is_symlink()]

    def container_groups(self):
        """{control group of a container: its id}"""
        return {path: path.name for group in self.groups() for path in group.iterdir() if path.is_dir()}

    def traces(self):
        """All that containers leave, for a look before and after: names, in words."""
        found = [f"container {one['Id'][:12]} {one['State']} {one['Names']}" for one in self.containers()]
        found += [f"shim {pid}" for pid in self.shims()]
        found += [f"mount {path}" for path in self.mounts()]
        return found + [f"group {path}" for path in self.container_groups()]

    # ---- the Engine API ----

    def request(self, method, path, body=None, headers=None, timeout_secs=HANG_SECS):
        connection = _Connection(self.socket, timeout_secs)
        try:
            if isinstance(body, (dict, list)):
                body, headers = json.dumps(body), {"Content-Type": "application/json"}
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def containers(self, **labels):
        """All, running or not, that have these labels."""
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]} if labels else {}
        query = urllib.parse.urlencode({"all": 1, "filters": json.dumps(wanted)})
        return self.request("GET", f"/containers/json?{query}").json()

    def inspect(self, name):
        return self.request("GET", f"/containers/{name}/json").json()

    def delete(self, name):
        """As an operator who removes a container behind berth's back."""
        return self.request("DELETE", f"/containers/{name}?force=1&v=1").status

    def import_image(self, name=images.NAME, path=None):
        """The tests' image, of a tar of its root."""
        repository, _, tag = name.partition(":")
        query = urllib.parse.urlencode({"fromSrc": "-", "repo": repository, "tag": tag or "latest"})
        with open(path or images.tar_path(), "rb") as tar:
            answer = self.request("POST", f"/images/create?{query}", tar,
                                  {"Content-Type": "application/x-tar"})
        assert answer.status == 200 and b'"error"' not in answer.body, answer
        return name

    @property
    def settings(self):
        """What a server needs to find it, and its image."""
        return {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BASE_IMAGE": images.NAME}


def wait_quiet(daemon, before, secs=HANG_SECS):
    """Waits until nothing is there that was not before."""

    def more():
        return sorted(set(daemon.traces()) - set(before))

    end = time.monotonic() + secs
    while (left := more()) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left, "left behind: " + "; ".join(left[:20])
