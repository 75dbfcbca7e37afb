"""Files read for the server while the code acts on them. What it plants once is in test_planted.py;
here it never rests."""
import errno
import os
import struct

import pytest

import harness
from running import Running

SWAPPING = """
import os, time
open('mine', 'w').write('mine')
os.mkfifo('pipe')
os.symlink('/proc/self/status', 'kernel')
os.symlink('/usr/bin', 'image')
print('ready', flush=True)
while True: # the name is now one thing, now another
    for name in ('mine', 'pipe', 'kernel', 'image'):
        if name == 'mine': os.link(name, 'next')
        else: os.rename(name, 'next')
        os.rename('next', 'target')
        if name != 'mine': os.rename('target', name)
"""
EXPECTED = {0, errno.EACCES, errno.EINVAL, errno.EISDIR, errno.ENOENT, errno.ESTALE}

KILL_USER = 5
STOPPING = """
import os, signal
print('ready', flush=True)
while True:
    for name in os.listdir('/proc'):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            try: os.kill(int(name), signal.SIGSTOP)
            except OSError: pass
"""


def end(running, sandbox):
    sandbox.close()
    running.end()
    server = running.server
    harness.wait_until(lambda: not any(sandbox.id in line for line in server.leftovers()),
                       lambda: server.leftovers())


def test_a_name_that_changes_all_the_time(server):
    running = Running(server, SWAPPING, "strict")
    sandbox = running.connect()
    seen = {}
    count = 0
    # On a slow machine fewer do, if they have met the name as more than one thing.
    while count < 1000 // harness.SLOW or (count < 1000 and not (0 in seen and len(seen) > 2)):
        count += 1
        number, data = sandbox.get("/workspace/target")
        assert data in ((b"mine", b"") if number == 0 else (b"",)), (number, data)
        seen[number] = seen.get(number, 0) + 1
    end(running, sandbox)
    assert set(seen) <= EXPECTED, [os.strerror(number) for number in seen]
    assert 0 in seen and len(seen) > 2, seen


def test_a_reader_that_the_code_stops(server):
    """The code may signal a process of its own user, also the one that reads a file for us. That
    holds up this file; the server can end it, and the sandbox as before."""
    running = Running(server, STOPPING, "strict")
    sandbox = running.connect()
    sandbox.channel.settimeout(1)
    with pytest.raises(TimeoutError):
        for _ in range(1000):
            assert sandbox.get("/workspace/main.py")[0] == 0
    sandbox.channel.settimeout(harness.HANG_SECS)
    sandbox.send("kill", sandbox.stream, struct.pack("<I", KILL_USER))
    assert sandbox.finish(sandbox.stream).errno == errno.ECANCELED
    end(running, sandbox)
