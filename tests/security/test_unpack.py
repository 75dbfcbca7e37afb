"""Hostile archives of images: each is refused in words or comes to nothing, and never changes a file
outside of the folder that it is unpacked to. Through the real catalogue and the real berth-unpack."""
import gzip
import os
import pathlib
import random
import re
import signal
import stat
import tarfile
import time

import pytest

import tars
from harness import read, wait_until
from tars import MB, entry, header, pack


@pytest.fixture
def box():
    with tars.catalogue() as one:
        yield one


def refused(box, data, reason, file="evil.tar", **limits):
    """The archive is refused for this reason, and leaves nothing behind."""
    box.put(file, data)
    answer = box.start(**limits).take("evil")
    assert re.match(r"error bad_input 0 image \"evil\": " + re.escape(file) + ": ", answer), answer
    assert re.search(reason, answer), answer
    assert "/tmp" not in answer.split(":", 2)[2].split("(")[0], answer
    wait_until(lambda: os.listdir(box.store) == [], lambda: os.listdir(box.store))


def taken(box, data, file="evil.tar", **limits):
    """The archive is unpacked; returns its root on the disk."""
    box.put(file, data)
    assert box.start(**limits).take("evil") == "ok", box.log()
    assert box.partials() == []
    return box.rootfs("evil")


# ---- out of the target ----

@pytest.mark.parametrize("name", ["../canary/evil", "../../canary/evil", "a/../../../canary/evil",
                                  "..", "a/b/..", "./../canary/file", "/../../canary/evil"])
def test_dot_dot(box, name):
    refused(box, [entry("a", "dir"), entry(name, data=b"evil")], r'".." in a name')


def test_absolute_names_stay_inside(box):
    inside = taken(box, [entry(f"{box.canary}/evil", data=b"evil"),
                         entry(f"//{box.canary}//file", data=b"evil"),
                         entry("/etc/shadow", data=b"root::0:0:::::\n")])
    assert (inside / str(box.canary).lstrip("/") / "file").read_bytes() == b"evil"
    assert (inside / "etc/shadow").read_bytes() == b"root::0:0:::::\n"
    assert "root::0:0" not in read("/etc/shadow")


@pytest.mark.parametrize("where", ["absolute", "relative", "proc", "chain"])
def test_file_through_link(box, where):
    target = {"absolute": str(box.canary), "relative": "../../../canary",
              "proc": f"/proc/1/root{box.canary}", "chain": "hop"}[where]
    more = [entry("hop", "link", linkname=str(box.canary))] if where == "chain" else []
    refused(box, more + [entry("out", "link", linkname=target), entry("out/evil", data=b"evil")],
            r"entry [23] \(out/evil\): .*symlink")


@pytest.mark.parametrize("target", ["../../etc/shadow", "a/../../canary/file"])
def test_hard_link_with_dot_dot(box, target):
    refused(box, [entry("a", "dir"), entry("x", "hard", linkname=target)], "hard link")


@pytest.mark.parametrize("target", ["/proc/1/root/etc/shadow", "/etc/shadow", "proc/self/root"])
def test_hard_link_to_what_the_image_has_not(box, target):
    before = os.stat("/etc/shadow").st_nlink
    refused(box, [entry("x", "hard", linkname=target)], r"entry 1 \(x\): .*")
    assert os.stat("/etc/shadow").st_nlink == before


def test_hard_link_through_link(box):
    refused(box, [entry("out", "link", linkname=str(box.canary)),
                  entry("x", "hard", linkname="out/file")], "symlink")


def test_hard_link_to_root(box):
    refused(box, [entry("x", "hard", linkname="./")], "hard link to the root")


def test_write_over_a_hard_linked_link(box):
    """A link to the outside, a second name for it, then contents for that name."""
    inside = taken(box, [entry("out", "link", linkname=str(box.canary / "file")),
                         entry("name", "hard", linkname="out"), entry("name", data=b"evil")])
    assert (inside / "name").read_bytes() == b"evil"
    assert not (inside / "name").is_symlink()


def test_folder_becomes_link(box):
    refused(box, [entry("d", "dir"), entry("d", "link", linkname=str(box.canary)),
                  entry("d/evil", data=b"evil")], r"\(d/evil\): .*symlink")


def test_folder_becomes_link_and_keeps_its_mode_to_itself(box):
    """What is to be set at the end for a folder must not go through the link that replaced it."""
    taken(box, [entry("d", "dir", mode=0o7777, uid=1234, mtime=1),
                entry("d", "link", linkname=str(box.canary))])


def test_dev_is_a_link(box):
    refused(box, [entry("dev", "link", linkname="/etc"), entry("dev/evil", data=b"evil")], "symlink")
    assert not os.path.exists("/etc/evil")


def test_rootfs_is_a_link(box):
    inside = taken(box, [entry("rootfs", "link", linkname="/"), entry("lock", data=b"mine"),
                         entry("file", data=b"x")])
    assert os.readlink(inside / "rootfs") == "/"
    assert sorted(os.listdir(inside.parent)) == ["lock", "rootfs"]
    assert (inside.parent / "lock").read_bytes() == b""


@pytest.mark.parametrize("kind", ["link", "file", "hard"])
def test_root_is_no_folder(box, kind):
    refused(box, [entry(".", kind, linkname=str(box.canary))], "the root is no folder|hard link")


def test_devices_are_left_out(box):
    inside = taken(box, [
        entry("dev", "dir"), entry("dev/null", "chr", devmajor=1, devminor=3),
        entry("dev/disk", "blk", devmajor=8, devminor=0), entry("run/pipe", "fifo"),
        entry("dev/file", data=b"x"), entry("same", "hard", linkname="dev/file")])
    assert sorted(os.listdir(inside / "dev")) == ["file"]
    assert not (inside / "run").exists()
    assert box.log().rstrip().endswith(" 3)"), box.log()


def test_no_device_by_hard_link(box):
    refused(box, [entry("dev/mem", "chr", devmajor=1, devminor=1),
                  entry("mem", "hard", linkname="dev/mem")], r"\(mem\)")


# ---- too much ----

def test_bomb_in_one_file(box):
    """10 GB in some 10 KB."""
    bomb = tars.compressed(header("big", 1 << 33), "bz2") + tars.zeros(1 << 33)
    assert len(bomb) < 200_000
    refused(box, bomb, "more than 67108864 bytes", "evil.tar.bz2", size=64 * MB)


def test_bomb_in_many_files(box):
    piece = tars.compressed(header("big", 32 * MB) + b"\0" * (32 * MB), "bz2")
    refused(box, piece * 320, "more than 67108864 bytes", "evil.tar.bz2", size=64 * MB)
    assert len(piece) * 320 < 100_000


def test_bomb_of_small_files(box):
    """Each takes a block of the disk, whatever it says."""
    many = b"".join(header(f"f{i}", 1) + b"x" + b"\0" * 511 for i in range(400))
    refused(box, many + b"\0" * 1024, "more than 1048576 bytes", size=MB)


def test_bomb_of_holes(box):
    """A sparse file of a terabyte and five bytes."""
    refused(box, [tars.sparse("x", 1 << 40)], "more than 67108864 bytes", size=64 * MB)


def test_nested_compression(box):
    once = tars.compressed(pack(tars.good()), "gz")
    refused(box, gzip.compress(once), "compressed more than once", "evil.tar.gz")


def test_million_entries(box):
    refused(box, tars.slow(), "more than 20000 files and folders", "evil.tar.bz2")


def test_folders_that_no_entry_names(box):
    deep = "/".join("d" * 1000)
    refused(box, [entry(f"{i}/{deep}/x") for i in range(40)], "more than 20000 files and folders")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_five_thousand_deep(box, form):
    refused(box, pack([entry("/".join("d" * 5000))], form), "name of more than 4095 bytes")


def test_two_thousand_deep(box):
    """As deep as a path can say; it goes away again as well."""
    inside = taken(box, [entry("/".join("d" * n), "dir") for n in range(1, 2001)])
    for _ in range(3):
        inside = inside / "d"
    assert inside.is_dir()
    (box.images / "evil.tar").unlink()
    wait_until(lambda: os.listdir(box.store) == [], lambda: os.listdir(box.store))


@pytest.mark.parametrize("size", [100_000, 5 * MB])
def test_giant_name_in_pax(box, size):
    refused(box, [entry("n" * size)], "255 bytes|too large|[Pp]athname|header")


def test_giant_part(box):
    refused(box, [entry("a/" + "n" * 256)], "more than 255 bytes")


def test_too_slow(box):
    refused(box, tars.slow(), "takes longer than 0 s", "evil.tar.bz2", entries=1 << 40, secs=0)


# ---- not what it says it is ----

@pytest.mark.parametrize("data, reason", [
    (b"", "not a tar"), (b"\0" * 1024, "empty"), (b"\0" * 10240, "empty"), (b"hello\n" * 400, "tar"),
    (b"PK\x03\x04" + b"\0" * 2000, "tar"), (b"\x1f\x8b\x08" + b"\0" * 2000, "not a tar|gzip"),
    (header("x", 600) + b"x" * 100, "[Tt]runcated"),
    (header("x", 1 << 40), "more than .* bytes|[Tt]runcated"),
    (header("x", size=b"\xff" * 12), "entry 1|not a tar|after|bytes"),
    (header("x", size=b"\x80" + b"\xff" * 11), "entry 1|not a tar|after|bytes"),
    (header("x", 10) + b"x" * 10 + b"\0" * 502 + b"y" * 512, "[Dd]amaged|checksum|after 1"),
    (header("x"), "no end mark"), (header("x", 5) + b"x" * 512, "no end mark"),
    (header("")[:148] + b"badsum\0 " + header("")[156:], "tar"),
], ids=["nothing", "end-only", "end-and-padding", "text", "zip", "gzip-of-nothing", "cut-data",
        "size-far-too-large", "size-minus-one", "size-too-many-bits", "size-too-small", "no-end",
        "no-end-after-data", "checksum"])
def test_not_a_whole_tar(box, data, reason):
    refused(box, data, reason)


@pytest.mark.parametrize("how", ["", "gz", "bz2"])
def test_cut_anywhere(box, how):
    """What is cut off is never taken for whole."""
    data = pack(tars.good(os.urandom(3000)))
    whole = len(data) - 1024
    data = tars.compressed(data, how) if how else data
    cuts = [*range(512, whole + 1, 512)] if not how else \
        [*range(1, len(data) - 8, max(1, len(data) // 40))]
    for cut in cuts:
        box.put(f"c{cut}.tar", data[:cut])
    box.start()
    for cut in cuts:
        answer = box.take(f"c{cut}")
        assert answer.startswith("error bad_input 0 "), (cut, answer)


@pytest.mark.parametrize("fields", [{"uid": 65536}, {"gid": 65536}, {"uid": 1 << 31},
                                    {"gid": (1 << 32) + 5}, {"uid": 4294967295}])
def test_owner_out_of_range(box, fields):
    refused(box, pack([entry("x", **fields)], tarfile.GNU_FORMAT), r"owner \d+:\d+, .*65535")


def test_message_is_printable(box):
    """A name can't forge a line of the log, nor control a terminal."""
    name = "\x1b[2J\n2026-01-01T00:00:00Z info native: all is well\udcff" + "\u202e"
    refused(box, pack([entry(name, uid=99999)], tarfile.GNU_FORMAT), r"owner 99999")
    assert "\x1b" not in box.log()
    assert all("images-tool: " in line for line in box.log().splitlines())


# ---- what has to come out right ----

@pytest.mark.parametrize("file", ["one.tar", "one.tar.gz", "one.tgz", "one.tar.bz2", "one.tar.xz",
                                  "one.tar.zst"])
def test_good_image(box, file):
    data = pack(tars.good())
    how = file.rsplit(".", 1)[1].replace("tgz", "gz")
    box.put(file, data if how == "tar" else tars.compressed(data, how))
    assert box.start().take("one", "mount") == "ok", box.log()
    root = pathlib.Path(f"/proc/{box.process.pid}/root{box.base}/mnt")

    def seen(name):
        info = os.lstat(root / name)
        return oct(stat.S_IMODE(info.st_mode)), info.st_uid - tars.ID_FIRST, \
            info.st_gid - tars.ID_FIRST

    assert seen(".") == ("0o755", 0, 0)  # whatever "./" says
    assert seen("bin/su") == ("0o4755", 0, 0)
    assert seen("home") == ("0o755", 0, 0)  # no entry names it
    assert seen("home/me") == ("0o750", 1000, 1001)
    assert seen("home/me/text") == ("0o640", 1000, 1001)
    assert seen("tmp") == ("0o1777", 0, 0)
    assert seen("last") == ("0o2711", 65535, 65535)
    assert (root / "home/me/text").read_bytes() == b"good\n"
    assert os.path.samestat(os.lstat(root / "home/me/text"), os.lstat(root / "home/me/again"))
    assert os.readlink(root / "lib") == "usr/lib"
    assert (root / ("long/" * 60) / "name").is_file()
    assert os.lstat(root / "home/me/text").st_mtime == 1_000_000_000
    assert os.lstat(root / "tmp").st_mtime == 1_000_000_000
    on_disk = box.rootfs("one")
    assert os.lstat(on_disk / "home/me").st_uid == 1000
    assert os.getxattr(on_disk / "bin/ping", "security.capability")[3] in (2, 3)


def test_other_attributes_are_dropped(box):
    inside = taken(box, [entry("x", pax_headers={
        "SCHILY.xattr.user.evil": "1", "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.security.capability": "nonsense",
        "SCHILY.acl.access": "user::rwx,user:1234:rwx,group::r-x,mask::rwx,other::---"}),
        entry("d", "dir", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})])
    assert os.listxattr(inside / "x") == []
    assert os.listxattr(inside / "d") == []


def test_times_before_and_after_all_clocks(box):
    taken(box, [entry("old", mtime=-5_000_000_000), entry("new", mtime=1 << 40),
                entry("d", "dir", mtime=-1), entry("part", mtime=0.5)])


def test_last_of_a_name_counts(box):
    inside = taken(box, [entry("x", data=b"one"), entry("d", "dir"), entry("x", data=b"two"),
                         entry("d", data=b"file")])
    assert (inside / "x").read_bytes() == b"two"
    assert (inside / "d").read_bytes() == b"file"


def test_holes_stay_holes(box):
    info = os.stat(taken(box, [tars.sparse("x", 32 * MB)]) / "x")
    assert info.st_size == 32 * MB
    assert info.st_blocks <= 16


def test_names_of_every_kind(box):
    names = ["plain", "ünïcode", "with\nline", "\x01", "-rf", "a" * 255, "sp ace", "back\\slash"]
    inside = taken(box, [entry(name) for name in names])
    assert sorted(os.listdir(inside)) == sorted(names)


def test_names_that_are_not_utf8(box):
    inside = taken(box, pack([entry("caf\udce9")], tarfile.GNU_FORMAT))
    assert os.listdir(os.fsencode(inside)) == [b"caf\xe9"]


# ---- the cage ----

def test_cage(box):
    box.put("evil.tar.bz2", tars.slow())
    box.start(entries=1 << 40)
    pid = box.child()
    os.kill(pid, signal.SIGSTOP)
    status = dict(line.split(":\t", 1) for line in read(f"/proc/{pid}/status").splitlines()
                  if ":\t" in line)
    first = str(tars.UNPACK_IDS)
    assert status["Uid"].split() == [first] * 4
    assert status["Gid"].split() == [first] * 4
    assert status["Groups"].split() == []
    wanted = sum(1 << bit for bit in (0, 1, 3, 4, 31))  # linux/capability.h
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[name], 16) == wanted, name
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["NSpid"].split()[-1] == "1"
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    assert set(os.listdir(f"/proc/{pid}/root/")) <= {"x"}
    mounts = read(f"/proc/{pid}/mountinfo").splitlines()
    assert len(mounts) == 1, mounts
    assert {"nosuid", "nodev", "noexec"} <= set(mounts[0].split()[5].split(","))
    assert "idmapped" in mounts[0]
    links = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert set(links) - {0, 1, 2, 3} <= {4}, links  # 4: what it writes to at this moment
    limits = read(f"/proc/{pid}/limits")
    assert re.search(r"Max core file size +1 +1 ", limits)
    assert re.search(r"Max file size +268435456 ", limits)
    assert re.search(r"Max open files +64 ", limits)
    assert re.search(r"Max address space +\d+ +\d+ ", limits)
    os.kill(pid, signal.SIGCONT)


def test_child_dies_with_the_engine(box):
    box.put("evil.tar.bz2", tars.slow())
    box.start(entries=1 << 40)
    pid = box.child()
    os.kill(pid, signal.SIGSTOP)
    box.kill()
    wait_until(lambda: read(f"/proc/{pid}/stat").split(" ")[2:3] in ([], ["Z"]), "the child ends")
    assert len(box.partials()) == 1
    box.put("evil.tar.bz2", tars.compressed(pack(tars.good()), "bz2"))
    assert box.start().take("evil") == "ok"
    wait_until(lambda: box.partials() == [], box.partials)


# ---- death at every step, and chance ----

@pytest.mark.parametrize("point", ["unpack.begin", "unpack.half", "unpack.done"])
def test_death_of_the_child(box, point):
    box.put("one.tar", tars.good(os.urandom(MB)))
    box.start(env={"BERTH_TESTING": "1", "BERTH_FAULT": point})
    assert box.take("one").startswith("error unavailable 60 "), box.log()
    wait_until(lambda: os.listdir(box.store) == [], lambda: os.listdir(box.store))
    box.stop()
    assert box.start().take("one") == "ok"


@pytest.mark.parametrize("point", ["images.begin", "images.commit"])
def test_death_of_the_engine(box, point):
    box.put("one.tar", tars.good())
    box.start(env={"BERTH_TESTING": "1", "BERTH_FAULT": point})
    assert box.process.wait(60) == -signal.SIGKILL
    assert len(box.partials()) == 1
    box.stop()
    assert box.start().take("one") == "ok"
    wait_until(lambda: box.partials() == [], box.partials)


def test_chance(box):
    """Archives with a few bytes changed: anywhere, below a right checksum of gzip, and in headers
    whose own checksum is right as well."""
    seed = int(os.environ.get("BERTH_SEED") or time.time_ns())
    print("BERTH_SEED", seed)
    rng = random.Random(seed)
    plain = pack(tars.good(rng.randbytes(20_000)))
    for number in range(210):
        data = plain if number % 3 else tars.compressed(plain, "gz")
        data = tars.damaged(data, rng, headers=number % 3 == 2)
        box.put(f"c{number}.tar.gz", tars.compressed(data, "gz") if number % 3 else data)
    box.start()
    outcomes = [box.take(f"c{number}") for number in range(210)]
    assert all(one == "ok" or one.startswith("error bad_input 0 ") for one in outcomes), outcomes
    assert sum(one != "ok" for one in outcomes) > 50
    wait_until(lambda: box.partials() == [], box.partials)
    for path in box.images.iterdir():
        path.unlink()
    wait_until(lambda: os.listdir(box.store) == [], lambda: os.listdir(box.store))
    wait_until(lambda: box.children() == [], box.children)
