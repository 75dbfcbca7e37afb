"""Bombs: code that takes all of one thing. Each has to end with the right cause and the limits that it
hit, to leave the host's figures as they were, and a neighbour sandbox that does small work all the
while keeps on working. How long the neighbour's work took is written down, and never judged here."""
import ctypes
import os
import threading
import time

import pytest

import verdicts
from bombs import BOMBS, PRELUDE
from harness import HANG_SECS, SLOW, snapshot_tool, wait_until

BOMB_SECS = 1.5  # long enough to get to a limit, but for a slow machine
ALONE_SECS = 0.5

# Small work as a program does it: some arithmetic, a file, memory, a process, a pipe, a socket.
WORK = """
import hashlib, os, socket, time
data = os.urandom(65536)
left, right = socket.socketpair()
while True:
    start = time.perf_counter()
    for _ in range(8): data = hashlib.sha256(data).digest() * 2048
    with open('/tmp/work', 'wb') as f: f.write(data)
    with open('/tmp/work', 'rb') as f: f.read()
    block = bytearray(1 << 20)
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    left.send(b'x'); right.recv(1)
    print(round((time.perf_counter() - start) * 1e6), flush=True)
    time.sleep(0.004)
"""


class Worker:
    """The neighbour: a list of how long each piece of its work took."""

    def __init__(self, server):
        self.server = server
        self.micros = []
        self.ended = None
        self.stream = server.stream(WORK, timeout=900, resources={"ram": "128MiB"})
        _, self.first = next(self.stream)
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()
        wait_until(lambda: len(self.micros) > 20, "the neighbour works")

    def _follow(self):
        rest = ""
        for kind, data in self.stream:
            if kind == "end":
                self.ended = data
            if kind != "stdout":
                continue
            *lines, rest = (rest + data["text"]).split("\n")
            self.micros += map(int, lines)

    def during(self, act):
        """What act() returns, and the sorted times of the work that was done meanwhile."""
        start = len(self.micros)
        result = act()
        return result, sorted(self.micros[start:])

    def end(self):
        self.server.request("DELETE", f"/executions/{self.first['execution_id']}")
        self.thread.join(HANG_SECS)
        self.stream.close()


@pytest.fixture(scope="module")
def worker(server):
    one = Worker(server)
    yield one
    one.end()


def quantile(times, part):
    return times[min(len(times) - 1, int(len(times) * part))] if times else None


def figures(server):
    """What berth has on the host, but for memory, which allocators keep."""
    counts = snapshot_tool.snapshot(server.state)
    return {name: count for name, count in counts.items()
            if name.startswith(("berth-", "cgroups", "files", "zombies"))
            and not name.endswith(("rss_kb", "berth-server.fds", "berth-server.threads"))}


def has_grown(server, before):
    after = figures(server)
    return {name: (before.get(name, 0), count) for name, count in after.items()
            if count > before.get(name, 0)}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(server, worker, profile, name):
    code, causes, limits, resources = BOMBS[name]
    secs = BOMB_SECS * (SLOW if limits else 1)
    fields = {"code": PRELUDE + code, "timeout": secs, "profile": profile}
    if resources:
        fields["resources"] = resources
    before = figures(server)
    _, alone = worker.during(lambda: time.sleep(ALONE_SECS))
    answer, under = worker.during(lambda: server.post(fields))
    assert answer.status == 200, answer
    done = answer.json()
    verdicts.record("figures", name=name, engine="native", profile=profile, language="python",
                    killed_by=done["killed_by"], limits_hit=done["limits_hit"],
                    alone_us={"p50": quantile(alone, 0.5), "p99": quantile(alone, 0.99)},
                    under_us={"p50": quantile(under, 0.5), "p99": quantile(under, 0.99)},
                    pieces=[len(alone), len(under)])
    print(f"{name}: ended by {done['killed_by']} {done['limits_hit']}; the neighbour's work took"
          f" {quantile(alone, 0.5)}/{quantile(alone, 0.99)} us alone,"
          f" {quantile(under, 0.5)}/{quantile(under, 0.99)} us under it (p50/p99)")
    assert done["killed_by"] in causes, done
    assert done["status"] == ("timeout" if done["killed_by"] == "timeout" else "killed"), done
    assert done["exit_code"] == 137, done
    assert limits <= set(done["limits_hit"]), done
    server.hello()
    wait_until(lambda: not has_grown(server, before), lambda: has_grown(server, before))
    assert worker.thread.is_alive() and not worker.ended, worker.ended
    count = len(worker.micros)
    wait_until(lambda: len(worker.micros) > count + 5, "the neighbour works on")


# ---- what the kernel counts for all ----


def test_terminals_of_neighbours_stay_theirs(server, profile):
    """The number of terminals has one limit for the whole host (kernel.pty.max)."""
    code = PRELUDE + ("held = []\ncount = 0\nfor _ in range(8):\n    if os.fork() == 0:\n"
                      "        forever(lambda: os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))\n"
                      "time.sleep(1)\nprint('taken', flush=True)\ntime.sleep(60)\n")
    stream = server.stream(code, profile=profile, timeout=30)
    try:
        for kind, _ in stream:
            if kind == "stdout":
                break
        used = int(open("/proc/sys/kernel/pty/nr").read())
        done = server.execute("import os\nprint([os.openpty() for _ in range(4)] and 'four')",
                              profile=profile)
        assert done["stdout"] == "four\n", f"{used} terminals are in use: {done['stderr'][-300:]}"
    finally:
        stream.close()


TAKE_ALL = """
import ctypes, time
libc = ctypes.CDLL(None)
taken = 0
while libc.inotify_init() >= 0:
    taken += 1
print(taken, flush=True)
time.sleep(30)
"""


def take_of_host(libc, wanted):
    """How many of wanted inotify instances root on the host gets; gives them back."""
    taken = []
    while len(taken) < wanted:
        fd = libc.inotify_init()
        if fd < 0:
            break
        taken.append(fd)
    for fd in taken:
        os.close(fd)
    return len(taken)


def test_inotify_instances_of_the_host_stay_its_own(server, profile):
    libc = ctypes.CDLL(None)
    before = take_of_host(libc, 100)
    assert before > 0
    streams = [server.stream(TAKE_ALL, profile=profile, timeout=40) for _ in range(16)]
    try:
        counts = []

        def first_output(stream):
            for name, data in stream:
                if name == "stdout":
                    counts.append(int(data["text"]))
                    return

        threads = [threading.Thread(target=first_output, args=[one]) for one in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(counts) == len(streams)
        assert min(counts) == max(counts) > 0, "each sandbox has the same share"
        assert take_of_host(libc, 100) == before
    finally:
        for stream in streams:
            stream.close()
