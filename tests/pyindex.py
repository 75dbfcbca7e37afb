"""A package index on this host for installers in sandboxes: wheels and source archives made on the spot."""
import base64
import hashlib
import http.server
import io
import re
import tarfile
import threading
import zipfile

NAME = "index.example.net"


def wheel(name, files, version="1.0"):
    """The bytes of a wheel with these files: {path: text}."""
    info = f"{name}-{version}.dist-info"
    every = {**files,
             f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    record = ""
    for path, text in every.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    every[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in every.items():
            archive.writestr(path, text)
    return f"{name}-{version}-py3-none-any.whl", out.getvalue()


BACKEND = """
import base64, os, pathlib
{code}
def build_wheel(folder, settings=None, metadata=None):
    path = pathlib.Path(folder, {name!r})
    path.write_bytes(base64.b64decode({data!r}))
    return path.name
"""


def source(name, code, files, version="1.0"):
    """A source archive that runs code when it is built, as what becomes the wheel with these files."""
    wheel_name, data = wheel(name, files, version)
    backend = BACKEND.format(code=code, name=wheel_name, data=base64.b64encode(data).decode())
    every = {"pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
             "backend.py": backend,
             "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, text in every.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return f"{name}-{version}.tar.gz", out.getvalue()


class Index:
    """An index by PEP 503. gate: an event that files wait for."""

    def __init__(self):
        self.files = {}
        self.asked = []
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.asked.append(self.path)
                body = outer.answer(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                try:
                    self.wfile.write(body or b"")
                except ConnectionError:
                    pass

            def log_message(self, *words):
                pass

        class Threaded(http.server.ThreadingHTTPServer):
            daemon_threads = True

        self.server = Threaded(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def add(self, named):
        self.files[named[0]] = named[1]

    def answer(self, path):
        if path.startswith("/files/"):
            self.gate.wait(60)
            return self.files.get(path[len("/files/"):])
        name = path.removeprefix("/simple/").strip("/")
        found = [file for file in self.files if re.sub(r"[-_.]+", "-", file.split("-")[0]).lower() == name]
        if not found:
            return None
        return "".join(f'<a href="/files/{file}">{file}</a>\n' for file in found).encode()

    def downloads(self, name):
        return sum(path.startswith(f"/files/{name}-") for path in self.asked)

    def settings(self):
        """Of a server whose installers use it; NAME has to mean 127.0.0.1 there."""
        return {"BERTH_EGRESS_ALLOW": f"{NAME}:{self.port}", "BERTH_EGRESS_EXCEPT": "127.0.0.1",
                "BERTH_LAYERS_ENV": f"PIP_INDEX_URL=http://{NAME}:{self.port}/simple PIP_TRUSTED_HOST={NAME} "
                                    "PIP_RETRIES=0"}

    def close(self):
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
