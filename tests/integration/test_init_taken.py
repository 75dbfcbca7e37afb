"""A sandbox that is made before anybody knows for whom, straight from init: the limits and variables
that it gets when it is taken, and the one script that it runs. A toy kernel is enough."""
import contextlib
import errno
import pathlib

import pytest

import harness
from engine import Engine, MIB, PATH, tlv
from faults import skip_unless

TOY = (pathlib.Path(__file__).parent.parent / "toy_kernel.py").read_bytes()
ARGV = ("python3", "-u", "-c", "exec(__import__('sys').stdin.read())")
SCRIPT = 1
MEMORY, PIDS, OUTPUT = 1 << 0, 1 << 2, 1 << 4  # limits_hit


@pytest.fixture(scope="module")
def engine():
    with Engine() as one:
        yield one
        assert one.list() == []


@pytest.fixture
def kernel(engine):
    with made(engine) as one:
        yield one


@contextlib.contextmanager
def made(engine, **options):
    with engine.create(**options) as sandbox:
        assert start_kernel(sandbox) == 0
        yield sandbox


def start_kernel(sandbox, *env):
    return sandbox.kernel(ARGV, env=(PATH, *env), stdin=TOY)


def ended(result, exit_code=0, cause="none"):
    """Of a script: nothing is lost with its kernel."""
    assert (result.exit_code, result.cause, result.state_lost) == (exit_code, cause, False), result
    return result


def script(sandbox, code, **options):
    return sandbox.run_code(code, mode=SCRIPT, **options)


def code_groups(sandbox):
    """The cgroups of the code of a sandbox."""
    return [base / sandbox.id / "code" for base in harness.cgroup_bases(sandbox.engine.instance)
            if (base / sandbox.id / "code").is_dir()]


def pids_max(sandbox):
    return {harness.read(group / "pids.max").strip() for group in code_groups(sandbox)
            if (group / "pids.max").exists()}


# ---- what it gets when it is taken ----


FILE_SIZE_SPARE = 8192  # SANDBOX_FILE_SIZE_SPARE
LIMITS = ("import resource as r\n"
          "print(*r.getrlimit(r.RLIMIT_FSIZE), *r.getrlimit(r.RLIMIT_NOFILE))")


@pytest.mark.parametrize("profile", ("strict", "container"))
def test_limits_of_the_kernel_that_lives_and_of_what_starts(engine, profile):
    """The kernel is in a user namespace of its own, with another id than init."""
    skip_unless(container=profile == "container")
    with made(engine, profile=profile) as one:
        check_limits(one)


def check_limits(kernel):
    assert kernel.limits(file_size=100_000, open_files=100) == 0
    assert kernel.run_code(LIMITS).stdout == b"100000 100000 100 100\n"
    assert kernel.sh("ulimit -Hn").stdout == b"100\n"
    assert kernel.put_file("/workspace/fits", b"x" * 100_000).errno == 0
    assert kernel.put_file("/workspace/large", b"x" * 200_000).errno != 0
    kernel.send("ping", 0)  # else the run behind it would fail with it
    assert kernel.frame()[0] == "pong"
    assert kernel.run_code("import os; os._exit(1)").state_lost
    assert kernel.run_code(LIMITS).stdout == b"100000 100000 100 100\n"


def test_limits_go_down_only(kernel):
    assert kernel.limits(open_files=1025) == errno.EINVAL
    largest = 64 * MIB + FILE_SIZE_SPARE
    assert kernel.limits(file_size=largest + 1, open_files=100) == errno.EINVAL
    assert kernel.run_code(LIMITS).stdout == b"%d %d 1024 1024\n" % (largest, largest)


def test_the_limit_of_processes_comes_back_after_a_kill(kernel):
    if not pids_max(kernel):
        pytest.skip("no control group for pids here")
    assert pids_max(kernel) == {"128"}
    assert kernel.limits(pids=40) == 0
    assert pids_max(kernel) == {"40"}
    ended(script(kernel, "1"))
    assert pids_max(kernel) == {"40"}
    assert kernel.limits(pids=200) == 0  # more than it was made with: what the engine says
    assert pids_max(kernel) == {"200"}


def test_variables_of_whoever_takes_it(kernel):
    assert start_kernel(kernel, "WHO=me") == 0
    done = ended(script(kernel, "import os; print(os.environ['WHO'], os.environ['MORE'])",
                        env=("MORE=a",)))
    assert done.stdout == b"me a\n"


def test_variables_and_a_file_in_one_go(kernel):
    put = kernel.request("put_file", tlv(1, "/workspace/data") + tlv(2, 0o644))
    taken = kernel.begin_kernel(ARGV, env=(PATH, "WHO=me"), stdin=TOY)
    run = kernel.begin_code("import os; print(os.environ['WHO'], open('data').read())", mode=SCRIPT)
    kernel.send("data", put + 1, b"content")
    kernel.send("close", put + 1)
    assert kernel.finish(put).errno == 0
    assert kernel.finish(taken).errno == 0
    assert ended(kernel.finish(run)).stdout == b"me content\n"


def test_the_text_of_a_kernel_is_in_no_command_line(kernel):
    assert b"recv_fds" in TOY
    done = kernel.run_code("print(open('/proc/self/cmdline').read())")
    assert b"stdin.read" in done.stdout and b"recv_fds" not in done.stdout


# ---- the script that it is for ----


def test_no_kernel_is_started_after_a_script(kernel):
    ended(script(kernel, "print(1)"))
    assert not kernel.list_held()[1]
    assert kernel.sh("echo alone").stdout == b"alone\n"
    assert not kernel.list_held()[1]
    ended(script(kernel, "print(1)"))  # who asks gets one
    assert start_kernel(kernel) == 0
    assert kernel.list_held()[1]


DAEMON = ("import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n"
          "  open('/workspace/on', 'w').close()\n  while True: time.sleep(100)\n os._exit(0)\n"
          "while not os.path.exists('/workspace/on'): time.sleep(0.01)\n")


@pytest.mark.parametrize("how", ("ends", "is killed", "is out of time"))
def test_a_daemon_ends_with_the_script(kernel, how):
    """Before EXIT, also when it holds no descriptor of the run."""
    rest = "" if how == "ends" else "print('on', flush=True)\ntime.sleep(100)"
    closed = "for i in range(3): os.close(i)\n  "
    stream = kernel.begin_code(DAEMON.replace("  open(", f"  {closed}open(") + rest, mode=SCRIPT,
                               timeout_ms=1000 if how == "is out of time" else 60000, grace_ms=0)
    result = None
    if how == "is killed":
        result = kernel.wait_output(stream, b"on\n")
        kernel.kill(stream)
    done = kernel.finish(stream, result)
    left = [pid for group in code_groups(kernel)
            for pid in harness.read(group / "cgroup.procs").split()]
    assert left == []
    if how == "ends":
        ended(done)
    else:
        ended(done, 137, "user" if how == "is killed" else "timeout")


def test_usage_counts_from_the_start_of_the_script(kernel):
    """What the kernel used before is nobody's."""
    kernel.run_code("import time\nend = time.process_time() + 0.5\n"
                    "while time.process_time() < end: pass")
    done = ended(script(kernel, "import time\ntime.sleep(0.2)"))
    assert done.cpu_us < 400_000 and done.wall_us >= 200_000, (done.cpu_us, done.wall_us)
    assert done.max_rss > MIB


def test_limits_of_a_script(engine):
    with made(engine, memory=96 * MIB, storage=8 * MIB, pids=20) as sandbox:
        done = ended(script(sandbox, "y = []\nwhile True: y.append(bytearray(4 << 20))"), 137, "oom")
        assert done.limits_hit & MEMORY
        # one of its processes, and the script would go on
        done = script(sandbox, "import os, time\nif os.fork() == 0:\n y = []\n"
                               " while True: y.append(bytearray(4 << 20))\nos.wait(); time.sleep(100)")
        assert ended(done, 137, "oom").limits_hit & MEMORY
        done = script(sandbox, "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
                               "open('/workspace/f', 'w').truncate(9 << 20)")
        ended(done, 153, "signal")
        done = script(sandbox, "while True: print('y' * 1000)", keep=1000, output_max=MIB)
        assert ended(done, 137, "output").limits_hit & OUTPUT
        done = script(sandbox, "import os, time\ntry:\n while True:\n"
                               "  if os.fork() == 0: time.sleep(100)\n"
                               "except OSError: print('refused')")
        assert (ended(done).stdout, done.limits_hit & PIDS) == (b"refused\n", PIDS)
        assert ended(script(sandbox, "print(1)")).limits_hit == 0


def test_signals_and_interrupts_of_a_script(kernel):
    ended(script(kernel, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), 137, "signal")
    stream = kernel.begin_code("print('on', flush=True)\nimport time; time.sleep(100)", mode=SCRIPT)
    result = kernel.wait_output(stream, b"on\n")
    kernel.interrupt(stream)
    ended(kernel.finish(stream, result), 130)
    done = script(kernel, "import time\ntry: time.sleep(100)\nfinally: print('end', flush=True)",
                  timeout_ms=200, grace_ms=20000)
    assert ended(done, 130, "timeout").stdout == b"end\n"


def test_a_script_that_becomes_another_program(kernel):
    """As a kernel does for variables that count at the start of an interpreter only."""
    done = script(kernel, "import os\nprint('first', flush=True)\n"
                          "os.execve('/bin/sh', ['sh', '-c', 'echo $WHO; exit 3'], {'WHO': 'me'})")
    assert ended(done, 3).stdout == b"first\nme\n"
