"""A registry on loopback and images to put into it: Debian's docker-registry, started by process id,
and a root file system with the host's own Python. Standard library only."""
import os
import pathlib
import shutil
import socket
import subprocess
import tarfile
import time

from harness import HANG_SECS, LOOPBACK

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "berth"
CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: {address}}}
"""
# "htpasswd -B" of USER and PASSWORD.
USER, PASSWORD = "tester", "a+pass/of-tests"
USERS = "tester:$2y$04$BJvBqRhTdKYE9Igbp7xPNOVjjPNM4KChjCGhk.UAQ1rZlzFj7NNwe\n"


def program():
    """docker-registry: the host's, or that of Debian's package, fetched once. The package is not
    installed: it would start a service. None: it can't be had."""
    found = shutil.which("docker-registry")
    folder = CACHE / "registry"
    cached = folder / "usr/bin/docker-registry"
    if found or cached.exists():
        return found or str(cached)
    folder.mkdir(parents=True, exist_ok=True)
    command = "apt-get download -qq docker-registry && dpkg -x docker-registry_*.deb . && rm docker-registry_*.deb"
    subprocess.run(["sh", "-c", command], cwd=folder, check=False, timeout=HANG_SECS,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return str(cached) if cached.exists() else None


def free_port():
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return sock.getsockname()[1]


class Registry:
    def __init__(self, folder, private=False):
        self.folder = pathlib.Path(folder)
        self.private = private  # for USER alone
        self.process = None
        self.address = None

    def start(self):
        (self.folder / "data").mkdir(parents=True)
        self.address = f"{LOOPBACK}:{free_port()}"
        config = self.folder / "config.yml"
        text = CONFIG.format(root=self.folder / "data", address=self.address)
        if self.private:
            users = self.folder / "users"
            users.write_text(USERS)
            text += f"auth: {{htpasswd: {{realm: tests, path: {users}}}}}\n"
        config.write_text(text)
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([program(), "serve", str(config)], stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + HANG_SECS
        while True:
            try:
                socket.create_connection(self.address.split(":"), 1).close()
                return self
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end, self.folder / "log"
                time.sleep(0.05)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(HANG_SECS)
            self.process = None

    def push(self, archive, name):
        """The image in this OCI archive, under this name; returns what to pull it by."""
        reference = f"docker://{self.address}/{name}"
        subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false",
                        f"oci-archive:{archive}", reference], check=True, timeout=HANG_SECS)
        return reference


def needed_libraries(paths):
    """The libraries that these programs are linked with."""
    told = subprocess.run(["ldd", *map(str, paths)], stdout=subprocess.PIPE, check=False,
                          stderr=subprocess.DEVNULL, text=True).stdout
    words = {word for line in told.splitlines() for word in line.split()}
    return sorted(word for word in words if word.startswith("/") and os.path.isfile(word))


def python_layer(path):
    """A tar with what the host's Python and a shell need, written to path."""
    python = os.path.realpath("/usr/bin/python3")
    stdlib = pathlib.Path(subprocess.run(
        [python, "-I", "-c", "print(__import__('sysconfig').get_path('stdlib'), end='')"],
        stdout=subprocess.PIPE, check=True, text=True).stdout)
    modules = [path for path in stdlib.glob("lib-dynload/*.so") if "tkinter" not in path.name]
    left_out = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "__pycache__",
                "dist-packages", "site-packages"}

    def kept(info):
        info.uid = info.gid = 0
        last = info.name.rsplit("/", 1)[-1]
        return None if last in left_out or last.startswith("config-3") else info

    with tarfile.open(path, "w") as tar:
        for name in ("usr", "usr/bin", "usr/lib", "etc", "opt"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name in ("bin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        for source in (python, os.path.realpath("/bin/sh")):
            tar.add(source, "usr/bin/" + os.path.basename(source), filter=kept)
        for name, to in (("python3", os.path.basename(python)),
                         ("sh", os.path.basename(os.path.realpath("/bin/sh")))):
            link = tarfile.TarInfo(f"usr/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, to
            tar.addfile(link)
        tar.add(stdlib, "usr" + str(stdlib).removeprefix("/usr"), filter=kept)
        for library in needed_libraries([python, "/bin/sh", *modules]):
            name = library.removeprefix("/usr").lstrip("/")
            tar.add(os.path.realpath(library), "usr/" + name, filter=kept)
    return path
