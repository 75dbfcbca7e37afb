"""POST /execute and executions as objects, as the contract says them, on the native engine."""
import base64
import json
import re
import threading
import uuid

import pytest

from harness import assert_error, assert_time, at_once, wait_until

OBJECT = {  # key: types
    "execution_id": str, "status": str, "stdout": str, "stderr": str, "output": str,
    "exit_code": int, "execution_time_secs": (int, float), "timestamp": str,
    "killed_by": (str, type(None)), "limits_hit": list, "state": (str, type(None)),
    "truncated": bool, "phase": str, "results": list, "error": (dict, type(None)), "usage": dict,
}
USAGE = ("cpu_ms", "wall_ms", "max_rss_bytes")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def file(path, content):
    return {"path": path, "content": base64.b64encode(content).decode()}


def test_hello(server):
    done = server.execute("print('Hello, world')", lang="python")
    assert done["status"] == "success"
    assert done["stdout"] == "Hello, world\n"
    assert (done["stderr"], done["exit_code"], done["killed_by"]) == ("", 0, None)
    assert (done["limits_hit"], done["truncated"], done["state"]) == ([], False, None)


def test_object_has_every_key_with_its_type(server):
    done = server.execute("print(1)")
    for key, kinds in OBJECT.items():
        assert key in done, f"{key} is missing"
        assert isinstance(done[key], kinds), f"{key} is {done[key]!r}"
    assert UUID.fullmatch(done["execution_id"])
    assert_time(done["timestamp"])
    assert done["execution_time_secs"] > 0
    for key in USAGE:
        assert isinstance(done["usage"][key], (int, float)) and done["usage"][key] > 0, key


def test_every_execution_has_a_sandbox_of_its_own(server):
    write = "import os; print(os.path.exists('/tmp/mark')); open('/tmp/mark', 'w').close()"
    first, second = server.execute(write), server.execute(write)
    assert first["stdout"] == second["stdout"] == "False\n"
    assert first["execution_id"] != second["execution_id"]


def test_streams_are_apart_and_in_order(server):
    code = ("import sys, time\n"
            "for i in range(5):\n"
            "    print('out', i, flush=True); time.sleep(0.05)\n"
            "    print('err', i, file=sys.stderr, flush=True); time.sleep(0.05)\n")
    done = server.execute(code)
    assert done["stdout"] == "".join(f"out {i}\n" for i in range(5))
    assert done["stderr"] == "".join(f"err {i}\n" for i in range(5))
    assert done["output"] == "".join(f"out {i}\nerr {i}\n" for i in range(5))


def test_uncaught_error_is_a_served_request(server):
    done = server.execute("print('before')\nundefined_name")
    assert (done["status"], done["exit_code"], done["killed_by"]) == ("error", 1, None)
    assert done["stdout"] == "before\n"
    assert "Traceback (most recent call last)" in done["stderr"]
    assert "NameError: name 'undefined_name' is not defined" in done["stderr"]
    assert "line 2" in done["stderr"]


def test_syntax_error(server):
    done = server.execute("def (:")
    assert (done["status"], done["exit_code"]) == ("error", 1)
    assert "SyntaxError" in done["stderr"]


@pytest.mark.parametrize("code", [0, 3, 125, 126, 127, 128, 137, 255])
def test_exit_codes(server, code):
    done = server.execute(f"import sys; sys.exit({code})")
    assert (done["exit_code"], done["killed_by"]) == (code, None)
    assert done["status"] == ("success" if code == 0 else "error")


@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 15])
def test_death_by_signal(server, number):
    done = server.execute("import os, signal\n"
                          f"signal.signal({number}, signal.SIG_DFL) if {number} != 9 else None\n"
                          f"os.kill(os.getpid(), {number})\n")
    assert (done["exit_code"], done["killed_by"]) == (128 + number, "signal")
    assert done["status"] in ("error", "killed")


def test_stdin(server):
    done = server.execute("import sys; print(repr(sys.stdin.read()))", stdin="one\ntwo é\n")
    assert done["stdout"] == "'one\\ntwo é\\n'\n"
    done = server.execute("import sys; print(repr(sys.stdin.read()))")
    assert done["stdout"] == "''\n", "no stdin is an end of file, not a hang"


def test_large_stdin(server):
    text = "x" * (1 << 20)
    assert server.execute("import sys; print(len(sys.stdin.read()))",
                          stdin=text)["stdout"] == f"{1 << 20}\n"


def test_stdin_that_nobody_reads(server):
    assert server.execute("print('done')", stdin="y" * (1 << 20))["stdout"] == "done\n"


def test_env(server):
    done = server.execute("import os; print(os.environ['GREETING'], os.environ['EMPTY'] == '')",
                          env={"GREETING": "hé \"x\" = $y", "EMPTY": ""})
    assert done["stdout"] == "hé \"x\" = $y True\n"
    done = server.execute("import os; print(sorted(k for k in os.environ if 'BERTH' in k))")
    assert done["stdout"] == "[]\n", "the server's own environment does not come in"


def test_files(server):
    binary = bytes(range(256)) * 40
    files = [file("data.bin", binary), file("deep/er/note.txt", b"nested"),
             file("tool.py", b"def answer():\n    return 42\n"),
             file("/tmp/absolute.txt", b"absolute"), file("empty", b"")]
    code = ("import hashlib, os, tool\n"
            "print(os.getcwd(), tool.answer())\n"
            "print(hashlib.sha256(open('data.bin','rb').read()).hexdigest())\n"
            "print(open('deep/er/note.txt').read(), open('/tmp/absolute.txt').read())\n"
            "print(os.path.getsize('empty'), os.access('data.bin', os.W_OK))\n")
    import hashlib
    done = server.execute(code, files=files)
    assert done["stdout"].splitlines() == [
        "/workspace 42", hashlib.sha256(binary).hexdigest(), "nested absolute", "0 True"], done


def test_many_files(server):
    files = [file(f"f/{i}", str(i).encode()) for i in range(200)]
    done = server.execute("print(sum(int(open(f'f/{i}').read()) for i in range(200)))", files=files)
    assert done["stdout"] == f"{sum(range(200))}\n"


def test_large_file(server):
    done = server.execute("import os; print(os.path.getsize('big'))",
                          files=[file("big", b"z" * 2_500_000)])
    assert done["stdout"] == "2500000\n"


def test_timeout(server):
    done = server.execute("print('before', flush=True)\nimport time; time.sleep(600)", timeout=0.5)
    assert (done["status"], done["killed_by"], done["exit_code"]) == ("timeout", "timeout", 137)
    assert done["stdout"] == "before\n"
    assert done["execution_time_secs"] >= 0.5


def test_timeout_as_text(server):
    assert server.execute("import time; time.sleep(600)", timeout="0.3")["killed_by"] == "timeout"


def test_ram_is_taken(server):
    done = server.execute("x = bytearray(200 << 20)",
                          resources={"ram": "64MiB", "storage": "16MiB"})
    assert (done["killed_by"], done["limits_hit"]) == ("oom", ["memory"])
    done = server.execute("x = bytearray(200 << 20); print(len(x))", resources={"ram": "400MiB"})
    assert (done["stdout"], done["killed_by"]) == ("209715200\n", None)


def test_a_path_that_comes_with_the_files(server):
    """The kernel began with the variable, and without the folder."""
    done = server.execute("import mine; print(mine.__file__)", env={"PYTHONPATH": "/workspace/lib"},
                          files=[{"path": "lib/mine.py", "content": ""}])
    assert done["stdout"] == "/workspace/lib/mine.py\n", done


def test_cpu_is_taken(server):
    spin = "import time\nend = time.time() + 1.5\nwhile time.time() < end: pass"
    # Less than it gets beside other load.
    done = server.execute(spin, resources={"cpu": "0.1"})
    assert done["status"] == "success"
    assert "cpu" in done["limits_hit"], done
    assert done["usage"]["cpu_ms"] < done["usage"]["wall_ms"] * 0.8, done["usage"]


def test_storage_is_taken(server):
    code = ("import errno, os\n"
            "try:\n"
            "    with open('/workspace/big', 'wb', buffering=0) as f:\n"
            "        for _ in range(64): f.write(b'x' * (1 << 20))\n"
            "except OSError as problem:\n"
            "    print(errno.errorcode[problem.errno], os.path.getsize('/workspace/big') >> 20)\n")
    done = server.execute(code, resources={"ram": "128MiB", "storage": "32MiB"})
    assert done["status"] == "success", done
    assert done["stdout"].split()[0] in ("ENOSPC", "EFBIG"), done
    assert int(done["stdout"].split()[1]) <= 32
    assert done["limits_hit"] == ["disk"], done


def test_unicode(server):
    done = server.execute("print('héllo ✓ 😀 \\x00 end')")
    assert done["stdout"] == "héllo ✓ 😀 \x00 end\n"


def test_invalid_utf8_is_replaced(server):
    done = server.execute("import os; os.write(1, b'a\\xff\\xfeb\\xc3'); os.write(2, b'\\x80')")
    assert done["stdout"] == "a\ufffd\ufffdb\ufffd"
    assert done["stderr"] == "\ufffd"


def test_output_is_cut_and_the_code_goes_on(server):
    code = ("import sys\n"
            "for _ in range(48): sys.stdout.write('x' * (64 << 10))\n"
            "sys.stdout.flush()\n"
            "print('the end', file=sys.stderr)\n")
    done = server.execute(code)
    assert done["status"] == "success" and done["exit_code"] == 0
    assert len(done["stdout"]) == 1 << 20
    assert done["truncated"] is True and done["limits_hit"] == ["output"]
    assert done["stderr"] == "the end\n"
    assert done["usage"]["stdout_bytes"] == 48 * (64 << 10)


def test_output_of_exactly_the_cap_is_whole(server):
    done = server.execute("import sys; sys.stdout.write('x' * (1 << 20))")
    assert len(done["stdout"]) == 1 << 20
    assert (done["truncated"], done["limits_hit"]) == (False, [])


def test_task_type(server):
    assert server.execute("print(1)", task_type="execute_code")["stdout"] == "1\n"
    assert server.execute("print(2)", task_type="execute_python")["stdout"] == "2\n"
    assert server.execute("print(3)", lang="py")["stdout"] == "3\n"


def test_fields_of_other_clients_are_taken(server):
    done = server.execute("print(1)", libraries=[], keep_template=False, network="none", env={},
                          resources={"cpu": "1", "ram": "256MB", "storage": "64MB", "gpu": "0"},
                          files=[], some_field_of_the_future={"a": [1]})
    assert done["stdout"] == "1\n"


def test_labels_stay_with_the_execution(server):
    done = server.execute("print(1)", labels={"team": "a", "run": "7"})
    assert done["labels"] == {"team": "a", "run": "7"}
    assert server.get(f"/executions/{done['execution_id']}").json()["labels"] == done["labels"]


def test_execution_can_be_read_by_id(server):
    done = server.execute("print('kept')")
    for path in (f"/executions/{done['execution_id']}", f"/executions/{done['execution_id']}/"):
        answer = server.get(path)
        assert (answer.status, answer.json()) == (200, done)


def test_delete_of_an_ended_execution_changes_nothing(server):
    done = server.execute("print('kept')")
    answer = server.request("DELETE", f"/executions/{done['execution_id']}")
    assert (answer.status, answer.json()) == (200, done)


@pytest.mark.parametrize("name", ["9c1185a5-c5e9-4fc6-8f1e-1d2b9c0f7a64", "nonsense", "..%2f..%2fetc", "a" * 400])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_execution(server, method, name):
    assert_error(server.request(method, f"/executions/{name}"), 404)


def started(stream):
    """Reads the first event, and returns the id in it."""
    name, data = next(stream)
    assert name == "started"
    return data["execution_id"]


def test_cancel(clean_server):
    stream = clean_server.stream("import time; time.sleep(600)")
    name = started(stream)
    path = f"/executions/{name}"
    # Its row is written behind the `started` event.
    wait_until(lambda: clean_server.get(path).json().get("status") == "running", "it runs")
    answer = clean_server.request("DELETE", f"/executions/{name}")
    assert answer.status == 200
    assert (answer.json()["status"], answer.json()["killed_by"]) == ("killed", "user")
    assert list(stream)[-1][0] == "end"
    assert clean_server.get(f"/executions/{name}").json() == answer.json()


def test_list(server):
    done = [server.execute("print(1)")["execution_id"] for _ in range(3)]
    listed = server.get("/executions?limit=3").json()
    assert [one["execution_id"] for one in listed["executions"]] == done[::-1]
    assert listed["next"] == done[0]
    more = server.get(f"/executions/?limit=2&after={done[2]}").json()
    assert [one["execution_id"] for one in more["executions"]] == [done[1], done[0]]
    stream = server.stream("import time; time.sleep(600)")
    name = started(stream)

    def running():  # its row is written behind the `started` event
        listed = server.get("/executions?status=running").json()["executions"]
        assert {one["status"] for one in listed} <= {"running"}
        return name in [one["execution_id"] for one in listed]

    wait_until(running, "the list names what runs")
    server.request("DELETE", f"/executions/{name}")
    stream.close()
    assert_error(server.get("/executions?limit=0"), 400, "limit")


@pytest.mark.parametrize("path", ["/health", "/metrics", "/api/v1/info", "/executions",
                                  "/languages"])
def test_trailing_slashes(server, path):
    assert server.get(path).status == server.get(path + "/").status == 200


def test_post_with_a_trailing_slash(server):
    assert server.post({"code": "print(1)"}, path="/execute/").json()["stdout"] == "1\n"


def test_root_health_metrics_info(server):
    assert server.get("/").json() == {"status": "ok"}
    health = server.get("/health").json()
    assert health["status"] == "ok" and health["version"]
    assert [(one["name"], one["status"]) for one in health["engines"]] == [("native", "ok")]
    info = server.get("/api/v1/info").json()
    assert info["name"] == "berth" and info["limits"]["timeout_secs"] == 30
    assert {"memory", "cpu", "pids", "storage", "isolated"} <= set(
        info["engines"][0]["capabilities"])
    metrics = server.get("/metrics")
    assert metrics.headers.get_content_type() == "text/plain"
    line = re.compile(r"(# (HELP|TYPE) .+)|([a-z_]+(\{[^}]*\})? [0-9.e+-]+)")
    for text in metrics.body.decode().splitlines():
        assert line.fullmatch(text), text


def test_metrics_count(server):
    before = server.metric('berth_executions_total{status="success"}')
    server.execute("print(1)")
    assert server.metric('berth_executions_total{status="success"}') == before + 1


# ---- idempotency ----


def test_idempotency_key_answers_the_first_outcome(server):
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = server.execute("import os; print(os.urandom(8).hex())", headers=key)
    again = server.execute("import os; print(os.urandom(8).hex())", headers=key)
    assert again == first
    other = server.execute("import os; print(os.urandom(8).hex())",
                           headers={"Idempotency-Key": str(uuid.uuid4())})
    assert other["stdout"] != first["stdout"]


def test_duplicates_at_once_run_once(server):
    key = {"Idempotency-Key": str(uuid.uuid4())}
    code = "import os, time; time.sleep(0.5); print(os.urandom(8).hex())"
    answers = at_once([lambda: server.execute(code, headers=key) for _ in range(10)])
    assert len({json.dumps(one, sort_keys=True) for one in answers}) == 1


def test_key_of_a_refused_request_is_free_again(server):
    key = {"Idempotency-Key": str(uuid.uuid4())}
    assert_error(server.post({"code": "print(1)", "timeout": -1}, headers=key), 400, "timeout")
    assert server.execute("print(1)", headers=key)["stdout"] == "1\n"


@pytest.mark.parametrize("key", ["k" * 256, "two words"])
def test_bad_idempotency_keys(server, key):
    answer = server.post({"code": "print(1)"}, headers={"Idempotency-Key": key})
    assert_error(answer, 400, "Idempotency-Key")


# ---- streams ----


@pytest.mark.parametrize("accept, kind", [("application/x-ndjson", "application/x-ndjson"),
                                          ("text/event-stream", "text/event-stream")])
def test_stream(clean_server, accept, kind):
    code = ("import sys\n"
            "print('héllo', flush=True)\n"
            "print('oops', file=sys.stderr, flush=True)\n"
            "sys.stdin.read(); print('done')\n")
    stream = clean_server.stream(code, accept, stdin="x")
    assert stream.status == 200
    assert stream.response.headers.get_content_type() == kind
    name = started(stream)
    assert stream.response.headers["X-Execution-Id"] == name
    events = list(stream)
    text = {"stdout": "", "stderr": ""}
    for kind_of, data in events[:-1]:
        text[kind_of] += data["text"]
    assert text == {"stdout": "héllo\ndone\n", "stderr": "oops\n"}
    kind_of, end = events[-1]
    assert kind_of == "end"
    assert not {"stdout", "stderr", "output"} & set(end), "streamed text is not sent twice"
    assert set(OBJECT) - {"stdout", "stderr", "output"} <= set(end)
    assert (end["execution_id"], end["status"], end["exit_code"]) == (name, "success", 0)
    kept = clean_server.get(f"/executions/{name}").json()
    assert (kept["stdout"], kept["stderr"]) == (text["stdout"], text["stderr"])


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_output_comes_while_the_code_runs(clean_server, accept):
    stream = clean_server.stream("print('now', flush=True)\nimport time; time.sleep(600)", accept)
    name = started(stream)
    seen = ""
    while seen != "now\n":
        kind, data = next(stream)
        assert kind == "stdout"
        seen += data["text"]
    assert clean_server.get(f"/executions/{name}").json()["status"] in ("queued", "running")
    clean_server.request("DELETE", f"/executions/{name}")
    assert list(stream)[-1][0] == "end"


def test_stream_keeps_characters_whole(server):
    code = ("import os, time\n"
            "for byte in '€😀é'.encode(): os.write(1, bytes([byte])); time.sleep(0.02)\n"
            "os.write(1, b'\\xe2\\x82')\n")
    text = "".join(data["text"] for kind, data in server.stream(code) if kind == "stdout")
    assert text == "€😀é\ufffd"


def test_stream_of_a_refused_request_has_a_status(server):
    stream = server.stream("print(1)", lang="cobol")
    assert stream.status == 400
    assert "cobol" in json.loads(stream.response.read())["detail"]


def test_stream_of_much_output(server):
    stream = server.stream("import sys\nfor _ in range(1000): sys.stdout.write('x' * 3000)\n")
    events = list(stream)
    text = sum(len(data["text"]) for kind, data in events if kind == "stdout")
    assert text == 1 << 20
    assert events[-1][0] == "end" and events[-1][1]["truncated"] is True


# ---- clients that leave ----


def test_leaving_a_stream_kills_the_execution(clean_server):
    stream = clean_server.stream("print('on', flush=True)\nimport time; time.sleep(600)")
    name = started(stream)
    stream.close()
    ended = wait_until(lambda: (one := clean_server.get(f"/executions/{name}").json())
                       .get("status", "queued") not in ("queued", "running") and one,
                       "the execution ends")
    assert (ended["status"], ended["killed_by"]) == ("killed", "user")


def test_leaving_a_plain_request_kills_the_execution(clean_server):
    before = {one["execution_id"] for one in clean_server.get("/executions").json()["executions"]}
    body = json.dumps({"code": "import time; time.sleep(600)"}).encode()
    sock = clean_server.connect()
    sock.sendall(b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def found():
        running = clean_server.get("/executions?status=running").json()["executions"]
        return [one["execution_id"] for one in running if one["execution_id"] not in before]

    name = wait_until(found, "the execution runs")[0]
    sock.close()
    ended = wait_until(lambda: (one := clean_server.get(f"/executions/{name}").json())
                       ["status"] not in ("queued", "running") and one, "the execution ends")
    assert (ended["status"], ended["killed_by"]) == ("killed", "user")


def test_slow_reader_slows_the_code_and_loses_nothing(server):
    stream = server.stream("import sys\nfor i in range(20000): print('%049d' % i)\n")
    pause = threading.Event()
    text = ""
    for count, (kind, data) in enumerate(stream):
        if kind == "stdout":
            text += data["text"]
        if count < 20:
            pause.wait(0.02)
    assert text == "".join("%049d\n" % i for i in range(20000))
