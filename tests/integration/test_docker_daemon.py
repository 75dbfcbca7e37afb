"""A Docker daemon that is killed, frozen, away, or acts behind berth's back: what survived is taken up
again, what died is said to have died, requests meanwhile get a clear 503, and nothing is left with the
daemon or on the host."""
import pytest

import dockerd
import harness
import ways
from harness import Server, at_once, wait_until
from sessions import Session, in_background

SESSIONS = 20
SLEEP = "import time\nprint('begun', flush=True)\ntime.sleep(4)\nprint('ended')"


@pytest.fixture
def own():
    """own(live_restore=False): a daemon of the test's own, and a server on it."""
    missing = dockerd.missing()
    if missing:
        pytest.skip(f"there is no {', '.join(missing)} (scripts/deps.sh engines)")
    made = []

    def make(live_restore=False, env=None, started=True):
        daemon = dockerd.Daemon(live_restore).start()
        made.append(daemon)
        daemon.import_image()
        daemon.before = daemon.traces()
        if not started:
            daemon.kill(15)
        server = ways.new_server("docker", daemon, env)
        made.append(server)
        server.start()
        return daemon, server

    yield make
    failures = []
    for one in reversed(made):
        try:
            harness.end(one) if isinstance(one, Server) else one.remove()
        except Exception as problem:  # noqa: BLE001: the others have to be ended as well
            failures.append(str(problem))
    assert not failures, failures


def said_away(answer, *words):
    """A 503 in words for the client; nothing of ours in it."""
    harness.assert_error(answer, 503)
    assert answer.headers["Retry-After"]
    assert any(word in answer.json()["detail"].lower() for word in words or ("docker",)), answer


def outcome(server, name):
    return wait_until(lambda: (found := server.get(f"/executions/{name}").json())
                      ["status"] not in ("queued", "running") and found, f"{name} has an outcome")


def serves_again(server):
    def look():
        answer = server.post({"code": "print('hello')"})
        assert answer.status in (200, 503), answer
        return answer.status == 200 and answer.json()["stdout"] == "hello\n"

    wait_until(look, lambda: f"it serves again\n{server.log()}", step_secs=0.5)


def test_one_that_does_not_come_up_leaves_nothing():
    """This suite's own daemon: of a start that fails nothing stays, neither of containerd."""
    daemon = dockerd.Daemon()
    (daemon.folder / "daemon.json").write_text("{")
    with pytest.raises(AssertionError, match="dockerd ended"):
        daemon.start()
    left = [*daemon.processes(), *daemon.mounts(), *daemon.groups(), *daemon.folder.parent.glob(daemon.name)]
    assert not left, left


def wait_none(daemon, server):
    server.wait_clean()
    dockerd.wait_quiet(daemon, daemon.before)


# ---- killed ----


@pytest.mark.every_way
@pytest.mark.parametrize("live_restore", [True, False])
def test_it_is_killed_under_load(own, live_restore):
    daemon, server = own(live_restore)
    sessions = at_once([lambda: Session(server) for _ in range(SESSIONS)], 4)
    at_once([lambda one=one, i=i: one.run(f"x = {i}") for i, one in enumerate(sessions)], 8)
    calls = [in_background(lambda one=one: one.post(SLEEP)) for one in sessions[:5]]
    names = [one.running() for one in sessions[:5]]
    daemon.kill()
    said_away(server.post({"code": "print('hello')"}))
    assert server.get("/health").status in (200, 503)
    daemon.start()
    serves_again(server)
    lived = [one for one in sessions if one.get().status == 200]
    for call, name in zip(calls, names):
        answer = call()  # its outcome, or that it goes on while nobody can look
        if answer.status == 503:
            assert f"execution {name} goes on" in answer.json()["detail"], answer
        done = outcome(server, name)
        assert answer.status == 503 or answer.json()["status"] == done["status"], answer
        wanted = ("success", None) if live_restore else ("killed", "server")
        assert (done["status"], done["killed_by"]) == wanted, (name, done)
        text = "begun\nended\n"
        assert done["stdout"] == text if live_restore else "begun\n".startswith(done["stdout"]), done
    if live_restore:
        assert len(lived) == SESSIONS
        for i, one in enumerate(sessions):
            assert one.run("x")["results"] == [{"text/plain": str(i)}]
            one.delete()
    else:
        wait_until(lambda: all(one.get().status == 404 for one in sessions),
                   lambda: f"{[one.id for one in sessions if one.get().status != 404]} have ended")
    wait_none(daemon, server)


def test_the_server_dies_while_the_daemon_is_away(own):
    """A new server finds what lives once the daemon is back."""
    daemon, server = own(live_restore=True)
    one = Session(server)
    one.run("x = 7")
    daemon.kill()
    ways.kill_program(server, "monitor")
    harness.assert_error(one.post("x"), 503)  # all that goes to a container goes by the daemon
    daemon.start()
    serves_again(server)
    assert one.run("x")["results"] == [{"text/plain": "7"}]
    one.delete()
    wait_none(daemon, server)


# ---- away ----


def test_it_is_not_there_at_the_start(own):
    daemon, server = own(started=False)
    said_away(server.post({"code": "print('hello')"}))
    said_away(server.post({}, path="/sessions"))
    engine = server.get("/api/v1/info").json()["engines"][0]
    assert engine["name"] == "docker" and engine["unavailable"], engine
    daemon.start()
    serves_again(server)
    wait_none(daemon, server)


def test_it_says_nothing_for_a_while(own):
    """A frozen daemon takes connections and does not answer: bounded waits, and no container is lost."""
    daemon, server = own()
    server.hello()
    daemon.freeze()
    try:
        for answer in at_once([lambda: server.post({"code": "print('hello')"}) for _ in range(3)]):
            said_away(answer, "in time", "too slow")  # by who gave up first
        assert server.get("/").status == 200
    finally:
        daemon.thaw()
    serves_again(server)
    wait_none(daemon, server)


# ---- behind its back ----


def test_a_container_that_an_operator_removes(own):
    daemon, server = own()
    one = Session(server)
    call = in_background(lambda: one.post(SLEEP))
    one.running()
    found = server.containers()
    assert len(found) == 1
    assert daemon.delete(found[0]["Id"]) == 204
    done = call().json()
    assert (done["status"], done["killed_by"], done["exit_code"]) == ("killed", "server", 137), done
    wait_until(lambda: one.get().status == 404, "the session has ended")
    wait_none(daemon, server)


@pytest.mark.every_way
def test_strays_are_swept_and_others_stay(own):
    """Labels are the truth: what is this instance's and no sandbox of it goes, whatever its state."""
    daemon, server = own()
    server.hello()
    instance = server.instance

    def make(name, labels, start):
        answer = daemon.request("POST", f"/containers/create?name={name}", {
            "Image": dockerd.images.NAME, "Cmd": ["sleep", "600"], "Labels": labels,
            "HostConfig": {"NetworkMode": "none"}})
        assert answer.status == 201, answer
        name = answer.json()["Id"]
        if start:
            assert daemon.request("POST", f"/containers/{name}/start").status == 204
        return name

    ours = [make(f"berth-{instance}-{name}", {"berth.instance": instance, "berth.sandbox": name}, start)
            for name, start in (("stray-made", False), ("stray-running", True))]
    foreign = [make("berth-ffffffff-theirs", {"berth.instance": "ffffffff",
                                              "berth.sandbox": "theirs"}, True),
               make("others", {}, False)]
    ways.kill_program(server, "berth-docker")
    wait_until(lambda: not server.containers(), lambda: f"{ours} go\n{server.log()}")
    there = {one["Id"] for one in daemon.containers()}
    assert set(foreign) <= there
    for name in foreign:
        daemon.delete(name)
    wait_none(daemon, server)


def test_deaths_while_containers_are_made(own):
    """The engine is killed again and again under creations: each client has an honest answer, and no
    container stays."""
    daemon, server = own()
    def made():
        return {one["Id"] for one in server.containers()}

    for _ in range(3):
        before = made()
        calls = [in_background(lambda: server.post({"code": "print('hello')"})) for _ in range(4)]
        wait_until(lambda: made() - before, "one is being made")  # noqa: B023
        ways.kill_program(server, "berth-docker")
        for call in calls:
            answer = call()
            if answer.status != 200:
                harness.assert_error(answer, 503)
            else:
                done = answer.json()
                assert (done["stdout"], done["killed_by"]) in (("hello\n", None), ("", "server")), done
    serves_again(server)
    wait_none(daemon, server)


# ---- images ----


def test_an_image_that_can_not_be_had(own):
    _, server = own(env={"DOCKER_BASE_IMAGE": "registry.invalid/none:1"})
    answer = server.post({"code": "print('hello')"})
    assert answer.status in (400, 503), answer
    assert "registry.invalid/none:1" in answer.json()["detail"], answer


def test_a_full_disk_is_said(own):
    """Docker can make no container: 503 in words, and it goes on once there is room."""
    daemon, server = own()
    server.hello()
    upper = dockerd.subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "berth-full",
                                    f"{daemon.folder}/data/containers"], check=False)
    assert upper.returncode == 0
    try:
        answer = server.post({"code": "print('hello')"})
        said_away(answer)
    finally:
        dockerd.subprocess.run(["umount", f"{daemon.folder}/data/containers"], check=True)
    serves_again(server)
    wait_none(daemon, server)


def test_a_name_means_another_image(own):
    """What stands ready of the image that had the name goes, without a request; it has no other age."""
    daemon, server = own(env={"BERTH_POOL_MIN": "2", "BERTH_POOL_MAX": "4"})
    name = server.get("/api/v1/info").json()["engines"][0]["images"][0]

    def ready():
        wait_until(lambda: server.metric("berth_pool_ready") >= 2, "two stand ready")
        return {one["Id"] for one in daemon.containers()}

    before = ready()
    repository, _, tag = name.rpartition(":")
    answer = daemon.request("POST", f"/commit?container={min(before)}&repo={repository}&tag={tag}"
                                    "&pause=false")
    assert answer.status == 201, answer.status
    wait_until(lambda: not before & ready(), "all are new")
    assert server.execute("print('hello')")["stdout"] == "hello\n"
