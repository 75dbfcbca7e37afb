"""Descriptors and streams: what each thread writes to, and what a run begins and ends with."""


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
    thread_start = State.thread_start = threading.Thread.start

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

C_MODULES = ("_ctypes", "_cffi_backend")  # with one of them, code may write by the C library


def make_stream(buffer, mode, errors):
    made = io.TextIOWrapper(buffer, State.encoding, errors, "\n", write_through=True)
    made.mode = mode
    return made


def make_input():
    """Looks at what descriptor 0 is."""
    file = io.FileIO(0, "rb", closefd=False)
    file.name = "<stdin>"
    return make_stream(io.BufferedReader(file, max(file._blksize, 512)), "r", State.errors)


def make_outputs(raw):
    return (make_stream(raw(1, "<stdout>"), "w", State.errors),
            make_stream(raw(2, "<stderr>"), "w", "backslashreplace"))


def set_streams(raw):
    """New streams for each run: whatever the last one did to them is over."""
    outputs, State.outputs = State.outputs, None
    State.streams = (make_input(), *(outputs if outputs and raw is Output else make_outputs(raw)))
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
    if "builtins" in MODULES and all(map(is_same, map(BUILTINS.get, ORIGINALS), ORIGINALS.values())):
        return
    if "builtins" not in MODULES:
        for name, module in State.modules.items():
            MODULES.setdefault(name, module)
    for name, value in ORIGINALS.items():
        if name not in BUILTINS or not callable(BUILTINS[name]):
            BUILTINS[name] = value


def begin_streams(run, raw):
    """Puts the run's descriptors in place."""
    State.run, State.shown, State.told = run, [], False
    for number, fd in enumerate(run.fds):
        os.dup2(fd, number)
    set_streams(raw)


def forget_proxies():
    """urllib's own opener keeps the proxies that it found when it was first used; one that the user
    installed stays."""
    known = ("UnknownHandler", "HTTPHandler", "HTTPSHandler", "HTTPDefaultErrorHandler",
             "HTTPRedirectHandler", "FTPHandler", "FileHandler", "HTTPErrorProcessor", "DataHandler",
             "ProxyHandler")
    try:
        module = MODULES["urllib.request"]
        if all(type(one).__name__ in known for one in module._opener.handlers):
            module._opener = None
    except Exception:
        return  # it was not used yet, or is not the library's


def begin(run):
    """Puts the run's environment in place."""
    if State.loop is not None and not State.loop.is_closed() and "asyncio" in MODULES:
        MODULES["asyncio"].set_event_loop(State.loop)  # asyncio.run() leaves none
    find_new_folders()
    for entry in run.env:
        name, _, value = entry.partition("=")
        if name and "\0" not in entry:
            if name == "PYTHONPATH" and value == LIBRARIES:
                value = look_at_libraries(ENVIRON.get(name))
            if name.lower().endswith("_proxy") and ENVIRON.get(name) != value:
                forget_proxies()
            ENVIRON[name] = value
            if name == "TZ":
                import time
                time.tzset()


def find_new_folders():
    """What was on the path and not there when the kernel started may have come with the run."""
    try:
        cache = sys.path_importer_cache
        for path in [path for path, finder in cache.items() if finder is None]:
            cache.pop(path, None)
    except Exception:
        pass  # the user's


def look_at_libraries(path):
    """A library layer is there since the interpreter started, perhaps in place of another one. Its
    folder comes behind the library, before what the image has installed. Returns the PYTHONPATH for
    children: what the process began with, and the folder."""
    try:
        sys.path_importer_cache.pop(LIBRARIES, None)
        if LIBRARIES not in sys.path:
            at = 0
            while at < len(sys.path) and not str(sys.path[at]).endswith("-packages"):
                at += 1
            sys.path.insert(at, LIBRARIES)
    except Exception:
        pass  # what the user made of them is no list any more
    if not path or LIBRARIES in path.split(":"):
        return path or LIBRARIES
    return path + ":" + LIBRARIES


def finish(run):
    """Takes the run's descriptors away again; threads of the run keep theirs. And what the next run
    needs is made while nobody waits."""
    for number in range(3):
        os.dup2(State.null_fd, number)
    if State.outputs is None:
        State.outputs = make_outputs(Output)
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
    if State.fflush is None and not MODULES.keys().isdisjoint(C_MODULES):
        find_stdio()
    if State.fflush is not None:
        State.fflush(State.stdio)


def find_stdio():
    """The C library's stdout. What it still holds can be asked without waiting."""
    if State.fflush is not None:
        return
    import ctypes
    library = ctypes.CDLL(None)
    State.stdio = ctypes.c_void_p.in_dll(library, "stdout")
    State.fpending = getattr(library, "__fpending", None)
    State.fflush = library.fflush


def is_c_flushed():
    if State.fflush is None:
        return MODULES.keys().isdisjoint(C_MODULES)
    return State.fpending is not None and State.fpending(State.stdio) == 0
