"""Attacks over the network and by shared memory, and on identities."""
import contextlib
import ctypes
import fcntl
import ipaddress
import os
import shutil
import socket
import stat
import struct

from attack_core import given, given_number, libc, run, syscall

KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)


def _connect_unix(finding, *addresses):
    for address in addresses:
        for kind in KINDS:
            with socket.socket(socket.AF_UNIX, kind) as sock:
                finding.attempt(address.strip("\0"), sock.connect, address, any_error=True)


def attack_abstract_host(finding):
    _connect_unix(finding, "\0" + given("HOST_ABSTRACT"), "\0" + given("HOST_ABSTRACT") + "\0")


def attack_abstract_neighbour(finding):
    _connect_unix(finding, "\0" + given("NEIGHBOUR_ABSTRACT"),
                  "\0" + given("NEIGHBOUR_ABSTRACT") + "\0")


def attack_unix_paths(finding):
    _connect_unix(finding, "/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock",
                  "/run/containerd/containerd.sock", "/run/systemd/private", "/run/systemd/notify",
                  "/run/dbus/system_bus_socket", "/run/systemd/journal/socket", "/dev/log",
                  given("STATE") + "/run/engine.sock", given("HOST_SOCKET"))


def attack_unix_list(finding):
    finding.stopped("only own sockets are listed")
    for path in ("/proc/net/unix", "/proc/net/tcp", "/proc/net/tcp6", "/proc/self/net/unix"):
        finding.look_into(path)
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    except OSError as problem:
        return finding.failed(problem.errno, "sock_diag")
    with sock:
        body = struct.pack("BBHIIIII", socket.AF_UNIX, 0, 0, 0xffffffff, 0, 1, 0, 0)
        sock.send(struct.pack("IHHII", 16 + len(body), 20, 0x301, 1, 0) + body)
        sock.settimeout(1)
        for _ in range(64):
            answer = sock.recv(65536)
            finding.look_at(answer, "sock_diag")
            if struct.unpack_from("H", answer, 4)[0] in (2, 3):
                break
    return None


def _connect(finding, address, port):
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(1)
        finding.attempt(address, sock.connect, (address, port), any_error=True)


def attack_host_tcp(finding):
    for address in ("127.0.0.1", "127.1.2.3", "::1"):
        _connect(finding, address, given_number("HOST_PORT"))


def attack_server_tcp(finding):
    for address in ("127.0.0.1", "0.0.0.0"):
        _connect(finding, address, given_number("SERVER_PORT"))


def attack_host_address(finding):
    finding.absent("the host has no other address")
    for address in filter(None, given("HOST_ADDRESSES").split(",")):
        _connect(finding, address, given_number("HOST_PORT"))
        _connect(finding, address, given_number("SERVER_PORT"))


def attack_metadata_service(finding):
    for address in ("169.254.169.254", "10.0.0.1", "172.17.0.1", "192.168.0.1", "192.0.2.53",
                    "fd00:ec2::254"):
        _connect(finding, address, 80)


def attack_neighbour_tcp(finding):
    _connect(finding, "127.0.0.1", given_number("NEIGHBOUR_PORT"))


# ---- the network's own settings ----


def _ask_route(finding, what, kind, body, attribute, value):
    """One rtnetlink(7) request with one attribute."""
    extra = struct.pack("HH", 4 + len(value), attribute) + value
    body += extra + bytes(-len(extra) % 4)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(5)
        sock.send(struct.pack("IHHII", 16 + len(body), kind, 0x605, 1, 0) + body)
        number = -struct.unpack_from("i", sock.recv(4096), 16)[0]
    if number == 0:
        finding.escaped(what + " was allowed")
    else:
        finding.failed(number, what)


def attack_netlink_link(finding):
    nested = struct.pack("HH6sxx", 10, 1, b"dummy\0")
    _ask_route(finding, "a new interface", 16, struct.pack("BxHiII", 0, 0, 0, 0, 0), 0x8012, nested)
    _ask_route(finding, "a new name", 19, struct.pack("BxHiII", 0, 0, 1, 0, 0), 3,
               b"berth-attack\0")


def attack_netlink_route(finding):
    _ask_route(finding, "a new address", 20, struct.pack("BBBBI", 2, 8, 0, 0, 1), 2, b"\n\0\0\1")
    _ask_route(finding, "a new route", 24, struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 4, 253, 1, 0),
               4, struct.pack("I", 1))


def attack_interface_down(finding):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        finding.attempt("down", fcntl.ioctl, sock, 0x8914, struct.pack("16sH22x", b"lo", 0))
        finding.attempt("MTU", fcntl.ioctl, sock, 0x8922, struct.pack("16si20x", b"lo", 100))
        finding.attempt("a bridge", fcntl.ioctl, sock, 0x89a0, b"berth-attack\0")


def attack_iptables(finding):
    for family, level in ((socket.AF_INET, 0), (socket.AF_INET6, 41)):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            finding.attempt("replace a table", sock.setsockopt, level, 64, b"filter" + bytes(122),
                            any_error=True)


def attack_socket_options(finding):
    with socket.socket() as sock:
        for what, level, option, value in (
                ("SO_MARK", 1, 36, 1), ("SO_RCVBUFFORCE", 1, 33, 1), ("SO_DEBUG", 1, 1, 1),
                ("IP_TRANSPARENT", 0, 19, 1)):
            finding.attempt(what, sock.setsockopt, level, option, value)
        for what, level, option, value in (("TCP_ULP", 6, 31, b"tls"), ("SO_ATTACH_BPF", 1, 50, 3)):
            finding.attempt(what, sock.setsockopt, level, option, value, any_error=True)


def attack_socket_filter(finding):
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, 26, program)
            finding.harmless("it sees what comes to the code's own socket")
        except OSError as problem:
            finding.failed(problem.errno, "SO_ATTACH_FILTER")


# ---- shared memory, queues, watches ----


def attack_sysv_shm(finding):
    for name in ("HOST_SHM_KEY", "NEIGHBOUR_SHM_KEY"):
        finding.call(name, 29, given_number(name), 0, 0)
    finding.call("removal", 31, given_number("HOST_SHM_ID"), 0, 0, any_error=True)
    finding.stopped("neither is seen")
    for number in range(64):
        address, _ = syscall(30, number, 0, 0)
        if address > 0:
            finding.look_at(ctypes.string_at(address, 64), "shared memory")
    with contextlib.suppress(FileNotFoundError):
        if len(open("/proc/sysvipc/shm").read().splitlines()) > 1:
            finding.escaped("/proc/sysvipc/shm lists foreign memory")


def attack_posix_shm(finding):
    for name in ("HOST_SHM_NAME", "NEIGHBOUR_SHM_NAME"):
        finding.open("/dev/shm" + given(name), os.O_RDWR)


def attack_message_queues(finding):
    finding.call("mq_open", 240, "berth-attack", os.O_CREAT | os.O_RDWR, 0o600, 0, any_error=True)


def attack_inotify_host(finding):
    taken = 0
    while taken < 1000 and libc.inotify_init() >= 0:
        taken += 1
    if taken >= 128:
        finding.escaped(f"{taken} were to be had")
    else:
        finding.stopped(f"{taken} were to be had, of this sandbox's own")


# ---- identity ----


def attack_become_root(finding):
    for what, function, *arguments in (
            ("setresuid", os.setresuid, 0, 0, 0), ("setresgid", os.setresgid, 0, 0, 0),
            ("setuid", os.setuid, 0), ("setgid", os.setgid, 0), ("seteuid", os.seteuid, 0),
            ("setgroups", os.setgroups, [0])):
        finding.attempt(what, function, *arguments, any_error=True)
    libc.setfsuid(0)
    if libc.setfsuid(-1) == 0:
        finding.escaped("setfsuid was allowed")


def attack_capset_all(finding):
    header = struct.pack("Ii", 0x20080522, 0)
    for data in (b"\xff" * 24, struct.pack("6I", 1 << 21, 1 << 21, 0, 0, 0, 0)):
        finding.call("capset", 126, ctypes.create_string_buffer(header),
                     ctypes.create_string_buffer(data, 24))


def _run_id(finding, path, what, **options):
    status, text = run(path, "-u", **options)
    if status != 0:
        finding.stopped(what + ": it does not run")
    elif text.strip() == str(os.getuid()):
        finding.stopped(what + ": it runs as the same user")
    else:
        finding.escaped(f"{what}: it runs as user {text}")


def attack_setuid_planted(finding):
    shutil.copy("/usr/bin/id", "/tmp/py-id")
    try:
        os.chown("/tmp/py-id", 0, 0)
    except OSError:
        pass
    os.chmod("/tmp/py-id", 0o6755)
    _run_id(finding, "/tmp/py-id", "a copy of id")


def attack_setuid_image(finding):
    count = 0
    for folder in ("/usr/bin", "/usr/sbin", "/usr/lib/openssh"):
        if os.path.isdir(folder):
            for entry in os.scandir(folder):
                if entry.is_file() and entry.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
                    count += 1
    for words in (["su", "-c", "id -u"], ["mount", "-ttmpfs", "berth-attack", "/mnt"],
                  ["sudo", "-n", "id"], ["pkexec", "id"], ["chsh", "-s", "/bin/sh", "root"]):
        if run(*words)[0] == 0:
            finding.escaped(f"{words[0]} did it")
    finding.stopped(f"{count} such programs give nothing")


def attack_ld_preload(finding):
    env = {**os.environ, "LD_PRELOAD": "/tmp/py.so", "LD_AUDIT": "/tmp/py.so",
           "LD_LIBRARY_PATH": "/tmp"}
    if run("/usr/bin/su", "-c", "id -u", env=env)[0] == 0:
        finding.escaped("su ran a command")
    else:
        finding.stopped("it runs as the same user")


def attack_file_capabilities(finding):
    shutil.copy("/usr/bin/id", "/tmp/py-id-caps")
    value = struct.pack("IIIII", 0x02000001, 1 << 21, 0, 0, 0)
    finding.attempt("setxattr", os.setxattr, "/tmp/py-id-caps", "security.capability", value)
    finding.attempt("setxattr", os.setxattr, "/tmp/py-id-caps", "security.capability",
                    struct.pack("IIIIII", 0x03000001, 1 << 21, 0, 0, 0, 0))
    finding.attempt("trusted", os.setxattr, "/tmp/py-id-caps", "trusted.berth", b"x", any_error=True)


def attack_chown_root(finding):
    open("/tmp/py-own", "w").close()
    finding.attempt("an own file", os.chown, "/tmp/py-own", 0, 0, any_error=True)
    finding.attempt("/tmp", os.chown, "/tmp", os.getuid(), os.getgid(), any_error=True)
    finding.attempt("/etc/passwd", os.chown, "/etc/passwd", os.getuid(), os.getgid(),
                    any_error=True)
