"""Podman's socket where it is not as Docker's: one runtime, no change of limits, and containers that
nobody can attach to again (docs/engines.md). What it shares, the conformance suites try."""
import pytest

import dockerd
import podman
import ways
from harness import end, wait_until
from sessions import Session, in_background

SLEEP = "import time\nprint('begun', flush=True)\ntime.sleep(600)"


@pytest.fixture
def own():
    """A service of the test's own, and a server on it."""
    missing = podman.Service.missing()
    if missing:
        pytest.skip(f"there is no {', '.join(missing)} (scripts/deps.sh engines)")
    with podman.Service() as service:
        service.import_image()
        before = service.traces()
        server = ways.new_server("podman", service, {"BERTH_ENGINE_CHOICE": "1"}).start()
        try:
            ways.Subject("podman", server, service)
            yield service, server
        finally:
            end(server)
        dockerd.wait_quiet(service, before)


def test_only_its_own_runtime_is_offered(own):
    """It takes a container of any runtime, even one that is not there, and starts its own."""
    service, server = own
    answer = service.request("POST", "/containers/create?name=other", {
        "Image": dockerd.images.NAME, "Cmd": ["true"],
        "HostConfig": {"Runtime": "no-such", "NetworkMode": "none"}})
    assert answer.status == 201, "Podman looks at runtimes now: they may be offered"
    service.delete("other")
    engine = server.get("/api/v1/info").json()["engines"][0]
    assert [one["name"] for one in engine["runtimes"]] == ["runc"], engine
    answer = server.post({"code": "print(1)", "engine": "docker", "runtime": "runsc"})
    assert answer.status == 400 and "runsc" in answer.json()["detail"], answer


def test_the_service_is_killed(own):
    """Containers live on, and are ended: what was attached can't be again. All who wait hear of it."""
    service, server = own
    sessions = [Session(server) for _ in range(2)]
    call = in_background(lambda: sessions[0].post(SLEEP))
    name = sessions[0].running()
    service.kill()
    answer = server.post({"code": "print('hello')"})
    assert answer.status == 503 and "docker" in answer.json()["detail"].lower(), answer
    service.start()
    done = wait_until(lambda: (found := server.get(f"/executions/{name}").json())
                      ["status"] not in ("queued", "running") and found, "it has an outcome")
    assert (done["status"], done["killed_by"]) == ("killed", "server"), done
    assert call().status in (200, 503)
    wait_until(lambda: all(one.get().status == 404 for one in sessions), "the sessions have ended")

    def again():
        answer = server.post({"code": "print('hello')"})
        assert answer.status in (200, 503), answer
        return answer.status == 200 and answer.json()["stdout"] == "hello\n"

    wait_until(again, lambda: f"it serves again\n{server.log()}", step_secs=0.5)
    server.wait_clean()
