#!/usr/bin/env python3
"""Counts what must not grow while berth runs.

  snapshot.py STATE                  prints the counts of the server with that state folder, as JSON
  snapshot.py --traces STATE         names everything on this host that belongs to that server or to
                                     its sandboxes, and what of theirs belongs to nobody
  snapshot.py --compare A.json B.json [--slack NAME=N ...]
                                     exits with 1 when a count of B is above that of A (plus its slack)

Needs root to see all. RSS is printed and compared only when it has a slack, since allocators keep
what they were given."""
import fcntl
import json
import os
import pathlib
import re
import sys

PROGRAMS = ("berth-monitor", "berth-server", "berth-native", "berth-docker", "berth-egress", "berth-init",
            "berth-unpack")
ID_LOCKS = "/run/berth/ids"
ID_RANGES = range(0x70000000, 0x7fff0000)  # what src/native/idrange.h gives away, and some more


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


# ---- every trace on the host ----

class Process:
    """What tells whose a process is."""

    def __init__(self, pid):
        self.pid = pid
        status = status_of(pid)
        self.name = status.get("Name", "").strip()
        self.parent = status.get("PPid", "0").strip()
        self.zombie = status.get("State", "Z").startswith("Z")
        self.in_range = any(int(uid) in ID_RANGES for uid in status.get("Uid", "").split())
        self.words = read(f"/proc/{pid}/cmdline").replace("\0", " ")
        self.cgroup = read(f"/proc/{pid}/cgroup")
        self.exists = bool(status)

    def is_berth(self):
        return self.in_range or self.name.startswith("berth-") or "/berth-" in self.cgroup

    def __str__(self):
        return f"process {self.pid} {self.name} {self.words[:100]}"


def links(pid, folder):
    """{name: target} of /proc/PID/fd or /proc/PID/ns."""
    found = {}
    for name in listed(f"/proc/{pid}/{folder}"):
        try:
            found[name] = os.readlink(f"/proc/{pid}/{folder}/{name}")
        except OSError:
            pass
    return found


def left_ipc():
    """System V objects in the host's own namespace that belong to an id of a sandbox."""
    found = []
    for kind in ("shm", "sem", "msg"):
        lines = [line.split() for line in read(f"/proc/sysvipc/{kind}").splitlines()]
        for line in lines[1:]:
            ids = [int(line[lines[0].index(name)]) for name in ("uid", "gid", "cuid", "cgid")]
            if any(number in ID_RANGES for number in ids):
                found.append(f"System V {kind} {line[1]}")
    return found


class Traces:
    """Looks at the whole host once. A trace is ours when it bears our state folder or instance, and
    nobody's when it is of berth's making and bears nobody's: both are left over. What bears another
    instance's name is not looked at, so that several servers can be tested at once."""

    def __init__(self, state, instance):
        self.words = [word for word in (str(state), f"berth-{instance}" if instance else "") if word]
        self.processes = {}
        for pid in filter(str.isdigit, listed("/proc")):
            process = Process(pid)
            if process.exists and not process.zombie:
                self.processes[pid] = process

    def ours(self, text):
        return any(word in text for word in self.words)

    def owner(self, pid):
        """"ours", "theirs", "nobody" (of berth, without a name or a living parent that could end it),
        or "" (not berth's)."""
        process = self.processes.get(pid)
        if not process:
            return ""
        above = [process]
        while above[-1].parent in self.processes:
            above.append(self.processes[above[-1].parent])
        for one in above:
            if self.ours(one.cgroup) or self.ours(one.words):
                return "ours"
            if "/berth-" in one.cgroup or "--state" in one.words:
                return "theirs"
        if not process.is_berth():
            return ""
        return "nobody" if process.parent == "1" or str(os.getpid()) in (
            one.pid for one in above) else "theirs"

    def left(self):
        """A list of words, one for each trace."""
        found = [str(process) for pid, process in self.processes.items()
                 if int(pid) != os.getpid() and self.owner(pid) in ("ours", "nobody")
                 and not process.words.startswith(("python", "/usr/bin/python"))]
        found += self.left_cgroups() + self.left_mounts() + self.left_loops()
        found += self.left_sockets() + self.left_locks() + self.left_namespaces()
        return found + left_ipc()

    def left_cgroups(self):
        return [f"cgroup {path}" for path, _, _ in os.walk("/sys/fs/cgroup")
                if self.ours(path) and not self.is_base(path)]

    def is_base(self, path):
        """The instance's own folder: it goes with the engine, or stays for the next one."""
        return any(path.endswith("/" + word) for word in self.words)

    def left_mounts(self):
        """In the mount namespace of every living process, each looked at once."""
        seen, found = set(), []
        for pid in self.processes:
            namespace = links(pid, "ns").get("mnt")
            if namespace is None or namespace in seen:
                continue
            seen.add(namespace)
            found += [f"mount of {pid}: {line}" for line in
                      read(f"/proc/{pid}/mountinfo").splitlines() if self.ours(line)]
        return found

    def left_loops(self):
        found = []
        for name in listed("/sys/block"):
            backing = read(f"/sys/block/{name}/loop/backing_file").strip()
            if backing and self.ours(backing):
                found.append(f"loop device {name} of {backing}")
        return found

    def left_sockets(self):
        return [f"socket {line}" for line in read("/proc/net/unix").splitlines()
                if self.ours(line)]

    def left_locks(self):
        """Id ranges that are locked, and not by a sandbox of somebody else's."""
        held = set()
        for name in listed(ID_LOCKS):
            try:
                fd = os.open(f"{ID_LOCKS}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                held.add(f"{ID_LOCKS}/{name}")
            os.close(fd)
        holders = {path: [] for path in held}
        for pid in self.processes if held else ():
            for target in links(pid, "fd").values():
                if target in holders:
                    holders[target].append(self.owner(pid))
        return [f"lock {path}" for path, owners in holders.items() if "theirs" not in owners]

    def left_namespaces(self):
        """Those that our processes are in or hold open, beside the host's own."""
        own = set(links("1", "ns").values()) | set(links("self", "ns").values())
        found = set()
        for pid in self.processes:
            if self.owner(pid) not in ("ours", "nobody"):
                continue
            held = [target for target in links(pid, "fd").values()
                    if re.match(r"(user|mnt|pid|net|ipc|uts|cgroup|time):\[", target)]
            found.update(held + list(links(pid, "ns").values()))
        return [f"namespace {name}" for name in sorted(found - own)]


def state_files(state):
    """What lies in a state folder, beside the database: relative names."""
    root = pathlib.Path(state)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*")
                  if path.relative_to(root).parts[0] != "db")


def traces(state):
    instance = read(os.path.join(state, "priv", "instance")).strip()
    return Traces(state, instance).left()


def count_mounts(pid, state):
    """Without those that name the folder of another berth, or of another daemon of the tests."""
    return sum(state in line or "/berth-" not in line
               for line in read(f"/proc/{pid}/mountinfo").splitlines())


def snapshot(state):
    instance = read(os.path.join(state, "priv", "instance")).strip() or "no-instance"
    counts = {
        "namespaces": namespaces(),
        "cgroups": cgroups(instance),
        "mounts.self": count_mounts("self", state),
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
                           ("mounts", count_mounts(pid, state))):
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
    if len(words) == 2 and words[0] == "--traces":
        print("\n".join(traces(words[1])))
        return 0
    if len(words) == 3 and words[0] == "--compare":
        return compare(json.loads(read(words[1])), json.loads(read(words[2])), slack)
    if len(words) == 1 and not words[0].startswith("-"):
        print(json.dumps(snapshot(words[0]), indent=2))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
