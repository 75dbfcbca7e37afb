"""Requests that are wrong, hostile or half: each has its status in the one error shape, the next
request is served, and the server's descriptors and threads do not grow."""
import base64
import json
import socket
import time

import pytest

from harness import HANG_SECS, assert_error, at_once, head, is_closed, read_answer, wait_until

JSON_LINE = "Content-Type: application/json"
HEAD_DEADLINE_SECS = 10


@pytest.fixture(scope="module", autouse=True)
def nothing_grows(server, slow_bodies):
    for _ in range(5):
        server.hello()
    server.wait_clean()
    before = server.snapshot()
    yield

    def grown():
        after = server.snapshot()
        return {name: (before.get(name, 0), after[name]) for name in after
                if name.endswith((".fds", ".threads", ".processes", ".mounts", "cgroups",
                                  "zombies"))
                and after[name] > before.get(name, 0)}

    wait_until(lambda: not grown(), lambda: f"grew: {grown()}", secs=30)


@pytest.fixture(autouse=True)
def the_next_request_is_served(server):
    yield
    server.hello()


def fields(**changes):
    return {"code": "print(1)", **changes}


# ---- JSON ----


@pytest.mark.parametrize("body", [
    b"{", b"}", b"[", b'{"code": }', b'{"code": "print(1)"', b"null", b"[]", b'"text"', b"42",
    b'{"code": "print(1)"} trailing', b'{"code": "\xff\xfe"}', b"\xef\xbb\xbf{}", b"not json",
    b'{"code": "print(1)", "timeout": NaN}', b'{"code": "print(1)", "timeout": Infinity}',
    b"{'code': 'print(1)'}", b'{"code": "a\nb"}', b'{"code": "\\ud800"}', b"\x00", b" ",
    b'{"code": "print(1)", "code": 5}',
])
def test_malformed_json(server, body):
    assert_error(server.post(body), 400)


def test_empty_body(server):
    answer = server.request("POST", "/execute")
    assert_error(answer, 400)


@pytest.mark.parametrize("body", [b"[" * 10000, b'{"a":' * 10000, b'{"code":"print(1)","x":' +
                                  b"[" * 10000 + b"]" * 10000 + b"}"])
def test_deep_json(server, body):
    assert_error(server.post(body), 400)


def test_hundreds_of_deep_bodies_at_once(server):
    calls = [lambda: server.post(b"[" * 100_000) for _ in range(100)]
    for answer in at_once(calls, 20):
        assert_error(answer, 400)


TEXT_FIELDS = ["code", "lang", "stdin", "task_type", "image", "profile", "engine",
               "runtime"]
WRONG_TYPES = [(name, value) for name in TEXT_FIELDS for value in (5, 1.5, True, [], {})]
WRONG_TYPES += [(name, value) for name in ("env", "resources", "labels")
                for value in (5, "x", True, ["x"])]
WRONG_TYPES += [(name, value) for name in ("files", "libraries")
                for value in (5, "x", True, {"a": 1})]
WRONG_TYPES += [("timeout", value) for value in ("x", "", True, [], {}, "1s", "-1")]
WRONG_TYPES += [("network", value) for value in (5, 1.5, True, [], {}, {"mode": 5},
                                                 {"mode": "egress", "allow": "x"})]
WRONG_TYPES += [("keep_template", value) for value in (1, "yes", [])]


@pytest.mark.parametrize("name, value", WRONG_TYPES)
def test_wrong_types(server, name, value):
    assert_error(server.post(fields(**{name: value})), 400, name)


@pytest.mark.parametrize("name", ["cpu", "ram", "storage", "gpu"])
@pytest.mark.parametrize("value", [True, [], {}, "x", "", -1, "-1", "1XB", 1.5e300,
                                   "99999999999TB"])
def test_wrong_resources(server, name, value):
    assert_error(server.post(fields(resources={name: value})), 400, f"resources.{name}")


@pytest.mark.parametrize("env", [{"A": 1}, {"A": None}, {"A": ["x"]}, {"": "x"}, {"A=B": "x"},
                                 {"1A": "x"}, {"A B": "x"}, {"é": "x"}, {"A": "x" * 200_000},
                                 {f"N{i}": "x" for i in range(600)},
                                 {f"N{i}": "x" * 4000 for i in range(100)}])
def test_wrong_env(server, env):
    assert_error(server.post(fields(env=env)), 400, "env")


def test_missing_code(server):
    assert_error(server.post({}), 400, "code")
    assert_error(server.post({"code": None}), 400, "code")


@pytest.mark.parametrize("changes", [{"code": "print('\0')"}, {"env": {"A": "x\0y"}},
                                     {"files": [{"path": "a\0b", "content": ""}]},
                                     {"lang": "python\0"}, {"labels": {"a": "\0"}}])
def test_nul_in_strings(server, changes):
    """Never cut short in silence: refused, or taken whole."""
    answer = server.post(fields(**changes))
    assert_error(answer, 400)


@pytest.mark.parametrize("lang", ["cobol", "", "python ", "../python", "python" * 1000, "PYTHON!"])
def test_unknown_language(server, lang):
    assert_error(server.post(fields(lang=lang)), 400, "lang")


@pytest.mark.parametrize("task", ["run", "execute_", "execute_cobol", ""])
def test_unknown_task_type(server, task):
    assert_error(server.post(fields(task_type=task)), 400)


@pytest.mark.parametrize("timeout", [0, -1, -0.5, 1e308, 1e30, 3601, "0", "-5"])
def test_timeouts_out_of_range(server, timeout):
    assert_error(server.post(fields(timeout=timeout)), 400, "timeout")


@pytest.mark.parametrize("timeout", [b"1e999", b"-1e999", b"1" * 400,
                                     b"1" + b"0" * 30])
def test_timeouts_that_are_no_number(server, timeout):
    assert_error(server.post(b'{"code": "print(1)", "timeout": ' + timeout + b"}"), 400)


def test_more_than_the_host_has(server):
    limits = server.get("/api/v1/info").json()["engines"][0]["limits"]
    for name, value in (("ram", limits["ram_bytes"]), ("cpu", limits["cpu"])):
        answer = server.post(fields(resources={name: value + 1}))
        assert_error(answer, 400, name, str(int(value)))


def test_storage_above_half_of_ram(server):
    """It needs a root on disk; where there is none, the answer says what would be right."""
    answer = server.post(fields(resources={"ram": "64MiB", "storage": "33MiB"}))
    if "disk" in server.get("/api/v1/info").json()["engines"][0]["capabilities"]:
        assert answer.status == 200, answer
    else:
        assert_error(answer, 400, "storage", "ram", str(33 << 20), str(32 << 20))


@pytest.mark.parametrize("changes", [{"libraries": ["-e ."]}, {"network": "full"},
                                     {"network": "bridge"}, {"image": "none-such"},
                                     {"profile": "root"}, {"engine": "docker"},
                                     {"resources": {"gpu": 1}}])
def test_what_is_not_offered_is_refused_by_name(server, changes):
    assert_error(server.post(fields(**changes)), 400, next(iter(changes)))


CONTENT = base64.b64encode(b"x").decode()


@pytest.mark.parametrize("files", [
    [5], ["x"], [{}], [{"path": "a"}], [{"content": CONTENT}], [{"path": 5, "content": CONTENT}],
    [{"path": "a", "content": 5}], [{"path": "a", "content": "***"}],
    [{"path": "a", "content": "QQ"}],
    [{"path": "a", "content": "QQ=="}, {"path": "", "content": ""}],
    [{"path": "../a", "content": CONTENT}], [{"path": "a/../../b", "content": CONTENT}],
    [{"path": "a/", "content": CONTENT}], [{"path": "/", "content": CONTENT}],
    [{"path": ".", "content": CONTENT}], [{"path": "x" * 300, "content": CONTENT}],
    [{"path": "d/" * 3000 + "f", "content": CONTENT}], [{"path": "main.py", "content": CONTENT}],
    [{"path": "/workspace/main.py", "content": CONTENT}],
    [{"path": "/workspace/./main.py", "content": CONTENT}],
    [{"path": f"f{i}", "content": CONTENT} for i in range(2000)],
])
def test_wrong_files(server, files):
    assert_error(server.post(fields(files=files)), 400, "files")


# ---- size ----


def test_body_of_100_mb_is_not_read(server):
    """Refused by its length alone, and closed; an insistent client gets no further."""
    with server.connect() as sock:
        sock.sendall(head("POST", "/execute", "localhost", JSON_LINE, "Content-Length: 104857600"))
        answer = read_answer(sock)
        assert_error(answer, 413)
        assert answer.headers["Connection"] == "close"
        sent = 0
        try:
            while sent < 100 << 20:
                sent += sock.send(b"x" * 65536)
        except OSError:
            pass
        assert sent < 64 << 20, "the body was read after all"


def test_large_bodies_at_once_hold_no_memory(server):
    before = server.snapshot()["berth-server.rss_kb"]
    body = b'{"code": "' + b"x" * (5 << 20) + b'"}'

    def call():
        with server.connect() as sock:
            try:
                sock.sendall(head("POST", "/execute", "localhost", JSON_LINE,
                                  f"Content-Length: {len(body)}") + body)
            except OSError:
                pass
            return read_answer(sock)

    for answer in at_once([call] * 20):
        if answer is not None:  # a reset may overtake the answer of who sends on
            assert_error(answer, 413)
    assert server.snapshot()["berth-server.rss_kb"] < before + (64 << 10)


def test_chunked_body_over_the_cap(server):
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with server.connect() as sock:
        sock.sendall(head("POST", "/execute", "localhost", JSON_LINE, "Transfer-Encoding: chunked"))
        try:
            for _ in range(200):
                sock.sendall(chunk)
        except OSError:
            pass
        answer = read_answer(sock)
    if answer is not None:
        assert_error(answer, 413)


def test_chunked_body_is_taken(server):
    body = json.dumps(fields()).encode()
    pieces = b"".join(b"1\r\n" + body[i:i + 1] + b"\r\n" for i in range(len(body)))
    answer = server.raw(head("POST", "/execute", "localhost", JSON_LINE,
                             "Transfer-Encoding: chunked") + pieces + b"0\r\n\r\n")
    assert (answer.status, answer.json()["stdout"]) == (200, "1\n")


@pytest.mark.parametrize("chunks", [b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n", b"ffffffffffffffffff\r\nx",
                                    b"2\r\n{}xx\r\n"])
def test_broken_chunks(server, chunks):
    answer = server.raw(head("POST", "/execute", "localhost", JSON_LINE,
                             "Transfer-Encoding: chunked") + chunks, half_close=True)
    assert answer is None or answer.status in (400, 413), answer


@pytest.mark.parametrize("lines", [[f"X-{i}: y" for i in range(200)], ["X: " + "y" * 40_000],
                                   [f"X-{i}: " + "y" * 1000 for i in range(90)]])
def test_header_floods(server, lines):
    answer = server.raw(head("GET", "/", "localhost", *lines))
    assert answer is not None and answer.status in (400, 413, 414, 431), answer


def test_endless_header(server):
    with server.connect() as sock:
        sent = 0
        try:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
            while sent < 32 << 20:
                sent += sock.send(b"y" * 65536)
        except OSError:
            pass
        assert sent < 16 << 20


def test_long_target(server):
    answer = server.raw(head("GET", "/" + "a" * 60_000, "localhost"))
    assert answer is not None and answer.status in (400, 404, 414, 431), answer


# ---- the head ----


@pytest.mark.parametrize("data", [
    head("GET", "/", None),
    head("GET", "/", "localhost", "Host: localhost"),
    head("GET", "/", "localhost", "Host: example.org"),
    head("POST", "/execute", "localhost", JSON_LINE, "Content-Length: 2", "Content-Length: 2") +
    b"{}",
    head("POST", "/execute", "localhost", JSON_LINE, "Content-Length: 2", "Content-Length: 3") +
    b"{}x",
    head("POST", "/execute", "localhost", JSON_LINE, "Content-Length: 2",
         "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    head("POST", "/execute", "localhost", JSON_LINE, "Transfer-Encoding: gzip, chunked") +
    b"0\r\n\r\n",
    head("POST", "/execute", "localhost", JSON_LINE, "Transfer-Encoding: identity") + b"{}",
    head("GET", "/", "localhost", "Content-Length : 0"),
    head("GET", "/", "localhost", "Bad Name: x"),
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\nHost: localhost\n\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    b"GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n",
])
def test_heads_that_can_be_read_in_two_ways(server, data):
    with server.connect() as sock:
        sock.sendall(data)
        answer = read_answer(sock)
        assert_error(answer, 400)
        assert is_closed(sock), "the connection has to be closed: what follows can't be trusted"


@pytest.mark.parametrize("value", ["-1", "x", "+2", "1e3", "99999999999999999999999", "0x2"])
def test_content_lengths_that_are_no_number(server, value):
    with server.connect() as sock:
        sock.sendall(head("POST", "/execute", "localhost", JSON_LINE, f"Content-Length: {value}") +
                     b"{}")
        answer = read_answer(sock)
        assert answer is None or answer.status in (400, 413), answer
        assert is_closed(sock)


@pytest.mark.parametrize("data", [b"\r\n" * 1000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                                  b"\xff" * 2000, b"GET\r\n\r\n", b"\0" * 100,
                                  b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
                                  b"GET / HTTP/9\r\nHost: localhost\r\n\r\n",
                                  b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_what_is_not_http(server, data):
    answer = server.raw(data, half_close=True)
    assert answer is None or answer.status >= 400, answer


@pytest.mark.parametrize("host", ["example.org", "example.org:8000", "127.0.0.1.example.org",
                                  "localhost.example.org", "169.254.169.254", "[::2]", "0x7f.1",
                                  "user@localhost", "localhost:80:80", ""])
@pytest.mark.parametrize("path", ["/execute", "/health", "/"])
def test_foreign_host(server, host, path):
    """DNS rebinding: a page under another name does not drive this server."""
    answer = server.raw(head("GET" if path != "/execute" else "POST", path, host))
    assert answer is not None and answer.status in (400, 403), answer
    assert_error(answer, answer.status)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:1234", "[::1]:80",
                                  "127.0.0.5"])
def test_own_hosts(server, host):
    assert server.raw(head("GET", "/health", host)).status == 200


@pytest.mark.parametrize("line", ["X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4",
                                  "X-Real-IP: 1.2.3.4", "x-forwarded-host: a", "Via: 1.1 proxy"])
def test_forwarding_headers_need_a_token(server, line):
    body = json.dumps(fields()).encode()
    answer = server.raw(head("POST", "/execute", "localhost", JSON_LINE, line,
                             f"Content-Length: {len(body)}") + body)
    assert_error(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert server.raw(head("GET", "/health", "localhost", line)).status == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded",
                                  "multipart/form-data; boundary=x", "application/jsonx", ""])
def test_content_type(server, kind):
    body = json.dumps(fields()).encode()
    lines = [f"Content-Length: {len(body)}"]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    assert_error(server.raw(head("POST", "/execute", "localhost", *lines) + body), 415)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8",
                                  "Application/JSON"])
def test_content_types_that_are_json(server, kind):
    answer = server.request("POST", "/execute", json.dumps(fields()), {"Content-Type": kind})
    assert answer.status == 200


@pytest.mark.parametrize("path", ["/nothing", "/execute/more", "/executions/a/b", "//x", "/api/v1",
                                  "/%2e%2e/etc/passwd", "/../../etc/passwd", "/health\u00e9"])
def test_unknown_paths(server, path):
    data = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1")
    assert_error(server.raw(data), 404)


@pytest.mark.parametrize("method, path, allowed", [
    ("GET", "/execute", "POST"), ("PUT", "/execute", "POST"), ("POST", "/health", "GET"),
    ("DELETE", "/", "GET"), ("POST", "/executions", "GET"), ("PATCH", "/metrics", "GET"),
    ("PUT", "/executions/00000000-0000-4000-8000-000000000000", "DELETE"),
    ("OPTIONS", "/execute", "POST"), ("BREW", "/execute", "POST")])
def test_wrong_methods(server, method, path, allowed):
    answer = server.request(method, path)
    assert_error(answer, 405)
    assert allowed in answer.headers["Allow"]


def test_head_requests(server):
    answer = server.request("HEAD", "/health")
    assert (answer.status, answer.body) == (200, b"")


# ---- time and half connections ----


def test_half_closed_before_the_body_is_whole(server):
    answer = server.raw(head("POST", "/execute", "localhost", JSON_LINE, "Content-Length: 100") +
                        b'{"code"', half_close=True)
    assert answer is None or answer.status == 400, answer


def test_half_closed_in_the_head(server):
    answer = server.raw(b"POST /execute HTTP/1.1\r\nHost: local", half_close=True)
    assert answer is None or answer.status == 400, answer


def test_half_closed_after_a_whole_request_counts_as_gone(server):
    body = json.dumps(fields(code="import time; time.sleep(600)")).encode()
    with server.connect() as sock:
        sock.sendall(head("POST", "/execute", "localhost", JSON_LINE,
                          f"Content-Length: {len(body)}") + body)
        wait_until(server.code_pids, "the code runs")
        sock.shutdown(socket.SHUT_WR)
        answer = read_answer(sock)
    assert answer is None or answer.json()["killed_by"] == "user", answer
    server.wait_clean()


def test_connections_that_say_nothing(server):
    socks = [server.connect() for _ in range(200)]
    server.hello()
    for sock in socks:
        sock.close()


def test_resets(server):
    for _ in range(50):
        sock = server.connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(head("POST", "/execute", "localhost", JSON_LINE, "Content-Length: 10") + b"{")
        sock.close()


def test_pipelined_requests_are_answered_in_order(server):
    one = head("GET", "/health", "localhost")
    with server.connect() as sock:
        sock.sendall(one * 3 + head("GET", "/nothing", "localhost", "Connection: close"))
        text = b""
        while piece := sock.recv(65536):
            text += piece
    statuses = [part.split()[0] for part in text.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"200", b"404"]


def test_slow_head_is_cut(server):
    """The deadline is of the whole head, so a byte now and then does not extend it."""
    with server.connect(timeout_secs=0.5) as sock:
        data = iter(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000)
        end = time.monotonic() + HEAD_DEADLINE_SECS + HANG_SECS
        while time.monotonic() < end:
            try:
                sock.sendall(bytes([next(data)]))
                if sock.recv(4096) == b"":
                    return
            except (socket.timeout, TimeoutError):
                continue
            except ConnectionError:
                return
    raise AssertionError("a slow head is read for ever")
