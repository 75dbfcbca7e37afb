"""The catalogue of images: what of the operator's folder is believed, what happens when it changes,
and that an unpacked image stays for as long as anybody uses it."""
import fcntl
import os
import shutil

import pytest

import tars
from harness import wait_until
from tars import MB, entry, pack


@pytest.fixture
def box():
    with tars.catalogue() as one:
        yield one


def folder(box, name, mode=0o755):
    path = box.images / name
    (path / "etc").mkdir(parents=True)
    (path / "etc/name").write_text(name)
    os.chmod(path, mode)
    return path


def test_folder_is_used_as_it_is(box):
    folder(box, "one")
    os.chown(box.images / "one/etc/name", 1000, 1001)
    assert box.start().take("one", "mount") == "ok"
    seen = os.stat(f"/proc/{box.process.pid}/root{box.base}/mnt/etc/name")
    assert (seen.st_uid, seen.st_gid) == (tars.ID_FIRST + 1000, tars.ID_FIRST + 1001)
    assert os.listdir(box.store) == []


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_folder_that_other_users_can_reach(box, mode):
    folder(box, "one")
    os.chmod(box.images, mode)
    assert box.start().ask("take one") == "ok"
    assert ("set-user-ID" in box.log()) == (mode == 0o755)


def test_unknown_names(box):
    folder(box, "one")
    box.put("two.tar", tars.good())
    box.start()
    assert box.take("two") == "ok"
    assert set(box.ask("names").split()) == {"names", "one", "two"}
    answer = box.ask("take three")
    assert answer.startswith('error bad_input 0 image "three" is not known; there is: host '), answer
    assert set(answer.split("host ")[1].split()) == {"one", "two"}
    for name in ("", "..", "one/etc", "../images/one", "One", "one.tar", "o" * 300, "\x1b[2J"):
        answer = box.ask(f"take {name}")
        assert answer.startswith("error bad_input 0 image: a name has 1 to 63 "), answer


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("fault, reason", [
    ("owner", "belongs to user 1234, not to user 0"), ("group", r"may be written to by its group"),
    ("world", "may be written to by everybody")])
def test_others_may_write(box, kind, fault, reason):
    path = folder(box, "one") if kind == "folder" else box.put("one.tar", tars.good())
    if fault == "owner":
        os.chown(path, 1234, 0)
    else:
        os.chmod(path, 0o775 if fault == "group" else 0o757)
    answer = box.start().ask("take one")
    assert answer.startswith('error bad_input 0 image "one": one') and reason in answer, answer
    assert reason in box.log()
    assert box.ask("names") == "names "
    os.chown(path, 0, 0)
    os.chmod(path, 0o755)
    wait_until(lambda: box.ask("take one") == "ok", box.log)


@pytest.mark.parametrize("fault", ["owner", "mode"])
def test_others_may_write_to_the_folder_of_images(box, fault):
    folder(box, "one")
    box.put("two.tar", tars.good())
    if fault == "owner":
        os.chown(box.images, 1234, 0)
    else:
        os.chmod(box.images, 0o777)
    box.start()
    for name in ("one", "two"):
        answer = box.ask(f"take {name}")
        assert answer.startswith("error bad_input") and "folder of images" in answer, answer
    assert os.listdir(box.store) == []


def test_links_are_refused(box):
    folder(box, "real")
    os.symlink("real", box.images / "link")
    os.symlink("/", box.images / "slash")
    os.symlink("/etc/shadow", box.images / "file.tar")
    box.start()
    for name in ("link", "slash", "file"):
        answer = box.ask(f"take {name}")
        assert answer.startswith("error bad_input") and "is a symbolic link" in answer, answer
    assert box.ask("names") == "names real"


def test_names_that_are_none(box):
    for name in ("host", "Big", "-x", "a_b", "x" * 64, "in\nlog"):
        folder(box, name)
    box.put("host.tar", tars.good())
    (box.images / "README.md").write_text("no image")
    (box.images / ".hidden.tar").write_text("no image")
    os.mkfifo(box.images / "pipe.tar")
    box.start()
    assert box.ask("names") == "names "
    assert "neither a folder nor a file" in box.ask("take pipe")
    assert 'the name of the built-in image "host"' in box.log()
    assert "README" not in box.log() and "hidden" not in box.log()
    assert all("images-tool: " in line for line in box.log().splitlines())


def test_two_of_one_name(box):
    folder(box, "one")
    box.put("one.tar", tars.good())
    box.put("two.tar", tars.good())
    box.put("two.tar.gz", tars.good())
    box.start()
    for name in ("one", "two"):
        assert "is not the only one of its name" in box.ask(f"take {name}")
    (box.images / "two.tar").unlink()
    wait_until(lambda: box.ask("take two") == "ok", box.log)


def test_new_one_is_found_when_it_is_asked_for(box):
    box.start()
    assert "not known" in box.ask("take one")
    folder(box, "one")
    wait_until(lambda: box.ask("take one") == "ok", box.log)


def test_changed_archive(box):
    """A name means what the folder holds now; a living sandbox keeps what it began with."""
    box.put("one.tar", [entry("version", data=b"1")])
    assert box.start().take("one", "hold") == "ok"
    first = box.rootfs("one")
    box.put("one.tar", [entry("version", data=b"2")])

    def second():
        box.take("one")
        found = [path for path in box.store.glob("one.*/rootfs/version")
                 if not path.parts[-3].endswith(".partial") and path.read_bytes() == b"2"]
        return found[0].parent if found else None
    after = wait_until(second, box.log)
    assert (first / "version").read_bytes() == b"1"
    for _ in range(3):  # some looks at the folder later still
        assert box.take("one") == "ok"
    assert first.exists()
    box.ask("drop")
    wait_until(lambda: not first.exists(), lambda: os.listdir(box.store))
    assert (after / "version").read_bytes() == b"2"


def test_lock_outlives_the_catalogue(box):
    """An image that vanished while nobody looked stays for a process that inherited its lock."""
    box.put("one.tar", tars.good())
    assert box.start().take("one") == "ok"
    whole = box.rootfs("one").parent
    with open(whole / "lock", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        box.kill()
        (box.images / "one.tar").unlink()
        box.put("two.tar", tars.good())
        assert box.start().take("two") == "ok"
        assert "not known" in box.take("one")
        assert (whole / "rootfs/bin/su").exists()
    wait_until(lambda: not whole.exists(), lambda: os.listdir(box.store))


def test_known_archive_is_not_unpacked_again(box):
    box.put("one.tar", tars.good())
    assert box.start().take("one") == "ok"
    before = os.stat(box.rootfs("one")).st_ino
    box.stop()
    assert box.start().take("one") == "ok"
    assert os.stat(box.rootfs("one")).st_ino == before
    assert "unpacked already" in box.log()


def test_unpacked_folder_that_somebody_removed(box):
    box.put("one.tar", tars.good())
    assert box.start().take("one") == "ok"
    shutil.rmtree(box.rootfs("one").parent)
    assert "is being unpacked" in box.ask("take one")
    assert box.take("one") == "ok"


def test_archive_that_changes_while_it_is_unpacked(box):
    box.put("one.tar.bz2", tars.slow())
    box.start(entries=1 << 40)
    pid = box.child()
    box.put("one.tar.bz2", tars.compressed(pack([entry("version", data=b"2")]), "bz2"))
    assert box.take("one") == "ok", box.log()
    assert (box.rootfs("one") / "version").read_bytes() == b"2"
    assert pid not in box.children()
    wait_until(lambda: box.partials() == [], box.partials)


def test_broken_archive_is_mended(box):
    box.put("one.tar", b"nonsense" * 100)
    assert "not a tar" in box.start().take("one")
    box.put("one.tar", tars.good())
    wait_until(lambda: box.ask("take one") == "ok", box.log)


def test_archives_wait_for_each_other(box):
    for number in range(5):
        box.put(f"i{number}.tar", [entry("x", data=os.urandom(MB))])
    box.start()
    assert set(box.ask("names").split()[1:]) == {f"i{n}" for n in range(5)}
    assert len(box.children()) <= 2  # one unpacks, one removes
    for number in range(5):
        assert box.take(f"i{number}") == "ok"


def test_what_is_not_ours_stays(box):
    """The engine keeps other things beside the unpacked images."""
    (box.store / "host").mkdir()
    (box.store / "notes.txt").write_text("mine")
    (box.store / "gone.0123456789abcdef/rootfs").mkdir(parents=True)
    (box.store / "half.0123456789abcdef.00000000.partial").mkdir()
    os.symlink(box.canary, box.store / "gone.0123456789abcdef/rootfs/link")
    os.symlink(box.canary, box.store / "link.0123456789abcdef.00000000.partial")
    box.start()
    kept = {"host", "notes.txt", "link.0123456789abcdef.00000000.partial"}
    wait_until(lambda: set(os.listdir(box.store)) == kept, lambda: os.listdir(box.store))


def test_filesystem_without_id_maps(box):
    """The store on overlayfs, which has none: said once, in words, and for good."""
    box.put("one.tar", tars.good())
    for name in ("upper", "work"):
        (box.base / name).mkdir(mode=0o700)
    script = (f"mount -t overlay overlay -o lowerdir={box.canary},upperdir={box.base}/upper,"
              f'workdir={box.base}/work {box.store} && exec "$@"')
    if not shutil.which("unshare"):
        pytest.skip("no unshare(1)")
    box.start(wrap=("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"))
    assert box.take("one").startswith(
        'error unsupported 0 image "one": one.tar: the filesystem of the state folder has no '
        "id-mapped mounts"), box.log()


def test_store_that_others_may_enter(box):
    """It holds set-user-ID files with the host's own numbers."""
    os.chmod(box.store, 0o755)
    assert box.start().process.wait(60) == 1
    assert "mode 0700" in box.log()
    box.stop()
