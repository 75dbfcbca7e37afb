"""Plays init for a kernel that speaks lines: starts it with the descriptors of kernels/README.md,
gives it runs, reads what it says. Standard library only."""
import fcntl
import json
import os
import pathlib
import select
import signal
import subprocess
import time

from rig import HANG_SECS, Outcome, end_with, memory_file

REPO = pathlib.Path(__file__).resolve().parents[2]
CHANNEL_IN, CHANNEL_OUT = 3, 4
HIGH_FD = 50  # while a child puts its descriptors in place, none of them is where another has to go
ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def inherit_at(pairs, driver):
    """In the child: each descriptor at its number, without close-on-exec."""
    end_with(driver)
    high = [(fcntl.fcntl(fd, fcntl.F_DUPFD, HIGH_FD), number) for fd, number in pairs]
    for fd, number in high:
        os.dup2(fd, number)
        os.set_inheritable(number, True)


class LinesOutcome(Outcome):
    """What a run came to; lost: it ended with E."""
    lost = False


class LinesKernel:
    """A kernel of kernels/FILE started by the command, with a process group of its own."""

    def __init__(self, folder, command, file, env=None):
        self.folder, self.count, self.outcome = folder, 0, None
        self.stdin = memory_file((REPO / "kernels" / file).read_bytes())
        take_read, self.give = os.pipe()
        self.take, give_write = os.pipe()
        self.outputs = {}
        ends = [(self.stdin, 0), (take_read, CHANNEL_IN), (give_write, CHANNEL_OUT)]
        for number, name in ((1, "stdout"), (2, "stderr")):
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            self.outputs[reader] = name
            ends.append((writer, number))
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8", **(env or {})}
        driver = os.getpid()
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, start_new_session=True, pass_fds=(CHANNEL_IN, CHANNEL_OUT),
            preexec_fn=lambda: inherit_at(ends, driver))
        for fd, _ in ends[1:]:
            os.close(fd)
        os.set_blocking(self.take, False)
        self.lines, self.partial = [], b""
        self.pump(lambda: self.lines)
        assert self.lines.pop(0) == b"R", self.lines

    def read(self):
        """What the kernel said; False at its end."""
        try:
            piece = os.read(self.take, 1 << 20)
        except BlockingIOError:
            return True
        self.partial += piece
        *lines, self.partial = self.partial.split(b"\n")
        self.lines += lines
        return bool(piece)

    def drain(self):
        """What is in the pipes goes to the run that is on, and is dropped when there is none."""
        for fd, name in self.outputs.items():
            try:
                piece = os.read(fd, 1 << 20)
                while piece:
                    if self.outcome is not None:
                        setattr(self.outcome, name, getattr(self.outcome, name) + piece)
                    piece = os.read(fd, 1 << 20)
            except BlockingIOError:
                pass

    def pump(self, ready):
        deadline = time.monotonic() + HANG_SECS
        while not ready():
            assert time.monotonic() < deadline, (self.outcome, self.lines)
            select.select([self.take, *self.outputs], [], [], 0.05)
            self.drain()
            alive = self.read()
            if self.outcome is not None:
                self.hand_out()
            if not alive and not ready():
                self.drain()
                raise EOFError(f"the kernel is gone: {self.outcome}")

    def hand_out(self):
        while self.lines:
            line = self.lines.pop(0)
            kind, rest = line[:2], line[2:]
            if kind == b"M ":
                self.outcome.messages.append(json.loads(rest.decode("utf-8")))
                continue
            assert kind in (b"D ", b"E "), line
            self.outcome.code, self.outcome.lost = int(rest), kind == b"E "

    def set(self, name, value):
        os.write(self.give, f"V {name}={value.translate(ESCAPES)}\n".encode("utf-8"))

    def start(self, code, stdin=b"", file=None, timeout_ms=0):
        """Gives a run, as init does: its stdin first, as the whole of descriptor 0."""
        self.drain()
        self.count += 1
        os.ftruncate(self.stdin, 0)
        os.pwrite(self.stdin, stdin, 0)
        os.lseek(self.stdin, 0, os.SEEK_SET)
        self.outcome = LinesOutcome()
        line = f"X exec-{self.count} {timeout_ms} {file or f'cell-{self.count}'} {code.translate(ESCAPES)}\n"
        data = line.encode("utf-8")
        while data:
            data = data[os.write(self.give, data):]
        return self

    def until(self, text):
        """Waits until stdout holds the text."""
        self.pump(lambda: text.encode() in self.outcome.stdout)
        return self

    def wait(self):
        self.pump(lambda: self.outcome.code is not None)
        self.drain()
        outcome, self.outcome = self.outcome, None
        return outcome

    def run(self, code, **options):
        return self.start(code, **options).wait()

    def interrupt(self, told=True):
        """As init does: the I of this run, then SIGINT to the process group."""
        if told:
            os.write(self.give, f"I exec-{self.count}\n".encode())
        os.killpg(self.process.pid, signal.SIGINT)

    def close(self):
        """End of file on its channel ends it."""
        os.close(self.give)
        try:
            return self.process.wait(HANG_SECS)
        finally:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            for fd in (self.take, self.stdin, *self.outputs):
                os.close(fd)
