"""A client of the engine protocol (src/wire/engine_msg.h), as much as is needed to make a sandbox that
outlives its server: what POST /execute makes ends with its connection."""
import array
import os
import socket
import struct

VERSION, REPLY, OP_CREATE = 1, 0x8000, 2
ERROR_KIND, ERROR_MESSAGE, ERROR_PUBLIC = 1, 3, 4
CREATE_TAGS = {"id": 6, "image": 7, "profile": 8, "memory": 9, "storage": 10, "cpu": 11, "pids": 12,
               "files": 13, "lifetime_ms": 14, "orphan_ms": 15, "disk": 24, "keep_files": 25}
DEFAULTS = {"image": "host", "profile": "strict", "memory": 64 << 20, "storage": 16 << 20, "cpu": 1000,
            "pids": 32, "files": 256, "lifetime_ms": 0, "orphan_ms": 600_000, "disk": 0,
            "keep_files": 0}


def field(tag, value):
    data = struct.pack("<Q", value) if isinstance(value, int) else value.encode() + b"\0"
    return struct.pack("<HHI", tag, 0, len(data)) + data


def fields_of(payload):
    found = {}
    while payload:
        tag, _, size = struct.unpack_from("<HHI", payload)
        found[tag] = payload[8:8 + size]
        payload = payload[8 + size:]
    return found


def create(socket_path, name, secs=60):
    """Makes the sandbox `name`. Root may connect; the engine drops its server for us, which comes back."""
    wanted = {**DEFAULTS, "id": name}
    message = struct.pack("<IIQ", VERSION, OP_CREATE, 1)
    message += b"".join(field(tag, wanted[key]) for key, tag in CREATE_TAGS.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(secs)
        sock.connect(socket_path)
        sock.send(message)
        data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_LEN(64))
    for _, kind, raw in ancillary:  # the first channel to its init: not wanted
        if kind == socket.SCM_RIGHTS:
            fds = array.array("i", raw[:len(raw) // 4 * 4])
            for fd in fds:
                os.close(fd)
    _, operation, _ = struct.unpack_from("<IIQ", data)
    answer = fields_of(data[16:])
    assert operation == OP_CREATE | REPLY and ERROR_KIND not in answer, answer
