"""Attacks on namespaces, mounts, control groups and the kernel's interfaces."""
import ctypes
import fcntl
import mmap
import os
import resource
import signal
import stat
import struct
import termios

from attack_core import given, libc, listed, syscall

NEWUSER, NEWNS, NEWNET, NEWPID = 0x10000000, 0x20000, 0x40000000, 0x20000000
UNSHARE, MOUNT, UMOUNT, PRCTL = 272, 165, 166, 157
BIND_RECURSIVE, REMOUNT = 4096 | 16384, 32


# ---- namespaces ----


def attack_userns_then_mount(finding):
    finding.call("unshare", UNSHARE, NEWUSER | NEWNS | NEWNET | NEWPID)
    finding.write("/proc/self/uid_map", "0 1000 1")
    finding.call("mount", MOUNT, "berth-attack", "/mnt", "tmpfs", 0, 0)
    finding.call("bind", MOUNT, "/usr", "/mnt", 0, BIND_RECURSIVE, 0)
    finding.call("umount", UMOUNT, "/proc", 2)


def attack_userns_flood(finding):
    for _ in range(10000):
        if finding.call("unshare", UNSHARE, NEWUSER) != 0:
            break


# ---- mounts ----


def attack_masked_paths(finding):
    for name in ("kcore", "keys", "timer_list", "kallsyms", "kmsg", "sysrq-trigger", "sys", "bus",
                 "irq", "fs", "acpi"):
        path = "/proc/" + name
        if not os.path.exists(path):
            continue
        finding.call("umount", UMOUNT, path, 2)
        finding.call("bind", MOUNT, "/dev/full", path, 0, 4096, 0)
        finding.attempt("rename", os.rename, path, "/proc/away", any_error=True)
        finding.attempt("unlink", os.unlink, path, any_error=True)
        finding.attempt("rmdir", os.rmdir, path, any_error=True)
        finding.attempt("symlink", os.symlink, "/tmp", path, any_error=True)


def attack_console_paths(finding):
    for path in ("/dev/pts", "/dev/ptmx", "/dev/console", "/dev/tty", "/dev/null", "/dev/shm"):
        finding.attempt("rename", os.rename, path, "/dev/away", any_error=True)
        finding.attempt("unlink", os.unlink, path, any_error=True)
        finding.attempt("symlink", os.symlink, "/proc/sysrq-trigger", path, any_error=True)
        finding.attempt("rmdir", os.rmdir, path, any_error=True)
    finding.attempt("a terminal", os.mknod, "/dev/pts/99", stat.S_IFCHR | 0o666, 0x8801,
                    any_error=True)


def attack_tmpfs_grow(finding):
    before = os.statvfs("/tmp")
    finding.call("remount", MOUNT, 0, "/", 0, REMOUNT, "size=50%")
    finding.call("remount", MOUNT, "tmpfs", "/", "tmpfs", REMOUNT, "size=1G,nr_inodes=0")
    finding.call("fspick", 433, -100, "/", 0)
    after = os.statvfs("/tmp")
    if (before.f_blocks, before.f_files) != (after.f_blocks, after.f_files):
        finding.escaped("the root has another size now")


def attack_release_agent(finding):
    for option in ("memory", "pids", "rdma", "none,name=attack", "cpuset"):
        finding.call(option, MOUNT, "berth-attack", "/mnt", "cgroup", 0, option)
    finding.call("cgroup2", MOUNT, "berth-attack", "/mnt", "cgroup2", 0, 0)
    for folder in ("/mnt", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/rdma"):
        finding.write(folder + "/release_agent", "/berth-attack")


def _open_all(finding, *folders):
    """Opens every file below for writing; how many were seen."""
    seen = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(place, name)
                if os.path.islink(path):
                    continue
                seen += 1
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                    finding.escaped(path + " can be written")
                except OSError:
                    pass
    return seen


def attack_cgroup_files(finding):
    seen = _open_all(finding, "/sys/fs/cgroup", "/cgroup", "/run/cgroup", "/dev/cgroup")
    finding.open("/sys/fs/cgroup/cgroup.procs", os.O_WRONLY)
    if seen:
        finding.stopped(f"{seen} files are seen, none can be written")


def attack_sys_view(finding):
    seen = _open_all(finding, "/sys")
    for line in open("/proc/self/mountinfo"):
        before, after = line.split(" - ")
        kind, words = after.split()[0], before.split()
        if kind in ("sysfs", "debugfs", "tracefs", "securityfs", "devtmpfs"):
            finding.escaped("there is a mount of " + kind)
        if kind.startswith("cgroup") and ("ro" not in words[5].split(",") or words[3] != "/"):
            finding.escaped("a mount of control groups: " + line.strip())
    for place, folders, names in os.walk("/sys/fs/cgroup"):
        finding.attempt("a new group", os.mkdir, place + "/berth-attack", any_error=True)
        if "release_agent" in names:
            finding.escaped(place + " is the root of a hierarchy")
        for name in names:
            try:
                text = open(os.path.join(place, name)).read(65536)
            except (OSError, UnicodeDecodeError):
                continue
            if given("INSTANCE") in text:
                finding.escaped(f"{place}/{name} names the host's groups")
    finding.stopped(f"{seen} files, none can be written")


def attack_loop_device(finding):
    finding.open("/dev/loop-control", os.O_RDWR)
    for number in range(8):
        finding.open(f"/dev/loop{number}", os.O_RDWR)
        finding.call("mount of it", MOUNT, f"/dev/loop{number}", "/mnt", "ext4", 0, 0)


# ---- ways round the filter ----


def attack_personality_randomize(finding):
    result, number = syscall(135, 0x40000)
    if result < 0:
        finding.failed(number, "personality")
    else:
        finding.harmless("it holds for the code's own programs")


def _machine_code(code):
    """A function of these bytes, that takes up to four words."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    kind = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_ulong, ctypes.c_long, ctypes.c_long)
    function = kind(address)
    function.page = page
    return function


def _judge_raw(finding, result, what):
    if result < 0:
        finding.failed(-result, what)
    else:
        finding.escaped(what + " was allowed")


def attack_call_by_int80(finding):
    # push rbx; mov eax, edi; mov ebx, esi; mov ecx, edx; int 0x80; movsxd rax, eax; pop rbx; ret
    call = _machine_code(b"\x53\x89\xf8\x89\xf3\x89\xd1\xcd\x80\x48\x63\xc0\x5b\xc3")
    for number in (20, 21, 26, 310, 61, 357, 4):
        _judge_raw(finding, call(number, NEWUSER, 0), f"call {number} of i386")


def _raw_call():
    # mov rax, rdi; mov rdi, rsi; mov rsi, rdx; xor edx, edx; syscall; ret
    return _machine_code(b"\x48\x89\xf8\x48\x89\xf7\x48\x89\xd6\x31\xd2\x0f\x05\xc3")


def attack_call_by_x32(finding):
    call = _raw_call()
    for number in (165, 272, 161, 39, 321, 519, 521, 522, 545):
        _judge_raw(finding, call(0x40000000 | number, NEWUSER, 0), f"call {number} of x32")


def attack_call_high_bits(finding):
    call = _raw_call()
    for number in (1 << 32 | 272, 0xffffffff << 32 | 321, 1 << 63 | 165, (1 << 64) - 1, 0x7fffffff):
        _judge_raw(finding, call(number, NEWUSER, 0), hex(number))


def attack_own_filter(finding):
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
    program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
    syscall(PRCTL, 22, 2, ctypes.create_string_buffer(program), 0, 0)
    finding.call("removal", PRCTL, 22, 0, 0, 0, 0, any_error=True)
    finding.call("unshare behind it", UNSHARE, NEWUSER)
    finding.call("mount behind it", MOUNT, "berth-attack", "/mnt", "tmpfs", 0, 0)


def _own_terminal():
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
    return leader, follower


def attack_tiocsti(finding):
    _, fd = _own_terminal()
    finding.attempt("TIOCSTI", fcntl.ioctl, fd, termios.TIOCSTI, b"x")
    finding.attempt("TIOCLINUX", fcntl.ioctl, fd, 0x541c, b"\x03")
    finding.attempt("TIOCSTI on stdin", fcntl.ioctl, 0, termios.TIOCSTI, b"x")


def attack_tiocsti_high_bits(finding):
    _, fd = _own_terminal()
    for request in (1 << 32 | 0x5412, 0xffffffff << 32 | 0x5412, 1 << 32 | 0x541c):
        finding.call(hex(request), 16, fd, request, b"x")


# ---- /proc, limits, memory ----


def attack_core_dump(finding):
    infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    finding.attempt("setrlimit", resource.setrlimit, resource.RLIMIT_CORE, infinite)
    os.chdir("/tmp")
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    _, status = os.waitpid(pid, 0)
    if os.WCOREDUMP(status):
        finding.escaped("a core was dumped")


def attack_proc_sys_files(finding):
    finding.stopped(f"none of {_open_all(finding, '/proc/sys')} can be opened")


def attack_proc_other_files(finding):
    seen = _open_all(finding, *(f"/proc/{name}" for name in (
        "bus", "fs", "irq", "tty", "driver", "net", "scsi", "sysvipc")))
    for name in listed("/proc"):
        path = "/proc/" + name
        if os.path.isfile(path) and not os.path.islink(path):
            seen += 1
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                finding.escaped(path + " can be written")
            except OSError:
                pass
    finding.stopped(f"none of {seen} can be opened")


def attack_proc_pressure(finding):
    for name in ("io", "cpu", "memory"):
        finding.write("/proc/pressure/" + name, b"some 150000 2000000\0")


def attack_mmap_null(finding):
    libc.mmap.restype = ctypes.c_void_p
    ctypes.set_errno(0)
    page = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x32, -1, ctypes.c_long(0))
    if page is None or page == 0:
        finding.escaped("mmap was allowed")
    else:
        finding.failed(ctypes.get_errno(), "mmap")


def attack_oom_score(finding):
    for value in ("-1000", "-1"):
        finding.write("/proc/self/oom_score_adj", value)


def attack_huge_pages(finding):
    result, number = syscall(9, 0, 2 << 20, 3, 0x40022, -1, 0)
    if result < 0 and number == 12:
        finding.absent("the host has none")
    elif result < 0:
        finding.failed(number, "mmap")
    else:
        finding.escaped("mmap was allowed")


def attack_uid_map(finding):
    for name in ("uid_map", "gid_map", "setgroups", "projid_map"):
        for value in ("0 0 1", "0 0 4294967295", "deny"):
            finding.write("/proc/self/" + name, value, any_error=True)


def attack_limits_raise(finding):
    for name in ("NOFILE", "FSIZE", "CORE", "MEMLOCK", "RTPRIO", "MSGQUEUE", "SIGPENDING", "NICE"):
        number = getattr(resource, "RLIMIT_" + name)
        soft, hard = resource.getrlimit(number)
        if hard == resource.RLIM_INFINITY:
            finding.escaped(f"RLIMIT_{name} is infinite")
        finding.attempt(name, resource.setrlimit, number, (soft, hard + 1))


def attack_locked_memory(finding):
    size = 64 << 20
    area = mmap.mmap(-1, size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    finding.call("mlock", 149, address, size, any_error=True)
    finding.call("MAP_LOCKED", 9, 0, size, 3, 0x2022, -1, 0, any_error=True)
    number, _ = syscall(29, 0, size, 0o1600)
    if number >= 0:
        finding.call("SHM_LOCK", 31, number, 11, 0, any_error=True)
        syscall(31, number, 0, 0)
    finding.call("mlockall", 151, 1, any_error=True)


def attack_prctl_privileges(finding):
    for what, *arguments in (
            ("no_new_privs off", 38, 0, 0, 0, 0), ("seccomp off", 22, 0, 0, 0, 0),
            ("ambient", 47, 2, 21, 0, 0),
            ("PR_SET_MM", 35, 13, 0, 0, 0), ("core scheduling of init", 62, 1, 1, 0, 0)):
        finding.call(what, PRCTL, *arguments, any_error=True)
    if syscall(PRCTL, 23, 21, 0, 0, 0)[0] > 0:
        finding.escaped("CAP_SYS_ADMIN is in the bounding set")


def attack_securebits(finding):
    finding.call("securebits", PRCTL, 28, 0x2f, 0, 0, 0)
