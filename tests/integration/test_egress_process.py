"""The way out of a sandbox: the real berth-egress and a real init, without a server. A name server
and a web server of the test are all of the internet that there is."""
import base64
import contextlib
import errno
import os
import pathlib
import re
import signal
import socket
import struct
import threading
import time

import pytest

import egress as out
import harness
from egress import DNS, PROXY, WEB, Egress, Names, Web
from engine import FRAMES, FRAME_NAMES, Engine, EngineError, MIB, Sandbox, fields, number, tlv
from engine import ID, NONCE

WORDS = "127.77.0.3"  # of the tunnel's other end
PYTHON = "/usr/bin/python3"


class Boxed(Sandbox):
    """A sandbox and what its hello carries."""

    def __init__(self, engine, **options):
        box_id = f"n{os.urandom(5).hex()}"
        reply, fds = engine.call("create", engine.spec(box_id, **options))
        self.nonce = dict(reply)[NONCE]
        super().__init__(engine, box_id, socket.socket(fileno=fds[0]), self.nonce)

    def network(self, on=True):
        return self.finish(self.request("network", tlv(1, int(on)))).errno

    def raw_channel(self):
        return self.engine.call("open_channel", tlv(ID, self.id))[1][0]

    @staticmethod
    def hello_of_egress():
        """What the server says before it passes a channel on: nothing but EGRESS will come."""
        hello = tlv(1, 1) + tlv(2, 1) + tlv(3, 1 << 9) + tlv(4, bytes(16))
        return struct.pack("<IBBHI", len(hello), FRAMES["hello"], 0, 0, 0) + hello

    def python(self, code, *arguments, **options):
        return self.run(PYTHON, "-c", code, *arguments, **options)

    def say(self, data, end=False, stop_at=None):
        """Bytes to the proxy, and all that comes back."""
        code = """
import base64, socket, sys
s = socket.create_connection(("127.0.0.1", 3128))
s.settimeout(60)
got = b""
try:
    s.sendall(base64.b64decode(sys.argv[1]))
    if sys.argv[2] == "1": s.shutdown(socket.SHUT_WR)
    while True:
        piece = s.recv(65536)
        if not piece: break
        got += piece
        if sys.argv[3] and sys.argv[3].encode() in got: break
except ConnectionError as problem:
    got += b"!" + type(problem).__name__.encode()
sys.stdout.buffer.write(got)
"""
        result = self.python(code, base64.b64encode(data).decode(), str(int(end)), stop_at or "")
        assert result.exit_code == 0, result
        return result.stdout

    def get(self, url, *options):
        """What curl says: (status of the proxy or the origin, text)."""
        result = self.run("/usr/bin/curl", "-sS", "-m", "60", "-w", "\\n%{http_code} %{http_connect}",
                          "--proxy", PROXY, *options, url)
        text, _, codes = result.stdout.decode("latin-1").rpartition("\n")
        status, connect = codes.split()
        return int(status) or int(connect), text + result.stderr.decode("latin-1")


@pytest.fixture(scope="module")
def engine():
    with Engine() as one:
        yield one
        assert one.list() == []


@pytest.fixture(scope="module")
def names():
    one = Names({
        "web.test": [WEB], "other.test": [WEB], "www.web.test": [WEB],
        "loop.test": ["127.0.0.1"], "private.test": ["10.0.0.1"], "both.test": ["10.0.0.1", WEB],
        "meta.test": ["169.254.169.254"], "six.test": ["::1"], "mapped.test": ["::ffff:127.0.0.1"],
        "nat.test": ["64:ff9b::7f00:1"], "zero.test": ["0.0.0.0"], "ula.test": ["fd00::1"],
        "words.test": [WORDS], "nowhere.test": []})
    yield one
    one.close()


@pytest.fixture(scope="module")
def web():
    with Web() as one:
        yield one


@pytest.fixture(scope="module")
def egress(names):
    with Egress(f"{WEB}/32, {WORDS}/32") as one:
        yield one


@pytest.fixture(scope="module")
def box(engine, egress, web):
    """One with the network, for tests that leave it as it was."""
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["web.test", "*.test:8080", "loop.test", "private.test", "both.test",
                            "meta.test", "six.test", "mapped.test", "nat.test", "zero.test",
                            "ula.test", "nowhere.test", "words.test:7", "missing.test",
                            "127.0.0.1", "[::1]"])
        yield one


# ---- what goes ----


def test_http_goes_out(box, egress, web):
    before = egress.counts(box)
    web.seen.clear()
    assert box.get("http://web.test/path?q=1") == (200, "hello from the web\n")
    method, path, headers, line = web.seen[-1]
    assert (method, path, line) == ("GET", "/path?q=1", b"GET /path?q=1 HTTP/1.1\r\n")
    assert headers["Host"] == "web.test" and headers["Connection"] == "close"
    assert "Proxy-Connection" not in headers
    after = egress.counts(box)
    assert after["requests"] == before["requests"] + 1 and after["refused"] == before["refused"]
    assert after["in"] > before["in"] + 19 and after["out"] > before["out"]
    harness.wait_until(lambda: f"sandbox {box.id} of tester: GET web.test:80 ok" in egress.log(),
                       egress.log)


def test_a_body_goes_out(box):
    assert box.get("http://web.test/", "-d", "given") == (200, "given")
    chunked = (b"POST http://web.test/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
               b"5\r\nhello\r\n0\r\n\r\n")
    assert b"200 OK" in box.say(chunked)


def test_an_answer_says_that_no_other_follows(box):
    """Else a client that keeps connections asks in one that is about to end."""
    status, text = box.get("http://web.test/", "-D", "/dev/stderr")
    assert status == 200 and text.startswith("hello from the web\n"), text
    assert re.search(r"^HTTP/1.1 200 OK\r\nConnection: close\r\nServer", text, re.MULTILINE), text


def test_much_comes_back_whole(box):
    code = ("import urllib.request as r, hashlib; "
            "print(len(r.urlopen('http://web.test/big/30000000').read()))")
    result = box.python(code, env=(f"http_proxy={PROXY}",))
    assert result.stdout == b"30000000\n", result


@contextlib.contextmanager
def tunnel_end(serve):
    """A server on WORDS:7 whose one connection goes to serve()."""
    with socket.create_server((WORDS, 7)) as listener:
        problems = []

        def run():
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(harness.HANG_SECS)
                    serve(connection)
            except Exception as problem:  # noqa: BLE001: told below
                problems.append(problem)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        thread.join(harness.HANG_SECS)
        assert not thread.is_alive() and not problems, problems


CONNECT = b"CONNECT words.test:7 HTTP/1.1\r\nHost: words.test:7\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def read_all(connection):
    text = b""
    while piece := connection.recv(65536):
        text += piece
    return text


def test_a_tunnel_ends_one_way_first(box):
    def serve(connection):  # answers once the code has said its end
        text = read_all(connection)
        connection.sendall(b"got " + text)

    with tunnel_end(serve):
        assert box.say(CONNECT + b"early words", end=True) == ESTABLISHED + b"got early words"


def test_a_tunnel_ends_the_other_way_first(box):
    heard = []

    def serve(connection):
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        heard.append(read_all(connection))

    code = """
import socket, sys
s = socket.create_connection(("127.0.0.1", 3128))
s.sendall(sys.argv[1].encode().decode("unicode_escape").encode())
got = b""
while piece := s.recv(100): got += piece
s.sendall(b"still here")
s.close()
print(got.endswith(b"bye"))
"""
    with tunnel_end(serve):
        result = box.python(code, CONNECT.decode().replace("\r\n", "\\r\\n"))
        assert result.stdout == b"True\n", result
    assert heard == [b"still here"]


def test_a_slow_reader_slows_the_origin(box):
    sent = []

    def serve(connection):
        connection.settimeout(2)
        try:
            while len(sent) < 4096:
                connection.sendall(b"x" * 65536)
                sent.append(65536)
        except TimeoutError:
            pass

    code = ("import socket, sys, time\ns = socket.create_connection(('127.0.0.1', 3128))\n"
            "s.sendall(sys.argv[1].encode().decode('unicode_escape').encode())\ntime.sleep(5)")
    with tunnel_end(serve):
        assert box.python(code, CONNECT.decode().replace("\r\n", "\\r\\n")).exit_code == 0
    assert 0 < len(sent) * 65536 < 64 * MIB  # what sockets hold, not what the origin has


# ---- what does not ----


@pytest.mark.parametrize("url", [
    "http://other.test/", "http://www.web.test/", "http://web.test:81/", "https://web.test:8443/",
    "http://example.com/", "http://web.test.evil.test/"])
def test_off_the_list(box, egress, url):
    before = egress.counts(box)["refused"]
    status, text = box.get(url)
    assert status == 403
    if url.startswith("http:"):
        assert "not on the list" in text and "web.test" in text and '"allow"' in text
    assert egress.counts(box)["refused"] == before + 1


@pytest.mark.parametrize("name", ["loop", "private", "meta", "six", "mapped", "nat", "zero", "ula"])
def test_listed_names_with_addresses_that_are_not_public(box, name):
    status, text = box.get(f"http://{name}.test/")
    assert status == 403 and "public" in text, text


def test_listed_literals_are_not_public_either(box):
    for url in ("http://127.0.0.1/", "http://[::1]/"):
        status, text = box.get(url)
        assert (status, "loopback" in text) == (403, True), text


def test_only_the_checked_address_of_several_is_connected_to(box, web):
    assert box.get("http://both.test/") == (200, "hello from the web\n")


def ask(box, target, method="GET", version="1.1", fields_=""):
    request = f"{method} {target} HTTP/{version}\r\nHost: web.test\r\n{fields_}\r\n"
    return box.say(request.encode("latin-1"))


# Each is some way to write 127.0.0.1, ::1, 169.254.169.254 or 10.0.0.1.
SPELLINGS = [
    "2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "127.000.000.001",
    "0177.0.0.1", "0x7f.0.0.1", "0", "0.0.0.0", "127.0.0.1.", "2852039166", "169.254.169.254",
    "0xa9fea9fe", "0251.0376.0251.0376", "10.0.0.1", "167772161", "[::]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[fe80::1%25lo]",
    "[0:0:0:0:0:0:0:1]", "[fd00:ec2::254]", "localhost", "LOCALHOST", "localhost.",
    "ip6-localhost", "a@127.0.0.1", "web.test@127.0.0.1", "web.test:80@127.0.0.1", "127.0.0.1#web.test",
    "\u2460\u2461", "xn--web-.test", "web.test\\@127.0.0.1", "web.test%00.evil.test", "127.0.0.1%2eweb.test",
    "web.test:80:80", "web.test:", "web.test:0", "web.test:65536", "web.test:+80", "", ".", "..web.test",
    "[::1", "::1", "*.test", "-web.test", "255.255.255.255", "224.0.0.1", "0x7f000001.", "1.2.3.4.5",
    "vm", "sandbox",
]


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_spellings(engine, egress, method):
    """Also with a list that names any host: what is reached is nothing but public."""
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["*"])
        for spelling in SPELLINGS:
            text = spelling.encode().decode("latin-1")
            target = f"http://{text}/" if method == "GET" else (
                text if ":" in text.rsplit("]", 1)[-1] else f"{text}:80")
            status = ask(one, target, method)[9:12]
            assert status in (b"400", b"403", b"502"), (spelling, status)
        assert one.say(b"GET http://WEB.TEST./ HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 200") or \
            ask(one, "http://WEB.TEST./")[9:12] == b"200"


def test_rebinding_is_of_no_use(engine, egress, names, web):
    """A name whose address changes from one question to the next: each connection goes to what was
    checked for it."""
    answers = {"n": 0}

    def flip(kind):
        if kind != 1:
            return []
        answers["n"] += 1
        return [WEB] if answers["n"] % 2 else ["127.0.0.1"]

    names.table["flip.test"] = flip
    with harness_listener("127.0.0.1") as (port, accepted), Web(port) as _, Boxed(engine) as one:
        assert one.network() == 0
        for i in range(6):
            egress.attach(one, [f"flip.test:{port}"], owner=f"owner-{i}")  # nothing is kept for it
            status = one.get(f"http://flip.test:{port}/")[0]
            assert status == (200 if answers["n"] % 2 else 403)
        assert answers["n"] == 6 and accepted == []


@contextlib.contextmanager
def harness_listener(address):
    """A port of the host that nobody may reach; what reached it."""
    with socket.create_server((address, 0)) as listener:
        accepted = []
        listener.settimeout(0.05)
        yield listener.getsockname()[1], accepted
        with contextlib.suppress(TimeoutError):
            accepted.append(listener.accept())


def test_own_addresses_of_the_host(engine, egress, names):
    """Whatever they are: public by number or not."""
    found = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None)}
    names.table["host.test"] = sorted(address for address in found if "%" not in address)
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["*"])
        assert one.get("http://host.test/")[0] == 403


def test_names_that_are_not_there(box):
    status, text = box.get("http://missing.test/")
    assert status == 502 and "not found" in text
    assert box.get("http://nowhere.test/")[0] == 502


# ---- requests that two readers could read differently ----


@pytest.mark.parametrize("request_", [
    b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n",
    b"GET https://web.test/ HTTP/1.1\r\n\r\n",
    b"GET http://web.test/ HTTP/2.0\r\n\r\n",
    b"GET http://web.test/\r\n\r\n",
    b"GET  http://web.test/ HTTP/1.1\r\n\r\n",
    b"GET http://web.test/ HTTP/1.1\r\nA : b\r\n\r\n",
    b"GET http://web.test/ HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
    b"GET http://web.test/ HTTP/1.1\r\nA: b\nHost: evil\r\n\r\n",
    b"GET http://web.test/ HTTP/1.1\r\nA: b\rX: y\r\n\r\n",
    b"GET http://web.test/ HTTP/1.1\r\nA: b\0\r\n\r\n",
    b"GET http://web.test/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET http://web.test/a\x01b HTTP/1.1\r\n\r\n",
    b"POST http://web.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    b"POST http://web.test/ HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
    b"POST http://web.test/ HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx",
    b"POST http://web.test/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST http://web.test/ HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST http://web.test/ HTTP/1.1\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    b"POST http://web.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST http://web.test/ HTTP/1.1\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc",
    b"CONNECT web.test:80 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"CONNECT web.test HTTP/1.1\r\n\r\n",
    b"\r\nGET http://web.test/ HTTP/1.1\r\n\r\n",
])
def test_unclear_requests_are_refused(box, web, request_):
    before = len(web.seen)
    assert box.say(request_)[9:12] == b"400"
    assert len(web.seen) == before


def test_heads_that_are_too_long(box):
    line = b"GET http://web.test/ HTTP/1.1\r\n"
    assert box.say(line + b"A: " + b"x" * 20000)[9:12] == b"431"
    assert box.say(line + b"A: b\r\n" * 101 + b"\r\n")[9:12] == b"431"


def test_a_second_request_goes_nowhere(box, web):
    """Neither to the same origin nor with another Host, however it is packed."""
    second = b"GET /second HTTP/1.1\r\nHost: other.test\r\n\r\n"
    firsts = (b"GET http://web.test/first HTTP/1.1\r\n\r\n",
              b"POST http://web.test/first HTTP/1.1\r\nContent-Length: 2\r\n\r\nab",
              b"POST http://web.test/first HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")
    for first in firsts:
        web.seen.clear()
        answer = box.say(first + second)
        assert answer.count(b"200 OK") == 1, answer
        assert [path for _, path, _, _ in web.seen] == ["/first"]


@pytest.mark.parametrize("body", [
    b"2\nab\r\n0\r\n\r\n", b"2;x=y\r\nab\r\n0\r\n\r\n", b"-2\r\nab\r\n", b"fffffffffffffffff\r\n",
    b"2\r\nabc\r\n0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b"\r\n", b"0x2\r\nab\r\n0\r\n\r\n"])
def test_bodies_that_are_unclear_end_the_connection(box, body):
    head = b"POST http://web.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b"200 OK" not in box.say(head + body, end=True)


def test_fields_between_the_code_and_the_proxy_stay_there(box, web):
    web.seen.clear()
    ask(box, "http://web.test/", fields_=(
        "Connection: X-Secret, keep-alive\r\nX-Secret: 1\r\nX-Open: 2\r\nUpgrade: h2c\r\nTE: trailers\r\n"
        "Keep-Alive: 5\r\nProxy-Authorization: Basic eA==\r\n"))
    headers = {name.lower(): value for name, value in web.seen[-1][2].items()}
    assert headers == {"host": "web.test", "x-open": "2", "connection": "close"}


def test_log_lines_cant_be_forged(box, egress):
    before = egress.log().count("\n")
    ask(box, "http://web.test/%0asandbox", "GE\x1bT")
    ask(box, "http://web.test/\nsandbox x of y: GET z ok", "GET")
    ask(box, "http://evil\x1b[31m.test/")
    lines = egress.log().splitlines()[before:]
    assert lines and all(" berth-egress: sandbox " in line and line.isprintable() for line in lines)


# ---- bounds ----


def test_a_cap_of_bytes(engine, egress, web):
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["web.test"], bytes_max=MIB)
        code = ("import urllib.request as r\ntry:\n  print(len(r.urlopen('http://web.test/big/8000000').read()))\n"
                "except Exception as e: print(type(e).__name__)")
        assert one.python(code, env=(f"http_proxy={PROXY}",)).stdout in (
            b"IncompleteRead\n", b"ConnectionResetError\n")
        counts = egress.counts(one)
        assert counts["in"] + counts["out"] == MIB
        status, text = one.get("http://web.test/")
        assert status == 403 and "bytes" in text
        egress.set_policy(one, ["web.test"], bytes_max=2 * MIB)
        assert one.get("http://web.test/")[0] == 200
        egress.attach(one, ["web.test"], bytes_max=MIB)  # attached anew: what was used counts on
        assert one.get("http://web.test/")[0] == 403


def test_a_cap_holds_over_a_restart_of_egress(engine, egress, web):
    """As far as the server was told."""
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["web.test"], bytes_max=MIB, used=MIB)
        assert one.get("http://web.test/")[0] == 403


def test_the_server_is_told_what_was_used_before_it_is_forgotten(engine, egress, web):
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["web.test"])
        assert one.get("http://web.test/")[0] == 200
        egress.events.clear()
        last = egress.detach(one)
        told = [number(dict(reply)[out.BYTES_USED]) for op, reply in egress.events
                if op == out.OPS["event_counts"] and out.text(dict(reply)[out.ID]) == one.id]
        assert told and told[-1] == last["in"] + last["out"] > 19


def test_the_server_is_told_what_was_used(engine, egress, web):
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["web.test"])
        one.get("http://web.test/big/100000")
        egress.client.settimeout(harness.HANG_SECS)
        while True:
            op, _, reply = egress.receive()
            found = dict(reply)
            if op == out.OPS["event_counts"] and out.text(found[out.ID]) == one.id:
                break
        assert number(found[out.BYTES_USED]) > 100000


HOLD = """
import socket, sys, time
held = []
for i in range(int(sys.argv[1])):
    s = socket.create_connection(("127.0.0.1", 3128))
    s.sendall(b"GET http")
    held.append(s)
print("held", flush=True)
sys.stdin.read()
"""


def test_many_silent_connections_of_one_do_not_hold_up_another(engine, egress, box):
    """Slow loris: each of them waits for its head, at most 64 at once are egress's concern."""
    with Boxed(engine) as bad:
        assert bad.network() == 0
        egress.attach(bad, ["web.test"])
        stream = bad.begin([PYTHON, "-c", HOLD, "400"], ["PATH=/usr/bin"])
        bad.wait_output(stream, b"held")
        harness.wait_until(lambda: egress.counts(bad)["connections"] == 64, "its share is taken")
        for _ in range(5):
            assert box.get("http://web.test/")[0] == 200
        assert egress.counts(bad)["connections"] == 64
        bad.send("close", stream + 1)
        bad.finish(stream)


def test_a_storm_of_connections(engine, egress, box):
    with Boxed(engine) as bad:
        assert bad.network() == 0
        egress.attach(bad, ["web.test"])
        code = ("import socket, time\nend = time.time() + 3\nn = 0\nwhile time.time() < end:\n"
                "  s = socket.socket(); s.setblocking(False); s.connect_ex(('127.0.0.1', 3128)); s.close(); n += 1\n"
                "print(n)")
        stream = bad.begin([PYTHON, "-c", code], ["PATH=/usr/bin"])
        bad.send("close", stream + 1)
        for _ in range(10):
            assert box.get("http://web.test/")[0] == 200
        result = bad.finish(stream)
        assert result.exit_code == 0 and int(result.stdout) > 100, result


# ---- the life of it ----


def test_none_then_egress_then_none(engine, egress, web):
    with Boxed(engine) as one:
        probe = "import socket; socket.create_connection(('127.0.0.1', 3128), 5)"
        assert b"ConnectionRefused" in one.python(probe).stderr
        egress.attach(one, ["web.test"])
        assert one.network() == 0 and one.network() == 0
        assert one.get("http://web.test/")[0] == 200
        assert one.network(False) == 0
        assert b"ConnectionRefused" in one.python(probe).stderr
        assert one.network() == 0  # also with connections in TIME_WAIT
        assert one.get("http://web.test/")[0] == 200
        counts = egress.detach(one)
        assert counts["requests"] == 2 and counts["connections"] == 0
        with pytest.raises(EngineError) as problem:
            egress.counts(one)
        assert problem.value.kind == "not_found"


def test_the_code_has_the_port_already(engine):
    with Boxed(engine) as one:
        code = ("import socket, sys\ns = socket.create_server(('127.0.0.1', 3128))\n"
                "print('up', flush=True)\nsys.stdin.read()")
        stream = one.begin([PYTHON, "-c", code], ["PATH=/usr/bin"])
        one.wait_output(stream, b"up")
        assert one.network() == errno.EADDRINUSE
        one.send("close", stream + 1)
        one.finish(stream)
        assert one.network() == 0


def test_without_egress_it_is_503_after_a_while(engine):
    with Boxed(engine) as one:
        assert one.network() == 0
        status, text = one.get("http://web.test/")
        assert status == 503 and "away" in text
        assert one.get("http://web.test/")[0] == 503


def test_what_is_opened_before_egress_is_there_waits_for_it(engine, egress, web):
    with Boxed(engine) as one:
        assert one.network() == 0
        stream = one.begin(["/usr/bin/curl", "-sS", "--proxy", PROXY, "http://web.test/"],
                           ["PATH=/usr/bin"])
        one.send("close", stream + 1)
        egress.attach(one, ["web.test"])
        assert one.finish(stream).stdout == b"hello from the web\n"


def test_a_narrower_policy_ends_what_it_does_not_allow(engine, egress, web):
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["words.test:7"])
        with tunnel_end(lambda connection: read_all(connection)):
            code = ("import socket, sys\ns = socket.create_connection(('127.0.0.1', 3128))\n"
                    "s.sendall(sys.argv[1].encode().decode('unicode_escape').encode())\n"
                    "print(s.recv(100).split()[1].decode(), flush=True)\n"
                    "try: print(s.recv(100))\nexcept OSError as e: print(b'')")
            stream = one.begin([PYTHON, "-c", code, CONNECT.decode().replace("\r\n", "\\r\\n")],
                               ["PATH=/usr/bin"])
            result = one.wait_output(stream, b"200\n")
            egress.set_policy(one, ["web.test"])
            assert one.finish(stream, result).stdout == b"200\nb''\n"
        assert one.get("http://web.test/")[0] == 200


def test_rules_that_are_none(engine, egress):
    with Boxed(engine) as one:
        for rule in ("", "http://web.test", "web.test:0", "*.*.test", "10.0.0", "a b", "*x.test"):
            with pytest.raises(EngineError) as problem:
                egress.attach(one, [rule])
            assert problem.value.kind == "bad_input", rule


def test_the_wrong_sandbox(engine, egress):
    """A channel whose init says another nonce."""
    with Boxed(engine) as one, Boxed(engine) as other:
        other.nonce = one.nonce
        with pytest.raises(EngineError) as problem:
            egress.attach(other, ["web.test"])
        assert problem.value.kind == "protocol"
        assert egress.attach(one, ["web.test"]) == {}


@pytest.mark.parametrize("kind, payload", [
    ("exec", b"".join((tlv(1, "e"), tlv(2, "/"), tlv(3, "/bin/true"), tlv(5, 1000), tlv(6, MIB), tlv(7, MIB)))),
    ("get_file", tlv(1, "/etc/passwd")), ("network", tlv(1, 1)), ("list", b""), ("ping", b""),
    ("egress", b"")])
def test_init_takes_nothing_else_from_egress(engine, kind, payload):
    """A process that was taken over has the sandboxes' sockets, not the sandboxes."""
    with Boxed(engine) as one, socket.socket(fileno=one.raw_channel()) as channel:
        channel.settimeout(harness.HANG_SECS)
        channel.sendall(one.hello_of_egress())
        frames = [("egress", 4, b"")] if kind == "egress" else []
        for name, stream, data in [*frames, (kind, 8, payload)]:
            channel.sendall(struct.pack("<IBBHI", len(data), FRAMES[name], 0, 0, stream) + data)
        said = b""
        try:
            while piece := channel.recv(1000):
                said += piece
        except ConnectionResetError:
            pass
        kinds = []
        while said:
            size, number_of_kind = struct.unpack_from("<IB", said)
            kinds.append(FRAME_NAMES[number_of_kind])
            said = said[12 + size:]
        assert set(kinds) <= {"hello", "done"} and len(kinds) <= 1 + len(frames), kinds
        assert one.run("/bin/echo", "here").stdout == b"here\n"


def test_it_keeps_no_sandbox_alive(engine, egress):
    box = Boxed(engine, orphan_ms=300)
    assert box.network() == 0
    egress.attach(box, ["web.test"])
    box.close()
    harness.wait_until(lambda: engine.settled(box.id) is None or None, "the orphan ends")
    while True:
        op, _, reply = egress.receive()
        if op == out.OPS["lost"]:
            break
    assert out.text(dict(reply)[out.ID]) == box.id
    engine.destroy(box.id)


def test_a_sandbox_that_ends_lets_its_connections_go(engine, egress, web):
    one = Boxed(engine)
    assert one.network() == 0
    egress.attach(one, ["web.test"])
    stream = one.begin([PYTHON, "-c", HOLD, "100"], ["PATH=/usr/bin"])
    one.wait_output(stream, b"held")  # more than it takes at once: it does not read the channel now
    harness.wait_until(lambda: egress.counts(one)["connections"] == 64, "they are there")
    before = len(os.listdir(f"/proc/{egress.process.pid}/fd"))
    one.destroy()
    harness.wait_until(lambda: len(os.listdir(f"/proc/{egress.process.pid}/fd")) <= before - 65,
                       "their descriptors are closed")


def test_killed_under_load_and_back(engine, names, web):
    """Connections break; what comes meanwhile waits; after the next attach all goes as before."""
    code = """
import http.client, sys, time
good = bad = 0
end = time.time() + float(sys.argv[1])
while time.time() < end:
    try:
        c = http.client.HTTPConnection("127.0.0.1", 3128, timeout=30)
        c.request("GET", "http://web.test/big/200000")
        r = c.getresponse()
        ok = r.status == 200 and len(r.read()) == 200000
    except (OSError, http.client.HTTPException):
        ok = False
    good, bad = good + ok, bad + (not ok)
    time.sleep(0.01)
print(good, bad)
"""
    with Egress() as egress, Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["web.test"])
        streams = [one.begin([PYTHON, "-c", code, "6"], ["PATH=/usr/bin"]) for _ in range(3)]
        for stream in streams:
            one.send("close", stream + 1)
        for _ in range(3):
            time.sleep(1)
            egress.kill()
            egress.start()
            egress.attach(one, ["web.test"])
        for stream in streams:
            result = one.finish(stream)
            good, bad = map(int, result.stdout.split())
            assert good > 20 and bad < good, (good, bad)
        assert one.get("http://web.test/")[0] == 200


def test_a_server_that_comes_anew(engine, egress, box):
    """The next connection takes over; what is attached stays."""
    egress.connect()
    assert box.get("http://web.test/")[0] == 200
    assert egress.counts(box)["requests"] > 0


def test_a_tunnel_outlives_the_server(engine, egress):
    """Attached again by the next one, on another channel: connections and counts go on."""
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["words.test:7"])
        with tunnel_end(lambda connection: connection.sendall(b"echo " + connection.recv(100))):
            code = ("import socket, sys\ns = socket.create_connection(('127.0.0.1', 3128))\n"
                    "s.sendall(sys.argv[1].encode().decode('unicode_escape').encode())\n"
                    "print(s.recv(100).split()[1].decode(), flush=True)\nsys.stdin.read()\n"
                    "s.sendall(b'words')\nprint(s.recv(100).decode())")
            stream = one.begin([PYTHON, "-c", code, CONNECT.decode().replace("\r\n", "\\r\\n")],
                               ["PATH=/usr/bin"])
            result = one.wait_output(stream, b"200\n")
            egress.connect()
            egress.attach(one, ["words.test:7"])
            assert egress.counts(one)["connections"] == 1
            one.send("close", stream + 1)
            assert one.finish(stream, result).stdout == b"200\necho words\n"


def test_what_the_next_server_does_not_allow_ends(engine, egress, web):
    """A server died before it could tell of a narrower policy; the next one attaches with it."""
    with Boxed(engine) as one:
        assert one.network() == 0
        egress.attach(one, ["words.test:7", "web.test"])
        with tunnel_end(read_all):
            code = ("import socket, sys\ns = socket.create_connection(('127.0.0.1', 3128))\n"
                    "s.sendall(sys.argv[1].encode().decode('unicode_escape').encode())\n"
                    "print(s.recv(100).split()[1].decode(), flush=True)\n"
                    "try: print(s.recv(100))\nexcept OSError as e: print(b'')")
            stream = one.begin([PYTHON, "-c", code, CONNECT.decode().replace("\r\n", "\\r\\n")],
                               ["PATH=/usr/bin"])
            result = one.wait_output(stream, b"200\n")
            egress.connect()
            egress.attach(one, ["web.test"])
            assert egress.counts(one)["connections"] == 0
            assert one.finish(stream, result).stdout == b"200\nb''\n"
        assert one.get("http://web.test/")[0] == 200


def test_a_refusal_says_why_where_a_tunnel_shows_it(box):
    line = box.say(b"CONNECT example.com:443 HTTP/1.1\r\n\r\n").split(b"\r\n")[0]
    assert line == (b"HTTP/1.1 403 example.com:443 is not on the list of hosts that this sandbox may "
                    b"reach")


def frame(kind, stream=0, payload=b""):
    return struct.pack("<IBBHI", len(payload), FRAMES[kind], 0, 0, stream) + payload


def test_a_word_without_its_socket_is_one_that_has_hung_up(egress, web):
    """An engine between init and here may have had no place for it: those before and behind go on."""
    class One:
        id, nonce = "no-init", os.urandom(16)

    init, theirs = socket.socketpair()
    with init, theirs:
        init.sendall(frame("hello", 0, tlv(1, 1) + tlv(2, 1) + tlv(3, 1 << 9) + tlv(4, One.nonce)) +
                     frame("done", 4, tlv(1, 0)))
        egress.call("attach", tlv(out.ID, One.id) + tlv(out.OWNER, "tester") + tlv(out.NONCE, One.nonce) +
                    tlv(out.BYTES_USED, 0) + egress.policy(["web.test"]), [theirs.fileno()])
        for passes in (True, False, False, True):
            if not passes:
                init.sendall(frame("accepted", 4))
                continue
            code, passed = socket.socketpair()
            with code, passed:
                code.settimeout(harness.HANG_SECS)
                socket.send_fds(init, [frame("accepted", 4)], [passed.fileno()])
                code.sendall(b"GET http://web.test/ HTTP/1.1\r\nHost: web.test\r\n\r\n")
                assert code.recv(100).startswith(b"HTTP/1.1 200")
        egress.detach(One)


def test_nonsense_from_the_server_ends_its_connection(egress):
    for message in (b"", b"x", b"\0" * 16, os.urandom(64), b"\1\0\0\0\x63\0\0\0" + bytes(8)):
        egress.connect()
        if message:
            egress.client.send(message)
            assert egress.client.recv(100) == b""
    egress.connect()
    with pytest.raises(EngineError) as problem:
        egress.call("attach", tlv(ID, "x"))
    assert problem.value.kind == "protocol"
    egress.connect()


# ---- what the process is ----


def test_it_has_no_right(egress):
    status = dict(line.split(":\t", 1) for line in
                  harness.read(f"/proc/{egress.process.pid}/status").splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["65534"] * 4
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh")} == {0}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    flags = [int(line.split()[1], 8) for fd in os.listdir(f"/proc/{egress.process.pid}/fdinfo")
             for line in harness.read(f"/proc/{egress.process.pid}/fdinfo/{fd}").splitlines()
             if line.startswith("flags:") and int(fd) > 2]
    assert flags and all(flag & os.O_CLOEXEC for flag in flags)


def test_another_user_is_turned_away(egress):
    os.chmod(egress.folder, 0o755)
    os.chmod(egress.path, 0o666)
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            os.setgid(1)
            os.setuid(1)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(egress.path)
                client.settimeout(harness.HANG_SECS)
                code = 0 if client.recv(10) == b"" else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert egress.counts()["sandboxes"] >= 0
