"""A berth-init in a container that is not the native engine's: the outer end of the carrier
(src/wire/carrier.h) over any pair of descriptors, the configuration of such an init, and a bundle
for runc or runsc (OCI runtime specification) to try it in."""
import json
import os
import pathlib
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import uuid

import harness
from engine import Sandbox, tlv

OPEN, DATA, CREDIT, EOF, CLOSE, PASS, BEAT = range(1, 8)
WINDOW, FRAME_MAX = 128 * 1024, 16 * 1024
HEADER = struct.Struct("<BBHII")
STRICT, CONTAINER = 0, 1
CGROUP_NONE, CGROUP_SEEN = 0, 3
# What init needs; and what Docker gives to everybody, which is what profile container is made of.
CAPS_STRICT = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SETPCAP")
CAPS_CONTAINER = tuple("CAP_" + name for name in (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP "
    "NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE").split())


def config(secret, nonce, sandbox_id="carried", profile=STRICT, uid=None, open_files=1024,
           pids=128, file_size=1 << 40, lifetime_ms=0, orphan_ms=600000, cgroup=CGROUP_SEEN,
           fault="", file_idle_ms=0):
    """The bytes of /.berth/config (src/wire/init_config.c)."""
    uid = (0 if profile == CONTAINER else 1000) if uid is None else uid
    given = [(1, sandbox_id), (2, nonce), (3, uid), (4, uid), (5, open_files), (21, pids),
             (6, file_size), (7, lifetime_ms), (8, orphan_ms), (22, profile), (12, cgroup),
             (25, secret)]
    given += [(23, fault)] if fault else []
    given += [(24, file_idle_ms)] if file_idle_ms else []
    return b"".join(tlv(tag, value) for tag, value in given)


class Channel:
    def __init__(self, number, sock):
        self.number, self.sock = number, sock
        sock.setblocking(False)
        self.credit, self.taken = WINDOW, 0
        self.waiting = b""     # for the socket
        self.passed = []       # sockets that go with the next byte of it
        self.sent_eof = self.got_eof = self.got_close = False


class Carrier:
    """The engine's end. in_fd is what init reads, out_fd what it writes; both are ours to close."""

    def __init__(self, in_fd, out_fd, secret):
        self.in_fd, self.out_fd = in_fd, out_fd
        self.secret = bytes(byte or 0xff for byte in secret)
        self.lock = threading.Lock()
        self.channels = {}
        self.pending, self.buffer = bytearray(), bytearray()
        self.next_number = 1
        self.token, self.up = None, threading.Event()
        self.over = threading.Event()
        self.beats = 0  # that init has answered
        self.problem = None
        self.wake_out, self.wake_in = os.pipe()
        for fd in (in_fd, out_fd, self.wake_out):
            os.set_blocking(fd, False)
        self.reset()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def wake(self):
        os.write(self.wake_in, b"w")

    def reset(self):
        """What an engine begins with. Channels of before are gone."""
        with self.lock:
            for channel in self.channels.values():
                channel.sock.close()
            self.channels = {}
            self.token = os.urandom(16)
            self.up.clear()
            self.buffer.clear()
            self.next_number = 1
            self.pending += self.secret + self.token + b"\0"
        self.wake()

    def say(self, kind, number, payload=b""):
        self.pending += HEADER.pack(kind, 0, 0, number, len(payload)) + payload + b"\0"

    def beat(self):
        with self.lock:
            self.say(BEAT, 0)
        self.wake()

    def raw(self, data):
        """Bytes for the stream as they are."""
        with self.lock:
            self.pending += data
        self.wake()

    def open(self):
        """A new channel: the socket of whoever is to speak to init."""
        ours, theirs = socket.socketpair()
        with self.lock:
            channel = Channel(self.next_number, ours)
            self.next_number += 2
            self.channels[channel.number] = channel
            self.say(OPEN, channel.number)
        self.wake()
        return theirs

    def wait_up(self):
        harness.wait_until(lambda: self.up.is_set() or self.over.is_set(), "init answers")
        if not self.up.is_set():
            raise ConnectionError(f"init is gone: {self.problem}")
        return self

    def close(self):
        """Leaves, as an engine that dies: nothing is said to init."""
        if not self.over.is_set():
            self.over.set()
            self.wake()
        self.thread.join(harness.HANG_SECS)
        for channel in self.channels.values():
            channel.sock.close()
        for fd in (self.in_fd, self.out_fd, self.wake_in, self.wake_out):
            os.close(fd)

    # ---- the thread ----

    def run(self):
        try:
            while not self.over.is_set():
                self.turn()
        except OSError as problem:
            self.problem = problem
        self.over.set()
        with self.lock:
            for channel in self.channels.values():
                channel.sock.close()
            self.channels = {}

    def turn(self):
        poller = select.poll()
        with self.lock:
            poller.register(self.wake_out, select.POLLIN)
            poller.register(self.out_fd, select.POLLIN)
            if self.pending:
                poller.register(self.in_fd, select.POLLOUT)
            for channel in self.channels.values():
                wants = select.POLLOUT if channel.waiting else 0
                if channel.credit > 0 and not channel.sent_eof and len(self.pending) < WINDOW:
                    wants |= select.POLLIN
                if wants:
                    poller.register(channel.sock, wants)
        seen = {fd for fd, _ in poller.poll(1000)}
        with self.lock:
            if self.wake_out in seen:
                os.read(self.wake_out, 4096)
            if self.out_fd in seen:
                self.read_stream()
            for channel in list(self.channels.values()):
                if channel.sock.fileno() in seen:
                    self.write_socket(channel)
                    self.read_socket(channel)
            self.write_stream()

    def read_stream(self):
        try:
            data = os.read(self.out_fd, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            raise OSError("the stream ended")
        self.buffer += data
        if not self.up.is_set():
            at = self.buffer.find(self.token)
            if at < 0:
                del self.buffer[:-16]
                return
            del self.buffer[:at + 16]
            self.up.set()
        while len(self.buffer) >= HEADER.size:
            kind, one, two, number, size = HEADER.unpack_from(self.buffer)
            assert one == two == 0 and size <= FRAME_MAX, "init lies"
            whole = HEADER.size + size + 1
            if len(self.buffer) < whole:
                return
            assert self.buffer[whole - 1] == 0, "init lies"
            payload = bytes(self.buffer[HEADER.size:whole - 1])
            del self.buffer[:whole]
            self.on_frame(kind, number, payload)

    def write_stream(self):
        while self.pending:
            try:
                sent = os.write(self.in_fd, self.pending[:1 << 16])
            except BlockingIOError:
                return
            del self.pending[:sent]

    def on_frame(self, kind, number, payload):
        channel = self.channels.get(number)
        if kind == BEAT:
            self.beats += 1
        elif kind == PASS:
            ours, theirs = socket.socketpair()
            passed, = struct.unpack("<I", payload)
            self.channels[passed] = Channel(passed, ours)
            if channel:
                channel.passed.append(theirs)
            else:
                theirs.close()
        elif not channel:
            return
        elif kind == DATA:
            channel.waiting += payload
            self.write_socket(channel)
        elif kind == CREDIT:
            channel.credit += struct.unpack("<I", payload)[0]
        elif kind == EOF:
            channel.got_eof = True
            self.write_socket(channel)
        elif kind == CLOSE:
            channel.got_close = True
            self.write_socket(channel)
        else:
            raise AssertionError(f"init sent a frame of type {kind}")

    def end(self, channel):
        channel.sock.close()
        for sock in channel.passed:
            sock.close()
        self.channels.pop(channel.number, None)

    def write_socket(self, channel):
        while channel.waiting:
            try:
                if channel.passed:
                    sent = socket.send_fds(channel.sock, [channel.waiting],
                                           [sock.fileno() for sock in channel.passed])
                else:
                    sent = channel.sock.send(channel.waiting)
            except BlockingIOError:
                return
            except OSError:
                sent = len(channel.waiting)
            for sock in channel.passed:
                sock.close()
            channel.passed = []
            channel.waiting = channel.waiting[sent:]
            channel.taken += sent
        if channel.taken >= WINDOW // 4:
            self.say(CREDIT, channel.number, struct.pack("<I", channel.taken))
            channel.taken = 0
        if channel.got_close:
            self.end(channel)
        elif channel.got_eof:
            channel.got_eof = False
            try:
                channel.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def read_socket(self, channel):
        if channel.sock.fileno() < 0 or channel.credit == 0 or channel.sent_eof:
            return
        try:
            data = channel.sock.recv(min(channel.credit, FRAME_MAX))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            channel.credit -= len(data)
            self.say(DATA, channel.number, data)
            return
        channel.sent_eof = True
        # Whoever was there is gone, or has only ended its half: then it can still be written to.
        poller = select.poll()
        poller.register(channel.sock, 0)
        if any(event & (select.POLLHUP | select.POLLERR) for _, event in poller.poll(0)):
            self.say(CLOSE, channel.number)
            self.end(channel)
        else:
            self.say(EOF, channel.number)


# ---- a container ----

HOST_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


def runtime_spec(caps, no_new_privs, memory, pids, cgroups_path=None):
    """config.json of a bundle whose rootfs holds links and folders of the host's."""
    mounts = [{"destination": "/proc", "type": "proc", "source": "proc"},
              {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
              {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
              {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
              {"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", "ro"]},
              {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}]
    mounts += [{"destination": folder, "type": "bind", "source": folder,
                "options": ["rbind", "ro", "nosuid"]}
               for folder in HOST_FOLDERS
               if os.path.isdir(folder) and not os.path.islink(folder)]
    sets = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "process": {"terminal": False, "user": {"uid": 0, "gid": 0}, "cwd": "/",
                    "args": ["/.berth/init", "carried"], "env": [],
                    "capabilities": {name: list(caps) for name in sets},
                    "noNewPrivileges": no_new_privs, "oomScoreAdj": 0},
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "carried",
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in
                                 ("pid", "ipc", "uts", "mount", "network", "cgroup")],
                  "resources": {"memory": {"limit": memory, "swap": memory},
                                "pids": {"limit": pids}},
                  **({"cgroupsPath": cgroups_path} if cgroups_path else {}),
                  "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                  "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"]},
    }


class Container:
    """A carried init under runc or runsc. `sandbox` is a channel, as the native engine's are."""

    def __init__(self, runtime="runc", profile=STRICT, memory=256 << 20, pids=128, caps=None,
                 no_new_privs=None, seccomp=None, **options):
        self.id = "berth-test-" + uuid.uuid4().hex[:12]
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="berth-carried-"))
        self.secret, self.nonce = os.urandom(32), os.urandom(16)
        self.runtime = [runtime, "--root", str(self.folder / "state")]
        if runtime == "runsc":
            self.runtime += ["--platform=ptrace", "--network=none", "--ignore-cgroups",
                             "--overlay=false"]
        rootfs = self.folder / "rootfs"
        self.make_rootfs(rootfs)
        (rootfs / ".berth/config").touch(mode=0o600)
        (rootfs / ".berth/config").write_bytes(config(self.secret, self.nonce, self.id, profile,
                                                      **options))
        strict = profile == STRICT
        caps = caps or (CAPS_STRICT if strict else CAPS_CONTAINER)
        spec = runtime_spec(caps, strict if no_new_privs is None else no_new_privs, memory, pids)
        if seccomp:
            spec["linux"]["seccomp"] = seccomp
        (self.folder / "config.json").write_text(json.dumps(spec))
        self.log = open(self.folder / "log", "w+b")
        stdin_out, self.stdin = os.pipe()
        self.stdout, stdout_in = os.pipe()
        self.process = subprocess.Popen(
            [*self.runtime, "run", "--bundle", str(self.folder), self.id],
            stdin=stdin_out, stdout=stdout_in, stderr=self.log, cwd=self.folder)
        os.close(stdin_out)
        os.close(stdout_in)
        self.carrier = None
        try:
            self.attach()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def make_rootfs(rootfs):
        rootfs.mkdir()
        for folder in ("proc", "sys", "dev", "etc", "run", "var", "home"):
            (rootfs / folder).mkdir()
        for folder in HOST_FOLDERS:
            if os.path.islink(folder):
                (rootfs / folder[1:]).symlink_to(os.readlink(folder))
            elif os.path.isdir(folder):
                (rootfs / folder[1:]).mkdir()
        for name, mode, owner in (("tmp", 0o1777, 0), ("workspace", 0o755, 1000), (".berth", 0o700, 0)):
            (rootfs / name).mkdir()
            (rootfs / name).chmod(mode)
            os.chown(rootfs / name, owner, owner)
        (rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n"
                                           "user:x:1000:1000::/workspace:/bin/sh\n")
        (rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
        shutil.copy(harness.BUILD / "berth-init", rootfs / ".berth/init")
        (rootfs / ".berth/init").chmod(0o755)

    def attach(self):
        """An engine that comes (again): the one before it is gone."""
        if self.carrier:
            self.carrier.close()
        self.carrier = Carrier(os.dup(self.stdin), os.dup(self.stdout), self.secret)
        try:
            self.carrier.wait_up()
        except (ConnectionError, AssertionError) as problem:
            raise AssertionError(f"{problem}: {self.read_log()}") from problem
        self.sandbox = self.open()

    def open(self):
        return Sandbox(self, self.id, self.carrier.open(), self.nonce)

    def open_channel(self, _):
        """As tests for the native engine ask for another one."""
        return self.open()

    def read_log(self):
        return (self.folder / "log").read_text(errors="replace")

    def ended(self):
        return self.process.poll() is not None

    def destroy(self, _):
        self.close()

    def close(self):
        if self.carrier:
            self.carrier.close()
        subprocess.run([*self.runtime, "kill", self.id, "KILL"], capture_output=True)
        try:
            self.process.wait(harness.HANG_SECS)
        finally:
            subprocess.run([*self.runtime, "delete", "--force", self.id], capture_output=True)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            os.close(self.stdin)
            os.close(self.stdout)
            self.log.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
