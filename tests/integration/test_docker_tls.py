"""A Docker daemon over TCP with TLS on both sides (dockerd --tlsverify), certificates of the test's own
making: the right ones serve, and each wrong one is a 503 that says what is wrong."""
import http.server
import pathlib
import shutil
import subprocess
import threading

import pytest

import dockerd
import registry
import ways
from harness import LOOPBACK, assert_error
from sessions import Session


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


class Authority:
    """A CA in a folder, and what it signs."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.certificate, self.key = folder / "ca.pem", folder / "ca-key.pem"
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-out",
                self.certificate, "-days", "2", "-subj", f"/CN={folder.name}")

    def sign(self, name, extensions):
        """Makes a key and a certificate; returns their paths."""
        request, key, cert = (self.folder / f"{name}{end}" for end in (".csr", "-key.pem", ".pem"))
        file = self.folder / f"{name}.ext"
        file.write_text(extensions + "\n")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key,
                "-CAcreateserial", "-out", cert, "-days", "2", "-extfile", file)
        return cert, key


def client_folder(path, trusted, signer):
    """What DOCKER_CERT_PATH names: whom it trusts, and a certificate of signer's."""
    cert, key = signer.sign(f"client-{path.name}", "extendedKeyUsage=clientAuth")
    path.mkdir()
    shutil.copy(trusted.certificate, path / "ca.pem")
    shutil.copy(cert, path / "cert.pem")
    shutil.copy(key, path / "key.pem")
    return path


class Place:
    """The daemon, its port, and folders of certificates: good, stranger (another CA's certificate),
    distrustful (trusts another CA)."""

    def __init__(self, folder):
        self.folder = folder
        ours, others = Authority(folder / "ours"), Authority(folder / "others")
        cert, key = ours.sign("daemon", "subjectAltName=DNS:localhost")
        self.good = client_folder(folder / "good", ours, ours)
        self.stranger = client_folder(folder / "stranger", ours, others)
        self.distrustful = client_folder(folder / "distrustful", others, ours)
        self.port = registry.free_port()
        self.daemon = dockerd.Daemon(arguments=[
            "-H", f"tcp://{LOOPBACK}:{self.port}", "--tlsverify", "--tlscacert", str(ours.certificate),
            "--tlscert", str(cert), "--tlskey", str(key)])

    def settings(self, certificates, host="localhost", verify="1", port=None):
        folder = {"DOCKER_CERT_PATH": str(certificates)} if certificates else {}
        return {"BERTH_ENGINES": "docker", "DOCKER_HOST": f"tcp://{host}:{port or self.port}", **folder,
                "DOCKER_TLS_VERIFY": verify, "DOCKER_BASE_IMAGE": dockerd.images.NAME}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    missing = dockerd.missing() + dockerd.missing(("openssl",))
    if missing:
        pytest.skip(f"there is no {', '.join(missing)} (scripts/deps.sh engines)")
    one = Place(tmp_path_factory.mktemp("tls"))
    with one.daemon:
        one.daemon.import_image()
        yield one


@pytest.fixture
def serve(place, end_servers):
    def make(*words, **fields):
        return end_servers(ways.DockerServer(place.daemon, place.settings(*words, **fields))).start()

    return make


def works(server):
    assert server.execute("print('hello')")["stdout"] == "hello\n", server.log()


def refused(server, *words):
    """No sandbox, and the client and the operator are told why."""
    answer = server.post({"code": "print('hello')"})
    assert_error(answer, 503)
    assert answer.headers["Retry-After"]
    detail = answer.json()["detail"]
    assert all(word in detail for word in words), (detail, server.log())
    assert "/" not in detail, "a path of the operator's"
    engine = server.get("/api/v1/info").json()["engines"][0]
    assert all(word in engine["unavailable"] for word in words), engine


@pytest.mark.every_way
def test_good_certificates(place, serve):
    server = serve(place.good)
    works(server)
    one = Session(server)
    one.run("x = 7")
    ways.kill_program(server, "berth-docker")
    assert one.run("x")["results"] == [{"text/plain": "7"}]
    assert len(one.run("print('x' * 500000)")["stdout"]) == 500001  # more than TLS gives at a time
    one.delete()
    server.wait_clean()


@pytest.mark.every_way
def test_a_certificate_that_the_daemon_does_not_know(place, serve):
    refused(serve(place.stranger), "refuses the certificate")


@pytest.mark.every_way
def test_a_daemon_that_is_not_trusted(place, serve):
    refused(serve(place.distrustful), "certificate is not trusted")


def test_a_daemon_of_another_name(place, serve):
    """Its certificate is right, and not for what DOCKER_HOST says."""
    refused(serve(place.good, host=LOOPBACK), "certificate is not trusted")


def test_what_is_not_verified_is_not_asked_for(place, serve):
    works(serve(place.distrustful, verify=""))


def test_no_certificate(place, serve):
    refused(serve(None), "speaks TLS")


def test_a_daemon_without_tls(place, serve):
    class Plain(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.HTTPServer((LOOPBACK, 0), Plain) as plain:
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        refused(serve(place.good, port=plain.server_port), "does not speak TLS")
        plain.shutdown()


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
@pytest.mark.parametrize("content", [None, "no certificate\n"], ids=["missing", "broken"])
def test_files_that_are_of_no_use(place, serve, tmp_path, name, content):
    folder = pathlib.Path(shutil.copytree(place.good, tmp_path / "certificates"))
    (folder / name).unlink()
    if content:
        (folder / name).write_text(content)
    refused(serve(folder), "DOCKER_CERT_PATH")
