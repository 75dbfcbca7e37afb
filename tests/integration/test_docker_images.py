"""`berth image --engine docker`: pull, build, load, import, list and remove on a real daemon, with registries
that want a password, stall or tell what they were sent, and with archives of others' making. And images
that the engine pulls for requests."""
import base64
import http.server
import io
import json
import os
import pathlib
import signal
import subprocess
import tarfile
import threading

import pytest

import images
import oci
import registry
import ways
from harness import BUILD, HANG_SECS, LOOPBACK, assert_error, clean_environment, end, wait_until

BERTH = str(BUILD / "berth")
BASIC = base64.b64encode(f"{registry.USER}:{registry.PASSWORD}".encode()).decode()
ESCAPES = "\x1b[2J\x1b]0;title\x07"


@pytest.fixture
def daemon(docker):
    """The session's, with the images that it had before."""
    def names():
        return {one["Id"] if name == "<none>:<none>" else name for one in docker.request("GET", "/images/json").json()
                for name in set(one["RepoTags"] or ["<none>:<none>"])}
    before = names()
    yield docker
    for name in sorted(names() - before):
        docker.request("DELETE", f"/images/{name}?force=1")
    assert names() == before
    assert not docker.containers()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    if not registry.program():
        pytest.skip("no docker-registry")
    one = registry.Registry(tmp_path_factory.mktemp("registry"), private=True)
    try:
        yield one.start()
    finally:
        one.stop()


@pytest.fixture
def logins(tmp_path):
    """logins(address, password): a folder for DOCKER_CONFIG."""
    def write(address, password=registry.PASSWORD):
        folder = tmp_path / "logins"
        folder.mkdir(exist_ok=True)
        auth = base64.b64encode(f"{registry.USER}:{password}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
        return str(folder)
    return write


def environment(daemon, tmp_path, config=None, **more):
    return clean_environment({"DOCKER_HOST": f"unix://{daemon.socket}", "HOME": str(tmp_path),
                              "DOCKER_CONFIG": config or str(tmp_path / "none"), **more})


@pytest.fixture
def berth(daemon, tmp_path):
    """berth(words, code=0): what it said. Nothing secret is ever in that."""
    def call(*words, code=0, config=None, data=b"", **env):
        done = subprocess.run([BERTH, "image", "--engine", "docker", *map(str, words)], input=data,
                              timeout=HANG_SECS, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=environment(daemon, tmp_path, config, **env), check=False)
        done.stdout, done.stderr = done.stdout.decode("ascii"), done.stderr.decode("ascii")
        assert done.returncode == code, done
        for text in (done.stdout, done.stderr):
            assert registry.PASSWORD not in text and BASIC not in text
            assert not [one for one in text if one < " " and one not in "\n\t"], done
        return done
    return call


def root_tar(path, files):
    """An archive of a root with these files, {name: bytes or a link's target}."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def push(daemon, hub, name, to):
    """An image of the daemon's into the registry, where only USER may get it; returns its name."""
    reference = f"{hub.address}/{to}"
    repository, _, tag = reference.rpartition(":")
    assert daemon.request("POST", f"/images/{name}/tag?repo={repository}&tag={tag}").status == 201
    login = json.dumps({"username": registry.USER, "password": registry.PASSWORD,
                        "serveraddress": hub.address})
    answer = daemon.request("POST", f"/images/{repository}/push?tag={tag}", b"", {
        "X-Registry-Auth": base64.urlsafe_b64encode(login.encode()).decode()})
    assert answer.status == 200 and b'"error"' not in answer.body, answer
    assert daemon.request("DELETE", f"/images/{reference}").status == 200
    return reference


def has(daemon, name):
    return daemon.request("GET", f"/images/{name}/json").status == 200


def files_of(daemon, name):
    """{path: bytes} of an image: those of a container that never runs."""
    made = daemon.request("POST", "/containers/create",
                          {"Image": name, "Cmd": ["x"], "HostConfig": {"NetworkMode": "none"}}).json()
    try:
        data = daemon.request("GET", f"/containers/{made['Id']}/export").body
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {one.name: tar.extractfile(one).read() if one.isfile() else one.linkname.encode()
                    for one in tar if one.isfile() or one.issym()}
    finally:
        daemon.delete(made["Id"])


# ---- import, load, list, remove ----


def test_an_archive_is_imported_listed_and_removed(berth, daemon, tmp_path):
    path = root_tar(tmp_path / "root.tar", {"etc/hello": b"hi"})
    said = berth("import", path, "own/thing:7")
    assert "own/thing:7" in said.stderr
    assert files_of(daemon, "own/thing:7")["etc/hello"] == b"hi"
    berth("import", "-", "own/thing", data=path.read_bytes())
    assert has(daemon, "own/thing:latest")
    assert "own/thing:7 " in berth("ls").stdout
    listed = json.loads(berth("ls", "--json").stdout)["images"]
    names = [name for one in listed for name in one["names"] or []]
    assert {"own/thing:7", "own/thing:latest", images.NAME} <= set(names)
    berth("rm", "own/thing:7", "own/thing:latest")
    assert not has(daemon, "own/thing:7") and not has(daemon, "own/thing:latest")
    assert "No such image" in berth("rm", "own/thing:7", code=125).stderr


def test_an_image_goes_from_one_daemon_to_another(berth, daemon, tmp_path):
    berth("import", root_tar(tmp_path / "root.tar", {"etc/hello": b"hi"}), "moved:1")
    saved = daemon.request("GET", "/images/moved:1/get").body
    (tmp_path / "saved.tar").write_bytes(saved)
    berth("rm", "moved:1")
    assert "Loaded image: moved:1" in berth("load", tmp_path / "saved.tar").stderr
    assert files_of(daemon, "moved:1")["etc/hello"] == b"hi"
    berth("rm", "moved:1")
    berth("load", "-", data=saved)
    assert has(daemon, "moved:1")


@pytest.mark.parametrize("verb", ["load", "import"])
def test_what_is_no_archive_is_refused(berth, tmp_path, verb):
    name = ["broken:1"] if verb == "import" else []
    whole = root_tar(tmp_path / "root.tar", {f"file{i}": os.urandom(5000) for i in range(9)})
    (tmp_path / "part").write_bytes(whole.read_bytes()[:20000])
    (tmp_path / "random").write_bytes(os.urandom(3 << 20))
    (tmp_path / "empty").write_bytes(b"")
    for file in ("part", "random", "empty", "missing", "."):
        assert f"berth image {verb}: " in berth(verb, tmp_path / file, *name, code=125).stderr
    if verb == "load":  # a tar, but of no image
        berth(verb, whole, code=125)


def test_an_archive_reaches_nothing_outside_of_its_image(berth, daemon, tmp_path):
    """The daemon keeps it inside or refuses it; it is looked at from the host."""
    target = tmp_path / "target"
    target.mkdir()
    up = "../" * 30 + str(target).lstrip("/")
    for number, files in enumerate([
            {f"{up}/planted": b"x"}, {str(target / "planted"): b"x"},
            {"link": str(target), "link/planted": b"x"}, {"link": "../" * 30, f"link{target}/planted": b"x"}]):
        path = root_tar(tmp_path / f"{number}.tar", files)
        done = subprocess.run([BERTH, "image", "import", "--engine=docker", path, f"hostile:{number}"],
                              env=environment(daemon, tmp_path), timeout=HANG_SECS, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert done.returncode in (0, 125), done
        layer = oci.pack([oci.file(name, content) for name, content in files.items()
                          if isinstance(content, bytes)])
        (tmp_path / "oci.tar").write_bytes(oci.archive([layer], prefix="../" * number))
        berth("load", tmp_path / "oci.tar", code=125)
        assert not list(target.iterdir())


# ---- build ----


@pytest.fixture
def folder(tmp_path):
    """folder({name: text}): a folder to build."""
    def make(files):
        place = tmp_path / "build"
        for name, text in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        return place
    return make


def test_a_folder_is_built(berth, daemon, folder):
    place = folder({"Dockerfile": "FROM scratch\nARG WHO=nobody\nARG TOKEN\nLABEL who=$WHO t=$TOKEN\nCOPY . /all/\n",
                    ".dockerignore": "*.key\nmodules\n!modules/kept\nDockerfile\n",
                    "app.py": "print(1)", "a.key": "secret", "modules/big": "x", "modules/kept": "y",
                    "a folder/-x": "dash"})
    (place / "link").symlink_to("/etc/hostname")
    os.mkfifo(place / "fifo")
    said = berth("build", place, "-t", "built:1", "--build-arg", "WHO=me", "--build-arg", "TOKEN",
                 TOKEN="of-the-environment")
    assert "Step 1/5 : FROM scratch" in said.stderr and "image built:1" in said.stderr
    labels = daemon.request("GET", "/images/built:1/json").json()["Config"]["Labels"]
    assert labels == {"who": "me", "t": "of-the-environment"}
    copied = {name.removeprefix("all/"): data for name, data in files_of(daemon, "built:1").items()
              if name.startswith("all/")}
    copied.pop(".dockerignore")
    assert copied == {"app.py": b"print(1)", "modules/kept": b"y", "a folder/-x": b"dash",
                      "link": b"/etc/hostname"}


def test_a_build_runs_its_steps(berth, daemon, folder):
    place = folder({"sub/File": f"FROM {images.NAME}\nRUN echo built > /made\n"})
    berth("build", place, "-f", "./sub/File", "-t", "built:2", "--network", "none")
    assert files_of(daemon, "built:2")["made"] == b"built\n"
    (place / "sub/File").write_text(f"FROM {images.NAME}\nRUN echo before-it; exit 3\n")
    said = berth("build", place, "-f", "sub/File", "-t", "built:3", "--network", "none", code=125).stderr
    assert "before-it" in said and "non-zero code: 3" in said.splitlines()[-1]
    assert not has(daemon, "built:3")


def test_a_build_that_can_not_be_begun(berth, daemon, folder, tmp_path):
    place = folder({"Dockerfile": "NONSENSE"})
    assert "NONSENSE" in berth("build", place, "-t", "none:1", code=125).stderr
    assert "Other" in berth("build", place, "-f", "Other", "-t", "none:1", code=125).stderr
    berth("build", tmp_path / "missing", "-t", "none:1", code=125)
    for words in (["build", place], ["build", place, "-t", "a b"], ["build", place, "-t", "x", "-f", "../x"],
                  ["build", place, "-t", "x", "-f", "/etc/passwd"], ["pull", "--all", "x"], ["pull", "../x"],
                  ["pull", "x?y=z"], ["rm"], ["rm", "x", "/y"], ["other"], []):
        assert "usage:" in berth(*words, code=2).stderr
    assert "build" in berth("--help").stdout


def test_what_a_build_says_moves_no_cursor(berth, folder):
    place = folder({"Dockerfile": f"FROM scratch\nLABEL a=\"{ESCAPES}\"\nCOPY Dockerfile /\nCOPY \"{ESCAPES}\" /"})
    said = berth("build", place, "-t", "escapes:1", code=125).stderr  # the fixture looks for the bytes
    assert "[2J" in said


# ---- registries ----


def test_a_pull_has_the_credentials_of_its_registry(berth, daemon, hub, logins, tmp_path):
    berth("import", root_tar(tmp_path / "root.tar", {"etc/hello": b"hi"}), "own:1")
    name = push(daemon, hub, "own:1", "team/own:1")
    refused = berth("pull", name, code=125).stderr
    assert "no basic auth credentials" in refused
    berth("pull", name, code=125, config=logins(hub.address, "another-password"))
    berth("pull", name, code=125, config=logins("registry.example"))
    assert not has(daemon, name)
    said = berth("pull", f"docker://{name}", config=logins(hub.address)).stderr
    assert "Pulling from team/own" in said and f"image {name}, " in said
    berth("rm", name)
    berth("pull", "--authfile", pathlib.Path(logins(hub.address)) / "config.json", name)
    berth("pull", "--authfile", tmp_path / "missing", name, code=125)
    assert "not found" in berth("pull", f"{hub.address}/team/own:2", config=logins(hub.address), code=125).stderr


def test_a_build_has_the_credentials_of_all_registries(berth, daemon, hub, folder, logins, tmp_path):
    berth("import", root_tar(tmp_path / "root.tar", {"etc/hello": b"hi"}), "own:1")
    name = push(daemon, hub, "own:1", "team/base:1")
    place = folder({"Dockerfile": f"FROM {name}\nCOPY Dockerfile /x\n"})
    berth("build", place, "-t", "on-private:1", code=125)
    berth("build", place, "-t", "on-private:1", config=logins(hub.address))
    assert files_of(daemon, "on-private:1")["etc/hello"] == b"hi"


def test_credentials_that_can_not_be_read(berth, tmp_path, hub):
    folder = tmp_path / "logins"
    folder.mkdir()
    name = f"{hub.address}/team/own:1"
    for text in ("not json: " + registry.PASSWORD, json.dumps({"auths": {hub.address: {"auth": "%%%"}}})):
        (folder / "config.json").write_text(text)
        assert "config.json" in berth("pull", name, code=125, config=str(folder)).stderr
    (folder / "config.json").write_text(json.dumps({"credsStore": "secretservice", "auths": {hub.address: {}}}))
    assert "another program" in berth("pull", name, code=125, config=str(folder)).stderr


class _Registry(http.server.BaseHTTPRequestHandler):
    """Wants a password, and tells what it was sent; or says nothing any more."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802: its name
        sent = self.headers.get("Authorization")
        if sent:
            self.server.sent.append(sent)
        if self.server.stalls:
            self.server.reached.set()
            self.rfile.read(1)  # until the daemon leaves
            self.server.left.set()
            self.close_connection = True
            return
        user = base64.b64decode(sent.split()[1]).decode() if sent else ""
        text = {"errors": [{"code": "DENIED", "message": f"you sent {sent}, which is {user}"}]}
        body = json.dumps(text).encode()
        self.send_response(401 if not sent else 403)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def odd():
    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), _Registry)
    server.daemon_threads = True
    server.sent, server.stalls = [], False
    server.reached, server.left = threading.Event(), threading.Event()
    server.address = f"{LOOPBACK}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_registry_that_tells_what_it_was_sent(berth, odd, logins):
    berth("pull", f"{odd.address}/x:1", config=logins(odd.address), code=125)
    assert f"Basic {BASIC}" in odd.sent, "it never had the chance"


def test_a_pull_that_is_left_is_ended(daemon, odd, tmp_path):
    odd.stalls = True
    with subprocess.Popen([BERTH, "image", "pull", "--engine", "docker", f"{odd.address}/x:1"],
                          env=environment(daemon, tmp_path), stderr=subprocess.PIPE) as pull:
        assert odd.reached.wait(HANG_SECS)
        pull.send_signal(signal.SIGINT)
        assert pull.wait(HANG_SECS) == -signal.SIGINT
    assert odd.left.wait(HANG_SECS), "the daemon goes on with it"


def test_a_daemon_that_is_away(tmp_path):
    env = clean_environment({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    for words in (["pull", "x"], ["ls"], ["rm", "x"]):
        done = subprocess.run([BERTH, "image", "--engine", "docker", *words], env=env, check=False,
                              timeout=HANG_SECS, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 125 and "none.sock" in done.stderr, done


# ---- the engine's own pulls ----


@pytest.fixture
def server(daemon):
    made = []

    def start(name, config):
        one = ways.new_server("docker", daemon, {"DOCKER_BASE_IMAGE": name, "DOCKER_CONFIG": config,
                                                 "BERTH_POOL": "0"})
        made.append(one)
        return one.start()
    yield start
    for one in made:
        end(one)


def test_the_engine_pulls_with_the_operators_credentials(daemon, hub, logins, server, tmp_path):
    name = push(daemon, hub, images.NAME, "team/python:1")
    without = server(name, str(tmp_path / "none"))
    answer = wait_until(lambda: (got := without.post({"code": "print(1)"})).status == 503 and
                        "can't be pulled" in got.json()["detail"] and got,
                        lambda: f"it says why\n{without.log()}", step_secs=0.5)
    assert_error(answer, 503)
    assert answer.headers["Retry-After"] and "no basic auth credentials" in without.log()
    one = server(name, logins(hub.address))
    wait_until(lambda: one.post({"code": "print('hello')"}).json().get("stdout") == "hello\n",
               lambda: f"it runs\n{one.log()}", step_secs=0.5)
    assert f"image {name} was pulled" in one.log()
    assert registry.PASSWORD not in one.log() and BASIC not in one.log()
    one.wait_clean()


def test_a_registry_tells_nothing_to_the_engines_clients(daemon, odd, logins, server):
    one = server(f"{odd.address}/x:1", logins(odd.address))
    answer = wait_until(lambda: (got := one.post({"code": "print(1)"})).status == 503 and
                        "can't be pulled" in got.json()["detail"] and got,
                        lambda: f"it says so\n{one.log()}", step_secs=0.5)
    assert f"Basic {BASIC}" in odd.sent, "it never had the chance"
    for text in (answer.body.decode(), one.log(), one.get("/health").body.decode()):
        assert registry.PASSWORD not in text and BASIC not in text
