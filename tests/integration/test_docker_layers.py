"""Library layers of the engine docker, end to end: pip in a container, the tar that comes of it, and what a
container shows once it was unpacked there."""
import os
import pathlib
import shutil
import tarfile

import pytest

import dockerd
import harness
import images
import netrig
import podman
import pyindex
import ways
from harness import assert_error
from sessions import Session

PIP = ("pip", "distutils", "setuptools", "pkg_resources", "_distutils_hack")  # of Debian's packages
FOLDERS = ("/usr/lib/python3/dist-packages", "/usr/lib/python3.11")
LOOK = """
import os
for name in sorted(os.listdir('/opt/libraries')):
    info = os.lstat('/opt/libraries/' + name)
    print(name, info.st_uid, oct(info.st_mode))
info = os.lstat('/opt/libraries')
print(info.st_uid, oct(info.st_mode))
"""


def image_with_pip(path):
    """The tests' image, and the host's pip in it."""
    shutil.copy(images.tar_path(), path)
    with tarfile.open(path) as tar:
        there = set(tar.getnames())
    with tarfile.open(path, "a") as tar:
        for at in (pathlib.Path(folder, name) for folder in FOLDERS for name in PIP):
            for path in [at, *at.rglob("*")]:
                if path.exists() and str(path)[1:] not in there:
                    tar.add(path, str(path)[1:], recursive=False)


@pytest.fixture(scope="module", params=["docker", "podman"] if ways.everything() else ["docker"])
def rig(tmp_path_factory, request):
    kind = podman.Service if request.param == "podman" else dockerd.Daemon
    missing = kind.missing() + ([] if os.path.isdir(f"{FOLDERS[0]}/pip") else ["pip"])
    if missing:
        pytest.skip(f"there is no {', '.join(missing)} (scripts/deps.sh engines)")
    index = pyindex.Index()
    for name in ("alpha", "beta"):
        index.add(pyindex.wheel(name, {f"{name}/deep/er/__init__.py": f"WORD = '{name}'\n"}))
    tar = tmp_path_factory.mktemp("image") / "image.tar"
    image_with_pip(tar)
    with kind() as daemon:
        daemon.import_image(path=tar)
        os.unlink(tar)
        server = netrig.NamedServer({pyindex.NAME: "127.0.0.1"},
                                    ways.settings_for(request.param, daemon, index.settings()))
        try:
            yield server.start()
        finally:
            harness.end(server)
            index.close()


@pytest.mark.every_way
def test_a_layer_is_roots_and_takes_the_place_of_what_was_there(rig):
    session = Session(rig, libraries=[])
    session.run("import os\nos.symlink('/etc', '/opt/libraries/alpha')\nx = 1")
    done = session.run("import alpha.deep.er; print(alpha.deep.er.WORD, x)", libraries=["alpha"])
    assert done["stdout"] == "alpha 1\n", done
    names = session.run(LOOK)["stdout"].splitlines()
    assert names == ["alpha 0 0o40755", "alpha-1.0.dist-info 0 0o40755", "0 0o40755"]
    assert "PermissionError" in session.run("open('/opt/libraries/x', 'w')")["stderr"]
    assert session.run("import os; print(os.path.exists('/etc/deep'))")["stdout"] == "False\n"
    done = session.run("import beta.deep.er; print(beta.deep.er.WORD, x)", libraries=["beta"])
    assert done["stdout"] == "beta 1\n", done
    session.delete()


def test_nothing_of_the_one_before_stays(rig):
    if "container" not in rig.get("/api/v1/info").json()["engines"][0]["profiles"]:  # none else writes there
        assert_error(rig.post({"profile": "container"}, path="/sessions"), 400, "container")
        return
    session = Session(rig, profile="container", libraries=["alpha"])
    session.run("open('/opt/libraries/planted.py', 'w').close()\nx = 2")
    done = session.run("import alpha, beta; print(x)", libraries=["beta"])
    assert done["stdout"] == "2\n", done
    assert session.run(LOOK)["stdout"].splitlines() == [
        "alpha 0 0o40755", "alpha-1.0.dist-info 0 0o40755", "beta 0 0o40755",
        "beta-1.0.dist-info 0 0o40755", "0 0o40755"]
    session.delete()


def test_the_installers_words(rig):
    assert_error(rig.post({"libraries": ["no-such"]}, path="/sessions"), 400, "no-such")
