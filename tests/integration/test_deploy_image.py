"""deploy/Dockerfile: the image is built by a daemon of the tests' own from this tree, on a base that
debootstrap makes, and its container serves as the head of that file says. Minutes of compilation: in
`make test-engines` only."""
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import tarfile

import pytest

import harness
import images
import registry
from harness import REPO, wait_until
from sessions import Session

IMAGE = "berth-deployed:1"
DOCKERFILE = "deploy/Dockerfile"
BUILD_SECS = 1800 * harness.SLOW


def context():
    """The tree as a tar, without what .dockerignore leaves out."""
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPO,
                           check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in filter(None, names):
            if os.path.lexists(REPO / name):
                tar.add(REPO / name, name, recursive=False)
    return out.getvalue()


@pytest.fixture(scope="module")
def image(docker):
    signal.alarm(BUILD_SECS)
    for name in re.findall(r"^FROM (\S+)", (REPO / DOCKERFILE).read_text(), re.M):
        docker.import_image(name, images.base_path())
    query = f"/build?dockerfile={DOCKERFILE}&t={IMAGE}&networkmode=host&forcerm=1"
    answer = docker.request("POST", query, context(), {"Content-Type": "application/x-tar"}, BUILD_SECS)
    said = [json.loads(line) for line in answer.body.splitlines()]
    words = "".join(one.get("stream", one.get("error", "")) for one in said)
    assert answer.status == 200 and not any("error" in one for one in said), words[-6000:]
    return IMAGE


class Deployed(harness.Server):
    """berth in a container, as the head of the Dockerfile starts it."""

    def __init__(self, daemon, image, volume):
        super().__init__()
        self.daemon, self.image, self.volume = daemon, image, volume
        self.id = None

    def start(self):
        self.port = registry.free_port()
        answer = self.daemon.request("POST", "/containers/create", {
            "Image": self.image, "Env": ["DOCKER_BASE_IMAGE=" + images.NAME, f"PORT={self.port}"],
            "StopTimeout": 40,
            "HostConfig": {"NetworkMode": "host",
                           "Binds": [f"{self.volume}:/var/lib/berth",
                                     f"{self.daemon.socket}:/var/run/docker.sock"]}})
        assert answer.status == 201, answer
        self.id = answer.json()["Id"]
        assert self.daemon.request("POST", f"/containers/{self.id}/start").status == 204, self.log()
        wait_until(self.answers, self.log)
        return self

    def answers(self):
        assert self.daemon.inspect(self.id)["State"]["Running"], self.log()
        with contextlib.suppress(OSError):
            return self.get("/health").status == 200
        return False

    def log(self):
        return self.daemon.request("GET", f"/containers/{self.id}/logs?stdout=1&stderr=1").body.decode(
            errors="replace")[-4000:]

    def stop(self, signal_number=signal.SIGTERM):
        """As `docker stop`; its exit code."""
        assert self.daemon.request("POST", f"/containers/{self.id}/stop").status in (204, 304)
        return self.daemon.inspect(self.id)["State"]["ExitCode"]

    def remove(self):
        super().remove()
        if self.id:
            self.daemon.delete(self.id)
            self.id = None


@pytest.fixture
def deploy(docker, image):
    """deploy(): a container of the image, on a volume that all of the test have."""
    signal.alarm(BUILD_SECS)
    made, volume = [], "berth-deployed"

    def make():
        made.append(Deployed(docker, image, volume))
        return made[-1].start()

    yield make
    for one in made:
        one.remove()
    docker.request("DELETE", f"/volumes/{volume}?force=1")
    for one in docker.containers():
        docker.delete(one["Id"])


def sandboxes(daemon):
    return [one for one in daemon.containers() if "berth.sandbox" in one["Labels"]]


def test_it_serves_and_ends(docker, deploy):
    server = deploy()
    done = server.execute("print('hello')")
    assert (done["status"], done["stdout"]) == ("success", "hello\n"), (done, server.log())
    engine = server.get("/api/v1/info").json()["engines"][0]
    assert engine["name"] == "docker", engine
    one = Session(server)
    one.run("x = 7")
    assert one.run("x")["results"] == [{"text/plain": "7"}]
    assert sandboxes(docker)
    one.delete()
    assert server.stop() == 0, server.log()
    assert not sandboxes(docker), server.log()


def test_a_new_container_takes_up_the_sessions(docker, deploy):
    """The volume has the books, the daemon the sandboxes: an upgrade is a new container."""
    server = deploy()
    one = Session(server)
    one.run("open('kept', 'w').write('here')")
    assert server.stop() == 0, server.log()
    server.remove()
    server = deploy()
    one.server = server
    assert one.run("print(open('kept').read())")["stdout"] == "here\n"
    one.delete()
