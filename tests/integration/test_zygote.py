"""Kernels that are forked from a warm one: that they are what init would have started, to the last
thing that /proc tells of a process, and that nothing depends on the zygote or is left of it."""
import configparser
import json
import os
import pathlib
import re
import signal
import socket
import struct
import time

import pytest

from engine import CAP_ZYGOTE, Engine, ID, MIB, tlv
from harness import HANG_SECS, REPO, cgroup_bases, read, wait_until

TEXT = b"".join((REPO / "kernels" / name).read_bytes() for name in re.findall(
    r"(python/\w+\.py)", (REPO / "kernels/meson.build").read_text()))
ENV = ("PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/sandbox", "USER=sandbox", "LANG=C.UTF-8",
       "TMPDIR=/tmp", "PYTHONUNBUFFERED=1")
ALL_ENDS = dict(memory=256 * MIB, storage=64 * MIB, pids=64, open_files=200)


def kernel_argv():
    found = configparser.ConfigParser(interpolation=None, comment_prefixes=(";",))
    found.read(REPO / "languages" / "python.ini")
    return found["language"]["kernel_run"].split()


ARGV = kernel_argv()


@pytest.fixture(scope="module")
def engine():
    with Engine() as one:
        warm(one)
        yield one
        assert one.list() == []


def warm(engine):
    """Until a zygote is ready; the first sandbox that wants one does without."""
    engine.create(kernel="python").destroy()
    wait_until(lambda: engine.probe()["capabilities"] & CAP_ZYGOTE, lambda: engine.log())


def start_kernel(box):
    assert box.kernel(ARGV, env=ENV, stdin=TEXT) == 0
    return box


def forked(engine, **options):
    """A sandbox with a kernel from the zygote, by its number ready before anything is asked."""
    box = engine.create(kernel="python", **options)
    kernels = wait_until(lambda: kernel_pids(box), "a kernel is forked")
    assert len(kernels) == 1, kernels
    start_kernel(box)
    assert kernel_pids(box) == kernels, "init started another one"
    return box


def started(engine, **options):
    return start_kernel(engine.create(**options))


def kernel_pids(box):
    """Numbers on the host of what is in the code group."""
    found = set()
    for base in cgroup_bases(box.engine.instance):
        found |= {int(pid) for pid in read(base / box.id / "code" / "cgroup.procs").split()}
    return found


def zygote_pids(engine):
    found = set()
    for base in cgroup_bases(engine.instance):
        found |= {int(pid) for pid in read(base / "zygote.python" / "cgroup.procs").split()}
    return found


# ---- the same ----

STATUS = ("Umask", "Tgid", "TracerPid", "Uid", "Gid", "Groups", "NStgid", "Threads",
          "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd",
          "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Speculation_Store_Bypass",
          "SpeculationIndirectBranch", "Cpus_allowed", "Mems_allowed", "CoreDumping", "THP_enabled",
          "FDSize", "SigQ")
NUMBERS = {"Uid", "Gid"}  # counted from the range of the sandbox
OWN = {"Tgid", "NStgid", "FDSize"}  # numbers of processes; how far the table of files once grew


def files_of(proc):
    """{number: (what it leads to, its flags)} of what a process has open, and does not close meanwhile."""
    found = {}
    for link in (proc / "fd").iterdir():
        try:
            found[int(link.name)] = (os.readlink(link).split(":")[0],
                                     read(proc / "fdinfo" / link.name).split("flags:")[1].split()[0])
        except FileNotFoundError:
            pass
    return found


def outside(box):
    """What the host sees of a kernel, in figures that don't depend on which sandbox it is in."""
    pid, = kernel_pids(box)
    init = box.engine.init_pid(box.id)
    proc = pathlib.Path(f"/proc/{pid}")
    base = int(read(f"/proc/{init}/status").split("Uid:")[1].split()[0])
    status = dict(line.split(":", 1) for line in read(proc / "status").splitlines())
    seen = {name: status[name].split() for name in STATUS if name not in OWN}
    for name in NUMBERS:
        seen[name] = [int(number) - base for number in seen[name]]
    stat = read(proc / "stat").rsplit(")", 1)[1].split()
    seen["parent is init"] = int(status["PPid"]) == init
    seen["leads its session and group"] = (int(stat[2]), int(stat[3])) == (pid, pid)
    seen["terminal, nice, priority, policy, signal"] = (stat[4], stat[16], stat[15], stat[38],
                                                        stat[35])
    for name in ("oom_score_adj", "limits", "loginuid", "sessionid", "personality",
                 "coredump_filter", "timerslack_ns", "autogroup", "comm", "setgroups"):
        seen[name] = read(proc / name)
    seen["autogroup"] = seen["autogroup"].rpartition("nice")[2]
    for name in ("uid_map", "gid_map"):
        seen[name] = [int(number) - base if i == 1 else int(number)
                      for i, number in enumerate(read(proc / name).split())]
    seen["owner of its files"] = [proc.stat().st_uid - base, (proc / "mem").stat().st_uid - base]
    spaces = {link.name: os.readlink(link) for link in (proc / "ns").iterdir()}
    inits = {link.name: os.readlink(link)
             for link in pathlib.Path(f"/proc/{init}/ns").iterdir()}
    ours = {link.name: os.readlink(link) for link in pathlib.Path("/proc/self/ns").iterdir()}
    assert len(spaces) >= 8
    seen["namespaces"] = {name: (spaces[name] == inits[name], spaces[name] == ours[name])
                          for name in spaces}
    seen["cgroups"] = [line.split(":", 1)[1].replace(box.id, "ID")
                       for line in read(proc / "cgroup").splitlines()]
    seen["files"] = files_of(proc)
    seen["folders"] = [os.readlink(proc / name) for name in ("cwd", "root")]
    root = os.stat(proc / "root")
    seen["its root is init's"] = (root.st_dev, root.st_ino) == (
        os.stat(f"/proc/{init}/root").st_dev, os.stat(f"/proc/{init}/root").st_ino)
    seen["groups"] = status["Groups"]
    return seen


INSIDE = """
import ctypes, gc, json, locale, os, resource, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def status(name):
    return open('/proc/self/status').read().split(name + ':')[1].split('\\n')[0].split()

def attempt(function, *arguments):
    try:
        return repr(function(*arguments))
    except Exception as problem:
        return f'{type(problem).__name__} {getattr(problem, "errno", "")}'

def lower_score(value):
    with open('/proc/self/oom_score_adj', 'w') as file:
        file.write(str(value))

inits = int(open('/proc/1/oom_score_adj').read())
print(json.dumps({
    'environ': dict(os.environ), 'c environ': attempt(lambda: libc.getenv(b'HOME') != 0),
    'argv': sys.argv, 'path': sys.path, 'flags': list(sys.flags), 'executable': sys.executable,
    'prefixes': [sys.prefix, sys.exec_prefix, sys.base_prefix], 'version': sys.version,
    'encodings': [sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.stdout.encoding,
                  sys.stdout.errors, sys.stderr.errors, locale.getpreferredencoding()],
    'recursion': sys.getrecursionlimit(), 'gc': [gc.isenabled(), gc.get_threshold()],
    'switch interval': sys.getswitchinterval(),
    'handlers': {number: repr(signal.getsignal(number)).split(' at ')[0]
                 for number in range(1, signal.NSIG)},
    'threads': [thread.name for thread in threading.enumerate()],
    'main thread': threading.main_thread().native_id == os.getpid(),
    'ids': [os.getresuid(), os.getresgid(), os.getgroups()],
    'process': [os.getppid(), os.getpid() == os.getsid(0) == os.getpgid(0)],
    'umask': status('Umask'), 'folder': os.getcwd(),
    'dumpable': libc.prctl(3, 0, 0, 0, 0), 'keepcaps': libc.prctl(7, 0, 0, 0, 0),
    'securebits': libc.prctl(27, 0, 0, 0, 0), 'death signal': attempt(
        lambda: (lambda v: (libc.prctl(2, ctypes.byref(v), 0, 0, 0), v.value))(ctypes.c_int(-1))),
    'subreaper': attempt(
        lambda: (lambda v: (libc.prctl(37, ctypes.byref(v), 0, 0, 0), v.value))(ctypes.c_int(-1))),
    'timer slack': libc.prctl(30, 0, 0, 0, 0), 'thp': libc.prctl(42, 0, 0, 0, 0),
    'limits': {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource)
               if name.startswith('RLIMIT_')},
    'score': [open('/proc/self/oom_score_adj').read(), attempt(lower_score, inits - 1),
              attempt(lower_score, inits), attempt(lower_score, 500)],
    'cgroup': open('/proc/self/cgroup').read(), 'mounts': open('/proc/self/mountinfo').read()
        .count('\\n'),
    'maps': [open('/proc/self/uid_map').read().split(), open('/proc/self/gid_map').read().split()],
    'refused': [attempt(os.setuid, 0), attempt(os.setgroups, [0]), attempt(os.chroot, '/'),
                libc.unshare(0x10000000), libc.setns(0, 0), libc.keyctl(1, 0) if hasattr(
                    libc, 'keyctl') else libc.syscall(250, 1, 0), libc.mount(0, b'/', 0, 0, 0),
                attempt(os.kill, 1, 9), attempt(open, '/proc/1/environ'),
                attempt(open, '/proc/1/mem', 'rb')],
    'main': sorted(name for name in globals() if name.startswith('__')),
    'module': sys.modules['__main__'].__name__,
    'host': os.uname().nodename,
    'interfaces': open('/proc/net/dev').read().count(':'),
}))
"""


def inside(box):
    done = box.run_code(INSIDE)
    assert done.exit_code == 0, done
    return json.loads(done.stdout)


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = {name: (first[name], second[name]) for name in first if first[name] != second[name]}
    assert not different, different


def assert_same_outside(one, other):
    """A kernel lets go of the pipes of its run after it has said that it is done."""
    wait_until(lambda: outside(one)["files"] == outside(other)["files"], "the same files are open")
    assert_same(outside(one), outside(other))


@pytest.mark.parametrize("options", [{}, ALL_ENDS, {"disk": True}], ids=["plain", "limits", "disk"])
def test_it_is_what_init_would_have_started(engine, options):
    if options.get("disk") and not engine.probe()["disk"]:
        pytest.skip("this host has no disks for sandboxes")
    with forked(engine, **options) as one, started(engine, **options) as other:
        before = outside(one), outside(other)
        assert_same(*before)
        assert_same(inside(one), inside(other))
        assert_same_outside(one, other)


def test_limits_when_it_is_taken(engine):
    with forked(engine) as one, started(engine) as other:
        for box in (one, other):
            engine.limit(box.id, memory=128 * MIB, storage=8 * MIB, pids=20)
            assert box.limits(pids=20, file_size=8 * MIB, open_files=150) == 0
        seen = inside(one)
        assert_same(seen, inside(other))
        assert_same_outside(one, other)
        assert (seen["limits"]["RLIMIT_FSIZE"], seen["limits"]["RLIMIT_NOFILE"]) == (
            [8 * MIB] * 2, [150] * 2)
        for box in (one, other):
            done = box.run_code("x = bytearray(200 << 20)")
            assert (done.cause, done.exit_code) == ("oom", 137), done


def test_which_modules_are_there(engine):
    """Those of the fork itself come on top; nothing that has a state of a caller's."""
    code = "import sys; print(sorted(set(sys.modules)))"
    with forked(engine) as one, started(engine) as other:
        more = set(eval(one.run_code(code).stdout)) ^ set(eval(other.run_code(code).stdout))
    assert more <= {"ctypes", "_ctypes", "_struct", "struct", "ctypes._endian",
                    "gc"}, more


def test_frames_of_the_fork_are_not_shown(engine):
    code = ("import traceback, sys\ntraceback.print_stack(file=sys.stdout)\ntry: 1 / 0\n"
            "except Exception: traceback.print_exc(file=sys.stdout)\n1 / 0")
    with forked(engine) as one, started(engine) as other:
        first, second = one.run_code(code), other.run_code(code)
    assert (first.stdout, first.stderr, first.messages) == (
        second.stdout, second.stderr, second.messages)


def test_a_script_and_its_end(engine):
    for code, exit_code in (("import sys; print(sys.argv, __file__); sys.exit(5)", 5),
                            ("1 / 0", 1), ("import os; os.kill(os.getpid(), 9)", 137)):
        with forked(engine) as one, started(engine) as other:
            done = [box.run_code(code, mode=1, file="/workspace/main.py") for box in (one, other)]
        assert [one.exit_code for one in done] == [exit_code] * 2, done
        assert done[0].stdout == done[1].stdout and done[0].stderr == done[1].stderr


def test_variables_that_act_at_the_start(engine):
    code = "import sys, time; print(sys.flags.hash_randomization, hash('a'), time.tzname[0])"
    with forked(engine) as one:
        done = one.run_code(code, mode=1, file="/workspace/main.py",
                            env=("PYTHONHASHSEED=0", "TZ=XYZ3"))
    assert done.exit_code == 0 and done.stdout.split()[::2] == [b"0", b"XYZ"], done


# ---- each its own ----


def test_chance_is_not_shared(engine):
    code = ("import os, random, secrets, tempfile, uuid\n"
            "print(random.random(), random.SystemRandom().random(), secrets.token_hex(8),"
            " uuid.uuid1().hex, uuid.uuid4(), tempfile.mktemp(), os.urandom(8).hex(),"
            " random.getrandbits(64))\n")
    with forked(engine) as one, forked(engine) as other:
        first, second = (box.run_code(code).stdout.split() for box in (one, other))
    assert len(first) == 8 and not set(first) & set(second), (first, second)


def test_what_forks_of_one_zygote_do_share(engine):
    """Said in SECURITY.md: what the interpreter drew when it started."""
    code = "print(hash('x'), id(type))"
    with forked(engine) as one, forked(engine) as other:
        assert one.run_code(code).stdout == other.run_code(code).stdout


def test_state_is_not_shared(engine):
    with forked(engine) as one, forked(engine) as other:
        one.run_code("import sys, json, builtins; builtins.mark = sys.mark = json.mark = 1;"
                     "open('/workspace/mark', 'w').close()")
        done = other.run_code("import sys, json, builtins, os; print([hasattr(m, 'mark') for m in "
                              "(sys, json, builtins)], os.listdir('/workspace'))")
        assert done.stdout == b"[False, False, False] []\n", done


# ---- it is never needed ----


def test_without_one_init_starts_the_kernel():
    with Engine(options=("--zygote-forks", "0")) as engine:
        with engine.create(kernel="python") as box:
            assert kernel_pids(box) == set()
            start_kernel(box)
            assert box.run_code("print(1)").stdout == b"1\n"
        assert zygote_pids(engine) == set()
        assert not engine.probe()["capabilities"] & CAP_ZYGOTE


@pytest.mark.parametrize("options", [{"profile": "container"}, {"kernel": "ruby"}, {"kernel": ""}])
def test_what_it_is_not_for(engine, options):
    if options.get("profile") and not engine.probe()["capabilities"] & 1 << 11:
        pytest.skip("no profile container here")
    with engine.create(**{"kernel": "python", **options}) as box:
        assert box.run("/bin/true").exit_code == 0
        assert kernel_pids(box) == set()


def test_a_zygote_that_dies(engine):
    with forked(engine) as box:
        before = zygote_pids(engine)
        assert len(before) == 1
        os.kill(min(before), signal.SIGKILL)
        with engine.create(kernel="python") as at_once:  # whatever it gets, it works
            assert start_kernel(at_once).run_code("print(2)").stdout == b"2\n"
        wait_until(lambda: zygote_pids(engine) - before, lambda: engine.log())
        warm(engine)
        assert box.run_code("print(3)").stdout == b"3\n"
        with forked(engine) as again:
            assert again.run_code("print(4)").stdout == b"4\n"


def test_a_zygote_that_does_not_answer(engine):
    """A creation waits a second and goes on; later the zygote is replaced."""
    stuck, = zygote_pids(engine)
    os.kill(stuck, signal.SIGSTOP)
    with engine.create(kernel="python") as box:
        assert kernel_pids(box) == set()
        assert start_kernel(box).run_code("print(5)").stdout == b"5\n"
    wait_until(lambda: stuck not in zygote_pids(engine), lambda: engine.log())
    warm(engine)
    forked(engine).destroy()


def next_pid(box):
    return int(box.run("/bin/sh", "-c", "echo $$").stdout)


def test_a_copy_that_comes_late_stays_out(engine):
    """What a zygote was asked for when it was slow comes to nothing once the sandbox may be in use:
    no number is taken in its pid namespace."""
    slow, = zygote_pids(engine)
    os.kill(slow, signal.SIGSTOP)
    with engine.create(kernel="python") as box:
        before = [next_pid(box), next_pid(box)]
        os.kill(slow, signal.SIGCONT)
        with forked(engine):  # one after the other: the late one is done
            assert zygote_pids(engine) == {slow}
            assert next_pid(box) - before[1] == before[1] - before[0]
            wait_until(lambda: kernel_pids(box) == set(), "nothing is in its group")
            assert start_kernel(box).run_code("print(6)").stdout == b"6\n"


def test_it_is_replaced_after_so_many_forks():
    with Engine(options=("--zygote-forks", "2")) as engine:
        warm(engine)
        seen = set(zygote_pids(engine))
        hashes = set()
        end = time.monotonic() + HANG_SECS
        while len(seen) < 3 and time.monotonic() < end:
            with engine.create(kernel="python") as box:
                hashes.add(start_kernel(box).run_code("print(hash('x'))").stdout)
            seen |= zygote_pids(engine)
        assert len(seen) >= 3 and len(hashes) >= 2
        wait_until(lambda: len(zygote_pids(engine)) == 1, "the old ones are gone")


def test_it_goes_with_the_engine():
    engine = Engine().start()
    warm(engine)
    box = forked(engine)
    zygote, = zygote_pids(engine)
    engine.kill()
    wait_until(lambda: not pathlib.Path(f"/proc/{zygote}").exists(), "it dies with the engine")
    engine.start()
    again = engine.open_channel(box.id)
    assert again.run_code("print(6)").stdout == b"6\n"
    warm(engine)
    with forked(engine):
        new = zygote_pids(engine)
        assert new and zygote not in new
    again.close()
    engine.destroy(box.id)
    assert engine.list() == []
    instance = engine.instance
    engine.remove()
    assert cgroup_bases(instance) == []


def test_what_a_killed_engine_left_goes_with_the_next():
    engine = Engine().start()
    warm(engine)
    engine.kill()
    engine.start()
    instance = engine.instance
    assert any((base / "zygote.python").is_dir() for base in cgroup_bases(instance))
    engine.remove()
    assert cgroup_bases(instance) == []


def test_many_at_once(engine):
    ids = [f"many-{i}" for i in range(24)]
    asked = {engine.send("create", engine.spec(name, kernel="python")) for name in ids}
    while asked:
        data, fds, _, _ = socket.recv_fds(engine.client, 1 << 16, 4)
        asked.discard(struct.unpack_from("<IIQ", data)[2])
        assert len(fds) == 1, data
        os.close(fds[0])
    boxes = [engine.open_channel(name) for name in ids]
    for number, box in enumerate(boxes):
        assert start_kernel(box).run_code(f"print({number})").stdout == b"%d\n" % number
        box.destroy()


def bound_to(box_or_engine):
    """Every process on the host whose groups bear the name of the instance."""
    found = set()
    for base in cgroup_bases(box_or_engine.instance):
        for procs in base.rglob("cgroup.procs"):
            found |= {int(pid) for pid in read(procs).split()}
    return found


def test_ends_in_the_midst_of_forks(engine):
    """A sandbox is ended at any moment of its creation; nothing stays, and the zygote goes on."""
    asked = set()
    for i in range(60):
        name = f"short-{i}"
        asked.add(engine.send("create", engine.spec(name, kernel="python")))
        if i % 3:
            time.sleep(0.001 * (i % 12))
        asked.add(engine.send("destroy", tlv(ID, name)))
    while asked:
        data, fds, _, _ = socket.recv_fds(engine.client, 1 << 16, 4)
        asked.discard(struct.unpack_from("<IIQ", data)[2])
        for fd in fds:
            os.close(fd)
    assert engine.list() == []
    wait_until(lambda: bound_to(engine) == zygote_pids(engine) and len(bound_to(engine)) == 1,
               lambda: f"{bound_to(engine)} {engine.log()}")
    forked(engine).destroy()


def test_an_engine_that_is_killed_in_the_midst_of_forks():
    with Engine() as engine:
        for _ in range(3):
            warm(engine)
            for i in range(8):
                engine.send("create", engine.spec(f"torn-{i}", kernel="python"))
            time.sleep(0.02)
            engine.kill()
            engine.start()
            for sandbox_id in engine.list():
                if engine.settled(sandbox_id):
                    engine.destroy(sandbox_id)
            wait_until(lambda: not bound_to(engine), lambda: f"{bound_to(engine)} {engine.log()}")


# ---- the zygote itself ----


def test_what_the_zygote_is(engine):
    pid, = zygote_pids(engine)
    proc = pathlib.Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in read(proc / "status").splitlines())
    assert {int(number) for number in status["Uid"].split() + status["Gid"].split()} == {
        int(status["Uid"].split()[0])} and int(status["Uid"].split()[0]) >= 0x70000000
    assert status["Groups"].split() == []
    caps = {name: int(status[name], 16) for name in status if name.startswith("Cap")}
    assert caps == {"CapInh": 0, "CapPrm": 0xc0, "CapEff": 0xc0, "CapBnd": 0xc0, "CapAmb": 0}
    assert status["NoNewPrivs"].split() + status["Seccomp"].split() == ["1", "2"]
    ours = {name: os.readlink(f"/proc/{engine.process.pid}/ns/{name}")
            for name in os.listdir("/proc/self/ns")}
    spaces = {name: os.readlink(proc / "ns" / name) for name in ours}
    same = {name for name in ours if ours[name] == spaces[name]}
    assert same == {"user", "pid", "pid_for_children", "cgroup", "time", "time_for_children"}
    mounts = [line.split() for line in read(proc / "mountinfo").splitlines()]
    assert all("ro" in mount[5].split(",") for mount in mounts), mounts
    places = {mount[4] for mount in mounts}
    assert not [place for place in places if place.startswith(("/proc", "/sys", "/run", "/home"))]
    assert {os.readlink(link).split(":")[0] for link in (proc / "fd").iterdir()} == {
        "/dev/null", "socket"}
    names = set(read(proc / "net" / "dev").replace(":", " ").split()) & {"lo", "eth0"}
    assert names == {"lo"}


def test_it_is_no_sandbox(engine):
    assert engine.list() == []
    with pytest.raises(Exception):
        engine.inspect("zygote.python")
    assert any((base / "zygote.python").is_dir() for base in cgroup_bases(engine.instance))
