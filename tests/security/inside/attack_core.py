"""Runs inside a sandbox: what the attacks in Python share. They are those of attacks.def, as in C
(attack.h); this is the second pair of eyes, and it goes through an interpreter's runtime. Standard
library only."""
import contextlib
import ctypes
import errno
import os
import subprocess

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS, errno.ESRCH, errno.EXDEV,
            errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENETUNREACH, errno.ECONNREFUSED,
            errno.ESOCKTNOSUPPORT, errno.EHOSTUNREACH}
ABSENCES = {errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOTDIR}


class Finding:
    """What came of one attack; an escape is never overwritten, and a further one is told behind it."""

    def __init__(self):
        self.verdict, self.errno, self.detail, self.unsure = "undecided", 0, "", False

    def _set(self, verdict, detail):
        if self.verdict != "ESCAPED":
            self.verdict, self.detail = verdict, detail

    def stopped(self, detail):
        self._set("stopped", detail)

    def escaped(self, detail):
        if self.verdict == "ESCAPED" and detail not in self.detail:
            self.detail += "; " + detail
        self._set("ESCAPED", detail)

    def harmless(self, detail):
        self._set("harmless", detail)

    def absent(self, detail):
        self._set("absent", detail)

    def failed(self, number, what, any_error=False):
        """A call that failed: an error of refusal, of absence, or one that decides nothing."""
        if self.verdict == "ESCAPED" or self.unsure:
            return
        self.errno = number
        if number in REFUSALS or (any_error and number not in ABSENCES):
            self.stopped(what)
        elif number in ABSENCES:
            if self.verdict != "stopped":
                self.absent(what)
        else:
            self.verdict, self.unsure = "undecided", True
            self.detail = what + " got as far as its arguments"

    def call(self, what, number, *arguments, any_error=False):
        """A raw system call that has to fail; what it returned."""
        result, sys_errno = syscall(number, *arguments)
        if result >= 0:
            self.escaped(what + " was allowed")
        else:
            self.failed(sys_errno, what, any_error)
        return result

    def attempt(self, what, function, *arguments, any_error=False, **options):
        """A function that has to raise OSError; a descriptor that it returns is closed."""
        try:
            result = function(*arguments, **options)
        except OSError as problem:
            self.failed(problem.errno or errno.EIO, what, any_error)
            return
        except ValueError:  # what the library refuses before the kernel is asked, or after EINVAL
            self.failed(errno.EPERM, what)
            return
        self.escaped(what + " was allowed")
        if isinstance(result, int) and result > 2 and function is os.open:
            os.close(result)

    def open(self, path, flags=os.O_RDONLY, any_error=False):
        self.attempt(str(path)[:120], os.open, path, flags | os.O_CLOEXEC | os.O_NOCTTY,
                     any_error=any_error)

    def write(self, path, text, any_error=False):
        """Opens and writes without a buffer."""
        def put():
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text if isinstance(text, bytes) else text.encode())
            finally:
                os.close(fd)
        self.attempt(path, put, any_error=any_error)

    def look_at(self, data, where):
        data = data.encode() if isinstance(data, str) else bytes(data)
        if given("MARK").encode() in data:
            self.escaped("a secret came from " + where)

    def look_into(self, path):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self.look_at(os.read(fd, 65536), path)
            finally:
                os.close(fd)


def syscall(number, *arguments):
    """(result, errno) of a raw system call; numbers, bytes and ctypes objects are taken."""
    ctypes.set_errno(0)
    words = [ctypes.c_long(a) if isinstance(a, int) else a.encode() if isinstance(a, str) else a
             for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    return result, ctypes.get_errno()


def given(name):
    return os.environ.get("ATTACK_" + name, "")


def given_number(name):
    return int(given(name) or 0)


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def listed(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def run(*words, **options):
    """(exit status, output) of a program."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=15,
                              **options)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return 127, str(problem)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")
