"""Code that runs in a sandbox while a test acts on it from the host: files are written and read over
a second connection to its init, what it has open is looked at."""
import os
import socket

import engine


class Channel(engine.Sandbox):
    """A connection to init beside the server's: the host's root may open one."""

    def __init__(self, server, sandbox_id):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{server.state}/priv/run/{sandbox_id}.sock")
        super().__init__(None, sandbox_id, sock, None)

    def close(self):
        self.channel.close()

    def begin_put(self, path, data=b"", mode=0o644):
        """Starts to write a file, and leaves its writer waiting for more; its stream."""
        self.stream += 4
        self.send("put_file", self.stream, engine.tlv(1, path) + engine.tlv(2, mode))
        if data:
            self.send("data", self.stream, data)
        return self.stream

    def end_put(self, stream):
        """The errno of the outcome, 0 when it was written."""
        self.send("close", stream)
        return self.finish(stream).errno

    def put(self, path, data=b"written by the host\n", mode=0o644):
        return self.put_file(path, data, mode).errno

    def get(self, path, limit=1 << 20):
        """(errno, bytes) of a file; at most `limit` bytes are asked for."""
        done = self.get_file(path, size=limit)
        return done.errno, done.stdout


class Running:
    """Code that runs in a sandbox while the test acts on it."""

    def __init__(self, server, code, profile, **options):
        before = set(server.inits())
        self.server = server
        self.stream = server.stream(code, profile=profile, timeout=120, **options)
        assert self.stream.status == 200, self.stream.response.read()
        self.output = ""
        self.execution = None
        self.read_until("ready\n")
        found = {name: pid for name, pid in server.inits().items() if name not in before}
        assert len(found) == 1, found
        self.id, self.init = next(iter(found.items()))

    def read_until(self, word):
        """Reads the code's output until it has said a word."""
        while word not in self.output:
            kind, data = next(self.stream)
            self.execution = data.get("execution_id", self.execution)
            if kind in ("stdout", "stderr"):
                self.output += data["text"]
            assert kind != "end", data

    def read_until_grown(self, word):
        """Reads until the code has said a word twice more than so far."""
        count = self.output.count(word) + 2
        while self.output.count(word) < count:
            kind, data = next(self.stream)
            if kind in ("stdout", "stderr"):
                self.output += data["text"]
            assert kind != "end", data

    def root(self, path):
        """A path inside, as the host's root reaches it; links are not followed by this alone."""
        return f"/proc/{self.init}/root{path}"

    def code_pids(self):
        """The processes of this sandbox's code."""
        found = set()
        for folder in self.server.cgroups():
            if folder.name == self.id:
                found.update(map(int, (folder / "code" / "cgroup.procs").read_text().split()))
        return found

    def connect(self):
        return Channel(self.server, self.id)

    def end(self):
        """Ends the code; all that it printed."""
        self.server.request("DELETE", f"/executions/{self.execution}")
        for kind, data in self.stream:
            if kind in ("stdout", "stderr"):
                self.output += data["text"]
        self.stream.close()
        return self.output


def open_files(pid):
    """{number: (where it leads, its device)} of what a process has open."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        try:
            found[int(name)] = os.readlink(path), os.stat(path).st_dev
        except OSError:
            pass  # closed meanwhile
    return found
