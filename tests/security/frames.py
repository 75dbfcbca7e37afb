"""A client of the sandbox protocol (src/wire/frame.h, src/wire/sandbox.h), so that tests can write and
read files in a sandbox while its code runs. The host's root may connect beside the server."""
import os
import socket
import struct

(HELLO, EXEC, STARTED, EXIT, DATA, CREDIT, CLOSE, KILL, PUT_FILE, DONE, PING, PONG,
 GET_FILE) = range(1, 14)
STDOUT = 2  # the stream of a file's bytes on their way out
HEADER = struct.Struct("<IBBHI")
CAN_GET_FILES = 1 << 3


def number(tag, value):
    return struct.pack("<HHIQ", tag, 0, 8, value)


def text(tag, value):
    data = value.encode() + b"\0"
    return struct.pack("<HHI", tag, 0, len(data)) + data


def fields(payload):
    """{tag: bytes} of a message; the last of a tag."""
    found = {}
    while payload:
        tag, _, size = struct.unpack_from("<HHI", payload)
        found[tag] = payload[8:8 + size]
        payload = payload[8 + size:]
    return found


class Sandbox:
    """One connection to the init of a sandbox."""

    def __init__(self, server, sandbox_id):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(f"{server.state}/priv/run/{sandbox_id}.sock")
        self.stream = 0
        self.send(HELLO, 0, number(1, 1) + number(2, 1) + number(3, 0)
                  + struct.pack("<HHI", 4, 0, 16) + bytes(16))
        kind, _, payload = self.receive()
        assert kind == HELLO, kind
        self.capabilities = struct.unpack("<Q", fields(payload)[3])[0]

    def close(self):
        self.sock.close()

    def send(self, kind, stream, payload=b""):
        self.sock.sendall(HEADER.pack(len(payload), kind, 0, 0, stream) + payload)

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise ConnectionError("init closed the connection")
            data += piece
        return data

    def receive(self):
        """(type, stream, payload) of the next frame."""
        size, kind, _, _, stream = HEADER.unpack(self._exactly(HEADER.size))
        return kind, stream, self._exactly(size)

    def begin_put(self, path, mode=0o644):
        """Starts to write a file; its stream."""
        self.stream += 4
        self.send(PUT_FILE, self.stream, text(1, path) + number(2, mode))
        return self.stream

    def end_put(self, stream, data=b""):
        """Sends the bytes and the end; the errno of the outcome, 0 when it was written."""
        if data:
            self.send(DATA, stream, data)
        self.send(CLOSE, stream)
        while True:
            kind, _, payload = self.receive()
            if kind == DONE:
                return struct.unpack("<Q", fields(payload).get(1, bytes(8)))[0]

    def put(self, path, data=b"written by the host\n", mode=0o644):
        return self.end_put(self.begin_put(path, mode), data)

    def get(self, path, limit=1 << 20):
        """(errno, bytes) of a file; at most `limit` bytes are asked for."""
        assert self.capabilities & CAN_GET_FILES
        self.stream += 4
        self.send(GET_FILE, self.stream, text(1, path) + number(2, 0) + number(3, limit))
        data = b""
        while True:
            kind, stream, payload = self.receive()
            if kind == DATA:
                data += payload
                self.send(CREDIT, stream, struct.pack("<I", len(payload)))
            elif kind == DONE:
                return struct.unpack("<Q", fields(payload).get(1, bytes(8)))[0], data


class Running:
    """Code that runs in a sandbox while the test acts on it."""

    def __init__(self, server, code, profile, **options):
        before = set(server.inits())
        self.server = server
        self.stream = server.stream(code, profile=profile, timeout=120, **options)
        assert self.stream.status == 200, self.stream.response.read()
        self.output = ""
        self.execution = None
        self.read_until("ready\n")
        found = {name: pid for name, pid in server.inits().items() if name not in before}
        assert len(found) == 1, found
        self.id, self.init = next(iter(found.items()))

    def read_until(self, word):
        """Reads the code's output until it has said a word."""
        while word not in self.output:
            kind, data = next(self.stream)
            self.execution = data.get("execution_id", self.execution)
            if kind in ("stdout", "stderr"):
                self.output += data["text"]
            assert kind != "end", data

    def read_until_grown(self, word):
        """Reads until the code has said a word twice more than so far."""
        count = self.output.count(word) + 2
        while self.output.count(word) < count:
            kind, data = next(self.stream)
            if kind in ("stdout", "stderr"):
                self.output += data["text"]
            assert kind != "end", data

    def root(self, path):
        """A path inside, as the host's root reaches it; links are not followed by this alone."""
        return f"/proc/{self.init}/root{path}"

    def code_pids(self):
        """The processes of this sandbox's code."""
        found = set()
        for folder in self.server.cgroups():
            if folder.name == self.id:
                found.update(map(int, (folder / "code" / "cgroup.procs").read_text().split()))
        return found

    def connect(self):
        return Sandbox(self.server, self.id)

    def end(self):
        """Ends the code; all that it printed."""
        self.server.request("DELETE", f"/executions/{self.execution}")
        for kind, data in self.stream:
            if kind in ("stdout", "stderr"):
                self.output += data["text"]
        self.stream.close()
        return self.output


def open_files(pid):
    """{number: (where it leads, its device)} of what a process has open."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        try:
            found[int(name)] = os.readlink(path), os.stat(path).st_dev
        except OSError:
            pass  # closed meanwhile
    return found
