"""An init in a container that somebody else made (tests/carried.py): what it serves is what it serves
on the native engine, so the same tests are held against it, under runc and in gVisor."""
import errno
import os
import re
import shutil
import socket

import pytest

import carried
import harness
import test_init_sessions
from engine import PATH, tlv
from test_init_sessions import ended, start_kernel

# Those that may differ here; the others with BERTH_TEST_WAYS=all only (make test-engines).
QUICK = ("test_state_is_kept_over_runs", "test_exit_codes_stdin_and_environment", "test_interrupt",
         "test_a_slow_reader_slows_the_code", "test_a_timeout_that_loses_it",
         "test_a_terminal_hangs_up", "test_a_held_terminal", "test_out_of_memory",
         "test_out_of_memory_beside_a_kernel_ends_both", "test_an_execution_beside_a_kernel",
         "test_a_lost_connection_ends_a_run_that_is_not_held",
         "test_an_orphan_ends_after_the_new_time")
# Many sandboxes for what init does the same everywhere; and one of the native engine.
LEFT_OUT = ("test_an_acknowledged_renewal_is_never_lost", "test_init_dies_around_a_run")
# What gVisor has not: limits of memory and processes, which are the engine's, around the whole of it;
# the end of input that is typed, in Debian's version; a filter of the container's.
NOT_IN_GVISOR = ("test_a_kernel_or_a_filter_that_lacks_calls",
                 "test_out_of_memory", "test_out_of_memory_beside_a_kernel_ends_both",
                 "test_an_execution_beside_a_kernel", "test_a_held_terminal")


def is_taken(name):
    every = os.environ.get("BERTH_TEST_WAYS") == "all"
    return name.startswith("test_") and name not in LEFT_OUT and (every or name in QUICK)


assert all(hasattr(test_init_sessions, name) for name in QUICK + LEFT_OUT)
globals().update({name: test for name, test in vars(test_init_sessions).items() if is_taken(name)})


class Engine:
    def __init__(self, runtime):
        self.runtime = runtime
        self.containers = {}

    def create(self, storage=None, **options):
        container = carried.Container(self.runtime, **options)
        self.containers[container.id] = container
        return container.sandbox

    def init_pid(self, sandbox_id):
        """Whether it lives, as the native engine's tests ask for it."""
        container = self.containers[sandbox_id]
        return None if container.ended() else container.process.pid


def pytest_generate_tests(metafunc):
    runtimes = ["runc"] if metafunc.function.__name__ in NOT_IN_GVISOR else ["runc", "runsc"]
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", runtimes, indirect=True, scope="module")


@pytest.fixture(scope="module")
def engine(request):
    assert shutil.which(request.param), f"{request.param}: scripts/deps.sh"
    return Engine(request.param)


@pytest.fixture
def sandbox(engine):
    with engine.create() as one:
        yield one


@pytest.fixture
def kernel(sandbox):
    start_kernel(sandbox)
    yield sandbox


# ---- what is its own ----


def status(text, name):
    return re.search(rb"^%s:\s*(.*)$" % name, text, re.M).group(1)


def test_who_the_code_is(sandbox):
    """No capability, no way to one, and nothing of what the engine put there."""
    seen = ended(sandbox.sh("cat /proc/self/status; grep -c . /proc/self/oom_score_adj")).stdout
    assert status(seen, b"Uid").split() == [b"1000"] * 4
    for name in (b"CapPrm", b"CapEff", b"CapBnd"):
        assert int(status(seen, name), 16) == 0, name
    assert status(seen, b"Seccomp") == b"2"
    assert sandbox.sh("test -e /.berth").exit_code == 1
    assert sandbox.sh("cat /proc/1/mem").exit_code != 0
    for fd in range(64):
        assert sandbox.get_file(f"/proc/1/fd/{fd}").errno != 0


def test_files_are_not_the_kernels(sandbox):
    ended(sandbox.sh("ln -s /proc/self/oom_score_adj link; mkfifo fifo", cwd="/workspace"))
    for name in ("link", "fifo", "/proc/self/oom_score_adj"):
        assert sandbox.put_file(name, b"1000").errno != 0, name
        assert sandbox.get_file(name).errno != 0, name


def test_root_in_a_container(engine):
    """Profile container: what Docker gives. Not in gVisor, where root could open init's streams."""
    if engine.runtime == "runsc":
        with pytest.raises(AssertionError, match="could open init's standard streams"):
            engine.create(profile=carried.CONTAINER)
        return
    with engine.create(profile=carried.CONTAINER) as sandbox:
        seen = ended(sandbox.sh("cat /proc/self/status")).stdout
        assert status(seen, b"Uid").split() == [b"0"] * 4
        assert int(status(seen, b"CapEff"), 16) == int(status(seen, b"CapBnd"), 16) == 0xa80425fb
        ended(sandbox.sh("chown 7:7 /workspace && test ! -e /.berth"))
        assert sandbox.sh("cat /proc/1/environ || readlink /proc/1/fd/0").exit_code != 0
        for number in ("KILL", "STOP", "TERM", "INT"):
            assert sandbox.sh(f"kill -{number} 1; sleep 0.1").exit_code == 0
        # Its user is init's: limits that init could not go on with, and eyes on it.
        assert sandbox.sh("prlimit --pid 1 --nofile=3:3").exit_code != 0
        assert sandbox.run("python3", "-c", "import ctypes, sys; "
                           "sys.exit(ctypes.CDLL(None).ptrace(16, 1, 0, 0) != 0)").exit_code == 1
        assert sandbox.sh("chrt -i -p 0 1; renice 19 -p 1; while :; do :; done",
                          timeout_ms=500).cause == "timeout"
        look = "grep -l '^Uid:.1234' /proc/[0-9]*/status"
        ended(sandbox.sh("setpriv --reuid 1234 --clear-groups sleep 100 & "
                         f"until {look}; do sleep 0.1; done; exit 0"))
        assert sandbox.sh(look).exit_code == 1  # it ended with the program that started it


def test_an_engine_that_comes_again(engine):
    """What is held goes on meanwhile, and is there for the next one."""
    with engine.create() as sandbox:
        container = engine.containers[sandbox.id]
        start_kernel(sandbox)
        ended(sandbox.run_code("x = 6"))
        stream = sandbox.begin_code("import time; print('on'); time.sleep(0.5); print(x * 7)",
                                    execution_id="r", hold=True)
        sandbox.wait_output(stream, b"on\n")
        sandbox.begin(("/bin/sleep", "100"))
        harness.wait_until(lambda: b"sleep" in sandbox.sh("cat /proc/[0-9]*/comm").stdout, "it runs")
        container.attach()
        again = container.sandbox
        assert ended(again.finish(again.begin_attach("r"))).stdout == b"on\n42\n"
        assert ended(again.run_code("print(x)")).stdout == b"6\n"
        harness.wait_until(lambda: b"sleep" not in ended(again.sh("cat /proc/[0-9]*/comm")).stdout,
                           "what nobody holds ends")


def test_an_engine_that_closes_the_stream(engine):
    """Standard input ends: nobody can come again over it, and an orphan ends."""
    with engine.create() as sandbox:
        assert sandbox.timers(orphan_ms=200) == 0
        container = engine.containers[sandbox.id]
        container.carrier.close()
        container.carrier = None
        os.close(container.stdin)
        container.stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        harness.wait_until(container.ended, "init goes")


def test_an_engine_that_beats_is_answered(engine):
    with engine.create() as sandbox:
        carrier = engine.containers[sandbox.id].carrier
        assert carrier.beats == 0
        for count in (1, 2):
            carrier.beat()
            harness.wait_until(lambda: carrier.beats == count, "init answers")


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_a_kernel_or_a_filter_that_lacks_calls(engine, error):
    """close_range(2) of Linux 5.9, openat2(2) of 5.6, and what runc says of calls it does not know."""
    lacks = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
             "syscalls": [{"names": ["close_range", "openat2"], "action": "SCMP_ACT_ERRNO",
                           "errnoRet": error}]}
    with engine.create(seccomp=lacks, file_idle_ms=2000) as sandbox:
        assert sandbox.put_file("a/b", b"whole" * 1000).errno == 0
        assert sandbox.get_file("a/b").stdout == b"whole" * 1000
        assert sandbox.get_file("/proc/self/oom_score_adj").errno != 0
        seen = ended(sandbox.sh("ls /proc/self/fd", env=(PATH,))).stdout
        assert seen.split() == [b"0", b"1", b"2", b"3"]  # 3: the folder that ls reads


def test_a_terminal_without_an_interrupt_character(sandbox):
    """NUL stands for "none" there (termios(3)), and is a byte like others to type."""
    stream = sandbox.begin(("/bin/sh", "-c", "stty intr undef -icanon -echo min 1; echo on; "
                            "head -c 2 | od -An -tx1; exit 3"), env=(PATH,), terminal=(80, 24))
    result = sandbox.wait_output(stream, b"on")
    sandbox.send("data", stream + 1, b"\0x")
    result = sandbox.finish(stream, result)
    assert result.exit_code == 3 and b"00 78" in result.stdout, result


def serve_passed(channel, each):
    """Takes the sockets that egress would take: each of them is called with what the code said."""
    frame, fds, _, _ = socket.recv_fds(channel, 12, 1)
    assert frame[4] == 28 and len(frame) == 12 and len(fds) == 1
    with socket.socket(fileno=fds[0]) as passed:
        passed.settimeout(harness.HANG_SECS)
        each(passed)


def test_more_connections_than_places(engine):
    """They wait for their turn; none is ended, and the server's own channels have room."""
    count, most = 300, 0
    with engine.create() as sandbox:
        container = engine.containers[sandbox.id]
        assert sandbox.finish(sandbox.request("network", tlv(1, 1))).errno == 0
        taker = container.open()
        assert taker.finish(taker.request("egress")).errno == 0
        stream = sandbox.begin(("python3", "-c", "import socket\n"
                                f"all = [socket.create_connection(('127.0.0.1', 3128)) for _ in range({count})]\n"
                                "for s in all: s.sendall(b'x')\n"
                                "print('open', flush=True)\n"
                                "print(sum(s.recv(9) == b'y' for s in all))"), env=(PATH,))
        sandbox.wait_output(stream, b"open\n")
        ended(container.open().sh("exit 0"))
        for _ in range(count):
            most = max(most, len(container.carrier.channels))
            serve_passed(taker.channel, lambda passed: (passed.recv(9), passed.sendall(b"y")))
        assert ended(sandbox.finish(stream)).stdout == b"%d\n" % count
    assert 64 < most <= 96 + 32


def test_a_socket_of_the_code_goes_out(engine):
    """The way out of the sandbox: what it connects to init's port arrives with the engine's user."""
    with engine.create() as sandbox:
        assert sandbox.finish(sandbox.request("network", tlv(1, 1))).errno == 0
        taker = engine.containers[sandbox.id].open()
        assert taker.finish(taker.request("egress")).errno == 0
        stream = sandbox.begin(("python3", "-c", "import socket\n"
                                "s = socket.create_connection(('127.0.0.1', 3128))\n"
                                "s.sendall(b'GET'); s.shutdown(socket.SHUT_WR)\n"
                                "print(s.makefile().read())"), env=(PATH,))
        frame, fds, _, _ = socket.recv_fds(taker.channel, 12, 1)
        assert frame[4] == 28 and len(fds) == 1
        with socket.socket(fileno=fds[0]) as passed:
            passed.settimeout(harness.HANG_SECS)
            assert passed.recv(16) == b"GET" and passed.recv(16) == b""
            passed.sendall(b"answer")
        assert ended(sandbox.finish(stream)).stdout == b"answer\n"
