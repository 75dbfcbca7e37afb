"""What the suites share: a server that is started and stopped by process id, an HTTP client that
can also misbehave, and the look at what a server left on the host.

Standard library only. Nothing here uses a fixed port or a fixed folder; every wait has an
end."""
import concurrent.futures
import http.client
import importlib.util
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("BERTH_BUILD") or REPO / "build")
PROGRAMS = ("berth", "berth-monitor", "berth-server", "berth-native", "berth-init", "berth-unpack",
            "berth-egress", "berth-docker")
LOOPBACK = "127.0.0.1"
# Bounds against hangs are this many times as long on a slow machine (make test-vm: an emulated one).
SLOW = int(os.environ.get("BERTH_TEST_SLOW") or 1)
# How many times more memory a program with a sanitizer holds (scripts/sanitize_suites.sh).
LARGE = int(os.environ.get("BERTH_TEST_LARGE") or 1)
HANG_SECS = 60 * SLOW  # past it a wait is a hang; never a measure of speed
# Of every server that a test starts, below what the test itself sets: BERTH_TEST_SETTINGS="BERTH_ZYGOTE=on".
SETTINGS = dict(pair.split("=", 1) for pair in os.environ.get("BERTH_TEST_SETTINGS", "").split())
JSON_TYPE = {"Content-Type": "application/json"}

_spec = importlib.util.spec_from_file_location("snapshot", REPO / "scripts" / "snapshot.py")
snapshot_tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(snapshot_tool)


def wait_until(check, what, secs=HANG_SECS, step_secs=0.02):
    """Returns the first true result of check(); fails after secs."""
    end = time.monotonic() + secs
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() >= end:
            raise AssertionError(f"waited {secs} s in vain: {what() if callable(what) else what}")
        time.sleep(step_secs)


def at_rest(look):
    """What look() returns, once it returns the same three times in a row: some of what an answer tells
    of is let go by another process a moment later."""

    def settled():
        seen = [look()]
        while len(seen) < 3:
            time.sleep(0.01)
            seen.append(look())
        return seen[:1] if seen.count(seen[0]) == 3 else None

    return wait_until(settled, "it comes to rest")[0]


def read(path):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def is_readable(source, secs):
    """Whether it can be read within that time; of any number, which select(2) does not take."""
    poller = select.poll()
    poller.register(source, select.POLLIN)
    return bool(poller.poll(max(0, secs) * 1000))


def listed_mounts(pid):
    return read(f"/proc/{pid}/mountinfo").splitlines()


def clean_environment(extra=None):
    """Ours without settings of berth, then extra."""
    taken = ("HOST", "PORT", "API_HOST", "API_PORT")
    env = {k: v for k, v in os.environ.items() if not k.startswith("BERTH_") and k not in taken}
    env.update(extra or {})
    return env


def cgroup_bases(instance):
    """The folders of an instance: one in each hierarchy (v1), or in the only one (v2)."""
    name = f"berth-{instance or 'none'}"
    root = pathlib.Path("/sys/fs/cgroup")
    places = [root / name] + [root / mount / name for mount in snapshot_tool.listed(root)]
    return [path for path in places if path.is_dir() and not path.parent.is_symlink()]


def at_once(calls, threads=None):
    """Runs all calls in threads of their own; returns their results in order."""
    with concurrent.futures.ThreadPoolExecutor(threads or len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"Answer({self.status}, {self.body[:600]!r})"


class Stream:
    """A streamed execution: events as (name, data), in the order that they come."""

    def __init__(self, server, fields, accept, headers=None, timeout_secs=HANG_SECS,
                 path="/execute"):
        self.connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=timeout_secs)
        all_headers = {**JSON_TYPE, "Accept": accept, **(headers or {})}
        self.connection.request("POST", path, json.dumps(fields), all_headers)
        self.response = self.connection.getresponse()
        self.status = self.response.status
        self.sse = "event-stream" in accept

    def __iter__(self):
        return self

    def __next__(self):
        event = self._next_sse() if self.sse else self._next_ndjson()
        if event is None:
            raise StopIteration
        return event

    def _line(self):
        try:
            return self.response.readline()
        except (http.client.IncompleteRead, ConnectionError):
            return b""

    def _next_ndjson(self):
        line = self._line()
        if not line.endswith(b"\n"):
            return None
        event = json.loads(line)
        return event["event"], event["data"]

    def _next_sse(self):
        fields = {}
        while True:
            line = self._line()
            if not line.endswith(b"\n"):
                return None
            text = line.decode().rstrip("\n")
            if not text:
                return fields["event"], json.loads(fields["data"])
            name, _, value = text.partition(": ")
            fields[name] = value

    def close(self):
        # The response holds the socket as well: closing both is what the server sees.
        self.response.close()
        self.connection.close()


class Server:
    """`berth serve` on a free port with a state folder of its own."""

    folder = BUILD     # of the programs
    command = ()       # what comes before "berth serve"
    identity = {}      # who runs it, for subprocess.Popen()

    def __init__(self, env=None, state=None, port=0):
        # Without a pool, or there would always be sandboxes: tests of the pool ask for one.
        self.env = {"BERTH_POOL_MAX": "0", **SETTINGS, **(env or {})}
        self.owns_state = state is None
        self.state = str(state or tempfile.mkdtemp(prefix="berth-test-"))
        os.chmod(self.state, 0o755)  # noqa: S103: its user "berth" has to pass
        self.log_path = self.state + ".log"
        self.wanted_port = port
        self.process = None
        self.port = None

    # ---- life ----

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.command, str(self.folder / "berth"), "serve", "--host", LOOPBACK, "--port",
                 str(self.wanted_port), "--state", self.state],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env=clean_environment(self.env), **self.identity)
        line = self._first_line()
        assert line.startswith("ready http://"), f"no ready line: {line!r}\n{self.log()}"
        self.port = int(line.rsplit(":", 1)[1])
        self.wanted_port = self.port
        return self

    def _first_line(self):
        end = time.monotonic() + HANG_SECS
        text = b""
        while not text.endswith(b"\n"):
            ready = is_readable(self.process.stdout, end - time.monotonic())
            piece = os.read(self.process.stdout.fileno(), 1024) if ready else b""
            if not piece:
                break
            text += piece
        return text.decode().strip()

    def stop(self, signal_number=signal.SIGTERM):
        """Asks the monitor to end, and returns its exit status."""
        if not self.process:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(HANG_SECS)
        finally:
            self.process.stdout.close()
            self.process = None

    def kill(self):
        """kill -9 of the monitor."""
        self.process.kill()
        self.process.wait(HANG_SECS)
        self.process.stdout.close()
        self.process = None

    def remove(self):
        if self.process:
            self.stop()
        if self.owns_state:
            shutil.rmtree(self.state, ignore_errors=True)
            pathlib.Path(self.log_path).unlink(missing_ok=True)

    def log(self):
        return read(self.log_path)[-4000:]

    # ---- what belongs to it on the host ----

    @property
    def url(self):
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def instance(self):
        return read(f"{self.state}/priv/instance").strip()

    def children(self):
        """{"berth-server": pid, "berth-native": pid, "berth-egress": pid} of those that live now."""
        found = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            status = snapshot_tool.status_of(name)
            alive = status and not status.get("State", "Z").startswith("Z")
            # One that frees a disk is the engine's by its command line, and ours when it is orphaned.
            alive = alive and status.get("Name") != "berth-release"
            if alive and self.process and int(status["PPid"]) == self.process.pid:
                program = os.path.basename(read(f"/proc/{name}/cmdline").split("\0")[0])
                if program in PROGRAMS and program != "berth-monitor":
                    found[program] = int(name)
        return found

    def child(self, program):
        return wait_until(lambda: self.children().get(program), f"{program} runs")

    def cgroups(self):
        """The folders of this instance's sandboxes, in every hierarchy."""
        folders = []
        for base in cgroup_bases(self.instance):
            names = snapshot_tool.listed(base)
            folders += [base / name for name in names if (base / name / "init").is_dir()]
        return folders

    def inits(self):
        """{sandbox id: process id of its init, as the host sees it}."""
        found = {}
        for folder in self.cgroups():
            pids = read(folder / "init" / "cgroup.procs").split()
            if pids:
                found[folder.name] = int(pids[0])
        return found

    def code_pids(self):
        found = set()
        for folder in self.cgroups():
            found.update(map(int, read(folder / "code" / "cgroup.procs").split()))
        return found

    def groups_of(self, sandbox_id):
        """The folders of the code of one sandbox, in every hierarchy."""
        folders = [base / sandbox_id / "code" for base in cgroup_bases(self.instance)]
        return [folder for folder in folders if folder.is_dir()]

    def leftovers(self):
        """What a server that does not run, or runs nothing, must not have; a list of words."""
        found = [f"cgroup {path}" for path in self.cgroups()]
        mounts = read("/proc/self/mountinfo")
        found += [f"mount {line}" for line in mounts.splitlines() if self.state in line]
        run = f"{self.state}/priv/run"
        found += [f"file {run}/{name}" for name in snapshot_tool.listed(run)]
        found += self._left_processes()
        return found

    def _left_processes(self):
        instance = f"berth-{self.instance}"
        ours = set(self.children().values()) | ({self.process.pid} if self.process else set())
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            if int(name) in ours or not snapshot_tool.status_of(name):
                continue
            groups = read(f"/proc/{name}/cgroup")
            if f"{instance}/zygote.python" in groups:
                continue  # the engine's own, for as long as that lives
            if instance in groups or self.state in read(f"/proc/{name}/cmdline"):
                found.append(f"process {name}: {snapshot_tool.status_of(name).get('Name')}")
        return found

    def wait_clean(self):
        """Waits until the last sandbox is gone; destruction does not delay answers."""
        end = time.monotonic() + HANG_SECS
        while (left := self.leftovers()) and time.monotonic() < end:
            time.sleep(0.02)
        assert not left, "left behind: " + "; ".join(left[:20]) + "\n" + self.log()

    def wait_idle(self):
        """wait_clean(), and the server has given back all that was reserved: it is told last."""
        self.wait_clean()
        names = ("berth_sandboxes", "berth_executions_running", "berth_memory_reserved_bytes",
                 "berth_disk_reserved_bytes")

        def held():
            return {name: count for name in names if (count := self.metric(name)) != 0}

        wait_until(lambda: not held(), lambda: f"the server holds {held()}")

    def snapshot(self):
        return snapshot_tool.snapshot(self.state)

    # ---- requests ----

    def request(self, method, path, body=None, headers=None, timeout_secs=HANG_SECS):
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=timeout_secs)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, **kwargs):
        return self.request("GET", path, **kwargs)

    def post(self, fields, path="/execute", headers=None, timeout_secs=HANG_SECS):
        body = fields if isinstance(fields, (bytes, str)) else json.dumps(fields)
        return self.request("POST", path, body, {**JSON_TYPE, **(headers or {})}, timeout_secs)

    def execute(self, code, headers=None, **fields):
        """One execution that the server takes; returns its object."""
        answer = self.post({"code": code, **fields}, headers=headers)
        assert answer.status == 200, f"{answer}\n{self.log()}"
        return answer.json()

    def stream(self, code, accept="application/x-ndjson", headers=None, **fields):
        return Stream(self, {"code": code, **fields}, accept, headers)

    def hello(self):
        """The next request is served, whatever came before."""
        done = self.execute("print('hello')")
        assert (done["status"], done["stdout"]) == ("success", "hello\n"), done

    def metric(self, name):
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    # ---- raw sockets ----

    def connect(self, timeout_secs=HANG_SECS):
        return socket.create_connection((LOOPBACK, self.port), timeout=timeout_secs)

    def raw(self, data, half_close=False):
        """Sends bytes as they are and reads one answer; None when the server just closes."""
        with self.connect() as sock:
            try:
                sock.sendall(data)
                if half_close:
                    sock.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass  # it may answer and close before all of a bad request is sent
            return read_answer(sock)


def read_answer(sock):
    response = http.client.HTTPResponse(sock)
    try:
        response.begin()
        return Answer(response.status, response.headers, response.read())
    except (http.client.HTTPException, ConnectionError):
        return None


def is_closed(sock):
    """Whether the peer closed, once all that it sent was read."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    except (socket.timeout, TimeoutError):
        return False
    return True


def head(method="POST", path="/execute", host="127.0.0.1", *lines):
    """The bytes of a request's head; host None leaves the field out."""
    fields = ([f"Host: {host}"] if host is not None else []) + list(lines)
    return "\r\n".join([f"{method} {path} HTTP/1.1", *fields, "", ""]).encode("latin-1")


def assert_error(answer, status, *words):
    """The one shape of an error, with words that its detail has to hold."""
    assert answer is not None, "closed without an answer"
    assert answer.status == status, answer
    assert answer.headers.get_content_type() == "application/json", answer
    body = answer.json()
    assert set(body) >= {"error", "detail", "timestamp"}, body
    assert isinstance(body["error"], str) and body["error"], body
    assert isinstance(body["detail"], str) and body["detail"], body
    assert_time(body["timestamp"])
    for word in words:
        assert word in body["detail"], f"{word!r} is not in {body['detail']!r}"
    for secret in ("/tmp/", "src/", ".c:", "sqlite", "SELECT "):
        assert secret not in answer.body.decode(), body


def assert_time(text):
    """ISO 8601, UTC."""
    assert isinstance(text, str) and text.endswith("Z"), text
    time.strptime(text.split(".")[0].rstrip("Z"), "%Y-%m-%dT%H:%M:%S")


def end_sessions(server):
    """Those that a test left, or that a failed one did not come to end: they outlive a server."""
    try:
        for session_id in server.get("/sessions").json()["sessions"]:
            server.request("DELETE", f"/sessions/{session_id}")
    except (OSError, KeyError):
        pass  # it does not answer, and the look at what is left tells


def end(server):
    """Stops a server and looks at what it left: nothing but its state folder."""
    try:
        if server.process:
            end_sessions(server)
            assert server.stop() == 0, server.log()
        server.wait_clean()
        left = cgroup_bases(server.instance)
        assert not left, f"left behind: {left}"
    finally:
        server.remove()
