"""A berth-egress process without server or monitor, and its protocol as a client speaks it
(src/wire/egress_msg.h); name server and web server for it, on addresses of the loopback that the
process is told to except."""
import fcntl
import http.server
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading

import harness
from engine import ERRORS, REPLY, EngineError, fields, number, text, tlv

OPS = {name: number for number, name in enumerate(
    ("attach", "policy", "detach", "counts", "lost", "event_counts"), 1)}
(ERROR_KIND, ERROR_MESSAGE, ERROR_PUBLIC, ERROR_RETRY, ID, OWNER, NONCE, BYTES_USED, RULE, BYTES_MAX,
 CONNECTIONS_MAX, REQUESTS, REFUSED, BYTES_OUT, BYTES_IN, CONNECTIONS, SANDBOXES) = range(1, 18)
COUNTS = {REQUESTS: "requests", REFUSED: "refused", BYTES_OUT: "out", BYTES_IN: "in",
          CONNECTIONS: "connections", SANDBOXES: "sandboxes"}
# Of the loopback, and nobody else's: each process that runs tests has its own.
LOOPBACK_NET = f"127.{64 + os.getpid() // 256 % 64}.{os.getpid() % 256}"
WEB, DNS = f"{LOOPBACK_NET}.2", f"{LOOPBACK_NET}.53"
NOBODY = 65534
PROXY = "http://127.0.0.1:3128"


class Egress:
    """berth-egress as it runs on a host: a user without rights, its listening socket given."""

    def __init__(self, except_=f"{WEB}/32", names=None, start=True):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="berth-egress-"))
        self.path = str(self.folder / "egress.sock")
        self.log_path = self.folder / "log"
        self.except_ = except_
        self.names = names
        self.process = self.client = None
        self.request_id = 0
        self.events = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(8)
        if start:
            self.start()

    def start(self):
        """Another process on the same socket, as the monitor does it."""
        passed = fcntl.fcntl(self.listener, fcntl.F_DUPFD, 10)
        resolv = self.folder / "resolv.conf"
        resolv.write_text(f"nameserver {DNS}\noptions timeout:1 attempts:1\n")
        script = 'mount --make-rprivate /; mount --bind "$1" /etc/resolv.conf; shift; exec "$@"'
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
                "--bounding-set=-all", "--no-new-privs"]
        program = [str(harness.BUILD / "berth-egress"), "--listen-fd", str(passed), "--client-uid",
                   "0"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, "sh", str(resolv), *drop, *program],
                pass_fds=[passed], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=harness.clean_environment({"BERTH_EGRESS_EXCEPT": self.except_}))
        os.close(passed)
        self.connect()

    def connect(self):
        if self.client:
            self.client.close()
        self.client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client.settimeout(harness.HANG_SECS)
        self.client.connect(self.path)

    def kill(self, signal_number=signal.SIGKILL):
        self.process.send_signal(signal_number)
        status = self.process.wait(harness.HANG_SECS)
        self.process = None
        return status

    def remove(self):
        if self.process:
            assert self.kill(signal.SIGTERM) == 0, self.log()
        self.client.close()
        self.listener.close()
        shutil.rmtree(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def log(self):
        return harness.read(self.log_path)

    # ---- requests ----

    def send(self, op, payload=b"", fds=()):
        self.request_id += 1
        socket.send_fds(self.client, [struct.pack("<IIQ", 1, OPS[op], self.request_id) + payload],
                        list(fds))
        return self.request_id

    def receive(self):
        """The next message: operation, request, fields."""
        data = self.client.recv(1 << 17)
        if not data:
            raise ConnectionError("egress closed the connection")
        _, op, request_id = struct.unpack_from("<IIQ", data)
        return op, request_id, list(fields(data[16:]))

    def call(self, op, payload=b"", fds=()):
        wanted = self.send(op, payload, fds)
        while True:
            got_op, request_id, reply = self.receive()
            if got_op & REPLY and request_id == wanted:
                break
            self.events.append((got_op, reply))
        found = dict(reply)
        if ERROR_KIND in found:
            raise EngineError(ERRORS[number(found[ERROR_KIND])],
                              text(found.get(ERROR_MESSAGE, b"\0")),
                              text(found.get(ERROR_PUBLIC, b"\0")))
        return {COUNTS[tag]: number(data) for tag, data in reply if tag in COUNTS}

    @staticmethod
    def policy(rules, bytes_max=0, connections_max=0):
        return b"".join((*(tlv(RULE, rule) for rule in rules), tlv(BYTES_MAX, bytes_max),
                         tlv(CONNECTIONS_MAX, connections_max)))

    def attach(self, box, rules, owner="tester", used=0, **bounds):
        """box: a Boxed. Its channel goes to the process."""
        channel = box.raw_channel()
        os.write(channel, box.hello_of_egress())
        try:
            return self.call("attach", tlv(ID, box.id) + tlv(OWNER, owner) + tlv(NONCE, box.nonce)
                             + tlv(BYTES_USED, used) + self.policy(rules, **bounds), [channel])
        finally:
            os.close(channel)

    def set_policy(self, box, rules, **bounds):
        return self.call("policy", tlv(ID, box.id) + self.policy(rules, **bounds))

    def detach(self, box):
        return self.call("detach", tlv(ID, box.id))

    def counts(self, box=None):
        return self.call("counts", tlv(ID, box.id if box else ""))


# ---- what is out there ----


class Names(threading.Thread):
    """A name server for A and AAAA; a name's addresses are a list, or a function that gives one."""

    def __init__(self, table):
        super().__init__(daemon=True)
        self.table = table
        self.asked = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((DNS, 53))
        self.start()

    def run(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
            except OSError:
                return
            self.socket.sendto(self.answer(query), client)

    def answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1"))
            at += 1 + query[at]
        end = at + 5
        kind = struct.unpack_from(">H", query, at + 1)[0]
        name = ".".join(labels).lower()
        self.asked.append(name)
        found = self.table.get(name)
        found = found(kind) if callable(found) else found
        family, size = {1: (socket.AF_INET, 4), 28: (socket.AF_INET6, 16)}.get(kind, (None, 0))
        records = []
        for address in found or ():
            if family and (":" in address) == (kind == 28):
                records.append(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, size)
                               + socket.inet_pton(family, address))
        flags = 0x8180 if found is not None else 0x8183
        return (query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + query[12:end]
                + b"".join(records))

    def close(self):
        self.socket.close()


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.command, self.path, dict(self.headers.items()),
                                 self.raw_requestline))
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b"hello from the web\n"
        if self.path.startswith("/big/"):
            body = b"x" * int(self.path[5:])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET

    def log_message(self, *_):
        pass


class Web(http.server.ThreadingHTTPServer):
    """A web server on WEB; what it was asked is in seen."""

    daemon_threads = True

    def __init__(self, port=80, address=WEB):
        super().__init__((address, port), Page)
        self.seen = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
