"""Hostile library layers: what a build sandbox may have put into its tar, and what sandboxes of
different owners that share a layer can learn or change of each other. Through a real berth-native and
a real berth-unpack."""
import gzip
import os
import random
import stat

import pytest

import tars
from engine import Engine, EngineError
from faults import assert_nothing_left, skip_unless
from harness import read, wait_until
from tars import MB, entry, header, pack

PLACE = "/opt/libraries"
CANARY = "/tmp/berth-layer-canary"


@pytest.fixture(scope="module")
def engine():
    skip_unless(layers=True, container=True)
    with Engine() as one:
        yield one
        one.stop()
        assert_nothing_left(one.state)


@pytest.fixture(autouse=True)
def no_trace(engine):
    """Whatever a test does, the host's files are what they were and no layer stays."""
    before = read("/etc/passwd"), os.stat("/etc/passwd").st_mode
    yield
    for sandbox_id in engine.list():
        engine.destroy(sandbox_id)
    for name in engine.layers():
        engine.remove_layer(name)
    wait_until(lambda: store(engine) == [], lambda: store(engine))
    assert (read("/etc/passwd"), os.stat("/etc/passwd").st_mode) == before
    assert not os.path.lexists(CANARY)
    assert not os.path.lexists("/evil") and not os.path.lexists("/etc/evil")


def store(engine):
    return os.listdir(engine.state / "priv" / "layers")


def refused(engine, data, *words, **bounds):
    data = data if isinstance(data, bytes) else pack(data)
    with pytest.raises(EngineError) as problem:
        engine.import_layer("evil", data, **bounds)
    assert problem.value.kind == "bad_input", problem.value
    for word in words:
        assert word in problem.value.public, problem.value.public
    assert problem.value.public.isprintable()
    assert engine.layers() == {}
    wait_until(lambda: store(engine) == [], lambda: store(engine))


def taken(engine, data, **bounds):
    """Returns the folder on the disk."""
    engine.import_layer("evil", data if isinstance(data, bytes) else pack(data), **bounds)
    found = store(engine)
    assert len(found) == 1 and not found[0].endswith(".partial"), found
    return engine.state / "priv" / "layers" / found[0] / "rootfs"


# ---- out of its folder ----

@pytest.mark.parametrize("name", ["../evil", "../../../../../etc/evil", "a/../../evil", "..", "a/..",
                                  "./../lock"])
def test_dot_dot(engine, name):
    refused(engine, [entry("a", "dir"), entry(name, data=b"evil")], '".." in a name')


def test_absolute_names_stay_inside(engine):
    inside = taken(engine, [entry("/etc/passwd", data=b"root::0:0:::\n"), entry(CANARY, data=b"x")])
    assert (inside / "etc/passwd").read_bytes() == b"root::0:0:::\n"
    assert (inside / CANARY.lstrip("/")).exists()


@pytest.mark.parametrize("to", ["/etc", "/", "..", "../../../../../../etc", "/proc/1/root/etc"])
def test_through_a_link_out(engine, to):
    refused(engine, [entry("out", "link", linkname=to), entry("out/evil", data=b"evil")])
    refused(engine, [entry("out", "link", linkname=to), entry("out/sub", "dir"),
                     entry("out/sub/evil", data=b"evil")])


@pytest.mark.parametrize("to", ["/etc/passwd", "../../../../../../../etc/passwd", "../lock", "..",
                                "/proc/1/root/etc/passwd", "missing"])
def test_hard_links_out(engine, to):
    refused(engine, [entry("x", "hard", linkname=to)])


def test_a_hard_link_through_a_link(engine):
    refused(engine, [entry("out", "link", linkname="/etc"),
                     entry("x", "hard", linkname="out/passwd")])


def test_a_link_out_is_but_a_name(engine):
    """It is kept, and leads to what the sandbox itself has there."""
    taken(engine, [entry("out", "link", linkname="/etc/passwd"),
                   entry("host", "link", linkname="/proc/1/root/etc/shadow")])
    with engine.create() as box:
        engine.attach_layer(box.id, "evil")
        assert box.sh(f"cat {PLACE}/out").stdout == box.sh("cat /etc/passwd").stdout
        assert b"sandbox:x:1000" in box.sh(f"cat {PLACE}/out").stdout
        assert box.sh(f"cat {PLACE}/host").exit_code != 0


# ---- rights ----

def test_no_right_is_kept(engine):
    capability = (b"\x01\0\0\x02\0\x20\0\0" + b"\0" * 12).decode("utf-8", "surrogateescape")
    inside = taken(engine, [
        entry("./", "dir", mode=0o777, uid=1000),
        entry("su", data=b"x", mode=0o6777, uid=0), entry("theirs", data=b"x", mode=0o4711, uid=1000),
        entry("sticky", "dir", mode=0o1777, uid=1000), entry("closed", "dir", mode=0, uid=65535),
        entry("closed/file", data=b"x", mode=0, uid=4294967294, gid=-1 & 0xffff),
        entry("open", data=b"x", mode=0o666),
        entry("ping", data=b"x", mode=0o755,
              pax_headers={"SCHILY.xattr.security.capability": capability,
                           "SCHILY.xattr.user.x": "y"}),
        entry("link", "link", linkname="open", uid=1000)])
    for folder, folders, files in os.walk(inside):
        for name in [".", *folders, *files]:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            assert (info.st_uid, info.st_gid) == (0, 0), path
            assert os.listxattr(path, follow_symlinks=False) == [], path
            if not stat.S_ISLNK(info.st_mode):
                assert stat.S_IMODE(info.st_mode) in (0o755, 0o644), path
    assert stat.S_IMODE(os.stat(inside / "su").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(inside / "open").st_mode) == 0o644


def test_no_special_files(engine):
    inside = taken(engine, [
        entry("null", "chr", devmajor=1, devminor=3), entry("disk", "blk", devmajor=8, devminor=0),
        entry("pipe", "fifo"), entry("file", data=b"x"),
        entry("again", "chr", devmajor=0, devminor=0)])  # what overlay takes for a whiteout
    assert os.listdir(inside) == ["file"]


def test_no_overlay_marks(engine):
    """Nothing that the overlay over it would understand."""
    inside = taken(engine, [
        entry("folder", "dir", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y",
                                            "SCHILY.xattr.trusted.overlay.redirect": "/etc",
                                            "SCHILY.xattr.user.overlay.redirect": "/etc"}),
        entry("folder/file", data=b"x", pax_headers={"SCHILY.xattr.trusted.overlay.metacopy": ""})])
    assert os.listxattr(inside / "folder") == [] and os.listxattr(inside / "folder/file") == []
    with engine.create() as box:
        engine.attach_layer(box.id, "evil")
        assert box.sh(f"ls {PLACE}/folder").stdout == b"file\n"


# ---- too much ----

@pytest.mark.parametrize("data, words, bounds", [
    ([entry("big", data=b"x" * 2 * MB)], "more than 1048576 bytes", {"size_max": MB}),
    ([entry(f"f{i}", data=b"x") for i in range(300)], "more than 1048576 bytes", {"size_max": MB}),
    ([entry(f"f{i}") for i in range(101)], "more than 100 files", {"entries_max": 100}),
    ([entry("d/" * 101 + "f")], "more than 100 files", {"entries_max": 100}),
    (b"", "", {}), (b"\0" * 512, "", {}), (b"no tar at all" * 100, "", {}),
    ([entry("x/" * 2100 + "f")], "4095 bytes", {}), ([entry("x" * 256)], "255 bytes", {}),
    ([entry("x/" * 128 + "f")], "128 parts", {}),
    ([entry("f", data=b"x"), entry("g", "hard", linkname="x/" * 128 + "f")],
     "hard link to a name", {}),
], ids=["bytes", "blocks", "entries", "parents", "empty", "nothing", "text", "long", "part",
        "deep", "link"])
def test_too_much(engine, data, words, bounds):
    refused(engine, data, words, **bounds)


def test_bombs(engine):
    refused(engine, gzip.compress(header("x", 64 * MB) + b"\0" * 64 * MB), "more than", size_max=MB)
    refused(engine, tars.slow(), "more than 20000 files", entries_max=20000)
    refused(engine, gzip.compress(gzip.compress(pack([entry("x")]))), "more than once")
    refused(engine, pack([entry("x", data=b"y" * 5000)])[:3000])


def test_holes_cost_nothing(engine):
    inside = taken(engine, [tars.sparse("hole", MB)], size_max=2 * MB)
    assert os.stat(inside / "hole").st_size == MB
    refused(engine_with_none(engine), [tars.sparse("hole", 1 << 50)], size_max=2 * MB)


def engine_with_none(engine):
    engine.remove_layer("evil")
    return engine


def test_damaged(engine):
    """Whatever the bytes, there is an answer, and what was not whole leaves nothing."""
    rng = random.Random(7)
    good = pack(tars.good())
    for i in range(40):
        data = tars.damaged(good, rng, headers=i % 2 == 0)
        try:
            engine.import_layer("evil", data, size_max=64 * MB, entries_max=10000)
        except EngineError as problem:
            assert problem.kind == "bad_input", problem
            assert engine.layers() == {}
        else:
            engine.remove_layer("evil")
    wait_until(lambda: store(engine) == [], lambda: store(engine))


# ---- two owners share one ----

# Holds a lock and a watch on the layer's file; says what it sees while the other one is at it.
HOLDER = """
import ctypes, fcntl, os, select, sys, time
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(0o4000)
for path in ("/opt/libraries", "/opt/libraries/file"):
    assert libc.inotify_add_watch(watch, path.encode(), 0xfff) >= 0, ctypes.get_errno()
file = open("/opt/libraries/file")
fcntl.flock(file, fcntl.LOCK_EX)
os.read(watch, 65536)  # of its own open()
print("held", flush=True)
sys.stdin.read(1)
ready = select.select([watch], [], [], 0)[0]
print("told" if ready else "silent", flush=True)
"""
OTHER = """
import fcntl
file = open("/opt/libraries/file")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print(file.read(), end="")
"""


@pytest.mark.parametrize("profile", ["strict", "container"])
def test_neither_notices_the_other(engine, profile):
    taken(engine, [entry("file", data=b"shared")])
    with engine.create(profile=profile) as one, engine.create(profile=profile) as two:
        for box in (one, two):
            engine.attach_layer(box.id, "evil")
        env = ("PATH=/usr/bin:/bin",)
        stream = one.begin(("/usr/bin/python3", "-c", HOLDER), env)
        one.wait_output(stream, b"held\n")
        result = two.run("/usr/bin/python3", "-c", OTHER)
        assert result.stdout == b"shared", result
        one.send("data", stream + 1, b"x")
        one.send("close", stream + 1)
        assert one.finish(stream).stdout.endswith(b"silent\n")


# Everything that code with all its rights may try on a file of the layer.
POISON = """
import ctypes, mmap, os
place = "/opt/libraries"
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, call):
    try:
        call()
    except (OSError, PermissionError):
        return
    print("done:", what)
def syscall(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("write", lambda: open(place + "/file", "w"))
attempt("append", lambda: open(place + "/file", "a"))
attempt("truncate", lambda: os.truncate(place + "/file", 0))
attempt("new", lambda: open(place + "/new", "w"))
attempt("remove", lambda: os.unlink(place + "/file"))
attempt("rename", lambda: os.rename(place + "/file", place + "/other"))
attempt("mode", lambda: os.chmod(place + "/file", 0o6777))
attempt("owner", lambda: os.chown(place + "/file", 1000, 1000))
attempt("time", lambda: os.utime(place + "/file"))
attempt("attribute", lambda: os.setxattr(place + "/file", "user.x", b"y"))
attempt("link", lambda: os.link(place + "/file", "/tmp/link"))
attempt("rw", lambda: syscall(libc.mount(None, place.encode(), None, 32 | 0x1000, None)))
attempt("plain rw", lambda: syscall(libc.mount(None, place.encode(), None, 32, None)))
attempt("bind", lambda: syscall(libc.mount(place.encode(), b"/mnt", None, 4096, None)))
attempt("umount", lambda: syscall(libc.umount2(place.encode(), 2)))
attempt("open_tree", lambda: syscall(libc.syscall(428, -100, place.encode(), 1)))
attempt("setattr", lambda: syscall(libc.syscall(442, -100, place.encode(), 0,
        (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32)))
def map_shared():
    with open(place + "/file", "rb") as file:
        mmap.mmap(file.fileno(), 6, mmap.MAP_SHARED, mmap.PROT_WRITE)
attempt("map", map_shared)
def through_proc():
    with open(place + "/file", "rb") as file:
        os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR)
attempt("proc", through_proc)
print("end")
"""


@pytest.mark.parametrize("profile", ["strict", "container"])
def test_one_can_not_poison_the_other(engine, profile):
    inside = taken(engine, [entry("file", data=b"shared", uid=1000, mode=0o666)])
    before = tars.digest(inside)
    with engine.create(profile=profile) as one, engine.create(profile=profile) as two:
        for box in (one, two):
            engine.attach_layer(box.id, "evil")
        result = one.run("/usr/bin/python3", "-c", POISON)
        assert result.stdout == b"end\n", result
        # Replacing what is at the place is one's own business.
        one.sh("mv /opt /away; mkdir -p /opt/libraries; echo evil > /opt/libraries/file")
        assert two.sh(f"cat {PLACE}/file").stdout == b"shared"
    assert tars.digest(inside) == before
