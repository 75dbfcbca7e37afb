"""A small language kernel, for tests of init: src/wire/kernel_msg.h as a kernel speaks it. The
code of a run finds message(bytes) and say(kind, bytes) beside what earlier runs left."""
import os
import signal
import socket
import struct
import sys
import traceback

channel = socket.socket(fileno=3)
os.set_inheritable(3, False)


def say(kind, body=b""):
    channel.sendall(struct.pack("<IB", len(body), ord(kind)) + body)


def exactly(size):
    data = b""
    while len(data) < size:
        data += channel.recv(size - len(data)) or sys.exit(0)
    return data


def fields(data):
    at = 0
    while at < len(data):
        tag, _, size = struct.unpack_from("<HHI", data, at)
        yield tag, data[at + 8:at + 8 + size]
        at += 8 + size


def too_early(*_):
    early.append(1)


def is_interrupted():
    """Whether SIGINT came before the run began, and was for this run: init wrote an I behind it."""
    try:
        return bool(early) and channel.recv(5, socket.MSG_PEEK | socket.MSG_DONTWAIT)[4:] == b"I"
    except BlockingIOError:
        return False


def run(code, names):
    """The exit code."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if is_interrupted():
            raise KeyboardInterrupt
        exec(compile(code, "<cell>", "exec"), names)
        return 0
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        signal.signal(signal.SIGINT, too_early)
        early.clear()


early = []
signal.signal(signal.SIGINT, too_early)
state = {"__name__": "__main__", "message": lambda body: say("M", body), "say": say}
say("R")
while True:
    head, fds, _, _ = socket.recv_fds(channel, 1, 3)
    head += exactly(4) if head else sys.exit(0)
    length, kind = struct.unpack("<IB", head)
    asked = list(fields(exactly(length)))
    if kind != ord("X"):
        continue
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w", 1, closefd=False), \
        open(2, "w", 1, closefd=False)
    os.environ.update(data[:-1].decode().split("=", 1) for tag, data in asked if tag == 4)
    found = dict(asked)
    script = found[2][0] == 1
    exit_code = run(found[5], {"__name__": "__main__"} | state if script else state)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    if script:
        os._exit(exit_code)
    say("D", bytes([exit_code]))
