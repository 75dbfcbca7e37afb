#!/usr/bin/env python3
"""What libraries cost: an execution with a set that is there beside one without, then the installation
of a set beside a plain `pip install --target`. Prints; only requests that fail make it fail.

  libraries.py [--build DIR] [--requests N] [--installs N]

A server of its own, on a free port with a temporary state folder. Needs root, and Debian's wheels."""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

WHEELS = pathlib.Path("/usr/share/python-wheels")
PACKAGE = "setuptools"
PACE_SECS = 0.05


def call(server, fields, expected):
    """The time in ms of one execution."""
    begun = time.perf_counter()
    answer = server.post(fields, timeout_secs=600)
    took = (time.perf_counter() - begun) * 1000
    assert answer.status == 200 and answer.json()["stdout"] == expected, answer
    return took


def measure(server, requests):
    plain = {"code": "print(6*7)"}
    code = "import sys; print('/opt/libraries' in sys.path)"
    kinds = {"without": (plain, "42\n"), "with a set that is there": ({"code": code, "libraries": [PACKAGE]}, "True\n")}
    samples = {name: [] for name in kinds}
    for _ in range(requests):
        for name, (fields, expected) in kinds.items():
            time.sleep(PACE_SECS)
            samples[name].append(call(server, fields, expected))
    return samples


def install(server, installs):
    """Seconds of the server's installation, and of pip's own, in turns."""
    ours, theirs = [], []
    fields = {"code": "print(6*7)", "libraries": [PACKAGE]}
    for _ in range(installs):
        for layer in server.get("/api/v1/layers").json()["layers"]:
            server.request("DELETE", f"/api/v1/layers/{layer['name']}")
        ours.append(call(server, fields, "42\n") / 1000)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            subprocess.run(["/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-index", "--find-links", WHEELS,
                            "--no-cache-dir", "--disable-pip-version-check", "--target", folder, PACKAGE],
                           check=True, env={"PATH": "/usr/bin:/bin", "HOME": folder}, capture_output=True)
            theirs.append(time.perf_counter() - begun)
    return ours, theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", default=os.environ.get("BUILD", "build"))
    parser.add_argument("--requests", type=int, default=100, help="of each kind")
    parser.add_argument("--installs", type=int, default=3)
    options = parser.parse_args()
    os.environ["BERTH_BUILD"] = str(pathlib.Path(options.build).resolve())
    import harness  # noqa: PLC0415: it looks for the build folder when it is imported

    if not list(WHEELS.glob(f"{PACKAGE}-*.whl")):
        print(f"libraries: {WHEELS} has no {PACKAGE} (Debian's python3-setuptools-whl), not measured")
        return 0
    server = harness.Server({"BERTH_POOL_MAX": "16", "BERTH_NETWORK_MODES": "none",
                             "BERTH_LAYERS_ENV": f"PIP_NO_INDEX=1 PIP_FIND_LINKS={WHEELS}"}).start()
    try:
        ours, theirs = install(server, options.installs)
        samples = measure(server, options.requests)
        hits, misses = server.metric("berth_pool_hits_total"), server.metric("berth_pool_misses_total")
    finally:
        server.stop()
        server.remove()
    print("\nlibraries: one each 50 ms, in turns" + f"{'p50 ms':>24}{'p95 ms':>9}")
    for name, times in samples.items():
        cuts = statistics.quantiles(times, n=20)
        print(f"  execution {name:47}{cuts[9]:9.2f}{cuts[18]:9.2f}")
    print(f"  from pool: {hits:.0f} of {hits + misses:.0f}")
    print(f"libraries: installation of {PACKAGE}, median of {len(ours)}: berth {statistics.median(ours):.2f} s with sandbox, "
          f"tar and unpacking; pip install --target {statistics.median(theirs):.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
