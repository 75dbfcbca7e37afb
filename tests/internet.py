"""A little internet for one test module: the module's processes live in a network namespace of their
own ("the host"), which leads to another one that answers at public and at reserved addresses. Nothing
of the machine's own network is touched."""
import contextlib
import ctypes
import os
import subprocess
import sys
import textwrap

import harness

HOST = "45.0.0.1"
PUBLIC = "45.0.0.2"
DNS = "45.0.0.2"
NAME = "public.example.net"
RESERVED = ["10.9.9.9", "100.64.1.1", "169.254.169.254", "172.16.5.5", "192.0.0.8", "192.168.7.7", "198.18.3.3",
            "198.51.100.7", "203.0.113.9", "168.63.129.16", "192.0.2.77", "192.88.99.1"]
PORT = 8080
CLONE_NEWNET = 0x40000000

# Answers "hello PEER" over TCP and UDP at every address, and NAME over DNS.
TARGET = """
import socket, socketserver, sys, threading
class Hello(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello " + self.client_address[0].encode())
        while self.request.recv(100): self.request.sendall(b"more")
class Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(b"hello " + self.client_address[0].encode(), self.client_address)
class Names(socketserver.BaseRequestHandler):
    def handle(self):
        asked, at = self.request[0], 12
        while asked[at]: at += asked[at] + 1
        kind = asked[at + 1:at + 3]
        answer = b"" if kind != b"\\0\\1" else b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4" + socket.inet_aton(sys.argv[1])
        head = asked[:2] + b"\\x81\\x80\\0\\1" + (b"\\0\\1" if answer else b"\\0\\0") + b"\\0\\0\\0\\0"
        self.request[1].sendto(head + asked[12:at + 5] + answer, self.client_address)
class Datagrams(socketserver.UDPServer):
    allow_reuse_address = True
for server in (Tcp(("", int(sys.argv[2])), Hello), Datagrams(("", int(sys.argv[2])), Echo),
               Datagrams((sys.argv[1], 53), Names)):
    threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def shell(*command):
    subprocess.run(command, check=True, timeout=20, stdin=subprocess.DEVNULL)


def _call(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


@contextlib.contextmanager
def namespace():
    """This thread, and what it starts, in a network namespace of their own."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _call("unshare", CLONE_NEWNET)
    try:
        yield
    finally:
        _call("setns", own, CLONE_NEWNET)
        os.close(own)


@contextlib.contextmanager
def internet():
    with namespace():
        target = subprocess.Popen(["unshare", "--net", sys.executable, "-c",
                                   "import sys\nsys.stdin.readline()\n" + textwrap.dedent(TARGET), PUBLIC, str(PORT)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            _lead(target)
            yield
        finally:
            target.stdin.close()
            target.wait(20)
            target.stdout.close()


def _lead(target):
    harness.wait_until(lambda: os.readlink(f"/proc/{target.pid}/ns/net") != os.readlink("/proc/self/ns/net"),
                       "a namespace of its own")
    inside = ["nsenter", f"--net=/proc/{target.pid}/ns/net", "ip"]
    shell("ip", "link", "set", "lo", "up")
    shell("ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1", "netns", str(target.pid))
    shell("ip", "address", "add", f"{HOST}/24", "dev", "wan0")
    shell("ip", "link", "set", "wan0", "up")
    shell(*inside, "address", "add", f"{PUBLIC}/24", "dev", "wan1")
    for link in ("lo", "wan1"):
        shell(*inside, "link", "set", link, "up")
    for address in RESERVED:
        shell(*inside, "address", "add", f"{address}/32", "dev", "lo")
    shell("ip", "route", "add", "default", "via", PUBLIC)
    # What comes by itself, past any NAT, is answered too: it would be seen.
    shell(*inside, "route", "add", "default", "via", HOST)
    with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as setting:
        setting.write("1")
    target.stdin.write(b"\n")
    target.stdin.flush()
    assert target.stdout.readline() == b"ready\n"
