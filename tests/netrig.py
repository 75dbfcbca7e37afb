"""A server with a hosts file of its own, and servers on this host that sandboxes are to reach, or not to.

The hosts file lies over /etc/hosts in a mount namespace of the server's alone: nothing of the machine
is changed."""
import http.server
import os
import pathlib
import socket
import tempfile
import threading

import harness

REGISTRIES = {"pypi.org": 443, "registry.npmjs.org": 443}


class Upstream:
    """An HTTP server on a loopback address, which remembers what it was asked for."""

    def __init__(self, address="127.0.0.1", family=socket.AF_INET):
        outer = self
        self.asked = []
        self.headers = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.asked.append(self.path)
                outer.headers.append(dict(self.headers))
                size = int(self.path[len("/bytes/"):]) if self.path.startswith("/bytes/") else 0
                body = b"x" * size or f"upstream {self.path}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except ConnectionError:
                    pass

            def log_message(self, *words):
                pass

        class Threaded(http.server.ThreadingHTTPServer):
            address_family = family
            daemon_threads = True
            request_queue_size = 128

        self.server = Threaded((address, 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def with_hosts(hosts, path):
    """What a server is started with, for these names on top of the machine's own: {name: address}. Writes
    them to a file at path."""
    lines = [harness.read("/etc/hosts")] + [f"{address} {name}" for name, address in hosts.items()]
    path = pathlib.Path(path)
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)
    return ("unshare", "--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\"", str(path))


class NamedServer(harness.Server):
    """A server with such hosts."""

    def __init__(self, hosts, env=None, state=None):
        super().__init__(env, state)
        handle, self.hosts_path = tempfile.mkstemp(prefix="berth-test-hosts-")
        os.close(handle)
        self.command = with_hosts(hosts, self.hosts_path)

    def remove(self):
        super().remove()
        pathlib.Path(self.hosts_path).unlink(missing_ok=True)


def reached(name):
    """The addresses by which this machine reaches a registry; none: it does not."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)}
        with socket.create_connection((name, 443), timeout=5):
            return sorted(found)
    except OSError:
        return []


def registry_settings(*names):
    """Settings that let sandboxes reach these registries where they are; None: they are not reached."""
    found = [reached(name) for name in names]
    if not all(found):
        return None
    return {"BERTH_EGRESS_EXCEPT": " ".join(sorted(set(sum(found, []))))}


ASK = """
import http.client, urllib.request, urllib.error
def ask(url, timeout=20):
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read().decode(errors="replace")
    except urllib.error.URLError as problem:
        return 0, str(problem.reason)
    except (OSError, http.client.HTTPException) as problem:  # cut off in the midst
        return 0, str(problem)
"""
