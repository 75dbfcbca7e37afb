"""The deadline of a body. It is long, so the connections were opened when the first tests ran (the
slow_bodies fixture), and are looked at here, near the end."""
import time

from harness import HANG_SECS

BODY_DEADLINE_SECS = 60


def is_cut(sock):
    """Sends one more byte; whether the server has closed."""
    try:
        sock.settimeout(0.2)
        sock.sendall(b"x")
        return sock.recv(4096) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_slow_bodies_are_cut(server, slow_bodies):
    """A byte now and then does not extend it."""
    socks, since = slow_bodies
    end = max(since + BODY_DEADLINE_SECS, time.monotonic()) + HANG_SECS
    while socks and time.monotonic() < end:
        socks = [sock for sock in socks if not is_cut(sock)]
    assert not socks, "a slow body is read for ever"
    server.hello()
