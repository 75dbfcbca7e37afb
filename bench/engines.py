#!/usr/bin/python3
"""The engines beside each other and beside the way that people do it without berth: Docker's SDK for
Python, containers.run() a call and exec_run() in a container that stays. Fresh and session executions,
throughput, memory a session; printed, figures never fail it, requests that fail do.

  engines.py [--build DIR] [--ways NAMES] [--rounds N] [--count N] [--clients N] [--sessions N]

Starts a server a way and a Docker daemon of its own; each round measures every way once. A way whose
engine is not there is left out and said so. Needs root, docker.io, runsc and python3-docker."""
import argparse
import concurrent.futures
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
LIMITS = {"mem_limit": "512m", "memswap_limit": "512m", "nano_cpus": 10**9, "pids_limit": 256,
          "network_mode": "none", "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
WAYS = {
    "native": ("native", {}),
    "native/runsc": ("native/runsc", {"BERTH_ENGINE_EXECUTE": "native/runsc",
                                      "BERTH_ENGINE_SESSIONS": "native/runsc"}),
    "docker": ("docker", {"BERTH_ENGINES": "docker"}),
    "docker/runsc": ("docker/runsc", {"BERTH_ENGINES": "docker",
                                      "BERTH_ENGINE_EXECUTE": "docker/runsc",
                                      "BERTH_ENGINE_SESSIONS": "docker/runsc"}),
    "sdk": ("Docker SDK", "runc"),
    "sdk/runsc": ("Docker SDK, runsc", "runsc"),
}
SCALE = {"native": 20, "native/runsc": 4, "docker": 4, "docker/runsc": 4}
PACE_MS = 500  # a pace that a pool of containers keeps up with


def percentile(samples, percent):
    """Nearest rank."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


def pss_bytes(belongs):
    """Memory of all processes that belong(pid, command line, groups): a page that n share counts 1/n."""
    total = 0
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text(errors="replace")
            if belongs(words, (folder / "cgroup").read_text()):
                roll = (folder / "smaps_rollup").read_text()
                total += int(roll.split("\nPss:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            pass  # it ended
    return total


class Figures:
    """What one way showed: milliseconds of each kind, executions a second, bytes a session."""

    def __init__(self):
        self.samples = {"paced": [], "fresh": [], "session": []}
        self.rates = {"fresh": [], "session": []}
        self.session_bytes = None


class Berth:
    """A server whose default is this engine, measured by bench-client."""

    def __init__(self, arguments, env, daemon, scale):
        """scale: how many requests measure throughput for each of --count, or a pool would answer all."""
        import harness
        self.daemon, self.scale = daemon, scale
        self.harness = harness
        self.program = str(arguments.build / "bench" / "bench-client")
        self.env = env
        self.server = harness.Server(env)
        self.server.env.pop("BERTH_POOL_MAX", None)  # the default; the tests' servers go without
        self.server.start()

    def client(self, figures, kind, rate=None, *options):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([self.program, "--url", self.server.url, "--settle"], check=True)
            done = subprocess.run([self.program, "--url", self.server.url, "--samples", f"{folder}/samples",
                                   "--rate", f"{folder}/rate", *options],
                                  check=False, capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit(f"{' '.join(options)}: {done.stdout}{done.stderr}{self.server.log()}")
            if rate:
                figures.rates[rate].append(float(pathlib.Path(folder, "rate").read_text()))
            else:
                figures.samples[kind] += map(float, pathlib.Path(folder, "samples").read_text().split())

    def measure(self, figures, count, clients):
        self.client(figures, "paced", None, "--requests", str(count), "--pace", str(PACE_MS))
        self.client(figures, "fresh", None, "--requests", str(count))
        self.client(figures, "session", None, "--session", "--requests", str(count * 10), "--warm", "5")
        self.client(figures, "fresh", "fresh", "--requests", str(count * self.scale), "--clients", str(clients))
        self.client(figures, "session", "session", "--session", "--clients", str(clients),
                    "--requests", str(count * 20), "--warm", "3")

    def memory(self, count):
        """Bytes that each of so many idle sessions takes: of all below a server without a pool, in its
        groups, or in the daemon's hands."""
        server = self.harness.Server(self.env).start()

        def used():
            return pss_bytes(lambda words, groups: server.state in words
                             or f"berth-{server.instance}" in groups
                             or self.daemon.owns(words, groups))

        try:
            before = settled(used)
            holder = subprocess.Popen([self.program, "--url", server.url, "--create-sessions",
                                       str(count), "--clients", "4", "--hold"],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            while (line := holder.stdout.readline()) and line.strip() != "held":
                pass
            taken = settled(used) - before
            holder.communicate()
            return taken / count
        finally:
            self.harness.end(server)

    def close(self):
        self.harness.end(self.server)


class Sdk:
    """As a program without berth does it: a container a call, or an exec a call in one that stays."""

    def __init__(self, daemon, runtime):
        import docker
        self.daemon = daemon
        self.client = docker.DockerClient(base_url=f"unix://{daemon.socket}", timeout=120)
        self.options = {**LIMITS, "runtime": runtime}
        self.image = daemon.settings["DOCKER_BASE_IMAGE"]

    def fresh(self, _container=None):
        begun = time.perf_counter()
        said = self.client.containers.run(self.image, ["python3", "-c", "print(6*7)"], remove=True,
                                          **self.options)
        assert said == b"42\n", said
        return (time.perf_counter() - begun) * 1000

    def keep(self):
        return self.client.containers.run(self.image, ["sleep", "3600"], detach=True, **self.options)

    @staticmethod
    def again(container):
        begun = time.perf_counter()
        code, said = container.exec_run(["python3", "-c", "print(1+1)"])
        assert (code, said) == (0, b"2\n"), (code, said)
        return (time.perf_counter() - begun) * 1000

    @staticmethod
    def rate(call, count, places):
        """Calls a second, each place one after the other."""
        count = max(count, len(places))
        begun = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
            for done in [pool.submit(lambda place=place: [call(place) for _ in range(count // len(places))])
                         for place in places]:
                done.result()
        return count // len(places) * len(places) / (time.perf_counter() - begun)

    def measure(self, figures, count, clients):
        figures.samples["fresh"] += [self.fresh() for _ in range(count)]
        kept = [self.keep() for _ in range(clients)]
        try:
            figures.samples["session"] += [self.again(kept[0]) for _ in range(count)]
            figures.rates["session"].append(self.rate(self.again, count * 2, kept))
        finally:
            for container in kept:
                container.remove(force=True)
        figures.rates["fresh"].append(self.rate(self.fresh, count, [None] * clients))

    def memory(self, count):
        def used():
            return pss_bytes(self.daemon.owns)

        before = settled(used)
        kept = [self.keep() for _ in range(count)]
        try:
            for container in kept:
                self.again(container)
            return (settled(used) - before) / count
        finally:
            for container in kept:
                container.remove(force=True)

    def close(self):
        self.client.close()


def settled(look, secs=1.5):
    """The median of a figure that moves, over a while."""
    seen = []
    end = time.monotonic() + secs
    while time.monotonic() < end:
        seen.append(look())
        time.sleep(0.1)
    return statistics.median(seen)


def open_way(name, arguments, daemon):
    _, options = WAYS[name]
    if name.startswith("sdk"):
        return Sdk(daemon, options)
    return Berth(arguments, {**options, **daemon.settings} if "docker" in name else options, daemon,
                 SCALE[name])


def print_table(found):
    print(f"\n{'ms':20}{'':10}{'p50':>9}{'p95':>9}{'p99':>9}{'samples':>9}")
    for kind, title in (("paced", f"fresh, one each {PACE_MS} ms"), ("fresh", "fresh, back to back"),
                        ("session", "in a session")):
        print(title)
        for name, figures in found.items():
            values = figures.samples[kind]
            if values:
                row = "".join(f"{percentile(values, p):9.2f}" for p in (50, 95, 99))
                print(f"  {WAYS[name][0]:28}{row}{len(values):9}")
    print(f"\n{'':30}{'fresh/s':>9}{'session/s':>11}{'MiB a session':>15}")
    for name, figures in found.items():
        rates = [statistics.median(figures.rates[kind]) if figures.rates[kind] else math.nan
                 for kind in ("fresh", "session")]
        memory = figures.session_bytes / (1 << 20) if figures.session_bytes else math.nan
        print(f"  {WAYS[name][0]:28}{rates[0]:9.1f}{rates[1]:11.1f}{memory:15.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parent / "build")
    parser.add_argument("--ways", default=" ".join(WAYS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--sessions", type=int, default=20)
    arguments = parser.parse_args()
    arguments.build = arguments.build.resolve()
    os.environ["BERTH_BUILD"] = str(arguments.build)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    import dockerd
    load = pathlib.Path("/proc/loadavg").read_text().split()[:3]
    print(f"{os.cpu_count()} cores, Linux {os.uname().release}, load before {' '.join(load)}; "
          f"{arguments.clients} clients for throughput, {arguments.sessions} sessions for memory")
    found, ways = {}, {}
    with dockerd.Daemon() as daemon:
        daemon.import_image()
        try:
            for name in arguments.ways.split():
                try:
                    ways[name] = open_way(name, arguments, daemon)
                    found[name] = Figures()
                except (AssertionError, ImportError) as problem:
                    print(f"left out: {WAYS[name][0]}: {str(problem).splitlines()[0]}")
            for _ in range(arguments.rounds):
                for name, way in ways.items():
                    way.measure(found[name], arguments.count, arguments.clients)
            for name, way in ways.items():
                found[name].session_bytes = way.memory(arguments.sessions)
        except KeyboardInterrupt:
            print("interrupted: what there is so far")
        finally:
            for way in ways.values():
                way.close()
    print_table(found)
    print(f"load after {' '.join(pathlib.Path('/proc/loadavg').read_text().split()[:3])}")


if __name__ == "__main__":
    main()
