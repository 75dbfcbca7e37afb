#!/usr/bin/python3
"""Prints the table of `make bench` from the samples that its programs wrote.

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
    ("berth-1", "POST /execute, 1 client"),
]
RATES = [
    ("rate-bare-1", "python3 -c, bare, 1 at once"),
    ("rate-bare-2", "python3 -c, bare, 2 at once"),
    ("rate-box-1", "in a bare box, 1 at once"),
    ("rate-box-2", "in a bare box, 2 at once"),
    ("rate-berth-1", "POST /execute, 1 client"),
    ("rate-berth-2", "POST /execute, 2 clients"),
    ("rate-berth-8", "POST /execute, 8 clients"),
    ("rate-berth-32", "POST /execute, 32 clients"),
]


def read(folder, name):
    path = folder / name
    return sorted(float(line) for line in path.read_text().split()) if path.exists() else []


def percentile(values, percent):
    """Nearest rank, as in samples.h."""
    return values[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def print_latency(folder):
    base = read(folder, "bare-python")
    print(f"\n{'latency, ms':28}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}{'p50 / bare':>12}{'samples':>9}")
    for name, title in LATENCY:
        values = read(folder, name)
        if not values:
            continue
        ratio = percentile(values, 50) / percentile(base, 50) if base else math.nan
        row = "".join(f"{percentile(values, p):8.2f}" for p in (50, 95, 99, 100))
        print(f"{title:28}{row}{ratio:12.2f}{len(values):9}")


def print_rates(folder):
    base = read(folder, "rate-bare-2")
    print(f"\n{'throughput, 1/s':28}{'median':>8}{'least':>8}{'most':>8}{'of bare, 2':>12}{'p50 ms':>9}{'p99 ms':>9}")
    for name, title in RATES:
        values = read(folder, name)
        if not values:
            continue
        ratio = statistics.median(values) / statistics.median(base) if base else math.nan
        row = f"{title:28}{statistics.median(values):8.1f}{values[0]:8.1f}{values[-1]:8.1f}{ratio:12.2f}"
        latency = read(folder, name.replace("rate-", "latency-"))
        if latency:
            row += f"{percentile(latency, 50):9.1f}{percentile(latency, 99):9.1f}"
        print(row)


def print_stages(folder):
    path = folder / "stages"
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        match = re.match(r"(\w+)_ms +p50 +([\d.]+) ", line)
        if match:
            found.setdefault(match[1], []).append(float(match[2]))
    if not found:
        return
    print("\nwhat the answers say, median of the rounds' medians, ms")
    print("  " + "  ".join(f"{name} {statistics.median(values):.2f}" for name, values in found.items()))


def main():
    folder = pathlib.Path(sys.argv[1])
    print_latency(folder)
    print_stages(folder)
    print_rates(folder)


if __name__ == "__main__":
    main()
