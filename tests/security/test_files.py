"""Files that are read and written for the server, in a sandbox whose code turns every path into
something else: the bytes are the sandbox's own, and nobody waits."""
import errno
import os
import pathlib

import pytest

from init_client import Init


@pytest.fixture
def beside(make_server):
    """beside(code): runs code that prints "on" and goes on; returns the server's side of its init."""
    server = make_server()
    opened = []

    def start(code):
        stream = server.stream("import os, time\n" + code, timeout=200)
        opened.append(stream)
        assert next(stream)[0] == "started"
        name, data = next(stream)
        assert (name, data["text"].strip()) == ("stdout", "on"), data
        opened.append(Init(server.state))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
    server.wait_clean()


PLANTED = """
os.symlink('/proc/self/status', 'status')
os.symlink('/proc/1/environ', 'environ')
os.symlink('/proc/self/root/etc/passwd', 'magic')
os.symlink('../../../../../../../etc/hostname', 'up')
os.mkfifo('fifo')
os.mkdir('folder')
os.symlink('/dev/zero', 'zero')
os.symlink('/dev/ptmx', 'terminal')
os.symlink('/etc/shadow', 'shadow')
open('closed', 'w').close(); os.chmod('closed', 0)
open('/dev/shm/shared', 'w').write('shared')
print('on', flush=True)
time.sleep(150)
"""


def test_what_cannot_be_read(beside):
    init = beside(PLANTED)
    for path, wanted in [("status", errno.EACCES), ("environ", errno.EACCES),
                         ("magic", errno.ELOOP), ("/proc/kcore", None), ("/proc/keys", None),
                         ("/proc/self/mem", errno.EACCES), ("/proc/version", errno.EACCES),
                         ("/proc/sys/kernel/hostname", errno.EACCES), ("fifo", errno.EINVAL),
                         ("folder", errno.EISDIR), ("zero", errno.EINVAL),
                         ("terminal", errno.EINVAL), ("/dev/tty", errno.EINVAL),
                         ("closed", errno.EACCES), ("/dev/pts/ptmx", None)]:
        got, data = init.get(path)
        assert (got, data) == (wanted, b"") if wanted else got != 0 and data == b"", path
    assert init.get("shadow")[0] in (errno.ENOENT, errno.EACCES)
    got, data = init.get("up")
    assert (got, data) != (0, pathlib.Path("/etc/hostname").read_bytes())


def test_what_can_be_read(beside):
    init = beside(PLANTED)
    assert init.get("/dev/shm/shared") == (0, b"shared")
    assert init.get("/usr/bin/env", 1, 3) == (0, b"ELF")  # another mount
    assert init.get("main.py")[1].startswith(b"import os, time")
    assert init.get("main.py", 1 << 62) == (0, b"")


def test_what_cannot_be_written(beside):
    init = beside(PLANTED)
    for path in ("status", "environ", "magic", "fifo", "folder", "zero", "terminal", "shadow",
                 "/usr/bin/env", "/proc/self/comm", "/etc/passwd", "/dev/null", "/dev/pts/9"):
        assert init.put(path, b"x") != 0, path
    assert init.put("new/er", b"x" * 100000) == 0
    assert init.get("new/er") == (0, b"x" * 100000)


SWAPPING = """
open('mine', 'w').write('mine')
os.mkfifo('pipe')
os.mkdir('folder')
os.symlink('/proc/self/status', 'link')
if os.fork() == 0:
    # the name is now one thing, now another
    while True:
        for name in ('mine', 'pipe', 'link', 'folder', 'mine'):
            try:
                if name == 'mine': os.link(name, 'next')
                else: os.rename(name, 'next')
                os.rename('next', 'target')
                if name != 'mine': os.rename('target', name)
            except OSError:
                for left in ('next', 'target'):
                    try: os.unlink(left)
                    except OSError:
                        try: os.rename(left, 'folder')
                        except OSError: pass
print('on', flush=True)
time.sleep(150)
"""


def test_a_name_that_changes_all_the_time(beside):
    init = beside(SWAPPING)
    read = set()
    for _ in range(400):
        number, data = init.get("target")
        assert number == 0 or data == b"", (number, data)
        if number == 0:
            read.add(data)
        number = init.put("target", b"mine")
        assert number in (0, errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.ENOENT, errno.EXDEV,
                          errno.ELOOP, errno.EACCES), os.strerror(number)
    assert read <= {b"mine", b""}
    assert read


STOPPING = """
import signal
print('on', flush=True)
while True:
    for name in os.listdir('/proc'):
        if name.isdigit() and int(name) not in (1, os.getpid(), os.getppid()):
            try: os.kill(int(name), signal.SIGSTOP)
            except OSError: pass
"""


def test_children_that_the_code_stops_hold_up_nobody_else(beside):
    """The code may signal a process of its own user, also the one that reads a file for us. That
    costs this file; the server ends it, and the sandbox, as before."""
    init = beside(STOPPING)
    init.sock.settimeout(1)
    with pytest.raises(TimeoutError):
        for _ in range(1000):
            assert init.get("main.py")[0] == 0
    init.sock.settimeout(60)
    assert init.kill() == errno.ECANCELED
