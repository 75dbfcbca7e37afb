"""berth as an ordinary user: in a user namespace of the engine's own, with ranges of /etc/subuid or
with one id. What works there, what is refused in words, and that no death leaves anything."""
import contextlib
import http.client
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

import harness
from harness import HANG_SECS, assert_error, at_once, read, wait_until
from sessions import Session

SUBIDS = (1_300_000_000, 65536)
LONG = "print('on', flush=True)\nimport time; time.sleep({})\nprint('through')\n"


class Person:
    """An ordinary user of this host, for as long as the tests run."""

    def __init__(self, name, uid, gid, subids):
        self.name, self.uid, self.gid, self.subids = name, uid, gid, subids
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="berth-home-"))
        os.chown(self.home, uid, gid)

    def owns(self, uid):
        first, count = self.subids or (0, 0)
        return uid == self.uid or first <= uid < first + count

    def processes(self):
        """{pid: name} of everything that runs with one of the ids."""
        found = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            status = harness.snapshot_tool.status_of(name)
            if status and any(self.owns(int(uid)) for uid in status["Uid"].split()):
                found[int(name)] = status["Name"]
        return found

    def identity(self):
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def free_uid():
    used = {entry.pw_uid for entry in pwd.getpwall()}
    used |= {os.stat(f"/proc/{name}").st_uid for name in os.listdir("/proc") if name == "self"}
    return next(uid for uid in range(61000, 61184) if uid not in used)


def run_tool(*command):
    subprocess.run(command, check=True, capture_output=True, timeout=HANG_SECS)


def make_person(kind):
    if kind == "one id":
        uid = free_uid()
        return Person(None, uid, uid, None)
    for tool in ("newuidmap", "newgidmap", "useradd", "usermod", "userdel"):
        if not shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            pytest.skip(f"there is no {tool}")
    name = f"berth-test-{os.getpid()}"
    run_tool("useradd", "--system", "--user-group", "--no-create-home", name)
    last = SUBIDS[0] + SUBIDS[1] - 1
    run_tool("usermod", "--add-subuids", f"{SUBIDS[0]}-{last}", "--add-subgids",
             f"{SUBIDS[0]}-{last}", name)
    entry = pwd.getpwnam(name)
    return Person(name, entry.pw_uid, entry.pw_gid, SUBIDS)


def remove_person(person):
    try:  # the last of a private server ends behind `berth run`
        wait_until(lambda: not person.processes(), lambda: f"left behind: {person.processes()}")
    finally:
        shutil.rmtree(person.home, ignore_errors=True)
        if person.name:
            run_tool("userdel", person.name)  # and the lines of /etc/subuid


@pytest.fixture(scope="module", params=["one id", "ranges"])
def person(request):
    one = make_person(request.param)
    try:
        tried = subprocess.run(["unshare", "--user", "--mount", "true"], capture_output=True,
                               timeout=HANG_SECS, check=False, **one.identity())
        if tried.returncode != 0:
            pytest.skip("an ordinary user gets no namespaces here: " + tried.stderr.decode())
        yield one
    finally:
        remove_person(one)


@pytest.fixture(scope="module")
def programs():
    """A copy that everybody can reach, wherever the build lies."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="berth-programs-"))
    for name in harness.PROGRAMS:
        shutil.copy(harness.BUILD / name, folder / name)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class PersonsServer(harness.Server):
    def __init__(self, person, folder, env=None, command=()):
        state = tempfile.mkdtemp(prefix="state-", dir=person.home)
        os.chown(state, person.uid, person.gid)
        super().__init__({"HOME": str(person.home), "XDG_RUNTIME_DIR": "", **(env or {})}, state)
        self.person, self.folder, self.command = person, folder, command
        self.identity = {} if command else person.identity()

    def inits(self):
        """{process id: uid} of the sandboxes' first processes."""
        found = {}
        for pid, name in self.person.processes().items():
            status = harness.snapshot_tool.status_of(pid)
            if name == "berth-init" and status:
                found[pid] = int(status["Uid"].split()[0])
        return found

    def leftovers(self):
        known = set(self.children().values()) | ({self.process.pid} if self.process else set())
        found = [f"process {pid}: {name}" for pid, name in self.person.processes().items()
                 if pid not in known]
        found += [f"mount {line}" for line in read("/proc/self/mountinfo").splitlines()
                  if self.state in line]
        run = f"{self.state}/priv/run"
        return found + [f"file {run}/{name}" for name in harness.snapshot_tool.listed(run)]

    def end(self):
        try:
            if self.process:
                assert self.stop() == 0, self.log()
            self.wait_clean()
        finally:
            for pid in self.person.processes():  # a failed test must not leave them either
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def shared(person, programs):
    """One server for the tests that leave it as it was."""
    server = PersonsServer(person, programs).start()
    yield server
    server.end()


@pytest.fixture
def make_own(person, programs, shared):
    shared.stop()
    made = []

    def make(**kwargs):
        made.append(PersonsServer(person, programs, **kwargs))
        return made[-1].start()

    try:
        yield make
        stopped = [server.stop() for server in made]
        for server in made:
            server.end()
        assert set(stopped) <= {0, None}, stopped
    finally:
        shared.start()


def native(server):
    return server.get("/api/v1/info").json()["engines"][0]


# ---- what is there and what is not ----

def test_info_says_what_is_missing(shared, person):
    shared.hello()
    info = native(shared)
    assert (info["status"], info["cgroups"], info["unavailable"]) == ("ok", "none", None), info
    assert info["not_enforced"] == ["ram", "cpu"], info
    assert info["profiles"] == ["strict"] and info["images"] == ["host"], info
    for word in ("ram, cpu: ", "container, disk, images, layers: ", "own_counts: "):
        assert word in info["missing"], info
    ranges = person.subids is not None
    assert ("private_ids" in info["capabilities"]) == ranges, info
    assert ("private_ids: " in info["missing"]) == (not ranges), info
    assert ("no range in /etc/subuid" in info["missing"]) == (not ranges), info
    assert {"pids", "storage", "isolated"} <= set(info["capabilities"]), info


@pytest.mark.parametrize("fields, words", [
    ({"resources": {"ram": "64MB"}}, ["resources.ram: this host can't enforce it: ",
                                      "has no control groups"]),
    ({"resources": {"cpu": "0.5"}}, ["resources.cpu", "control groups"]),
    ({"resources": {"storage": "100TB"}}, ["resources.storage", "none on disk: ",
                                            "can't id-map files"]),
    ({"profile": "container"}, ["profile", "container", "can't id-map files"]),
    ({"image": "debian"}, ["image", "debian"]),
])
def test_what_cant_be_had_is_a_400(shared, fields, words):
    assert_error(shared.post({"code": "print(1)", **fields}), 400, *words)


# ---- limits that hold ----

def test_a_timeout_kills_everything(shared):
    code = ("import os, time\n"
            "for _ in range(8):\n"
            "    if os.fork() == 0:\n"
            "        os.setsid()\n"
            "        if os.fork(): os._exit(0)\n"
            "        time.sleep(600)\n"
            "print('forked', flush=True)\n"
            "time.sleep(600)\n")
    done = shared.execute(code, timeout=1)
    assert (done["status"], done["killed_by"], done["stdout"]) == ("timeout", "timeout", "forked\n")
    shared.wait_clean()


def test_the_number_of_processes_is_limited(make_own):
    server = make_own(env={"BERTH_PIDS": "40"})
    code = ("import os, time\n"
            "made = 0\n"
            "try:\n"
            "    while made < 400:\n"
            "        if os.fork() == 0: time.sleep(600)\n"
            "        made += 1\n"
            "except BlockingIOError as e:\n"
            "    print('refused')\n"
            "print(made)\n")
    done = server.execute(code, timeout=20)
    refused, made = done["stdout"].split()
    limit = server.get("/api/v1/info").json()["limits"]["pids"]
    assert refused == "refused" and 20 < int(made) <= limit, (done, limit)
    server.wait_clean()


def test_the_root_has_a_size(shared):
    code = ("import errno\n"
            "try:\n"
            "    with open('/tmp/big', 'wb') as f:\n"
            "        for _ in range(64): f.write(bytes(1 << 20))\n"
            "except OSError as e:\n"
            "    print(errno.errorcode[e.errno])\n")
    done = shared.execute(code, resources={"storage": "16MB"})
    assert done["stdout"] == "ENOSPC\n", done
    assert "disk" in done["limits_hit"], done


# ---- isolation ----

def test_nothing_of_the_host_is_there(shared, person):
    secret = person.home / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    code = (f"import os, socket\n"
            f"print(os.getuid(), os.path.exists('{secret}'), os.path.exists('/etc/hostname'),\n"
            "      sorted(int(n) for n in os.listdir('/proc') if n.isdigit()) == [1, os.getpid()])\n"
            "print(sorted(os.listdir('/home')), socket.gethostname(), os.listdir('/usr/local'))\n"
            "print([l.split()[0] for l in open('/proc/net/dev')][2:])\n"
            "print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])\n")
    done = shared.execute(code)
    assert done["stdout"].splitlines() == [
        "1000 False True True", "['sandbox'] sandbox []", "['lo:']", "0" * 16], done


@pytest.mark.parametrize("act", [
    "open('/usr/bin/x', 'w')", "open('/etc/passwd', 'a')", "open('/dev/x', 'w')",
    "open('/proc/sys/kernel/hostname', 'w')", "os.chown('/tmp', 0, 0)",
    "open('/proc/1/mem', 'rb').read(1)", "os.readlink('/proc/1/fd/4')", "os.setuid(0)",
    "os.readlink('/proc/1/cwd')", "os.kill(1, 9) or os.kill(1, 19) or os.readlink('/proc/1/exe')",
    "__import__('socket').sethostname('x')",
    "call(272, 0x10000000)", "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)", "call(155, b'/', b'/')",
    "call(101, 16, 1, 0, 0)", "call(310, 1, 0, 0, 0, 0, 0)",
])
def test_what_the_code_may_not_do(shared, act):
    code = ("import ctypes, os\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "def call(*a):\n"
            "    if libc.syscall(*a) < 0: raise OSError(ctypes.get_errno(), 'no')\n"
            f"try:\n    {act}\n    print('done')\n"
            "except OSError: print('refused')\n")
    done = shared.execute(code)
    assert (done["stdout"], done["exit_code"]) == ("refused\n", 0), done
    shared.hello()


def test_two_at_once_see_nothing_of_each_other(shared, person):
    """They meet: each writes, sleeps until the other must be there, and looks."""
    code = ("import os, time\n"
            "open('/tmp/mine', 'x').write('x'); open('/dev/shm/mine', 'x').write('x')\n"
            "time.sleep(1.5)\n"
            "print(os.listdir('/tmp'), os.listdir('/dev/shm'),\n"
            "      len([n for n in os.listdir('/proc') if n.isdigit()]))\n")
    seen = []

    def look():
        seen.append(wait_until(lambda: len(inits := shared.inits()) == 2 and inits, "two live"))

    done = at_once([lambda: shared.execute(code), lambda: shared.execute(code), look])
    assert [one["stdout"] for one in done[:2]] == ["['mine'] ['mine'] 2\n"] * 2, done
    uids = set(seen[0].values())
    assert len(uids) == (2 if person.subids else 1) and all(map(person.owns, uids)), seen
    assert person.subids is None or person.uid not in uids, seen


# ---- deaths ----

def begin(server, code):
    stream = server.stream(code)
    _, data = next(stream)
    assert next(stream)[0] == "stdout"
    return stream, data["execution_id"]


def kill_engine(server):
    old = server.child("berth-native")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: server.children().get("berth-native") not in (None, old), "a new engine")


def test_a_new_engine_finds_what_lives(make_own):
    server = make_own()
    stream, name = begin(server, LONG.format(1.5))
    kill_engine(server)
    events = list(stream)
    assert (events[-1][0], events[-1][1]["status"]) == ("end", "success"), events
    assert server.get(f"/executions/{name}").json()["stdout"] == "on\nthrough\n"
    server.hello()
    server.wait_clean()


def test_a_new_engine_ends_what_an_earlier_one_made(make_own):
    """It has no right over the processes below its predecessor's user namespace."""
    server = make_own()
    stream, name = begin(server, LONG.format(600))
    kill_engine(server)
    server.hello()
    assert server.inits()
    assert server.request("DELETE", f"/executions/{name}").status in (200, 202, 204)
    events = list(stream)
    assert (events[-1][0], events[-1][1]["killed_by"]) == ("end", "user"), events
    server.wait_clean()


def test_a_new_engine_knows_what_has_ended(make_own):
    """There was none to see it. Who asks for it hears that it is gone, and not that nobody knows."""
    server = make_own()
    session = Session(server)
    pid, = server.inits()
    engine = server.child("berth-native")
    os.kill(engine, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    kill_engine(server)
    wait_until(lambda: session.post("print(1)").status == 404, lambda: server.log())
    server.hello()
    server.wait_clean()


def test_a_new_engine_and_a_busy_init(make_own):
    """One that accepts nothing, with as many connections waiting as fit: nobody waits for it, and
    what is said of it is done once it goes on."""
    server = make_own()
    stream, name = begin(server, LONG.format(600))
    pid, = server.inits()
    run = f"{server.state}/priv/run"
    init_socket, = harness.snapshot_tool.listed(run)
    os.kill(pid, signal.SIGSTOP)
    try:
        fill_backlog(f"{run}/{init_socket}")
        kill_engine(server)
        server.hello()
        assert pid in server.inits()
        answers = at_once([lambda: server.request("DELETE", f"/executions/{name}"),
                           lambda: list(stream)])
        assert answers[0].status in (200, 202, 204), answers
        assert pid in server.inits()
    finally:
        os.kill(pid, signal.SIGCONT)
    server.wait_clean()


def fill_backlog(path):
    folder = os.open(os.path.dirname(path), os.O_PATH)  # a socket's path has to be short
    try:
        while True:
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                client.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    except BlockingIOError:
        pass
    finally:
        os.close(folder)


def test_the_next_server_sweeps_after_a_dead_one(make_own):
    """Nobody is left who could: init ends for want of a server, its socket's file stays."""
    server = make_own()
    stream, _ = begin(server, LONG.format(600))
    server.kill()
    stream.close()
    wait_until(lambda: not server.person.processes(),
               lambda: f"all end with the monitor: {server.person.processes()}")
    assert len(server.leftovers()) == 1, server.leftovers()
    server.start()
    server.hello()
    server.wait_clean()


def test_kills_at_random(make_own):
    server = make_own()
    chance = random.Random(7)
    over = threading.Event()
    served = []

    def client():
        while not over.is_set():
            try:
                answer = server.post({"code": "print(1)", "timeout": 5}, timeout_secs=HANG_SECS)
                served.append(answer.status)
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        time.sleep(chance.uniform(0.05, 0.5))
        victim = chance.choice(["berth-native", "berth-native", "berth-server", "monitor"])
        if victim == "monitor":
            server.kill()
            server.start()
        elif pid := server.children().get(victim):
            os.kill(pid, signal.SIGKILL)
    over.set()
    for thread in threads:
        thread.join(HANG_SECS)
    assert 200 in served and set(served) <= {200, 503}, set(served)
    wait_until(lambda: answers_hello(server), "served again\n" + server.log())
    server.wait_clean()


def answers_hello(server):
    try:
        answer = server.post({"code": "print('hello')"})
        return answer.status == 200 and answer.json()["stdout"] == "hello\n"
    except (OSError, http.client.HTTPException):
        return False


def test_a_stop_with_sandboxes_is_clean(make_own):
    server = make_own()
    stream, _ = begin(server, LONG.format(600))
    assert server.stop() == 0, server.log()
    stream.close()
    server.start()
    server.hello()
    server.wait_clean()


def test_two_servers_of_one_user(make_own, person):
    """They know nothing of each other, and share no id where there are more."""
    servers = [make_own(), make_own()]
    begun = [begin(server, LONG.format(600)) for server in servers]
    inits = servers[0].inits()
    assert len(inits) == 2, inits
    for server, (_, name) in zip(servers, begun):
        assert server.request("DELETE", f"/executions/{name}").status in (200, 202, 204)
    wait_until(lambda: not servers[0].inits(), "both are ended")


# ---- berth run ----

def test_berth_run(person, programs):
    done = subprocess.run(
        [programs / "berth", "run", "-c", "print(6 * 7)"], capture_output=True, text=True,
        timeout=HANG_SECS, check=False, cwd="/", **person.identity(),
        env=harness.clean_environment({"HOME": str(person.home), "TMPDIR": str(person.home),
                                       "BERTH_URL": ""}))
    assert (done.returncode, done.stdout) == (0, "42\n"), done


# ---- where it can't be ----

def forbid(person, *steps):
    """The command that runs another one as the person, below what root prepares for it."""
    switch = f"exec setpriv --reuid {person.uid} --regid {person.gid} --clear-groups \"$@\""
    return ["sh", "-c", "; ".join(["set -e", *steps, switch]), "sh"]


def whole_userns(command):
    """The command in a user namespace of its own that has every id."""
    process = subprocess.Popen(
        ["unshare", "--user", "sh", "-c", 'echo; read -r _; exec "$@"', "sh", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout.readline() == b"\n"
    for name in ("uid_map", "gid_map"):
        pathlib.Path(f"/proc/{process.pid}/{name}").write_text("0 0 4294967295\n")
    process.stdin.write(b"\n")
    process.stdin.close()
    return process


def assert_unavailable(server, *words):
    info = native(server)
    assert info["status"] == "unavailable", info
    for word in words:
        assert word in info["unavailable"], info
    assert_error(server.post({"code": "print(1)"}), 503, *words)


def test_mounts_below_usr(make_own, person):
    """An ordinary user can't leave them out: they are bound as they are, which is said."""
    steps = forbid(person, "mount -t tmpfs none /usr/games", "touch /usr/games/mounted")
    server = make_own(command=["unshare", "--mount", *steps])
    done = server.execute("import os\nprint(os.listdir('/usr/games'), os.listdir('/usr/local'))\n"
                          "try: open('/usr/games/x', 'w')\nexcept OSError as e: print(e.errno)\n")
    assert done["stdout"] == "['mounted'] []\n30\n", done
    assert "own_files: " in native(server)["missing"]
    server.wait_clean()


def test_a_masked_proc_is_named(make_own, person):
    steps = forbid(person, "mount --bind /dev/null /proc/timer_list")
    server = make_own(command=["unshare", "--mount", *steps])
    assert_unavailable(server, "/proc", "masked")


def serve_below(person, programs, most, env=None):
    """A server in a user namespace below which there may be so many. Returns its process and it."""
    state = pathlib.Path(tempfile.mkdtemp(prefix="below-", dir=person.home))
    os.chown(state, person.uid, person.gid)
    command = forbid(person, f"echo {most} > /proc/sys/user/max_user_namespaces")
    words = [f"{name}={value}" for name, value in (env or {}).items()]
    process = whole_userns([*command, "env", *words, str(programs / "berth"), "serve", "--port", "0",
                            "--state", str(state)])
    log = ""
    while "ready http://" not in log:
        line = process.stdout.readline().decode()
        assert line, log
        log += line
    server = harness.Server(state=state)
    server.port = int(log.rsplit(":", 1)[1])
    return process, server


def end_below(process):
    process.terminate()
    process.stdout.read()
    assert process.wait(HANG_SECS) == 0


def test_the_setting_that_forbids_namespaces_is_named(person, programs, shared):
    process, server = serve_below(person, programs, 0)
    try:
        assert_unavailable(server, "user.max_user_namespaces is 0")
    finally:
        end_below(process)


def test_namespaces_that_are_used_up_for_a_while(person, programs, shared):
    """The engine has one, and none is left for sandboxes: that may pass, so the next one tries again."""
    process, server = serve_below(person, programs, 1, {"BERTH_TESTING": "1", "BERTH_SWEEP_MS": "500"})
    try:
        wait_until(lambda: "no namespaces can be made" in (native(server)["unavailable"] or ""), "it is said")
        run_tool("nsenter", "--user", "--target", str(process.pid), "sh", "-c",
                 "echo 1000 > /proc/sys/user/max_user_namespaces")
        wait_until(lambda: answers_hello(server), "the next engine can")
    finally:
        end_below(process)
