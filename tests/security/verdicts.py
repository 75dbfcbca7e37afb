"""The list of attacks (attacks.def), and the file of verdicts that the table of SECURITY.md is made
of. The suite adds to the file; where it is: BERTH_VERDICTS, else attack-verdicts.json in the build."""
import ast
import errno
import fcntl
import json
import os
import pathlib
import re

from harness import BUILD

HERE = pathlib.Path(__file__).parent
FILE = pathlib.Path(os.environ.get("BERTH_VERDICTS") or BUILD / "attack-verdicts.json")
PROFILES = ("strict", "container")
LANGUAGES = ("python", "c")
# A way that refuses a profile: under Docker root could open init's streams in gVisor, and Podman's filter lets root use
# the keyring of the host's root. test_attacks.py looks at the refusal.
REFUSED = {"docker/runsc": {"container"}, "podman": {"container"}}

# What is allowed on purpose: the attack itself says that it is harmless.
HARMLESS = {"personality_randomize", "host_shadow", "chroot_escape"}

# Rights that a profile gives over what is the sandbox's own. The attack sees that it was let through;
# the host has to see no effect, and then it counts as harmless.
GIVEN = {
    "strict": set(),
    "container": {
        # root's own files: the image is the lower side of an overlay
        "host_program", "usr_bin_file", "usr_lib_file", "etc_passwd", "etc_preload", "root_file",
        "var_log", "var_lib_dpkg",
        # Docker's default capabilities, in the sandbox's own user namespace
        "become_root", "chown_root", "setuid_planted", "setuid_image", "ld_preload",
        "file_capabilities", "chroot", "securebits",
        # debuggers, for the code's own processes
        "ptrace", "ptrace_setuid", "process_vm_readv", "process_vm_writev"},
}

# What is reached and can't be helped yet, said in SECURITY.md. Stopped, it has to leave this list.
KNOWN = {}

# What a container of Docker's (runc) lets through where the native engine's sandbox does not, seen with Docker 20.10
# and runc 1.1: its /proc and /sys tell more of the host, inotify instances are the host user's, and code of the profile
# "container" shares id 0 with init and has Docker's own filter. The host and the neighbour show no effect; docs/engines.md
# tells of it.
RUNC = {
    "strict": {
        "inotify_host", "proc_cmdline", "proc_kallsyms", "proc_pressure", "sys_kernel",
        "sys_view"},
    "container": {
        "adjtimex", "call_by_int80", "clock_adjtime", "console_paths", "dev_file",
        "hardlink_to_host", "host_devices", "init_proc_files", "init_schedule", "init_secrets",
        "init_signals", "inotify_host", "io_uring_enter", "io_uring_register", "io_uring_setup",
        "memfd_secret", "modify_ldt", "netlink_audit", "netlink_connector", "netlink_generic",
        "netlink_netfilter", "netlink_xfrm", "personality_other", "proc_cmdline",
        "proc_fd_links", "proc_kallsyms", "proc_kpageflags", "proc_other_files",
        "proc_pagetypeinfo", "proc_pressure", "proc_slabinfo", "proc_vmallocinfo",
        "process_mrelease", "socket_filter", "socket_options", "socket_packet", "socket_raw",
        "socket_raw6", "socket_vsock", "socket_xdp", "sys_kernel", "sys_view", "tiocsti",
        "tiocsti_high_bits"},
}

# What gVisor's kernel lets through, of its own: no host's and no neighbour's. Each name with all that may be
# told of it (a further escape is none of this list), seen with Debian's runsc and its platform ptrace.
GVISOR = {
    # No right is asked for in the /proc of another process: which descriptors init has and where its code
    # lies. Its streams to the engine can't be opened (test_runsc.py).
    "init_namespaces": r"/proc/1/ns/(user|pid|net) was allowed",
    "init_robust_list": r"get_robust_list was allowed",
    "init_secrets": r"(environ|maps|smaps|auxv|fdinfo|fd|ns/user|ns/pid) was (allowed|read)",
    "proc_fd_links": r"(list|/proc/1/fd(/\d+)?) was allowed",
    # Numbers that nothing in it looks at.
    "init_schedule": r"(setpriority|affinity|sched_setaffinity) was allowed",
    "nice_negative": r"(of the (process|group|user)|setpriority [012]) was allowed",
    "oom_score": r"(-1000|-1|/proc/self/oom_score_adj) was allowed",
    # Memory and counts of its own, within the sandbox's limit of memory.
    "huge_pages": r"mmap was allowed",
    "inotify_host": r"1000 were to be had",
    "locked_memory": r"SHM_LOCK was allowed",
    "message_queues": r"mq_open was allowed",
    # Its own network stack, /proc and /sys.
    "proc_cmdline": r"/proc/cmdline gave \d+ bytes( or names)?",
    "socket_options": r"(SO_MARK|SO_DEBUG|IP_TRANSPARENT|TCP_ULP) was allowed",
    "sys_view": r"/sys is the kernel's own|there is a mount of sysfs",
}
GVISOR_OF = {
    # init has its group's counters open, which are there by name as well, read-only.
    "native/runsc": {**GVISOR, "fd_as_cwd": r"/proc/1/fd/\d+ is a folder"},
    # A file system of gVisor's own lies at /tmp there, and takes nodes: of its own devices.
    "docker/runsc": {**GVISOR, "host_devices": r"(fuse|tun|null|/tmp/py-device-(10-229|10-200|1-3)) was allowed"},
}
# What it refuses in other words than Linux does: a call or an operation that it has not, or not with this
# argument. int 0x80 takes the numbers of x86-64 there, through the same filter.
GVISOR_REFUSES = {
    "call_by_int80": "EBADF", "dev_tun": "EBADFD", "file_capabilities": "ENOTSUP",
    "interface_down": "ENOTTY", "mmap_null": "ENOMEM", "personality_randomize": "EINVAL",
    "prlimit_host": "EINVAL", "realtime": "EINVAL", "securebits": "EINVAL",
}


def listed_as_let_through(way, profile):
    return set(GVISOR_OF.get(way, RUNC[profile] if way in ("docker", "podman") else ()))


def is_let_through(way, profile, name, detail):
    """Whether what an attack tells of is all on the way's list."""
    if name not in listed_as_let_through(way, profile):
        return False
    told = re.sub(r": E[A-Z0-9]+$", "", detail)
    return way not in GVISOR_OF or all(re.fullmatch(GVISOR_OF[way][name], part) for part in told.split("; "))


def is_refused(way, name, detail):
    """Whether an error that decides nothing elsewhere is a refusal there."""
    return way in GVISOR_OF and detail.endswith(f": {GVISOR_REFUSES.get(name)}")


def rows():
    """[(kind, name, how, arguments)] of attacks.def, and the sections as ("SECTION", title)."""
    found = []
    for line in (HERE / "attacks.def").read_text().splitlines():
        match = re.fullmatch(r"(SECTION|CALL|READ|WRITE|CODE|ALONE|HOST)\((.*)\)", line)
        if match and match[1] == "SECTION":
            found.append(("SECTION", ast.literal_eval(match[2])))
        elif match:
            name, rest = match[2].split(", ", 1)
            how, *arguments = ast.literal_eval(f"({rest},)")
            found.append((match[1], name, how, arguments))
    return found


def names(*kinds):
    return [row[1] for row in rows() if row[0] in kinds]


def detail_of(finding):
    number = finding.get("errno", 0)
    word = errno.errorcode.get(number, str(number)) if number else ""
    return ": ".join(part for part in (finding.get("detail", ""), word) if part)


def record(kind, **fields):
    """Adds one entry to the file: a verdict or figures. The last one of the same key stays."""
    key = "/".join(str(fields[name]) for name in ("name", "engine", "profile", "language"))
    with open(FILE.with_suffix(".lock"), "w") as lock:  # files of tests run beside each other
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            held = json.loads(FILE.read_text())
        except (OSError, ValueError):
            held = {}
        held.setdefault(kind, {})[key] = fields
        fresh = FILE.with_suffix(".new")
        fresh.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")
        fresh.rename(FILE)
