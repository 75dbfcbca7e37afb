"""Attacks on processes: those of the host, those of neighbours, and init."""
import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import time

from attack_core import given, given_number, listed, processes, run, syscall

RESOURCES = range(16)


def _pidfd_kill(finding, pid, number):
    def send():
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
    finding.attempt("pidfd_send_signal", send)


def attack_kill_host(finding):
    pid = given_number("HOST_PID")
    finding.attempt("kill", os.kill, pid, 9)
    finding.attempt("killpg", os.killpg, pid, 9)
    finding.call("tgkill", 234, pid, pid, 9)
    _pidfd_kill(finding, pid, 9)


def attack_ptrace_host(finding):
    for request in (16, 0x4206):
        finding.call("ptrace", 101, request, given_number("HOST_PID"), 0, 0)


def _touch_memory(finding, pid, address):
    data = ctypes.create_string_buffer(b"overwritten by an attack", 64)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(data), 64)
    remote = (ctypes.c_size_t * 2)(address, 64)
    for number in (311, 310):
        finding.call("process_vm", number, pid, local, 1, remote, 1, 0)
    finding.look_at(data.raw, "another process's memory")
    for name in ("mem", f"task/{pid}/mem"):
        finding.open(f"/proc/{pid}/{name}", os.O_RDWR)
        finding.open(f"/proc/{pid}/{name}")


def attack_memory_of_host(finding):
    _touch_memory(finding, given_number("HOST_PID"), given_number("HOST_ADDRESS"))


def attack_init_memory(finding):
    _touch_memory(finding, 1, 0x400000)


def _touch_limits(finding, pid):
    for number in RESOURCES:
        finding.attempt("prlimit", resource.prlimit, pid, number, (1, 1))
        finding.attempt("prlimit, reading", resource.prlimit, pid, number)


def _touch_schedule(finding, pid):
    finding.attempt("setpriority", os.setpriority, os.PRIO_PROCESS, pid, 19)
    finding.attempt("affinity", os.sched_setaffinity, pid, {0})
    finding.attempt("scheduler", os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))
    finding.attempt("parameter", os.sched_setparam, pid, os.sched_param(0))
    finding.call("ioprio_set", 251, 1, pid, 3 << 13)


def open_pidfd(finding, pid):
    """None, and judged, where there is none to be had."""
    try:
        return os.pidfd_open(pid)
    except OSError as problem:
        finding.failed(problem.errno, "pidfd_open")
        return None


def attack_prlimit_host(finding):
    _touch_limits(finding, given_number("HOST_PID"))
    _touch_schedule(finding, given_number("HOST_PID"))


def attack_init_prlimit(finding):
    _touch_limits(finding, 1)


def attack_init_schedule(finding):
    _touch_schedule(finding, 1)


def attack_other_processes(finding):
    finding.stopped("only init and own ones")
    for pid in processes():
        if pid == 1:
            continue
        try:
            open(f"/proc/{pid}/environ", "rb").read(1)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            finding.escaped(f"process {pid} is not ours")
        finding.look_into(f"/proc/{pid}/cmdline")
    if os.path.exists(f"/proc/{given('HOST_PID')}/status"):
        finding.escaped("the host's process is in /proc")


def attack_kill_all(finding):
    finding.stopped("only own processes were there to be reached")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for target, number in ((-1, 15), (-1, 9), (1, 9)):
        try:
            os.kill(target, number)
        except OSError as problem:
            finding.errno = problem.errno
    os.kill(os.getpid(), 9)  # kill -1 spares who calls it


def attack_stop_all(finding):
    finding.stopped("only own processes were there to be reached")
    for target in [-1, 1, *range(-64, -1)]:
        try:
            if target != -os.getpgrp():
                os.kill(target, signal.SIGSTOP)
        except OSError as problem:
            finding.errno = problem.errno
    os.kill(0, signal.SIGSTOP)


def attack_pid_reuse(finding):
    number = ctypes.c_int(300)
    arguments = ctypes.create_string_buffer(
        struct.pack("11Q", 0, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(number), 1, 0), 88)
    mine = os.getpid()
    result = finding.call("clone3 with set_tid", 435, arguments, 88)
    if result == 0 and os.getpid() != mine:
        os._exit(0)
    finding.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    fd = open_pidfd(finding, pid)
    os.waitpid(pid, 0)
    if fd is not None:
        finding.attempt("a signal to the dead", signal.pidfd_send_signal, fd, 9)


def attack_nice_negative(finding):
    for kind, who in ((os.PRIO_PROCESS, 0), (os.PRIO_PGRP, 0), (os.PRIO_USER, os.getuid())):
        finding.attempt(f"setpriority {kind}", os.setpriority, kind, who, -20)


def attack_realtime(finding):
    finding.attempt("SCHED_FIFO", os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
    finding.attempt("SCHED_RR", os.sched_setscheduler, 0, os.SCHED_RR, os.sched_param(1))
    deadline = struct.pack("IIQiIQQQ", 48, 6, 0, 0, 0, 10000000, 30000000, 30000000)
    finding.call("SCHED_DEADLINE", 314, 0, deadline, 0)
    finding.call("real-time I/O", 251, 1, 0, 1 << 13)


def attack_ptrace_setuid(finding):
    pid = os.fork()
    if pid == 0:
        result, number = syscall(101, 0, 0, 0, 0)
        if result != 0:
            os._exit(number)
        os.execv("/usr/bin/su", ["su", "-c", "id"])
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        finding.failed(os.WEXITSTATUS(status), "PTRACE_TRACEME")
    else:
        finding.escaped("PTRACE_TRACEME was allowed")
        os.kill(pid, 9)


# ---- init ----


def attack_init_signals(finding):
    for number in range(1, 65):
        finding.call("kill", 62, 1, number)
        finding.call("tgkill", 234, 1, 1, number)
        finding.call("sigqueue", 129, 1, number,
                     ctypes.create_string_buffer(struct.pack("iii", number, 0, -1), 128))
        _pidfd_kill(finding, 1, number)


def attack_init_ptrace(finding):
    for request in (16, 0x4206):
        finding.call("ptrace", 101, request, 1, 0, 0)


def attack_init_secrets(finding):
    for name in ("environ", "maps", "smaps", "numa_maps", "auxv", "stack", "syscall", "io",
                 "pagemap", "timers", "personality", "mountstats"):
        try:
            size = len(open(f"/proc/1/{name}", "rb").read(256))
        except OSError as problem:
            finding.failed(problem.errno, name)
            continue
        if size:
            finding.escaped(name + " was read")
        else:
            finding.stopped(name + " tells nothing")
    for name in ("fdinfo", "fd", "map_files"):
        finding.attempt(name, os.listdir, "/proc/1/" + name)
    for name in ("exe", "cwd", "root", "ns/user", "ns/pid", "ns/mnt"):
        finding.attempt(name, os.readlink, "/proc/1/" + name)


def attack_init_names(finding):
    finding.stopped("none")
    for name in ("mountinfo", "mounts", "cgroup", "status", "cmdline", "sched", "stat", "comm"):
        try:
            text = open(f"/proc/1/{name}").read()
        except OSError:
            continue
        if given("STATE") in text or given("INSTANCE") in text:
            finding.escaped(name + " names the host's folders")


def attack_init_proc_files(finding):
    for name, value in (("oom_score_adj", "1000"), ("oom_adj", "15"), ("comm", "x"),
                        ("timerslack_ns", "1"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1"),
                        ("setgroups", "deny"), ("clear_refs", "1"), ("coredump_filter", "0"),
                        ("autogroup", "19"), ("sched", "0"), ("loginuid", "0"),
                        ("attr/current", "x"), ("timens_offsets", "monotonic 1 0")):
        finding.write("/proc/1/" + name, value)


def attack_init_pidfd_getfd(finding):
    pidfd = open_pidfd(finding, 1)
    for fd in range(32) if pidfd is not None else ():
        finding.call("pidfd_getfd", 438, pidfd, fd, 0)


def attack_init_robust_list(finding):
    finding.call("get_robust_list", 274, 1, ctypes.create_string_buffer(8),
                 ctypes.create_string_buffer(8))


def attack_init_namespaces(finding):
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"):
        finding.open("/proc/1/ns/" + name)
        try:
            fd = os.open("/proc/self/ns/" + name, os.O_RDONLY)
        except OSError:
            continue
        finding.call("setns", 308, fd, 0)
    pidfd = open_pidfd(finding, 1)
    if pidfd is not None:
        finding.call("by a pidfd", 308, pidfd, 0x7e020000)


def attack_init_exe(finding):
    finding.open("/proc/1/exe")
    finding.open("/proc/1/exe", os.O_WRONLY)
    with open("/tmp/py-enter", "w") as script:
        script.write("#!/proc/self/exe\n")
    os.chmod("/tmp/py-enter", 0o755)
    _, text = run("/tmp/py-enter")
    if "berth-init" in text:
        finding.escaped("init's program was started again")
    for pid in processes():
        try:
            target = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if "berth-init" in target:
            finding.open(f"/proc/{pid}/exe", os.O_WRONLY)


def attack_init_socket(finding):
    state = given("STATE")
    paths = [f"{state}/priv/run/{name}" for name in ["init.sock", *listed(state + "/priv/run")]]
    paths += [f"\0{name}" for name in ("berth-init", "berth", "init", "engine")]
    paths += [f"/proc/1/fd/{fd}" for fd in range(32)] + [state + "/run/engine.sock"]
    for path in paths:
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            with socket.socket(socket.AF_UNIX, kind) as sock:
                finding.attempt("connect", sock.connect, path)


def attack_sigio_to_init(finding):
    reader, writer = os.pipe()
    for owner in (1, -1, given_number("HOST_PID")):
        try:
            fcntl.fcntl(reader, fcntl.F_SETOWN, owner)
            fcntl.fcntl(reader, 10, 9)  # F_SETSIG, SIGKILL
            fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        except OSError:
            continue
        os.write(writer, b"x")
    finding.stopped("init and the host's process live on")


def attack_scm_credentials(finding):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    forged = [(1, os.getuid(), os.getgid())]
    if os.getuid() != 0:
        forged.append((os.getpid(), 0, os.getgid()))
    for one in forged:
        finding.attempt(str(one), left.sendmsg, [b"x"],
                        [(socket.SOL_SOCKET, 2, struct.pack("iII", *one))])


# ---- what only shows in how the execution ends ----


def _print_frames(fd):
    for stream in range(0, 64, 4):
        for kind in range(1, 15):
            os.write(fd, struct.pack("<IBBHI", 16, kind, 0, 0, stream)
                     + struct.pack("<HHIQ", 1, 0, 8, 42))
    os.write(fd, struct.pack("<IBBHI", 0xffffffff, 5, 0, 0, 0))


def attack_frames_stdout(finding):
    _print_frames(1)
    os.write(1, b"\n")
    finding.stopped("they are output")


def attack_frames_stderr(finding):
    _print_frames(2)
    finding.stopped("they are output")


def attack_stdio_closed(finding):
    kept = os.dup(1)
    for fd in range(3):
        os.close(fd)
    for _ in range(3):
        os.open("/tmp/py-in-place", os.O_RDWR | os.O_CREAT)
    _print_frames(1)
    _print_frames(2)
    os.dup2(kept, 1)
    finding.stopped("what took their places took the output")


def attack_stdio_swapped(finding):
    for fd in range(3):
        for command, value in ((fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC), (1031, 4096),
                               (fcntl.F_SETOWN, 1), (10, 9)):
            try:
                fcntl.fcntl(fd, command, value)
            except OSError:
                pass
        try:
            both = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK)
            os.write(both, b"swapped\n")
            os.read(both, 64)
        except OSError:
            pass
    fcntl.fcntl(1, fcntl.F_SETFL, 0)
    finding.stopped("they are the code's own ends of pipes")


def _leave_child(flags, code):
    result, _ = syscall(56, flags | 17, 0, 0, 0, 0)
    if result == 0:
        os._exit(code)


def attack_clone_parent(finding):
    for _ in range(200):
        _leave_child(0x8000, 42)
    time.sleep(0.2)
    finding.stopped("init told them from the program")


def attack_orphans(finding):
    for _ in range(1000):
        pid = os.fork()
        if pid == 0:
            _leave_child(0, 42)
            os._exit(0)
        os.waitpid(pid, 0)
    finding.stopped("init reaped them")
