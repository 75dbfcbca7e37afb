"""A server's side of the sandbox protocol, spoken to the init of a running sandbox over its own
socket: what root on the host can do, so that files can be tested before a route uses them."""
import pathlib
import socket
import struct

HELLO, DATA, CREDIT, CLOSE, KILL, PUT_FILE, DONE, GET_FILE = 1, 5, 6, 7, 8, 9, 10, 13
STDOUT = 2
WAIT_SECS = 60


def number(tag, value):
    return struct.pack("<HHIQ", tag, 0, 8, value)


def text(tag, value):
    data = value.encode() + b"\0"
    return struct.pack("<HHI", tag, 0, len(data)) + data


def fields(payload):
    result = {}
    while payload:
        tag, _, size = struct.unpack_from("<HHI", payload)
        result[tag] = payload[8:8 + size]
        payload = payload[8 + size:]
    return result


class Init:
    """One connection; an operation at a time."""

    def __init__(self, state):
        [path] = pathlib.Path(state).glob("priv/run/*.sock")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_SECS)
        self.sock.connect(str(path))
        self.buffer = b""
        self.stream = 0
        nonce = struct.pack("<HHI", 4, 0, 16) + bytes(16)
        self.send(HELLO, 0, number(1, 1) + number(2, 1) + number(3, 0) + nonce)
        assert self.receive()[0] == HELLO

    def send(self, kind, stream, payload=b""):
        self.sock.sendall(struct.pack("<IBBHI", len(payload), kind, 0, 0, stream) + payload)

    def receive(self):
        while True:
            if len(self.buffer) >= 12:
                size, kind, _, _, stream = struct.unpack_from("<IBBHI", self.buffer)
                if len(self.buffer) >= 12 + size:
                    payload = self.buffer[12:12 + size]
                    self.buffer = self.buffer[12 + size:]
                    return kind, stream, payload
            piece = self.sock.recv(65536)
            assert piece, "init closed the connection"
            self.buffer += piece

    def get(self, path, offset=0, size=0):
        """(errno, bytes)"""
        self.stream += 4
        self.send(GET_FILE, self.stream, text(1, path) + number(2, offset) + number(3, size))
        data = b""
        while True:
            kind, stream, payload = self.receive()
            if kind == DATA:
                data += payload
                self.send(CREDIT, stream, struct.pack("<I", len(payload)))
            elif kind == DONE:
                return struct.unpack("<Q", fields(payload)[1])[0], data
            else:
                assert (kind, stream) == (CLOSE, self.stream + STDOUT)

    def put(self, path, data, mode=0o644):
        """errno"""
        self.stream += 4
        self.send(PUT_FILE, self.stream, text(1, path) + number(2, mode))
        self.send(DATA, self.stream, data)
        self.send(CLOSE, self.stream)
        while True:
            kind, _, payload = self.receive()
            if kind == DONE:
                return struct.unpack("<Q", fields(payload)[1])[0]
            assert kind == CREDIT

    def kill(self, cause=5):
        """Ends the operation that goes on; errno."""
        self.send(KILL, self.stream, struct.pack("<I", cause))
        while True:
            kind, _, payload = self.receive()
            if kind == DONE:
                return struct.unpack("<Q", fields(payload)[1])[0]

    def close(self):
        self.sock.close()
