"""The zygote: a warm Python kernel that is forked into sandboxes.

Runs with the text of kernels/python, outside of every sandbox, started by berth-native (src/native/zygote.h),
which alone talks with it. What it gives away are copies of itself, so it never reads a byte of a
caller's: a request holds numbers and descriptors. It has two capabilities, to change its user and
its groups, and a filter; see SECURITY.md.

A request: fork a kernel into a sandbox. Three processes do it:

- the middle one joins the code's control groups, takes the pass that the engine takes back from one
  that is late, becomes the owner of the sandbox's outer user namespace, which gives it all rights
  in that namespace and none elsewhere, and joins init's namespaces;
- its child is the first process that lives in the pid namespace, and ends at once, so that init
  becomes the parent of
- the kernel, which does what src/init/child.c and src/init/identity.c do for code, in their order,
  and is then as one that init had started.

Whatever fails ends the process that it fails in: nobody goes on with more rights than it should
have. Frames of this file are hidden from the code as those of the kernel are.
"""
import ctypes
import gc
import os
import struct
import sys
import threading
import _signal
import _socket

REQUEST = struct.Struct("<QQIIII")  # number, file_size_max, owner, uid, gid, open_files_max
SOCKET_FD = 3  # to the engine; in a kernel the one to init
TASKS_MAX = 8
ALL_SIGNALS = range(1, 65)

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 1 << 17, 1 << 25, 1 << 26, 1 << 27
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 1 << 28, 1 << 29, 1 << 30
NAMESPACES = (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
              | CLONE_NEWUTS)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_GET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 21, 38, 47, 4
SECCOMP_MODE_FILTER, CAPABILITY_VERSION_3 = 2, 0x20080522
CAP_NUMBER_MAX, CAP_SURE, EINVAL = 63, 37, 22  # those of Linux 3.5 are there
CAP_SETGID, CAP_SETUID = 6, 7
KEYCTL_JOIN_SESSION_KEYRING = 1
RLIMIT_FSIZE, RLIMIT_CORE, RLIMIT_NOFILE, RLIMIT_MEMLOCK = 1, 4, 7, 8
RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_RTPRIO = 11, 12, 13, 14


class Program(ctypes.Structure):
    """struct sock_fprog (seccomp(2))."""
    _fields_ = [("count", ctypes.c_ushort), ("code", ctypes.c_char_p)]


class Place:
    """What lies on SOCKET_FD."""
    engine = True


LIBRARY = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    """A call of the C library whose failure is an OSError."""
    longs = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = getattr(LIBRARY, function)(*longs)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return result


def set_capabilities(caps):
    """Effective and permitted ones; inheritable ones are none (src/init/identity.c)."""
    header = struct.pack("<Ii", CAPABILITY_VERSION_3, 0)
    data = struct.pack("<IIIIII", caps, caps, 0, 0, 0, 0)
    call("capset", header, data)


def limit(resource, value):
    """Never raises one."""
    pair = (ctypes.c_ulong * 2)()
    call("getrlimit", resource, pair)
    pair[0] = pair[1] = min(value, pair[1])
    call("setrlimit", resource, pair)


def fork_plainly():
    """Without what Python does before and after, which the two processes on the way don't need: they
    have no thread, run no code but this, and end by _exit(). It copies half as many pages."""
    return call("syscall", CLONE, _signal.SIGCHLD, 0, 0, 0, 0)


# --- The steps of a kernel, in the order of child_exec() ------------------------------------------


def enter_sandbox(request, fds):
    """The middle process: from the zygote's identity to root of the outer namespace."""
    init, _, _, entry_pass, *tasks = fds
    for fd in tasks:
        os.write(fd, b"0")
    os.read(entry_pass, 8)  # fails when the engine took it back: then the sandbox is in use
    owner = request[2]
    os.setgroups([])
    os.setresgid(owner, owner, owner)
    os.setresuid(owner, owner, owner)
    call("setns", init, NAMESPACES)


def become_code(request, userns):
    """identity_become_code() of profile strict."""
    _, _, _, uid, gid, _ = request
    call("setns", userns, CLONE_NEWUSER)
    call("unshare", CLONE_NEWCGROUP)
    for number in range(CAP_NUMBER_MAX + 1):
        if LIBRARY.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            if number <= CAP_SURE or ctypes.get_errno() != EINVAL:
                raise OSError(ctypes.get_errno(), f"bound capability {number}")
            break  # past the kernel's last one
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(FILTER), 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    set_capabilities(0)


def set_limits(request):
    _, file_size_max, _, _, _, open_files_max = request
    for resource, value in ((RLIMIT_CORE, 1), (RLIMIT_NICE, 0), (RLIMIT_RTPRIO, 0),
                            (RLIMIT_SIGPENDING, 1024), (RLIMIT_MEMLOCK, 64 * 1024),
                            (RLIMIT_MSGQUEUE, 0), (RLIMIT_FSIZE, file_size_max),
                            (RLIMIT_NOFILE, open_files_max)):
        limit(resource, value)


def become_kernel(request, fds):
    _, userns, channel, *_ = fds
    # A session of its own, whose keys are nobody else's.
    call("syscall", KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(null, number)
    become_code(request, userns)
    Place.engine = False
    os.dup2(channel, SOCKET_FD)
    call("close_range", SOCKET_FD + 1, 0xffffffff, 0)
    set_limits(request)
    os.umask(0o022)
    os.chdir("/workspace")
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    uid, gid = request[3:5]
    if (os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3
            or LIBRARY.prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER):
        os._exit(1)
    call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)
    threading.main_thread()._set_native_id()  # Python forgets to


def make_kernel(request, fds):
    """In the middle process. Returns in the kernel alone; the others end here."""
    enter_sandbox(request, fds)
    first = fork_plainly()
    if first != 0:
        _, status = os.waitpid(first, 0)
        os._exit(0 if status == 0 else 1)
    if os.fork() != 0:
        os._exit(0)
    become_kernel(request, fds)


# --- The life of the zygote -----------------------------------------------------------------------


def receive(engine):
    """(request, descriptors), or None at the engine's end."""
    space = _socket.CMSG_SPACE((4 + TASKS_MAX) * 4)
    data, extra, flags, _ = engine.recvmsg(REQUEST.size, space, _socket.MSG_CMSG_CLOEXEC)
    if len(data) != REQUEST.size:
        return None
    fds = []
    for _, _, numbers in extra:
        fds += struct.unpack(f"<{len(numbers) // 4}i", numbers)
    if flags & _socket.MSG_CTRUNC:  # without all groups there is no kernel: fork_one() says so
        while fds:
            os.close(fds.pop())
    return REQUEST.unpack(data), fds


def answer(engine, request, status):
    engine.send((b"F" if status == 0 else b"E") + request[0].to_bytes(8, "little"))


def say(engine, problem):
    """For the engine's log."""
    text = f"{type(problem).__name__}: {problem}"
    engine.send(b"L" + text.encode("utf-8", "replace")[:200])


def fork_one(engine, request, fds):
    """True in the kernel."""
    status = 1
    try:
        pid = fork_plainly()
        if pid != 0:
            _, status = os.waitpid(pid, 0)
    except OSError as problem:
        say(engine, problem)
        pid = -1
    if pid == 0:
        try:
            make_kernel(request, fds)
            return True
        except BaseException as problem:
            try:
                if Place.engine:
                    say(engine, problem)
            finally:
                os._exit(1)
    for fd in fds:
        os.close(fd)
    answer(engine, request, status)
    return False


def serve_engine():
    """Returns in a kernel alone, with nothing of the request left."""
    engine = _socket.socket(fileno=SOCKET_FD)
    engine.send(b"R")
    while True:
        message = receive(engine)
        if message is None:
            os._exit(0)
        if fork_one(engine, *message):
            engine.detach()
            return


def shed():
    """What came through execve(2) goes no further."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(null, number)
    call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    set_capabilities(1 << CAP_SETUID | 1 << CAP_SETGID)


def prepare(kernel, program, numbers):
    """kernel: the namespace of kernels/python, of whose file this one is too, so that the frames
    of both are kept out of what the code sees. program: the filter of profile strict. numbers: of
    the calls keyctl and clone. Returns what is called next, and returns in kernels alone, at their ends."""
    global FILTER, KEYCTL, CLONE
    FILTER = Program(len(program) // 8, program)
    KEYCTL, CLONE = numbers
    shed()
    kernel["warm_up"]()

    def start():
        gc.collect()
        gc.freeze()  # or each collection in a kernel would copy every page of these objects
        serve_engine()
        eval(compile("serve()", kernel["THIS_FILE"], "eval"),
             {"__builtins__": kernel["ORIGINALS"], "serve": kernel["serve"]})

    return start
