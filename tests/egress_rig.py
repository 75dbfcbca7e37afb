"""What the suites of berth-egress share: an init of the native engine as the code's end, a tunnel's other
end, and the fixtures that a module takes by importing them."""
import base64
import contextlib
import os
import socket
import struct
import threading

import pytest

import harness
from egress import LOOPBACK_NET, PROXY, WEB, Egress, Names, Web
from engine import FRAMES, ID, NONCE, Engine, Sandbox, tlv

WORDS = f"{LOOPBACK_NET}.3"  # of the tunnel's other end
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


# ---- tunnels ----


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
