"""Fixtures of all suites: a server for the whole session, private ones, and the checks that each of
them left nothing on the host."""
import os
import pwd
import random
import re
import signal
import time

import pytest

import dockerd
import harness
import kills
import netrig
import podman as podman_tool
import ways

TEST_SECS = 240 * harness.SLOW  # one test that lasts longer hangs
IN_VM = os.environ.get("BERTH_VM") == "1"  # make test-vm, whose packages are in scripts/test_vm.sh
# Tests of the host's service manager, which a test may not touch anywhere else.
collect_ignore = [] if IN_VM else ["vm"]
# Every language's toolchain is more than the disk of that machine is made for.
NOT_IN_VM = ["integration/test_languages.py"]
collect_ignore += NOT_IN_VM if IN_VM else []
LANGUAGES = "|".join([path.stem for path in (harness.REPO / "languages").glob("*.ini")]
                     + ["node", "npm", "node or npm", "Rscript", "R"])
# What may be skipped there: other languages, what needs a network, and parts of unit tests, which say why.
VM_SKIPS = re.compile(rf"there is no ({LANGUAGES})( here|$)|^({LANGUAGES}) is not installed|registry|"
                      "differs from this version of Python")
# Minutes of downloads from registries of other people (make test-installers).
collect_ignore += [] if os.environ.get("BERTH_INSTALLERS") == "1" else ["integration/test_library_installers.py"]
# It needs an older build beside this one (scripts/test_upgrade.sh).
collect_ignore += [] if os.environ.get("BERTH_PREVIOUS") else ["integration/test_upgrade.py"]


# What a Docker daemon goes through: of these, make test runs what is marked.
DOCKER_FILES = ("test_docker_daemon.py", "test_docker_layers.py", "test_docker_tls.py", "test_podman.py",
                "test_deploy_image.py")


def pytest_report_header():
    return [f"not run here: {name}" for name in NOT_IN_VM] if IN_VM else []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """In the machine that is made for these suites a missing program is a fault of its making."""
    outcome = yield
    report = outcome.get_result()
    if IN_VM and report.skipped and "vm" not in item.path.parts:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not VM_SKIPS.search(reason.removeprefix("Skipped: ")):
            report.outcome, report.longrepr = "failed", f"may not be skipped in this machine: {reason}"


def missing_prerequisites():
    """Why the real programs can't be tested here; a list of reasons."""
    reasons = []
    if os.geteuid() != 0:
        reasons.append("sandboxes are made as root")
    try:
        pwd.getpwnam("berth")
    except KeyError:
        reasons.append("there is no system user \"berth\"")
    return reasons


def pytest_configure(config):
    """Programs that are not there are a mistake of the caller, not a reason to skip."""
    config.addinivalue_line("markers", "every_way(*names): also on the ways that are slow (ways.py)")
    config.addinivalue_line("markers", "not_on(*names): not on these ways, with the reason beside it")
    # A shell starts what runs in the background with it ignored, and so would be what tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # timeout(1) ends a run with this one: what was started is ended as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    missing = [name for name in harness.PROGRAMS if not os.access(harness.BUILD / name, os.X_OK)]
    if missing:
        raise pytest.UsageError(f"{harness.BUILD} lacks {', '.join(missing)}: build it, or set "
                                "BERTH_BUILD to the build folder")


def pytest_collection_modifyitems(config, items):
    if not ways.everything():  # the rest of what a Docker daemon goes through is for make test-engines
        kept = [item for item in items if item.get_closest_marker("every_way")
                or item.path.name not in DOCKER_FILES]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    reasons = missing_prerequisites()
    if reasons:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="; ".join(reasons)))


def pytest_make_parametrize_id(val, argname):
    """A long text gives a test no name that can be read."""
    return argname if isinstance(val, (str, bytes)) and len(val) > 80 else None


@pytest.fixture(autouse=True)
def no_hang():
    """A test that hangs fails instead of stopping the run."""

    def expire(number, frame):
        raise TimeoutError(f"the test did not end within {TEST_SECS} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(TEST_SECS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def dice(no_hang):
    """The random numbers of a test that kills, and as much time as it may take."""
    signal.alarm(kills.SECS)
    seed = int(os.environ.get("BERTH_SEED") or random.randrange(1 << 32))
    print(f"BERTH_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def native_server():
    one = harness.Server().start()
    yield one
    harness.end(one)


@pytest.fixture(scope="session")
def server(native_server):
    """The native engine with default settings, for tests that leave it as it was."""
    return native_server


@pytest.fixture(scope="session")
def slow_bodies(server):
    """Connections whose body never gets whole, and since when: test_slow_body.py sees their end."""
    socks = [server.connect() for _ in range(3)]
    for sock in socks:
        sock.sendall(harness.head("POST", "/execute", "localhost", "Content-Type: application/json",
                                  "Content-Length: 1000") + b'{"code": "')
    yield socks, time.monotonic()
    for sock in socks:
        sock.close()


def end_all(servers):
    """Stops and checks each, the last first; fails with what was wrong with any."""
    failures = []
    for one in reversed(servers):
        try:
            harness.end(one)
        except Exception as problem:  # noqa: BLE001: the others have to be stopped as well
            failures.append(str(problem))
    assert not failures, failures


@pytest.fixture
def end_servers():
    """end_servers(server): a private server, stopped and checked at the end of the test."""
    made = []
    yield lambda one: made.append(one) or one
    end_all(made)


@pytest.fixture
def make_server(end_servers):
    """make_server(env={}, state=None, port=0): a private server, stopped and checked at the end."""

    def make(env=None, state=None, port=0, start=True):
        one = end_servers(harness.Server(env, state, port))
        return one.start() if start else one

    return make


@pytest.fixture(scope="session")
def docker():
    """A Docker daemon of the session's own, with the tests' image, for tests that leave it running."""
    missing = dockerd.missing()
    if missing:
        pytest.skip(f"there is no {', '.join(missing)} (scripts/deps.sh engines)")
    with dockerd.Daemon() as one:
        one.import_image()
        yield one


@pytest.fixture(scope="session")
def podman():
    """Podman's socket, the same."""
    missing = podman_tool.Service.missing()
    if missing:
        pytest.skip(f"there is no {', '.join(missing)} (scripts/deps.sh engines)")
    with podman_tool.Service() as one:
        one.import_image()
        yield one


def pytest_generate_tests(metafunc):
    """`way` is each of those that the test is to run on (ways.py)."""
    if "way" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("every_way")
        left_out = metafunc.definition.get_closest_marker("not_on")
        names = [name for name in ways.names_for(marked)
                 if not left_out or name not in left_out.args]
        metafunc.parametrize("way", names, scope="session")


def daemon_of(way, request):
    """The daemon that a way needs, None where it needs none; skips where a program is missing."""
    missing = ways.missing(way)
    if missing:
        pytest.skip(f"there is no {', '.join(missing)} (scripts/deps.sh engines)")
    return request.getfixturevalue(ways.DAEMONS[way]) if way in ways.DAEMONS else None


@pytest.fixture(scope="session")
def subjects(request):
    """subjects(name): a server of the session whose default is that way; started when it is needed."""
    made, servers = {}, {}

    def one(name):
        if name not in made:
            daemon = daemon_of(name, request)
            if name not in servers:  # one that is of no use is not started for each test again
                servers[name] = request.getfixturevalue("native_server") if name == "native" else \
                    ways.new_server(name, daemon)
                if name != "native":
                    servers[name].start()
            made[name] = ways.Subject(name, servers[name], daemon)
        return made[name]

    yield one
    end_all([server for name, server in servers.items() if name != "native"])


@pytest.fixture
def subject(way, subjects):
    """A way's server, free of sandboxes before and after the test."""
    one = subjects(way)
    one.wait_clean()
    yield one
    if not one.slow:
        done = one.run(("print('hello')", "out hello"))
        assert (done["stdout"], done["exit_code"]) == ("hello\n", 0), done
    one.wait_clean()


@pytest.fixture
def make_subject(way, end_servers, request, tmp_path):
    """make_subject(env={}, hosts={}): a private server whose default is this way; hosts: names that it
    knows beside the machine's own."""
    daemon = daemon_of(way, request)

    def make(env=None, hosts=None):
        server = end_servers(ways.new_server(way, daemon, env))
        if hosts:
            server.command = netrig.with_hosts(hosts, tmp_path / "hosts")
        return ways.Subject(way, server.start(), daemon)

    return make


@pytest.fixture
def clean_server(server):
    """The session's server, which has to be free of sandboxes before and after the test."""
    server.wait_clean()
    yield server
    server.hello()
    server.wait_clean()
