#!/usr/bin/python3
"""Prints the tables of `make bench` from the samples that its programs wrote.

Owns the layout. A sample file has one figure a line; a missing file is a missing line of the table.
"""

import math
import pathlib
import re
import statistics
import sys

LATENCY = [
    ("bare-python", "python3 -c, bare"),
    ("box-true", "true in a bare box"),
    ("box-python", "python3 -c in a bare box"),
    ("fresh-paced", "/execute, one each 50 ms"),
    ("fresh-1", "/execute, back to back"),
    ("session-1", "1+1 in a session"),
]
RATES = [
    ("bare-1", "python3 -c, bare, 1 at once"),
    ("bare-2", "python3 -c, bare, 2 at once"),
    ("box-1", "in a bare box, 1 at once"),
    ("box-2", "in a bare box, 2 at once"),
    ("fresh-1", "/execute, 1 client"),
    ("fresh-2", "/execute, 2 clients"),
    ("fresh-8", "/execute, 8 clients"),
    ("fresh-32", "/execute, 32 clients"),
    ("session-1", "1+1 in a session"),
    ("session-64", "1+1 in 64 sessions at once"),
    ("create-100", "100 new sessions, 1+1 each"),
]
STAGES = [name for name, _ in LATENCY + RATES if name.startswith(("fresh", "session"))]


def read(folder, name):
    path = folder / name
    return sorted(float(line) for line in path.read_text().split()) if path.exists() else []


def percentile(values, percent):
    """Nearest rank, as in samples.h."""
    return values[max(0, math.ceil(percent / 100 * len(values)) - 1)] if values else math.nan


def median(values):
    return statistics.median(values) if values else math.nan


def pool_text(folder, name):
    """Hits of all that asked; nothing when the server has no pool."""
    path = folder / f"pool-{name}"
    pairs = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    hits, misses = (sum(int(pair[i]) for pair in pairs) for i in (0, 1))
    return f"{hits}/{hits + misses}" if pairs else "-"


def print_latency(folder):
    base = percentile(read(folder, "bare-python"), 50)
    print(f"\n{'latency, ms':28}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}{'p50 / bare':>12}"
          f"{'samples':>9}{'from pool':>12}")
    for name, title in LATENCY:
        values = read(folder, name)
        if values:
            row = "".join(f"{percentile(values, p):8.2f}" for p in (50, 95, 99, 100))
            print(f"{title:28}{row}{percentile(values, 50) / base:12.2f}{len(values):9}"
                  f"{pool_text(folder, name):>12}")


def print_rates(folder):
    base = median(read(folder, "rate-bare-2"))
    print(f"\n{'throughput, 1/s':28}{'median':>8}{'least':>8}{'most':>8}{'of bare, 2':>12}"
          f"{'p50 ms':>9}{'p99 ms':>9}{'from pool':>12}")
    for name, title in RATES:
        values = read(folder, f"rate-{name}")
        if not values:
            continue
        row = f"{median(values):8.1f}{values[0]:8.1f}{values[-1]:8.1f}{median(values) / base:12.2f}"
        latency = read(folder, name)
        if latency:
            row += f"{percentile(latency, 50):9.2f}{percentile(latency, 99):9.2f}"
            row += f"{pool_text(folder, name):>12}"
        print(f"{title:28}{row}")
    elapsed = read(folder, "elapsed-create-100")
    if elapsed:
        print(f"100 sessions asked for at once have all answered after {median(elapsed):.0f} ms "
              f"({elapsed[0]:.0f} to {elapsed[-1]:.0f})")


def print_stages(folder):
    print("\nwhat the answers say, median of the rounds' medians, ms")
    for name in dict.fromkeys(STAGES):
        path = folder / f"stages-{name}"
        found = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            match = re.match(r"(queue|create|wall|cpu|rest)_ms +p50 +([\d.]+) ", line)
            if match:
                found.setdefault(match[1], []).append(float(match[2]))
        if found:
            print(f"  {name:12}" + "".join(f"  {stage} {median(values):6.2f}"
                                           for stage, values in found.items()))


def print_aims(folder):
    bare = percentile(read(folder, "bare-python"), 50)
    fresh = percentile(read(folder, "fresh-paced"), 50)
    single = percentile(read(folder, "fresh-1"), 50)
    rate = max(median(read(folder, f"rate-fresh-{clients}")) for clients in (8, 32))
    tail = percentile(read(folder, "fresh-8"), 99)
    session = percentile(read(folder, "session-1"), 50)
    print("\naims")
    for title, value, unit, aim, met in (
            ("1+1 in a session, p50", session, "ms", "< 0.3", session < 0.3),
            ("/execute, one each 50 ms, p50", fresh, "ms", "< 1.5", fresh < 1.5),
            ("the same as a share of bare python3 -c", fresh / bare, "", "<= 0.2", fresh <= bare / 5),
            ("/execute, 8 or 32 clients", rate, "/s", ">= 400", rate >= 400),
            ("p99 at 8 clients / p50 at one", tail / single, "", "< 10", tail < 10 * single)):
        print(f"  {title:42}{value:10.2f} {unit:4}aim {aim:8}{'met' if met else 'missed'}")


def main():
    folder = pathlib.Path(sys.argv[1])
    print_latency(folder)
    print_rates(folder)
    print_stages(folder)
    print_aims(folder)


if __name__ == "__main__":
    main()
