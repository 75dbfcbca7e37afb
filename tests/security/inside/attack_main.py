"""Runs inside a sandbox: the attacks of attacks.def from Python, each in a process of its own, one
line of JSON each. Arguments: all, list, or names."""
import ast
import ctypes
import json
import os
import pathlib
import re
import select
import signal
import stat
import sys

FIRST_FDS = {int(name): os.readlink("/proc/self/fd/" + name) for name in os.listdir("/proc/self/fd")
             if int(name) > 2 and os.path.exists("/proc/self/fd/" + name)}
KERNEL_FD = 100  # what it says concerns the code that it runs; test_session_attacks.py has the rest

import attack_files  # noqa: E402: what was open at the start is looked at first
import attack_kernel  # noqa: E402
import attack_net  # noqa: E402
import attack_process  # noqa: E402
from attack_core import Finding, libc, syscall  # noqa: E402

ATTACK_SECS = 25
MODULES = (attack_files, attack_process, attack_kernel, attack_net)


def rows():
    found = []
    for line in pathlib.Path("attacks.def").read_text().splitlines():
        match = re.fullmatch(r"(CALL|READ|WRITE|CODE|ALONE)\((\w+), (.*)\)", line)
        if match:
            found.append((match[1], match[2], ast.literal_eval(f"({match[3]},)")[1:]))
    return found


def run_call(finding, name, number, *arguments):
    mine = os.getpid()
    result, sys_errno = syscall(number, *arguments)
    if os.getpid() != mine:
        os._exit(0)  # a clone that was let through: the parent tells
    if result >= 0:
        finding.escaped(name + " was allowed")
    else:
        finding.failed(sys_errno, name)


def run_read(finding, path):
    def look():
        if os.path.isdir(path):
            return len(os.listdir(path))
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            return len(os.read(fd, 64))
        finally:
            os.close(fd)
    try:
        size = look()
    except OSError as problem:
        finding.failed(problem.errno, path)
        return
    if size:
        finding.escaped(f"{path} gave {size} bytes or names")
    else:
        finding.stopped(path + " is empty")


def run_write(finding, path, text):
    created = not os.path.lexists(path)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        finding.failed(problem.errno, path)
        return
    info = os.fstat(fd)
    if stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(1, 3):
        finding.stopped(f"{path} is masked")  # a file of /proc that is hidden is /dev/null
    else:
        finding.attempt(path, os.write, fd, text.encode())
    os.close(fd)
    if created:
        os.unlink(path)  # the attacks behind it find the image as it was


def run_one(finding, kind, name, arguments):
    if kind == "CALL":
        run_call(finding, name, *arguments)
    elif kind == "READ":
        run_read(finding, *arguments)
    elif kind == "WRITE":
        run_write(finding, *arguments)
    elif name == "leaked_fds":
        kernel = FIRST_FDS.pop(KERNEL_FD, "socket:")
        if FIRST_FDS or not kernel.startswith("socket:"):
            finding.escaped(str({**FIRST_FDS, KERNEL_FD: kernel}))
        else:
            finding.stopped("none beyond 0, 1, 2 and the kernel's socket to init")
    else:
        module = next(one for one in MODULES if hasattr(one, "attack_" + name))
        getattr(module, "attack_" + name)(finding)


def line_of(name, finding):
    return json.dumps({"name": name, "verdict": finding.verdict, "errno": finding.errno,
                       "detail": finding.detail[:1000]}) + "\n"


def run_apart(kind, name, arguments):
    """In a child; what ends it before it has told is told as its detail."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()  # a group to kill, and a terminal can be its own
        os.close(reader)
        finding = Finding()
        try:
            run_one(finding, kind, name, arguments)
        except BaseException as problem:  # noqa: BLE001: a fault of an attack is told, too
            finding.verdict, finding.detail = "undecided", f"{type(problem).__name__}: {problem}"
        os.write(writer, line_of(name, finding).encode())
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], ATTACK_SECS)
    text = os.read(reader, 65536) if ready else b""
    for target in (-pid, pid):
        try:
            os.kill(target, signal.SIGKILL)
        except OSError:
            pass
    _, status = os.waitpid(pid, 0)
    os.close(reader)
    if not text:
        finding = Finding()
        finding.detail = f"ended early: wait status {status}" + ("" if ready else ", out of time")
        text = line_of(name, finding).encode()
    os.write(1, text)


def main():
    wanted = sys.argv[1:]
    libc.shmat.restype = ctypes.c_void_p
    for kind, name, arguments in rows():
        if wanted == ["list"]:
            if kind in ("CALL", "READ", "WRITE") or name == "leaked_fds" or any(
                    hasattr(one, "attack_" + name) for one in MODULES):
                print(name)
        elif name in wanted and kind == "ALONE":
            finding = Finding()
            run_one(finding, kind, name, arguments)
            os.write(1, line_of(name, finding).encode())
        elif name in wanted or (wanted == ["all"] and kind != "ALONE"):
            run_apart(kind, name, arguments)
