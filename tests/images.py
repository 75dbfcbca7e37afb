"""The image of the tests of container engines, without a registry: a tar of files of this host's own
packages (Python, a shell, the usual tools), which takes seconds. A host that is not Debian's has
debootstrap make it. It is kept below ~/.cache and made anew when one of its packages changed. And Debian's
own base image, by debootstrap too."""
import fcntl
import hashlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "berth"
NAME = "berth-test:1"
VERSION = "1"  # of what this file makes of the packages
PACKAGES = ("python3", "bash", "coreutils", "dash", "findutils", "grep", "login", "mount", "passwd",
            "procps", "sed", "tar", "util-linux", "sqlite3", "python3-pip")
LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/",
            "/usr/share/lintian/", "/usr/share/bash-completion/", "/usr/share/bug/",
            "/usr/lib/x86_64-linux-gnu/perl-base/")
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
FOLDERS = {"dev": 0o755, "etc": 0o755, "home": 0o755, "opt": 0o755, "proc": 0o555, "root": 0o700,
           "run": 0o755, "srv": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "var": 0o755,
           "var/tmp": 0o1777}
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:"
                  "/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\nshadow:x:42:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n", "etc/nsswitch.conf": "passwd: files\nhosts: files dns\n",
}


def _output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True).stdout


def _installed():
    """{name: (version, names that it depends on)} of this host; provided names are there as well."""
    found = {}
    form = "${Package}\t${Version}\t${db:Status-Abbrev}\t${Depends},${Pre-Depends}\t${Provides}\n"
    for line in _output("dpkg-query", "-W", "-f", form).splitlines():
        name, version, state, depends, provides = line.split("\t")
        if state.strip() == "ii":
            wanted = {re.split(r"[ :(]", one.strip())[0] for one in re.split(r"[,|]", depends)}
            found[name] = version, wanted - {""}
            for other in provides.split(","):
                found.setdefault(re.split(r"[ :(]", other.strip())[0], (version, {name}))
    return found


def _closure():
    """The packages and all that they depend on, with versions; nothing where one is missing."""
    try:
        installed = _installed()
    except (OSError, subprocess.CalledProcessError):
        return {}
    if not set(PACKAGES) <= set(installed):
        return {}
    found, wanted = {}, set(PACKAGES)
    while wanted:
        name = wanted.pop()
        if name in installed and name not in found:
            found[name], depends = installed[name]
            wanted |= depends
    return found


def _paths(names):
    """The files of packages, by their real places (/lib is a link)."""
    found = set()
    listed = subprocess.run(["dpkg", "-L", *names], check=False, stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.DEVNULL)  # it fails on a name that is only provided
    for path in listed.stdout.splitlines():
        if path.startswith("/") and not (path + "/").startswith(LEFT_OUT):
            folder, name = os.path.split(path)
            found.add(os.path.join(os.path.realpath(folder), name))
    return sorted(path for path in found if path.startswith(("/usr/", "/etc/")))


def _add(tar, name, kind, mode, data=b"", link=""):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, len(data), link
    tar.addfile(info, io.BytesIO(data))


def _pack(names, out):
    """Writes the tar: owners, modes and links as they are, /etc/alternatives with them."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, mode in FOLDERS.items():
            _add(tar, name, tarfile.DIRTYPE, mode)
        for name, target in LINKS.items():
            _add(tar, name, tarfile.SYMTYPE, 0o777, link=target)
        for name, text in FILES.items():
            _add(tar, name, tarfile.REGTYPE, 0o644, text.encode())
        done = set(FOLDERS) | set(LINKS) | set(FILES)
        for path in _paths(names):
            name = path.lstrip("/")
            if name not in done and os.path.lexists(path):
                tar.add(path, name, recursive=False)
                done.add(name)
        for name in sorted(os.listdir("/etc/alternatives")):
            path = f"/etc/alternatives/{name}"
            if os.path.islink(path) and os.readlink(path).lstrip("/") in done:
                tar.add(path, path[1:], recursive=False)


def _bootstrap(out, *packages):
    """The slow way, from a mirror of Debian."""
    more = [f"--include={','.join(packages)}"] if packages else []
    with tempfile.TemporaryDirectory(prefix="berth-image-") as folder:
        subprocess.run(["debootstrap", "--variant=minbase", *more, "bookworm", folder], check=True,
                       stdout=subprocess.DEVNULL)
        shutil.rmtree(f"{folder}/var/cache/apt", ignore_errors=True)
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
            tar.add(folder, ".")


def tar_path():
    """The image as a tar of its root, made when there is none of this version yet."""
    names = _closure()
    digest = hashlib.sha256(f"{VERSION} {sorted(names.items())}".encode()).hexdigest()[:16]
    if names:
        return _kept("image", digest, lambda out: _pack(names, out))
    return _kept("image", digest, lambda out: _bootstrap(out, "python3", "python3-pip", "procps", "sqlite3"))


def base_path():
    """Debian as its image of that name has it, for what begins with FROM debian: a tar of its root."""
    return _kept("base", "bookworm", _bootstrap)


def _kept(kind, name, make):
    folder = CACHE / kind
    path = folder / f"{name}.tar"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # suites that go side by side
        if not path.exists():
            for old in folder.glob("*.tar"):
                old.unlink()
            _write(make, path)
    return path


def _write(make, path):
    """Writes the tar, whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".new", delete=False) as out:
        try:
            make(out)
            os.replace(out.name, path)
        except BaseException:
            os.unlink(out.name)
            raise
