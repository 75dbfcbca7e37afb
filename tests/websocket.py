"""A WebSocket client (RFC 6455) that can also misbehave. Standard library only."""
import base64
import hashlib
import os
import socket
import struct

from harness import LOOPBACK, SLOW

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Refused(Exception):
    def __init__(self, status, head, body):
        super().__init__(f"{status}: {head!r} {body!r}")
        self.status, self.head, self.body = status, head, body


class WebSocket:
    """One connection. close holds (status, reason) once the server has closed."""

    def __init__(self, port, path, fields=None, omit=(), method="GET", early=b""):
        key = base64.b64encode(os.urandom(16))
        wanted = {"Host": f"{LOOPBACK}:{port}", "Upgrade": "websocket", "Connection": "Upgrade",
                  "Sec-WebSocket-Key": key.decode(), "Sec-WebSocket-Version": "13",
                  **(fields or {})}
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in wanted.items() if name not in omit]
        self.socket = socket.create_connection((LOOPBACK, port), 60 * SLOW)
        self.close = None
        self.rest = b""
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + early)
        self.head = self._read_head()
        status = int(self.head.split(b" ", 2)[1])
        if status != 101:
            raise Refused(status, self.head, self._read_all())
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())  # noqa: S324: the RFC's
        assert b"sec-websocket-accept: " + accept.lower() in self.head.lower(), self.head

    def _read_head(self):
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.socket.recv(65536)
            assert piece, data
            data += piece
        head, self.rest = data.split(b"\r\n\r\n", 1)
        return head

    def _read_all(self):
        data = self.rest
        length = [line.split(b":")[1] for line in self.head.split(b"\r\n")
                  if line.lower().startswith(b"content-length")]
        while length and len(data) < int(length[0]):
            piece = self.socket.recv(65536)
            if not piece:
                break
            data += piece
        self.socket.close()
        return data

    # ---- frames ----

    def frame(self, opcode, payload, fin=True, mask=True):
        size = len(payload)
        head = bytes([opcode | (0x80 if fin else 0)])
        bit = 0x80 if mask else 0
        if size < 126:
            head += bytes([bit | size])
        elif size < 1 << 16:
            head += bytes([bit | 126]) + struct.pack(">H", size)
        else:
            head += bytes([bit | 127]) + struct.pack(">Q", size)
        if not mask:
            return head + payload
        key = os.urandom(4)
        masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
        return head + key + masked

    def send(self, payload, opcode=BINARY, **how):
        self.socket.sendall(self.frame(opcode, payload, **how))

    def type(self, text):
        self.send(text.encode())

    def resize(self, columns, rows):
        self.send(b'{"resize":[%d,%d]}' % (columns, rows), TEXT)

    def _take(self, size):
        while len(self.rest) < size:
            piece = self.socket.recv(1 << 20)
            if not piece:
                return None
            self.rest += piece
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def receive(self):
        """The next frame as (opcode, payload); None at the end of the connection."""
        head = self._take(2)
        if head is None:
            return None
        assert head[0] & 0x70 == 0 and head[1] & 0x80 == 0, head
        size = head[1]
        if size == 126:
            size = struct.unpack(">H", self._take(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self._take(8))[0]
        payload = self._take(size)
        opcode = head[0] & 15
        if opcode == CLOSE:
            self.close = (struct.unpack(">H", payload[:2])[0], payload[2:].decode()) if payload \
                else (1005, "")
        return opcode, payload

    # ---- a terminal ----

    def until(self, wanted):
        """Reads output up to these bytes; returns all of it."""
        seen = b""
        while wanted not in seen:
            got = self.receive()
            assert got and got[0] == BINARY, (got, seen[-2000:])
            seen += got[1]
        return seen

    def to_the_end(self):
        """Reads to the server's close; returns the output."""
        seen = b""
        while got := self.receive():
            if got[0] == BINARY:
                seen += got[1]
            elif got[0] == CLOSE:
                return seen
        return seen

    def leave(self):
        self.socket.close()
