"""resources.gpu: what CDI specifications describe, given to one sandbox at a time. The "GPUs" are
harmless device nodes of this test's own; no real one is tried here."""
import json
import os
import pathlib
import stat
import tarfile

import pytest

import registry
from faults import skip_unless
from harness import assert_error, at_once, wait_until
from sessions import Session

LOCKS = pathlib.Path("/run/berth/ids")
KIND = "berth-test.invalid/gpu"
ZERO, FULL, NULL = (1, 5), (1, 7), (1, 3)
SEEN = """
import os, stat
for name in ("bt0", "bt1", "bt-all/ctl", "bt-ro"):
    path = "/dev/" + name
    if os.path.exists(path):
        info = os.stat(path)
        print(name, stat.S_ISCHR(info.st_mode), oct(stat.S_IMODE(info.st_mode)),
              os.major(info.st_rdev), os.minor(info.st_rdev))
"""


class Spec:
    def __init__(self, folder):
        self.folder = folder
        self.nodes = folder / "nodes"
        self.files = folder / "files"
        self.cdi = folder / "cdi"
        for path in (self.nodes, self.files, self.cdi):
            path.mkdir()
        for name, number in (("bt0", ZERO), ("bt1", FULL), ("ctl", NULL), ("ro", ZERO)):
            os.mknod(self.nodes / name, stat.S_IFCHR | 0o600, os.makedev(*number))
        (self.files / "driver.txt").write_text("driver\n")
        (self.files / "folder").mkdir()
        (self.files / "folder/inside.txt").write_text("inside\n")
        self.put()

    def node(self, name, host, **more):
        return {"path": f"/dev/{name}", "hostPath": str(self.nodes / host), **more}

    def text(self):
        mounts = [{"hostPath": str(self.files / "driver.txt"), "containerPath": "/srv/bt/driver.txt",
                   "options": ["rw", "bind"]},
                  {"hostPath": str(self.files / "folder"), "containerPath": "/srv/bt/folder"},
                  {"hostPath": "/nonexistent", "containerPath": "/srv/bt/none"},
                  {"hostPath": str(self.files / "driver.txt"), "containerPath": "/proc/evil"},
                  {"hostPath": str(self.files / "driver.txt"), "containerPath": "/srv/../etc/evil"}]
        hook = [{"hookName": "createContainer", "path": "/bin/touch",
                 "args": ["touch", str(self.folder / "hook-ran")]}]
        both = [self.node("bt0", "bt0"), self.node("bt1", "bt1")]
        return {"cdiVersion": "0.6.0", "kind": KIND, "devices": [
            {"name": "0", "containerEdits": {"deviceNodes": both[:1]}},
            {"name": "1", "containerEdits": {"deviceNodes": [
                both[1], self.node("bt-ro", "ro", permissions="r")]}},
            {"name": "GPU-0-by-another-name", "containerEdits": {"deviceNodes": both[:1]}},
            {"name": "all", "containerEdits": {"deviceNodes": both}}],
            "containerEdits": {"deviceNodes": [self.node("bt-all/ctl", "ctl")], "mounts": mounts,
                               "hooks": hook, "env": ["BERTH_TEST_GPU=1"]}}

    def put(self, text=None, name="bt.json"):
        (self.cdi / name).write_text(json.dumps(text or self.text()))
        os.chmod(self.cdi / name, 0o644)


@pytest.fixture
def spec(tmp_path):
    skip_unless(container=True)  # nodes and images need the host's root
    os.chmod(tmp_path, 0o755)  # noqa: S103: the files are read through it by nobody in particular
    yield Spec(tmp_path)
    for path in LOCKS.glob("gpu-berth-test*"):
        path.unlink()


@pytest.fixture
def gpus(spec, make_server):
    return make_server({"BERTH_CDI": str(spec.cdi)})


def limits(server):
    return server.get("/api/v1/info").json()["engines"][0]["limits"]


def test_without_any(make_server, tmp_path):
    server = make_server({"BERTH_CDI": str(tmp_path)})
    for asked in (1, "1", 1024):
        assert_error(server.post({"code": "1", "resources": {"gpu": asked}}), 400,
                     "resources.gpu: ", "this host has none to give")
    assert_error(server.post({"resources": {"gpu": 1}}, path="/sessions"), 400, "none to give")
    assert server.execute("print(1)", resources={"gpu": 0})["exit_code"] == 0
    engine = server.get("/api/v1/info").json()["engines"][0]
    assert engine["limits"]["gpus"] == 0 and "gpu" not in engine["capabilities"]


def test_info_and_more_than_there_are(gpus):
    engine = gpus.get("/api/v1/info").json()["engines"][0]
    assert engine["limits"]["gpus"] == 2 and "gpu" in engine["capabilities"]
    assert_error(gpus.post({"code": "1", "resources": {"gpu": 3}}), 400, "resources.gpu: 3 ",
                 "this host has 2")


@pytest.mark.parametrize("profile", ["strict", "container"])
@pytest.mark.parametrize("storage", [None, "400MB"])
def test_nodes_and_files(gpus, spec, profile, storage):
    skip_unless(disk=storage is not None)
    more = {"storage": storage} if storage else {}
    done = gpus.execute(SEEN, profile=profile, resources={"gpu": 1, **more})
    assert done["stdout"] == "bt0 True 0o666 1 5\nbt-all/ctl True 0o666 1 3\n", done
    done = gpus.execute(SEEN, profile=profile, resources={"gpu": 2, **more})
    assert done["stdout"] == ("bt0 True 0o666 1 5\nbt1 True 0o666 1 7\nbt-all/ctl True 0o666 1 3\n"
                              "bt-ro True 0o444 1 5\n"), done
    code = ("print(open('/dev/bt0', 'rb').read(4), open('/srv/bt/driver.txt').read().strip(),"
            " open('/srv/bt/folder/inside.txt').read().strip())\n"
            "import os\n"
            "for path in ('/srv/bt/driver.txt', '/srv/bt/folder/new', '/dev/new', '/dev/bt0x'):\n"
            "    try:\n"
            "        open(path, 'w').close(); print('wrote', path)\n"
            "    except OSError as problem:\n"
            "        print(type(problem).__name__)\n"
            "print(os.path.exists('/srv/bt/none'), os.path.exists('/etc/evil'),"
            " os.path.exists('/proc/evil'), os.path.exists('/dev/null'))\n")
    done = gpus.execute(code, profile=profile, resources={"gpu": 1, **more})
    lines = done["stdout"].splitlines()
    assert lines[0] == r"b'\x00\x00\x00\x00' driver inside", done
    assert lines[1:5] == ["OSError"] * 4 and lines[5] == "False False False True", done
    assert (spec.files / "driver.txt").read_text() == "driver\n"
    assert os.listdir(spec.files / "folder") == ["inside.txt"]
    assert not (spec.folder / "hook-ran").exists()


def test_without_asking_there_is_none(gpus):
    assert gpus.execute(SEEN)["stdout"] == ""
    assert gpus.execute("import os; print(os.path.exists('/srv/bt'))")["stdout"] == "False\n"


def test_one_sandbox_at_a_time(gpus):
    first = Session(gpus, resources={"gpu": 1})
    second = Session(gpus, resources={"gpu": 1})
    assert "bt0" in first.run(SEEN)["stdout"] and "bt1" not in first.run(SEEN)["stdout"]
    assert "bt1" in second.run(SEEN)["stdout"] and "bt0" not in second.run(SEEN)["stdout"]
    answer = gpus.post({"code": "1", "resources": {"gpu": 1}})
    assert_error(answer, 503, "resources.gpu: 1 ", "0 of the 2")
    assert int(answer.headers["Retry-After"]) > 0
    assert_error(gpus.post({"code": "1", "resources": {"gpu": 2}}), 503, "0 of the 2")
    first.delete()
    wait_until(lambda: gpus.post({"code": "1", "resources": {"gpu": 1}}).status == 200, gpus.log)
    assert_error(gpus.post({"code": "1", "resources": {"gpu": 2}}), 503, "1 of the 2")
    second.delete()


def test_another_server_of_the_host(gpus, spec, make_server):
    other = make_server({"BERTH_CDI": str(spec.cdi)})
    session = Session(gpus, resources={"gpu": 2})
    assert_error(other.post({"code": "1", "resources": {"gpu": 1}}), 503, "0 of the 2")
    session.delete()
    wait_until(lambda: other.post({"code": "1", "resources": {"gpu": 2}}).status == 200, other.log)


def test_engine_that_died_has_forgotten_nothing(gpus):
    session = Session(gpus, resources={"gpu": 2})
    os.kill(gpus.child("berth-native"), 9)
    wait_until(lambda: gpus.post({"code": "1"}).status == 200, gpus.log)
    assert_error(gpus.post({"code": "1", "resources": {"gpu": 1}}), 503, "0 of the 2")
    assert "bt0" in session.run(SEEN)["stdout"]
    session.delete()
    wait_until(lambda: gpus.post({"code": "1", "resources": {"gpu": 2}}).status == 200, gpus.log)


def test_many_at_once_never_share(gpus):
    code = SEEN + "import time; time.sleep(0.2)"
    answers = at_once([lambda: gpus.post({"code": code, "resources": {"gpu": 1}})] * 8)
    assert {answer.status for answer in answers} <= {200, 503}
    for answer in (one.json() for one in answers if one.status == 200):
        assert ("bt0" in answer["stdout"]) != ("bt1" in answer["stdout"]), answer


@pytest.mark.parametrize("fault", ["owner", "mode", "folder", "not json", "kind", "yaml", "empty"])
def test_specification_that_is_not_believed(spec, make_server, fault):
    path = spec.cdi / "bt.json"
    if fault == "owner":
        os.chown(path, 1234, 0)
    elif fault == "mode":
        os.chmod(path, 0o666)  # noqa: S103
    elif fault == "folder":
        os.chmod(spec.cdi, 0o777)  # noqa: S103
    elif fault == "not json":
        path.write_text("{")
    elif fault == "kind":
        spec.put({**spec.text(), "kind": "berth-test.invalid/nic"})
    elif fault == "yaml":
        path.rename(spec.cdi / "bt.yaml")
    else:
        spec.put({**spec.text(), "devices": []})
    server = make_server({"BERTH_CDI": str(spec.cdi)})
    assert limits(server)["gpus"] == 0
    if fault not in ("kind", "empty"):
        assert "CDI specification" in server.log() and "not used" in server.log()


def test_node_that_is_gone(gpus, spec):
    (spec.nodes / "bt0").unlink()
    answer = gpus.post({"code": "1", "resources": {"gpu": 1}})
    assert_error(answer, 503)
    assert "bt0 is no device" in gpus.log()


@pytest.mark.parametrize("name", ["stdin", "null", "pts"])
def test_name_that_is_taken(spec, make_server, name):
    """Never followed where it is a link, and never another device under the name that was meant."""
    text = spec.text()
    text["devices"][0]["containerEdits"]["deviceNodes"].append(spec.node(name, "bt0"))
    spec.put(text)
    server = make_server({"BERTH_CDI": str(spec.cdi)})
    assert_error(server.post({"code": "1", "resources": {"gpu": 1}}), 503)
    assert f"make dev/{name}: File exists" in server.log()


def test_image_of_its_own(spec, make_server, tmp_path):
    """A folder as image: places are made for the files, and none through a link of the image."""
    images = tmp_path / "images"
    images.mkdir(mode=0o700)
    (images / "box").mkdir()
    registry.python_layer(tmp_path / "base.tar")
    with tarfile.open(tmp_path / "base.tar") as tar:
        tar.extractall(images / "box")
    text = spec.text()
    driver = str(spec.files / "driver.txt")
    text["containerEdits"]["mounts"] = [
        {"hostPath": driver, "containerPath": "/usr/lib/bt/libbt.so.1"},
        {"hostPath": driver, "containerPath": "/lib/libbt.so.1"},  # lib is a link
        {"hostPath": driver, "containerPath": "/usr/lib"},         # a folder is there
    ] + [{"hostPath": driver, "containerPath": f"/usr/share/bt/{n}"} for n in range(100)]
    spec.put(text)
    server = make_server({"BERTH_CDI": str(spec.cdi), "BERTH_IMAGES": str(images)})
    code = ("import os\nprint(open('/usr/lib/bt/libbt.so.1').read().strip(), os.readlink('/lib'),"
            " os.path.exists('/lib/libbt.so.1'), len(os.listdir('/usr/share/bt')))")
    done = server.execute(code, image="box", resources={"gpu": 1})
    assert done["stdout"] == "driver usr/lib False 100\n", done
    assert not (images / "box/usr/share").exists() and not (images / "box/usr/lib/bt").exists()
