#!/usr/bin/env python3
"""What a client's executions take while others misbehave: endless output, readers that stop reading,
a thousand idle connections. Prints p50 and p99 of each beside the usual ones. No figure fails it,
only requests that fail do.

  neighbours.py [--build DIR] [--rounds N] [--requests N] [--clients N] [--json FILE]

Each round measures every kind, the usual one before each of them, so that what else the machine does
hits all. A server of its own, on a free port with a temporary state folder. Needs root."""
import argparse
import http.client
import json
import math
import os
import pathlib
import socket
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

BODY = json.dumps({"code": "print(6*7)"})
JSON_TYPE = {"Content-Type": "application/json"}
NDJSON = {**JSON_TYPE, "Accept": "application/x-ndjson"}
ENDLESS = json.dumps({"code": "import os\nwhile True: os.write(1, b'y' * 65536)", "timeout": 600})
# Six bytes of a stream for each: what is passed on is more than a socket's buffers hold.
LONG = json.dumps({"code": "import os\nwhile True: os.write(1, b'\\1' * 65536)", "timeout": 600})


def percentile(samples, percent):
    """Nearest rank."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class Prober:
    """Clients that execute one after the other on a connection each."""

    def __init__(self, port, clients):
        self.connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                            for _ in range(clients)]
        self.failed = []

    def one(self, connection):
        begun = time.perf_counter()
        connection.request("POST", "/execute", BODY, JSON_TYPE)
        response = connection.getresponse()
        text = response.read()
        took = time.perf_counter() - begun
        if response.status != 200 or json.loads(text)["stdout"] != "42\n":
            self.failed.append(text[:200])
            return None
        return took * 1000

    def measure(self, requests):
        """The times in ms of so many in all."""
        samples = []

        def run(connection):
            for _ in range(requests // len(self.connections)):
                took = self.one(connection)
                if took is not None:
                    samples.append(took)

        threads = [threading.Thread(target=run, args=(one,)) for one in self.connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return samples


class Nobody:
    """The usual."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Endless(Nobody):
    """A client that runs endless output, again each time that it was ended at the cap, and reads all
    that it is sent."""

    def __enter__(self):
        self.over = threading.Event()
        self.ended = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self):
        piece = bytearray(1 << 20)
        while not self.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
            connection.request("POST", "/execute", ENDLESS, NDJSON)
            response = connection.getresponse()
            while response.readinto(piece):
                pass
            connection.close()
            self.ended += 1

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Stalled(Nobody):
    """Eight clients with endless output that they do not read. They are cut off after 30 s, so what is
    measured beside them has to be short."""

    def __enter__(self):
        self.socks = []
        for _ in range(8):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", self.server.port))
            sock.sendall(b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                         b"\r\nAccept: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % len(LONG)
                         + LONG.encode())
            self.socks.append(sock)
        wait_for(lambda: self.server.metric("berth_executions_running") == 8)
        time.sleep(0.5)  # until they have filled what buffers there are
        return self

    def __exit__(self, *_):
        still = self.server.metric("berth_executions_running")
        for sock in self.socks:
            sock.close()
        wait_for(lambda: self.server.metric("berth_executions_running") == 0)
        if still != 8:
            print(f"neighbours: only {still:.0f} of 8 stalled to the end; ask for fewer requests",
                  file=sys.stderr)


class Idle(Nobody):
    """A thousand connections, half of which have asked something before. They are closed after 10 s
    and 30 s."""

    def __enter__(self):
        self.socks = [self.server.connect() for _ in range(1000)]
        for sock in self.socks[::2]:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for sock in self.socks[::2]:
            sock.recv(65536)
        return self

    def __exit__(self, *_):
        for sock in self.socks:
            sock.close()
        wait_for(lambda: self.server.metric("berth_http_connections") < 20)


def wait_for(check):
    end = time.monotonic() + 120
    while not check():
        if time.monotonic() > end:
            raise TimeoutError("the server does not get there")
        time.sleep(0.02)


KINDS = {"endless output": Endless, "8 that stop reading": Stalled, "1000 idle connections": Idle}


def measure(server, options):
    """{name: times in ms}, the usual ones under "usual"."""
    prober = Prober(server.port, options.clients)
    prober.measure(40)  # the first ones warm what caches there are
    samples = {name: [] for name in ("usual", *KINDS)}
    for _ in range(options.rounds):
        for name, kind in KINDS.items():
            samples["usual"] += prober.measure(options.requests // len(KINDS))
            with kind(server):
                samples[name] += prober.measure(options.requests)
    return samples, prober.failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", default=os.environ.get("BUILD", "build"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=240, help="of one kind in one round")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    os.environ["BERTH_BUILD"] = str(pathlib.Path(options.build).resolve())
    import harness  # noqa: PLC0415: it looks for the build folder when it is imported

    print(f"{os.cpu_count()} cores, load before {os.getloadavg()}, {options.clients} client(s)")
    server = harness.Server({"BERTH_MAX_CONNECTIONS": "2048", "BERTH_POOL_MAX": "64"}).start()
    try:
        samples, failed = measure(server, options)
    finally:
        server.stop()
        server.remove()
    usual = {percent: percentile(samples["usual"], percent) for percent in (50, 99)}
    figures = {}
    print(f"{'':24}{'requests':>9}{'p50 ms':>9}{'p99 ms':>9}{'p50 x':>8}{'p99 x':>8}")
    for name, times in samples.items():
        p50, p99 = percentile(times, 50), percentile(times, 99)
        figures[name] = {"requests": len(times), "p50_ms": p50, "p99_ms": p99}
        print(f"{name:24}{len(times):9}{p50:9.2f}{p99:9.2f}{p50 / usual[50]:8.2f}"
              f"{p99 / usual[99]:8.2f}")
    print(f"load after {os.getloadavg()}, {len(failed)} requests failed")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
