"""A script: the program as `python3 FILE` runs it, and the end of its process.

User code runs right below run_program(); what the interpreter itself does after a program, leave()
does as far as a program can see it, and spares the rest: taking an interpreter apart costs more
than most programs.
"""

THREADING_EXIT_ERROR = 120  # of an interpreter that could not flush its stdout
SCRIPT_EXIT_UNREADABLE = 2
# What the interpreter, the loader or the C library looks at when a process starts, and never again.
START_PREFIXES = ("PYTHON", "LD_", "MALLOC_", "LC_")
START_NAMES = ("LANG", "GLIBC_TUNABLES")
FIRST_COLLECTION_MAX = 200  # modules of the program; with more, one collection has to do
# What has no code to run at its end, and refers to nothing that has.
INERT = frozenset((type(None), bool, int, float, complex, str, bytes, range))
CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
BUILTIN, FUNCTION, MODULE = type(len), type(is_a), type(sys)
LOOK_MAX = 300  # objects
PRINT_ERROR = sys.__excepthook__
SET_PROFILE, SET_TRACE = sys.setprofile, sys.settrace


def under_program(function):
    """A function of one line, whose frame looks like what the interpreter names where there is none."""
    code = function.__code__.replace(co_filename=SYS_FILE, co_firstlineno=SYS_LINE)
    return type(function)(code, {"__name__": "sys", "__builtins__": ORIGINALS})


CALL_PROGRAM = under_program(lambda code, namespace: eval(code, namespace))
CLEAR_AND_COLLECT = under_program(
    lambda modules, kept, collect: (modules.clear(), modules.update(kept), collect()))


def run_script(run):
    """Runs a program as the interpreter would, and ends the process as it would."""
    sort_out_pending(run)
    open_script(run)
    restarts = [entry for entry in run.env if acts_at_start(entry)]
    begin(run)
    if restarts:
        restart(run)
    namespace = vars(prepare_main(run))
    State.running = True
    problem = run_program(run, namespace)
    del namespace
    code = EXIT_ERROR
    try:
        code = conclude_script(problem)
    except BaseException as late:  # a signal handler of the user's
        code = conclude_script(late)
    problem = None
    leave(code)


def open_script(run):
    """Its streams, and its file: what tracebacks, inspect, pickle and subprocesses look at."""
    begin_streams(run, plain_output)
    for number, fd in enumerate(run.fds):
        if fd > 2:
            os.close(fd)  # only what the program has open keeps a pipe open
        run.fds[number] = number
    if State.null_fd >= 0:  # for what comes between two runs
        os.close(State.null_fd)
        State.null_fd = -1
    try:
        if run.source is None:
            with open(run.file, "rb") as file:
                run.take_code(file.read())
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(run.file, flags | os.O_CLOEXEC, 0o644)
            with open(fd, "wb") as file:
                file.write(run.source)
    except OSError as problem:
        say(f"python3: can't open file {run.file!r}: [Errno {problem.errno}] {problem.strerror}\n")
        os._exit(SCRIPT_EXIT_UNREADABLE)


def acts_at_start(entry):
    """Whether a variable comes too late for this process. TZ does not, nor does a library layer:
    begin() applies them."""
    name, _, value = entry.partition("=")
    if name == "PYTHONPATH" and value == LIBRARIES and not ENVIRON.get(name):
        return False
    return ((name.startswith(START_PREFIXES) or name in START_NAMES)
            and ENVIRON.get(name) != value)


def restart(run):
    """A new interpreter on the file; descriptor 3 and with it results are not of its world."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if State.pending:  # of which the new one would know nothing
        os.kill(os.getpid(), _signal.SIGINT)
    try:
        os.execv(sys.executable, [sys.executable, run.file])
    except OSError as problem:
        say(f"python3: can't start {sys.executable}: {problem.strerror}\n")
        os._exit(SCRIPT_EXIT_UNREADABLE)


def prepare_main(run):
    """The interpreter as a program finds it."""
    main = new_main()
    main.__file__ = os.path.abspath(run.file)
    main.__cached__ = None
    main.__annotations__ = {}
    importer = MODULES["_frozen_importlib_external"]
    main.__loader__ = State.loader = importer.SourceFileLoader("__main__", main.__file__)
    sys.argv = [run.file]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = ["python3", run.file]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(run.file))
    State.script_folder = os.path.join(os.path.dirname(main.__file__), "")
    threading.Thread.start = State.thread_start  # each thread writes to 1 and 2, as any does
    hide_depth()
    return main


def hide_depth():
    """The program may go as deep as if there were no frame of ours, and sees the limit it knows.
    It starts as deep as this function is."""
    get, put = sys.getrecursionlimit, sys.setrecursionlimit
    try:
        put(1)
        depth = 0
    except RecursionError as problem:  # "... at the recursion depth 9: the limit is too low"
        depth = int(str(problem).partition("depth ")[2].partition(":")[0])
    put(get() + depth)

    def getrecursionlimit():
        return get() - depth

    def setrecursionlimit(limit, /):
        put(limit + depth if type(limit) is int and limit > 0 else limit)

    sys.getrecursionlimit = disguise(getrecursionlimit, get)
    sys.setrecursionlimit = disguise(setrecursionlimit, put)


def run_program(run, namespace):
    """The exception that the program ended with, or None. A last expression's value is a result."""
    codes, last = compile_script(run)
    values, problem = [], None
    try:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        if State.pending:  # before that was there
            raise KeyboardInterrupt
        for code in codes:
            values.append(CALL_PROGRAM(code, namespace))
    except BaseException as caught:
        problem = caught
    SET_PROFILE(None)
    SET_TRACE(None)
    if problem is None and values[-1] is not None:
        show_value(run, values[-1], last)
        drop_value(run, values.pop, last, namespace)
    return problem


def is_docstring(tree):
    """Whether all of the program is one string: that becomes __doc__."""
    value = tree.body[0].value if len(tree.body) == 1 else None
    return isinstance(value, _ast.Constant) and isinstance(value.value, str)


def compile_script(run):
    """Its code, the last expression apart, and that one's node."""
    try:
        tree = compile(run.code, run.file, "exec", _ast.PyCF_ONLY_AST, True)
        last = None
        if tree.body and isinstance(tree.body[-1], _ast.Expr) and not is_docstring(tree):
            last = tree.body.pop()
        code = compile(tree, run.file, "exec", 0, True)
        if last is None:
            return [code], None
        return [code, compile(_ast.Expression(last.value), run.file, "eval",
                              code.co_flags & FUTURE, True)], last
    except BaseException as caught:
        problem = caught
    if is_a(problem, SyntaxError):
        if in_plain_sight(run, problem):
            leave(conclude_script(problem))
        emit_error(*describe(problem))
    restart(run)


def in_plain_sight(run, problem):
    """Whether what reads a file would say the same of it: not of its encoding, not at its end."""
    line = SyntaxError.lineno.__get__(problem)
    return (isinstance(line, int) and 0 < line <= run.code.strip().count(b"\n")
            and run.code.isascii() and b"coding" not in run.code and b"\0" not in run.code)


def show_value(run, value, last):
    """Never the program's concern: it does not know that it is shown."""
    try:
        lines = io.StringIO(run.code.decode("utf-8", "replace"), newline=None).readlines()
        if State.channel is not None and not is_quiet(lines, last):
            emit_result(represent(value))
    except Exception:
        pass


def drop_value(run, take, last, namespace):
    """In the program's last line: a coroutine that nobody awaited names the line where it goes."""
    call = _ast.Call(func=_ast.Name(id="take", ctx=_ast.Load()), args=[], keywords=[])
    line = _ast.Expr(value=call)
    for node in (call.func, call, line):
        for name in ("lineno", "col_offset", "end_lineno", "end_col_offset"):
            setattr(node, name, getattr(last, name))
    code = compile(_ast.Module(body=[line], type_ignores=[]), run.file, "exec", 0, True)
    exec(code, namespace, {"take": take})


def conclude_script(problem):
    """Shows figures and the error; the exit code. An uncaught interrupt: minus its signal."""
    if not is_a(problem, KeyboardInterrupt):
        attempt(lambda: show_figures(State.shown))
    if problem is None:
        return 0
    if not is_a(problem, SystemExit):
        problem = report_script(problem)
    if is_a(problem, KeyboardInterrupt):
        return -_signal.SIGINT
    return exit_status(problem) if is_a(problem, SystemExit) else EXIT_ERROR


def report_script(problem):
    """By the program's hook, on its sys.stderr. What it ended with after all: a hook may exit."""
    drop_frames(problem)
    frames = BaseException.__traceback__.__get__(problem)
    sys.last_type, sys.last_value, sys.last_traceback = type(problem), problem, frames
    if sys.version_info >= (3, 12):
        sys.last_exc = problem
    hook = getattr(sys, "excepthook", None)
    text = None
    if hook is PRINT_ERROR:
        text = write_error(problem)
    elif hook is None:
        write_stderr("sys.excepthook is missing\n")
        text = write_error(problem)
    else:
        try:
            hook(type(problem), problem, frames)
        except BaseException as second:
            drop_frames(second)
            if is_a(second, SystemExit):
                return second
            write_stderr("Error in sys.excepthook:\n")
            write_error(second)
            write_stderr("\nOriginal exception was:\n")
            text = write_error(problem)
    try:
        name, value, made = describe(problem) if text is None else (*describe_shortly(problem), text)
        emit_error(name, value, clean(cut(made, TRACEBACK_MAX)))
    except Exception:
        pass
    return problem


def write_error(problem):
    """The interpreter's own words: on the program's sys.stderr, and returned if that is ours."""
    stream = getattr(sys, "stderr", None)
    plain = stream is State.streams[2] and not stream.closed
    if plain:
        sys.stderr = io.StringIO()
    try:
        PRINT_ERROR(type(problem), problem, BaseException.__traceback__.__get__(problem))
    finally:
        if plain:
            text, sys.stderr = sys.stderr.getvalue(), stream
            write_stderr(text)
    return text if plain else None


def write_stderr(text):
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:  # closed, None, or anything that was put there
        pass


def exit_status(problem):
    """Of a SystemExit."""
    code = SystemExit.code.__get__(problem)
    if code is None:
        return 0
    if is_a(code, int):
        return code if -1 << 63 <= code < 1 << 63 else -1
    try:
        write_stderr(str(code) + "\n")
    except Exception:
        pass
    return EXIT_ERROR


# --- The end ---


def leave(code):
    """As the interpreter ends, in its order; never returns. What strikes meanwhile, an interrupt
    say, ends the step that it struck, which is what it does there too."""
    for step in (join_threads, call_exit_functions, flush_script, drop_objects, flush_script):
        try:
            if step() is False:
                code = THREADING_EXIT_ERROR
        except BaseException as problem:
            drop_frames(problem)
            write_stderr("Exception ignored in: the end of the program\n")
            write_error(problem)
    if code == -_signal.SIGINT:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.kill(os.getpid(), _signal.SIGINT)
    os._exit(code & 0xff)


def join_threads():
    module = MODULES.get("threading")
    if module is not None:
        module._shutdown()


def call_exit_functions():
    try:
        atexit._run_exitfuncs()
    except BaseException:
        if sys.version_info >= (3, 10):
            raise
        # Before, it has printed what went wrong, and raises the last of it for callers.


def flush_script():
    """Whether its stdout, and what C code wrote, is out."""
    done = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except Exception as problem:
            if stream is sys.stdout:
                done = False
                write_stderr(f"Exception ignored in: {stream!r}\n"
                             f"{type(problem).__qualname__}: {problem}\n")
    if "_ctypes" in MODULES or any(is_foreign(module) for _, module in new_modules()):
        find_stdio()
    if State.fflush is not None:
        State.fflush(None)
    return done


def new_modules():
    """(name, module) of what came since the start, and no look at the others: each look at an object
    is a page that a forked process has to copy. Of what a program took out and put back, maybe more."""
    found = []
    for name in reversed(MODULES):
        if name == State.last_module:
            break
        found.append((name, MODULES.get(name)))
    return found


def is_foreign(module):
    """Whether it is machine code of somebody's, who may have written by stdio."""
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.endswith(".so") and "/lib-dynload/" not in file


def is_of_library(one):
    """A class or function that a module of the start has under its name."""
    module = State.modules.get(one.__module__) if type(one.__module__) is str else None
    return type(module) is MODULE and vars(module).get(one.__name__) is one


def is_inert(one, namespace, todo):
    """Whether its end runs no code, but for what it adds to todo."""
    kind = type(one)
    if kind in CONTAINERS:
        todo += one
        if kind is dict:
            todo += one.values()
    elif kind is BUILTIN:
        return type(one.__self__) is MODULE
    elif kind is MODULE:
        name = vars(one).get("__name__")
        return type(name) is str and State.modules.get(name) is one
    elif kind is FUNCTION and one.__globals__ is namespace:
        todo += (one.__doc__, one.__module__, one.__dict__, one.__defaults__, one.__kwdefaults__,
                 one.__annotations__)
        return one.__closure__ is None
    elif kind is FUNCTION or kind is type:
        return is_of_library(one)
    else:
        return kind in INERT or one is State.loader
    return True


def holds_nothing(main):
    """Whether no code can run when all of this goes, as far as a short look can tell. Then it may as
    well stay, and none of the pages that a forked process has in common with others is touched."""
    if type(main) is not MODULE or _thread._count() != 0 or new_modules():
        return False
    todo = [vars(main)]
    for _ in range(LOOK_MAX):
        if not todo:
            return True
        if not is_inert(todo.pop(), vars(main), todo):
            return False
    return False


def drop_objects():
    """The program's own modules go, so that __del__ and open files of theirs have their end. The
    library stays as it is, but out of sight, unless a thread that nobody waits for uses it still."""
    sys.last_type = sys.last_value = sys.last_traceback = sys.last_exc = None
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    State.main = None
    collected = gc.isenabled() and len(MODULES) - len(State.modules) < FIRST_COLLECTION_MAX
    if collected:
        gc.collect()
    if collected and holds_nothing(MODULES.get("__main__")):
        return
    kept = State.modules
    kept.pop("__main__", None)
    for name, module in new_modules():
        file = getattr(module, "__file__", None)
        if name != "__main__" and not (isinstance(file, str) and file.startswith(State.script_folder)):
            kept[name] = module
    module = None
    if "subprocess" in MODULES:
        MODULES["subprocess"]._active = None  # else it keeps what nobody waited for, and its pipes
    alone = _thread._count() == 0
    if alone:
        sys.meta_path = None
    CLEAR_AND_COLLECT(MODULES, {} if alone else kept, gc.collect)
