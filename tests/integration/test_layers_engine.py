"""Library layers of the native engine: one is made of a tar, shown in any sandbox that runs whatever
its code has left there, and goes when its name and the last sandbox that has it are gone."""
import contextlib
import os
import shutil
import subprocess
import sys
import tarfile

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "security"))
import tars  # noqa: E402
from engine import CAP_LAYERS, Engine, EngineError, ID, LAYER, MIB, tlv  # noqa: E402
from faults import Fault, assert_nothing_left, skip_unless  # noqa: E402
from harness import listed_mounts, wait_until  # noqa: E402
from tars import entry, pack  # noqa: E402

PLACE = "/opt/libraries"
KINDS = {
    "memory": {},
    "disk": {"disk": True},
    "container": {"profile": "container"},
    "container_disk": {"profile": "container", "disk": True},
    "folder": {"image": "folder"},
    "folder_disk": {"image": "folder", "disk": True},
    "folder_container": {"image": "folder", "profile": "container"},
    "archive": {"image": "archive"},
    "archive_container": {"image": "archive", "profile": "container", "disk": True},
}
GVISOR = {
    "runsc": {"runtime": "runsc"},
    "runsc_disk": {"runtime": "runsc", "disk": True},
    "runsc_container_disk": {"runtime": "runsc", "profile": "container", "disk": True},
    "runsc_folder": {"runtime": "runsc", "image": "folder"},
    "runsc_archive_disk": {"runtime": "runsc", "image": "archive", "disk": True},
}


def layer(text, *more):
    return pack([entry("./", "dir"), entry("./name", data=text.encode()), *more])


ONE, TWO = layer("one"), layer("two")


def make_image(path):
    """A small image: a shell and some programs of the host, and something where layers are seen."""
    programs = [shutil.which(name) for name in (
        "sh", "ls", "cat", "rm", "stat", "touch", "mv", "chmod", "umount", "mount", "rmdir")]
    said = subprocess.check_output(["ldd", *programs], text=True)
    for file in {*programs, *(word for word in said.split() if word.startswith("/") and
                              not word.endswith(":"))}:
        to = path / file.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(file), to)
    (path / "bin").mkdir(exist_ok=True)
    if not (path / "bin/sh").exists():
        (path / "bin/sh").symlink_to("/usr/bin/sh")
    (path / PLACE.lstrip("/")).mkdir(parents=True)
    (path / PLACE.lstrip("/") / "of-the-image").write_text("x")


@pytest.fixture(scope="module")
def engine():
    skip_unless(layers=True, disk=True, container=True)
    with Engine() as one:
        images = one.state / "images"
        make_image(images / "folder")
        with tarfile.open(images / "archive.tar", "w") as tar:
            tar.add(images / "folder", ".")

        def there():
            with contextlib.suppress(EngineError):
                one.create(image="archive").destroy()
                return True
            return False

        wait_until(there, "the archive is unpacked")
        yield one
        one.stop()
        shutil.rmtree(one.state / "images" / "folder")
        (one.state / "images" / "archive.tar").unlink()
        shutil.rmtree(one.state / "priv" / "images" / "store")
        (one.state / "priv" / "images" / "store").mkdir(mode=0o700)
        assert_nothing_left(one.state)


@pytest.fixture
def layers(engine):
    engine.import_layer("one", ONE)
    engine.import_layer("two", TWO)
    yield engine
    forget_all(engine)


def folders(engine):
    return sorted(os.listdir(engine.state / "priv" / "layers"))


def forget_all(engine):
    """No sandbox, no layer, no byte of one."""
    for sandbox_id in engine.list():
        engine.destroy(sandbox_id)
    for name in engine.layers():
        engine.remove_layer(name)
    assert engine.layers() == {}
    wait_until(lambda: folders(engine) == [], lambda: folders(engine))


def make(layers, kind):
    if kind in GVISOR and "runsc" not in layers.runtimes():
        pytest.skip("the engine found no runsc here")
    return layers.create(**{**KINDS, **GVISOR}[kind])


def seen(box):
    return box.sh(f"cat {PLACE}/name").stdout.decode()


def refuses_changes(box, says_so=True):
    """says_so: also of modes; gVisor tells root that it has set them, which the host has not."""
    for attack in ("touch %s/x", "rm -f %s/name", *(["chmod 777 %s/pkg"] if says_so else []),
                   "echo x > %s/name", "mv %s/pkg %s/other", "umount %s", "umount -l %s",
                   "mount -o remount,rw %s", "rmdir %s", "mv %s /tmp/away"):
        result = box.sh(attack.replace("%s", PLACE))
        assert result.exit_code != 0, (attack, result)


def fails(kind, call, *arguments, **options):
    with pytest.raises(EngineError) as problem:
        call(*arguments, **options)
    assert problem.value.kind == kind, problem.value
    return problem.value


# ---- what is seen ----

@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_seen(layers, kind):
    layers.import_layer("full", layer(
        "full", entry("./pkg", "dir", uid=1000, gid=1000, mode=0o700),
        entry("./pkg/secret", data=b"s", uid=1000, gid=1000, mode=0o600),
        entry("./pkg/run", data=b"#!/bin/sh\necho ran\n", mode=0o6711),
        entry("./link", "link", linkname="pkg/secret")))
    with make(layers, kind) as box:
        before = box.sh(f"ls -A {PLACE}; touch {PLACE}/x && rm {PLACE}/x && echo written; "
                        f"stat -c %a:%u {PLACE}")
        assert before.stdout.split() == [b"written", b"755:1000"], before
        layers.attach_layer(box.id, "full")
        look = box.sh(f"cd {PLACE} && cat name link && pkg/run && stat -c %a:%u:%g . pkg pkg/secret "
                      "pkg/run name")
        assert look.stdout == (b"fullsran\n755:0:0\n755:0:0\n644:0:0\n755:0:0\n644:0:0\n"), look
        refuses_changes(box)
        assert seen(box) == "full"


@pytest.mark.parametrize("kind", GVISOR)
def test_a_layer_is_seen_under_gvisor(layers, kind):
    """What its kernel has looked up before, and found missing, is looked for again. (The statx() of
    newer programs is refused by older ones of its versions: the shell looks by itself.)"""
    layers.import_layer("full", layer(
        "full", entry("./pkg", "dir", uid=1000, gid=1000, mode=0o700),
        entry("./pkg/run", data=b"#!/bin/sh\necho ran\n", mode=0o6711),
        entry("./link", "link", linkname="pkg/run")))
    with make(layers, kind) as box:
        before = box.sh(f"cd {PLACE}; test -O . && echo own; echo *; cat name; echo x > x && rm x && echo written")
        root = "container" in kind
        assert before.stdout == (b"" if root else b"own\n") + b"*\nwritten\n", before
        layers.attach_layer(box.id, "full")
        look = box.sh(f"cd {PLACE} && echo * && cat name && pkg/run && test -u link || echo plain; "
                      "test -O . || test -O pkg || echo not mine")
        assert look.stdout == b"link name pkg\nfullran\nplain\n" + (b"" if root else b"not mine\n"), look
        refuses_changes(box, says_so=not root)
        assert seen(box) == "full"


@pytest.mark.parametrize("kind", (*KINDS, *GVISOR))
def test_another_layer_takes_its_place(layers, kind):
    with make(layers, kind) as box:
        for name in ("one", "two", "two", "one"):
            layers.attach_layer(box.id, name)
            assert seen(box) == name
        mounts = box.sh("cat /proc/self/mountinfo").stdout.decode()
        # gVisor has a mount of its own above the place, and one it does not know of.
        place = " /opt " if kind in GVISOR else PLACE
        assert mounts.count(place) == 1, mounts


def test_nothing_of_the_host_is_named(layers):
    with layers.create() as box:
        layers.attach_layer(box.id, "one")
        mounts = box.sh("cat /proc/self/mountinfo").stdout.decode()
        assert str(layers.state) not in mounts and "priv/" not in mounts, mounts


def test_what_runs_already_sees_it(layers):
    with layers.create() as box:
        stream = box.begin(("/bin/sh", "-c", f"cd {PLACE}; echo begun; until cat {PLACE}/name "
                            "2>/dev/null; do sleep 0.01; done"), env=("PATH=/usr/bin:/bin",))
        box.wait_output(stream, b"begun\n")
        layers.attach_layer(box.id, "one")
        assert b"one" in box.finish(stream).stdout


def test_many_sandboxes_share_one(layers):
    with contextlib.ExitStack() as stack:
        boxes = [stack.enter_context(make(layers, kind)) for kind in KINDS]
        for box in boxes:
            layers.attach_layer(box.id, "one")
        for box in boxes:
            assert box.sh(f"cat {PLACE}/name; stat -c %u {PLACE}/name").stdout == b"one0\n"


# ---- what the code has left there ----

MESS = {
    "nothing": "rm -rf /opt/libraries",
    "file": "rm -rf /opt/libraries; echo mine > /opt/libraries",
    "folder": "echo mine > /opt/libraries/file; mkdir -p /opt/libraries/name",
    "closed_folder": "mkdir /opt/libraries/x; chmod 0 /opt/libraries",
    "link": "rm -rf /opt/libraries; ln -s /etc /opt/libraries",
    "link_up": "rm -rf /opt/libraries; ln -s ../../../../etc /opt/libraries",
    "link_to_itself": "rm -rf /opt/libraries; ln -s libraries /opt/libraries",
    "link_to_nothing": "rm -rf /opt/libraries; ln -s /nowhere /opt/libraries",
    "fifo": "rm -rf /opt/libraries; mkfifo /opt/libraries",
    "parent_gone": "rm -rf /opt",
    "parent_file": "rm -rf /opt; echo mine > /opt",
    "parent_link": "rm -rf /opt; ln -s /etc /opt",
    "parent_moved": "mv /opt /away; mkdir -m 0 /opt",
    "parent_a_link_to_a_folder_of_that_name": "mv /opt /away; ln -s /away /opt",
    "proc": "rm -rf /opt/libraries; ln -s /proc/1/root /opt/libraries",
}


def mounts_of(layers):
    """What the engine and the host see mounted of this engine's; others' come and go."""
    return [[line for line in listed_mounts(pid) if str(layers.state) in line or PLACE in line]
            for pid in (layers.process.pid, "self")]


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("mess", MESS)
def test_what_the_code_left(layers, mess, disk):
    before = mounts_of(layers)
    with layers.create(profile="container", disk=disk) as box:
        entries = box.sh("ls -A /etc /away 2>/dev/null").stdout
        result = box.sh(MESS[mess])
        assert result.exit_code == 0, result
        layers.attach_layer(box.id, "one")
        assert seen(box) == "one", box.sh("ls -la /opt /opt/libraries")
        if mess not in ("parent_moved", "parent_a_link_to_a_folder_of_that_name"):
            assert box.sh("ls -A /etc /away 2>/dev/null").stdout == entries  # nothing mounted over
        assert mounts_of(layers) == before
        layers.attach_layer(box.id, "two")
        assert seen(box) == "two"
        # What was no folder is there still.
        if mess in ("file", "parent_file"):
            assert box.sh("cat /opt.1 /opt/libraries.1 2>/dev/null").stdout == b"mine\n"
    assert mounts_of(layers) == before


@pytest.mark.parametrize("mess", ["folder", "closed_folder"])
@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
def test_what_code_without_root_left(layers, mess, disk):
    with layers.create(disk=disk) as box:
        assert box.sh(MESS[mess]).exit_code == 0
        for other in ("rm -rf /opt/libraries", "mv /opt /away", "ln -sfn /etc /opt/libraries",
                      "rmdir /opt/libraries"):
            box.sh(other)
        layers.attach_layer(box.id, "one")
        assert seen(box) == "one"


@pytest.mark.parametrize("after", ["mv /opt /away", "mv /opt /away; ln -s /etc /opt"])
def test_the_way_there_is_moved_under_a_layer(layers, after):
    """The old layer stays where the code has moved it; the new one is where it belongs."""
    with layers.create(profile="container") as box:
        layers.attach_layer(box.id, "one")
        assert box.sh(after).exit_code == 0
        layers.attach_layer(box.id, "two")
        assert seen(box) == "two"
        assert box.sh("cat /away/libraries/name").stdout == b"one"


@pytest.mark.parametrize("folder", ["/opt", PLACE])
def test_a_race_with_the_code(layers, folder):
    """The code moves a folder to and fro meanwhile. Each time the layer is seen, or the answer says
    that it is not, and then it is nowhere."""
    racer = (f"import os\nwhile True:\n try:\n  os.rename('{folder}', '{folder}.away')\n"
             f"  os.symlink('/etc', '{folder}')\n  os.unlink('{folder}')\n"
             f"  os.rename('{folder}.away', '{folder}')\n except OSError:\n  try:\n"
             f"   os.rename('{folder}.away', '{folder}.%d' % os.times().elapsed)\n"
             "  except OSError: pass")
    outcomes = []
    with layers.create(profile="container", cpu=2000) as box:
        def shown():
            return [line.split()[4] for line in
                    box.sh("cat /proc/self/mountinfo").stdout.decode().splitlines()
                    if "berth-layer" in line]

        stream = box.begin(("/usr/bin/python3", "-c", racer), env=("PATH=/usr/bin:/bin",))
        for _ in range(100):
            before = shown()
            try:
                layers.attach_layer(box.id, "one")
                outcomes.append("seen")
            except EngineError as problem:
                assert problem.kind == "conflict" and problem.public, problem
                assert len(shown()) <= len(before), (problem, before, shown())
                outcomes.append("conflict")
        box.kill(stream)
        box.finish(stream)
        assert "seen" in outcomes
        assert all(place.startswith("/opt") for place in shown()), shown()


def test_a_full_root(layers):
    """Where nothing can be made any more, the answer says so, and a folder that is there will do."""
    with layers.create(profile="container", storage=4 * MIB) as box:
        box.sh("dd if=/dev/zero of=/workspace/f bs=4k 2>/dev/null; i=0; "
               "while echo > /workspace/n$i; do i=$((i+1)); done 2>/dev/null")
        layers.attach_layer(box.id, "one")
        assert seen(box) == "one"


def test_a_session_that_stopped(layers):
    """Its processes and mounts are gone; what is left at the place is a folder again."""
    kept = {"profile": "container", "disk": True, "keep_files": True}
    box = layers.create("kept", **kept)
    layers.attach_layer("kept", "one")
    box.sh("mv /opt /away; ln -s /etc /opt")
    box.close()
    layers.stop_sandbox("kept")
    fails("conflict", layers.attach_layer, "kept", "one")
    with layers.restart_sandbox("kept", **kept) as box:
        assert box.sh(f"ls -A {PLACE}").stdout == b""
        layers.attach_layer("kept", "two")
        assert seen(box) == "two"


# ---- names ----

def test_the_list(engine):
    for i in range(5):
        assert engine.import_layer(f"layer-{i}", layer("x" * 4096 * i)) == 4096 * i
    assert list(engine.layers()) == [f"layer-{i}" for i in range(5)]
    assert engine.layers()["layer-4"] == 16384
    assert len(folders(engine)) == 5
    forget_all(engine)


def test_names_and_requests_that_are_none(layers):
    for name in ("", "..", "../one", "One", "a/b", "one.", "-x", "\x1b"):
        fails("bad_input", layers.import_layer, name, ONE)
    longest = "x" * 64
    layers.import_layer(longest, ONE)
    assert longest in layers.layers()
    fails("bad_input", layers.call, "layer_import", tlv(LAYER, "none"))
    for name in ("three", "", "../images"):
        layers.remove_layer(name)
    with layers.create() as box:
        for name in ("three", "", "..", "../images/host", "one/", longest[1:]):
            fails("not_found", layers.attach_layer, box.id, name)
        layers.attach_layer(box.id, longest)
    fails("conflict", layers.attach_layer, "nobody", "one")
    fails("conflict", layers.attach_layer, "../x", "one")


def test_descriptors_that_are_no_archive(layers):
    ends = os.pipe()
    kinds = {"pipe": ends[0], "folder": os.open("/", os.O_RDONLY),
             "null": os.open("/dev/null", os.O_RDONLY), "zero": os.open("/dev/zero", os.O_RDONLY),
             "path": os.open("/etc/passwd", os.O_PATH),
             "written": os.open("/tmp", os.O_TMPFILE | os.O_WRONLY)}
    try:
        for kind, fd in kinds.items():
            with pytest.raises(EngineError):
                layers.import_layer("x", fd)
            assert "x" not in layers.layers(), kind
    finally:
        for fd in (*kinds.values(), ends[1]):
            os.close(fd)
    layers.import_layer("x", ONE)


def test_two_imports_of_one_name(engine):
    """The second waits for the first: it is refused when there is one, and made when the first was
    refused."""
    requests = [engine.begin_import("same", data) for data in (ONE, TWO, b"no tar")]
    assert engine.end_import(requests[0]) == 4096
    fails("conflict", engine.end_import, requests[1])
    fails("conflict", engine.end_import, requests[2])
    fails("conflict", engine.import_layer, "same", TWO)
    requests = [engine.begin_import("other", data) for data in (b"no tar", TWO)]
    fails("bad_input", engine.end_import, requests[0])
    assert engine.end_import(requests[1]) == 4096
    with engine.create() as box:
        engine.attach_layer(box.id, "same")
        assert seen(box) == "one"
        engine.attach_layer(box.id, "other")
        assert seen(box) == "two"
    forget_all(engine)


def test_too_many_imports_at_once(engine):
    slow = tars.slow()
    requests = [engine.begin_import(f"slow-{i}", slow, entries_max=20000) for i in range(18)]
    problem = fails("unavailable", engine.end_import, requests[-1])
    assert problem.public
    engine.connect()  # whoever asked is gone: nothing of it is made any more
    assert engine.import_layer("one", ONE) == 4096
    assert set(engine.layers()) == {"one"}
    forget_all(engine)


def test_the_client_goes_while_it_waits(engine):
    """The next client gets no answer of it."""
    engine.begin_import("one", layer("x" * MIB))
    engine.request_id = 0  # as a new server counts
    engine.connect()
    assert engine.probe()["capabilities"] & CAP_LAYERS
    wait_until(lambda: len(folders(engine)) == len(engine.layers()), "it is whole or gone")
    engine.remove_layer("one")
    engine.import_layer("one", ONE)
    forget_all(engine)


# ---- in use ----

def test_a_layer_in_use_is_removed(layers):
    with layers.create() as box, layers.create() as other:
        layers.attach_layer(box.id, "one")
        layers.remove_layer("one")
        assert list(layers.layers()) == ["two"]
        fails("not_found", layers.attach_layer, other.id, "one")
        layers.import_layer("one", layer("another"))
        layers.attach_layer(other.id, "one")
        assert (seen(box), seen(other)) == ("one", "another")
        assert len(folders(layers)) == 3
    wait_until(lambda: len(folders(layers)) == 2, lambda: folders(layers))


def test_one_that_was_replaced_is_not_in_use(layers):
    with layers.create() as box:
        layers.attach_layer(box.id, "one")
        layers.remove_layer("one")
        layers.attach_layer(box.id, "two")
        wait_until(lambda: len(folders(layers)) == 1, lambda: folders(layers))
        assert seen(box) == "two"


@pytest.mark.parametrize("kind", ["memory", "container_disk", "archive", "runsc"])
def test_a_new_engine_knows_them(layers, kind):
    before = layers.layers()
    box = make(layers, kind)
    layers.attach_layer(box.id, "one")
    layers.remove_layer("one")
    gone = layers.create()
    layers.attach_layer(gone.id, "two")
    layers.kill()
    layers.start()
    assert layers.layers() == {"two": before["two"]}
    if kind in GVISOR:  # its way to its init ended with the engine
        box = layers.open_channel(box.id)
    assert seen(box) == "one"
    assert len(folders(layers)) == 2
    layers.remove_layer("two")
    gone.destroy()
    wait_until(lambda: len(folders(layers)) == 1, lambda: folders(layers))
    assert seen(box) == "one"
    layers.import_layer("two", TWO)
    layers.attach_layer(box.id, "two")  # an adopted one
    assert seen(box) == "two"
    wait_until(lambda: len(folders(layers)) == 1, lambda: folders(layers))
    box.destroy()


def test_a_new_engine_knows_the_last_one(layers):
    """The code has moved the folder with the former layer."""
    box = layers.create(profile="container")
    layers.attach_layer(box.id, "one")
    assert box.sh("mv /opt /away").exit_code == 0
    layers.attach_layer(box.id, "two")
    layers.kill()
    layers.start()
    layers.remove_layer("one")
    layers.remove_layer("two")
    wait_until(lambda: len(folders(layers)) == 1, lambda: folders(layers))
    assert seen(box) == "two"
    box.destroy()


def test_a_new_engine_knows_one_that_is_far_away(layers):
    """Where its name comes late in a long line of mountinfo."""
    far = "/away/" + "/".join(["x" * 250] * 16)
    box = layers.create(profile="container")
    layers.attach_layer(box.id, "one")
    assert box.sh(f"mkdir -p {os.path.dirname(far)} && mv /opt {far}").exit_code == 0
    layers.kill()
    layers.start()
    layers.remove_layer("one")
    layers.remove_layer("two")
    wait_until(lambda: len(folders(layers)) == 1, lambda: folders(layers))
    assert box.sh(f"cat {far}/libraries/name").stdout == b"one"
    box.destroy()


def test_a_sandbox_ends_while_it_is_given_one(layers):
    for _ in range(20):
        box = layers.create()
        box.close()
        attach = layers.send("layer_attach", tlv(ID, box.id) + tlv(LAYER, "one"))
        second = layers.send("layer_attach", tlv(ID, box.id) + tlv(LAYER, "two"))
        destroy = layers.send("destroy", tlv(ID, box.id))
        got = collect(layers, (attach, second, destroy))
        assert got[destroy] is None, got
        assert got[attach] in (None, "conflict") and got[second] in (None, "conflict"), got
        assert box.id not in layers.list()


def collect(engine, requests):
    """{request id: kind of the error, or None}, in whatever order the answers come."""
    found = {}
    while len(found) < len(requests):
        request, kind = engine.receive_any()
        if request in requests:
            found[request] = kind
    return found


# ---- the worst moments ----

@pytest.mark.parametrize("point", ["unpack.begin", "unpack.half", "unpack.done"])
def test_berth_unpack_dies(point):
    skip_unless(layers=True)
    with Engine(env={"BERTH_TESTING": "1", "BERTH_FAULT": point}) as engine:
        for _ in range(2):
            problem = fails("internal", engine.import_layer, "one", layer("x" * MIB))
            assert "berth-unpack ended with status 137" in problem.message, problem
            assert engine.layers() == {}
            wait_until(lambda: folders(engine) == [], lambda: folders(engine))


@pytest.mark.parametrize("point", ["layers.begin", "layers.commit", "layers.imported"])
def test_a_death_while_one_is_made(point):
    skip_unless(layers=True)
    with Fault(point) as fault, Engine(env=fault.env) as engine:
        with pytest.raises((EngineError, ConnectionError, OSError)):
            engine.import_layer("one", layer("x" * MIB))
        assert fault.struck()
        engine.restart()
        there = engine.layers()
        assert list(there) == (["one"] if point == "layers.imported" else [])
        wait_until(lambda: len(folders(engine)) == len(there), lambda: folders(engine))
        if not there:
            there = {"one": engine.import_layer("one", layer("x" * MIB))}
        assert engine.layers() == there and there["one"] >= MIB
        with engine.create() as box:
            engine.attach_layer(box.id, "one")
            assert len(seen(box)) == MIB
        forget_all(engine)
        engine.stop()
        assert_nothing_left(engine.state)


@pytest.mark.parametrize("point", ["native.trial", "layers.entered", "layers.attached",
                                   "layers.removed"])
def test_a_death_while_one_is_attached_or_removed(point):
    skip_unless(layers=True)
    with Fault(point, armed=False) as fault, Engine(env=fault.env) as engine:
        engine.import_layer("one", ONE)
        box = engine.create()
        fault.arm()
        with contextlib.suppress(EngineError, ConnectionError, OSError):
            engine.attach_layer(box.id, "one")
            engine.remove_layer("one")
        assert fault.struck()
        engine.restart()
        if point == "layers.removed":
            assert engine.layers() == {} and seen(box) == "one"
        else:
            engine.attach_layer(box.id, "one")
            assert seen(box) == "one"
            mounts = box.sh("cat /proc/self/mountinfo").stdout.decode()
            assert mounts.count(PLACE) == 1, mounts
        box.destroy()
        forget_all(engine)
        engine.stop()
        assert_nothing_left(engine.state)


def test_a_state_folder_without_id_maps(tmp_path):
    """On an overlay nothing can be mapped: the engine says so, and does all the rest."""
    for name in ("lower", "upper", "work", "state"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options,
                              tmp_path / "state"], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no overlay can be mounted here: {mounted.stderr}")
    try:
        with Engine(state=tmp_path / "state") as engine:
            said = engine.probe()
            assert not said["capabilities"] & CAP_LAYERS
            assert "layers:" in said["missing"], said
            fails("unsupported", engine.import_layer, "one", ONE)
            fails("unsupported", engine.call, "layer_list")
            with engine.create() as box:
                fails("unsupported", engine.attach_layer, box.id, "one")
                assert box.sh(f"touch {PLACE}/x").exit_code == 0
            engine.stop()
    finally:
        subprocess.run(["umount", tmp_path / "state"], check=True)
