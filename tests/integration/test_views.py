"""What runtimes read to size themselves: processors in /sys, the code's own cgroups."""
import json

import pytest

MIB = 1 << 20
# Runs inside: finds the limits as the JVM and libuv do, by the mounts in mountinfo.
LOOK = """
import json, os
limits, kinds = {}, set()
for line in open("/proc/self/mountinfo"):
    left, right = line.split(" - ")
    place, kind = left.split()[4], right.split()[0]
    if not kind.startswith("cgroup"):
        continue
    kinds.add(kind)
    assert left.split()[3] == "/", line
    for name in ("memory.max", "memory.limit_in_bytes", "cpu.max", "cpu.cfs_quota_us", "pids.max"):
        path = f"{place}/{name}"
        if os.path.exists(path):
            limits[name] = open(path).read().split()[0]
    try:
        open(f"{place}/cgroup.procs", "w").write("0")
        limits["written"] = place
    except OSError:
        pass
cpu = "/sys/devices/system/cpu/"
print(json.dumps({"limits": limits, "kinds": sorted(kinds), "cpus": os.sysconf("SC_NPROCESSORS_ONLN"),
                  "online": open(cpu + "online").read().strip(),
                  "present": open(cpu + "present").read().strip()}))
"""


@pytest.mark.parametrize("profile", ("strict", "container"))
@pytest.mark.parametrize("cpu, cpus, online", (("0.5", 1, "0"), ("1", 1, "0"), ("1.5", 2, "0-1")))
def test_processors_and_memory(server, profile, cpu, cpus, online):
    done = server.execute(LOOK, profile=profile, resources={"cpu": cpu, "ram": "300MiB"})
    assert done["exit_code"] == 0, done
    seen = json.loads(done["stdout"])
    assert (seen["online"], seen["present"], seen["cpus"]) == (online, online, cpus), seen
    limits = seen["limits"]
    memory = limits.get("memory.max") or limits.get("memory.limit_in_bytes")
    assert int(memory) == 300 * MIB, seen
    quota = limits.get("cpu.max") or limits.get("cpu.cfs_quota_us")
    assert int(quota) == int(float(cpu) * 100000), seen
    assert int(limits["pids.max"]) == 128, seen
    assert "written" not in limits, seen


def test_other_groups_do_not_show(server):
    code = """
import os
for folder, names, _ in os.walk("/sys/fs/cgroup"):
    for name in names:
        print(os.path.join(folder, name))
print(open("/proc/self/cgroup").read())
"""
    done = server.execute(code)
    assert "berth" not in done["stdout"], done["stdout"]
