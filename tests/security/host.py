"""What the attacks aim at: secrets and living things of the host, a neighbour sandbox, and the look
at all of them afterwards. Nothing here is of use to the host itself; all of it is removed again."""
import base64
import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading

from harness import BUILD, HANG_SECS, SLOW, clean_environment, is_readable, read, wait_until

HERE = pathlib.Path(__file__).parent
MARK = "berth-canary-"
PROGRAMS = ("/usr/bin/env", "/usr/bin/id", "/usr/bin/su", "/etc/passwd", "/etc/ld.so.preload",
            "/usr/bin/berth-attack", "/usr/lib/berth-attack", "/berth-attack", "/dev/berth-attack",
            "/sys/berth-attack", "/dev/null", "/dev/pts/ptmx")
SETTINGS = [f"/proc/sys/{name}" for name in (
    "kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "kernel/hostname",
    "kernel/domainname", "kernel/randomize_va_space", "kernel/sysrq", "kernel/panic",
    "kernel/dmesg_restrict", "kernel/kptr_restrict", "vm/overcommit_memory", "fs/file-max",
    "net/ipv4/ip_forward", "user/max_user_namespaces", "user/max_inotify_instances")] + [
    "/sys/kernel/uevent_helper", "/proc/irq/default_smp_affinity"]
LIMITS = ("memory.limit_in_bytes", "memory.max", "pids.max", "cpu.cfs_quota_us", "cpu.max")

# Holds a secret in memory and answers each line with that memory.
KEEPER = """
import ctypes, sys
secret = ctypes.create_string_buffer(sys.stdin.readline().strip().encode())
print(ctypes.addressof(secret), flush=True)
for line in sys.stdin:
    print(secret.value.decode(), flush=True)
"""

# Runs in a sandbox: has one of everything that others could reach, and tells when it was touched.
NEIGHBOUR = """
import ctypes, mmap, os, select, socket, sys, time
mark, secret = os.environ.pop("NEIGHBOUR_NAME"), os.environ.pop("NEIGHBOUR_SECRET")
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0" + mark)
abstract.listen()
tcp = socket.create_server(("127.0.0.1", int(os.environ["NEIGHBOUR_PORT"])))
for path in ("/dev/shm/" + mark, "/tmp/" + mark, "/workspace/" + mark):
    open(path, "w").write(secret)
os.mkfifo("/tmp/fifo-" + mark)
fifo = os.open("/tmp/fifo-" + mark, os.O_RDWR | os.O_NONBLOCK)
key = int(os.environ["NEIGHBOUR_SHM_KEY"])
number = libc.shmget(key, 4096, 0o1666)
memory = libc.shmat(number, None, 0)
ctypes.memmove(memory, secret.encode(), len(secret))
files = sorted(os.listdir("/tmp")), sorted(os.listdir("/dev/shm"))
processes = [n for n in os.listdir("/proc") if n.isdigit()]
print("ready", flush=True)
said = time.monotonic()
while True:
    if time.monotonic() - said > 5:  # silence would end the reader's patience
        said = time.monotonic()
        print("alive", flush=True)
    readable, _, _ = select.select([abstract, tcp, fifo], [], [], 0.05)
    if readable: print("touched: a socket or pipe", flush=True)
    for path in ("/dev/shm/" + mark, "/tmp/" + mark):
        if open(path).read() != secret: print("touched:", path, flush=True)
    if ctypes.string_at(memory, len(secret)).decode() != secret:
        print("touched: shared memory", flush=True)
    if (sorted(os.listdir("/tmp")), sorted(os.listdir("/dev/shm"))) != files:
        print("touched: files", flush=True)
    if [n for n in os.listdir("/proc") if n.isdigit()] != processes:
        print("touched: processes", flush=True)
    time.sleep(0.05)
"""


def fnv1a(data):
    value = 14695981039346656037
    for byte in data[:65536]:
        value = (value ^ byte) * 1099511628211 & (1 << 64) - 1
    return value


def file_state(path):
    """Content, owner, mode and times of a file that must stay as it is. To /etc/passwd the suites add users
    themselves (test_rootless.py): the other lines count."""
    try:
        info = os.stat(path)
        if path == "/etc/passwd":
            lines = [line for line in read(path).splitlines() if not line.startswith("berth-test-")]
            return (info.st_mode, info.st_uid, info.st_gid, lines)
        regular = stat.S_ISREG(info.st_mode)
        digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() if regular else ""
    except OSError as problem:
        return problem.errno
    return (info.st_mode, info.st_uid, info.st_gid, info.st_rdev, info.st_size,
            info.st_mtime_ns if regular else 0, digest)


def difference(before, after):
    """In words; of two dictionaries only what differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        before, after = ({key: one[key] for key in one if before.get(key) != after.get(key)}
                         for one in (before, after))
    return f"{before} became {after}"


def other_addresses():
    """Addresses of this host that are not loopback."""
    found = re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", read("/proc/net/fib_trie"))
    found += [":".join(re.findall("....", line.split()[0]))
              for line in read("/proc/net/if_inet6").splitlines()]
    return sorted({one for one in found if not one.startswith(("127.", "0000:0000"))})


class Host:
    """Secrets on the host and the state before the attacks; check() says what became of them."""

    def __init__(self, server):
        self.server = server
        self.secret = MARK + secrets.token_hex(12)  # content; names are told to the attacks
        self.name = MARK + "name-" + secrets.token_hex(8)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="berth-canary-", dir="/root"))
        self.touched = []
        with contextlib.ExitStack() as made:  # what was made goes when the rest can't be
            made.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._make_files(made)
            self._make_sockets(made)
            self._make_memory(made)
            self._start_keeper(made)
            self._start_neighbour(made)
            self.before = self._state()
            self.made = made.pop_all()

    # ---- what is made ----

    def _make_files(self, made):
        self.file = self.folder / "secret"
        self.file.write_text(self.secret)
        self.fifo = self.folder / "fifo"
        os.mkfifo(self.fifo)
        self.fifo_fd = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        made.callback(os.close, self.fifo_fd)
        os.write(self.fifo_fd, self.secret.encode())
        self.state_files = [pathlib.Path(self.server.state) / name
                            for name in ("secret", "priv/secret", "db/secret")]
        for path in self.state_files:
            made.callback(path.unlink, missing_ok=True)
            path.write_text(self.secret)

    def _listen(self, made, name, family, address):
        listener = socket.socket(family)
        listener.bind(address)
        listener.listen()
        made.callback(listener.close)

        def accept():
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return
                self.touched.append(name)

        threading.Thread(target=accept, daemon=True).start()
        return listener

    def _make_sockets(self, made):
        self.abstract = self.name
        self.path = str(self.folder / "socket")
        self._listen(made, "abstract socket", socket.AF_UNIX, "\0" + self.abstract)
        self._listen(made, "socket with a path", socket.AF_UNIX, self.path)
        listener = self._listen(made, "port", socket.AF_INET, ("0.0.0.0", 0))  # noqa: S104: a target
        self.port = listener.getsockname()[1]

    def _make_memory(self, made):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.shmat.restype = ctypes.c_void_p
        self.shm_key = secrets.randbelow(1 << 30) + 1
        self.shm_id = self.libc.shmget(self.shm_key, 4096, 0o1666)
        assert self.shm_id >= 0, "no System V memory on this host"
        made.callback(self.libc.shmctl, self.shm_id, 0, None)
        self.shm = self.libc.shmat(self.shm_id, None, 0)
        made.callback(self.libc.shmdt, ctypes.c_void_p(self.shm))
        ctypes.memmove(self.shm, self.secret.encode(), len(self.secret))
        self.posix_shm = pathlib.Path("/dev/shm") / self.name
        made.callback(self.posix_shm.unlink, missing_ok=True)
        self.posix_shm.write_text(self.secret)
        self.posix_shm.chmod(0o666)

    def _start_keeper(self, made):
        self.keeper = subprocess.Popen([sys.executable, "-I", "-c", KEEPER], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       env=clean_environment())
        made.callback(self._end_keeper)
        self.keeper.stdin.write(self.secret + "\n")
        self.keeper.stdin.flush()
        self.keeper_address = int(self.keeper.stdout.readline())

    def _start_neighbour(self, made):
        before = set(self.server.inits())
        self.neighbour_secret = MARK + "neighbour-" + secrets.token_hex(12)
        self.neighbour_name = MARK + "name-" + secrets.token_hex(8)
        self.neighbour_port = 20000 + secrets.randbelow(20000)
        self.neighbour_key = secrets.randbelow(1 << 30) + 1
        self.neighbour_output = []
        self.neighbour_seen = 0
        self.neighbour = self.server.stream(NEIGHBOUR, timeout=3600, env={
            "NEIGHBOUR_NAME": self.neighbour_name, "NEIGHBOUR_SECRET": self.neighbour_secret,
            "NEIGHBOUR_PORT": str(self.neighbour_port),
            "NEIGHBOUR_SHM_KEY": str(self.neighbour_key)})
        assert self.neighbour.status == 200

        def follow():
            for event in self.neighbour:
                self.neighbour_output.append(event)

        self.follower = threading.Thread(target=follow, daemon=True)
        self.follower.start()
        made.callback(self._end_neighbour)
        wait_until(lambda: "ready" in str(self.neighbour_output), lambda: self.neighbour_output)
        found = {name: pid for name, pid in self.server.inits().items() if name not in before}
        assert len(found) == 1, found
        self.neighbour_sandbox, self.neighbour_init = next(iter(found.items()))

    # ---- what the attacks are told ----

    def parameters(self):
        values = {
            "MARK": MARK, "HOST_FILE": self.file, "HOST_FIFO": self.fifo, "HOST_PID": self.keeper.pid,
            "HOST_ADDRESS": self.keeper_address, "HOST_ABSTRACT": self.abstract,
            "HOST_SOCKET": self.path, "HOST_PORT": self.port, "SERVER_PORT": self.server.port,
            "HOST_ADDRESSES": ",".join(other_addresses()), "HOST_SHM_KEY": self.shm_key,
            "HOST_SHM_ID": self.shm_id, "HOST_SHM_NAME": "/" + self.name,
            "NEIGHBOUR_ABSTRACT": self.neighbour_name, "NEIGHBOUR_PORT": self.neighbour_port,
            "NEIGHBOUR_SHM_KEY": self.neighbour_key,
            "NEIGHBOUR_SHM_NAME": "/" + self.neighbour_name, "STATE": self.server.state,
            "INSTANCE": self.server.instance,
        }
        for name in ("shadow", "gshadow", "sudoers"):
            path = pathlib.Path("/etc") / name
            values["HASH_" + name] = fnv1a(path.read_bytes()) if path.exists() else 1
        return {f"ATTACK_{name}": str(value) for name, value in values.items()}

    # ---- what became of it ----

    def _limits_of_neighbour(self):
        return {str(folder / name): read(folder / name)
                for folder in self.server.groups_of(self.neighbour_sandbox) for name in LIMITS}

    def _state(self):
        files = [*PROGRAMS, self.file, *self.state_files, self.posix_shm, BUILD / "berth-init"]
        return {
            "files": {str(path): file_state(path) for path in files},
            "settings": {path: read(path) for path in SETTINGS},
            "name": os.uname(),
            "interfaces": sorted(os.listdir("/sys/class/net")),
            "programs": self.server.children(),
            "neighbour's init": self.server.inits().get(self.neighbour_sandbox),
            "neighbour's limits": self._limits_of_neighbour(),
            "process": [read(f"/proc/{self.keeper.pid}/{name}") for name in (
                "limits", "oom_score_adj", "cgroup", "uid_map")] + [
                os.getpriority(os.PRIO_PROCESS, self.keeper.pid),
                os.sched_getaffinity(self.keeper.pid), os.sched_getscheduler(self.keeper.pid)],
        }

    def _marks(self):
        """Traces that an attack which succeeded would leave by its name."""
        return [place for place in ("/proc/self/mountinfo", "/proc/swaps", "/proc/keys",
                                    "/proc/modules", "/proc/sys/kernel/hostname")
                if "berth-attack" in read(place) or "berth_attack" in read(place)]

    def _memory_of_keeper(self):
        if self.keeper.poll() is not None:
            return f"ended with {self.keeper.returncode}"
        try:
            self.keeper.stdin.write("\n")
            self.keeper.stdin.flush()
        except BrokenPipeError:  # it is dying
            return f"ended with {self.keeper.wait(HANG_SECS)}"
        ready = is_readable(self.keeper.stdout, 20 * SLOW)
        return self.keeper.stdout.readline().strip() if ready else "stopped"

    def check(self, output=""):
        """{what: words} of what an attack reached since the last look; `output` is all that came
        out of it."""
        found = {}
        kept = self._memory_of_keeper()
        if kept != self.secret:
            found["host process"] = f"its memory is {kept!r}"
        if self.keeper.poll() is None:
            after = self._state()
            for what, before in self.before.items():
                if after[what] != before:
                    found[what] = difference(before, after[what])
            self.before = after
        if self.touched:
            found["listeners"] = ", ".join(self.touched)
            self.touched.clear()
        if ctypes.string_at(self.shm, len(self.secret)).decode() != self.secret:
            found["System V memory"] = "changed"
        pending = bytearray(4096)
        count = os.readv(self.fifo_fd, [pending])
        os.write(self.fifo_fd, pending[:count])
        if bytes(pending[:count]).decode() != self.secret:
            found["named pipe"] = "changed"
        fresh = self.neighbour_output[self.neighbour_seen:]
        self.neighbour_seen += len(fresh)
        said = [str(event) for event in fresh if "touched" in str(event)]
        if said or not self.follower.is_alive():
            found["neighbour"] = "; ".join(said) or f"ended: {self.neighbour_output[-1:]}"
        if self.secret in output or self.neighbour_secret in output:
            found["secrets"] = "came out of the sandbox"
        if marks := self._marks():
            found["traces"] = ", ".join(marks)
        return found

    # ---- the end ----

    def _end_keeper(self):
        self.keeper.kill()
        self.keeper.wait()
        self.keeper.stdout.close()
        with contextlib.suppress(OSError):
            self.keeper.stdin.close()

    def _end_neighbour(self):
        for event in self.neighbour_output[:1]:
            self.server.request("DELETE", f"/executions/{event[1]['execution_id']}")
        self.follower.join(HANG_SECS)
        self.neighbour.close()

    def close(self):
        """Ends and removes all of it, the last that was made first."""
        self.made.close()


def uploads(with_program):
    """What the sandboxes get: the Python attacks, the list, and the static program."""
    files = sorted((HERE / "inside").glob("*.py")) + [HERE / "attacks.def"]
    if with_program:
        files = [BUILD / "tests" / "security" / "attack"]
    return [{"path": path.name, "content": base64.b64encode(path.read_bytes()).decode()}
            for path in files]


def findings(text):
    """{name: finding} of the lines of JSON in an output."""
    found = {}
    for line in text.splitlines():
        if line.startswith('{"name"'):
            one = json.loads(line)
            found[one["name"]] = one
    return found
