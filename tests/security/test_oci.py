"""Images in layers: laid over each other as the OCI image specification says, and hostile ones that
come to nothing. Through the real catalogue and the real berth-unpack."""
import os
import re
import stat

import pytest

import oci
import tars
from harness import read, wait_until
from tars import MB, entry, pack


@pytest.fixture
def box():
    with tars.catalogue() as one:
        yield one


def taken(box, layers, **more):
    box.put("one.oci.tar", oci.archive(layers, **more))
    answer = box.start().take("one")
    assert answer == "ok", (answer, box.log())
    return box.rootfs("one")


def refused(box, data, reason, **limits):
    box.put("evil.oci.tar", data)
    answer = box.start(**limits).take("evil")
    assert answer.startswith('error bad_input 0 image "evil": evil.oci.tar: '), (answer, box.log())
    assert re.search(reason, answer), answer
    wait_until(lambda: os.listdir(box.store) == [], lambda: os.listdir(box.store))


def names(root):
    found = []
    for folder, folders, files in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in folders + files]
    return sorted(found)


BASE = [entry("etc", "dir"), entry("etc/a", data=b"a"), entry("etc/b", data=b"b"),
        entry("opt", "dir"), entry("opt/deep", "dir"), entry("opt/deep/x", data=b"x"),
        entry("opt/link", "link", linkname="deep"), entry("usr", "dir"),
        entry("usr/one", data=b"one"), entry("usr/two", "hard", linkname="usr/one")]


@pytest.mark.parametrize("prefix", ["", "./"])
def test_layers_lie_over_each_other(box, prefix):
    root = taken(box, [BASE, [entry("etc/a", data=b"A2", mode=0o600, uid=1000),
                              entry("usr/one", data=b"1"), entry("new", data=b"new")]],
                 prefix=prefix)
    assert read(root / "etc/a") == "A2" and read(root / "etc/b") == "b"
    info = os.stat(root / "etc/a")
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o600, 1000)
    # A name of a lower layer that is written anew is a file of its own from then on.
    assert (read(root / "usr/one"), read(root / "usr/two")) == ("1", "one")


def test_whiteouts(box):
    root = taken(box, [BASE, [entry("etc/.wh.a"), entry("opt/.wh.deep"), entry(".wh.usr"),
                              entry("etc/.wh.never"), entry("gone/.wh.x")]])
    assert names(root) == ["etc", "etc/b", "opt", "opt/link"]


def test_opaque_folder_keeps_what_its_own_layer_brings(box):
    for place in (0, 1):  # before and after the whiteout
        layer = [entry("opt/mine", data=b"mine")]
        layer.insert(place, entry("opt/.wh..wh..opq"))
        root = taken(box, [BASE, layer])
        assert names(root / "opt") == ["mine"]
        box.stop()
        (box.images / "one.oci.tar").unlink()
        wait_until(lambda: box.start().ask("names") == "names " or box.stop(), box.log)
        wait_until(lambda: os.listdir(box.store) == [], box.log)
        box.stop()


def test_whiteout_and_file_of_one_layer(box):
    root = taken(box, [BASE, [entry("etc/a", data=b"again"), entry("etc/.wh.a")]])
    assert read(root / "etc/a") == "again"


def test_whiteouts_in_the_lowest_layer_hide_nothing_and_stay_away(box):
    root = taken(box, [[*BASE, entry("etc/.wh.a"), entry("opt/.wh..wh..opq")]])
    assert "etc/a" in names(root) and not [name for name in names(root) if ".wh." in name]


@pytest.mark.parametrize("low, high", [("dir", "file"), ("file", "dir"), ("dir", "link"),
                                       ("link", "dir"), ("link", "file"), ("file", "link")])
def test_one_kind_takes_the_place_of_another(box, low, high):
    def thing(kind):
        more = {"linkname": "../canary"} if kind == "link" else {}
        return entry("thing", kind, data=b"data" if kind == "file" else b"", **more)
    inside = [entry("thing/in/it", data=b"x")] if low == "dir" else []
    root = taken(box, [[thing(low), *inside], [thing(high)]])
    kind = os.lstat(root / "thing").st_mode
    assert {"dir": stat.S_ISDIR, "file": stat.S_ISREG, "link": stat.S_ISLNK}[high](kind)
    assert not inside or high != "dir" or names(root) == ["thing"]


def test_folder_over_folder_keeps_files_and_takes_the_mode(box):
    root = taken(box, [BASE, [entry("opt/deep", "dir", mode=0o750, uid=3, gid=4)]])
    info = os.stat(root / "opt/deep")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o750, 3, 4)
    assert read(root / "opt/deep/x") == "x"


def test_empty_layer_and_plain_and_zst(box):
    root = taken(box, [pack(BASE), pack([]), tars.compressed(pack([entry("z", data=b"z")]), "zst")])
    assert read(root / "z") == "z" and read(root / "etc/a") == "a"


def test_deep_folder_is_hidden(box):
    deep = "d/" * 1500
    root = taken(box, [[*BASE, entry(deep + "x")], [entry(".wh.d")]])
    assert "d" not in os.listdir(root)


# ---- hostile ----

@pytest.mark.parametrize("name", ["../.wh.canary", ".wh...", "etc/.wh..", "etc/.wh.", "../../.wh..wh..opq"])
def test_whiteout_of_what_is_outside(box, name):
    refused(box, oci.archive([BASE, [entry(name)]]), "no name|in a name")


@pytest.mark.parametrize("name", ["out/.wh.file", "out/.wh..wh..opq", "out/file"])
def test_through_a_link(box, name):
    low = [entry("out", "link", linkname=str(box.canary))]
    refused(box, oci.archive([low, [entry(name, data=b"evil")]]), "layer 2 of 2: .*sym")


def test_whiteout_of_a_link_removes_the_link_only(box):
    root = taken(box, [[entry("out", "link", linkname=str(box.canary)), entry("x")],
                       [entry(".wh.out")]])
    assert names(root) == ["x"]


def test_limits_count_all_layers(box):
    layers = [[entry(f"f{number}", data=os.urandom(MB))] for number in range(5)]
    refused(box, oci.archive(layers), "layer 5 of 5: more than", size=4 * MB + MB // 2)


def test_entries_count_in_all_layers(box):
    refused(box, oci.archive([[entry(f"{n}/{m}") for m in range(20)] for n in range(5)]),
            "files and folders", entries=60)


def other(**fields):
    return lambda text: {**text, **fields}


def digest_of(text):
    return lambda manifest: {**manifest, "layers": [{**manifest["layers"][0], "digest": text}]}


@pytest.mark.parametrize("how, reason", [
    ({"manifest": digest_of("sha256:../../../../etc/shadow")}, "digest"),
    ({"manifest": digest_of("sha256:" + "0" * 64)}, "has no blobs/sha256/000"),
    ({"manifest": digest_of("md5:" + "0" * 64)}, "digest"),
    ({"manifest": digest_of(7)}, "digest"),
    ({"manifest": other(layers=[])}, "0 layers"),
    ({"manifest": other(layers="x")}, "0 layers"),
    ({"manifest": other(layers=[{}] * 1000)}, "1000 layers"),
    ({"manifest": other(layers=[None])}, "no tar"),
    ({"manifest": lambda text: b"[" * 100000}, "blobs/sha256/"),
    ({"manifest": lambda text: b" " * (2 << 20)}, "bytes"),
    ({"index": other(manifests=[])}, "0 images"),
    ({"index": other(manifests=[{}, {}])}, "2 images"),
    ({"index": lambda text: b"{"}, "index.json"),
    ({"index": other(manifests=[{"mediaType": "application/vnd.oci.image.index.v1+json"}])},
     "several kinds"),
])
def test_texts_that_say_nonsense(box, how, reason):
    refused(box, oci.archive([BASE], **how), reason)


def test_layer_that_is_no_tar(box):
    refused(box, oci.archive([BASE, b"nonsense" * 1000]), "layer 2 of 2: .*not a tar")


def test_layer_that_is_cut(box):
    refused(box, oci.archive([BASE, pack(BASE, end=False)]), "layer 2 of 2: .*")


def test_archive_that_is_cut(box):
    data = oci.archive([[entry("x", data=os.urandom(MB))]])
    refused(box, data[:MB // 2], "OCI archive|layer")


def test_plain_tar_is_no_oci_archive(box):
    refused(box, pack(tars.good()), "no index.json")


def test_layout_without_the_suffix_is_a_root_file_system(box):
    """What an archive is, its name says: nothing is guessed from what is in it."""
    box.put("one.tar", oci.archive([BASE]))
    assert box.start().take("one") == "ok"
    assert "index.json" in os.listdir(box.rootfs("one"))


@pytest.mark.parametrize("seed", range(4))
def test_damaged(box, seed):
    """Whatever comes of it, it comes in words, and nothing but the target is touched."""
    import random
    rng = random.Random(seed)
    data = oci.archive([pack(BASE), pack([entry("etc/.wh.a"), entry("opt/.wh..wh..opq")])])
    box.start()
    for number in range(15):
        box.put("one.oci.tar", tars.damaged(data, rng, headers=number % 2 == 0))
        answer = box.take("one")
        assert answer == "ok" or answer.startswith("error bad_input"), answer
