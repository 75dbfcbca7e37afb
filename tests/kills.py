"""What the tests share that end processes of berth at random: choices that can be repeated, the
victims, and what has to be as it was once nothing runs."""
import http.client
import os
import signal
import time

from harness import SLOW, read, snapshot_tool, wait_until

SOAK = os.environ.get("BERTH_SOAK") == "1"
SECS = (3000 if SOAK else 230) * SLOW  # for one of these tests


def plain(number):
    return {"code": f"print({number})"}


def children(pid):
    return [int(word) for word in read(f"/proc/{pid}/task/{pid}/children").split()]


def end(pid):
    try:
        os.kill(pid, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False


def network_of(pid):
    return snapshot_tool.links(pid, "ns").get("net")


def catch(engine_pid, stage):
    """A child of the engine that does not live long: the setup stage of a sandbox (a network
    of its own) or the maker of a disk, or the tool that this one runs. None when there is none for
    a while."""
    own = network_of(engine_pid)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        for child in children(engine_pid):
            if read(f"/proc/{child}/comm").strip() != "berth-native":
                continue
            if (network_of(child) != own) == stage:
                below = children(child)
                return below[0] if below and not stage else child
    return None


def served(server):
    """Whether a request is served now."""
    try:
        answer = server.post(plain(1))
    except (OSError, http.client.HTTPException):
        return False
    assert answer.status in (200, 503), answer
    return answer.status == 200 and answer.json()["stdout"] == "1\n"


def settle(server):
    """Requests are served again, and nothing is held; until then they wait, or fail in a clean
    way."""
    wait_until(lambda: served(server), "requests are served again")
    server.wait_idle()


def counts(server):
    """What has to be as at first whenever nothing runs."""
    now = server.snapshot()
    # The host's own mounts come and go.
    now["own mounts"] = now.get("berth-native.mounts", 0) - now.get("berth-monitor.mounts", 0)
    return {name: now.get(name, 0) for name in (
        "berth-native.fds", "own mounts", "berth-native.processes", "berth-monitor.fds",
        "berth-server.processes", "zombies")}
