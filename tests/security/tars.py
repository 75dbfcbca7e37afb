"""Tars that nobody honest makes, and the catalogue of images that they are given to. Standard library
only."""
import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import pathlib
import select
import signal
import subprocess
import tarfile
import tempfile

from harness import BUILD, HANG_SECS, clean_environment, read, wait_until

TOOL = BUILD / "tests" / "security" / "images-tool"
UNPACK = (BUILD / "berth-unpack").resolve()
ID_FIRST = 1900000000  # images_tool.c
UNPACK_IDS = 0x70000000 - 65536  # IDRANGE_UNPACK
MB = 1 << 20
TYPES = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE,
         "hard": tarfile.LNKTYPE, "chr": tarfile.CHRTYPE, "blk": tarfile.BLKTYPE,
         "fifo": tarfile.FIFOTYPE}


def entry(name, kind="file", data=b"", **fields):
    """(TarInfo, data): one entry, with whatever fields it is told to have."""
    info = tarfile.TarInfo(name)
    info.type = TYPES[kind]
    info.size = len(data)
    info.mode = 0o755 if kind == "dir" else 0o644
    info.mtime = 1_000_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def pack(entries, form=tarfile.PAX_FORMAT, end=True):
    """The bytes of a tar, block by block as it was asked for."""
    parts = []
    for info, data in entries:
        parts += [info.tobuf(form, "utf-8", "surrogateescape"), data, b"\0" * (-len(data) % 512)]
    return b"".join(parts) + (b"\0" * 1024 if end else b"")


def header(name, length=0, kind=b"0", **raw):
    """One ustar header with raw fields: what tarfile would not write."""
    block = bytearray(512)
    fields = {"name": (0, name.encode()), "mode": (100, b"0000644"), "uid": (108, b"0000000"),
              "gid": (116, b"0000000"), "size": (124, b"%011o" % length), "mtime": (136, b"0" * 11),
              "type": (156, kind), "magic": (257, b"ustar\x0000")}
    for key, value in raw.items():
        fields[key] = (fields[key][0], value)
    for offset, value in fields.values():
        block[offset:offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def good(text=b"good\n"):
    """A small image with one of everything that an image may have."""
    capability = b"\x01\0\0\x02\0\x20\0\0" + b"\0" * 12  # cap_net_raw=ep, linux/capability.h
    return [
        entry("./", "dir", mode=0o700, uid=7), entry("./bin/", "dir"),
        entry("./bin/su", data=b"#!/bin/true\n", mode=0o4755),
        entry("./bin/ping", data=b"#!", mode=0o755, pax_headers={
            "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")}),
        entry("./home/me", "dir", uid=1000, gid=1001, mode=0o750),
        entry("./home/me/text", data=text, uid=1000, gid=1001, mode=0o640),
        entry("./home/me/again", "hard", linkname="./home/me/text"),
        entry("./lib", "link", linkname="usr/lib"), entry("./tmp", "dir", mode=0o1777),
        entry("./last", uid=65535, gid=65535, mode=0o2711), entry("./" + "long/" * 60 + "name"),
    ]


def sparse(name, size):
    """A file of this size with five bytes at its start (GNU tar manual, "PAX Format, Version 1.0")."""
    places = f"2\n0\n5\n{size}\n0\n".encode()
    return entry("GNUSparseFile.1/x", data=places.ljust(512, b"\0") + b"hello", pax_headers={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size)})


def damaged(data, rng, headers=False):
    """The same with a few bytes changed; headers: only there, with checksums that fit again."""
    out = bytearray(data)
    starts = [n for n in range(0, len(data), 512) if data[n + 257:n + 262] == b"ustar"]
    for _ in range(rng.randint(1, 8)):
        start = rng.choice(starts) if headers else 0
        out[start + rng.randrange(512 if headers else len(out))] = rng.randrange(256)
        if headers:
            out[start + 148:start + 156] = b" " * 8
            out[start + 148:start + 156] = b"%06o\0 " % sum(out[start:start + 512])
    return bytes(out)


def zeros(size):
    """Streams of bzip2 may follow each other: a few bytes each for a lot of nothing."""
    piece = bz2.compress(b"\0" * (10 * MB))
    return piece * (size // (10 * MB))


def slow():
    """Takes long to unpack and little room: one empty file, 1,000,000 times over."""
    return bz2.compress(header("x") * 10_000) * 100 + bz2.compress(b"\0" * 1024)


def digest(path):
    """What lstat and the contents say of everything below path."""
    found = {}
    for folder, folders, files in os.walk(path):
        for name in [".", *folders, *files]:
            full = os.path.join(folder, name)
            info = os.lstat(full)
            text = pathlib.Path(full).read_bytes() if name in files and not os.path.islink(full) \
                else b""
            found[os.path.relpath(full, path)] = (
                info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_size, info.st_ino,
                info.st_mtime_ns, hashlib.sha256(text).hexdigest())
    return found


class Catalogue:
    """images-tool on folders of its own. The canary lies beside them."""

    def __init__(self, base):
        self.base = pathlib.Path(base)
        for name in ("images", "store", "scratch", "mnt", "canary"):
            (self.base / name).mkdir(mode=0o700 if name == "store" else 0o755)
            os.chmod(self.base / name, 0o700 if name == "store" else 0o755)
        self.images, self.store, self.canary = (
            self.base / name for name in ("images", "store", "canary"))
        (self.canary / "file").write_text("the host's own\n")
        os.chmod(self.canary / "file", 0o600)
        self.before = digest(self.canary)
        self.process = None

    def start(self, size=256 * MB, entries=20_000, secs=HANG_SECS, env=None, wrap=()):
        arguments = [self.images, self.store, UNPACK, size, entries, secs, self.base / "scratch",
                     self.base / "mnt"]
        with open(self.base / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*wrap, str(TOOL), *map(str, arguments)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, env=clean_environment(env))
        return self

    def stop(self):
        if self.process:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            try:
                code = self.process.wait(HANG_SECS)
            finally:
                self.process.kill()
                self.process.stdout.close()
                self.process = None
            assert code in (0, 1, -signal.SIGKILL), self.log()  # a sanitizer's report has another

    def put(self, file, data):
        """As an operator would: beside it, then renamed."""
        path = self.images / file
        temporary = self.images / ("." + file)
        temporary.write_bytes(data if isinstance(data, bytes) else pack(data))
        os.chmod(temporary, 0o644)
        temporary.rename(path)
        return path

    def ask(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], HANG_SECS)
        assert ready, f"no answer to {line!r}: {self.log()}"
        return self.process.stdout.readline().decode("ascii").rstrip("\n")

    def take(self, name, verb="take"):
        """The last word on an image, once it is no longer being unpacked."""
        def settled():
            answer = self.ask(f"{verb} {name}")
            return answer if "is being unpacked" not in answer else None
        return wait_until(settled, lambda: self.log())

    def log(self):
        return read(self.base / "log")

    def rootfs(self, name):
        found = [path for path in self.store.glob(f"{name}.*/rootfs")
                 if not path.parent.name.endswith(".partial")]
        assert len(found) == 1, found
        return found[0]

    def children(self):
        pid = self.process.pid
        return [int(child) for child in read(f"/proc/{pid}/task/{pid}/children").split()]

    def child(self):
        """The process of berth-unpack, once it has shut itself in."""
        def locked():
            for pid in self.children():
                status = dict(line.split(":\t", 1) for line in
                              read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
                if status.get("Name") == "berth-unpack" and status.get("Seccomp") == "2":
                    return pid
            return None
        return wait_until(locked, lambda: self.log())

    def partials(self):
        return [name for name in os.listdir(self.store) if name.endswith(".partial")]

    def check_canary(self):
        assert digest(self.canary) == self.before

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(HANG_SECS)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None


@contextlib.contextmanager
def catalogue():
    base = tempfile.mkdtemp(prefix="berth-images-")
    os.chmod(base, 0o755)  # noqa: S103: berth-unpack runs under ids of its own
    one = Catalogue(base)
    try:
        yield one
        one.check_canary()
    finally:
        try:
            one.stop()
        finally:
            subprocess.run(["rm", "-rf", base], check=False)  # deeper than Python can go


def compressed(data, how):
    if how == "gz":
        return gzip.compress(data, 1, mtime=0)
    if how == "xz":
        return lzma.compress(data)
    if how == "zst":  # raw blocks in a frame with a window of 1 MiB (RFC 8878, 3.1.1)
        blocks = [data[n:n + 65536] for n in range(0, len(data), 65536)]
        return b"\x28\xb5\x2f\xfd\x00\x50" + b"".join(
            (len(block) << 3 | (n == len(blocks) - 1)).to_bytes(3, "little") + block
            for n, block in enumerate(blocks))
    return bz2.compress(data)
