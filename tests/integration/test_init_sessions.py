"""What sessions are made of, straight from init: a kernel that keeps state, executions that outlive
their connection, terminals, and the times after which a sandbox ends. A toy kernel is enough."""
import contextlib
import errno
import pathlib
import re
import struct
import time

import pytest

import harness
from engine import Engine, MIB, NEVER, PATH, Result, tlv

TOY = (pathlib.Path(__file__).parent.parent / "toy_kernel.py").read_bytes()
ARGV = ("python3", "-u", "/workspace/.toy.py")


@pytest.fixture(scope="module")
def engine():
    with Engine() as one:
        yield one
        assert one.list() == []


@pytest.fixture
def sandbox(engine):
    with engine.create() as one:
        yield one


@pytest.fixture
def kernel(sandbox):
    start_kernel(sandbox)
    yield sandbox


def start_kernel(sandbox):
    assert sandbox.put_file("/workspace/.toy.py", TOY).errno == 0
    assert sandbox.kernel(ARGV) == 0


def ended(result, exit_code=0, cause="none", lost=False):
    assert (result.exit_code, result.cause, result.state_lost) == (exit_code, cause, lost), result
    return result


def other_channel(sandbox):
    """A second connection to the same init, closed at the end of the block."""
    return contextlib.closing(sandbox.engine.open_channel(sandbox.id))


# ---- runs ----


def test_state_is_kept_over_runs(kernel):
    first = ended(kernel.run_code("x = 41; print('one')"))
    assert (first.stdout, first.started) == (b"one\n", True)
    second = ended(kernel.run_code("import sys; print(x + 1, file=sys.stderr)"))
    assert (second.stdout, second.stderr) == (b"", b"42\n")
    assert kernel.list_held()[:2] == ({}, True)


def test_exit_codes_stdin_and_environment(kernel):
    ended(kernel.run_code("raise SystemExit(7)"), 7)
    assert b"ZeroDivisionError" in ended(kernel.run_code("1 / 0"), 1).stderr
    assert ended(kernel.run_code("import sys; print(sys.stdin.read())",
                                 stdin=b"given")).stdout == b"given\n"
    assert ended(kernel.run_code("import sys; print(len(sys.stdin.read()))")).stdout == b"0\n"
    assert ended(kernel.run_code("import os; print(os.environ['WHAT'])",
                                 env=("WHAT=a=b",))).stdout == b"a=b\n"


def test_runs_wait_for_each_other(kernel):
    streams = [kernel.begin_code(f"import time; time.sleep(0.05); print({i})") for i in range(16)]
    for i, stream in enumerate(streams):
        assert ended(kernel.finish(stream)).stdout == b"%d\n" % i


def test_too_many_runs(kernel):
    streams = [kernel.begin_code("import time; time.sleep(0.5)") for _ in range(17)]
    refused = kernel.finish(streams[16])
    assert (refused.exit_code, refused.start_error) == (126, "too many runs wait")
    for stream in streams[:16]:
        kernel.kill(stream)
        assert kernel.finish(stream).cause == "user"


def test_a_run_without_a_kernel(sandbox):
    refused = sandbox.run_code("1")
    assert (refused.exit_code, refused.start_error) == (126, "no kernel was started")


def test_a_large_code_and_large_messages(kernel):
    done = ended(kernel.run_code("x = '''" + "y" * (4 * MIB) + "'''; print(len(x))"))
    assert done.stdout == b"%d\n" % (4 * MIB)
    done = ended(kernel.run_code("print('before'); message(b'm' * (3 << 20)); print('after')",
                                 messages_max=4 * MIB))
    assert [len(one) for one in done.messages] == [3 * MIB]
    kinds = [kind for kind, _, data in done.events if data != b"after\n"]
    assert done.events[0][2] == b"before\n" and kinds[-1] == "message"
    assert set(kinds[1:-1]) == {"message_part"}


def test_messages_come_behind_what_was_written_before_them(kernel):
    done = ended(kernel.run_code("import sys\nfor i in range(200):\n print(i)\n"
                                 " print(i, file=sys.stderr)\n message(b'%d' % i)"))
    seen = {2: b"", 3: b""}
    for kind, part, data in done.events:
        if kind == "data":
            seen[part] += data
        else:
            for part in (2, 3):
                assert b"%s\n" % data in seen[part], (data, seen)
    assert done.messages == [b"%d" % i for i in range(200)] and not done.messages_dropped


def test_messages_are_bounded(kernel):
    done = ended(kernel.run_code("for i in range(10): message(b'x' * 1000)", messages_max=5000))
    assert (len(done.messages), done.messages_dropped, done.message_bytes) == (4, True, 10000)


def test_output_of_an_earlier_run_never_shows(kernel):
    """Its writer neither blocks nor dies, and ends with the sandbox only."""
    first = ended(kernel.run_code(
        "import subprocess\n"
        "p = subprocess.Popen(['sh', '-c', 'while :; do echo late; echo late >&2; done'])\n"
        "import time; time.sleep(0.1)\nprint('end')"))
    assert b"end\n" in first.stdout and b"late\n" in first.stdout
    for _ in range(5):
        later = ended(kernel.run_code("print(p.poll())"))
        assert (later.stdout, later.stderr) == (b"None\n", b"")


def test_many_background_writers_are_bounded(kernel):
    """Past the bound the oldest pipes are closed: that writer gets its SIGPIPE, the last lives."""
    code = ("import subprocess\nall = globals().setdefault('all', [])\n"
            "all.append(subprocess.Popen(['sh', '-c', 'while sleep 0.01; do echo x; done']))")
    for _ in range(20):
        ended(kernel.run_code(code))

    def polls():
        return ended(kernel.run_code("print([p.poll() for p in all])")).stdout.decode()

    harness.wait_until(lambda: "[-13" in polls() or "[141" in polls() or
                       re.match(r"\[\d", polls()), "the oldest writer ends")
    assert polls().rstrip().endswith("None]"), polls()


def test_files_are_written_before_a_run(kernel):
    """In one go, without waiting for an answer in between."""
    put = kernel.request("put_file", tlv(1, "/workspace/data") + tlv(2, 0o644))
    stream = kernel.begin_code("print(open('/workspace/data').read())")
    kernel.send("data", put + 1, b"content")
    kernel.send("close", put + 1)
    assert kernel.finish(put).errno == 0
    assert ended(kernel.finish(stream)).stdout == b"content\n"


def test_a_run_behind_a_file_that_fails(kernel):
    put = kernel.request("put_file", tlv(1, "/proc/version") + tlv(2, 0o644))
    stream = kernel.begin_code("print(1)")
    kernel.send("close", put + 1)
    assert kernel.finish(put).errno != 0
    refused = kernel.finish(stream)
    assert (refused.exit_code, refused.started) == (126, False)
    assert "file" in refused.start_error
    ended(kernel.run_code("1"))
    assert kernel.put_file("/proc/version", b"").errno != 0  # over before the run comes
    assert kernel.run_code("1").exit_code == 126
    assert kernel.put_file("/proc/version", b"").errno != 0
    kernel.send("ping", 0)
    assert kernel.frame()[0] == "pong"
    ended(kernel.run_code("1"))


def test_a_slow_reader_slows_the_code(kernel):
    for hold in (False, True):
        stream = kernel.begin_code("import os\nfor i in range(64): os.write(1, b'x' * 65536)\n"
                                   "open('/workspace/through', 'w')", keep=8 * MIB, hold=hold)
        result = Result()
        while len(result.stdout) < 256 * 1024:  # all the credit that there is
            assert not kernel.take(result, kernel.frame_of(stream), credit=False)
        assert kernel.sh("sleep 0.3; test -e /workspace/through").exit_code == 1
        assert not kernel.others
        kernel.send("credit", stream + 2, struct.pack("<I", 256 * 1024))
        assert len(ended(kernel.finish(stream, result)).stdout) == 64 * 65536
        assert kernel.sh("rm /workspace/through").exit_code == 0


def test_output_past_keep_and_past_the_cap(kernel):
    ended(kernel.run_code("x = 1"))
    done = ended(kernel.run_code("print('y' * 99999)", keep=1000))
    assert (len(done.stdout), done.stdout_bytes) == (1000, 100000)
    done = kernel.run_code("while True: print('y' * 1000)", keep=1000, output_max=MIB)
    ended(done, 137, "output", lost=True)
    ended(kernel.run_code("print(x)"), 1)  # told once; a fresh one is there
    done = kernel.run_code("while True: message(b'y' * 1000)", output_max=MIB)
    ended(done, 137, "output", lost=True)


# ---- ends of the kernel ----


def test_a_kernel_that_dies_in_a_run(kernel):
    ended(kernel.run_code("import os; x = 1"))
    done = kernel.run_code("print('last', flush=True); message(b'm'); os._exit(3)")
    assert (ended(done, 3, lost=True).stdout, done.messages) == (b"last\n", [b"m"])
    done = kernel.run_code("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    ended(done, 139, "signal", lost=True)
    assert b"NameError" in ended(kernel.run_code("x"), 1).stderr


def test_a_kernel_that_dies_between_runs(kernel):
    ended(kernel.run_code("import os, threading, time\n"
                          "threading.Timer(0.1, lambda: os._exit(5)).start()"))
    harness.wait_until(lambda: not kernel.list_held()[1], "the kernel is gone")
    assert ended(kernel.run_code("print(1)"), lost=True).stdout == b"1\n"
    assert ended(kernel.run_code("print(2)")).stdout == b"2\n"


def test_what_a_dead_kernel_left_ends_with_it(kernel):
    ended(kernel.run_code("import subprocess; subprocess.Popen(['setsid', 'sh', '-c', "
                          "'while sleep 0.02; do date +%N > /workspace/beat; done'])"))
    ended(kernel.run_code("import os; os._exit(1)"), 1, lost=True)
    assert kernel.sh("a=$(cat /workspace/beat); sleep 0.3; "
                     "test \"$a\" = \"$(cat /workspace/beat)\"").exit_code == 0


def test_a_kernel_that_closes_its_channel(kernel):
    done = kernel.run_code("import os, time; os.close(3); time.sleep(100)")
    ended(done, 137, "signal", lost=True)
    ended(kernel.run_code("1"))


def test_a_kernel_that_talks_nonsense(kernel):
    ended(kernel.run_code("say('?', b'x'); say('M'); say('R'); say('D', b''); print(1)"))
    done = kernel.run_code("import struct, time\nchannel = say.__globals__['channel']\n"
                           "channel.sendall(struct.pack('<IB', 33 << 20, 77)); time.sleep(100)")
    ended(done, 137, "output", lost=True)
    ended(kernel.run_code("while True: say('?', b'y' * 1000)", output_max=MIB), 137, "output",
          lost=True)
    done = kernel.run_code("import time; say('D', b'\\x09'); time.sleep(0.2)")  # a forged end
    ended(done, 9)
    ended(kernel.run_code("1"))


def test_out_of_memory(engine):
    with engine.create(memory=96 * MIB, storage=8 * MIB) as sandbox:
        start_kernel(sandbox)
        ended(sandbox.run_code("x = 1"))
        done = sandbox.run_code("y = []\nwhile True: y.append(bytearray(4 << 20))")
        ended(done, 137, "oom", lost=True)
        assert done.limits_hit & 1
        ended(sandbox.run_code("print(1)"))
        # a child's death counts as well, and ends the kernel that would have gone on
        done = sandbox.run_code("import os, time\nif os.fork() == 0:\n y = []\n"
                                " while True: y.append(bytearray(4 << 20))\n"
                                "os.wait(); time.sleep(100)")
        ended(done, 137, "oom", lost=True)


def test_a_kernel_that_does_not_start(sandbox):
    assert sandbox.kernel(("no-such-program",)) == errno.ENOENT
    refused = sandbox.run_code("1")
    assert (refused.exit_code, refused.started) == (127, False)
    assert "no-such-program" in refused.start_error
    assert sandbox.kernel(("/etc/passwd",)) == errno.EACCES
    assert sandbox.kernel(("false",)) == errno.ECHILD
    refused = sandbox.run_code("1")
    assert (refused.exit_code, refused.start_error) == (126, "the kernel did not start")
    assert not sandbox.list_held()[1]
    start_kernel(sandbox)
    ended(sandbox.run_code("1"))


def test_a_kernel_is_started_once(kernel):
    assert kernel.kernel(ARGV) == 0
    assert kernel.kernel(("python3", "other")) == errno.EEXIST
    with other_channel(kernel) as other:
        streams = [other.begin_kernel(ARGV) for _ in range(3)]
        assert [other.finish(stream).errno for stream in streams] == [0, 0, 0]


def test_a_kernel_that_talks_between_runs(kernel):
    """To nobody: it holds up neither the next run nor another execution."""
    ended(kernel.run_code("import threading\ndef talk():\n while True: say('?', b'z' * 1000)\n"
                          "threading.Thread(target=talk, daemon=True).start()"))
    assert kernel.sh("sleep 0.2; echo beside").stdout == b"beside\n"
    ended(kernel.run_code("import os; print(1); os._exit(0)", output_max=1 << 40), lost=True)


# ---- timeouts, interrupts, kills ----


def test_a_timeout_that_keeps_the_state(kernel):
    ended(kernel.run_code("x = 5"))
    done = kernel.run_code("import time\nwhile True: time.sleep(100)", timeout_ms=100,
                           grace_ms=20000)
    ended(done, 130, "timeout")
    assert ended(kernel.run_code("print(x)")).stdout == b"5\n"


def test_a_timeout_that_loses_it(kernel):
    ended(kernel.run_code("x = 5"))
    stubborn = ("import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                "while True: time.sleep(100)")
    ended(kernel.run_code(stubborn, timeout_ms=100, grace_ms=100), 137, "timeout", lost=True)
    assert b"NameError" in ended(kernel.run_code("print(x)"), 1).stderr
    ended(kernel.run_code("while True: pass", timeout_ms=50, grace_ms=0), 137, "timeout", lost=True)


def test_interrupt(kernel):
    stream = kernel.begin_code("x = 6; print('on')\nwhile True: pass")
    result = kernel.wait_output(stream, b"on\n")
    kernel.interrupt(stream)
    ended(kernel.finish(stream, result), 130)
    assert ended(kernel.run_code("print(x)")).stdout == b"6\n"
    kernel.interrupt(stream)  # too late: nothing is there
    assert ended(kernel.run_code("print(x)")).stdout == b"6\n"


def stop_kernel(kernel):
    """Stops it where it waits for a run; a function that lets it go on."""
    pid = int(kernel.run_code("import os; print(os.getpid())").stdout)
    ended(kernel.sh(f"kill -STOP {pid}"))
    return lambda: ended(kernel.sh(f"kill -CONT {pid}"))


def wait_started(kernel, stream):
    """Until init has given the run to the kernel."""
    result = Result()
    while not result.started:
        assert not kernel.take(result, kernel.frame_of(stream)), result
    return result


@pytest.mark.parametrize("size", (0, 4 * MIB))
@pytest.mark.parametrize("given", (True, False))
def test_an_interrupt_before_the_kernel_has_read_the_run(kernel, size, given):
    """Also while the socket is full: it waits, and is not taken for one of the run before."""
    ended(kernel.run_code("x = 6"))
    for _ in range(3):
        go_on = stop_kernel(kernel)
        stream = kernel.begin_code("#" * size + "\nwhile True: pass")
        result = wait_started(kernel, stream) if given else None
        for _ in range(3):
            kernel.interrupt(stream)
        go_on()
        ended(kernel.finish(stream, result), 130)
        assert ended(kernel.run_code("print(x)")).stdout == b"6\n"


def test_interrupts_that_nobody_minds(kernel):
    """However many there were, the kernel's socket has room for the next one."""
    stream = kernel.begin_code(
        "count = 0\nwhile True:\n try:\n  print('on', count)\n  while True: pass\n"
        " except KeyboardInterrupt:\n  count += 1\n  if count > 2000: raise")
    result = None
    for i in range(2001):
        result = kernel.wait_output(stream, b"on %d\n" % i, result)
        kernel.interrupt(stream)
    ended(kernel.finish(stream, result), 130)
    assert ended(kernel.run_code("print(count)")).stdout == b"2001\n"


def test_an_interrupt_of_a_run_that_is_killed_before_it_was_read(kernel):
    """What was to be said to a run that is gone is not said to the next."""
    stop_kernel(kernel)
    stream = kernel.begin_code("#" * (4 * MIB) + "\nwhile True: pass")
    result = wait_started(kernel, stream)
    kernel.interrupt(stream)
    kernel.kill(stream)
    ended(kernel.finish(stream, result), 137, "user", lost=True)
    ended(kernel.run_code("import time\nfor i in range(100): time.sleep(0.001)"))


def test_a_kill_of_a_run_and_of_one_that_waits(kernel):
    first = kernel.begin_code("print('on')\nwhile True: pass")
    second = kernel.begin_code("print('never')")
    third = kernel.begin_code("print('never')")
    result = kernel.wait_output(first, b"on\n")
    kernel.kill(second, "user")
    refused = kernel.finish(second)
    assert (refused.exit_code, refused.cause, refused.started) == (137, "user", False)
    kernel.interrupt(third)
    assert kernel.finish(third).cause == "user"
    kernel.kill(first, "server")
    ended(kernel.finish(first, result), 137, "server", lost=True)
    ended(kernel.run_code("1"))


def test_a_lost_connection_ends_a_run_that_is_not_held(kernel):
    with other_channel(kernel) as other:
        other.wait_output(other.begin_code("print('on')\nwhile True: pass"), b"on\n")
    assert ended(kernel.run_code("print(1)")).stdout == b"1\n"


# ---- scripts ----


def test_scripts_end_as_programs(kernel):
    ended(kernel.run_code("x = 1"))
    done = kernel.run_code("print('script'); message(b'm'); raise SystemExit(4)", mode=1)
    assert (ended(done, 4).stdout, done.messages) == (b"script\n", [b"m"])
    ended(kernel.run_code("import os; os.close(3); print(1)", mode=1))
    ended(kernel.run_code("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", mode=1), 143,
          "signal")
    done = kernel.run_code("import subprocess; subprocess.Popen(['sleep', '1000'])", mode=1)
    ended(done)  # what it leaves behind ends with it
    assert b"NameError" in ended(kernel.run_code("x"), 1).stderr


def test_many_short_runs_on_many_connections(kernel):
    """No end of a run waits for something else to happen."""
    with other_channel(kernel) as other:
        for i in range(150):
            streams = [(one, one.begin_code(code, mode=mode, hold=hold, execution_id=f"{i}{name}"))
                       for one, name, code, mode, hold in (
                           (kernel, "a", "print(1)", 0, False), (other, "b", "message(b'x')", 0, True),
                           (kernel, "c", "1", i % 10 == 0, False))]
            for one, stream in streams:
                ended(one.finish(stream))
            assert other.forget(f"{i}b") == 0


@pytest.mark.parametrize("point", ("init.run", "init.done"))
def test_init_dies_around_a_run(point):
    """As if killed: the connection ends, and nothing of the sandbox is left."""
    with Engine({"BERTH_TESTING": "1", "BERTH_FAULT": point}) as engine:
        with engine.create() as sandbox:
            start_kernel(sandbox)
            with contextlib.suppress(BrokenPipeError):
                sandbox.begin_code("print(1)")
            assert sandbox.closed()


# ---- executions beside a kernel ----


def test_an_execution_beside_a_kernel(kernel):
    stream = kernel.begin_code("import time, os; x = os.getpid(); print('on'); time.sleep(1)")
    result = kernel.wait_output(stream, b"on\n")
    assert kernel.sh("echo beside; sleep 1000 & exit 3").exit_code == 3
    assert kernel.sh("sleep 1000", timeout_ms=100).cause == "timeout"
    ended(kernel.finish(stream, result))
    assert b"lives" in kernel.sh(f"kill -0 {int(ended(kernel.run_code('print(x)')).stdout)} "
                                 "&& echo lives").stdout
    bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
    assert kernel.run("python3", "-c", bomb, timeout_ms=500).cause == "timeout"
    assert kernel.sh("echo still here").stdout == b"still here\n"
    kernel.run_code("1")  # the bomb may have taken the kernel with it, and then says so
    ended(kernel.run_code("print(2)"))


def test_out_of_memory_beside_a_kernel_ends_both(engine):
    with engine.create(memory=96 * MIB, storage=8 * MIB) as sandbox:
        start_kernel(sandbox)
        stream = sandbox.begin_code("import time; print('on'); time.sleep(100)")
        result = sandbox.wait_output(stream, b"on\n")
        done = sandbox.run("python3", "-c", "y = []\nwhile True: y.append(bytearray(4 << 20))")
        assert (done.exit_code, done.cause) == (137, "oom")
        ended(sandbox.finish(stream, result), 137, "oom", lost=True)


# ---- held executions ----

TICKS = "import time\nfor i in range(30):\n print(i)\n message(b'%d' % i)\n time.sleep(0.01)"


def test_attach_gets_the_same_pieces(kernel):
    """Broken off at any point, then taken up behind what came: nothing twice, nothing missing."""
    with other_channel(kernel) as first:
        stream = first.begin_code(TICKS, execution_id="ticks", hold=True)
        begun = Result()
        while len(begun.events) < 7:
            assert not first.take(begun, first.frame_of(stream))
    rest = ended(kernel.attach("ticks", 7))
    assert rest.started
    whole = ended(kernel.attach("ticks"))
    assert begun.events + rest.events == whole.events
    assert whole.stdout == b"".join(b"%d\n" % i for i in range(30))
    assert whole.messages == [b"%d" % i for i in range(30)]
    for after in range(len(whole.events) + 1):
        assert ended(kernel.attach("ticks", after)).events == whole.events[after:]
    assert kernel.attach("ticks", len(whole.events) + 1).errno == errno.EINVAL
    assert kernel.list_held()[0] == {"ticks": (True, len(whole.events))}
    assert kernel.forget("ticks") == 0
    assert kernel.attach("ticks").errno == errno.ESRCH
    assert kernel.forget("ticks") == errno.ESRCH
    assert kernel.list_held()[0] == {}


def test_a_later_connection_takes_over(kernel):
    with other_channel(kernel) as first, other_channel(kernel) as second:
        stream = first.begin_code("import sys, time; print('on'); print('end', sys.stdin.read())\n"
                                  "while True: time.sleep(100)", execution_id="x", hold=True,
                                  stdin=None)
        first.wait_output(stream, b"on\n")
        assert kernel.forget("x") == errno.EBUSY
        attached = second.begin_attach("x")
        assert second.wait_output(attached, b"on\n").started
        assert first.finish(stream).errno == errno.ECANCELED
        result = second.wait_output(attached, b"end \n")  # its input was the first one's
        second.interrupt(attached)
        ended(second.finish(attached, result), 130)


def test_held_output_without_a_reader_is_bounded(kernel):
    with other_channel(kernel) as first:
        first.begin_code("import os\nfor i in range(64): os.write(1, b'x' * 65536)",
                         execution_id="much", hold=True, keep=MIB)
    harness.wait_until(lambda: "much" in kernel.list_held()[0], "it has begun")
    done = ended(kernel.attach("much"))
    assert (len(done.stdout), done.stdout_bytes) == (MIB, 64 * 65536)
    assert max(len(data) for _, _, data in done.events) <= 32768


def test_all_logs_together_are_bounded(kernel):
    for i in range(2):
        with other_channel(kernel) as first:
            first.begin_code("import os\nfor i in range(512): os.write(1, b'x' * 65536)",
                             execution_id=f"much{i}", hold=True, keep=100 * MIB)
        harness.wait_until(lambda i=i: kernel.list_held()[0].get(f"much{i}", (False,))[0],
                           "it ends")
    second = kernel.attach("much1")
    assert 31 * MIB < len(second.stdout) < 32 * MIB == second.stdout_bytes, second
    assert second.limits_hit & 1 << 4  # output
    refused = kernel.run_code("1", execution_id="one more", hold=True)
    assert (refused.exit_code, refused.started) == (126, False)
    assert kernel.forget("much1") == 0
    ended(kernel.run_code("1", execution_id="one more", hold=True))


def test_how_many_are_held(kernel):
    for i in range(16):
        ended(kernel.run_code("print(1)", execution_id=f"h{i}", hold=True))
    refused = kernel.run_code("print(1)", execution_id="h16", hold=True)
    assert "forget some" in refused.start_error
    assert kernel.forget("h3") == 0
    again = kernel.run_code("print(1)", execution_id="h4", hold=True)
    assert "already" in again.start_error
    ended(kernel.run_code("print(1)", execution_id="h16", hold=True))
    assert len(kernel.list_held()[0]) == 16


def test_a_held_execution_of_a_program(sandbox):
    with other_channel(sandbox) as first:
        stream = first.begin(("/bin/sh", "-c", "echo a; sleep 0.2; echo b; sleep 0.2; echo c; "
                              "exit 4"), env=(PATH,), execution_id="p", hold=True)
        first.wait_output(stream, b"a\n")
    done = ended(sandbox.attach("p"), 4)
    assert done.stdout == b"a\nb\nc\n"


# ---- terminals ----


def test_a_terminal(kernel):
    stream = kernel.begin(("/bin/sh",), env=(PATH, "PS1=> "), terminal=(80, 24), cwd="/workspace")
    result = kernel.wait_output(stream, b"> ")
    kernel.send("data", stream + 1, b"stty size; tty; id -u\n")
    result = kernel.wait_output(stream, b"\r\n1000\r\n", result)
    assert b"24 80\r\n/dev/pts/0\r\n" in result.stdout, result
    kernel.resize(stream, 132, 50)
    kernel.send("data", stream + 1, b"stty size\n")
    result = kernel.wait_output(stream, b"50 132\r\n", result)
    kernel.send("data", stream + 1, b"exec 3</dev/pts/0 && (echo 'may'' open'; exec sleep 1000)\n")
    result = kernel.wait_output(stream, b"may open", result)
    kernel.interrupt(stream)
    kernel.send("data", stream + 1, b"echo st''ill\n")
    result = kernel.wait_output(stream, b"still", result)
    ended(kernel.run_code("x = 1"))  # a kernel runs beside it
    kernel.send("data", stream + 1, b"sleep 1000 & exit 9\n")
    ended(kernel.finish(stream, result), 9)
    assert ended(kernel.run_code("print(x)")).stdout == b"1\n"


def test_a_terminal_hangs_up(sandbox):
    with other_channel(sandbox) as other:
        stream = other.begin(("/bin/sh", "-c", "trap 'echo up > /workspace/hung; exit' HUP; "
                              "echo on; while :; do sleep 0.05; done"), env=(PATH,),
                             terminal=(80, 24))
        other.wait_output(stream, b"on")
    harness.wait_until(lambda: sandbox.sh("test -s /workspace/hung").exit_code == 0, "SIGHUP")


def test_a_held_terminal(sandbox):
    with other_channel(sandbox) as first:
        stream = first.begin(("/bin/sh",), env=(PATH, "PS1=> "), execution_id="t", hold=True,
                             terminal=(80, 24))
        first.wait_output(stream, b"> ")
    attached = sandbox.begin_attach("t")
    result = sandbox.wait_output(attached, b"> ")
    sandbox.send("data", attached + 1, b"echo her''e\n")
    result = sandbox.wait_output(attached, b"here", result)
    sandbox.send("close", attached + 1)  # as Control-D
    ended(sandbox.finish(attached, result))


def test_terminals_are_bounded_by_executions(sandbox):
    streams = [sandbox.begin(("/bin/cat",), terminal=(80, 24)) for _ in range(9)]
    assert "too many" in sandbox.finish(streams[8]).start_error
    for stream in streams[:8]:
        sandbox.kill(stream)
        assert sandbox.finish(stream).cause == "user"


# ---- timers ----


def test_timers_are_told(sandbox):
    assert sandbox.list_held()[2:] == (NEVER, NEVER)
    assert sandbox.timers(lifetime_ms=600000, idle_ms=300000) == 0
    _, _, lifetime_ms, idle_ms = sandbox.list_held()
    assert 0 < lifetime_ms <= 600000 and 0 < idle_ms <= 300000
    assert sandbox.timers(idle_ms=NEVER) == 0
    assert sandbox.list_held()[3] == NEVER and sandbox.list_held()[2] != NEVER


def test_a_lifetime_ends_whatever_runs(kernel):
    kernel.begin_code("while True: pass")
    assert kernel.timers(lifetime_ms=300) == 0
    assert kernel.closed()


def test_idleness_is_when_nothing_runs(kernel):
    stream = kernel.begin_code("import time; print('on'); time.sleep(1); print('off')")
    kernel.wait_output(stream, b"on\n")
    assert kernel.timers(idle_ms=300) == 0
    kernel.wait_output(stream, b"off\n")
    assert kernel.closed()


def test_an_orphan_ends_after_the_new_time(engine):
    with engine.create() as sandbox:
        assert sandbox.timers(orphan_ms=200) == 0
        sandbox.channel.close()
        harness.wait_until(lambda: not engine.init_pid(sandbox.id), "init goes")


def test_an_acknowledged_renewal_is_never_lost(engine):
    """Renewals race with the end 200 times: whoever got an answer finds the sandbox alive."""
    held = lost = 0
    for i in range(200):
        with engine.create(storage=8 * MIB, memory=64 * MIB) as sandbox:
            assert sandbox.timers(**{("lifetime_ms", "idle_ms")[i % 2]: 20}) == 0
            time.sleep(0.017 + 0.0001 * (i % 60))
            try:
                acknowledged = sandbox.timers(lifetime_ms=600000, idle_ms=600000) == 0
            except OSError:
                lost += 1
                continue
            assert acknowledged
            time.sleep(0.01)
            sandbox.send("ping", 0)
            assert sandbox.frame()[0] == "pong"
            held += 1
    print(f"{held} renewals held, {lost} came too late")
    assert held + lost == 200
