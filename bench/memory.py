#!/usr/bin/python3
"""Prints what idle sessions take, and the programs above them, for `make bench-memory`.

Owns the sessions (through bench-client, which ends them) and the walk through the process tree. Every
process below the monitor is counted once: as server, engine or monitor, as part of a sandbox (init and
all below it), or as the engine's helper (a zygote, if there is one).

PSS is from /proc/PID/smaps_rollup: a page that n processes share counts as 1/n for each of them.
"Kmem" is what the memory group of a sandbox was charged for in the kernel; "files" what lies in its
file systems in memory. What no group is charged for (namespaces, mounts, sockets of the engine) shows
in "of the host": what MemAvailable went down by since before the first session.
"""

import argparse
import pathlib
import re
import subprocess
import time

PROC = pathlib.Path("/proc")
CGROUP = pathlib.Path("/sys/fs/cgroup")
MIB = 1024 * 1024
AIM_SESSION_MIB, AIM_SERVER_MIB = 6, 40


def fields(path):
    """'Name: 12 kB' lines as bytes; empty when the process has gone."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}


def processes():
    """{pid: (command, parent)}"""
    found = {}
    for path in PROC.glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        head, tail = text.rsplit(")", 1)
        found[int(path.parent.name)] = (head.split("(", 1)[1], int(tail.split()[1]))
    return found


def sort_out(monitor):
    """{group: [pids]} of all that lives below the monitor."""
    table = processes()
    children = {}
    for pid, (_, parent) in table.items():
        children.setdefault(parent, []).append(pid)
    groups = {"monitor": [monitor], "server": [], "engine": [], "init": [], "kernel": [], "helper": []}
    below = {"berth-server": "server", "berth-native": "engine", "berth-init": "init"}

    def walk(pid, inherited):
        for child in children.get(pid, []):
            group = below.get(table[child][0], inherited)
            groups[group].append(child)
            walk(child, "kernel" if group in ("init", "kernel") else "helper")

    walk(monitor, "helper")
    return groups


def memory_group(init):
    """The folder of the sandbox that this init is in, whichever group of it that is."""
    for line in (PROC / str(init) / "cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        found = re.match(r"(?:.*/)?berth-[^/]+/[^/]+", path.lstrip("/"))
        if found and "memory" in controllers.split(","):
            return CGROUP / "memory" / found[0]
        if found and number == "0" and (CGROUP / "cgroup.controllers").exists():
            return CGROUP / found[0]
    return None


def group_bytes(folder):
    """(kernel, files in memory) that a group is charged for; zeros where the host does not say."""
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = int(stat.get("total_shmem", stat.get("shmem", 0)))
        if "kernel" in stat:
            return int(stat["kernel"]), files
        return int((folder / "memory.kmem.usage_in_bytes").read_text()), files
    except (OSError, AttributeError):
        return 0, 0


def available():
    return fields(PROC / "meminfo")["MemAvailable"]


def look(monitor):
    """Sums in MiB: {group: (PSS, RSS)}, kernel, files, sandboxes."""
    groups = sort_out(monitor)
    sums = {}
    for group, pids in groups.items():
        rolls = [fields(PROC / str(pid) / "smaps_rollup") for pid in pids]
        sums[group] = tuple(sum(roll.get(name, 0) for roll in rolls) / MIB for name in ("Pss", "Rss"))
    charged = [group_bytes(memory_group(init)) for init in groups["init"]]
    kernel, files = (sum(pair[i] for pair in charged) / MIB for i in (0, 1))
    return sums, kernel, files, len(groups["init"])


def make_sessions(arguments, count):
    """A client that holds that many more."""
    client = subprocess.Popen(
        [arguments.client, "--url", arguments.url, "--create-sessions", str(count), "--clients",
         str(min(count, 8)), "--hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line in client.stdout:
        if line.strip() == "held":
            return client
        if "failures" in line and not line.rstrip().endswith(" 0 failures"):
            print(line.rstrip())
    raise SystemExit(f"memory: {count} sessions could not be made")


def settle(arguments):
    subprocess.run([arguments.client, "--url", arguments.url, "--settle"], check=True)
    time.sleep(1)


def print_row(sessions, seen, gone):
    sums, kernel, files, sandboxes = seen
    each = 1 / max(sandboxes, 1)
    pss = sums["init"][0] + sums["kernel"][0]
    print(f"{sessions:8}{sandboxes:10}{sums['init'][0] * each:9.2f}{sums['kernel'][0] * each:9.2f}"
          f"{sums['helper'][0] * each:9.2f}{kernel * each:9.2f}{files * each:8.2f}"
          f"{(pss + sums['helper'][0] + kernel + files) * each:9.2f}{gone:10.2f}"
          + "".join(f"{sums[name][0]:9.1f} /{sums[name][1]:6.1f}"
                    for name in ("server", "engine", "monitor")))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--client", required=True)
    parser.add_argument("--monitor", type=int, required=True)
    parser.add_argument("--counts", default="10,100,500")
    arguments = parser.parse_args()
    print("\nMiB a sandbox, those of the pool counted in; server, engine, monitor as PSS / RSS")
    print(f"{'sessions':>8}{'sandboxes':>10}{'init':>9}{'kernel':>9}{'zygote':>9}{'kmem':>9}"
          f"{'files':>8}{'all':>9}{'of host':>10}{'server':>17}{'engine':>17}{'monitor':>17}")
    clients, made = [], 0
    settle(arguments)
    before = available()
    first = look(arguments.monitor)
    print_row(0, first, 0)
    try:
        for count in (int(text) for text in arguments.counts.split(",")):
            clients.append(make_sessions(arguments, count - made))
            made = count
            settle(arguments)
            seen = look(arguments.monitor)
            print_row(count, seen, (before - available()) / MIB / max(seen[3] - first[3], 1))
    finally:
        for client in clients:
            client.stdin.close()
        for client in clients:
            client.wait()
    sums, kernel, files, sandboxes = seen
    session = (sums["init"][0] + sums["kernel"][0] + sums["helper"][0] + kernel + files) / sandboxes
    print("\naims")
    for title, value, aim in ((f"a session at {made}, all columns", session, AIM_SESSION_MIB),
                              ("server, PSS", sums["server"][0], AIM_SERVER_MIB)):
        print(f"  {title:42}{value:10.2f} MiB aim <= {aim:<5}{'met' if value <= aim else 'missed'}")


if __name__ == "__main__":
    main()
