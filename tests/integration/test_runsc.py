"""Sandboxes that gVisor runs (the native engine's runtime "runsc"), without a server: the same
requests over the same protocols, through the standard streams of their init. What the runtime lacks
is refused in words."""
import ast
import errno
import os
import pathlib
import shutil
import signal

import pytest

import harness
import internet
from engine import CAP_CONTAINER, CAP_DISK, CAP_LIMIT, CAP_ZYGOTE, ID, MIB, Engine, EngineError, tlv
from faults import CREATION, END, Fault, assert_nothing_left
from harness import wait_until
from test_init_sessions import ended, start_kernel

CAP_PIDS, CAP_STORAGE, CAP_GPU, CAP_FULL = 1 << 2, 1 << 3, 1 << 16, 1 << 17
LIMIT_PIDS = 1 << 2
RUNSC = {"runtime": "runsc"}


@pytest.fixture(scope="module")
def engine():
    with Engine() as one:
        if "runsc" not in one.runtimes():
            pytest.skip("the engine found no runsc here")
        yield one
        one.stop()
        assert_nothing_left(one.state)


@pytest.fixture
def box(engine):
    with engine.create(**RUNSC) as one:
        yield one


def processes(engine, sandbox_id):
    """{process id: name} of what runs of a sandbox on the host. gVisor's own children come and go."""
    found = {}
    for base in harness.cgroup_bases(engine.instance):
        for group in ("init", "code"):
            for pid in harness.read(base / sandbox_id / group / "cgroup.procs").split():
                if name := harness.read(f"/proc/{pid}/cmdline").split("\0")[0]:
                    found[int(pid)] = name
    return found


def process(engine, sandbox_id, name):
    return next(pid for pid, of in processes(engine, sandbox_id).items() if of == name)


# ---- what it is and is not ----

def test_the_engine_names_what_the_runtime_can_do(engine):
    runtimes = engine.runtimes()
    assert list(runtimes) == ["native", "runsc"]
    native, runsc = runtimes["native"][1], runtimes["runsc"][1]
    assert native == engine.probe()["capabilities"]
    lacks = CAP_ZYGOTE | CAP_GPU | CAP_FULL
    assert runsc == native & ~lacks
    assert runsc & CAP_STORAGE and runsc & CAP_LIMIT and runsc & CAP_PIDS and runsc & CAP_CONTAINER


def test_an_unknown_runtime_is_refused(engine):
    with pytest.raises(EngineError) as refused:
        engine.create(runtime="kata")
    assert refused.value.kind == "bad_input"
    assert '"native" and "runsc"' in refused.value.public


def test_another_kernel_answers(box):
    result = box.run("/bin/cat", "/proc/version")
    assert result.stdout.startswith(b"Linux version "), result
    assert result.stdout.decode().split()[2] != os.uname().release, result


def test_what_it_lacks_is_refused(engine):
    with pytest.raises(EngineError) as refused:
        engine.create(runtime="runsc", gpus=1)
    assert refused.value.kind == "unsupported"
    assert "GPU" in refused.value.public


@pytest.mark.skipif(not shutil.which("nft"), reason="there is no nft here")
def test_network_full_is_refused():
    """On a host where the native runtime has it."""
    with internet.internet(), Engine(env={"BERTH_NETWORK_MODES": "none,egress,full",
                                          "BERTH_FULL_DNS": internet.DNS}) as engine:
        with engine.create() as native, engine.create(**RUNSC) as box:
            engine.network_full(native.id)
            with pytest.raises(EngineError) as refused:
                engine.network_full(box.id)
            assert refused.value.kind == "unsupported", refused.value
            assert "runsc" in refused.value.public


# ---- the host's side ----

def test_it_runs_as_ids_of_its_own(engine, box):
    seen = set()
    for pid, name in processes(engine, box.id).items():
        try:
            look_at_process(engine, pid, name)
        except (OSError, KeyError):  # one of gVisor's that ended meanwhile, which the look has to have met
            assert not os.path.exists(f"/proc/{pid}/ns/user"), name
            continue
        seen.add(name)
    assert {"berth-init", "runsc-gofer", "runsc-sandbox"} <= seen, seen


def look_at_process(engine, pid, name):
    status = dict(line.split(":\t", 1) for line in
                  harness.read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    uids = {int(uid) for uid in status["Uid"].split()}
    namespaces = {kind: os.readlink(f"/proc/{pid}/ns/{kind}")
                  for kind in ("user", "mnt", "pid", "net", "ipc", "uts")}
    root = pathlib.Path(os.readlink(f"/proc/{pid}/root") and f"/proc/{pid}/root")
    seen = [path for path in (str(engine.state)[1:], "etc/shadow") if (root / path).exists()]
    os.readlink(f"/proc/{pid}/ns/user")  # it still lives, so all of that was of it
    assert min(uids) >= 0x70000000, (name, uids)
    for kind, namespace in namespaces.items():
        assert namespace != os.readlink(f"/proc/self/ns/{kind}"), (name, kind)
    assert not seen, (name, seen)


def test_the_code_has_no_rights(box):
    result = box.sh("id -u; grep -E 'CapEff' /proc/self/status")
    assert result.stdout.split() == [b"1000", b"CapEff:", b"0000000000000000"], result


@pytest.mark.parametrize("script", [
    "cat /.berth/config", "head -c 1 /.berth/init", "echo x > /usr/x", "echo x > /.berth/x",
    "kill -9 1", "kill -STOP 1", "echo 9 > /.berth/pids/code/pids.max", "mkdir /.berth/pids/mine"])
def test_what_is_not_the_codes_is_refused(box, script):
    result = box.sh(script)
    assert (result.exit_code != 0, result.stdout) == (True, b""), result
    assert b"denied" in result.stderr.lower() or b"not permitted" in result.stderr.lower(), result
    assert box.run("/bin/echo", "still").stdout == b"still\n"


def test_inits_streams_are_closed_to_the_code(box):
    """gVisor lists what init has open to anybody; what comes from the engine can't be opened by it."""
    code = ("import os\nseen = set()\nfor n in os.listdir('/proc/1/fd'):\n"
            "    try: link = os.readlink(f'/proc/1/fd/{n}')\n    except OSError: continue\n"
            "    if not link.startswith('host:'): continue\n"
            "    for flags in (os.O_RDONLY, os.O_WRONLY):\n"
            "        try: os.open(f'/proc/1/fd/{n}', flags | os.O_NONBLOCK); seen.add((link, 'opened'))\n"
            "        except OSError as problem: seen.add((link, problem.errno))\nprint(sorted(seen))")
    result = box.run("/usr/bin/python3", "-c", code)
    seen = ast.literal_eval(result.stdout.decode())
    assert len(seen) == 2 and {what for _, what in seen} == {errno.EACCES}, result


ROOT = """
import os
def refused(call, *arguments):
    try: call(*arguments)
    except OSError as e: print(e.strerror)
    else: print('done', call, arguments)
os.mkdir('/usr/mine')
os.chown('/usr/mine', 33, 33)
print(os.getuid(), os.stat('/usr/mine').st_uid, os.stat('/etc').st_uid, os.stat('/workspace').st_uid)
if os.fork() == 0:
    os.setgroups([])
    os.setresuid(33, 33, 33)
    open('/usr/mine/file', 'w').close()
    os._exit(0)
print(os.wait()[1])
for name in ['/proc/1/fd/%d' % n for n in range(10, 14)]: refused(os.open, name, os.O_RDWR)
refused(os.listdir, '/.berth/pids')
refused(os.open, '/.berth/config', os.O_RDONLY)
refused(os.kill, 1, 9)
refused(os.chown, '/usr/mine', 65535, 0)
"""


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
def test_root_of_a_container(engine, disk):
    """Root of the files and the programs in there, and of nothing of init's."""
    with engine.create(profile="container", disk=disk, **RUNSC) as box:
        result = box.run("/usr/bin/python3", "-c", ROOT)
        lines = result.stdout.decode().splitlines()
        assert lines[:2] == ["0 33 0 1000", "0"] and result.exit_code == 0, result
        assert len(lines) == 10 and not any("done" in line for line in lines), result
        assert box.run("/bin/cat", "/usr/mine/file").exit_code == 0


# ---- programs, files, sessions ----

def test_programs(box):
    result = box.run("/bin/sh", "-c", "cat; echo err >&2; exit 3", stdin=b"in" * 100000)
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"in" * 100000, b"err\n")
    result = box.sh("head -c 3000000 /dev/zero", keep=4 * MIB)
    assert len(result.stdout) == 3000000 and result.exit_code == 0
    result = box.sh("sleep 100", timeout_ms=300)
    assert result.cause == "timeout", result


def test_files(box):
    content = os.urandom(300000)
    assert box.put_file("/workspace/a/b", content).errno == 0
    assert box.get_file("/workspace/a/b").stdout == content
    assert box.get_file("/workspace/none").errno == errno.ENOENT
    assert box.sh("echo new > /tmp/x && echo new > /dev/shm/x && cat /tmp/x /dev/shm/x; "
                  "test -e /tmp/.berth && echo mark").stdout == b"new\nnew\n"
    assert box.put_file("/usr/bin/x", b"x").errno in (errno.EACCES, errno.EROFS)


def test_more_than_one_channel(engine, box):
    other = engine.open_channel(box.id)
    first = box.begin(["/bin/sh", "-c", "sleep 0.2; echo one"])
    second = other.begin(["/bin/sh", "-c", "sleep 0.1; echo two"])
    for channel, stream in ((box, first), (other, second)):
        channel.send("close", stream + 1)
    assert other.finish(second).stdout == b"two\n"
    assert box.finish(first).stdout == b"one\n"
    other.close()


# ---- limits ----

def test_storage_is_bounded(engine):
    with engine.create(storage=16 * MIB, **RUNSC) as box:
        for folder in ("/workspace", "/tmp", "/dev/shm", "/var/tmp"):
            result = box.sh(f"head -c {64 * MIB} /dev/zero > {folder}/big; echo $?; rm {folder}/big")
            assert b"No space left" in result.stderr, (folder, result)
        assert box.run("/bin/echo", "fine").exit_code == 0


def test_memory_is_bounded(engine):
    box = engine.create(memory=128 * MIB, **RUNSC)
    assert box.sh("python3 -c 'print(len(bytearray(64 << 20)))'").stdout == b"67108864\n"
    assert box.sh("grep MemTotal /proc/meminfo").stdout.split()[1] == b"131072"
    stream = box.begin(["/usr/bin/python3", "-c", "a = bytearray(1 << 30)"])
    with pytest.raises(ConnectionError):
        box.finish(stream)
    assert engine.wait_gone(box.id) == "oom"
    engine.destroy(box.id)
    assert box.id not in engine.list()


FORKS = ("import os, time\ncount = 0\ntry:\n    while count < 200:\n        if os.fork() == 0: time.sleep(600)\n"
         "        count += 1\nexcept OSError as e: print(e.errno, end=' ')\nprint(count, flush=True)\nos._exit(0)")


def test_processes_are_bounded(engine):
    """By gVisor's own count, that the code can't reach; what was there is gone with its execution."""
    with engine.create(pids=20, **RUNSC) as box:
        for _ in range(2):
            result = box.run("/usr/bin/python3", "-c", FORKS)
            assert result.stdout == b"11 19\n", result
            assert result.limits_hit & LIMIT_PIDS, result
        result = box.run("/bin/echo", "one more")
        assert result.stdout == b"one more\n" and not result.limits_hit & LIMIT_PIDS, result


def test_limits_change_while_it_runs(engine):
    with engine.create(memory=128 * MIB, storage=16 * MIB, **RUNSC) as box:
        engine.limit(box.id, memory=512 * MIB, storage=64 * MIB)
        assert box.sh("python3 -c 'print(len(bytearray(300 << 20)))'").stdout == b"314572800\n"
        script = "; ".join(f"head -c {12 * MIB} /dev/zero > /workspace/{i}" for i in range(4))
        assert box.sh(script).exit_code == 0
        for pids in (10, 30):
            engine.limit(box.id, pids=pids)
            assert box.limits(pids=pids) == 0
            assert box.run("/usr/bin/python3", "-c", FORKS).stdout == b"11 %d\n" % (pids - 1)


# ---- deaths ----

@pytest.mark.parametrize("name", ["berth-init", "runsc-gofer", "runsc-sandbox"])
def test_each_process_takes_the_sandbox_with_it(engine, name):
    box = engine.create(**RUNSC)
    os.kill(process(engine, box.id, name), signal.SIGKILL)
    assert box.closed()
    assert engine.wait_gone(box.id) == "none"
    wait_until(lambda: box.id not in engine.list(), "the engine forgets it")


def test_it_outlives_its_engine(engine):
    """What is held goes on meanwhile, whole, and is there for who asks again; so is the kernel's state."""
    box = engine.create(**RUNSC)
    start_kernel(box)
    ended(box.run_code("x = 41"))
    stream = box.begin_code("import time\nfor i in range(100): print('line', i); time.sleep(0.01)\n"
                            "x += 1", execution_id="r", hold=True)
    box.wait_output(stream, b"line 1\n")
    engine.kill()
    assert box.closed()
    engine.start()
    assert engine.settled(box.id) == "running"
    again = engine.open_channel(box.id)
    lines = ended(again.attach("r")).stdout.decode().splitlines()
    assert lines == [f"line {i}" for i in range(100)]
    assert ended(again.run_code("print(x)")).stdout == b"42\n"
    again.destroy()
    assert engine.list() == []


@pytest.mark.parametrize("point", (*CREATION[:6], "native.ready", "native.started",
                                   "native.commit"))
def test_the_engine_dies_at(engine, point):
    """Of a creation that was not finished the next engine leaves nothing."""
    with Fault(point, armed=False) as fault, Engine(env=fault.env) as one:
        one.create(**RUNSC).destroy()
        fault.arm()
        with pytest.raises((EngineError, ConnectionError)):
            one.create("half", **RUNSC)
        assert fault.struck()
        one.restart()
        state = one.settled("half")
        assert state is None or point == "native.commit"
        one.destroy("half")
        with one.create(**RUNSC) as box:
            assert box.run("/bin/echo", "next").stdout == b"next\n"
        one.stop()
        assert_nothing_left(one.state)


@pytest.mark.parametrize("point", ["setup.root", "setup.init", "init.start", "init.listen"])
def test_a_creation_fails_at(engine, point):
    """One of the processes of a sandbox dies: the engine says so, and the next creation works."""
    with Fault(point, armed=False) as fault, Engine(env=fault.env) as one:
        one.create(**RUNSC).destroy()
        fault.arm()
        with pytest.raises(EngineError) as failed:
            one.create("half", **RUNSC)
        assert fault.struck() and failed.value.kind in ("internal", "closed"), failed.value
        assert "the last start failed" in one.runtimes()["runsc"][2]
        wait_until(lambda: one.list() == [], "nothing is left")
        one.create(**RUNSC).destroy()
        assert one.runtimes()["runsc"][2] == ""
        one.stop()
        assert_nothing_left(one.state)


@pytest.mark.parametrize("point", END)
def test_the_engine_dies_while_it_ends_one_at(engine, point):
    with Fault(point, armed=False) as fault, Engine(env=fault.env) as one:
        box = one.create(**RUNSC)
        fault.arm()
        with pytest.raises(ConnectionError):
            box.destroy()
        assert fault.struck()
        one.restart()
        one.destroy(box.id)
        one.stop()
        assert_nothing_left(one.state)


def test_a_stopped_one_starts_again(engine):
    if not engine.probe()["capabilities"] & CAP_DISK:
        pytest.skip("this host has no disks for sandboxes")
    spec = {"disk": True, "keep_files": True, "storage": 16 * MIB, **RUNSC}
    box = engine.create("kept", **spec)
    assert box.sh("echo precious > /workspace/kept").exit_code == 0
    box.close()
    engine.stop_sandbox("kept")
    assert engine.inspect("kept") == "stopped"
    box = engine.restart_sandbox("kept", **spec)
    assert box.sh("cat /workspace/kept").stdout == b"precious\n"
    box.close()
    engine.stop_sandbox("kept")
    box = engine.restart_sandbox("kept", **{**spec, "runtime": "native"})  # they are plain files
    assert box.sh("cat /workspace/kept && echo more >> /workspace/kept").stdout == b"precious\n"
    box.destroy()


# ---- through the server ----

def test_the_server_uses_it(make_server, engine):
    server = make_server({"BERTH_ENGINE_SESSIONS": "native/runsc"})
    done = server.execute("print(open('/proc/version').read())", runtime="runsc")
    assert done["runtime"] == "runsc" and os.uname().release not in done["stdout"], done
    done = server.execute("x = bytearray(1 << 31)", runtime="runsc",
                          resources={"ram": "128MB"})
    assert (done["status"], done["killed_by"], done["limits_hit"]) == ("killed", "oom", ["memory"])
    wait_until(lambda: server.metric("berth_memory_reserved_bytes") == 0, "both are gone")
    answer = server.post({"resources": {"ram": "512MiB"}}, path="/sessions").json()
    assert server.metric("berth_memory_reserved_bytes") == (32 + 32) * MIB  # 32 are gVisor's
    path = f"/sessions/{answer['session_id']}"
    assert answer["runtime"] == "runsc", answer
    assert server.post({"code": "x = 41"}, path=path + "/execute").json()["state"] == "kept"
    server.kill()
    server.start()
    assert server.post({"code": "print(x + 1)"}, path=path + "/execute").json()["stdout"] == "42\n"
    done = server.execute("open('/usr/x', 'w').close(); import os; print(os.getuid())", runtime="runsc",
                          profile="container")
    assert done["stdout"] == "0\n", done
    assert server.request("DELETE", path).status == 200
    server.wait_clean()
