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

try:
    from _json import encode_basestring as quote
except ImportError:
    from json.encoder import encode_basestring as quote

# The functions below do not see what the user makes of the real ones.
__builtins__ = ORIGINALS = dict(vars(builtins))
BUILTINS = vars(builtins)

KERNEL_FD = 3
HIGH_FD = 100  # own descriptors lie above, so that the user's first one is 3 as anywhere
HEADER_SIZE = 5
PEEK_SIZE = 4096  # more than an INTERRUPT has
RUN_MAX = 64 << 20  # of a message to us
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
    held = []  # signals whose handlers are the user's
    struck = None  # what such a handler raised meanwhile
    quiet = False  # the main thread sends
    told = False  # the error of this run
    shown = []  # figures that display() has shown in this run
    sources = {}  # file: its lines, for linecache
    sources_size = 0
    modules = {}  # those of the start, for a sys.modules that was emptied
    encoding, errors = "utf-8", "surrogateescape"  # as the interpreter chose them
    fflush = None
    streams = ()
    thread_start = None  # of threading, the real one
    script_folder = ""


class Channel:
    """Messages both ways. Each leaves whole, whoever sends meanwhile: threads, signal handlers."""

    def __init__(self, fd):
        self.socket = _socket.socket(fileno=fd)
        self.lock = threading.RLock()
        self.queue = []
        self.sending = False

    def send(self, kind, body=b"", run=None):
        """With a run: only while that is the one that runs. Whatever passes comes before its end.
        What a signal handler of the user's raises meanwhile is raised when the message is out."""
        holds = _thread.get_ident() == State.main_thread and not State.quiet
        if holds:
            hold_signals(False)
            State.struck, State.quiet = None, True
        with self.lock:
            if run is None or run is State.run and State.running:
                self.queue.append(len(body).to_bytes(4, "little") + kind + body)
            if not self.sending:  # else: a signal handler of this thread, in the midst of a message
                self.sending = True
                self.drain()
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
            view = memoryview(self.queue.pop(0))
            try:
                while view:
                    view = view[self.socket.send(view):]
            except OSError:
                pass  # init is gone; receive() will see it

    def receive(self):
        """The next message as (kind, body, descriptors), or None at the end."""
        fds = []
        header = self.take(HEADER_SIZE, fds)
        size = int.from_bytes(header[:4], "little") if header else 0
        if not header or size > RUN_MAX:
            return None
        body = self.take(size, fds)
        return None if body is None else (header[4:], body, fds)

    def peek(self):
        """What has come and was not received yet, the beginning of it."""
        try:
            return self.socket.recv(PEEK_SIZE, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except OSError:
            return b""

    def take(self, size, fds):
        data = bytearray()
        while len(data) < size:
            try:
                piece, extra, _, _ = self.socket.recvmsg(
                    min(size - len(data), 1 << 20), _socket.CMSG_SPACE(4 * 8),
                    _socket.MSG_CMSG_CLOEXEC)
            except OSError as problem:
                if from_handler(problem):
                    continue
                return None
            except BaseException:  # a signal handler of the user's, between two runs
                continue
            for level, kind, numbers in extra:
                if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                    for at in range(0, len(numbers) // 4 * 4, 4):
                        fds.append(int.from_bytes(numbers[at:at + 4], sys.byteorder))
            if not piece:
                return None
            data += piece
        return bytes(data)


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
