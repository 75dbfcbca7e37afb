"""The command line of sessions as a person uses it: `berth session`, `berth logs`, `berth drain`, and
typing into a session at a terminal."""
import base64
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

import pytest

from harness import HANG_SECS, clean_environment, wait_until
from test_cli import BERTH, call

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5Er"
                       "kJggg==")
IMAGE = ("class Image:\n"
         f"    def _repr_png_(self): return {PNG!r}\n"
         "    def __repr__(self): return 'an image'\n"
         "Image()")
LONG = "import time\nprint('on', flush=True)\ntime.sleep(600)"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def berth(server):
    """berth(words...) with the session's server."""

    def run(*words, stdin=b""):
        return call(*words, stdin=stdin, env={"BERTH_URL": server.url})

    return run


@pytest.fixture
def session(berth, server):
    """The id of a new session."""
    made = berth("session", "new")
    assert made.code == 0 and re.fullmatch(r"[0-9a-f-]{36}\n", made.out), made
    yield made.out.strip()
    server.request("DELETE", f"/sessions/{made.out.strip()}")


def start(server, *words, **kwargs):
    return subprocess.Popen([BERTH, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                            env=clean_environment({"BERTH_URL": server.url}), **kwargs)


def running_in(server, session):
    return wait_until(lambda: server.get(f"/sessions/{session}").json()["running"], "it runs")


# ---- new, ls, rm ----


def test_life_of_a_session(berth, server):
    made = json.loads(berth("session", "new", "--json", "--ram", "64MB", "-t", "1000",
                            "--idle-timeout", "100", "-e", "A=1").out)
    name = made["session_id"]
    assert (made["timeout"], made["idle_timeout"]) == (1000, 100)
    assert made["resources"]["ram"] == 64_000_000
    assert berth("session", "exec", name, "import os; os.environ['A']").out == "'1'\n"
    assert berth("session", "ls", "--quiet").out.split() == [name]
    listed = berth("session", "ls").out.splitlines()
    assert listed[0].startswith("SESSION ID") and listed[1].split()[:4] == [name, "python", "idle", "1"]
    assert json.loads(berth("session", "ls", "--json").out)[0]["session_id"] == name
    gone = berth("session", "rm", NOBODY, name)
    assert (gone.code, gone.out) == (125, name + "\n") and NOBODY in gone.err, gone
    assert berth("session", "ls", "-q").out == ""
    assert berth("session", "exec", name, "1").code == 125
    server.wait_clean()


# ---- exec ----


def test_exec_keeps_state(berth, session):
    first = berth("session", "exec", session, "x = 41; print('out')")
    assert (first.code, first.out, first.err) == (0, "out\n", ""), first
    assert berth("session", "exec", session, "x + 1").out == "42\n"
    failed = berth("session", "exec", session, "1/0")
    assert failed.code == 1 and failed.err.count("ZeroDivisionError") == 1 and not failed.out, failed
    assert berth("session", "exec", session, "raise SystemExit(7)").code == 7


def test_exec_finds_its_code(berth, session, tmp_path):
    path = tmp_path / "code.py"
    path.write_text("print('from a file')")
    assert berth("session", "exec", session, "-f", str(path)).out == "from a file\n"
    assert berth("session", "exec", session, "-", stdin=b"6 * 7").out == "42\n"
    assert berth("session", "exec", session, "input()", stdin=b"typed\n").out == "'typed'\n"
    assert berth("session", "exec", "--stdin", str(path), session, "input()").code == 0


def test_exec_json(berth, session):
    result = berth("session", "exec", "--json", session, "print('hello'); import sys; sys.exit(2)")
    done = json.loads(result.out)
    assert (result.code, done["exit_code"], done["stdout"]) == (2, 2, "hello\n"), result
    assert done["session_id"] == session and not result.err


def test_exec_images(berth, session, tmp_path):
    told = berth("session", "exec", session, IMAGE)
    assert told.out == "an image\n" and told.err == f"[image/png, {len(PNG)} B]\n", told
    folder = tmp_path / "images"
    told = berth("session", "exec", "--save-images", str(folder), session, IMAGE)
    (image,) = folder.iterdir()
    assert told.code == 0 and str(image) in told.err and image.suffix == ".png", told
    assert image.read_bytes() == PNG


def test_exec_timeout(berth, session):
    berth("session", "exec", session, "x = 1")
    result = berth("session", "exec", "-t", "0.5", session, "import time; time.sleep(600)")
    assert result.code != 0 and "killed by timeout" in result.err, result
    assert berth("session", "exec", session, "x").out == "1\n"
    result = berth("session", "exec", session, "import os; os._exit(3)")
    assert result.code == 3 and "are lost" in result.err, result
    assert "NameError" in berth("session", "exec", session, "x").err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_signal_interrupts(berth, server, session, number, words):
    berth("session", "exec", session, "x = 1")
    process = start(server, "session", "exec", *words, session, LONG)
    try:
        name = running_in(server, session)
        if not words:
            assert process.stdout.readline() == b"on\n"
        else:  # it has to know what to interrupt: the first event told it
            wait_until(lambda: "on" in call("logs", name, env={"BERTH_URL": server.url}).out, "on")
        process.send_signal(number)
        out, err = process.communicate(timeout=HANG_SECS)
        assert process.returncode not in (0, 125, -number), (process.returncode, err)
        assert b"KeyboardInterrupt" in out + err
    finally:
        process.kill()
        process.communicate()
    assert berth("session", "exec", session, "x").out == "1\n"


def test_a_second_signal_leaves(server, session):
    code = ("import time\ntext = 'on'\nwhile True:\n    try:\n        print(text, flush=True)\n"
            "        time.sleep(600)\n    except KeyboardInterrupt: text = 'no'")
    process = start(server, "session", "exec", session, code)
    try:
        assert process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"no\n"
        name = running_in(server, session)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HANG_SECS)
        assert process.returncode == 125 and f"berth logs --follow {name}" in err.decode(), err
    finally:
        process.kill()
        process.communicate()
    assert running_in(server, session) == name


def test_a_signal_cancels_what_waits(server, session):
    first = start(server, "session", "exec", session, LONG)
    waits = None
    try:
        assert first.stdout.readline() == b"on\n"
        running = running_in(server, session)
        waits = start(server, "session", "exec", session, "print('never')")
        wait_until(lambda: server.get(f"/sessions/{session}").json()["waiting"] == 1, "it waits")
        time.sleep(0.2)  # for the client to hear of its id; before that the signal would end it at once
        waits.send_signal(signal.SIGINT)
        out, err = waits.communicate(timeout=HANG_SECS)
        assert (waits.returncode, out) == (137, b"") and b"killed by user" in err, (out, err)
        assert running_in(server, session) == running and first.poll() is None
    finally:
        for process in filter(None, (first, waits)):
            process.kill()
            process.communicate()


# ---- over a server that dies ----


STEPS = ("import time\nfor i in range(6):\n    print(i, flush=True)\n    if i == 2:\n"
         "        try: time.sleep(600)\n        except KeyboardInterrupt: pass\n'the value'")


@pytest.mark.parametrize("command", ["exec", "logs"])
def test_it_goes_on_over_a_killed_server(make_server, command):
    server = make_server()
    env = {"BERTH_URL": server.url}
    name = call("session", "new", env=env).out.strip()
    process = start(server, "session", "exec", name, STEPS)
    other = process
    try:
        running = running_in(server, name)
        if command == "logs":
            other = start(server, "logs", "--follow", running)
        seen = [other.stdout.readline() for _ in range(3)]
        assert seen == [b"0\n", b"1\n", b"2\n"]
        pid = server.child("berth-server")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.children().get("berth-server") not in (None, pid), "a new one")
        # The code waits to be interrupted, which the next server can do once it has found it.
        path = f"/sessions/{name}/interrupt"
        wait_until(lambda: server.post({}, path=path).json().get("interrupted"), "it is found")
        out, err = other.communicate(timeout=HANG_SECS)
        assert (other.returncode, out) == (0, b"3\n4\n5\n'the value'\n"), err
    finally:
        for one in {process, other}:
            one.kill()
            one.communicate()
    assert call("session", "rm", name, env=env).code == 0
    server.wait_clean()


# ---- logs ----


def test_logs(berth, server, session):
    done = server.execute("import sys; print('out'); print('err', file=sys.stderr)")
    told = berth("logs", done["execution_id"])
    assert (told.code, told.out, told.err) == (0, "out\n", "err\n"), told
    process = start(server, "session", "exec", session, LONG)
    try:
        name = running_in(server, session)
        assert process.stdout.readline() == b"on\n"
        told = berth("logs", name)
        assert (told.code, told.out) == (0, "on\n") and "--follow" in told.err, told
        follower = start(server, "logs", "--follow", name)
        assert follower.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGINT)
        _, err = follower.communicate(timeout=HANG_SECS)
        assert follower.returncode == 0 and b"KeyboardInterrupt" in err
        process.communicate(timeout=HANG_SECS)
    finally:
        process.kill()
        process.communicate()
    assert "KeyboardInterrupt" in berth("logs", name).err


# ---- drain ----


def test_drain(make_server):
    server = make_server()
    env = {"BERTH_URL": server.url}
    assert call("drain", env=env).out == "ended 0 sessions and 0 executions\n"
    assert call("drain", "--lift", env=env).code == 0
    names = [call("session", "new", env=env).out.strip() for _ in range(2)]
    processes = [start(server, "run", "-c", LONG), start(server, "session", "exec", names[0], LONG)]
    try:
        for process in processes:
            assert process.stdout.readline() == b"on\n"
        drained = call("drain", env=env)
        assert (drained.code, drained.out) == (0, "ended 2 sessions and 2 executions\n"), drained
        for process in processes:
            _, err = process.communicate(timeout=HANG_SECS)
            assert process.returncode == 137 and b"killed by server" in err, err
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert call("session", "ls", "-q", env=env).out == ""
    server.wait_clean()
    refused = call("run", "-c", "1", env=env)
    assert refused.code == 125 and "drained" in refused.err, refused
    assert "drained" in call("session", "new", env=env).err
    assert call("drain", env=env).out == "ended 2 sessions and 2 executions\n"
    assert call("drain", "--lift", env=env).code == 0
    assert call("run", "-c", "print('on')", env=env).out == "on\n"


def test_a_new_server_does_not_drain(make_server):
    server = make_server()
    env = {"BERTH_URL": server.url}
    assert call("drain", env=env).code == 0
    server.stop()
    server.start()
    assert call("run", "-c", "print('on')", env=env).out == "on\n"


# ---- attach ----


class Terminal:
    """`berth session attach` at a terminal of its own."""

    def __init__(self, server, home, *words):
        self.ours, theirs = pty.openpty()
        env = clean_environment({"BERTH_URL": server.url, "HOME": str(home), "TERM": "xterm",
                                 "LC_ALL": "C.UTF-8"})
        env.pop("BERTH_HISTORY", None)
        self.process = subprocess.Popen(
            [BERTH, "session", "attach", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=env,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(theirs)

    def until(self, word):
        """What came up to the word, with it."""
        text = b""
        end = time.monotonic() + HANG_SECS
        while word.encode() not in text:
            ready, _, _ = select.select([self.ours], [], [], end - time.monotonic())
            piece = b""
            try:
                piece = os.read(self.ours, 1) if ready else b""
            except OSError:
                pass  # the other end is closed
            assert piece, f"no {word!r} in {text!r}"
            text += piece
        return text.decode("utf-8", "replace").replace("\r", "")

    def type(self, text):
        os.write(self.ours, text.encode())

    def run(self, line):
        """Types a line and returns what came before the next prompt."""
        self.type(line + "\r")
        return self.until(">>> ").split("\n", 1)[1].removesuffix(">>> ")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def attach(server, session, tmp_path):
    opened = []

    def open_one(*words):
        opened.append(Terminal(server, tmp_path, *words, session))
        assert session in opened[-1].until(">>> ")
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_attach(attach, berth, session):
    terminal = attach()
    assert terminal.run("x = 41") == ""
    assert terminal.run("x + 1") == "42\n"
    assert terminal.run("print('héllo')") == "héllo\n"
    terminal.type("for i in range(2):\r")
    terminal.until("... ")
    terminal.type("\tprint(i, i)\r")
    terminal.until("... ")
    assert terminal.run("") == "0 0\n1 1\n"
    terminal.type("f'''{x\r")
    terminal.until("... ")
    assert terminal.run("}'''") == "'41'\n"
    assert "ZeroDivisionError" in terminal.run("1/0")
    terminal.type("\x04")
    assert terminal.process.wait(HANG_SECS) == 0
    assert berth("session", "exec", session, "x").out == "41\n"


def test_attach_drops_a_line(attach):
    terminal = attach()
    terminal.type("this is no code")
    terminal.until("code")
    terminal.type("\x03")
    terminal.until(">>> ")
    assert terminal.run("6 * 7") == "42\n"
    terminal.type("if True:\r")
    terminal.until("... ")
    terminal.type("\x03")
    terminal.until(">>> ")
    assert terminal.run("6 * 7") == "42\n"


def test_attach_interrupts_what_runs(attach):
    terminal = attach()
    terminal.run("x = 1; import time")
    terminal.type("print('o' + 'n', flush=True); time.sleep(600)\r")
    terminal.until("on\r\n")
    terminal.type("\x03")
    assert "KeyboardInterrupt" in terminal.until(">>> ")
    assert terminal.run("x") == "1\n"


def test_attach_leaves_what_does_not_stop(attach, berth, server, session):
    terminal = attach()
    terminal.run("import time")
    terminal.type("while True:\r")
    for line in ("    try:", "        print('o' + 'n', flush=True); time.sleep(600)",
                 "    except BaseException: pass"):
        terminal.until("... ")
        terminal.type(line.replace("    ", "\t") + "\r")
    terminal.until("... ")
    terminal.type("\r")
    for _ in range(2):
        terminal.until("on\r\n")
        terminal.type("\x03")
    terminal.until("on\r\n")
    name = running_in(server, session)
    terminal.type("\x03")
    assert f"berth logs --follow {name}" in terminal.until(">>> ")
    assert running_in(server, session) == name


def test_attach_remembers_lines(attach, tmp_path):
    terminal = attach()
    assert terminal.run("'first ' + 'line'") == "'first line'\n"
    terminal.type("\x04")
    assert terminal.process.wait(HANG_SECS) == 0
    assert (tmp_path / ".berth_history").stat().st_mode & 0o777 == 0o600
    terminal = attach()
    terminal.type("\x1b[A")
    terminal.until("'first ' + 'line'")
    assert terminal.run("") == "'first line'\n"


def test_attach_tells_of_images(attach, tmp_path):
    terminal = attach("--save-images", str(tmp_path / "images"))
    *lines, last = IMAGE.split("\n")
    for line in lines:
        terminal.type(line.replace("    ", "\t") + "\r")
        terminal.until("... ")
    terminal.type("\r")
    terminal.until(">>> ")
    told = terminal.run(last)
    (image,) = (tmp_path / "images").iterdir()
    assert told == f"an image\n[image/png, {len(PNG)} B: {image}]\n"
    assert image.read_bytes() == PNG


def test_attach_at_the_end_of_its_session(attach, berth, session):
    terminal = attach()
    assert berth("session", "rm", session).code == 0
    terminal.type("1\r")
    terminal.until("HTTP 404")
    assert terminal.process.wait(HANG_SECS) == 125


def test_a_terminated_attach_leaves_the_code(attach, server, session):
    terminal = attach()
    terminal.type("import time; print('o' + 'n', flush=True); time.sleep(600)\r")
    terminal.until("on\r\n")
    name = running_in(server, session)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(HANG_SECS) == 125
    assert running_in(server, session) == name


def test_attach_to_a_pipe(berth, session):
    typed = b"x = 20\nfor i in range(2):\n    x += i\n\nx * 2\ndef f():\n    return 'last'\n\nf()"
    result = berth("session", "attach", session, stdin=typed)
    assert (result.code, result.out, result.err) == (0, "42\n'last'\n", ""), result
    result = berth("session", "attach", session, stdin=b"1/0\nif x:\n    print('unended')\n")
    assert result.code == 0 and result.out == "unended\n" and "ZeroDivision" in result.err, result
    assert berth("session", "attach", NOBODY, stdin=b"1\n").code == 125


# ---- command lines ----


@pytest.mark.parametrize("words", [
    ["session"], ["session", "nope"], ["session", "new", "more"], ["session", "exec"],
    ["session", "exec", "id"], ["session", "exec", "id", "a", "b"], ["session", "attach"],
    ["session", "new", "-t", "soon"], ["session", "rm"], ["session", "ls", "more"],
    ["session", "exec", "id", "-f", "/nonexistent"], ["logs"], ["logs", "a", "b"],
    ["logs", "--nope", "a"], ["drain", "more"]])
def test_wrong_command_lines(berth, words):
    result = berth(*words)
    assert result.code == 2 and result.err and not result.out, result


@pytest.mark.parametrize("words", [
    ["session", "exec", NOBODY, "1"], ["session", "exec", "../x", "1"], ["session", "rm", NOBODY],
    ["session", "attach", NOBODY], ["logs", NOBODY], ["logs", "--follow", NOBODY], ["logs", "a/b"],
    ["session", "new", "-l", "cobol"]])
def test_what_is_not_there(berth, words):
    result = berth(*words)
    assert result.code == 125 and result.err.startswith("berth ") and not result.out, result


@pytest.mark.parametrize("words", [["session", "new"], ["session", "ls"], ["drain"], ["logs", NOBODY],
                                   ["session", "exec", NOBODY, "1"]])
def test_without_a_server(words):
    result = call(*words, env={"BERTH_URL": "http://127.0.0.1:1"})
    assert result.code == 125 and "127.0.0.1:1" in result.err, result


@pytest.mark.parametrize("words", [
    ["help", "session"], ["session", "--help"], ["session", "new", "-h"], ["session", "exec", "--help"],
    ["session", "attach", "-h"], ["session", "ls", "-h"], ["session", "rm", "-h"], ["help", "logs"],
    ["logs", "-h"], ["help", "drain"], ["drain", "--help"]])
def test_help(words):
    result = call(*words)
    assert result.code == 0 and result.out.startswith("usage: berth"), result
    assert not result.err
