"""The images that the engine docker prepares: what is made of one is as what is filled by itself, under
runc and under gVisor, and its secret is nobody's to see."""
import os
import signal

import pytest

import dockerd
import harness
import ways
from harness import wait_until
from sessions import Session

LOOK = """
import os
for path in ('/workspace', '/tmp', '/home/sandbox', '/opt/libraries', '/.berth'):
    try:
        info = os.lstat(path)
        print(path, info.st_uid, oct(info.st_mode))
    except FileNotFoundError:
        print(path, 'is not there')
try:
    said = open('/proc/1/environ').read().partition('BERTH_INIT_CONFIG=')[2]
    print(bool(said[:64].strip(chr(0))))
except OSError:
    print(False)
print([name for name in os.environ if 'BERTH' in name])
"""


@pytest.fixture
def rig(request):
    missing = dockerd.missing()
    if missing:
        pytest.skip(f"there is no {', '.join(missing)} (scripts/deps.sh engines)")
    with dockerd.Daemon() as daemon:
        daemon.import_image()
        server = ways.new_server(request.param, daemon)
        try:
            yield daemon, server.start()
        finally:
            harness.end(server)


def image_of(daemon, server):
    """Of the one container that runs: what it was made of."""
    wait_until(lambda: len(server.inits()) == 1, "one runs")
    name = next(iter(server.containers()))["Id"]
    return daemon.inspect(name)["Config"]["Image"]


def prepared(daemon):
    """{id: whether it has a name} of what was prepared."""
    images = daemon.request("GET", "/images/json").json()
    return {one["Id"]: one["RepoTags"] for one in images if "berth.base" in (one["Labels"] or {})}


# gVisor of Docker's has no profile container.
@pytest.mark.parametrize("rig, profile", [
    ("docker", "strict"), ("docker", "container"), ("docker/runsc", "strict")], indirect=["rig"])
def test_one_that_is_made_of_it_is_as_any(rig, profile):
    daemon, server = rig
    first = Session(server, profile=profile)
    assert image_of(daemon, server) == daemon.settings["DOCKER_BASE_IMAGE"]
    filled = first.run(LOOK)["stdout"]
    first.delete()
    wait_until(lambda: prepared(daemon), lambda: f"an image is prepared\n{server.log()}")
    second = Session(server, profile=profile)
    assert image_of(daemon, server) in prepared(daemon)
    made = second.run(LOOK)["stdout"]
    assert made == filled and "False\n[]" in made, (filled, made)
    second.delete()
    server.wait_clean()
    assert not daemon.containers()


@pytest.mark.parametrize("rig", ["docker"], indirect=True)
def test_the_next_engine_takes_none_for_another(rig):
    """Whichever profile it needs first: each has an image of its own, and that is found again."""
    daemon, server = rig
    seen = {}
    for profile in ("strict", "container"):
        session = Session(server, profile=profile)
        seen[profile] = session.run(LOOK)["stdout"]
        session.delete()
        wait_until(lambda: len(prepared(daemon)) == len(seen), server.log)
    assert seen["strict"] != seen["container"]
    images = prepared(daemon)
    old = server.child("berth-docker")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: server.children().get("berth-docker") not in (None, old), "the next engine")
    for profile in ("container", "strict"):

        def is_made_of_one():
            session = Session(server, profile=profile)
            found = image_of(daemon, server)
            assert session.run(LOOK)["stdout"] == seen[profile], (profile, found, images)
            session.delete()
            return found in images

        wait_until(is_made_of_one, server.log)
    assert prepared(daemon) == images
