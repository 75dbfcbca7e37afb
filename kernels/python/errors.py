"""Errors: tracebacks without a frame of the kernel, and the modules that make them."""


def prepare_linecache(module):
    for name, lines in State.sources.items():
        module.cache[name] = source_entry(name, lines)


def without_ours(found, file_of):
    """A stack from the inside out, without our frames and what is under them: what loaded us."""
    ours = [file_of(one) in OUR_FILES for one in found]
    if True in ours:
        found = found[:len(ours) - ours[::-1].index(True)]
    return [one for one, is_ours in zip(found, ours) if not is_ours]


def prepare_inspect(module):
    """inspect.stack() too."""
    outer = module.getouterframes

    def getouterframes(frame, context=1):
        return without_ours(outer(frame, context), lambda one: one.filename)

    module.getouterframes = disguise(getouterframes, outer)


def prepare_traceback(module):
    """print_stack() and its like end at the user's outermost frame."""
    walk = module.walk_stack

    def walk_stack(f):
        if f is None:
            f = sys._getframe(1)
        return iter(without_ours(list(walk(f)), lambda one: one[0].f_code.co_filename))

    module.walk_stack = disguise(walk_stack, walk)


class AfterImport:
    """Prepares a few modules as soon as they are imported, by whomever."""
    modules = {"matplotlib.pyplot": prepare_pyplot, "linecache": prepare_linecache,
               "traceback": prepare_traceback, "inspect": prepare_inspect}

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


def is_a(problem, kind):
    """isinstance() without asking the object, whose __class__ may be code."""
    return issubclass(type(problem), kind)


def strip(problem):
    """The traceback from the user's first frame on."""
    frames = BaseException.__traceback__.__get__(problem)
    led = False
    while frames is not None:
        frame = frames.tb_frame
        ours = frame.f_code.co_filename in OUR_FILES
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
            one.stack[:] = [frame for frame in one.stack if frame.filename not in OUR_FILES]
        todo += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]


def drop_frames(problem):
    """Takes the kernel's frames out of an exception and all that hang on it."""
    todo, seen = [problem], set()
    group = ORIGINALS.get("BaseExceptionGroup", ())
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        entry = first = strip(one)
        while entry is not None and entry.tb_next is not None:
            if entry.tb_next.tb_frame.f_code.co_filename in OUR_FILES:
                entry.tb_next = entry.tb_next.tb_next
            else:
                entry = entry.tb_next
        BaseException.__traceback__.__set__(one, first)
        todo += [BaseException.__cause__.__get__(one), BaseException.__context__.__get__(one)]
        if group and is_a(one, group):
            todo += group.exceptions.__get__(one)


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
    return (*describe_shortly(problem), clean(cut(text, TRACEBACK_MAX)))


def describe_shortly(problem):
    """(name, value)."""
    try:
        value = str(problem)
    except Exception:
        value = "<exception str() failed>"
    return clean(type(problem).__name__), clean(cut(value, VALUE_MAX))


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
    say(text)
    emit_error(name, value, text)


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
