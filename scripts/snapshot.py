#!/usr/bin/env python3
"""Counts what must not grow while berth runs.

  snapshot.py STATE                  prints the counts of the server with that state folder, as JSON
  snapshot.py --compare A.json B.json [--slack NAME=N ...]
                                     exits with 1 when a count of B is above that of A (plus its slack)

Needs root to see all. RSS is printed and compared only when it has a slack, since allocators keep
what they were given."""
import json
import os
import pathlib
import re
import sys

PROGRAMS = ("berth-monitor", "berth-native", "berth-server", "berth-init", "berth-unpack")


def read(path):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def listed(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def status_of(pid):
    return dict(line.split(":\t", 1) for line in read(f"/proc/{pid}/status").splitlines()
                if ":\t" in line)


def family(state):
    """The monitor that holds the state folder's lock and everything below it: {pid: program}."""
    root = read(os.path.join(state, "priv", "lock")).strip()
    parents = {}
    names = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        status = status_of(pid)
        if status:
            parents[pid] = status["PPid"].strip()
            words = read(f"/proc/{pid}/cmdline").split("\0")
            base = os.path.basename(words[0]) if words[0] else status["Name"].strip()
            names[pid] = base if base in PROGRAMS else "other"
    found = {}
    for pid in parents:
        walk = pid
        while walk in parents and walk != root:
            walk = parents[walk]
        if walk == root:
            found[pid] = names[pid]
    return found


def cgroups(instance):
    """Folders below /sys/fs/cgroup with the instance in their path."""
    return sum(instance in path for path, _, _ in os.walk("/sys/fs/cgroup"))


def namespaces():
    seen = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for kind in listed(f"/proc/{pid}/ns"):
            try:
                seen.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
            except OSError:
                pass
    return len(seen)


def snapshot(state):
    instance = read(os.path.join(state, "priv", "instance")).strip() or "no-instance"
    counts = {
        "namespaces": namespaces(),
        "cgroups": cgroups(instance),
        "mounts.self": len(read("/proc/self/mountinfo").splitlines()),
        "files": sum(len(files) + len(folders) for _, folders, files in os.walk(state)
                     if not re.search(r"/db(/|$)", _)),
        "zombies": 0,
    }
    for pid, name in family(state).items():
        status = status_of(pid)
        if status.get("State", "").startswith("Z"):
            counts["zombies"] += 1
            continue
        rss_kb = int(status.get("VmRSS", "0 kB").split()[0])
        for key, value in (("processes", 1), ("fds", len(listed(f"/proc/{pid}/fd"))),
                           ("threads", int(status.get("Threads", "0"))), ("rss_kb", rss_kb),
                           ("mounts", len(read(f"/proc/{pid}/mountinfo").splitlines()))):
            counts[f"{name}.{key}"] = counts.get(f"{name}.{key}", 0) + value
    return dict(sorted(counts.items()))


def compare(before, after, slack):
    grown = 0
    for name in sorted(set(before) | set(after)):
        if name.endswith("rss_kb") and name not in slack:
            continue
        old, new = before.get(name, 0), after.get(name, 0)
        if new > old + slack.get(name, 0):
            print(f"{name} grew from {old} to {new}")
            grown += 1
    return 1 if grown else 0


def main(words):
    slack = {}
    while "--slack" in words:
        at = words.index("--slack")
        name, number = words[at + 1].split("=")
        slack[name] = int(number)
        del words[at:at + 2]
    if len(words) == 3 and words[0] == "--compare":
        return compare(json.loads(read(words[1])), json.loads(read(words[2])), slack)
    if len(words) == 1 and not words[0].startswith("-"):
        print(json.dumps(snapshot(words[0]), indent=2))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
