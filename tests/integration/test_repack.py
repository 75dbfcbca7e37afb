"""berth-unpack "repack": the tar of a library layer that a sandbox wrote becomes one that a Docker daemon
may unpack as root: nothing in it lies below a link, each folder is in it before what it holds, and what it
is unpacked over goes first. The program alone, on files."""
import io
import os
import subprocess
import tarfile
import tempfile

import pytest

import harness

ROOT = "libraries"
HAS = ["libraries", "libraries"]  # a file, which takes away what is there, then the folder


def entry(name, kind=tarfile.REGTYPE, data=b"", link="", mode=0o4700):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.uid, info.size = kind, link, mode, 1000, len(data)
    return info, data


def folder(name):
    return entry(name, tarfile.DIRTYPE)


def link(name, target, kind=tarfile.SYMTYPE):
    return entry(name, kind, link=target)


def pack(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def repack(entries, entries_max=100, size_max=1 << 20):
    """(what it said, the entries of what it wrote)"""
    with tempfile.TemporaryFile() as tar, tempfile.TemporaryFile() as out:
        tar.write(pack(entries))
        tar.seek(0)
        ended = subprocess.run([harness.BUILD / "berth-unpack", str(size_max), str(entries_max), "repack"],
                               stdin=tar, stdout=subprocess.PIPE, check=False, close_fds=False,
                               preexec_fn=lambda: os.dup2(out.fileno(), 3), timeout=harness.HANG_SECS)
        said = ended.stdout.decode()
        assert ended.returncode == (0 if said[:1] == "D" else 1), ended
        out.seek(0)
        return said, tarfile.open(fileobj=io.BytesIO(out.read())).getmembers() if said[:1] == "D" else []


def names(members):
    return [one.name for one in members]


def test_it_clears_its_place():
    said, found = repack([folder("./"), entry("./a.py", data=b"1")])
    assert said == "D1 4096 0"
    assert names(found) == HAS + [f"{ROOT}/a.py"]
    assert found[0].isreg() and found[0].size == 0 and found[1].isdir()
    assert all((one.uid, one.gid, one.mode) == (0, 0, 0o755) for one in found[1:])


def test_folders_are_written_once_and_counted_once():
    deep = [entry(f"a/b/c/d/e/f/{i}") for i in range(4)]
    said, found = repack(deep, entries_max=10)
    assert said.startswith("D10 "), said
    assert names(found) == HAS + [f"{ROOT}/" + "a/b/c/d/e/f"[:2 * i + 1] for i in range(6)] + [
        f"{ROOT}/a/b/c/d/e/f/{i}" for i in range(4)]
    said, _ = repack(deep, entries_max=9)
    assert said == "Bmore than 9 files and folders"


def test_names_of_the_host_are_names_like_others():
    """A count that knew what is on the host would tell whoever wrote the tar."""
    there, _ = repack([entry("usr/lib/berth-x/y")])
    other, _ = repack([entry("usx/lix/berth-x/y")])
    assert there == other == "D4 0 0"


@pytest.mark.parametrize("entries, reason", [
    ([link("x", "/etc"), entry("x/passwd", data=b"root")], "below a name that is no folder"),
    ([link("x", "."), entry("x/y")], "below a name that is no folder"),
    ([link("x", "/etc"), entry("x/y/z")], "below a name that is no folder"),
    ([entry("x"), entry("x/y")], "below a name that is no folder"),
    ([link("x", "/etc"), folder("x"), entry("x/y")], "a folder and no folder"),
    ([folder("x"), link("x", "/etc"), entry("x/y")], "a folder and no folder"),
    ([entry("x/y"), link("x", "/etc")], "a folder and no folder"),
    ([link("x", "/etc"), link("h", "x/shadow", tarfile.LNKTYPE)], "a hard link to no file"),
    ([link("h", "etc/shadow", tarfile.LNKTYPE)], "a hard link to no file"),
    ([folder("x"), link("h", "x", tarfile.LNKTYPE)], "a hard link to no file"),
    ([entry("../x")], "\"..\" in a name"),
], ids=lambda value: value if isinstance(value, str) else ",".join(member.name for member, _ in value))
def test_what_is_refused(entries, reason):
    said, _ = repack(entries)
    assert said[:1] == "B" and reason in said, said


def test_links_are_kept():
    said, found = repack([entry("a", data=b"1"), link("h", "./a", tarfile.LNKTYPE), link("s", "../../etc"),
                          entry("a", data=b"22"), link("s", "other")])
    assert said[:1] == "D", said
    assert names(found) == HAS + [f"{ROOT}/{one}" for one in ("a", "h", "s", "a", "s")]
    assert found[3].islnk() and found[3].linkname == f"{ROOT}/a"
    assert found[4].issym() and found[4].linkname == "../../etc"
