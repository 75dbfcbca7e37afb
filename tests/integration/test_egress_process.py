"""The way out of a sandbox: the real berth-egress and a real init, without a server. A name server
and a web server of the test are all of the internet that there is. What does not go out is in
test_egress_refusals.py."""
import errno
import os
import re
import socket
import struct
import time

import pytest

import egress as out
import harness
from egress import PROXY, Egress
from egress_rig import CONNECT, ESTABLISHED, PYTHON, Boxed, read_all, tunnel_end
from egress_rig import box, egress, engine, names, web  # noqa: F401: fixtures
from engine import FRAMES, FRAME_NAMES, EngineError, ID, MIB, number, tlv


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
