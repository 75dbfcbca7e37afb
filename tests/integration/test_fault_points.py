"""The server dies at each of its named points, once, and is started again: a request with an
Idempotency-Key that is sent again gets one honest outcome and is never run twice, and nothing is
left on the host."""
import http.client
import os
import tempfile

import pytest

from harness import wait_until

HELLO = {"code": "print('hello')"}

# point: what the client gets that asks again. "ran": the first outcome, whole. "lost": the code may
# have run and its end is not known.
POINTS = {
    "server.queued": "lost",
    "server.create": "lost",
    "server.created": "lost",
    "server.started": "lost",
    "server.destroy": "lost",
    "server.exited": "lost",
    "server.stored": "ran",
}


@pytest.fixture
def armed():
    """The file that makes a fault strike once; the server's user has to be able to remove it."""
    with tempfile.TemporaryDirectory(prefix="berth-fault-") as folder:
        os.chmod(folder, 0o777)  # noqa: S103: of this test alone
        path = os.path.join(folder, "once")
        open(path, "w", encoding="ascii").close()
        os.chmod(path, 0o666)  # noqa: S103
        yield path


def faulty(make_server, point, armed):
    return make_server({"BERTH_TESTING": "1", "BERTH_FAULT": point, "BERTH_FAULT_ONCE": armed})


def ask_until_answered(server, headers):
    """The answer of the first request that gets one; the connection of one before may break."""
    def attempt():
        try:
            return server.post(HELLO, headers=headers)
        except (ConnectionError, http.client.HTTPException):
            return None
    return wait_until(attempt, "it is answered")


@pytest.mark.parametrize("point", POINTS)
def test_the_server_dies_at(make_server, armed, point):
    server = faulty(make_server, point, armed)
    old = server.child("berth-server")
    headers = {"Idempotency-Key": f"key-{point}"}
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        server.post(HELLO, headers=headers)
    assert not os.path.exists(armed), "the point was not reached"
    answer = ask_until_answered(server, headers)
    assert server.child("berth-server") != old
    assert answer.status == 200, answer
    done = answer.json()
    if POINTS[point] == "ran":
        assert (done["status"], done["stdout"]) == ("success", "hello\n")
    else:
        assert (done["status"], done["killed_by"]) == ("killed", "server"), done
        assert done["exit_code"] == 137
    assert ask_until_answered(server, headers).json() == done  # and so it stays
    assert server.get(f"/executions/{done['execution_id']}").json() == done
    server.hello()
    server.wait_clean()
    assert server.metric("berth_sandboxes") == 0
    assert server.metric("berth_memory_reserved_bytes") == 0


def test_no_point_strikes_outside_of_tests(make_server, armed):
    server = make_server({"BERTH_FAULT": "server.create", "BERTH_FAULT_ONCE": armed})
    server.hello()
    assert os.path.exists(armed)
