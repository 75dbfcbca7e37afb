"""resources of a request: what is accepted, what is refused with what there is, and that a part of a
processor is a part of its time."""
import os

import pytest

from harness import assert_error

SPIN = """
import time
end = time.monotonic() + {secs}
while time.monotonic() < end:
    pass
"""


def spin(server, cpu, secs=3):
    """The part of the time that it ran that it had a processor."""
    done = server.execute(SPIN.format(secs=secs), resources={"cpu": cpu}, timeout=60)
    assert done["exit_code"] == 0, done
    return done["usage"]["cpu_ms"] / done["usage"]["wall_ms"]


def test_half_a_core_is_half_of_its_time(server):
    """The share is the quota's work: however busy the host, it is never above it, and code that gets
    a whole core on the same host gets clearly more. Nothing here asserts how long anything takes."""
    if "cpu" not in server.get("/api/v1/info").json()["engines"][0]["capabilities"]:
        pytest.skip("this host can't limit processors")
    half = spin(server, 0.5)
    assert half < 0.65, half
    assert spin(server, "0.25") < 0.40
    whole = max(spin(server, 1) for _ in range(3))
    if whole > 0.8:  # else the host is too busy to tell a quota from its neighbours
        assert half > 0.2 and whole > half * 1.3, (half, whole)


def test_two_threads_share_the_quota(server):
    code = ("import multiprocessing, time\n"
            "def spin():\n"
            "    end = time.monotonic() + 2\n"
            "    while time.monotonic() < end:\n"
            "        pass\n"
            "all = [multiprocessing.Process(target=spin) for _ in range(3)]\n"
            "[one.start() for one in all]\n"
            "[one.join() for one in all]\n")
    if "cpu" not in server.get("/api/v1/info").json()["engines"][0]["capabilities"]:
        pytest.skip("this host can't limit processors")
    done = server.execute(code, resources={"cpu": "0.5"}, timeout=60)
    assert done["exit_code"] == 0, done
    assert done["usage"]["cpu_ms"] / done["usage"]["wall_ms"] < 0.7, done["usage"]


@pytest.mark.parametrize("cpu", ["0.5", 0.5, "1", 1, 1.0, "0.01", 0.01])
def test_accepted(server, cpu):
    assert server.execute("print(1)", resources={"cpu": cpu})["stdout"] == "1\n"


def test_all_of_the_host_and_more(server):
    millis = round(server.get("/api/v1/info").json()["engines"][0]["limits"]["cpu"] * 1000)
    cores = millis // 1000
    assert cores == len(os.sched_getaffinity(0))
    for cpu in (cores, str(cores), f"{cores}.0"):
        assert server.execute("print(1)", resources={"cpu": cpu})["stdout"] == "1\n"
    for cpu in (cores + 1, str(cores + 0.5), cores + 0.001, 1000):
        assert_error(server.post({"code": "1", "resources": {"cpu": cpu}}), 400, "resources.cpu: ",
                     "were asked for, this host has", str(millis))
        assert_error(server.post({"resources": {"cpu": cpu}}, path="/sessions"), 400, "resources.cpu")


@pytest.mark.parametrize("cpu", [0, -1, "0", "-0.5", "", "half", "1e400", [1], {"cores": 1}, True,
                                 "0.5 cores", 0.001, "0.0001"])
def test_refused(server, cpu):
    assert_error(server.post({"code": "1", "resources": {"cpu": cpu}}), 400, "resources.cpu")
