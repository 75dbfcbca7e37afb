"""Several engines in one server, native and fake side by side: which one a request gets, what is told of
each, one that is away, and what a later server finds of either."""
import json
import os
import signal
import subprocess

import pytest

from harness import BUILD, HANG_SECS, assert_error, clean_environment, wait_until
from sessions import Session, in_background

BOTH = {"BERTH_TESTING": "1", "BERTH_ENGINES": "native fake", "BERTH_FAKE_RUNTIMES": "plain lesser"}


@pytest.fixture(scope="module")
def both():
    import harness
    one = harness.Server(BOTH).start()
    yield one
    harness.end(one)


def engines(server):
    return {one["name"]: one for one in server.get("/api/v1/info").json()["engines"]}


def labelled(server, name):
    """{engine: value} of a metric."""
    found = {}
    for line in server.get("/metrics").body.decode().splitlines():
        if line.startswith(name + "{"):
            found[line.split('"')[1]] = float(line.rsplit(" ", 1)[1])
    return found


# ---- which one ----

def test_a_request_gets_the_engine_that_it_names(both):
    first = both.execute("print(6 * 7)")
    assert (first["engine"], first["stdout"]) == ("native", "42\n")
    second = both.execute("out of the fake", engine="fake")
    assert (second["engine"], second["runtime"], second["stdout"]) == ("fake", "plain", "of the fake\n")
    third = both.execute("out x", engine="fake", runtime="lesser")
    assert (third["engine"], third["runtime"]) == ("fake", "lesser")
    kept = both.get(f"/executions/{third['execution_id']}").json()
    assert kept == third
    made = labelled(both, "berth_engine_created_total")
    assert made["native"] >= 1 and made["fake"] >= 2


@pytest.mark.parametrize("path", ["/execute", "/sessions"])
@pytest.mark.parametrize("fields, words", [
    ({"engine": "docker"}, ("engine", "docker", "native, fake")),
    ({"engine": "fake", "runtime": "runsc"}, ("runtime", "runsc", "plain, lesser")),
    ({"engine": ""}, ("engine",)),
    ({"engine": 7}, ("engine",)),
    ({"engine": "fake", "runtime": "lesser", "profile": "container"}, ("profile",)),
    ({"engine": "fake", "runtime": "lesser", "libraries": ["numpy"]}, ("libraries", "lesser")),
    ({"engine": "fake", "resources": {"gpu": 1}}, ("gpu",)),
])
def test_what_is_not_there_is_refused_by_name(both, path, fields, words):
    assert_error(both.post({"code": "out x", **fields}, path=path), 400, *words)


def test_what_is_told_of_them(both):
    info = both.get("/api/v1/info").json()
    assert [one["name"] for one in info["engines"]] == ["native", "fake"]
    assert [one["default"] for one in info["engines"]] == [True, False]
    assert info["engine_choice"]["offered"] is True
    defaults = info["engine_choice"]["defaults"]
    assert defaults["execute"]["engine"] == defaults["sessions"]["engine"] == "native"
    plain, lesser = info["engines"][1]["runtimes"]
    assert (plain["name"], lesser["name"]) == ("plain", "lesser")
    assert {"layers", "container"} <= set(lesser["missing"]) & set(plain["capabilities"])
    for runtime in (plain, lesser):
        assert not set(runtime["missing"]) & set(runtime["capabilities"])
    health = both.get("/health").json()["engines"]
    assert [(one["name"], one["status"]) for one in health] == [("native", "ok"), ("fake", "ok")]
    assert labelled(both, "berth_engine_up") == {"native": 1, "fake": 1}


def berth(server, *words):
    return subprocess.run([str(BUILD / "berth"), *words], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=HANG_SECS,
                          env=clean_environment({"BERTH_URL": server.url}))


def test_on_the_command_line(both):
    table = berth(both, "engines")
    lines = table.stdout.splitlines()
    assert table.returncode == 0 and lines[0].split() == ["ENGINE", "STATUS", "RUNTIME", "VERSION", "LACKS"]
    assert any(line.startswith("native ") and "*" in line for line in lines), lines
    assert any(line.split()[:3] == ["fake", "ok", "lesser"] and "layers" in line for line in lines), lines
    told = json.loads(berth(both, "engines", "--json").stdout)
    assert [one["name"] for one in told["engines"]] == ["native", "fake"]
    ran = berth(both, "run", "--engine", "fake", "--runtime", "lesser", "--code", "out hello")
    assert (ran.returncode, ran.stdout) == (0, "hello\n"), ran
    assert berth(both, "engines", "--nonsense").returncode == 2
    listed = json.loads(berth(both, "languages", "--engine", "fake", "--json").stdout)
    assert (listed["engine"], listed["image"]) == ("fake", "host")


def test_defaults_and_no_choice(make_server):
    server = make_server({**BOTH, "BERTH_ENGINE_EXECUTE": "fake/lesser", "BERTH_ENGINE_CHOICE": "off"})
    done = server.execute("out x")
    assert (done["engine"], done["runtime"]) == ("fake", "lesser")
    assert server.execute("out x", engine="fake")["runtime"] == "lesser"
    assert_error(server.post({"code": "1", "engine": "native"}), 403, "engine", "BERTH_ENGINE_CHOICE")
    assert_error(server.post({"code": "1", "runtime": "plain"}), 403, "runtime")
    session = Session(server)
    assert session.get().json()["engine"] == "native"
    assert session.run("x = 1; x")["engine"] == "native"
    assert_error(server.post({"engine": "fake"}, path="/sessions"), 403, "engine")
    assert server.get("/api/v1/info").json()["engine_choice"] == {
        "offered": False, "defaults": {"execute": {"engine": "fake", "runtime": "lesser"},
                                       "sessions": {"engine": "native", "runtime": None}}}


@pytest.mark.parametrize("name, value", [("BERTH_ENGINES", "native podman"), ("BERTH_ENGINES", "fake"),
                                         ("BERTH_ENGINE_SESSIONS", "docker")])
def test_settings_that_name_no_engine(make_server, name, value):
    server = make_server({name: value}, start=False)
    with pytest.raises(AssertionError, match="no ready line"):
        server.start()
    assert server.stop() != 0
    assert name in server.log()


# ---- one that is away ----

def test_one_that_hangs_stops_no_other(make_server):
    server = make_server(BOTH)
    server.hello()
    native = server.child("berth-native")
    os.kill(native, signal.SIGSTOP)
    try:
        waiting = in_background(lambda: server.post({"code": "print('late')"}))
        for _ in range(3):
            assert server.execute("out x", engine="fake")["status"] == "success"
        def states():
            return {one["name"]: one["status"] for one in server.get("/health").json()["engines"]}
        wait_until(lambda: states() == {"native": "down", "fake": "ok"}, states)
        assert labelled(server, "berth_engine_up") == {"native": 0, "fake": 1}
    finally:
        os.kill(native, signal.SIGCONT)
    assert waiting().json()["stdout"] == "late\n"
    server.hello()
    server.wait_clean()


def test_one_that_dies_stops_no_other(make_server):
    server = make_server(BOTH)
    session = Session(server)
    session.run("x = 41")
    other = Session(server, engine="fake")
    other.run("set y 5")
    os.kill(server.child("berth-native"), signal.SIGKILL)
    assert other.run("get y")["stdout"] == "5\n"
    assert wait_until(lambda: (one := session.post("print(x + 1)")).status == 200 and one, "it is back") \
        .json()["stdout"] == "42\n"
    server.hello()


# ---- what a later server finds ----

def test_sessions_are_found_at_their_engine(make_server):
    """Those of the fake end with the server that they are threads of, and only those."""
    server = make_server(BOTH)
    mine = Session(server)
    mine.run("x = 41")
    gone = Session(server, engine="fake", runtime="lesser")
    assert (gone.get().json()["engine"], gone.get().json()["runtime"]) == ("fake", "lesser")
    old = server.child("berth-server")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: server.children().get("berth-server") not in (None, old), "it is started again")
    wait_until(lambda: gone.get().status == 404, "the fake's session is over")
    assert mine.run("print(x + 1)")["stdout"] == "42\n"
    assert mine.get().json()["engine"] == "native"


def test_a_session_waits_for_its_engine(make_server):
    server = make_server({**BOTH, "BERTH_ENGINES": "fake native"})
    session = Session(server, engine="native", lang="python")
    session.run("x = 41")
    assert server.stop() == 0
    server.env["BERTH_ENGINES"] = "fake"
    server.start()
    shown = session.get().json()
    assert (shown["status"], shown["engine"]) == ("active", "native")
    assert_error(session.post("x"), 503, "BERTH_ENGINES")
    assert server.execute("out x")["engine"] == "fake"
    assert server.stop() == 0
    server.env["BERTH_ENGINES"] = "fake native"
    server.start()
    assert session.run("print(x + 1)")["stdout"] == "42\n"
    session.delete()
    server.wait_clean()


def test_a_pool_by_engine(make_server):
    server = make_server({**BOTH, "BERTH_POOL_MIN": "1", "BERTH_POOL_MAX": "8"})
    wait_until(lambda: server.metric("berth_pool_ready") >= 1, "one is ready")
    assert server.execute("out x", engine="fake")["engine"] == "fake"
    assert server.metric("berth_pool_hits_total") == 0
    wait_until(lambda: labelled(server, "berth_engine_created_total")["fake"] >= 2, "one is made ahead")
    wait_until(lambda: server.metric("berth_pool_ready") >= 2, "it is ready")
    assert server.execute("out x", engine="fake")["stdout"] == "x\n"
    assert server.execute("print(1)")["stdout"] == "1\n"
    assert server.metric("berth_pool_hits_total") == 2


def test_what_died_of_its_memory_is_said(both):
    """An engine that can tell why a sandbox died is believed: the code never came to say it."""
    done = both.execute("fault dies-of-memory", engine="fake")
    assert (done["status"], done["killed_by"], done["limits_hit"]) == ("killed", "oom", ["memory"])
    assert both.execute("fault dies", engine="fake")["killed_by"] == "server"
    session = Session(both, engine="fake")
    done = session.run("fault dies-of-memory")
    assert (done["killed_by"], done["state"]) == ("oom", "lost")
    assert_error(session.post("out x"), 404, session.id)
