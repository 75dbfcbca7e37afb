"""Plays init for a kernel: starts it with a socket as descriptor 3, gives it runs, reads what it
says. Standard library only; kernels/README.md is the protocol."""
import array
import configparser
import ctypes
import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
# In the order in which the build joins them.
SOURCES = [REPO / "kernels" / name
           for name in re.findall(r"(python/\w+\.py)", (REPO / "kernels/meson.build").read_text())]
LANGUAGE = configparser.ConfigParser(interpolation=None)
LANGUAGE.read(REPO / "languages" / "python.ini")
# Debian's own has numpy, pandas and matplotlib; another version can be named.
PYTHON = os.environ.get("BERTH_KERNEL_PYTHON") or "/usr/bin/python3"
HANG_SECS = 60 * int(os.environ.get("BERTH_TEST_SLOW") or 1)
CELL, SCRIPT = 0, 1
TAG_ID, TAG_MODE, TAG_FILE, TAG_ENV, TAG_CODE = 1, 2, 3, 4, 5
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def end_with(driver):
    """In a new kernel: ends it with the process that drives it. Code in a loop sees no end of file,
    and there is no init here that would kill it."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver:
        os._exit(1)


def words(key):
    """A command of the language's file, with the interpreter that is tested."""
    return [PYTHON] + LANGUAGE["language"][key].split()[1:]


def kernel_text():
    return b"".join(path.read_bytes() for path in SOURCES)


def kernel_bytecode():
    """What kernel_compile makes of the text; the text goes behind it."""
    return subprocess.run(words("kernel_compile"), input=kernel_text(), stdout=subprocess.PIPE, check=True).stdout


def memory_file(data):
    """As init hands input over: a file that is read from its start."""
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def field(tag, data):
    return tag.to_bytes(2, "little") + b"\0\0" + len(data).to_bytes(4, "little") + data


def text_field(tag, text):
    return field(tag, os.fsencode(text) + b"\0")


def take_message(data):
    """Cuts the first whole message off a bytearray: (type, body), or None."""
    if len(data) < 5:
        return None
    end = 5 + int.from_bytes(data[:4], "little")
    if len(data) < end:
        return None
    message = bytes(data[4:5]), bytes(data[5:end])
    del data[:end]
    return message


class Outcome:
    """What a run came to."""

    def __init__(self):
        self.code = None  # of DONE; of a script: None
        self.stdout = b""
        self.stderr = b""
        self.messages = []

    @property
    def out(self):
        return self.stdout.decode("utf-8", "backslashreplace")

    @property
    def err(self):
        return self.stderr.decode()

    @property
    def results(self):
        return [message["data"] for message in self.messages if message["type"] == "result"]

    @property
    def error(self):
        errors = [message for message in self.messages if message["type"] == "error"]
        assert len(errors) <= 1, errors
        return errors[0] if errors else None

    @property
    def plain(self):
        """The text of the only result, or None."""
        assert len(self.results) <= 1, self.results
        return self.results[0]["text/plain"] if self.results else None

    def __repr__(self):
        return f"code={self.code} out={self.out!r} err={self.err!r} messages={self.messages}"


class Flight:
    """A run that was given to the kernel and has not been seen to end."""

    def __init__(self, kernel, stdin, merged):
        self.kernel, self.outcome = kernel, Outcome()
        self.stdin_read, self.stdin_write = os.pipe()
        self.out_read, self.out_write = os.pipe()
        self.err_read, self.err_write = os.pipe()
        self.merged = merged
        if stdin is not None:
            os.write(self.stdin_write, stdin)  # a pipe takes 64 KiB at once
            os.close(self.stdin_write)
            self.stdin_write = None

    def child_fds(self):
        return [self.stdin_read, self.out_write, self.out_write if self.merged else self.err_write]

    def given(self):
        for fd in (self.stdin_read, self.out_write, self.err_write):
            os.close(fd)
        os.set_blocking(self.out_read, False)
        os.set_blocking(self.err_read, False)

    def drain(self):
        for fd, name in ((self.out_read, "stdout"), (self.err_read, "stderr")):
            while True:
                try:
                    piece = os.read(fd, 1 << 16)
                except BlockingIOError:
                    break
                if not piece:
                    break
                setattr(self.outcome, name, getattr(self.outcome, name) + piece)

    def until(self, text):
        """Waits until stdout holds the text."""
        self.kernel.pump(self, lambda: text.encode() in self.outcome.stdout)
        return self

    def wait(self):
        """To DONE, or, of a script, to the end of the process."""
        self.kernel.pump(self, lambda: self.outcome.code is not None)
        self.drain()
        return self.outcome

    def close(self):
        for name in ("stdin_write", "out_read", "err_read"):
            if getattr(self, name) is not None:
                os.close(getattr(self, name))
                setattr(self, name, None)


class Kernel:
    def __init__(self, folder, env=None, command=None, input_bytes=None):
        ours, theirs = socket.socketpair()
        self.socket, self.received, self.count = ours, bytearray(), 0
        self.folder = folder
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8",
                       "MPLCONFIGDIR": str(folder / "mpl"), **(env or {})}

        driver = os.getpid()

        def place():
            end_with(driver)
            os.dup2(theirs.fileno(), 3)
            os.set_inheritable(3, True)

        start = memory_file(kernel_text() if input_bytes is None else input_bytes)
        self.process = subprocess.Popen(
            command or words("kernel_run"), cwd=folder, env=environment, pass_fds=(3,),
            preexec_fn=place, stdin=start, stdout=subprocess.DEVNULL)
        os.close(start)
        theirs.close()
        self.flights = []
        self.pump(None, lambda: self.take() == (b"R", b""))

    def take(self):
        return take_message(self.received)

    def read(self):
        try:
            piece = self.socket.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            piece = b""
        self.received += piece
        return bool(piece)

    def pump(self, flight, ready):
        """Reads all that comes until ready() says so. A kernel that dies fails the test."""
        deadline = time.monotonic() + HANG_SECS
        while not ready():
            assert time.monotonic() < deadline, flight and flight.outcome
            fds = [self.socket] + ([flight.out_read, flight.err_read] if flight else [])
            select.select(fds, [], [], 0.05)
            alive = self.read()
            if flight:
                flight.drain()
                self.hand_out(flight)
            if not alive:
                flight and flight.drain()
                if ready():
                    return
                raise EOFError(f"the kernel is gone: {flight and flight.outcome}")

    def hand_out(self, flight):
        message = self.take()
        while message:
            kind, body = message
            if kind == b"M":
                flight.outcome.messages.append(json.loads(body.decode("utf-8")))
            else:
                assert kind == b"D" and len(body) == 1, (kind, body)
                flight.outcome.code = body[0]
            message = self.take()

    def start(self, code, stdin=b"", file=None, env=(), mode=CELL, merged=False):
        """Gives a run; stdin None keeps its pipe open."""
        self.count += 1
        code = code.encode("utf-8", "surrogateescape") if isinstance(code, str) else code
        body = text_field(TAG_ID, f"exec-{self.count}")
        body += field(TAG_MODE, mode.to_bytes(8, "little"))
        body += text_field(TAG_FILE, file or f"cell {self.count}")
        body += b"".join(text_field(TAG_ENV, entry) for entry in env)
        body += field(99, b"of a later version") + (field(TAG_CODE, code) if code is not None else b"")
        flight = Flight(self, stdin, merged)
        message = len(body).to_bytes(4, "little") + b"X" + body
        rights = array.array("i", flight.child_fds()).tobytes()
        sent = self.socket.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        flight.given()
        if sent < len(message):
            self.socket.sendall(message[sent:])
        self.flights.append(flight)
        return flight

    def run(self, code, **options):
        flight = self.start(code, **options)
        try:
            return flight.wait()
        finally:
            flight.close()

    def interrupt(self, count=None):
        """As init does first: INTERRUPT of the last run, or of that of this number, then SIGINT."""
        body = text_field(TAG_ID, f"exec-{self.count if count is None else count}")
        self.socket.sendall(len(body).to_bytes(4, "little") + b"I" + body)
        self.signal()

    def signal(self):
        """SIGINT alone: of an init of before INTERRUPT, or one more of the same run."""
        self.process.send_signal(signal.SIGINT)

    def stop(self):
        """Stops it, wherever it is, until go()."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go(self):
        self.process.send_signal(signal.SIGCONT)

    def script(self, code, name="main.py", write=True, to_end=False, given=None, **options):
        """Runs a script to the end of the process; the outcome's code is its exit status. to_end:
        and to that of its output, which children of it may hold. given: is called when it was sent."""
        if write:
            (self.folder / name).write_text(code)
        flight = self.start(code, mode=SCRIPT, file=name, **options)
        if given:
            given()
        try:
            self.pump(flight, lambda: flight.outcome.code is not None)
            raise AssertionError("a script's end is its process's, not DONE")
        except EOFError:
            pass
        status = self.process.wait(HANG_SECS)
        if to_end:
            os.set_blocking(flight.out_read, True)
            os.set_blocking(flight.err_read, True)
        flight.drain()
        flight.outcome.code = status if status >= 0 else 128 - status
        return flight.outcome

    def close(self):
        self.socket.close()
        try:
            self.process.wait(HANG_SECS)
        finally:
            self.process.kill()
            self.process.wait()
            for flight in self.flights:
                flight.close()
