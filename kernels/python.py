"""The Python kernel of berth: runs cells in one namespace, or one script, and says what they show.

Owns the interpreter of a session. Standard library only, Python 3.9 to 3.13. kernels/README.md has
the protocol. What holds throughout:

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
import __future__
import _ast
import _signal
import _socket
import _thread
import array
import binascii
import builtins
import fcntl
import io
import os
import sys
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
RUN_MAX = 64 << 20  # of a message to us
BODY_MAX = 31 << 20  # of a result's data; init takes messages of 32 MiB
PLAIN_MAX = 1 << 20  # characters of a value's repr()
VALUE_MAX = 16 << 10  # of an exception's text
TRACEBACK_MAX = 128 << 10
SOURCES_MAX = 32 << 20  # of the cells that tracebacks can still show
RUN, READY, MESSAGE, DONE = b"X", b"R", b"M", b"D"
TAG_MODE, TAG_FILE, TAG_ENV, TAG_CODE = 2, 3, 4, 5  # 1 is the execution's id
MODE_SCRIPT = 1
EXIT_ERROR, EXIT_INTERRUPTED = 1, 130

THIS_FILE = (lambda: None).__code__.co_filename
MODULES = sys.modules
ENVIRON = os.environ
FUTURE = 0
for _name in __future__.all_feature_names:
    FUTURE |= getattr(__future__, _name).compiler_flag
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
    pending = False  # a SIGINT came while nothing may be raised
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


# --- The channel to init ------------------------------------------------------------------------


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
                    received = array.array("i")
                    received.frombytes(numbers[:len(numbers) // 4 * 4])
                    fds.extend(received)
            if not piece:
                return None
            data += piece
        return bytes(data)


def from_handler(problem):
    """Whether a signal handler raised this OSError: those of a system call have a number."""
    return problem.errno is None


class Run:
    """One RUN. fds: stdin, stdout, stderr, as copies that no user code closes by accident."""

    def __init__(self, body, fds):
        self.mode, self.file, self.env, self.code = 0, "<cell>", [], None
        at = 0
        while at + 8 <= len(body):
            tag = int.from_bytes(body[at:at + 2], "little")
            end = at + 8 + int.from_bytes(body[at + 4:at + 8], "little")
            data = body[at + 8:end]
            text = data[:-1].decode("utf-8", "surrogateescape")
            at = end
            if tag == TAG_MODE:
                self.mode = int.from_bytes(data, "little")
            elif tag == TAG_FILE:
                self.file = text
            elif tag == TAG_ENV:
                self.env.append(text)
            elif tag == TAG_CODE:
                self.code = data
        if self.code is not None and self.code.startswith(b"\xef\xbb\xbf"):
            self.code = self.code[3:]  # columns are counted without it
        self.fds = [high(fd) for fd in fds[:3]]
        while len(self.fds) < 3:
            self.fds.append(high(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)))

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


# --- Streams ------------------------------------------------------------------------------------


class Output(io.RawIOBase):
    """Descriptor 1 or 2 for the main thread, that of its own run for another one."""
    mode = "wb"

    def __init__(self, fd, name):
        super().__init__()
        self._fd, self.name = fd, name

    def fileno(self):
        return self._fd

    def isatty(self):
        return os.isatty(self._fd)

    def writable(self):
        return True

    def write(self, data):
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        fd, run = self._fd, None
        if _thread.get_ident() != State.main_thread and State.channel is not None:
            # Not the plain number, even in its own run: that may end just before the write.
            run = run_of(threading.current_thread())
            fd = run.fds[fd]
        with memoryview(data) as view, view.cast("B") as octets:
            at, size = 0, len(octets)
            while at < size:
                try:
                    at += os.write(fd, octets[at:] if at else octets)
                except BlockingIOError:  # a child made the pipe non-blocking for all
                    import select
                    select.select([], [fd], [])
                except (OSError, TypeError):
                    if run is None or run is State.run and State.running:
                        raise
                    break  # of a run that ended, nobody reads any more
        return size


def run_of(thread):
    """The run that a thread belongs to; one that the kernel did not see start: that of now."""
    run = getattr(thread, "_kernel_run", None)
    if run is None:
        run = thread._kernel_run = State.run
    return run


def run_here():
    if _thread.get_ident() == State.main_thread:
        return State.run
    return run_of(threading.current_thread())


def follow_threads():
    """Threads know the run that started them, and so do the calls given to a pool of them."""
    thread_start = threading.Thread.start

    def start(self):
        self._kernel_run = run_here()
        return thread_start(self)

    threading.Thread.start = disguise(start, thread_start)


def follow_pools():
    """From the second run on: until then all that a pool can be given is of the first."""
    module = MODULES.get("concurrent.futures.thread")
    submit_call = getattr(getattr(module, "ThreadPoolExecutor", None), "submit", None)
    if submit_call is None or submit_call.__code__.co_filename == THIS_FILE:
        return

    def carry(run, function, *args, **keywords):
        thread = threading.current_thread()
        before, thread._kernel_run = run_of(thread), run
        try:
            return function(*args, **keywords)
        finally:
            thread._kernel_run = before

    def submit(self, fn, /, *args, **kwargs):
        return submit_call(self, carry, run_here(), fn, *args, **kwargs)

    module.ThreadPoolExecutor.submit = disguise(submit, submit_call)


def disguise(function, original):
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(function, name, getattr(original, name))
    return function


def set_streams(raw):
    """New streams for each run: whatever the last one did to them is over."""
    def stream(buffer, mode, **options):
        made = io.TextIOWrapper(buffer, State.encoding, newline=options.pop("newline", "\n"),
                                **options)
        made.mode = mode
        return made

    State.streams = (
        stream(open(0, "rb", closefd=False), "r", newline=None, errors=State.errors),
        stream(raw(1, "<stdout>"), "w", errors=State.errors, write_through=True),
        stream(raw(2, "<stderr>"), "w", errors="backslashreplace", write_through=True))
    take_streams_back()
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = State.streams


def take_streams_back():
    """What was put in their place goes now, when its last words still have the run's stderr."""
    sys.stderr = State.streams[2]
    sys.stdin, sys.stdout, _ = State.streams


def plain_output(fd, name):
    """A script's: as with python3 -u, which is where its threads are too."""
    file = io.FileIO(fd, "w", closefd=False)
    file.name = name
    return file


def repair():
    """Gives back what the library, and with it this file, can't do without: the modules of the
    start when they are gone, each builtin that is gone or can't be called any more."""
    if "builtins" not in MODULES:
        for name, module in State.modules.items():
            MODULES.setdefault(name, module)
    for name, value in ORIGINALS.items():
        if name not in BUILTINS or not callable(BUILTINS[name]):
            BUILTINS[name] = value


def begin(run, raw):
    """Puts the run's descriptors and environment in place."""
    State.run, State.shown, State.told = run, [], False
    if State.null_fd < 0:
        State.null_fd = high(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    for number, fd in enumerate(run.fds):
        os.dup2(fd, number)
    set_streams(raw)
    if State.loop is not None and not State.loop.is_closed() and "asyncio" in MODULES:
        MODULES["asyncio"].set_event_loop(State.loop)  # asyncio.run() leaves none
    for entry in run.env:
        name, _, value = entry.partition("=")
        if name and "\0" not in entry:
            ENVIRON[name] = value
            if name == "TZ":
                import time
                time.tzset()


def finish(run):
    """Takes the run's descriptors away again; threads of the run keep theirs."""
    for number in range(3):
        os.dup2(State.null_fd, number)
    if run not in State.old_runs:
        State.old_runs.append(run)
    try:
        alive = {id(getattr(thread, "_kernel_run", None)) for thread in threading.enumerate()}
    except Exception:
        return  # a broken library: kept until it is whole again
    for old in State.old_runs[:]:
        if id(old) not in alive:
            State.old_runs.remove(old)
            old.close()


def flush():
    """What the user's code may still hold back: its own streams, and the C library's stdout."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed, None, or anything that was put there
            pass
    if State.fflush is None and ("_ctypes" in MODULES or "_cffi_backend" in MODULES):
        import ctypes
        library = ctypes.CDLL(None)
        standard = ctypes.c_void_p.in_dll(library, "stdout")
        State.fflush = lambda: library.fflush(standard)
    if State.fflush is not None:
        State.fflush()


# --- Interrupts ---------------------------------------------------------------------------------


def on_interrupt(number, frame):
    """SIGINT. Before and after the code of a run it strikes nobody."""
    if not State.running:
        return
    if not State.armed or (frame is not None and frame.f_code in UNINTERRUPTED):
        State.pending = True
        return
    task = State.task
    if task is not None and not task.done() and not State.cancelled:
        if MODULES["asyncio"].current_task(State.loop) is None:
            # In the loop itself, most often waiting: an exception there would leave it torn.
            State.cancelled = True
            State.loop.call_soon_threadsafe(task.cancel)
            return
    raise KeyboardInterrupt


def check_interrupt():
    if State.pending and State.armed:
        State.pending = False
        raise KeyboardInterrupt


class Held:
    """A signal handler of the user's while what it raises must not strike."""

    def __init__(self, handler):
        self.handler = handler

    def __call__(self, number, frame):
        try:
            self.handler(number, frame)
        except BaseException as problem:
            State.struck = problem


def hold_signals(restore):
    """Handlers of the user's can't break into the kernel; with restore, SIGINT is its own again."""
    for number in range(1, _signal.NSIG):
        handler = _signal.getsignal(number)
        if handler is on_interrupt:
            continue
        if restore and number == _signal.SIGINT:
            _signal.signal(number, on_interrupt)
        elif callable(handler) and type(handler) is not Held:
            State.held.append(number)
            _signal.signal(number, Held(handler))


def release_signals():
    while State.held:
        number = State.held[-1]
        handler = _signal.getsignal(number)
        if type(handler) is Held:
            _signal.signal(number, handler.handler)
        State.held.pop()  # last: such a handler may strike here


def armed(function, args):
    State.armed = True
    release_signals()
    check_interrupt()
    function(*args)
    check_interrupt()
    State.armed = False


def guarded(function, *args):
    """Calls what may run user code. The exception that ended it, or None."""
    try:
        armed(function, args)
        problem = None
    except BaseException as caught:
        problem = caught
    State.armed = False
    while State.run.mode != MODE_SCRIPT:
        try:
            hold_signals(True)
            break
        except BaseException:  # a handler that was not held yet
            continue
    sys.settrace(None)  # a debugger that was left in the code does not go on in the kernel
    sys.setprofile(None)
    repair()
    return problem


UNINTERRUPTED = {guarded.__code__, Channel.send.__code__, Channel.drain.__code__}


# --- Results ------------------------------------------------------------------------------------


def clean(text):
    """Text that JSON can hold and every parser takes: no lone surrogates, no NUL."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\0", "\ufffd")


def cut(text, limit):
    if len(text) <= limit:
        return text
    half = limit // 2
    return (text[:half] + f"\n[... {len(text) - 2 * half} characters left out ...]\n"
            + text[-half:])


def emit(body):
    if State.channel is not None:
        State.channel.send(MESSAGE, body.encode("utf-8"), run_here())
        check_interrupt()


def encode_json(value):
    """JSON text that any reader takes: no NaN, no integer beyond 64 bits."""
    import json
    import re
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    if re.search(r"\d{19}", text):
        text = json.dumps(json.loads(text, parse_int=lambda digits: int(digits) if
                                     len(digits) < 19 else float(digits)),
                          allow_nan=False, ensure_ascii=False)
    if "\\u0000" in text:
        raise ValueError("NUL in JSON")
    return clean(text)


def encode_mime(mime, value):
    """The JSON of one representation, or None when it is not one."""
    if isinstance(value, tuple) and value:  # with metadata
        value = value[0]
    if value is None:
        return None
    if mime == "application/json" or mime.endswith("+json"):
        return encode_json(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        if mime.startswith("text/") or mime.endswith("+xml"):
            value = value.decode("utf-8", "replace")
        else:
            value = binascii.b2a_base64(value, newline=False).decode("ascii")
    return quote(clean(value)) if isinstance(value, str) else None


def is_figure(value):
    module = MODULES.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def draw(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def represent(value):
    """{mime: JSON text}. What a _repr_*_ method raises goes to stderr and costs that type only."""
    data = {"text/plain": quote(clean(cut(repr(value), PLAIN_MAX)))}
    kind = type(value)
    found = {}
    if is_figure(value):
        State.shown.append(value)
        found["image/png"] = draw(value)
    # Looked up in the type: a class is not its instances, and a mock object has every attribute.
    if getattr(kind, "_repr_mimebundle_", None) is not None:
        attempt(lambda: found.update(first(value._repr_mimebundle_(include=None, exclude=None))))
    for mime, method in METHODS:
        if mime not in found and getattr(kind, method, None) is not None:
            attempt(lambda: found.setdefault(mime, getattr(value, method)()))
    for mime, content in found.items():
        def add():
            text = encode_mime(str(mime), content)
            if text is not None:
                data[clean(str(mime))] = text
        attempt(add)
    return data


def first(bundle):
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    return bundle or {}


def attempt(function):
    try:
        function()
    except NotImplementedError:
        pass
    except Exception as problem:
        say(describe(problem)[2])


def emit_result(data):
    while sum(len(text.encode("utf-8")) for text in data.values()) > BODY_MAX:
        mime = max(data, key=lambda name: len(data[name]))
        say(f"A result of {len(data.pop(mime))} characters as {mime} was left out: too large.\n")
    emit('{"type":"result","data":{'
         + ",".join(quote(mime) + ":" + text for mime, text in data.items()) + "}}")


def display(*values, raw=False, **ignored):
    """Shows each value as a result: an image, HTML or text, whatever it has. raw: {mime: data}."""
    for value in values:
        if raw:
            data = {clean(str(mime)): encode_mime(str(mime), item) for mime, item in value.items()}
            emit_result({mime: text for mime, text in data.items() if text is not None})
        elif State.channel is None:  # a child process has nobody to show it to
            sys.stdout.write(repr(value) + "\n")
        else:
            emit_result(represent(value))


def show_figures(shown=()):
    """Every open figure of pyplot as a result; closes them."""
    helpers = MODULES.get("matplotlib._pylab_helpers")
    if helpers is None:
        return
    managers = sorted(helpers.Gcf.get_all_fig_managers(), key=lambda manager: manager.num)
    try:
        for manager in managers:
            figure = manager.canvas.figure
            if State.channel is not None and not any(figure is one for one in shown):
                emit_result(represent(figure))
    finally:
        close_figures(managers)


def close_figures(managers=None):
    helpers = MODULES.get("matplotlib._pylab_helpers")
    if helpers is not None:
        for manager in managers or helpers.Gcf.get_all_fig_managers():
            helpers.Gcf.destroy(manager.num)


def prepare_pyplot(module):
    """A show() that shows. The backend is left alone, so that what is set in the environment or by
    the code holds here and in subprocesses."""
    def show(*args, **kwargs):
        show_figures(State.shown)

    module.show = disguise(show, module.show)


def prepare_linecache(module):
    for name, lines in State.sources.items():
        module.cache[name] = source_entry(name, lines)


def prepare_traceback(module):
    """print_stack() and its like end at the user's outermost frame."""
    walk = module.walk_stack

    def walk_stack(f):
        if f is None:
            f = sys._getframe(1)
        frames = list(walk(f))
        ours = [frame.f_code.co_filename == THIS_FILE for frame, _ in frames]
        if True in ours:  # below the kernel's outermost frame is only what loaded it
            del frames[len(ours) - ours[::-1].index(True):]
        return (one for one, is_ours in zip(frames, ours) if not is_ours)

    module.walk_stack = disguise(walk_stack, walk)


class AfterImport:
    """Prepares a few modules as soon as they are imported, by whomever."""
    modules = {"matplotlib.pyplot": prepare_pyplot, "linecache": prepare_linecache,
               "traceback": prepare_traceback}

    @classmethod
    def install(cls):
        for name, prepare in cls.modules.items():
            if name in MODULES:
                prepare(MODULES[name])
        sys.meta_path.insert(0, cls)

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in cls.modules:
            return None
        for finder in sys.meta_path:
            found = finder is not cls and finder.find_spec(name, path, target)
            if found:
                break
        else:
            return None
        load = getattr(found.loader, "exec_module", None)

        def exec_module(module):
            load(module)
            cls.modules[name](module)

        if load is not None:
            found.loader.exec_module = exec_module
        return found


# --- Errors -------------------------------------------------------------------------------------


def is_a(problem, kind):
    """isinstance() without asking the object, whose __class__ may be code."""
    return issubclass(type(problem), kind)


def strip(problem):
    """The traceback from the user's first frame on."""
    frames = BaseException.__traceback__.__get__(problem)
    led = False
    while frames is not None:
        frame = frames.tb_frame
        ours = frame.f_code.co_filename == THIS_FILE
        led = led or frame.f_code is run_async.__code__
        if not ours and not (led and frame.f_globals.get("__name__", "").startswith("asyncio.")):
            break
        frames = frames.tb_next
    return frames


def drop_kernel_frames(shown):
    """Takes the kernel's frames out of a TracebackException and all that hang on it."""
    todo, seen = [shown], set()
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if one.stack is not None:
            one.stack[:] = [frame for frame in one.stack if frame.filename != THIS_FILE]
        todo += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]


def describe(problem):
    """(name, value, traceback) of an exception, without a frame of the kernel."""
    name = type(problem).__name__
    try:
        import traceback
        shown = traceback.TracebackException(type(problem), problem, strip(problem))
        drop_kernel_frames(shown)
        text = "".join(shown.format())
    except Exception:
        text = name + ": <the traceback could not be made>\n"
    try:
        value = str(problem)
    except Exception:
        value = "<exception str() failed>"
    return (clean(name), clean(cut(value, VALUE_MAX)), clean(cut(text, TRACEBACK_MAX)))


def say(text):
    """Text on the run's own stderr, whatever became of sys.stderr."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(run_here().fds[2], data):]
    except (OSError, TypeError):
        pass


def report(problem):
    name, value, text = describe(problem)
    sys.last_type, sys.last_value = type(problem), problem
    sys.last_traceback = strip(problem)
    BaseException.__traceback__.__set__(problem, sys.last_traceback)
    if sys.version_info >= (3, 12):
        sys.last_exc = problem
    if State.run.mode == MODE_SCRIPT:
        report_script(problem, text)
    else:
        say(text)
    emit_error(name, value, text)


def report_script(problem, text):
    """As the interpreter does it: by the program's hook, on its sys.stderr."""
    if sys.excepthook is not sys.__excepthook__:
        sys.excepthook(type(problem), problem, sys.last_traceback)
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:
        say(text)


def emit_error(name, value, text):
    """Once a run: an interrupt right after it does not make a second one."""
    if State.channel is not None and not State.told:
        body = ('{"type":"error","name":' + quote(name) + ',"value":' + quote(value)
                + ',"traceback":' + quote(text) + "}")
        State.channel.send(MESSAGE, body.encode("utf-8"), run_here())
    State.told = True


def exit_code(problem):
    if problem is None:
        return 0
    if is_a(problem, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if not is_a(problem, SystemExit):
        return EXIT_ERROR
    code = SystemExit.code.__get__(problem)
    if code is None:
        return 0
    return code & 0xff if is_a(code, int) else EXIT_ERROR


# --- Code ---------------------------------------------------------------------------------------


def remember(run):
    """Makes a run's lines known to linecache, under a name that no earlier cell has."""
    text = run.code.decode("utf-8", "replace")
    lines = io.StringIO(text, newline=None).readlines()
    name, number = run.file, 1
    while name in State.sources:
        number += 1
        name = f"{run.file}#{number}"
    State.sources[name] = lines
    State.sources_size += len(text)
    cache = getattr(MODULES.get("linecache"), "cache", {})
    while State.sources_size > SOURCES_MAX and len(State.sources) > 1:
        oldest = next(iter(State.sources))
        State.sources_size -= sum(len(line) for line in State.sources.pop(oldest))
        cache.pop(oldest, None)
    cache[name] = source_entry(name, lines)
    return name, lines


def source_entry(name, lines):
    """As linecache keeps it. Without a time it is never looked up on disk."""
    return sum(len(line) for line in lines), None, lines, name


def is_quiet(lines, last):
    """Whether a semicolon follows the last expression."""
    if last.end_lineno > len(lines):
        return False
    tail = lines[last.end_lineno - 1].encode("utf-8")[last.end_col_offset:].decode("utf-8", "replace")
    return any(";" in line.partition("#")[0] for line in [tail] + lines[last.end_lineno:])


def run_code(run, namespace):
    """Compiles and runs the code; its last expression's value is a result."""
    file, lines = remember(run)
    cell = run.mode != MODE_SCRIPT
    flags = (State.flags | _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT) if cell else 0
    tree = compile(run.code, file, "exec", flags | _ast.PyCF_ONLY_AST, True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
    quiet = last is not None and is_quiet(lines, last)
    code = compile(tree, file, "exec", flags, True)
    if cell:
        State.flags |= code.co_flags & FUTURE
    value_code = None
    if last is not None:
        value_code = compile(_ast.Expression(last.value), file, "eval",
                             flags | code.co_flags & FUTURE, True)
    del tree, last, lines
    value = execute([code] if value_code is None else [code, value_code], namespace)
    if value is not None:
        if cell:
            builtins._ = value
        if not quiet and State.channel is not None:
            emit_result(represent(value))


def execute(codes, namespace):
    """Runs one after the other, within the loop if any of them awaits. The value of the last."""
    if any(code.co_flags & CO_COROUTINE for code in codes):
        return run_async(execute_async(codes, namespace))
    for code in codes:
        value = eval(code, namespace)
    return value


async def execute_async(codes, namespace):
    for code in codes:
        value = eval(code, namespace)
        if code.co_flags & CO_COROUTINE:
            value = await value
    return value


def run_async(coroutine):
    """Awaits in the one loop of the kernel, in which tasks of earlier cells go on meanwhile."""
    import asyncio
    if State.loop is None or State.loop.is_closed():
        State.loop = asyncio.new_event_loop()
    loop = State.loop
    asyncio.set_event_loop(loop)
    State.cancelled = False
    task = State.task = loop.create_task(coroutine)
    # Not run_until_complete(): that would put its own frames before the user's.
    task.add_done_callback(lambda done: loop.stop() if done is State.task else None)
    try:
        try:
            loop.run_forever()
        except BaseException:
            if not task.done():  # an interrupt, or another task that exits
                task.cancel()
                loop.run_forever()
            if task.done() and not task.cancelled():
                task.exception()  # seen: asyncio has nothing to warn of
            raise
    finally:
        State.task = None
    if not task.done():
        task.cancel()
        raise RuntimeError("Event loop stopped before Future completed.")
    try:
        return task.result()
    except asyncio.CancelledError as problem:
        if not State.cancelled:
            raise
        cause = problem
        while cause.__context__ is not None and strip(cause) is None:
            cause = cause.__context__  # until Python 3.10 that has the lines
        raise KeyboardInterrupt().with_traceback(cause.__traceback__) from None


# --- Runs ---------------------------------------------------------------------------------------


def new_main():
    """A __main__ as the interpreter makes it, without a trace of this file."""
    module = type(sys)("__main__")
    module.__builtins__ = builtins
    MODULES["__main__"] = module
    return module


def run_cell(run):
    """Runs one cell to its exit code, or, in a child that it forked, to the child's."""
    MODULES["__main__"] = State.main
    namespace = vars(State.main)
    namespace.setdefault("__name__", "__main__")
    namespace.setdefault("__builtins__", builtins)
    namespace.pop("__warningregistry__", None)  # a line of this cell is not one of an earlier cell
    begin(run, Output)
    follow_pools()
    State.pending = False
    State.running = True
    problem = conclude(guarded(run_code, run, namespace))
    guarded(take_streams_back)
    if is_a(problem, SystemExit):
        code = SystemExit.code.__get__(problem)
        if code is not None and not is_a(code, int):
            guarded(lambda: say(clean(cut(str(code), VALUE_MAX)) + "\n"))
    return exit_code(problem)


def conclude(problem):
    """Shows figures and the error. The exception that the run ended with, or None."""
    if is_a(problem, KeyboardInterrupt):
        guarded(close_figures)
    else:
        later = guarded(show_figures, State.shown)
        problem = later if problem is None else problem
    later = guarded(flush)
    if problem is None and later is not None and not is_a(later, Exception):
        problem = later
    if problem is not None and not is_a(problem, SystemExit):
        failed = guarded(report, problem)
        if failed is not None and not State.told:
            name = type(problem).__name__
            say(name + "\n")
            emit_error(clean(name), "", clean(name) + "\n")
    return problem


def serve_cell(run):
    code = EXIT_ERROR
    try:
        code = run_cell(run)
    except BaseException as problem:  # from a signal handler of the user's, as the run ended
        code = exit_code(problem)
    if State.channel is None:
        sys.exit(code)
    State.running = State.armed = False
    for _ in range(100):  # such a handler may strike here again
        try:
            finish(run)
            break
        except BaseException:
            continue
    try:
        State.channel.send(DONE, bytes([code]))
    except BaseException:
        pass  # from a signal handler; the message went out before


def run_script(run):
    """Runs a program as the interpreter would, and ends the process as it would."""
    begin(run, plain_output)
    if run.code is None:
        try:
            with open(run.file, "rb") as file:
                run.code = file.read()
        except OSError as problem:
            sys.exit(f"python3: can't open file {run.file!r}: {problem.strerror}")
    main = new_main()
    main.__file__ = os.path.abspath(run.file)
    main.__cached__ = None
    main.__annotations__ = {}
    importer = MODULES["_frozen_importlib_external"]
    main.__loader__ = importer.SourceFileLoader("__main__", main.__file__)
    sys.argv = [run.file]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(run.file))
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    State.running = True
    problem = conclude(guarded(run_code, run, vars(main)))
    if is_a(problem, SystemExit):
        raise problem
    sys.exit(exit_code(problem))


def after_fork():
    """What belongs to one process alone: all of it happens here, after a fork from a warm one."""
    State.main_thread = _thread.get_ident()
    State.channel = Channel(high(KERNEL_FD))
    _signal.signal(_signal.SIGINT, on_interrupt)
    if "random" in MODULES:
        MODULES["random"].seed()
    if "numpy.random" in MODULES:
        MODULES["numpy.random"].seed()
    if "multiprocessing.process" in MODULES:
        MODULES["multiprocessing.process"].current_process().authkey = os.urandom(32)


def forget_channel():
    """In a child that user code forked."""
    channel, State.channel = State.channel, None
    if channel is not None:
        channel.socket.close()
        State.main_thread = _thread.get_ident()


def warm_up():
    """All that comes before the fork: no thread, no open file, nothing of a caller."""
    if sys.stdout is not None:
        State.encoding, State.errors = sys.stdout.encoding, sys.stdout.errors
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = ""
    sys.argv = [""]
    State.main = new_main()
    State.modules = dict(MODULES)
    builtins.display = ORIGINALS["display"] = display
    os.register_at_fork(after_in_child=forget_channel)
    follow_threads()
    AfterImport.install()


def serve():
    """The life of one process: runs until the channel's end, or one script."""
    after_fork()
    State.channel.send(READY)
    while True:
        message = State.channel.receive()
        if message is None:
            os._exit(0)
        kind, body, fds = message
        if kind != RUN:
            for fd in fds:
                os.close(fd)
            continue
        run = Run(body, fds)
        if run.mode == MODE_SCRIPT:
            run_script(run)
        serve_cell(run)


def main():
    warm_up()
    globals().pop("d", None)  # what it was loaded from
    try:
        os.fstat(KERNEL_FD)
    except OSError:
        sys.exit("this is a kernel of berth: it needs a socket as descriptor 3")
    serve()


if __name__ == "__main__":
    # From a frame that has the private builtins: Python 3.9 takes them from the caller.
    eval(compile("main()", THIS_FILE, "eval"), {"__builtins__": ORIGINALS, "main": main})
