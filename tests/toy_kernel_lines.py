"""A small language kernel that speaks lines (kernels/README.md), for tests of init. The code of a run
finds tell(bytes), which says to init whatever it likes, beside what earlier runs left."""
import os
import select
import signal
import sys
import traceback

for fd in (3, 4):
    os.set_inheritable(fd, False)


def tell(data):
    while data:
        data = data[os.write(4, data):]


def line():
    while b"\n" not in ahead[0]:
        ahead[0] += os.read(3, 65536) or sys.exit(0)
    first, _, ahead[0] = ahead[0].partition(b"\n")
    return first


def unescaped(text):
    parts = text.split(b"\\\\")
    plain = [part.replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\\t", b"\t") for part in parts]
    return b"\\".join(plain)


def is_interrupted():
    """What is behind an X can only be its I."""
    return ahead[0] or select.select([3], [], [], 0)[0]


def interrupt(number, frame):
    """Once a run: a second one must not strike who sees to the first."""
    if not struck:
        struck.append(number)
        raise KeyboardInterrupt


def run(code, file):
    """The exit code."""
    struck.clear()
    try:
        sys.stdin = open(0, closefd=False)
        signal.signal(signal.SIGINT, interrupt)
        if is_interrupted():
            raise KeyboardInterrupt
        exec(compile(code, file, "exec"), state)
        return 0
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        try:
            traceback.print_exc()
        except OSError:
            pass
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


ahead = [b""]
struck = []
state = {"__name__": "__main__", "tell": tell}
signal.signal(signal.SIGINT, signal.SIG_IGN)
state["text"] = sys.stdin.read()
tell(b"R\n")
while True:
    kind, _, rest = line().partition(b" ")
    if kind == b"V":
        name, _, value = unescaped(rest).decode().partition("=")
        os.environ[name] = value
    if kind != b"X":
        continue
    state["asked"] = rest
    run_id, timeout, file, code = rest.split(b" ", 3)
    exit_code = run(unescaped(code), file.decode())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    if not state.pop("quiet", False):  # else the code has said it
        tell(b"D %d\n" % exit_code)
