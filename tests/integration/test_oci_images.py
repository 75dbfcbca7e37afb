"""`berth image`: an OCI image from a registry on loopback to code that runs in it, and what a pull that
fails or is killed leaves, which is nothing."""
import gzip
import http.server
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import threading

import pytest

import oci
import registry
from harness import BUILD, HANG_SECS, LOOPBACK, assert_error, clean_environment, read, wait_until
from sessions import Session

BERTH = str(BUILD / "berth")
FETCH_ID = 0x6FFEFFFF  # cli/image_fetch.h
LOOK = "print(open('/etc/version').read(), sorted(__import__('os').listdir('/data')))"


def top(version, *more):
    """A layer over the Python one: /etc/version, /data/app, and others."""
    files = [oci.file("etc/version", version), oci.file("data/app", b"app"), *more]
    return oci.pack(files)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    if not shutil.which("skopeo"):
        pytest.skip("no skopeo")
    if not registry.program():
        pytest.skip("no docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    one = registry.Registry(folder)
    base = gzip.compress(registry.python_layer(folder / "base.tar").read_bytes(), 1)
    low = oci.pack([oci.file("data/gone", b"x"), oci.file("data/kept", b"x")])
    for version in (b"1", b"2"):
        archive = folder / f"app{version.decode()}.tar"
        archive.write_bytes(oci.archive([base, low, top(version, oci.file("data/.wh.gone", b""))]))
    try:
        one.start()
        for version in ("1", "2"):
            one.push(folder / f"app{version}.tar", f"team/app:{version}")
        yield one
    finally:
        one.stop()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def berth(images):
    def call(*words, code=0, **more):
        done = subprocess.run([BERTH, "image", *words], timeout=HANG_SECS, text=True, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE,
                              env=clean_environment({"BERTH_IMAGES": str(images)}), **more)
        assert done.returncode == code, done
        assert not [name for name in os.listdir(images) if name.startswith(".")], os.listdir(images)
        return done
    return call


def pull(berth, hub, version="1", *more, **fields):
    return berth("pull", "--tls-verify=false", *more,
                 f"docker://{hub.address}/team/app:{version}", **fields)


def in_image(server, name, code, **fields):
    """The answer once the image is unpacked."""
    def settled():
        answer = server.post({"lang": "python", "code": code, "image": name, **fields})
        unknown = answer.status == 400 and "there is no" in answer.json()["detail"]
        return answer if answer.status != 503 and not unknown else None
    return wait_until(settled, server.log)


def test_from_the_registry_to_running_code(hub, images, berth, make_server):
    server = make_server({"BERTH_IMAGES": str(images)})
    assert_error(server.post({"lang": "python", "code": "1", "image": "app"}), 400, "app", "there is no")
    told = pull(berth, hub)
    assert "fetching docker://" in told.stderr and "Copying blob" in told.stderr, told
    assert told.stdout == ""
    info = os.stat(images / "app.oci.tar")
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o600)
    answer = in_image(server, "app", LOOK)
    assert answer.status == 200 and answer.json()["stdout"] == "1 ['app', 'kept']\n", answer
    session = Session(server, image="app")
    assert session.run("x = 7")["exit_code"] == 0
    assert session.run("print(x, open('/etc/version').read())")["stdout"] == "7 1\n"
    berth("rm", "app")
    assert os.listdir(images) == []
    wait_until(lambda: server.post({"lang": "python", "code": "1", "image": "app"}).status == 400,
               server.log)
    assert session.run("print(open('/etc/version').read(), x)")["stdout"] == "1 7\n"
    session.delete()


def test_list(hub, images, berth):
    (images / "plain").mkdir()
    (images / "old.tar.gz").write_bytes(b"x" * 100)
    (images / "README").write_text("no image")
    pull(berth, hub, "1", "--name", "web")
    lines = berth("ls").stdout.splitlines()
    assert lines[0].split() == ["NAME", "SIZE", "CREATED", "SOURCE"]
    assert [line.split()[0] for line in lines[1:]] == ["old", "plain", "web"]
    assert lines[3].endswith(f"docker://{hub.address}/team/app:1") and " MB " in lines[3]
    found = json.loads(berth("ls", "--json").stdout)["images"]
    web = found[2]
    assert web["config"] == {"Env": ["A=1"], "Cmd": ["/bin/sh"]} and web["created"], web
    assert web["size"] == (images / "web.oci.tar").stat().st_size
    # What the image says of itself is shown without what a terminal would obey.
    (images / "web.json").write_text(json.dumps({**web, "config": {"Env": ["\x1b]0;\x9b2J\u202e"]}},
                                                ensure_ascii=False))
    told = berth("ls", "--json").stdout
    assert all(" " <= byte <= "~" or byte == "\n" for byte in told), told
    assert json.loads(told)["images"][2]["config"]["Env"] == ["\x1b]0;\x9b2J\u202e"]
    # What is beside another archive than it was written for is not believed.
    (images / "web.oci.tar").write_bytes(b"another")
    assert "docker://" not in berth("ls").stdout


def test_names_that_are_taken(hub, images, berth, make_server):
    server = make_server({"BERTH_IMAGES": str(images)})
    pull(berth, hub)
    told = pull(berth, hub, "2", code=125)
    assert "is taken by" in told.stderr and "--replace" in told.stderr
    assert in_image(server, "app", LOOK).json()["stdout"][0] == "1"
    pull(berth, hub, "2", "--replace")
    wait_until(lambda: in_image(server, "app", LOOK).json()["stdout"][0] == "2", server.log)
    # An archive of another kind goes as well; a folder never does.
    (images / "app.oci.tar").rename(images / "app.tar")
    pull(berth, hub, "1", "--replace")
    assert sorted(os.listdir(images)) == ["app.json", "app.oci.tar"]
    (images / "box").mkdir()
    (images / "box/file").write_text("mine")
    assert "folder" in pull(berth, hub, "1", "--replace", "--name", "box", code=125).stderr
    assert "by hand" in berth("rm", "box", code=125).stderr
    assert (images / "box/file").read_text() == "mine"
    assert "no image" in berth("rm", "nothing", code=125).stderr


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive", "file", "docker file"])
def test_import(hub, images, berth, make_server, tmp_path, kind):
    transport = {"file": "oci-archive", "docker file": "docker-archive"}.get(kind, kind)
    saved = tmp_path / "saved"
    subprocess.run(["skopeo", "copy", "--quiet", "--src-tls-verify=false",
                    f"docker://{hub.address}/team/app:2", f"{transport}:{saved}:app:2"
                    if "docker" in transport else f"{transport}:{saved}:two"],
                   check=True, timeout=HANG_SECS)
    os.chmod(tmp_path, 0o700)  # noqa: S103: skopeo, without rights, could not read it here
    berth("import", "--name", "two", str(saved) if "file" in kind else f"{transport}:{saved}")
    server = make_server({"BERTH_IMAGES": str(images)})
    assert in_image(server, "two", LOOK).json()["stdout"] == "2 ['app', 'kept']\n"


@pytest.mark.parametrize("words", [
    [], ["pull"], ["push", "x"], ["ls", "x"], ["rm"], ["pull", "alpine"], ["pull", "docker://a", "b"],
    ["pull", "--name", "../x", "docker://a"], ["pull", "--name", "host", "docker://a"],
    ["pull", "--tls-verify=maybe", "docker://a"], ["import"], ["ls", "--no-such"], ["--name"]])
def test_wrong_command_lines(berth, words):
    assert "usage: berth image" in berth(*words, code=2).stderr


def test_help(berth):
    assert "usage: berth image" in berth("--help").stdout
    assert "usage: berth image" in berth("pull", "--help").stdout


def test_only_root_may(images):
    nobody = pwd.getpwnam("nobody").pw_uid
    env = clean_environment({"BERTH_IMAGES": str(images)})
    # A copy, since nobody may not read a build folder.
    done = subprocess.run(["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", "sh",
                           "-c", f"exec {BERTH} image ls"], env=env, check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=HANG_SECS)
    if done.returncode in (126, 127):
        pytest.skip("the build folder is closed to others")
    assert done.returncode == 125 and "only root" in done.stderr, done


def test_folder_that_others_may_write_to(hub, images, berth):
    os.chmod(images, 0o777)  # noqa: S103
    assert "nobody else may write" in pull(berth, hub, code=125).stderr
    assert os.listdir(images) == []


def test_what_does_not_exist(hub, images, berth):
    told = berth("pull", "--tls-verify=false", f"docker://{hub.address}/team/none:1", code=125)
    assert "manifest unknown" in told.stderr or "unknown" in told.stderr, told
    told = berth("import", "/nonexistent/file.tar", code=125)
    assert "open /nonexistent/file.tar" in told.stderr
    told = berth("pull", "--tls-verify=false", f"docker://{LOOPBACK}:1/x", code=125)
    assert "refused" in told.stderr
    assert os.listdir(images) == []


def test_file_that_is_no_image(images, berth, tmp_path):
    with tarfile.open(tmp_path / "plain.tar", "w") as tar:
        tar.addfile(*[oci.file("etc", b"")[0]])
    (tmp_path / "noise.tar").write_bytes(os.urandom(4096))
    for name in ("plain.tar", "noise.tar"):
        assert "berth image import: " in berth("import", str(tmp_path / name), code=125).stderr
    assert os.listdir(images) == []


def test_without_skopeo(images, berth):
    """It is hidden in a mount namespace of this command's own."""
    skopeo = shutil.which("skopeo")
    if not skopeo or not shutil.which("unshare"):
        pytest.skip("no skopeo or no unshare(1)")
    script = f'mount --bind /dev/null {skopeo} && exec "$0" image pull docker://{LOOPBACK}:1/x'
    done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, BERTH],
                          env=clean_environment({"BERTH_IMAGES": str(images)}), text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=HANG_SECS)
    assert done.returncode == 125 and "skopeo is not installed" in done.stderr, done
    assert os.listdir(images) == []


# ---- a registry that means no good ----

@pytest.fixture
def silent():
    """It takes connections and says nothing."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        sock.listen(8)
        yield f"{LOOPBACK}:{sock.getsockname()[1]}"


def fetchers():
    """Processes that run as the id that images are fetched by: {pid: status}."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        status = dict(line.split(":\t", 1) for line in read(f"/proc/{name}/status").splitlines()
                      if ":\t" in line)
        if status.get("Uid", "").split("\t")[0] == str(FETCH_ID):
            found[int(name)] = status
    return found


def begin_pull(images, address):
    return subprocess.Popen([BERTH, "image", "pull", "--tls-verify=false", f"docker://{address}/x"],
                            env=clean_environment({"BERTH_IMAGES": str(images)}),
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_fetching_runs_without_rights(images, silent):
    process = begin_pull(images, silent)
    try:
        found = wait_until(lambda: {pid: one for pid, one in fetchers().items()
                                    if one["Name"] == "skopeo"}, "skopeo runs")
        for pid, status in found.items():
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(FETCH_ID)}
            assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
            assert status["NoNewPrivs"] == "1" and status["Groups"].split() == []
            assert os.stat(f"/proc/{pid}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino
            environment = read(f"/proc/{pid}/environ")
            assert "BERTH_IMAGES" not in environment and "HOME=/var/tmp" in environment
            assert os.getsid(pid) == pid  # no terminal of ours to type into
        # Another's work has the same owner: there is no way to it.
        (work,) = (images / name for name in os.listdir(images))
        assert (work.stat().st_uid, stat.S_IMODE(work.stat().st_mode)) == (0, 0o700)
        assert [(one.name, one.stat().st_uid) for one in work.iterdir()] == [("work", FETCH_ID)]
    finally:
        process.terminate()
        assert process.wait(HANG_SECS) == 125
        assert b"interrupted" in process.stderr.read()
        process.stdout.close()
        process.stderr.close()
    assert os.listdir(images) == []
    wait_until(lambda: not fetchers(), fetchers)


def test_killed_pull_is_swept(hub, images, silent, berth):
    process = begin_pull(images, silent)
    wait_until(fetchers, "it fetches")
    process.send_signal(signal.SIGKILL)
    process.wait(HANG_SECS)
    process.stdout.close()
    process.stderr.close()
    wait_until(lambda: not fetchers(), fetchers)
    (left,) = os.listdir(images)
    assert left.startswith(".image-")
    pull(berth, hub)  # which looks for hidden names afterwards
    assert sorted(os.listdir(images)) == ["app.json", "app.oci.tar"]


def test_work_of_a_living_pull_is_left_alone(hub, images, silent):
    process = begin_pull(images, silent)
    try:
        wait_until(fetchers, "it fetches")
        (work,) = os.listdir(images)
        env = clean_environment({"BERTH_IMAGES": str(images)})
        subprocess.run([BERTH, "image", "pull", "--tls-verify=false",
                        f"docker://{hub.address}/team/app:1"], env=env, check=True,
                       timeout=HANG_SECS, stderr=subprocess.DEVNULL)
        assert work in os.listdir(images)
    finally:
        process.terminate()
        process.wait(HANG_SECS)
        process.stdout.close()
        process.stderr.close()


def test_registry_that_writes_to_the_terminal(images, berth):
    class Liar(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"errors": [{"code": "\x1b[2J", "message": "\x1b]0;evil\x07\u202e"}]}).encode()
            self.send_response(404 if "manifests" in self.path else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Liar) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        told = berth("pull", "--tls-verify=false", f"docker://{LOOPBACK}:{one.server_port}/x", code=125)
        one.shutdown()
    assert all(" " <= byte <= "~" or byte == "\n" for byte in told.stderr), told
