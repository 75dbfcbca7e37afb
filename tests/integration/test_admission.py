"""What a request may ask for, and what is reserved for it, on hosts that the fake engine plays:
with and without disks, profiles, images and limits that can be enforced."""
import harness
import pytest

from harness import assert_error, at_once, wait_until

FAKE = {"BERTH_ENGINE": "fake", "BERTH_TESTING": "1"}
MIB = 1 << 20
GIB = 1 << 30


def code(text="out hello", **more):
    return {"code": text, **more}


def fake(make_server, **env):
    return make_server({**FAKE, **env})


def engine_of(server):
    return server.get("/api/v1/info").json()["engines"][0]


@pytest.fixture(scope="module")
def plain():
    """A host with all that an engine can have."""
    from harness import Server
    one = Server(FAKE).start()
    yield one
    harness.end(one)


def test_info_says_what_there_is(plain):
    info = plain.get("/api/v1/info").json()
    engine = info["engines"][0]
    assert engine["images"] == ["host", "debian"]
    assert engine["profiles"] == ["strict", "container"]
    assert (engine["not_enforced"], engine["missing"]) == ([], None)
    assert engine["limits"]["disk_bytes"] == 64 * GIB
    assert {"disk", "container", "memory", "stop"} <= set(engine["capabilities"])
    capacity = info["capacity"]
    assert capacity["sandboxes_max"] == 512
    assert capacity["reserve_min_bytes"] == 16 * MIB
    memory = capacity["memory"]
    assert (memory["budget_bytes"], memory["overcommit"]) == (8 * GIB // 5 * 4, 16)
    assert memory["free_bytes"] + memory["reserved_bytes"] == memory["budget_bytes"]
    assert (capacity["disk"]["budget_bytes"], capacity["disk"]["overcommit"]) == (64 * GIB // 5 * 4,
                                                                                 4)


def test_health_is_short(plain):
    """It is open to everybody: what can be run here is not in it."""
    engine = plain.get("/health").json()["engines"][0]
    assert engine["status"] == "ok"
    assert not {"images", "profiles", "missing", "not_enforced"} & set(engine)


@pytest.mark.parametrize("asked", [{}, {"profile": "strict"}, {"profile": "container"},
                                   {"image": "host"}, {"image": "debian", "profile": "container"},
                                   {"resources": {"storage": "8GiB"}},
                                   {"resources": {"ram": "16MiB", "storage": "1GiB"}}])
def test_what_is_offered(plain, asked):
    done = plain.execute("out hello", **asked)
    assert (done["status"], done["stdout"]) == ("success", "hello\n")


@pytest.mark.parametrize("asked, words", [
    ({"profile": "root"}, ["profile", "strict", "container", "root"]),
    ({"image": "debian:12"}, ["image", "debian:12", "host debian"]),
    ({"image": ""}, ["image"]),
    ({"resources": {"storage": "65GiB"}}, ["resources.storage", str(65 * GIB), str(64 * GIB)]),
    ({"resources": {"ram": "9GiB"}}, ["resources.ram", str(9 * GIB), str(8 * GIB)]),
    ({"resources": {"cpu": 5}}, ["resources.cpu", "5000", "4000"]),
    ({"resources": {"cpu": 0.001}}, ["resources.cpu", "10"]),
    ({"resources": {"storage": 1}}, ["resources.storage", "too few"]),
])
def test_what_is_not(plain, asked, words):
    assert_error(plain.post(code(**asked)), 400, *words)
    stream = plain.stream("out hello", **asked)
    assert stream.status == 400
    stream.close()


def test_a_host_without_disks_and_profiles(make_server):
    server = fake(make_server, BERTH_FAKE_LACKS="disk container")
    engine = engine_of(server)
    assert engine["profiles"] == ["strict"]
    assert engine["limits"]["disk_bytes"] == 0
    assert "disk container" in engine["missing"]
    assert_error(server.post(code(profile="container")), 400, "profile", "container",
                 "disk container")
    assert_error(server.post(code(resources={"ram": "64MiB", "storage": "33MiB"})), 400,
                 "resources.storage", str(33 * MIB), str(64 * MIB), str(32 * MIB), str(66 * MIB))
    assert_error(server.post(code(resources={"storage": "5GiB"})), 400, "none on disk",
                 "disk container")
    assert server.execute("out hello", resources={"ram": "66MiB", "storage": "33MiB"})["stdout"]


@pytest.mark.parametrize("lacks, field, value", [("memory", "ram", "64MiB"), ("cpu", "cpu", 1),
                                                 ("storage", "storage", "8MiB")])
def test_a_limit_that_nobody_would_enforce(make_server, lacks, field, value):
    server = fake(make_server, BERTH_FAKE_LACKS=lacks)
    assert_error(server.post(code(resources={field: value})), 400,
                 f"resources.{field}: this host can't enforce it")
    assert server.execute("out hello")["stdout"] == "hello\n"
    assert engine_of(server)["not_enforced"] == [field]


def test_pids_are_listed(make_server):
    assert engine_of(fake(make_server, BERTH_FAKE_LACKS="pids"))["not_enforced"] == ["pids"]


def test_the_engines_own_words(make_server):
    server = fake(make_server, BERTH_FAKE_FAULT="unpacking:1")
    answer = server.post(code())
    assert_error(answer, 503, "the image is being unpacked")
    assert answer.headers["Retry-After"] == "7"
    assert server.execute("out hello")["stdout"] == "hello\n"
    server = fake(make_server, BERTH_FAKE_FAULT="create-refused:1")
    assert_error(server.post(code()), 400, "resources.pids: injected")


def test_more_than_the_whole_budget(make_server):
    server = fake(make_server, BERTH_MEMORY="128MiB", BERTH_MEMORY_OVERCOMMIT="2",
                  BERTH_DISK="1GiB", BERTH_DISK_OVERCOMMIT="1")
    assert_error(server.post(code()), 400, "resources.ram", str(512 * MIB), str(256 * MIB),
                 str(128 * MIB))
    ram = {"ram": "256MiB"}
    assert server.execute("out hello", resources=ram)["stdout"] == "hello\n"
    assert_error(server.post(code(resources={**ram, "storage": "2GiB"})), 400,
                 "resources.storage", str(2 * GIB), str(1 * GIB))
    assert server.execute("out hello", resources={**ram, "storage": "1GiB"})["stdout"] == "hello\n"


def test_a_full_budget_is_503_with_the_figures(make_server):
    server = fake(make_server, BERTH_MEMORY="64MiB", BERTH_MEMORY_OVERCOMMIT="8", BERTH_QUEUE="0")
    stream = server.stream("out on\nsleep 600000")
    assert [next(stream)[0] for _ in range(2)] == ["started", "stdout"]
    memory = server.get("/api/v1/info").json()["capacity"]["memory"]
    assert (memory["reserved_bytes"], memory["free_bytes"]) == (64 * MIB, 0)
    assert server.metric("berth_memory_reserved_bytes") == 64 * MIB
    assert server.metric("berth_memory_budget_bytes") == 64 * MIB
    answer = server.post(code(resources={"ram": "16MiB"}))
    assert_error(answer, 503, "no capacity", str(16 * MIB), f"{64 * MIB} of {64 * MIB}")
    assert int(answer.headers["Retry-After"]) >= 1
    stream.close()
    wait_until(lambda: server.metric("berth_memory_reserved_bytes") == 0, "all is given back")
    assert server.execute("out hello")["stdout"] == "hello\n"


def test_many_share_a_small_budget(make_server):
    """Three at a time fit; all get their turn, and all of the budget comes back."""
    server = fake(make_server, BERTH_MEMORY="96MiB", BERTH_MEMORY_OVERCOMMIT="16")
    calls = [lambda number=number: (number, server.post(code(f"sleep 20\nout {number}")))
             for number in range(40)]
    for number, answer in at_once(calls):
        assert answer.status == 200, answer
        assert answer.json()["stdout"] == f"{number}\n"
    wait_until(lambda: server.metric("berth_memory_reserved_bytes") == 0, "all is given back")
    assert server.metric("berth_sandboxes") == 0
