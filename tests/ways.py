"""The ways of running a sandbox that the conformance suites compare: an engine, or one of its runtimes,
each behind a server of its own whose default it is. A suite takes `subject` and speaks the same HTTP to
all of them; what a way can't do is a capability that it lacks, which the suites look at, never a skip.

`make test` runs all on native and fake, and on the others, where a sandbox takes a second, what is marked
(`pytest.mark.every_way`). `make test-engines` runs all on all: BERTH_TEST_WAYS=all; that may also name
ways, "native docker"."""
import contextlib
import os
import pathlib
import shutil
import signal

import dockerd
import harness
import podman
from harness import wait_until

FAKE = {"BERTH_ENGINE": "fake", "BERTH_TESTING": "1"}
# name: (its engine, its runtime or the engine's first, the engine's program, settings)
WAYS = {
    "native": ("native", None, "berth-native", {}),
    "fake": ("fake", None, None, FAKE),
    "docker": ("docker", "runc", "berth-docker", {"BERTH_ENGINES": "docker"}),
    "docker/runsc": ("docker", "runsc", "berth-docker", {
        "BERTH_ENGINES": "docker", "BERTH_ENGINE_EXECUTE": "docker/runsc",
        "BERTH_ENGINE_SESSIONS": "docker/runsc"}),
    "podman": ("docker", "runc", "berth-docker", {"BERTH_ENGINES": "docker"}),
    "native/runsc": ("native", "runsc", "berth-native", {
        "BERTH_ENGINE_EXECUTE": "native/runsc", "BERTH_ENGINE_SESSIONS": "native/runsc"}),
}
SLOW_WAYS = ("docker", "docker/runsc", "podman", "native/runsc")
# Of these, `make test` runs only the tests whose mark names them: pytest.mark.every_way("podman").
RARE_WAYS = ("podman",)
# The fixtures (conftest.py) of the daemons behind ways of the engine docker.
DAEMONS = {"docker": "docker", "docker/runsc": "docker", "podman": "podman"}


def chosen():
    """The ways of this run."""
    named = os.environ.get("BERTH_TEST_WAYS")
    names = list(WAYS) if named in (None, "", "all") else named.split()
    unknown = set(names) - set(WAYS)
    assert not unknown, f"BERTH_TEST_WAYS: there is no {unknown}; there are {', '.join(WAYS)}"
    return names


def everything():
    """Whether slow ways run all, too."""
    return bool(os.environ.get("BERTH_TEST_WAYS"))


def names_for(mark):
    """The ways that a test with this mark `every_way`, or None, runs on."""
    def wanted(name):
        return name not in SLOW_WAYS or (mark and (name not in RARE_WAYS or name in mark.args))

    return [name for name in chosen() if everything() or wanted(name)]


def missing(name):
    """The programs that a way needs and that are not there."""
    if name in DAEMONS:
        return {"docker": dockerd.Daemon, "podman": podman.Service}[DAEMONS[name]].missing()
    return [] if name != "native/runsc" or shutil.which("runsc") else ["runsc"]


def settings_for(name, daemon=None, env=None):
    settings = dict(WAYS[name][3])
    if daemon:
        settings.update(daemon.settings)
    settings.update(env or {})
    return settings


class DockerServer(harness.Server):
    """Its sandboxes are containers: what there is of them, the daemon knows."""

    def __init__(self, daemon, env):
        super().__init__(env)
        self.daemon = daemon

    def containers(self):
        return self.daemon.containers(**{"berth.instance": self.instance}) if self.instance else []

    def inits(self):
        """{sandbox id: process id}: of init, or of what plays its kernel (runsc)."""
        found = {}
        for one in self.containers():
            pid = self.daemon.inspect(one["Id"]).get("State", {}).get("Pid")  # it may have gone meanwhile
            if pid:
                found[one["Labels"]["berth.sandbox"]] = pid
        return found

    def groups_of(self, sandbox_id):
        names = [one["Id"] for one in self.containers()
                 if one["Labels"]["berth.sandbox"] == sandbox_id]
        return [path for path, name in self.daemon.container_groups().items() if name in names]

    def leftovers(self):
        """And containers, and groups of containers that are no more."""
        found = super().leftovers()
        if self.daemon.dockerd:
            found += [f"container {one['Names']} {one['State']}" for one in self.containers()]
            there = {one["Id"] for one in self.daemon.containers()}
            found += [f"group {path}" for path, name in self.daemon.container_groups().items()
                      if name not in there]
        return found

    def remove(self):
        if self.daemon.dockerd:  # what a test that failed left there
            for one in self.containers():
                self.daemon.delete(one["Id"])
        super().remove()


def new_server(name, daemon=None, env=None):
    """A server whose default is this way; not started."""
    settings = settings_for(name, daemon, env)
    return DockerServer(daemon, settings) if daemon else harness.Server(settings)


class Subject:
    """A server with one way as its default, and how to say a thing in the language of its sandboxes."""

    def __init__(self, name, server, daemon=None):
        self.name, self.server, self.daemon = name, server, daemon
        self.engine, self.runtime, self.program, _ = WAYS[name]
        self.fake = name == "fake"
        self.gvisor = name.endswith("runsc")
        self.place = 1 if self.fake else 0  # of a pair (Python, the fake's script)
        # A server does not wait for its engines, nor an engine for a daemon that takes its time.
        entry = wait_until(lambda: (found := self.info())["capabilities"] and found, "its engine is there")
        runtime = self._runtime(entry)
        self.capabilities = set((runtime or entry)["capabilities"])
        self.profiles = entry["profiles"]
        self.slow = name in SLOW_WAYS
        # Podman closes a container's standard input when who was attached is gone: no new engine can speak
        # to its init, and ends it.
        self.outlives = name != "podman"
        self.size = 6 if self.slow else 30  # of a crowd that it is through with soon

    def info(self):
        found = [one for one in self.server.get("/api/v1/info").json()["engines"]
                 if one["name"] == self.engine]
        assert len(found) == 1, f"{self.engine} is not in /api/v1/info"
        return found[0]

    def _runtime(self, entry):
        """The entry of its runtime; None in an engine that lists none."""
        listed = {one["name"]: one for one in entry.get("runtimes") or []}
        if not listed:
            assert self.runtime is None, f"{self.engine} lists no runtimes"
            return None
        name = self.runtime or entry["runtimes"][0]["name"]
        assert name in listed, f"{self.name}: {self.engine} has {list(listed)}"
        return listed[name]

    def can(self, word):
        return word in self.capabilities

    def say(self, pair):
        return pair[self.place]

    def run(self, pair, **fields):
        return self.server.execute(self.say(pair), **fields)

    def small(self):
        """Resources that are soon used up; no size of files where it enforces none."""
        storage = {"storage": "8MiB"} if self.can("storage") else {}
        return {"ram": "64MiB", **storage}

    def living(self):
        return self.server.metric("berth_sandboxes")

    # ---- what there is of it outside ----

    def kill_engine(self):
        """kill -9 of the engine's process, and the wait for the next one. Not on fake: it has none."""
        old = self.server.child(self.program)
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.server.children().get(self.program) not in (None, old),
                   "the engine is started again")

    def kill_sandboxes(self):
        """The death of every sandbox by itself, as the kernel or an operator does it."""
        if self.daemon:
            for one in self.server.containers():
                self.daemon.request("POST", f"/containers/{one['Id']}/kill")
            return
        for pid in self.server.inits().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_clean(self):
        wait_until(lambda: self.living() == 0, "no sandbox lives")
        if not self.fake:
            self.server.wait_clean()


def answers_again(server):
    """The server takes requests after a death; until then it is started."""
    def look():
        with contextlib.suppress(OSError):
            return server.get("/health").status == 200
        return False

    wait_until(look, "it answers again")


def kill_program(server, program):
    """kill -9 of the server or the engine, or of the monitor with a new start on the same state."""
    if program == "monitor":
        old = set(server.children().values())
        server.kill()
        wait_until(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in old), "all end")
        server.start()
    else:
        pid = server.child(program)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.children().get(program) not in (None, pid), f"another {program}")
    answers_again(server)

