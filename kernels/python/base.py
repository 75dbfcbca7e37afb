"""The Python kernel of berth: runs cells in one namespace, or one script, and says what they show.

Owns the interpreter of a session. Standard library only, Python 3.9 to 3.13. kernels/README.md has
the protocol. The build joins the files of this folder into one text; this is its head. What holds
throughout:

- User code runs only below guarded(). A SIGINT raises KeyboardInterrupt there and nowhere else; one
  that comes while the kernel itself is at work is noted and taken at the next such place.
- The main thread writes to descriptors 1 and 2 as any program does; another thread writes to those
  of the run that started it, whatever runs by now.
- The user's code shares the process and can break everything but the kernel's own references:
  nothing is looked up in sys.modules or builtins that could be kept from the start.
- What a run without errors does not need is imported when it is needed, and prepared then: see
  AfterImport.
- A forked child has no channel: it says nothing to init and never waits for a run.
"""
import sys

if sys.path and sys.path[0] == "":
    del sys.path[0]  # the sandbox's files must not come before the library; warm_up() has it back
import _ast
import _signal
import _socket
import _thread
import atexit
import binascii
import builtins
import fcntl
import gc
import io
import os
import threading
from _operator import is_ as is_same

try:
    from _json import encode_basestring as quote
except ImportError:
    from json.encoder import encode_basestring as quote

# The functions below do not see what the user makes of the real ones.
__builtins__ = ORIGINALS = dict(vars(builtins))
BUILTINS = vars(builtins)

KERNEL_FD = 3
LIBRARIES = "/opt/libraries"  # where a library layer is seen, in every sandbox
HIGH_FD = 100  # own descriptors lie above, so that the user's first one is 3 as anywhere
HEADER_SIZE = 5
PEEK_SIZE = 4096  # more than an INTERRUPT has
RUN_MAX = 64 << 20  # of a message to us
RECEIVE_SIZE = 16 << 10  # of most messages, with their header
CONTROL_SIZE = _socket.CMSG_SPACE(4 * 8)
JOIN_MAX = 16 << 10  # of messages that are sent at once
BODY_MAX = 31 << 20  # of a result's data; init takes messages of 32 MiB
PLAIN_MAX = 1 << 20  # characters of a value's repr()
VALUE_MAX = 16 << 10  # of an exception's text
TRACEBACK_MAX = 128 << 10
SOURCES_MAX = 32 << 20  # of the cells that tracebacks can still show
RUN, INTERRUPT, READY, MESSAGE, DONE = b"X", b"I", b"R", b"M", b"D"
TAG_ID, TAG_MODE, TAG_FILE, TAG_ENV, TAG_CODE = 1, 2, 3, 4, 5
MODE_SCRIPT = 1
EXIT_ERROR, EXIT_INTERRUPTED = 1, 130

THIS_FILE = (lambda: None).__code__.co_filename
# Under a program is what the interpreter says there is when a frame is asked for that is not there.
SYS_FILE, SYS_LINE = ("<sys>", 0) if sys.version_info >= (3, 13) else ("sys", 1)
OUR_FILES = {THIS_FILE, SYS_FILE}
MODULES = sys.modules
ENVIRON = os.environ
FUTURE = 0x1fe0000  # the flags of "from __future__" in Python 3.9 to 3.14
CO_COROUTINE = 0x80
SIGNALS = range(1, _signal.NSIG)
METHODS = (("text/html", "_repr_html_"), ("text/markdown", "_repr_markdown_"),
           ("text/latex", "_repr_latex_"), ("image/svg+xml", "_repr_svg_"),
           ("image/png", "_repr_png_"), ("image/jpeg", "_repr_jpeg_"),
           ("application/json", "_repr_json_"))


class State:
    """The one state of the process; after_fork() makes what belongs to this process alone."""
    main_thread = 0  # its ident
    channel = None  # None before the start and in a forked child
    run = None  # the one that runs, or ran last
    old_runs = []  # ended, while threads of theirs live
    null_fd = -1
    running = False  # between the first and the last code of a run
    armed = False  # below guarded(): a SIGINT raises
    pending = False  # a SIGINT came while nothing may be raised; between two runs: perhaps a late one
    main = None  # the module __main__ of cells
    flags = 0  # of the "from __future__" of earlier cells
    loop = None  # asyncio's, once a cell awaited
    task = None  # of the cell that awaits now
    cancelled = False  # a SIGINT has cancelled it
    calm = [METHODS]  # the handlers of all signals, when none was the user's
    held = {}  # signals whose handlers are the user's
    struck = None  # what such a handler raised meanwhile
    quiet = False  # the main thread sends
    told = False  # the error of this run
    shown = []  # figures that display() has shown in this run
    sources = {}  # file: its lines, for linecache
    sources_size = 0
    last_module = ""  # the last one of these
    modules = {}  # those of the start, for a sys.modules that was emptied
    encoding, errors = "utf-8", "surrogateescape"  # as the interpreter chose them
    fflush = fpending = stdio = None  # of the C library, once it may be in use
    streams = ()
    outputs = None  # streams for the next run
    thread_start = None  # of threading, the real one
    script_folder = ""
    loader = None  # of the script's __main__


class Channel:
    """Messages both ways. Each leaves whole, whoever sends meanwhile: threads, signal handlers."""

    def __init__(self, fd):
        self.socket = _socket.socket(fileno=fd)
        self.lock = threading.RLock()
        self.queue = []
        self.sending = False
        self.received, self.fds = bytearray(), []

    def send(self, kind=None, body=b"", run=None, later=False):
        """With a run: only while that is the one that runs. Whatever passes comes before its end.
        What a signal handler of the user's raises meanwhile is raised when the message is out.
        later: with the next one. No kind: only what waits for that."""
        check_depth()
        if later and run is State.run and State.running and len(body) < JOIN_MAX:
            self.queue.append(len(body).to_bytes(4, "little") + kind + body)
            return
        holds = _thread.get_ident() == State.main_thread and not State.quiet
        if holds:
            hold_signals(False)
            State.struck, State.quiet = None, True
        with self.lock:
            if kind and (run is None or run is State.run and State.running):
                self.queue.append(len(body).to_bytes(4, "little") + kind + body)
            if not self.sending:  # else: a signal handler of this thread, in the midst of a message
                self.sending = True
                try:
                    self.drain()
                finally:
                    self.sending = False
        if holds:
            State.quiet = False
            if State.armed or getattr(State.run, "mode", None) == MODE_SCRIPT:
                release_signals()
                struck, State.struck = State.struck, None
                if struck is not None:
                    raise struck

    def drain(self):
        while self.queue:
            data = self.queue.pop(0)
            while self.queue and len(data) < JOIN_MAX:
                data += self.queue.pop(0)
            view = memoryview(data)
            try:
                while view:
                    view = view[self.socket.send(view):]
            except OSError:
                pass  # init is gone; receive() will see it

    def receive(self):
        """The next message as (kind, body, descriptors), or None at the end. Descriptors are those
        of a RUN, though another message came with it: they end what one call reads."""
        data, fds = self.received, self.fds
        while len(data) < HEADER_SIZE:
            if not self.take(RECEIVE_SIZE):
                return None
        size = HEADER_SIZE + int.from_bytes(data[:4], "little")
        if size > RUN_MAX:
            return None
        while len(data) < size:
            if not self.take(min(size - len(data), 1 << 20)):
                return None
        kind, body = bytes(data[4:HEADER_SIZE]), bytes(data[HEADER_SIZE:size])
        del data[:size]
        found = fds[:] if kind == RUN else []
        del fds[:len(found)]
        return kind, body, found

    def peek(self):
        """What has come and was not received yet, the beginning of it."""
        try:
            more = self.socket.recv(PEEK_SIZE, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except OSError:
            more = b""
        return bytes(self.received) + more

    def take(self, size):
        """False at the end."""
        while True:
            try:
                piece, extra, _, _ = self.socket.recvmsg(
                    size, CONTROL_SIZE, _socket.MSG_CMSG_CLOEXEC)
                break
            except OSError as problem:
                if not from_handler(problem):
                    return False
            except BaseException:  # a signal handler of the user's, between two runs
                pass
        for level, kind, numbers in extra:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                for at in range(0, len(numbers) // 4 * 4, 4):
                    self.fds.append(int.from_bytes(numbers[at:at + 4], sys.byteorder))
        self.received += piece
        return bool(piece)


def check_depth(left=24):
    """A RecursionError of the user's code comes here, not in the midst of a message."""
    if left:
        check_depth(left - 1)


def fields(body):
    """Those of a message: (tag, data)."""
    at = 0
    while at + 8 <= len(body):
        tag = int.from_bytes(body[at:at + 2], "little")
        end = at + 8 + int.from_bytes(body[at + 4:at + 8], "little")
        yield tag, body[at + 8:end]
        at = end


def from_handler(problem):
    """Whether a signal handler raised this OSError: those of a system call have a number."""
    return problem.errno is None


class Run:
    """One RUN. fds: stdin, stdout, stderr, as copies that no user code closes by accident."""

    def __init__(self, body, fds):
        self.mode, self.file, self.env = 0, "<cell>", []
        self.id = self.source = self.code = None  # source: as it came; code: what is compiled
        for tag, data in fields(body):
            text = data[:-1].decode("utf-8", "surrogateescape")
            if tag == TAG_ID:
                self.id = data
            elif tag == TAG_MODE:
                self.mode = int.from_bytes(data, "little")
            elif tag == TAG_FILE:
                self.file = text
            elif tag == TAG_ENV:
                self.env.append(text)
            elif tag == TAG_CODE:
                self.take_code(data)
        self.fds = [high(fd) for fd in fds[:3]]
        while len(self.fds) < 3:
            self.fds.append(high(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)))

    def take_code(self, source):
        bom = source.startswith(b"\xef\xbb\xbf")
        self.source, self.code = source, source[3:] if bom else source  # columns count without it

    def close(self):
        for number, fd in enumerate(self.fds):
            if fd is not None:
                self.fds[number] = None
                os.close(fd)


def high(fd):
    """Moves a descriptor out of the user's way."""
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
    except OSError:  # RLIMIT_NOFILE is lower
        os.set_inheritable(fd, False)
        return fd
    os.close(fd)
    return moved
