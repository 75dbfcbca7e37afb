"""The command line as a person uses it: `berth run` through a server and by itself, `ps`,
`version`, `help`, and what is installed beside it."""
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import tempfile

import pytest

from harness import BUILD, HANG_SECS, REPO, clean_environment, snapshot_tool, wait_until

BERTH = str(BUILD / "berth")


class Result:
    def __init__(self, done):
        self.code = done.returncode
        self.out = done.stdout.decode()
        self.err = done.stderr.decode()

    def __repr__(self):
        return f"exit {self.code}\nstdout: {self.out}\nstderr: {self.err}"


def call(*words, env=None, stdin=b"", secs=HANG_SECS):
    done = subprocess.run([BERTH, *words], input=stdin, capture_output=True, timeout=secs,
                          env=clean_environment(env), check=False)
    return Result(done)


@pytest.fixture
def berth(server):
    """berth(words...) with the session's server."""

    def run(*words, stdin=b"", env=None):
        return call(*words, stdin=stdin, env={"BERTH_URL": server.url, **(env or {})})

    return run


@pytest.fixture
def script(tmp_path):
    def write(text, name="script.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


# ---- run ----


def test_run_code(berth):
    result = berth("run", "-c", "print('hello')")
    assert (result.code, result.out, result.err) == (0, "hello\n", ""), result


def test_run_file(berth, script):
    result = berth("run", script("import sys\nprint('from a file')\nsys.exit(4)"))
    assert (result.code, result.out) == (4, "from a file\n"), result


def test_run_standard_input(berth):
    assert berth("run", "-", stdin=b"print('from stdin')").out == "from stdin\n"


def test_run_passes_standard_input_on(berth):
    result = berth("run", "-c", "print(sum(map(int, input().split())))", stdin=b"1 2 3\n")
    assert (result.code, result.out) == (0, "6\n"), result


def test_run_keeps_streams_apart(berth):
    result = berth("run", "-c", "import sys; print('out'); print('err', file=sys.stderr)")
    assert (result.out, result.err) == ("out\n", "err\n"), result


def test_run_json(berth):
    result = berth("run", "--json", "-c", "print('hello'); raise SystemExit(2)")
    done = json.loads(result.out)
    assert (result.code, done["exit_code"], done["stdout"]) == (2, 2, "hello\n"), result


def test_run_traceback(berth):
    result = berth("run", "-c", "1/0")
    assert result.code == 1 and "ZeroDivisionError" in result.err, result


def test_run_timeout(berth):
    result = berth("run", "-t", "0.5", "-c", "import time; time.sleep(600)")
    assert result.code == 137 and "killed by timeout" in result.err, result


def test_run_oom(berth):
    result = berth("run", "--ram", "64MiB", "--storage", "8MiB", "-c", "x = bytearray(1 << 30)")
    assert result.code == 137 and "killed by oom" in result.err, result


def test_run_signal(berth):
    result = berth("run", "-c", "import os; os.kill(os.getpid(), 15)")
    assert result.code == 143 and "signal 15" in result.err, result


def test_run_env_and_files(berth, script):
    data = script("the data", "data.txt")
    result = berth("run", "-e", "A=1", "-e", "B=x=y", "--file", data, "--file", f"{data}:d/other",
                   "-c", "import os; print(os.environ['A'], os.environ['B'],"
                         " open('data.txt').read(), open('d/other').read())")
    assert result.out == "1 x=y the data the data\n", result


def test_run_binary_and_unicode_output(berth):
    result = berth("run", "-c", "print('héllo ✓')")
    assert result.out == "héllo ✓\n"


def test_run_truncated(berth):
    result = berth("run", "-c", "import sys; sys.stdout.write('x' * 3000000)")
    assert result.code == 0 and len(result.out) == 1 << 20 and "longer" in result.err


def test_run_output_comes_while_it_runs(server):
    process = subprocess.Popen([BERTH, "run", "-c", "print('now', flush=True)\nimport time\n"
                                                    "time.sleep(600)"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE,
                               env=clean_environment({"BERTH_URL": server.url}))
    try:
        assert process.stdout.readline() == b"now\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)  # cancels, and still says how it ended
        assert process.wait(HANG_SECS) == 137
        assert b"killed by user" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    server.wait_clean()


def test_run_killed_leaves_nothing(server):
    process = subprocess.Popen([BERTH, "run", "-c", "print('now', flush=True)\nimport time\n"
                                                    "time.sleep(600)"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               env=clean_environment({"BERTH_URL": server.url}))
    assert process.stdout.readline() == b"now\n"
    process.kill()
    process.communicate()
    server.wait_clean()


def test_run_at_a_terminal_does_not_wait_for_input(server):
    ours, theirs = pty.openpty()
    process = subprocess.Popen([BERTH, "run", "-c", "import sys; print(repr(sys.stdin.read()))"],
                               stdin=theirs, stdout=subprocess.PIPE,
                               env=clean_environment({"BERTH_URL": server.url}))
    try:
        out, _ = process.communicate(timeout=HANG_SECS)
        assert (process.returncode, out) == (0, b"''\n")
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)


def test_run_into_a_closed_pipe(server):
    """`berth run ... | head -1` ends, and so does the code."""
    process = subprocess.Popen([BERTH, "run", "-c", "import time\nwhile True: print('y' * 100,"
                                                    " flush=True); time.sleep(0.001)"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL,
                               env=clean_environment({"BERTH_URL": server.url}))
    process.stdout.readline()
    process.stdout.close()
    try:
        assert process.wait(HANG_SECS) != 0
    finally:
        process.kill()
        process.wait()
    server.wait_clean()


@pytest.mark.parametrize("words", [["run"], ["run", "-c"], ["run", "--nope", "-c", "1"],
                                   ["run", "-c", "1", "file"], ["run", "a", "b"],
                                   ["run", "-t", "soon", "-c", "1"], ["run", "-e", "A", "-c", "1"],
                                   ["run", "/nonexistent/file.py"], ["nope"], [], ["ps", "more"],
                                   ["run", "--file", "/nonexistent", "-c", "1"]])
def test_wrong_command_lines(berth, words):
    result = berth(*words)
    assert result.code == 2 and result.err and not result.out, result


def test_run_refused_by_the_server(berth):
    result = berth("run", "-l", "cobol", "-c", "1")
    assert result.code == 125 and "cobol" in result.err, result


def test_run_without_the_named_server():
    result = call("run", "-c", "print(1)", env={"BERTH_URL": "http://127.0.0.1:1"})
    assert result.code == 125 and "127.0.0.1:1" in result.err, result


def new_folder():
    """A folder that the user "berth" can pass, which pytest's own are not."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="berth-e2e-"))
    folder.chmod(0o755)
    return folder


def a_server_answers_at_the_default_port():
    return call("ps").code == 0


def test_run_by_itself():
    """Without a server: a private one, of which nothing stays."""
    if a_server_answers_at_the_default_port():
        pytest.skip("a server runs at the default port")
    folder = new_folder()
    try:
        env = {"TMPDIR": str(folder)}
        result = call("run", "-c", "print('alone'); raise SystemExit(5)", env=env)
        assert (result.code, result.out, result.err) == (5, "alone\n", ""), result
        result = call("run", "--json", "-c", "print('alone')", env=env)
        assert json.loads(result.out)["stdout"] == "alone\n"
        assert not list(folder.iterdir())

        def left():
            return [name for name in filter(str.isdigit, os.listdir("/proc"))
                    if str(folder) in snapshot_tool.read(f"/proc/{name}/cmdline")]

        wait_until(lambda: not left(), lambda: f"processes {left()} end")
        assert str(folder) not in snapshot_tool.read("/proc/self/mountinfo")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_interrupted_run_by_itself_leaves_nothing():
    if a_server_answers_at_the_default_port():
        pytest.skip("a server runs at the default port")
    folder = new_folder()
    process = subprocess.Popen([BERTH, "run", "-c", "print('now', flush=True)\nimport time\n"
                                                    "time.sleep(600)"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE,
                               env=clean_environment({"TMPDIR": str(folder)}))
    try:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_SECS) == 137
        assert not list(folder.iterdir())
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


# ---- ps, version, help ----


def test_ps(berth, server):
    done = server.execute("print(1)")
    stream = server.stream("print('on', flush=True)\nimport time; time.sleep(600)")
    name = next(stream)[1]["execution_id"]
    assert next(stream)[0] == "stdout"
    wait_until(lambda: name in berth("ps").out, "it is listed")
    result = berth("ps")
    assert result.code == 0 and done["execution_id"] not in result.out
    assert "running" in result.out and "python" in result.out
    result = berth("ps", "--all")
    assert name in result.out and done["execution_id"] in result.out
    listed = json.loads(berth("ps", "--json").out)["executions"]
    assert name in [one["execution_id"] for one in listed]
    server.request("DELETE", f"/executions/{name}")
    stream.close()


def test_ps_without_a_server():
    result = call("ps", env={"BERTH_URL": "http://127.0.0.1:1"})
    assert result.code == 125 and result.err.startswith("berth ps: "), result


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version(words, server):
    result = call(*words)
    assert result.code == 0
    assert result.out == f"berth {server.get('/health').json()['version']}\n"


@pytest.mark.parametrize("words", [["help"], ["--help"], ["-h"], ["help", "run"], ["run", "--help"],
                                   ["help", "ps"], ["ps", "-h"], ["help", "serve"],
                                   ["serve", "--help"]])
def test_help(words):
    result = call(*words)
    assert result.code == 0 and result.out.startswith("usage: berth"), result
    assert not result.err


@pytest.mark.parametrize("words", [["--port", "70000"], ["--port", "x"], ["--nope"], ["extra"],
                                   ["--state"]])
def test_wrong_serve(words):
    result = call("serve", *words)
    assert result.code == 2 and result.err, result


def test_serve_on_a_taken_port(server):
    folder = new_folder()
    try:
        result = call("serve", "--port", str(server.port), "--state", str(folder))
        assert result.code == 1 and str(server.port) in result.err, result
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    server.hello()


@pytest.mark.parametrize("env, word, code", [
    ({"BERTH_MAX_SANDBOXES": "many"}, "BERTH_MAX_SANDBOXES", 2),
    ({"BERTH_TIMEOUT": "-1"}, "BERTH_TIMEOUT", 2),
    ({"BERTH_RAM": "1XB"}, "BERTH_RAM", 2),
    ({"BERTH_AUTH": "maybe"}, "BERTH_AUTH", 2),
    # What is wrong may be the host, and the setting right.
    ({"BERTH_USER": "nobody-of-that-name"}, "useradd", 1),
    ({"BERTH_USER": "root"}, "root", 1)])
def test_serve_with_wrong_settings(env, word, code):
    folder = new_folder()
    try:
        result = call("serve", "--port", "0", "--state", str(folder), env=env)
        assert result.code == code and word in result.err and not result.out, result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- what is installed beside it ----


def test_bash_completion():
    path = REPO / "completion" / "berth.bash"
    subprocess.run(["bash", "-n", str(path)], check=True)
    code = (f"source {path}; COMP_WORDS=(berth ru); COMP_CWORD=1;"
            " $(complete -p berth | sed 's/.*-F \\([^ ]*\\).*/\\1/') berth ru berth;"
            " echo ${COMPREPLY[@]}")
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["run"], done


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_what_the_help_names(shell):
    path = REPO / "completion" / f"berth.{shell}"
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(path)], check=True)
    words = set(re.findall(r"--([a-z]+)", call("help", "run").out))
    words |= set(re.findall(r"^  ([a-z]+) ", call("help").out, re.MULTILINE))
    missing = [word for word in words if word not in path.read_text()]
    assert len(words) > 10 and not missing, missing


def test_manual_page_renders():
    page = str(REPO / "man" / "berth.1")
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    done = subprocess.run(["groff", "-mandoc", "-Tutf8", "-ww", "-z", page],
                          capture_output=True, text=True, check=True)
    assert done.stderr == ""
    text = subprocess.run(["groff", "-mandoc", "-Tascii", "-P-c", page], capture_output=True,
                          text=True, check=True).stdout
    for word in ("serve", "run", "ps", "version", "--timeout", "BERTH_URL", "logs", "drain",
                 "session attach", "--idle-timeout", "--save-images", "BERTH_HISTORY",
                 "image pull", "--tls-verify", "BERTH_CDI"):
        assert word in re.sub(".\b", "", text), word


# ---- languages ----


def test_languages(berth):
    result = berth("languages")
    assert (result.code, result.err) == (0, ""), result
    lines = result.out.splitlines()
    assert lines[0].split() == ["LANGUAGE", "VERSION", "SESSIONS", "COMPILED", "ALIASES"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["python"][2:] == ["variables", "no", "python3,", "py"]
    assert rows["perl"][2:] == ["files", "no", "pl"]
    listed = json.loads(berth("languages", "--image", "host", "--json").out)
    assert [one["name"] for one in listed["languages"]] == list(rows)
    missing = berth("languages", "--image", "a/b c")
    assert (missing.code, missing.out) == (125, "") and "image" in missing.err, missing
    assert berth("languages", "more").code == 2


def test_run_in_another_language(berth):
    result = berth("run", "--lang", "perl", "-c", "print <STDIN>;", stdin=b"text\n")
    assert (result.code, result.out) == (0, "text\n"), result
