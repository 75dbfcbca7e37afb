"""The life of the process: warm up, fork (or not), serve."""


# What programs use most. Some 9 MB, asyncio 2 of them, that all sandboxes of a host then share.
ZYGOTE_MODULES = (
    "abc", "argparse", "ast", "asyncio", "base64", "bisect", "collections", "collections.abc", "contextlib",
    "copy", "csv", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "gzip",
    "hashlib", "heapq", "inspect", "io", "itertools", "json", "linecache", "locale", "logging", "math",
    "operator", "os.path", "pathlib", "pickle", "random", "re", "secrets", "shutil", "signal",
    "statistics", "string", "struct", "subprocess", "tempfile", "textwrap", "threading", "time",
    "traceback", "typing", "uuid", "warnings", "zlib")


def after_fork(fd=KERNEL_FD, environment=None):
    """What belongs to one process alone: all of it happens here, after a fork from a warm one. The
    fork has to be os.fork(), which tells the library, and what of it asks for that: random, ssl,
    threading, logging. The environment, a dict: in place of that of the process forked from."""
    if environment is not None:
        ENVIRON.clear()
        ENVIRON.update(environment)
        read_time_zone()
    State.main_thread = _thread.get_ident()
    State.channel = Channel(high(fd))
    State.null_fd = high(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    os.dup2(State.null_fd, 0)  # it may still have been the file with our own text
    _signal.signal(_signal.SIGINT, on_interrupt)
    for name in ("random", "numpy.random"):
        if name in MODULES:
            MODULES[name].seed()
    if "multiprocessing.process" in MODULES:
        MODULES["multiprocessing.process"].current_process().authkey = os.urandom(32)
    if "tempfile" in MODULES:
        MODULES["tempfile"]._name_sequence = None
    if "uuid" in MODULES:
        MODULES["uuid"]._node = MODULES["uuid"]._last_timestamp = None
    if "logging" in MODULES:
        clock = "time_ns" if sys.version_info >= (3, 13) else "time"
        MODULES["logging"]._startTime = getattr(MODULES["logging"].time, clock)()


def read_time_zone():
    """/etc/localtime may be another one; the C library reads it again only after a change of TZ."""
    import time
    zone = ENVIRON.get("TZ")
    ENVIRON["TZ"] = "UTC0"
    time.tzset()
    if zone is None:
        del ENVIRON["TZ"]
    else:
        ENVIRON["TZ"] = zone
    time.tzset()


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
        sys.path.insert(0, "")
    sys.argv = [""]
    for name in ("cache", "_interactive_cache"):  # from Python 3.13 on it has the loader's line
        getattr(MODULES.get("linecache"), name, {}).clear()
    State.main = new_main()
    State.modules = dict(MODULES)
    State.last_module = next(reversed(MODULES))
    builtins.display = ORIGINALS["display"] = display
    os.register_at_fork(after_in_child=forget_channel)
    follow_threads()
    if "_ctypes" in MODULES:  # as in a zygote: better once than in each of its children
        find_stdio()
    AfterImport.install()
    gc.freeze()  # what there is by now stays: no collection looks at it again


def prepare_zygote():
    """After warm_up(), in a process that is only forked from: what most programs import anyway."""
    import importlib
    head = sys.path.pop(0) if sys.path and sys.path[0] == "" else None
    for name in ZYGOTE_MODULES:
        importlib.import_module(name)
    if head is not None:
        sys.path.insert(0, head)
    State.modules = {name: module for name, module in MODULES.items() if name != "__main__"}
    State.last_module = next(reversed(MODULES))
    gc.collect()
    gc.freeze()


def serve(fd=KERNEL_FD, environment=None):
    """The life of one process: runs until the channel's end, or one script."""
    after_fork(fd, environment)
    State.channel.send(READY)
    while True:
        message = State.channel.receive()
        if message is None:
            os._exit(0)
        kind, body, fds = message
        if kind != RUN:
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
