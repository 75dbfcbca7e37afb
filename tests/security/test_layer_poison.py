"""Library layers are shared: whoever asks for a set gets what its installer made of it, and nothing that
another caller put beside it. Here callers try: by variables, by files, by packages that write where they
should not, and from inside of a sandbox that has the layer."""
import base64
import os
import pathlib

import pytest

import harness
import netrig
import pyindex
from sessions import Session

SHOW = "import victim; print(victim.WORD, victim.__file__)"
GOOD = "genuine /opt/libraries/victim.py\n"
EVIL_CODE = """
def plant(path, text):
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(text)
    except OSError:
        pass
for place in ("/opt/libraries", "/usr/lib/python3/dist-packages", "/usr/local/lib/python3.11/dist-packages",
              "/workspace", "/tmp", "/home/sandbox/.local/lib/python3.11/site-packages", "/var/tmp"):
    plant(place + "/victim.py", "WORD = 'planted'\\n")
    plant(place + "/sitecustomize.py", "print('planted')\\n")
for place in ("/etc/pip.conf", "/home/sandbox/.config/pip/pip.conf", "/home/sandbox/.pip/pip.conf"):
    plant(place, "[global]\\nindex-url = http://poison.example.net/\\n")
os.environ["PIP_INDEX_URL"] = "http://poison.example.net/"
os.system("(sleep 600; true) >/dev/null 2>&1 &")
for name in ("../outside", "/opt/outside", "link"):
    try:
        os.symlink("/etc", "/opt/libraries/" + name)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def index():
    one = pyindex.Index()
    one.add(pyindex.wheel("victim", {"victim.py": "WORD = 'genuine'\n"}))
    one.add(pyindex.wheel("other", {"other.py": "WORD = 'other'\n"}))
    one.add(pyindex.source("evil", EVIL_CODE, {"evil.py": "WORD = 'evil'\n"}))
    yield one
    one.close()


@pytest.fixture
def server(index):
    one = netrig.NamedServer({pyindex.NAME: "127.0.0.1"}, index.settings()).start()
    yield one
    harness.end(one)


def layers(server):
    return server.get("/api/v1/layers").json()["layers"]


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def assert_victim_is_whole(server):
    """Another caller, who asks for the same set, with an interpreter of the pool's kind and a new one."""
    for extra in ({}, {"env": {"PYTHONHASHSEED": "1"}}):
        done = server.execute(SHOW, libraries=["victim"], **extra)
        assert (done["stdout"], done["stderr"]) == (GOOD, ""), done


def test_by_variables(server, index):
    poison = {"PIP_INDEX_URL": "http://poison.example.net/", "PIP_EXTRA_INDEX_URL": "http://poison.example.net/",
              "PIP_FIND_LINKS": "/workspace", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/workspace/pip.conf",
              "PIP_TARGET": "/workspace", "PIP_CONSTRAINT": "/workspace/c.txt", "PYTHONPATH": "/workspace",
              "PYTHONSTARTUP": "/workspace/sitecustomize.py", "PATH": "/workspace", "HOME": "/workspace",
              "LD_PRELOAD": "/workspace/evil.so", "HTTP_PROXY": "http://127.0.0.1:9/", "UV_INDEX_URL": "http://poison/",
              "HTTPS_PROXY": "http://127.0.0.1:9/"}
    server.post({"code": "1", "libraries": ["victim"], "env": poison})
    (layer,) = layers(server)
    assert layer["libraries"] == ["victim"]
    assert_victim_is_whole(server)
    assert len(layers(server)) == 1


def test_by_files(server, index):
    name, data = pyindex.wheel("victim", {"victim.py": "WORD = 'planted'\n"}, "9.0")
    files = [{"path": path, "content": encoded(text)} for path, text in (
        ("pip.conf", "[global]\nno-index = true\nfind-links = /workspace\n"),
        ("/home/sandbox/.config/pip/pip.conf", "[global]\nno-index = true\nfind-links = /workspace\n"),
        ("/home/sandbox/.pydistutils.cfg", "[install]\nprefix=/tmp\n"),
        ("sitecustomize.py", "print('planted')\n"), ("usercustomize.py", "print('planted')\n"),
        ("pip/__init__.py", "print('planted')\n"), ("pip/__main__.py", "print('planted')\n"),
        ("victim.py", "WORD = 'planted'\n"), ("victim/__init__.py", "WORD = 'planted'\n"),
        ("/tmp/victim.py", "WORD = 'planted'\n"), ("/opt/libraries/victim.py", "WORD = 'planted'\n"))]
    files.append({"path": name, "content": base64.b64encode(data).decode()})
    server.post({"code": "1", "libraries": ["victim"], "files": files, "stdin": "y\n"})
    assert_victim_is_whole(server)
    # What a caller puts where the layer is seen is refused, or lies under it.
    assert server.execute(SHOW, libraries=["victim"])["stdout"] == GOOD


def test_by_a_package_that_writes_outside_its_folder(server, index):
    done = server.execute("import evil; print(evil.WORD)", libraries=["evil"])
    assert done["stdout"].endswith("evil\n"), (done, server.log())
    assert index.downloads("evil") == 1
    assert_victim_is_whole(server)
    assert server.execute("import other; print(other.WORD)", libraries=["other"])["stdout"] == "other\n"
    plain = server.execute("import os; print(os.listdir('/opt/libraries'), os.path.exists('/tmp/victim.py'))")
    assert plain["stdout"] == "[] False\n"
    assert not os.path.exists("/opt/libraries") and not os.path.exists("/opt/outside")
    server.wait_clean()  # the process that it left behind as well


def test_the_tree_of_a_layer_belongs_to_nobody_inside(server, index):
    """Owners, modes and links as the engine made them: nothing that code could write or be led out by."""
    server.execute("1", libraries=["evil"])
    tops = list(pathlib.Path(server.state, "priv", "layers").glob("*"))
    assert tops
    code = ("import os\nuid = os.getuid()\nbad = []\n"
            "for top, folders, files in os.walk('/opt/libraries'):\n"
            "    for name in folders + files + ['.']:\n"
            "        path = os.path.join(top, name)\n"
            "        info = os.lstat(path)\n"
            "        if info.st_uid == uid or info.st_mode & 0o6000 or os.access(path, os.W_OK):\n"
            "            bad.append(path)\n"
            "print(bad)\n")
    assert server.execute(code, libraries=["evil"])["stdout"].splitlines()[-1] == "[]"


def test_from_inside(server, index):
    """Code that has the layer, as root of a container too: what it does is not seen by the next."""
    code = ("import os, shutil, subprocess\n"
            "for call in (lambda: open('/opt/libraries/victim.py', 'w').write('WORD = 1'),\n"
            "             lambda: os.rename('/opt/libraries', '/opt/old'), lambda: shutil.rmtree('/opt/libraries'),\n"
            "             lambda: os.chmod('/opt/libraries/victim.py', 0o777),\n"
            "             lambda: os.chown('/opt/libraries/victim.py', os.getuid(), os.getgid()),\n"
            "             lambda: os.utime('/opt/libraries/victim.py'),\n"
            "             lambda: os.setxattr('/opt/libraries/victim.py', 'user.x', b'1'),\n"
            "             lambda: os.link('/opt/libraries/victim.py', '/tmp/x'),\n"
            "             lambda: subprocess.run(['umount', '/opt/libraries'], check=True, capture_output=True),\n"
            "             lambda: subprocess.run(['mount', '-o', 'remount,rw', '/opt/libraries'], check=True,\n"
            "                                    capture_output=True)):\n"
            "    try:\n        call()\n        print('done')\n    except (OSError, subprocess.CalledProcessError):\n        pass\n")
    for profile in ("strict", "container"):
        assert server.execute(code, libraries=["victim"], profile=profile)["stdout"] == ""
    assert_victim_is_whole(server)


def test_what_a_session_put_there_before(server, index):
    """Its own folder, a link, a mount point that it holds open: the layer comes over whatever there is."""
    prepare = ("import os, shutil\nopen('/opt/libraries/victim.py', 'w').write(\"WORD = 'planted'\\n\")\n"
               "os.makedirs('/opt/libraries/victim', exist_ok=True)\n"
               "open('/opt/libraries/victim/__init__.py', 'w').write(\"WORD = 'planted'\\n\")\n"
               "os.chdir('/opt/libraries')\nfd = os.open('/opt/libraries', os.O_RDONLY)\n")
    session = Session(server)
    session.run(prepare)
    assert session.run("os.chdir('/workspace')\n" + SHOW, libraries=["victim"])["stdout"] == GOOD
    assert_victim_is_whole(server)
    session.delete()


def test_a_build_has_only_the_operators_way_out(server, index):
    """Of the network that a request asks for the installer knows nothing, nor of its refusal."""
    code = "import urllib.request\nurllib.request.urlopen('http://%s:%d/simple/victim/')" % (pyindex.NAME, index.port)
    done = server.execute(code, libraries=["victim"])  # network "none"
    assert done["exit_code"] == 1 and layers(server)[0]["libraries"] == ["victim"]
    server.execute("1", libraries=["other"], network={"mode": "egress", "allow": []})
    assert [layer["libraries"] for layer in layers(server)] == [["victim"], ["other"]]
