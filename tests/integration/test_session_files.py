"""Files of a session over HTTP on the real engine: bytes both ways, ranges, versions, what is refused,
clients that leave, and a server that stays small whatever goes through it."""
import hashlib
import http.client
import json
import os
import select
import socket
import threading
import time

import pytest

import harness
from harness import LARGE, LOOPBACK, SLOW, wait_until
from sessions import Session

MIB = 1 << 20
RSS_MAX = 64 * MIB
LARGE = 256 * MIB
BLOCK = bytes(range(256)) * 4096  # a MiB


@pytest.fixture
def session(server):
    one = Session(server)
    yield one
    if one.get().status == 200:
        one.delete()


class Reply:
    def __init__(self, response):
        self.status = response.status
        self.fields = response.headers
        self.body = response.read()

    def __repr__(self):
        return f"Reply({self.status}, {dict(self.fields)}, {self.body[:300]!r})"


def ask(session, method, path, body=None, **fields):
    connection = http.client.HTTPConnection(LOOPBACK, session.server.port, timeout=60 * SLOW)
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    target = f"{session.path}/files" + (f"?path={path}" if path is not None else "")
    try:
        connection.request(method, target, body, headers)
        return Reply(connection.getresponse())
    finally:
        connection.close()


def put(session, path, body, **fields):
    reply = ask(session, "PUT", path, body, **fields)
    assert reply.status == 200, reply
    return reply


def get(session, path, **fields):
    return ask(session, "GET", path, **fields)


# ---- bytes ----

def test_bytes_in_and_out(session):
    every = bytes(range(256)) * 3
    reply = put(session, "new/folder/every.bin", every)
    assert reply.body == b'{"path":"new/folder/every.bin","size":768}'
    reply = get(session, "/workspace/new/folder/every.bin")
    assert (reply.status, reply.body) == (200, every)
    assert reply.fields["Content-Length"] == "768"
    assert reply.fields["Content-Type"] == "application/octet-stream"
    assert reply.fields["Content-Disposition"] == "attachment"
    assert reply.fields["Accept-Ranges"] == "bytes"
    assert "Transfer-Encoding" not in reply.fields
    # Code sees the same bytes as its own file, and what it writes comes out.
    done = session.run("import os\nd = open('new/folder/every.bin', 'rb').read()\n"
                       "open('back', 'wb').write(d[::-1])\n"
                       "print(len(d), oct(os.stat('back').st_uid == os.stat('new').st_uid))")
    assert done["stdout"] == "768 0o1\n", done
    assert get(session, "back").body == every[::-1]
    # A later put replaces all of it.
    put(session, "back", b"short")
    assert get(session, "back").body == b"short"
    put(session, "back", b"")
    reply = get(session, "back")
    assert (reply.status, reply.body, reply.fields["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize("content_type", ["text/html", "application/x-www-form-urlencoded",
                                          "application/json", "multipart/form-data; boundary=x"])
def test_any_content_type_goes_in(session, content_type):
    put(session, "f", b"{<", Content_Type=content_type)
    assert get(session, "f").body == b"{<"


def test_a_chunked_put(session):
    put(session, "f", iter([b"one", b"two" * 50000]))
    assert get(session, "f").body == b"one" + b"two" * 50000


def test_names_of_any_kind(session):
    put(session, "a%20b/%C3%BC%0A%22", b"x")
    assert session.run("import os; print(os.listdir('a b'))")["stdout"] == "['ü\\n\"']\n"
    assert get(session, "a%20b/%C3%BC%0A%22").body == b"x"


def test_head(session):
    put(session, "f", b"0123456789")
    reply = ask(session, "HEAD", "f")
    assert (reply.status, reply.body, reply.fields["Content-Length"]) == (200, b"", "10")
    assert reply.fields["ETag"] == get(session, "f").fields["ETag"]
    assert ask(session, "HEAD", "missing").status == 404
    assert ask(session, "HEAD", "f", Range="bytes=2-3").status == 200  # Range is for GET


# ---- parts and versions ----

@pytest.mark.parametrize("field, status, body, told", [
    ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
    ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
    ("bytes=7-", 206, b"789", "bytes 7-9/10"),
    ("bytes=-4", 206, b"6789", "bytes 6-9/10"),
    ("bytes=-40", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=8-400", 206, b"89", "bytes 8-9/10"),
    ("bytes=0-1,4-5", 200, b"0123456789", None),
    ("bytes=4-2", 200, b"0123456789", None),
    ("lines=0-1", 200, b"0123456789", None),
])
def test_a_range(session, field, status, body, told):
    put(session, "f", b"0123456789")
    reply = get(session, "f", Range=field)
    assert (reply.status, reply.body, reply.fields["Content-Range"]) == (status, body, told)
    assert reply.fields["Content-Length"] == str(len(body))


@pytest.mark.parametrize("field", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_no_such_range(session, field):
    put(session, "f", b"0123456789")
    reply = get(session, "f", Range=field)
    assert reply.status == 416 and reply.fields["Content-Range"] == "bytes */10", reply
    assert b"the file has 10 bytes" in reply.body


def test_a_range_of_the_version_that_is_known(session):
    put(session, "f", b"0123456789")
    known = get(session, "f").fields
    part = get(session, "f", Range="bytes=2-4", If_Range=known["ETag"])
    assert (part.status, part.body) == (206, b"234")
    for other in ('"other"', "W/" + known["ETag"], known["Last-Modified"]):
        whole = get(session, "f", Range="bytes=2-4", If_Range=other)
        assert (whole.status, whole.body) == (200, b"0123456789"), other
    # The same size and, as code may do it, the same time: another version still.
    session.run("import os\ns = os.stat('f')\nopen('f', 'r+').write('abcdefghij')\n"
                "os.utime('f', ns=(s.st_atime_ns, s.st_mtime_ns)); None")
    now = get(session, "f", Range="bytes=2-4", If_Range=known["ETag"])
    assert (now.status, now.body) == (200, b"abcdefghij")
    assert now.fields["Last-Modified"] == known["Last-Modified"]


def test_times_that_no_calendar_has(session):
    put(session, "f", b"x")
    for seconds in (-5, 0, 1 << 40):
        session.run(f"import os\ntry: os.utime('f', ({seconds}, {seconds}))\nexcept OSError: pass")
        assert get(session, "f").body == b"x"


# ---- what is refused ----

def test_what_can_not_be_read(session):
    session.run("import os\nos.mkdir('folder'); os.mkfifo('pipe'); os.symlink('loop', 'loop')\n"
                "os.symlink('/etc/hostname', 'out'); os.symlink('/proc/self/status', 'status')\n"
                "open('secret', 'w').write('x'); os.chmod('secret', 0)")
    for path, status in {"missing": 404, "folder": 400, "folder/": 400, "/dev/null": 400,
                         "pipe": 400, "loop": 400, "status": 400, "/proc/version": 400,
                         "secret": 400, "secret/below": 404, "": 400, "x%00y": 400,
                         "a" * 5000: 400, None: 400}.items():
        reply = get(session, path)
        assert reply.status == status, (path, reply)
        assert b'"detail":' in reply.body


def test_what_can_not_be_written(session):
    session.run("import os\nos.mkdir('folder'); os.mkfifo('pipe'); os.mkdir('closed', 0o500)")
    for path in ("folder", "folder/", "/dev/null", "pipe", "/proc/sys/kernel/x", "closed/f",
                 "/usr/bin/f", "", "x%00y", "a" * 5000, None):
        reply = ask(session, "PUT", path, b"x" * 100000)
        assert reply.status == 400, (path, reply)
        assert b'"detail":' in reply.body
    reply = ask(session, "PUT", "f", b"x", Content_Range="bytes 0-0/10")
    assert reply.status == 400 and b"Content-Range" in reply.body, reply


def test_a_disk_that_is_full(server):
    session = Session(server, resources={"ram": "128MiB", "storage": "16MiB"})
    reply = ask(session, "PUT", "f", b"x" * (64 * MIB))
    assert reply.status == 400 and b"No space left" in reply.body, reply
    reply = ask(session, "PUT", "g", b"x" * (12 * MIB))
    assert reply.status == 400 and b"No space left" in reply.body, reply
    assert size_of(session, "f") > MIB  # what was written stays
    put(session, "f", b"small")
    put(session, "g", b"x" * (12 * MIB))
    session.delete()


def test_other_methods_and_sessions(server, session):
    for method in ("POST", "DELETE"):
        reply = ask(session, method, "f", b"{}", Content_Type="application/json")
        assert reply.status == 405 and reply.fields["Allow"] == "GET, HEAD, PUT", reply
    other = Session(server)
    put(other, "f", b"other's")
    assert get(session, "f").status == 404
    other.delete()
    assert get(other, "f").status == 404
    assert ask(other, "PUT", "f", b"x" * 100000).status == 404


def test_a_page_of_another_host_puts_nothing(session):
    connection = http.client.HTTPConnection(LOOPBACK, session.server.port, timeout=60 * SLOW)
    connection.request("PUT", session.path + "/files?path=f", b"x", {"Host": "evil.example"})
    assert connection.getresponse().status == 403
    connection.close()
    connection = http.client.HTTPConnection(LOOPBACK, session.server.port, timeout=60 * SLOW)
    connection.request("OPTIONS", session.path + "/files?path=f",
                       headers={"Origin": "http://evil.example",
                                "Access-Control-Request-Method": "PUT"})
    answer = connection.getresponse()
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert answer.status == 405
    connection.close()
    assert get(session, "f").status == 404


# ---- clients that leave, and what goes on beside ----

def begin_put(session, path, announced, body):
    """A PUT that was let in, and whose client has more to send; returns its socket."""
    client = socket.create_connection((LOOPBACK, session.server.port), 60 * SLOW)
    client.sendall(f"PUT {session.path}/files?path={path} HTTP/1.1\r\nHost: localhost\r\n"
                   f"Expect: 100-continue\r\nContent-Length: {announced}\r\n\r\n".encode())
    answer = client.recv(65536)
    assert answer == b"HTTP/1.1 100 Continue\r\n\r\n", answer
    client.sendall(body)
    return client


def size_of(session, path):
    reply = ask(session, "HEAD", path)
    return int(reply.fields["Content-Length"]) if reply.status == 200 else None


def test_a_client_that_leaves_leaves_what_came(session):
    client = begin_put(session, "f", 10 * MIB, BLOCK)
    wait_until(lambda: size_of(session, "f") == MIB, "it is written as it comes")
    client.close()
    put(session, "g", b"next")  # and nobody is in the way
    assert get(session, "f").body == BLOCK


def test_files_go_beside_code_that_runs(session):
    client = begin_put(session, "f", 2 * MIB, BLOCK)
    done = session.run("import time\nwhile True:\n  try: print(len(open('g').read())); break\n"
                       "  except OSError: time.sleep(0.01)") if put(session, "g", b"go") else None
    assert done["stdout"] == "2\n", done
    client.sendall(BLOCK)
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    client.close()
    assert get(session, "f").body == 2 * BLOCK


def test_places_come_back(session):
    for _ in range(3):
        clients = [begin_put(session, f"f{i}", MIB, b"x") for i in range(5)]
        reply = ask(session, "PUT", "one_more", b"x")
        assert_error_of(reply, 503)
        assert reply.fields["Retry-After"] == "1"
        assert session.run("1 + 1")["status"] == "success"  # code has a channel of its own
        for client in clients:
            client.close()
        wait_until(lambda: ask(session, "PUT", "one_more", b"x").status == 200, "they are free")


def assert_error_of(reply, status):
    assert reply.status == status, reply
    assert set(json.loads(reply.body)) >= {"error", "detail", "timestamp"}


def test_a_session_that_is_deleted_meanwhile(server):
    session = Session(server)
    put(session, "f", BLOCK * 8)
    client = begin_put(session, "g", 10 * MIB, BLOCK)
    session.delete()

    # What is sent while the sandbox still ends is taken; it is the next piece that finds it gone.
    def hears():
        try:
            client.sendall(b"x")
        except OSError:
            return True
        return select.select([client], [], [], 0)[0]
    wait_until(hears, "an answer")
    answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 404 ") and b"has just ended" in answer, answer
    client.close()


def test_a_file_that_is_cut_while_it_is_read(session):
    session.run("f = open('f', 'wb')\nfor _ in range(64): f.write(b'x' * (1 << 20))\nf.close()")
    client = socket.create_connection((LOOPBACK, session.server.port), 60 * SLOW)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.sendall(f"GET {session.path}/files?path=f HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    got = len(client.recv(1000))
    session.run("import os; os.truncate('f', 100)")
    while True:
        try:
            piece = client.recv(1 << 20)
        except ConnectionResetError:
            break
        if not piece:
            break
        got += len(piece)
    client.close()
    assert got < 64 * MIB  # the length was promised: a whole answer would have had it


# ---- size ----

@pytest.fixture
def fresh():
    """A server whose peak no other test made."""
    one = harness.Server().start()
    yield one
    harness.end(one)


def peak_bytes(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 // LARGE
    raise AssertionError("no VmHWM")


def blocks(count):
    for _ in range(count):
        yield BLOCK


def through(session, size):
    """Puts and gets a file of so many bytes; returns the hash of what came back."""
    put(session, "large", blocks(size // MIB), Content_Length=str(size))
    connection = http.client.HTTPConnection(LOOPBACK, session.server.port, timeout=60 * SLOW)
    connection.request("GET", session.path + "/files?path=large")
    response = connection.getresponse()
    assert response.headers["Content-Length"] == str(size)
    digest = hashlib.sha256()
    while piece := response.read(MIB):
        digest.update(piece)
    connection.close()
    return digest.hexdigest()


# BERTH_TEST_LARGE=1: 1 GiB too, which takes its time.
@pytest.mark.parametrize("size", [LARGE] + [1 << 30] * bool(os.environ.get("BERTH_TEST_LARGE")))
def test_the_server_stays_small(fresh, size):
    session = Session(fresh, resources={"ram": "512MiB", "storage": "2GiB"})
    wanted = hashlib.sha256()
    for block in blocks(size // MIB):
        wanted.update(block)
    assert through(session, size) == wanted.hexdigest()
    assert peak_bytes(fresh.child("berth-server")) < RSS_MAX
    session.delete()


def test_slow_readers_are_not_read_ahead_for(fresh):
    """Four that read nothing, of a file each far above what the server may become."""
    session = Session(fresh, resources={"ram": "512MiB", "storage": "2GiB"})
    put(session, "large", blocks(100), Content_Length=str(100 * MIB))
    clients = []
    for _ in range(4):
        client = socket.create_connection((LOOPBACK, session.server.port), 60 * SLOW)
        client.sendall(f"GET {session.path}/files?path=large HTTP/1.1\r\nHost: localhost\r\n\r\n"
                       .encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        clients.append(client)
    time.sleep(0.5)  # time to read ahead, for one that would
    assert peak_bytes(fresh.child("berth-server")) < RSS_MAX
    for client in clients:
        client.close()
    session.delete()
