"""What berth-egress lets nobody reach, however it is asked: hosts that are not on the list, names of
addresses that are not public, requests that two readers could read differently."""
import contextlib
import socket

import pytest

from egress import WEB, Web
from egress_rig import Boxed
from egress_rig import box, egress, engine, names, web  # noqa: F401: fixtures


# ---- off the list, not public ----


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
