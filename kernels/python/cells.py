"""Cells: code that runs in the one namespace of a session."""


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
    flags = State.flags | _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(run.code, file, "exec", flags | _ast.PyCF_ONLY_AST, True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
    quiet = last is not None and is_quiet(lines, last)
    code = compile(tree, file, "exec", flags, True)
    State.flags |= code.co_flags & FUTURE
    value_code = None
    if last is not None:
        value_code = compile(_ast.Expression(last.value), file, "eval",
                             flags | code.co_flags & FUTURE, True)
    del tree, last, lines
    value = execute([code] if value_code is None else [code, value_code], namespace)
    if value is not None:
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
    begin_streams(run, Output)
    begin(run)
    follow_pools()
    State.running = True
    sort_out_pending(run)
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
