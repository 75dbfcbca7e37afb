"""Libraries through the real server: installed once for a set, by the language's own installer and from an
index on this host; sessions, bounds, deaths; and real registries where this machine reaches some."""
import http.client
import json
import pathlib
import subprocess
import threading
import time

import pytest

import harness
import netrig
import pyindex
from faults import Fault
from harness import assert_error, at_once, wait_until
from sessions import Session, in_background

SHOW = "import alpha; print(alpha.WORD, alpha.__file__)"


@pytest.fixture(scope="module")
def index():
    one = pyindex.Index()
    for name in ("alpha", "beta", "gamma", "delta", "slow"):
        one.add(pyindex.wheel(name, {f"{name}.py": f"WORD = '{name}'\n"}))
    one.add(pyindex.wheel("alpha", {"alpha.py": "WORD = 'newer'\n"}, "2.0"))
    yield one
    one.close()


def make(index, env=None, state=None):
    return netrig.NamedServer({pyindex.NAME: "127.0.0.1"}, {**index.settings(), **(env or {})}, state).start()


@pytest.fixture(scope="module")
def server(index):
    one = make(index, {"BERTH_POOL_MAX": "2"})
    yield one
    harness.end(one)


def layers(server):
    return server.get("/api/v1/layers").json()


def names_of(server):
    return sorted(",".join(layer["libraries"]) for layer in layers(server)["layers"])


def built(server):
    return server.metric("berth_layers_built_total")


def forget_all(server):
    for layer in layers(server)["layers"]:
        assert server.request("DELETE", f"/api/v1/layers/{layer['name']}").status == 200


def test_a_set_is_installed_once(server, index):
    before, asked = built(server), index.downloads("alpha")
    done = server.execute(SHOW, libraries=["alpha==1.0"])
    assert done["stdout"] == "alpha /opt/libraries/alpha.py\n", (done, server.log())
    assert (done["status"], done["phase"]) == ("success", "run")
    for spelt in ("alpha==1.0", "Alpha == 1.0"):
        assert server.execute(SHOW, libraries=[spelt])["stdout"] == done["stdout"]
    assert built(server) == before + 1 and index.downloads("alpha") == asked + 1
    assert server.execute(SHOW, libraries=["alpha"])["stdout"].startswith("newer")
    none = server.execute(SHOW)
    assert none["exit_code"] == 1 and "ModuleNotFoundError" in none["stderr"]
    (layer,) = [layer for layer in layers(server)["layers"] if layer["libraries"] == ["alpha==1.0"]]
    assert layer["installed"] == "alpha==1.0\n" and layer["size_bytes"] > 0 and not layer["keep_template"]


def test_under_gvisor(server):
    """One that any runtime made is seen on any: installed there, and in what runs there already."""
    engine = server.get("/api/v1/info").json()["engines"][0]
    if "runsc" not in [one["name"] for one in engine["runtimes"] or []]:
        pytest.skip("the engine found no runsc here")
    before = built(server)
    for runtime in ("runsc", "native", "runsc"):
        done = server.execute(SHOW, libraries=["alpha==1.0", "gamma"], runtime=runtime)
        assert done["stdout"] == "alpha /opt/libraries/alpha.py\n", (runtime, done, server.log())
    assert built(server) == before + 1
    one = Session(server, runtime="runsc", libraries=["beta"])
    assert one.run("import beta\nprint(beta.WORD)")["stdout"] == "beta\n"
    assert one.run("open(beta.__file__, 'a')")["error"]["name"] in ("PermissionError", "OSError")
    one.delete()


def test_what_is_there_takes_nothing_new(server, index):
    """From the pool, without another sandbox and without a word to the index."""
    server.execute(SHOW, libraries=["alpha==1.0"])
    wait_until(lambda: server.metric("berth_pool_ready") >= 1, "one is ready")
    hits, asked, before = server.metric("berth_pool_hits_total"), len(index.asked), built(server)
    done = server.execute(SHOW + "\nalpha.WORD", libraries=["alpha==1.0"])
    assert done["results"] == [{"text/plain": "'alpha'"}]  # by the kernel that waited, not by a new interpreter
    assert server.metric("berth_pool_hits_total") == hits + 1
    assert len(index.asked) == asked and built(server) == before


def test_children_find_them_and_a_callers_own_path_comes_first(server):
    child = "import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', " + repr(SHOW) + "]).decode())"
    assert "/opt/libraries" in server.execute(child, libraries=["alpha==1.0"])["stdout"]
    own = [{"path": "own/alpha.py", "content": "V09SRCA9ICdvd24nCg=="}]
    done = server.execute(SHOW, libraries=["alpha==1.0"], env={"PYTHONPATH": "/workspace/own"}, files=own)
    assert done["stdout"] == "own /workspace/own/alpha.py\n", done


def test_nobody_writes_into_a_layer(server):
    code = ("import os\n"
            "for path in ('/opt/libraries/new', '/opt/libraries/alpha.py'):\n"
            "    try:\n        open(path, 'a').write('x')\n    except OSError as problem:\n        print(problem.errno)\n")
    for profile in ("strict", "container"):
        assert server.execute(code, libraries=["alpha==1.0"], profile=profile)["stdout"] == "30\n30\n"  # EROFS


def test_a_failed_install_is_an_outcome(server):
    before = server.metric("berth_layers_failed_total")
    for _ in range(2):
        done = server.execute("print('ran')", libraries=["nosuchthing"])
        assert (done["status"], done["exit_code"], done["phase"]) == ("error", 1, "install"), done
        assert "No matching distribution found for nosuchthing" in done["stderr"]
        assert "ran" not in done["stdout"]
    assert server.metric("berth_layers_failed_total") == before + 2
    assert "nosuchthing" not in str(layers(server))
    assert server.get(f"/executions/{done['execution_id']}").json()["phase"] == "install"
    refused = server.post({"libraries": ["nosuchthing"]}, path="/sessions")
    assert_error(refused, 400, "libraries")


@pytest.mark.parametrize("text", [
    "numpy; rm -rf /", "--index-url=http://example.com/", "-e .", "../x", "./x", "/x", "a/b", "http://example.com/x.whl",
    "x @ http://example.com/x.whl", "git+https://example.com/x", "x\ny", "x\ty", " x", "x y", "", "x==1 --no-deps",
    "x; python_version > '3'", "$(id)", "x\u00a0", "x\u200b", "-r requirements.txt"])
def test_what_is_no_requirement(server, text):
    asked = server.metric("berth_sandboxes_created_total")
    for fields, path in (({"code": "1", "libraries": ["alpha", text]}, "/execute"),
                         ({"libraries": ["alpha", text]}, "/sessions")):
        assert_error(server.post(fields, path=path), 400, "libraries[1]")
    assert server.metric("berth_sandboxes_created_total") == asked


def test_other_things_that_are_no_requirements(server):
    assert server.post('{"code": "1", "libraries": ["x\\u0000y"]}').status == 400
    assert_error(server.post({"code": "1", "libraries": "x"}), 400, "libraries")
    assert_error(server.post({"code": "1", "libraries": [1]}), 400, "libraries[0]")
    assert_error(server.post({"code": "1", "libraries": ["x"] * 65}), 400, "libraries")
    assert_error(server.post({"code": "1", "libraries": ["x"], "lang": "bash"}), 400, "libraries")


def test_as_many_as_there_may_be(server, index):
    names = [f"part{i}" for i in range(64)]
    for name in names:
        index.add(pyindex.wheel(name, {f"{name}.py": f"WORD = '{name}'\n"}))
    done = server.execute("import part0, part63; print(part0.WORD, part63.WORD)", libraries=names)
    assert done["stdout"] == "part0 part63\n", done


def test_those_who_ask_meanwhile_wait(server, index):
    forget_all(server)
    before, asked = built(server), index.downloads("slow")
    index.gate.clear()
    calls = [lambda: server.execute("import slow; print(slow.WORD)", libraries=["slow"])] * 4
    waiting = in_background(lambda: at_once(calls))
    wait_until(lambda: [entry for entry in layers(server)["building"] if entry["waiting"] == 4], "all wait for one")
    assert len(layers(server)["building"]) == 1
    index.gate.set()
    assert [done["stdout"] for done in waiting()] == ["slow\n"] * 4
    assert built(server) == before + 1 and index.downloads("slow") == asked + 1


def test_a_build_that_nobody_waits_for_ends(server, index):
    forget_all(server)
    index.gate.clear()
    stream = server.stream("print(1)", libraries=["slow"])
    wait_until(lambda: layers(server)["building"], "it is being installed")
    stream.close()
    wait_until(lambda: not layers(server)["building"], "the build ends")
    index.gate.set()
    assert names_of(server) == []
    assert server.execute("import slow; print(slow.WORD)", libraries=["slow"])["stdout"] == "slow\n"


# ---- sessions ----

def test_a_session_keeps_its_state_when_libraries_come(server):
    session = Session(server, libraries=["alpha==1.0"])
    assert session.get().json()["libraries"] == ["alpha==1.0"]
    assert session.run("import alpha\nx = 41\nalpha.WORD")["results"] == [{"text/plain": "'alpha'"}]
    assert "ModuleNotFoundError" in session.run("import beta")["stderr"]
    done = session.run("import beta\nprint(beta.WORD, x + 1)", libraries=["beta"])
    assert done["stdout"] == "beta 42\n", done
    assert session.get().json()["libraries"] == ["alpha==1.0", "beta"]
    failed = session.run("print('ran')", libraries=["nosuchthing"])
    assert (failed["status"], failed["phase"]) == ("error", "install") and "ran" not in failed["stdout"], failed
    assert_error(session.post("1", libraries=["--x"]), 400, "libraries[0]")
    assert session.run("import alpha, beta; print(x)")["stdout"] == "41\n"
    session.delete()


def test_a_session_without_gets_some(server):
    session = Session(server)
    session.run("x = 1\nopen('/opt/libraries/gamma.py', 'w').write('WORD = 1/0')")  # it is a folder of its own until then
    assert session.run("import gamma; print(gamma.WORD, x)", libraries=["gamma"])["stdout"] == "gamma 1\n"
    session.delete()


@pytest.mark.parametrize("lang, name, show, own", [
    ("javascript", "NODE_PATH", "console.log(process.env.NODE_PATH)", "/opt/libraries/node_modules"),
    ("perl", "PERL5LIB", "print $ENV{PERL5LIB}", "/opt/libraries/lib/perl5"),
    ("ruby", "GEM_PATH", "puts ENV['GEM_PATH']", "/opt/libraries:")])
def test_a_sessions_own_folders_come_first(server, lang, name, show, own):
    """And those of libraries behind them: an execution may bring some."""
    answer = server.post({"lang": lang, "env": {name: "/own"}}, path="/sessions")
    if answer.status == 400 and "lang" in answer.json()["detail"]:
        pytest.skip(f"{lang} is not installed")
    assert answer.status == 200, answer
    path = "/sessions/" + answer.json()["session_id"]
    try:
        assert server.post({"code": show}, path=path + "/execute").json()["stdout"].strip() == f"/own:{own}"
    finally:
        server.request("DELETE", path)
    kept = server.execute(show, lang=lang, env={name: "/own"})  # who asks for none has what was asked for
    assert kept["stdout"].strip() == "/own", kept


def test_a_session_is_not_idle_while_it_waits(server, index):
    forget_all(server)
    session = Session(server, idle_timeout=0.5)
    session.run("x = 41")
    index.gate.clear()
    waiting = in_background(lambda: session.run("import slow; print(slow.WORD, x)", libraries=["slow"]))
    wait_until(lambda: layers(server)["building"], "it is being installed")
    assert server.post({}, path=session.path + "/renew").status == 200, "nor does a renewal make it idle"
    time.sleep(1.5)
    index.gate.set()
    done = waiting()
    assert done["stdout"] == "slow 41\n", done
    wait_until(lambda: session.get().status == 404, "it is idle, and has its own time for that again")


def test_a_session_that_ends_while_it_waits(server, index):
    forget_all(server)
    session = Session(server, timeout=1)
    index.gate.clear()
    waiting = in_background(lambda: session.post("1", libraries=["slow"]))
    wait_until(lambda: layers(server)["building"], "it is being installed")
    wait_until(lambda: session.get().status == 404, "its time is over")
    index.gate.set()
    answer = waiting()
    assert answer.status == 404 or answer.json()["status"] == "killed", answer
    wait_until(lambda: not layers(server)["building"], "the build ends")
    session = Session(server)
    index.gate.clear()
    forget_all(server)
    waiting = in_background(lambda: session.post("1", libraries=["slow"]))
    wait_until(lambda: layers(server)["building"], "it is being installed")
    session.delete()
    answer = waiting()
    assert answer.status == 404 or answer.json()["status"] == "killed", answer
    wait_until(lambda: not layers(server)["building"], "the build ends with who wanted it")
    index.gate.set()


def test_code_that_lets_none_be_shown(server):
    """It is told so; that its sandbox went away would not be true."""
    session = Session(server, profile="container")
    session.run("import os\nx = 1\nos.rmdir('/opt/libraries')\n"
                "for name in ['libraries'] + [f'libraries.{i}' for i in range(1, 101)]:\n"
                "    open('/opt/' + name, 'w').close()")
    assert_error(session.post("1", libraries=["alpha"]), 409, "libraries")
    session.run("os.unlink('/opt/libraries.7')")
    assert session.run("import alpha; print(alpha.WORD, x)", libraries=["alpha==1.0"])["stdout"] == "alpha 1\n"
    session.delete()


# ---- how long they stay ----

def test_over_a_restart_of_the_server(index):
    server = make(index)
    try:
        server.execute(SHOW, libraries=["alpha==1.0"])
        session = Session(server, libraries=["beta"])
        server.stop()
        server.start()
        asked = len(index.asked)
        assert server.execute(SHOW, libraries=["alpha==1.0"])["status"] == "success"
        assert session.run("import beta; print(beta.WORD)")["stdout"] == "beta\n"
        assert session.get().json()["libraries"] == ["beta"]
        (beta,) = [layer for layer in layers(server)["layers"] if layer["libraries"] == ["beta"]]
        assert beta["in_use"] == 1 and len(index.asked) == asked
        done = session.run("import alpha, beta; print(alpha.WORD)", libraries=["alpha==1.0"])
        assert done["stdout"] == "alpha\n"
        session.delete()
    finally:
        harness.end(server)


def test_a_restart_knows_what_is_in_use(index):
    """However long ago that was written down."""
    server = make(index, {"BERTH_LAYERS_GRACE": "0.2"})
    try:
        session = Session(server, libraries=["beta"])
        (layer,) = layers(server)["layers"]
        for _ in range(3):
            server.stop()
            server.start()
            assert [(one["name"], one["in_use"]) for one in layers(server)["layers"]] == [(layer["name"], 1)]
        assert server.metric("berth_layers_evicted_total") == 0
        session.delete()
        wait_until(lambda: names_of(server) == [], "then it goes")
    finally:
        harness.end(server)


def test_a_server_that_dies_in_a_build(index):
    server = make(index)
    try:
        server.execute(SHOW, libraries=["alpha==1.0"])
        index.gate.clear()
        threading.Thread(target=lambda: attempt(server), daemon=True).start()
        wait_until(lambda: layers(server)["building"], "it is being installed")
        pid = server.child("berth-server")
        subprocess.run(["kill", "-9", str(pid)], check=True)
        wait_until(lambda: server.children().get("berth-server", pid) != pid, "the next server runs")
        index.gate.set()
        server.wait_clean()
        assert names_of(server) == ["alpha==1.0"] and layers(server)["building"] == []
        assert server.execute("import slow; print(slow.WORD)", libraries=["slow"])["stdout"] == "slow\n"
        assert server.execute(SHOW, libraries=["alpha==1.0"])["status"] == "success"
    finally:
        index.gate.set()
        harness.end(server)


def test_a_server_that_dies_leaves_no_long_idle_time(index):
    """That of a session whose execution waits is the length of a build, half an hour and more."""
    server = make(index)
    try:
        session = Session(server, idle_timeout=1)
        index.gate.clear()
        threading.Thread(target=lambda: attempt(server, session.path + "/execute"), daemon=True).start()
        wait_until(lambda: layers(server)["building"], "it is being installed")
        pid = server.child("berth-server")
        subprocess.run(["kill", "-9", str(pid)], check=True)
        wait_until(lambda: server.children().get("berth-server", pid) != pid, "the next server runs")
        server.wait_clean()  # it is idle, and has its own time for that
        assert session.get().status == 404
    finally:
        index.gate.set()
        harness.end(server)


def attempt(server, path="/execute"):
    try:
        server.post({"code": "1", "libraries": ["slow"]}, path=path)
    except OSError:
        pass  # it was killed


@pytest.mark.parametrize("point", ["server.layer_imported", "server.layer_stored", "server.layer_removed"])
def test_the_server_dies_at(index, point):
    """What the engine has and the books lack goes; what both have is taken over."""
    with Fault(point) as fault:
        server = make(index, fault.env)
        try:
            old = server.child("berth-server")
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                server.post({"code": "1", "libraries": ["beta"]})
                forget_all(server)
            assert fault.struck(), "the point was not reached"
            wait_until(lambda: server.children().get("berth-server", old) != old, "the next server runs")
            server.hello()
            known = 1 if point == "server.layer_stored" else 0
            store = pathlib.Path(server.state, "priv", "layers")
            wait_until(lambda: len(layers(server)["layers"]) == len(list(store.iterdir())) == known,
                       lambda: f"{layers(server)}, {list(store.iterdir())}")
            asked = index.downloads("beta")
            assert server.execute("import beta; print(beta.WORD)", libraries=["beta"])["stdout"] == "beta\n"
            assert index.downloads("beta") == asked + 1 - known
        finally:
            harness.end(server)


def test_what_is_not_kept_goes(index):
    server = make(index, {"BERTH_LAYERS_GRACE": "0.2"})
    try:
        server.execute("1", libraries=["alpha"], keep_template=True)
        session = Session(server, libraries=["gamma"])
        server.execute("1", libraries=["beta"])
        wait_until(lambda: names_of(server) == ["alpha", "gamma"], lambda: names_of(server))
        session.delete()
        wait_until(lambda: names_of(server) == ["alpha"], lambda: names_of(server))
        assert server.metric("berth_layers_evicted_total") == 2
    finally:
        harness.end(server)


def test_the_least_used_go_first(index):
    server = make(index, {"BERTH_LAYERS_MAX": "2"})
    try:
        for name in ("alpha", "beta", "alpha", "gamma"):
            server.execute("1", libraries=[name])
        assert names_of(server) == ["alpha", "gamma"]
        sessions = [Session(server, libraries=[name]) for name in ("alpha", "gamma")]
        refused = server.post({"code": "1", "libraries": ["beta"]})
        assert_error(refused, 503, "in use")
        for session in sessions:
            session.delete()
        server.execute("1", libraries=["beta"])
        assert len(names_of(server)) == 2
    finally:
        harness.end(server)


def test_their_size_is_bounded(index):
    index.add(pyindex.wheel("large", {"large.py": "X = '" + "x" * (2 << 20) + "'\n"}))
    server = make(index, {"BERTH_LAYERS_BYTES": "1MiB"})
    try:
        server.execute("1", libraries=["alpha"])
        assert_error(server.post({"code": "1", "libraries": ["large"]}), 400, "libraries")
        assert names_of(server) in ([], ["alpha"])
        server.execute("1", libraries=["alpha"])
    finally:
        harness.end(server)


def test_none_are_offered(index):
    server = make(index, {"BERTH_LAYERS_MAX": "0"})
    try:
        answer = server.post({"code": "1", "libraries": ["alpha"]})
        assert answer.status == 400 and "BERTH_LAYERS_MAX" in answer.json()["detail"], answer
        assert layers(server)["layers"] == []
    finally:
        harness.end(server)


def test_the_command(server):
    def berth(*words):
        return subprocess.run([str(harness.BUILD / "berth"), "layers", *words], env={"BERTH_URL": server.url},
                              capture_output=True, text=True, timeout=60)

    forget_all(server)
    server.execute("1", libraries=["alpha==1.0", "beta"], keep_template=True)
    (layer,) = layers(server)["layers"]
    listed = berth("ls")
    assert listed.returncode == 0 and layer["name"] in listed.stdout and "alpha==1.0,beta" in listed.stdout, listed
    assert json.loads(berth("ls", "--json").stdout)["layers"][0]["name"] == layer["name"]
    session = Session(server, libraries=["alpha==1.0", "beta"])
    assert berth("rm", layer["name"]).stdout == layer["name"] + "\n"
    assert berth("rm", layer["name"]).returncode == 125
    assert layers(server)["layers"] == []
    assert session.run("import beta; print(beta.WORD)")["stdout"] == "beta\n"  # who has it keeps it
    session.delete()
    assert berth().returncode == 2 and berth("rm").returncode == 2 and berth("--help").returncode == 0


def test_libraries_by_the_command(server):
    def berth(*words):
        return subprocess.run([str(harness.BUILD / "berth"), *words], env={"BERTH_URL": server.url},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    code = "import alpha, beta; print(alpha.WORD, beta.WORD)"
    ran = berth("run", "--library", "alpha==1.0", "--library=beta", "-c", code)
    assert (ran.returncode, ran.stdout) == (0, "alpha beta\n"), ran
    failed = berth("run", "--library", "nosuchthing", "-c", "print('ran')")
    assert failed.returncode == 1 and "nosuchthing" in failed.stderr and "ran" not in failed.stdout, failed
    refused = berth("run", "--library", "--index-url=http://x/", "-c", "1")
    assert refused.returncode == 125 and "libraries[0]" in refused.stderr, refused
    session = berth("session", "new", "--library", "alpha==1.0", "--library", "beta").stdout.strip()
    assert server.get(f"/sessions/{session}").json()["libraries"] == ["alpha==1.0", "beta"]
    assert berth("session", "exec", session, code).stdout == "alpha beta\n"
    assert berth("session", "rm", session).returncode == 0


# ---- real registries ----

def test_pip_from_the_registry():
    settings = netrig.registry_settings("pypi.org", "files.pythonhosted.org")
    if not settings:
        pytest.skip("no package registry is reached from here")
    server = harness.Server({**settings, "BERTH_POOL_MAX": "2"}).start()
    try:
        code = "import six; print(six.__file__, six.__version__)"
        assert server.execute(code, libraries=["six==1.16.0"])["stdout"] == "/opt/libraries/six.py 1.16.0\n"
        wait_until(lambda: server.metric("berth_pool_ready") >= 1, "one is ready")
        before = server.metric("berth_sandboxes_created_total"), server.metric("berth_pool_hits_total")
        assert server.execute(code, libraries=["six==1.16.0"])["status"] == "success"
        assert server.metric("berth_pool_hits_total") == before[1] + 1 and built(server) == 1
    finally:
        harness.end(server)


def test_npm_from_the_registry():
    settings = netrig.registry_settings("registry.npmjs.org")
    if not settings:
        pytest.skip("no package registry is reached from here")
    server = harness.Server(settings).start()
    try:
        refused = server.post({"code": "console.log('hello')", "lang": "javascript"})
        if refused.status == 400 or server.execute("npm --version", lang="bash")["exit_code"] != 0:
            pytest.skip("node or npm is not installed")
        code = "console.log(require('left-pad')('x', 3, '-'))"
        for _ in range(2):
            done = server.execute(code, lang="javascript", libraries=["left-pad@1.3.0"])
            assert done["stdout"] == "--x\n", (done, server.log())
        assert built(server) == 1
        assert_error(server.post({"code": "1", "lang": "javascript", "libraries": ["a/b"]}), 400, "libraries[0]")
        assert_error(server.post({"code": "1", "lang": "javascript", "libraries": ["x@npm:y"]}), 400, "libraries[0]")
    finally:
        harness.end(server)
