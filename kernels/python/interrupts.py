"""Interrupts: user code runs below guarded(), where alone SIGINT raises.

One that comes while nothing is armed is pending. Within a run it strikes as soon as something is. When
it came before the run began, it was either for it, or for the run before and too late: init sends a
run's INTERRUPT before the first SIGINT for it and behind its RUN, so one that is for this run has that
message in the socket by now, and a late one has not. So the socket is only looked at when a signal came,
and a signal that came is not looked at twice.
"""


def on_interrupt(number, frame):
    """SIGINT."""
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


def sort_out_pending(run):
    """As a run begins: what is pending stays so only if it is meant for this run."""
    if State.pending:
        State.pending = False  # first: from here on each signal is for this run
        if is_interrupted(run):
            State.pending = True


def is_interrupted(run):
    """Whether its INTERRUPT has come. It stays where it is: receive() passes over it."""
    data = State.channel.peek()
    while len(data) >= HEADER_SIZE:
        end = HEADER_SIZE + int.from_bytes(data[:4], "little")
        if data[4:HEADER_SIZE] == INTERRUPT:
            for tag, value in fields(data[HEADER_SIZE:end]):
                if tag == TAG_ID and value == run.id:
                    return True
        data = data[end:]
    return False


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
    if all(map(is_same, map(_signal.getsignal, SIGNALS), State.calm)):
        return  # nothing of the user's, as before
    for number in SIGNALS:
        handler = _signal.getsignal(number)
        if handler is on_interrupt:
            continue
        if restore and number == _signal.SIGINT:
            _signal.signal(number, on_interrupt)
        elif callable(handler) and type(handler) is not Held:
            State.held[number] = True
            _signal.signal(number, Held(handler))
    handlers = list(map(_signal.getsignal, SIGNALS))
    if not any(callable(one) and one is not on_interrupt for one in handlers):
        State.calm = handlers


def release_signals():
    for number in tuple(State.held):  # a handler that strikes here may send, and so do all of it
        handler = _signal.getsignal(number)
        if type(handler) is Held:
            _signal.signal(number, handler.handler)
        State.held.pop(number, None)  # last: what strikes before may raise


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
    while True:
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
