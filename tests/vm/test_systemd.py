"""berth as a service of systemd, on a host with cgroup v2 alone: the installed units, what a restart
keeps, what a stop ends. Run inside the machine of scripts/test_vm.sh only: the service is the host's."""
import json
import os
import pathlib
import pwd
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest

import engine_client
import harness
from harness import HANG_SECS, read, wait_until

pytestmark = pytest.mark.skipif(
    os.environ.get("BERTH_VM") != "1" or not pathlib.Path("/run/systemd/system").is_dir(),
    reason="restarts the host's berth.service: make test-vm runs it in a virtual machine")

URL = "http://127.0.0.1:8000"
ROOT = pathlib.Path("/sys/fs/cgroup")
SANDBOXES = ROOT / "system.slice" / "berth-sandboxes.service"
STATE = pathlib.Path("/var/lib/berth")
DROP_IN = pathlib.Path("/etc/systemd/system/berth.service.d/test.conf")
LONG = "import time\nprint('on', flush=True)\ntime.sleep(600)\n"


def systemctl(*words, check=True):
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False,
                          timeout=3 * HANG_SECS)
    assert not check or done.returncode == 0, f"{words}: {done.stderr}{journal()}"
    return done


def show(unit, name):
    return systemctl("show", "--value", "-p", name, unit).stdout.strip()


def journal(since=None):
    words = ["journalctl", "--no-pager", "-q", "-o", "cat", "-u", "berth", "-u", "berth-sandboxes"]
    words += ["--since", f"@{since}"] if since else ["-n", "40"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def call(path, fields=None, method=None, secs=HANG_SECS):
    data = None if fields is None else json.dumps(fields).encode()
    request = urllib.request.Request(URL + path, data, harness.JSON_TYPE, method=method)
    try:
        with urllib.request.urlopen(request, timeout=secs) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def hello():
    status, done = call("/execute", {"code": "print('hello')"})
    assert status == 200 and done["stdout"] == "hello\n", (status, done, journal())


def instance():
    return read(STATE / "priv" / "instance").strip()


def base(place=SANDBOXES):
    return place / f"berth-{instance()}"


def processes(group):
    """Of a group and all below it."""
    return [int(pid) for path in [group, *group.rglob("*")] if path.is_dir()
            for pid in read(path / "cgroup.procs").split()]


def start_ticks(pid):
    """With the number, what makes a process this one and no other (proc_pid_stat(5))."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19:20]


def program(name):
    """The process of the service that runs this program."""
    parent = show("berth", "MainPID")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        words = read(f"/proc/{pid}/cmdline").split("\0")
        if words[0] == name and harness.snapshot_tool.status_of(pid).get("PPid") == parent:
            return int(pid)
    return None


def make_orphan(name, place=SANDBOXES):
    """A sandbox that does not end with its server, and the process id of its init. The server stands
    still from then on: it would destroy what it does not know."""
    os.kill(program("berth-server"), signal.SIGSTOP)
    engine_client.create(str(STATE / "run" / "native.sock"), name, HANG_SECS)
    pids = processes(base(place) / name / "init")
    assert len(pids) == 1, pids
    return pids[0]


def was_adopted(name, since):
    """Whether the engine found it alive. The server does not know it then, so it goes: as one that was
    found, not one that was lost."""
    def told():  # the server asks for what lives behind its "ready", and the journal takes its time
        found = [line for line in journal(since).splitlines() if name in line]
        return found if any("nobody's" in line for line in found) else None

    lines = wait_until(told, lambda: journal(since))
    found = [line for line in lines if f"found sandbox {name}" in line]
    assert len(found) == 1 and "without life" not in found[0], lines
    return True


def is_gone(folder):
    wait_until(lambda: not folder.exists(), f"{folder} goes")


@pytest.fixture(autouse=True)
def service():
    """The installed service, running as installed before each test, and after it."""
    systemctl("reset-failed")
    systemctl("start", "berth")
    hello()
    yield
    DROP_IN.unlink(missing_ok=True)
    systemctl("daemon-reload")
    systemctl("stop", "berth", "berth-sandboxes")

    def left():  # systemd removes the groups of a unit behind its stop
        return [path for path in ROOT.rglob(f"berth-{instance()}") if path.is_dir()]

    wait_until(lambda: not left(), left)


def reconfigure(text):
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text(text, encoding="utf-8")
    systemctl("daemon-reload")


def test_what_runs_where():
    engine = call("/health")[1]["engines"][0]
    assert (engine["status"], engine["cgroups"]) == ("ok", "v2"), engine
    assert processes(SANDBOXES) == [int(show("berth-sandboxes", "MainPID"))]
    assert (SANDBOXES / "supervisor").is_dir() and base().is_dir()
    assert len(processes(ROOT / "system.slice" / "berth.service")) == 3
    owner = pwd.getpwnam("berth").pw_uid
    status = harness.snapshot_tool.status_of(str(program("berth-server")))
    assert status["Uid"].split() == [str(owner)] * 4 and int(status["CapBnd"], 16) == 0
    assert not base(ROOT).exists(), "nothing of it is at the root of the hierarchy"


def test_limits_hold_below_the_unit():
    code = "import subprocess\n" \
           "try:\n for _ in range(300): subprocess.Popen(['sleep', '60'])\n" \
           "except BlockingIOError: print('refused')\n"
    assert "pids" in call("/execute", {"code": code})[1]["limits_hit"]
    done = call("/execute", {"code": "x = bytearray(1 << 28)", "resources": {"ram": "64MiB"}})[1]
    assert done["killed_by"] == "oom" and "memory" in done["limits_hit"], done
    # The unit counts the kill as one of its own, and goes on (OOMPolicy=continue).
    assert "oom_kill 0" not in read(SANDBOXES / "memory.events")
    hello()
    assert show("berth-sandboxes", "ActiveState") == show("berth", "ActiveState") == "active"


def test_limits_of_the_unit_are_for_all():
    systemctl("set-property", "--runtime", "berth-sandboxes", "TasksMax=200")
    hello()
    assert read(SANDBOXES / "pids.max").strip() == "200"
    assert {"memory", "pids", "cpu"} <= set(read(SANDBOXES / "cgroup.subtree_control").split())
    systemctl("revert", "berth-sandboxes")


def test_a_restart_keeps_a_sandbox():
    began = int(time.time())
    pid = make_orphan("kept0001")
    born = start_ticks(pid)
    systemctl("stop", "berth")
    assert born and start_ticks(pid) == born and processes(base() / "kept0001") == [pid]
    systemctl("start", "berth")  # beside what lives
    assert was_adopted("kept0001", began)
    is_gone(base() / "kept0001")
    hello()


def test_restart_in_one_step():
    began = int(time.time())
    make_orphan("kept0002")
    before = show("berth", "MainPID")
    systemctl("restart", "berth")
    assert show("berth", "MainPID") != before
    assert was_adopted("kept0002", began)
    is_gone(base() / "kept0002")
    hello()


def test_a_restart_keeps_sessions():
    status, made = call("/sessions", {})
    if status == 404:
        pytest.skip("this server has no sessions yet")
    path = f"/sessions/{made['session_id']}/execute"
    assert call(path, {"code": "x = 41"})[1]["status"] == "success"
    systemctl("restart", "berth")
    assert call(path, {"code": "print(x + 1)"})[1]["stdout"] == "42\n"


def test_outcomes_survive_and_what_ran_is_told():
    done = call("/execute", {"code": "print('kept')"})[1]
    waiting = subprocess.Popen(
        ["curl", "-sN", f"{URL}/execute", "-H", "Content-Type: application/json", "-H",
         "Accept: application/x-ndjson", "-d", json.dumps({"code": LONG, "timeout": 900})],
        stdout=subprocess.PIPE, text=True)
    name = json.loads(waiting.stdout.readline())["data"]["execution_id"]
    assert "on" in waiting.stdout.readline()
    systemctl("restart", "berth")
    assert waiting.wait(HANG_SECS) is not None
    waiting.stdout.close()
    assert call(f"/executions/{done['execution_id']}") == (200, done)
    assert call(f"/executions/{name}")[1]["killed_by"] == "server"
    wait_until(lambda: processes(base()) == [], "its sandbox goes")


def test_a_killed_monitor_is_started_again():
    before = show("berth", "MainPID")
    systemctl("kill", "--kill-whom=main", "--signal=SIGKILL", "berth")
    wait_until(lambda: show("berth", "ActiveState") == "active" and
               show("berth", "MainPID") not in ("0", before), "it is started again")
    hello()


def test_stop_of_the_sandboxes_ends_everything():
    pid = make_orphan("ended001")
    born = start_ticks(pid)
    systemctl("stop", "berth-sandboxes")
    assert start_ticks(pid) != born
    assert show("berth", "ActiveState") == show("berth-sandboxes", "ActiveState") == "inactive"
    is_gone(SANDBOXES)
    systemctl("start", "berth")
    hello()


def test_a_unit_that_is_delegated_itself():
    """Without the group for sandboxes: berth leaves its own group for a child of it."""
    reconfigure("[Service]\nEnvironment=BERTH_CGROUP=\nDelegate=cpu memory pids\n")
    systemctl("restart", "berth")
    hello()
    own = ROOT / "system.slice" / "berth.service"
    assert base(own).is_dir() and not read(own / "cgroup.procs").split()
    assert len(processes(own / "supervisor")) == 3
    old = program("berth-native")
    os.kill(old, signal.SIGKILL)  # the next engine finds the same place
    wait_until(lambda: program("berth-native") not in (None, old), "the engine is started again")
    hello()


def test_a_unit_that_is_not_delegated():
    reconfigure("[Service]\nEnvironment=BERTH_CGROUP=\n")
    systemctl("restart", "berth")
    hello()
    assert base(ROOT).is_dir()
    systemctl("stop", "berth")
    is_gone(base(ROOT))


def unavailable():
    return call("/health")[1]["engines"][0]["unavailable"]


def test_a_place_that_is_not_there_is_said():
    reconfigure("[Service]\nEnvironment=BERTH_CGROUP=/system.slice/nowhere.service\n")
    systemctl("restart", "berth")
    assert "/system.slice/nowhere.service" in unavailable()
    status, answer = call("/execute", {"code": "print(1)"})
    assert status == 503 and "nowhere.service" in answer["detail"], answer


def test_read_only_cgroups_are_said():
    reconfigure("[Service]\nProtectControlGroups=yes\n")
    systemctl("restart", "berth")
    assert "read-only" in unavailable()


def test_a_group_that_is_shared_is_said():
    """Delegated, but with a process that is none of ours: it can't hand limits down."""
    reconfigure("[Service]\nEnvironment=BERTH_CGROUP=\nDelegate=cpu memory pids\n"
                "ExecStartPre=/bin/sh -c 'sleep 600 >/dev/null 2>&1 & echo $$! "
                ">/sys/fs/cgroup/system.slice/berth.service/cgroup.procs'\n")
    systemctl("restart", "berth")
    own = ROOT / "system.slice" / "berth.service"
    strangers = [int(pid) for pid in read(own / "cgroup.procs").split()]
    assert len(strangers) == 1 and "processes of its own" in unavailable()
    systemctl("stop", "berth")
    os.kill(strangers[0], signal.SIGKILL)
