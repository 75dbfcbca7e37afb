"""The life of the process: warm up, fork (or not), serve."""


def after_fork():
    """What belongs to one process alone: all of it happens here, after a fork from a warm one."""
    State.main_thread = _thread.get_ident()
    State.channel = Channel(high(KERNEL_FD))
    State.null_fd = high(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
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
