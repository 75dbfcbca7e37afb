"""A berth-native process without server or monitor, and both protocols as a client speaks them:
src/wire/engine_msg.h over a SEQPACKET socket, src/wire/sandbox.h in frames over a stream. What the
HTTP interface does not offer (yet), and what a server that was taken over could send."""
import fcntl
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid

import harness

OPS = {name: number for number, name in enumerate(
    ("probe", "create", "start", "stop", "freeze", "snapshot", "destroy", "inspect", "list",
     "open_channel", "stats", "gone", "limit", "layer_import", "layer_attach", "layer_remove",
     "layer_list", "network"), 1)}
STATES = {1: "creating", 2: "running", 3: "destroying", 4: "stopped"}
ERRORS = ("none bad_input unauthorized forbidden not_found method conflict too_large media_type "
          "quota headers unavailable unsupported timeout closed protocol internal").split()
REPLY = 0x8000
(ERROR_KIND, ERROR_ERRNO, ERROR_MESSAGE, ERROR_PUBLIC, ERROR_RETRY, ID, IMAGE, PROFILE, MEMORY,
 STORAGE, CPU, PIDS, FILES, LIFETIME, ORPHAN, NAME, VERSION, CAPABILITIES, CGROUP_MODE, UNAVAILABLE,
 STATE, NONCE, LISTED, DISK, KEEP_FILES, IMAGES, MISSING, MORE, KERNEL, LAYER,
 LAYER_SIZE, SIZE_MAX, ENTRIES_MAX, GPUS, FULL, RUNTIME, RUNTIME_VERSION, RUNTIME_CAPABILITIES,
 RUNTIME_WARNING, CAUSE, IMAGE_IDS, RUNTIME_MEMORY) = range(1, 43)
FRAMES = {name: number for number, name in enumerate(
    ("hello", "exec", "started", "exit", "data", "credit", "close", "kill", "put_file", "done",
     "ping", "pong", "get_file", "kernel", "run", "message_part", "message", "interrupt", "resize",
     "attach", "forget", "list", "listed", "timers", "limits", "network", "egress", "accepted"), 1)}
FRAME_NAMES = {number: name for name, number in FRAMES.items()}
CAUSES = ("none", "timeout", "oom", "output", "signal", "user", "server")
NEVER = (1 << 64) - 1
CAP_DISK, CAP_CONTAINER, CAP_LIMIT, CAP_ZYGOTE = 1 << 10, 1 << 11, 1 << 13, 1 << 14
CAP_LAYERS = 1 << 15
MIB = 1 << 20
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tlv(tag, value):
    if isinstance(value, int):
        data = struct.pack("<Q", value)
    else:
        data = value if isinstance(value, bytes) else value.encode() + b"\0"
    return struct.pack("<HHI", tag, 0, len(data)) + data


def fields(data):
    at = 0
    while at < len(data):
        tag, _, size = struct.unpack_from("<HHI", data, at)
        yield tag, data[at + 8:at + 8 + size]
        at += 8 + size


def number(data):
    return struct.unpack("<Q", data)[0]


def text(data):
    return data[:-1].decode("utf-8", "replace")


class EngineError(Exception):
    def __init__(self, kind, message, public):
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.public = kind, message, public


class Engine:
    """berth-native on a state folder of its own, by process id."""

    def __init__(self, env=None, state=None, options=()):
        self.env = env or {}
        self.options = list(options)
        self.owns_state = state is None
        self.state = pathlib.Path(state or tempfile.mkdtemp(prefix="berth-engine-"))
        (self.state / "priv").mkdir(mode=0o700, exist_ok=True)
        self.instance_file = self.state / "priv" / "instance"
        if not self.instance_file.exists():
            self.instance_file.write_text(uuid.uuid4().hex[:8] + "\n")
        self.instance = self.instance_file.read_text().strip()
        self.log_path = pathlib.Path(f"{self.state}.log")
        self.process = None
        self.client = None
        self.request_id = 0

    def start(self, hidden=()):
        """hidden: programs of the host that it is to find missing."""
        hide = "".join(f"mount --bind /dev/null {name} && " for name in hidden)
        path = str(self.state / "engine.sock")
        pathlib.Path(path).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, \
                open(self.log_path, "ab") as log:
            listener.bind(path)
            listener.listen(8)
            passed = fcntl.fcntl(listener, fcntl.F_DUPFD, 10)  # 3 is taken, see INIT_FD_CONFIG
            self.process = subprocess.Popen(
                [*(["unshare", "--mount"] if hide else []),
                 "/bin/sh", "-c", hide + 'exec 3</dev/null "$@"', "sh",
                 str(harness.BUILD / "berth-native"), "--state", str(self.state), "--listen-fd",
                 str(passed), "--client-uid", "0", *self.options],
                pass_fds=[passed], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=harness.clean_environment(self.env))
            os.close(passed)
        self.connect()
        return self

    def connect(self):
        self.close_client()
        self.client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client.settimeout(harness.HANG_SECS)
        self.client.connect(str(self.state / "engine.sock"))

    def close_client(self):
        if self.client:
            self.client.close()
            self.client = None

    def kill(self, signal_number=signal.SIGKILL):
        self.close_client()
        if self.process:
            self.process.send_signal(signal_number)
            self.process.wait(harness.HANG_SECS)
            self.process = None

    def restart(self):
        """A new process after one that died; returns whether one had. Connects anew."""
        try:
            self.connect()
            self.probe()
            return False
        except OSError:
            self.kill()
            self.start()
            return True

    def stop(self):
        """Destroys everything, then ends the engine."""
        for sandbox_id in self.list():
            self.destroy(sandbox_id)
        self.kill(signal.SIGTERM)

    def remove(self):
        if self.process:
            self.stop()
        if self.owns_state:
            shutil.rmtree(self.state, ignore_errors=True)
            self.log_path.unlink(missing_ok=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.remove()

    def log(self):
        return harness.read(self.log_path)

    def init_pid(self, sandbox_id):
        """The init of a sandbox, as the host sees it; None when it has none."""
        for base in harness.cgroup_bases(self.instance):
            pids = harness.read(base / sandbox_id / "init" / "cgroup.procs").split()
            if pids:
                return int(pids[0])
        return None

    # ---- requests ----

    def send(self, op, payload=b"", fds=()):
        self.request_id += 1
        message = struct.pack("<IIQ", 1, OPS[op], self.request_id) + payload
        socket.send_fds(self.client, [message], list(fds))
        return self.request_id

    def receive(self, request_id, op):
        """The reply to a request; events in between are dropped. Returns (fields, fds)."""
        while True:
            data, fds, _, _ = socket.recv_fds(self.client, 1 << 16, 4)
            if not data:
                raise ConnectionError("the engine closed the connection")
            _, got_op, got_id = struct.unpack_from("<IIQ", data)
            if got_id == request_id and got_op == OPS[op] | REPLY:
                break
            for fd in fds:
                os.close(fd)
        reply = list(fields(data[16:]))
        found = dict(reply)
        if ERROR_KIND in found:
            raise EngineError(ERRORS[number(found[ERROR_KIND])],
                              text(found.get(ERROR_MESSAGE, b"\0")),
                              text(found.get(ERROR_PUBLIC, b"\0")))
        return reply, fds

    def receive_any(self):
        """The next reply, whoever it is for: the request's id, and the kind of its error or None."""
        while True:
            data, fds, _, _ = socket.recv_fds(self.client, 1 << 16, 4)
            assert data, "the engine closed the connection"
            for fd in fds:
                os.close(fd)
            _, op, request_id = struct.unpack_from("<IIQ", data)
            if op & REPLY:
                found = dict(fields(data[16:]))
                kind = found.get(ERROR_KIND)
                return request_id, ERRORS[number(kind)] if kind else None

    def call(self, op, payload=b""):
        return self.receive(self.send(op, payload), op)

    def probe(self):
        found = dict(self.call("probe")[0])
        return {"capabilities": number(found[CAPABILITIES]), "cgroup_mode": text(found[CGROUP_MODE]),
                "memory": number(found[MEMORY]), "storage": number(found[STORAGE]),
                "disk": number(found[DISK]), "images": text(found[IMAGES]).split(),
                "missing": text(found[MISSING]), "unavailable": text(found[UNAVAILABLE])}

    def runtimes(self):
        """{name: (version, capabilities, warning)}, the first first."""
        found, name = {}, None
        for tag, data in self.call("probe")[0]:
            if tag == RUNTIME:
                name = text(data)
                found[name] = {}
            elif tag in (RUNTIME_VERSION, RUNTIME_CAPABILITIES, RUNTIME_WARNING):
                found[name][tag] = data
        return {name: (text(about[RUNTIME_VERSION]), number(about[RUNTIME_CAPABILITIES]),
                       text(about.get(RUNTIME_WARNING, b"\0"))) for name, about in found.items()}

    def wait_gone(self, sandbox_id):
        """Waits for the event that says that a sandbox died by itself; its cause."""
        while True:
            data = self.client.recv(1 << 16)
            assert data, "the engine closed the connection"
            found = dict(fields(data[16:]))
            if struct.unpack_from("<IIQ", data)[1] == OPS["gone"] and text(found[ID]) == sandbox_id:
                return CAUSES[number(found[CAUSE])] if CAUSE in found else "none"

    @staticmethod
    def spec(sandbox_id, image="host", profile="strict", memory=256 * MIB, storage=64 * MIB,
             cpu=1000, pids=128, open_files=1024, lifetime_ms=0, orphan_ms=600000, disk=False,
             keep_files=False, kernel="", runtime="", gpus=0):
        return b"".join(tlv(tag, value) for tag, value in (
            (ID, sandbox_id), (IMAGE, image), (PROFILE, profile), (MEMORY, memory),
            (STORAGE, storage), (CPU, cpu), (PIDS, pids), (FILES, open_files),
            (LIFETIME, lifetime_ms), (ORPHAN, orphan_ms), (DISK, int(disk)),
            (KEEP_FILES, int(keep_files)), (KERNEL, kernel), (RUNTIME, runtime), (GPUS, gpus)))

    def create(self, sandbox_id=None, op="create", **options):
        sandbox_id = sandbox_id or "t" + uuid.uuid4().hex[:12]
        reply, fds = self.call(op, self.spec(sandbox_id, **options))
        return Sandbox(self, sandbox_id, socket.socket(fileno=fds[0]), dict(reply)[NONCE])

    def restart_sandbox(self, sandbox_id, **options):
        return self.create(sandbox_id, op="start", **options)

    def destroy(self, sandbox_id):
        self.call("destroy", tlv(ID, sandbox_id))

    def limit(self, sandbox_id, memory=0, storage=0, cpu=0, pids=0):
        """Gives a running sandbox other limits; 0 leaves one as it is."""
        self.call("limit", self.spec(sandbox_id, memory=memory, storage=storage, cpu=cpu,
                                     pids=pids))

    def stop_sandbox(self, sandbox_id):
        self.call("stop", tlv(ID, sandbox_id))

    def settled(self, sandbox_id):
        """The state of a sandbox once it goes on by itself no more; None when there is none."""

        def look():
            try:
                state = self.inspect(sandbox_id)
            except EngineError as problem:
                if problem.kind == "unavailable":  # what it tried at its start was ended
                    self.kill()
                    self.start()
                    return False
                assert problem.kind == "not_found", problem
                return "gone"
            return state in ("running", "stopped") and state

        state = harness.wait_until(look, f"{sandbox_id} settles")
        return None if state == "gone" else state

    def inspect(self, sandbox_id):
        return STATES[number(dict(self.call("inspect", tlv(ID, sandbox_id))[0])[STATE])]

    def list_page(self, after=""):
        """One reply: its ids, and whether there are more after them."""
        reply, _ = self.call("list", tlv(ID, after))
        return [text(data) for tag, data in reply if tag == LISTED], MORE in dict(reply)

    def list(self):
        found, more = self.list_page()
        while more:
            page, more = self.list_page(found[-1])
            found += page
        return found

    def network_full(self, sandbox_id, on=True):
        self.call("network", tlv(ID, sandbox_id) + tlv(FULL, int(on)))

    # ---- layers ----

    def begin_import(self, name, tar, size_max=0, entries_max=0):
        """Sends an import of a tar: its bytes, or a descriptor. Returns the request's id."""
        payload = tlv(LAYER, name) + tlv(SIZE_MAX, size_max) + tlv(ENTRIES_MAX, entries_max)
        if isinstance(tar, int):
            return self.send("layer_import", payload, [tar])
        with tempfile.TemporaryFile() as spool:
            spool.write(tar)
            spool.seek(0)
            return self.send("layer_import", payload, [spool.fileno()])

    def end_import(self, request_id):
        """Its size in bytes."""
        return number(dict(self.receive(request_id, "layer_import")[0])[LAYER_SIZE])

    def import_layer(self, name, tar, **bounds):
        return self.end_import(self.begin_import(name, tar, **bounds))

    def attach_layer(self, sandbox_id, name):
        self.call("layer_attach", tlv(ID, sandbox_id) + tlv(LAYER, name))

    def remove_layer(self, name):
        self.call("layer_remove", tlv(LAYER, name))

    def layers(self):
        """{name: size in bytes}, in order."""
        found, after = {}, ""
        while True:
            reply, _ = self.call("layer_list", tlv(LAYER, after))
            for tag, data in reply:
                if tag == LAYER:
                    after = text(data)
                elif tag == LAYER_SIZE:
                    found[after] = number(data)
            if MORE not in dict(reply):
                return found

    def open_channel(self, sandbox_id):
        _, fds = self.call("open_channel", tlv(ID, sandbox_id))
        return Sandbox(self, sandbox_id, socket.socket(fileno=fds[0]), None)


class Result:
    def __init__(self):
        self.streams = {2: bytearray(), 3: bytearray()}
        self.exit_code = self.cause = self.errno = self.size = None
        self.start_error = ""
        self.messages, self.part = [], b""
        self.events = []  # (kind, part, bytes), as they are counted for ATTACH
        self.state_lost = self.messages_dropped = False
        self.started = False

    @property
    def stdout(self):
        return bytes(self.streams[2])

    @property
    def stderr(self):
        return bytes(self.streams[3])

    def __repr__(self):
        return (f"Result(exit={self.exit_code}, cause={self.cause}, errno={self.errno}, "
                f"start_error={self.start_error!r}, lost={self.state_lost}, "
                f"stdout={self.stdout[-2000:]!r}, stderr={self.stderr[-2000:]!r})")


class Sandbox:
    """A channel to the init of a sandbox."""

    def __init__(self, engine, sandbox_id, channel, nonce):
        self.engine, self.id, self.channel = engine, sandbox_id, channel
        self.channel.setblocking(True)
        self.channel.settimeout(harness.HANG_SECS)
        self.buffer = b""
        self.others = []
        self.stream = 0
        hello = tlv(1, 1) + tlv(2, 1) + tlv(3, 0) + tlv(4, bytes(16))
        self.send("hello", 0, hello)
        kind, _, payload = self.frame()
        assert kind == "hello", kind
        assert nonce is None or dict(fields(payload))[4] == nonce

    def send(self, kind, stream, payload=b""):
        number_of_kind = FRAMES[kind] if isinstance(kind, str) else kind
        self.channel.sendall(struct.pack("<IBBHI", len(payload), number_of_kind, 0, 0, stream)
                             + payload)

    def frame(self):
        while True:
            if len(self.buffer) >= 12:
                size, kind, _, _, stream = struct.unpack_from("<IBBHI", self.buffer)
                if len(self.buffer) >= 12 + size:
                    payload, self.buffer = self.buffer[12:12 + size], self.buffer[12 + size:]
                    return FRAME_NAMES[kind], stream, payload
            piece = self.channel.recv(1 << 16)
            if not piece:
                raise ConnectionError("init closed the channel")
            self.buffer += piece

    def begin(self, argv, env=(), cwd="/", timeout_ms=60000, keep=MIB, output_max=64 * MIB,
              execution_id=None, hold=False, terminal=None):
        self.stream += 4
        columns, rows = terminal or (0, 0)
        payload = b"".join((tlv(1, execution_id or f"e{self.stream}"), tlv(2, cwd),
                            *(tlv(3, arg) for arg in argv), *(tlv(4, entry) for entry in env),
                            tlv(5, timeout_ms), tlv(6, keep), tlv(7, output_max),
                            tlv(8, int(hold)), tlv(9, columns << 16 | rows)))
        self.send("exec", self.stream, payload)
        return self.stream

    def take(self, result, frame, credit=True):
        """Adds one frame of a stream to what came of it; whether it was the last one."""
        kind, at, payload = frame
        if kind == "data":
            result.streams[at & 3] += payload
        elif kind in ("message_part", "message"):
            result.part += payload
            if kind == "message":
                result.messages.append(result.part)
                result.part = b""
        elif kind == "started":
            result.started = True
        elif kind == "exit":
            found = dict(fields(payload))
            result.exit_code = number(found[1])
            result.cause = CAUSES[number(found[2])]
            result.start_error = text(found.get(11, b"\0"))
            result.limits_hit = number(found[3])
            result.cpu_us, result.wall_us, result.max_rss = (number(found[tag]) for tag in (4, 5, 6))
            result.stdout_bytes, result.message_bytes = number(found[8]), number(found[12])
            result.messages_dropped = number(found[13]) == 1
            result.state_lost = number(found[14]) == 1
            return True
        elif kind == "done":
            found = dict(fields(payload))
            result.errno, result.size = number(found[1]), number(found[2])
            return True
        if kind in ("data", "message", "message_part"):
            result.events.append((kind, at & 3, payload))
            if credit:
                self.send("credit", at, struct.pack("<I", len(payload)))
        return False

    def finish(self, stream, result=None):
        """Takes frames until the last one of the stream; those of others are kept for them."""
        result = result or Result()
        while not self.take(result, self.frame_of(stream)):
            pass
        return result

    def frame_of(self, stream):
        """The next frame of an execution's streams."""
        for i, frame in enumerate(self.others):
            if frame[1] & ~3 == stream:
                return self.others.pop(i)
        while True:
            frame = self.frame()
            if frame[1] & ~3 == stream:
                return frame
            self.others.append(frame)

    def wait_output(self, stream, wanted, result=None):
        """Takes frames of a stream until its output contains something."""
        result = result or Result()
        while wanted not in result.stdout:
            assert not self.take(result, self.frame_of(stream)), result
        return result

    def run(self, *argv, stdin=b"", env=(PATH,), **options):
        stream = self.begin(argv, env, **options)
        if stdin:
            self.send("data", stream + 1, stdin)
        self.send("close", stream + 1)
        return self.finish(stream)

    def sh(self, script, **options):
        return self.run("/bin/sh", "-c", script, **options)

    def put_file(self, path, content, mode=0o644):
        self.stream += 4
        stream = self.stream
        self.send("put_file", stream, tlv(1, path) + tlv(2, mode))
        for at in range(0, len(content), 32768):
            self.send("data", stream + 1, content[at:at + 32768])
        self.send("close", stream + 1)
        return self.finish(stream)

    def get_file(self, path, offset=0, size=0):
        self.stream += 4
        self.send("get_file", self.stream, tlv(1, path) + tlv(2, offset) + tlv(3, size))
        return self.finish(self.stream)

    # ---- sessions ----

    def request(self, kind, payload=b""):
        self.stream += 4
        self.send(kind, self.stream, payload)
        return self.stream

    def begin_kernel(self, argv, env=(PATH,), cwd="/workspace", stdin=b""):
        return self.request("kernel", b"".join((
            tlv(1, cwd), *(tlv(2, arg) for arg in argv), *(tlv(3, entry) for entry in env),
            *([tlv(4, stdin)] if stdin else []))))

    def kernel(self, argv, **options):
        """Starts the kernel; the errno of its DONE."""
        return self.finish(self.begin_kernel(argv, **options)).errno

    def begin_code(self, code, execution_id=None, mode=0, file="<cell>", env=(), timeout_ms=60000,
                   grace_ms=1000, keep=MIB, output_max=64 * MIB, messages_max=MIB, hold=False,
                   stdin=b""):
        code = code if isinstance(code, bytes) else code.encode()
        self.stream += 4
        stream = self.stream
        self.send("run", stream, b"".join((
            tlv(1, execution_id or f"r{stream}"), tlv(2, mode), tlv(3, file),
            *(tlv(4, entry) for entry in env), tlv(5, timeout_ms), tlv(6, grace_ms), tlv(7, keep),
            tlv(8, output_max), tlv(9, messages_max), tlv(10, int(hold)))))
        for at in range(0, len(code), 32768):
            self.send("data", stream, code[at:at + 32768])
        self.send("close", stream)
        if stdin is not None:
            if stdin:
                self.send("data", stream + 1, stdin)
            self.send("close", stream + 1)
        return stream

    def run_code(self, code, **options):
        return self.finish(self.begin_code(code, **options))

    def begin_attach(self, execution_id, after=0):
        return self.request("attach", tlv(1, execution_id) + tlv(2, after))

    def attach(self, execution_id, after=0):
        return self.finish(self.begin_attach(execution_id, after))

    def forget(self, execution_id):
        return self.finish(self.request("forget", tlv(1, execution_id) + tlv(2, 0))).errno

    def timers(self, lifetime_ms=0, idle_ms=0, orphan_ms=0):
        return self.finish(self.request(
            "timers", tlv(1, lifetime_ms) + tlv(2, idle_ms) + tlv(3, orphan_ms))).errno

    def limits(self, pids=0, file_size=0, open_files=0):
        return self.finish(self.request(
            "limits", tlv(1, pids) + tlv(2, file_size) + tlv(3, open_files))).errno

    def list_held(self):
        """({id: (ended, events)}, kernel lives, lifetime_ms, idle_ms)"""
        kind, _, payload = self.frame_of(self.request("list"))
        assert kind == "listed", kind
        held, rest = [], {}
        for tag, data in fields(payload):
            if tag == 1:
                held.append([text(data), None, None])
            elif tag in (2, 3):
                held[-1][tag - 1] = number(data)
            else:
                rest[tag] = number(data)
        return ({name: (bool(ended), events) for name, ended, events in held}, bool(rest[4]),
                rest[5], rest[6])

    def kill(self, stream, cause="user"):
        self.send("kill", stream, struct.pack("<I", CAUSES.index(cause)))

    def interrupt(self, stream):
        self.send("interrupt", stream)

    def resize(self, stream, columns, rows):
        self.send("resize", stream, struct.pack("<I", columns << 16 | rows))

    def closed(self, secs=harness.HANG_SECS):
        """Whether init goes within secs."""
        end = time.monotonic() + secs
        while time.monotonic() < end:
            ready = harness.is_readable(self.channel, end - time.monotonic())
            try:
                if ready and not self.channel.recv(1 << 16):
                    return True
            except ConnectionResetError:  # it had not read all that was sent
                return True
        return False

    def close(self):
        self.channel.close()

    def destroy(self):
        self.close()
        self.engine.destroy(self.id)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.destroy()
