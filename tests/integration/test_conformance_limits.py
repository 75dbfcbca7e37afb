"""What every engine says that it can do, and does: each capability is tried where it is there, and
refused in words where it is not. The fake engine's scripts take nothing of a host, so of the limits it
only shows the refusals (BERTH_FAKE_LACKS)."""
import json
import re
import shutil

import pytest

import harness
import internet
import netrig
import pyindex
import ways
from harness import assert_error
from sessions import Session

WORDS = {"memory", "cpu", "pids", "storage", "isolated", "idmap", "stop", "freeze", "snapshot",
         "stats", "disk", "container", "private_ids", "limit", "zygote", "layers", "gpu", "full"}
UP = "up.example.net"
SPARE = 3  # a container's limit is for init and its helpers as well
LIMITS = {"ram": "memory", "cpu": "cpu", "pids": "pids", "storage": "storage"}  # name: capability
FULL = {"BERTH_NETWORK_MODES": "none,egress,full", "BERTH_FULL_DNS": internet.DNS}
TURN_NS = 10  # of the processor, at least, that a turn of a loop in Python costs


HELLO = ("print('hello')", "out hello")


def both(subject, **fields):
    """What /execute and /sessions answer to the same wish."""
    hello = subject.say(HELLO)
    made = subject.server.post(fields, path="/sessions")
    if made.status == 200:
        subject.server.request("DELETE", f"/sessions/{made.json()['session_id']}")
    return subject.server.post({"code": hello, **fields}), made


@pytest.fixture
def upstream():
    one = netrig.Upstream()
    yield one
    one.close()


def refused(subject, *words, **fields):
    for answer in both(subject, **fields):
        assert_error(answer, 400, *words)


@pytest.mark.every_way
def test_capabilities_are_known_words(subject):
    assert subject.capabilities <= WORDS
    for runtime in subject.info().get("runtimes") or []:
        assert set(runtime["capabilities"]) | set(runtime["missing"]) == WORDS, runtime
        assert not set(runtime["capabilities"]) & set(runtime["missing"]), runtime


@pytest.mark.every_way
def test_what_is_not_enforced_is_named(subject):
    """By the engine, of its first runtime: what that can't hold, and nothing else."""
    info = subject.info()
    lacking = {name for name, word in LIMITS.items() if word not in info["capabilities"]}
    assert set(info["not_enforced"]) == lacking, info
    assert bool(info["missing"]) >= bool(lacking), "it says why"


@pytest.mark.every_way
@pytest.mark.parametrize("field,word,value,number", [
    ("ram", "memory", "128MiB", 128 << 20), ("cpu", "cpu", "0.5", 0.5), ("storage", "storage", "32MiB", 32 << 20),
    ("gpu", "gpu", 1, 1)])
def test_a_limit_is_taken_or_refused(subject, field, word, value, number):
    """That it holds is for the tests of each: test_oom, and below."""
    if not subject.can(word):
        refused(subject, field, resources={field: value})
        return
    executed, made = both(subject, resources={field: value})
    if word == "gpu" and executed.status == 503:
        assert_error(executed, 503)  # all are taken
        return
    assert (executed.status, executed.json()["stdout"]) == (200, "hello\n"), executed
    assert (made.status, made.json()["resources"][field]) == (200, number), made


@pytest.mark.every_way
@pytest.mark.not_on("fake")  # a script has no processes
def test_the_process_limit(subject):
    code = ("import os, time\ncount = 0\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(600)\n"
            "        count += 1\nexcept OSError as e: print(e.errno, count, flush=True)\nos._exit(0)")
    if not subject.can("pids"):  # a fork bomb ends at the timeout, and does the host nothing
        done = subject.server.execute("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
                                      timeout=2)
        assert done["killed_by"] in ("timeout", "oom"), done
        return
    fields = {"resources": {"ram": "1GiB"}} if subject.runtime == "runsc" else {}  # 4 MB for each python
    done = subject.server.execute(code, **fields)
    number, count = done["stdout"].split()
    assert number == "11" and "pids" in done["limits_hit"], done
    assert int(count) <= 128 + SPARE, done


@pytest.mark.every_way
@pytest.mark.not_on("fake")  # a script writes no files
def test_the_storage_limit(subject):
    code = ("f = open('/workspace/f', 'wb', 0)\ntry:\n    for _ in range(64): f.write(b'x' * (1 << 20))\n"
            "except OSError as e: print(e.errno)\nelse: print('all of it')")
    fields = {"resources": {"ram": "256MiB", "storage": "16MiB"}} if subject.can("storage") else {}
    done = subject.server.execute(code, **fields)
    if subject.can("storage"):
        assert (done["stdout"], done["limits_hit"]) == ("28\n", ["disk"]), done
    else:
        assert done["stdout"] == "all of it\n", done


@pytest.mark.every_way
@pytest.mark.not_on("fake")  # a script takes no time of a processor
def test_the_processor_limit(subject):
    """Half a core, by the time that the kernel charges to the sandbox's group: under gVisor the code's own
    clocks count what they like."""
    assert subject.can("cpu"), "each way of running enforces it where groups are to be had"
    one = Session(subject.server, resources={"cpu": "0.5"})
    try:
        used, done = busy(subject.server, one)
    finally:
        one.delete()
    turns, seconds = done["stdout"].split()
    assert int(turns) * TURN_NS / 1e9 < used < 0.75 * float(seconds), (used, done)


def busy(server, one):
    """The seconds of the processor that two seconds of a loop took, and the loop's own words: how often it
    went round, and for how long."""
    one.run("import time")
    sandbox = next(iter(server.inits()))
    before = processor_ns(server, sandbox)
    done = one.run("turns, begun = 0, time.monotonic()\nend = begun + 2\n"
                   "while time.monotonic() < end: turns += 1\nprint(turns, time.monotonic() - begun)")
    return (processor_ns(server, sandbox) - before) / 1e9, done


def processor_ns(server, sandbox_id):
    """What the kernel charged to the groups of a sandbox."""
    folders = server.groups_of(sandbox_id) + [base / sandbox_id for base in
                                              harness.cgroup_bases(server.instance)]
    for folder in folders:
        if v1 := harness.read(folder / "cpuacct.usage"):
            return int(v1)
        if found := re.search(r"usage_usec (\d+)", harness.read(folder / "cpu.stat")):
            return int(found[1]) * 1000
    raise AssertionError(f"no group of {sandbox_id} counts time: {folders}")


@pytest.mark.not_on("fake")  # a script opens no files
def test_the_limit_of_open_files(subject):
    code = ("import os\nheld = []\ntry:\n    while True: held.append(os.open('/dev/null', 0))\n"
            "except OSError as e:\n    count = len(held)\n    for fd in held: os.close(fd)\n"
            "    print(e.errno, count)")
    number, count = subject.server.execute(code)["stdout"].split()
    assert number == "24" and int(count) <= 1024


@pytest.mark.every_way
def test_profiles(subject):
    if not subject.can("container"):
        refused(subject, "profile", profile="container")
        return
    executed, made = both(subject, profile="container")
    assert (executed.status, executed.json()["stdout"]) == (200, "hello\n"), executed
    assert (made.status, made.json()["profile"]) == (200, "container"), made
    if not subject.fake:
        done = subject.server.execute("import os; os.chown('/tmp', 1234, 0); print(os.getuid())",
                                      profile="container")
        assert done["stdout"] == "0\n", done


@pytest.mark.every_way
@pytest.mark.not_on("fake")  # nobody runs there
def test_who_the_code_is(subject):
    code = ("import os\nprint(os.getuid(), os.getgid(), os.getpid() != 1)\n"
            "lines = open('/proc/self/status').read()\nprint('CapEff:\\t0000000000000000' in lines)\n"
            "open('/workspace/f', 'w').close(); print(os.access('/usr', os.W_OK))")
    assert subject.server.execute(code)["stdout"] == "1000 1000 True\nTrue\nFalse\n"


@pytest.mark.every_way
def test_libraries(subject, make_subject):
    """Installed from an index on this host, by the installer in the sandbox's image."""
    if not subject.can("layers"):
        refused(subject, "libraries", libraries=["numpy"])
        return
    if subject.fake:  # whose programs know the word "version", and whose layers are names
        own = make_subject()
        assert own.run(HELLO, libraries=["version"])["stdout"] == "hello\n"
        listed = own.server.get("/api/v1/layers").json()["layers"]
        assert [one["libraries"] for one in listed] == [["version"]], listed
        return
    index = pyindex.Index()
    try:
        index.add(pyindex.wheel("alpha", {"alpha.py": "WORD = 'alpha'\n"}))
        own = make_subject(index.settings(), {pyindex.NAME: "127.0.0.1"})
        code = "import alpha; print(alpha.WORD)"
        for _ in range(2):
            done = own.server.execute(code, libraries=["alpha"])
            assert done["stdout"] == "alpha\n", (done, own.server.log())
        assert index.downloads("alpha") == 1
        assert own.server.execute(code)["exit_code"] == 1
        one = Session(own.server, libraries=["alpha"])
        assert one.run(code)["stdout"] == "alpha\n"
        one.delete()
    finally:
        index.close()


@pytest.mark.every_way
def test_unknown_images_are_refused(subject):
    refused(subject, "image", image="no-such-image")


# ---- network ----


@pytest.mark.every_way
@pytest.mark.not_on("fake")  # a script has no network
def test_network_none(subject):
    code = ("import socket\nprint([name for _, name in socket.if_nameindex()])\n"
            "try: socket.create_connection(('192.0.2.1', 80), 3)\nexcept OSError as e: print(type(e).__name__)")
    names, problem = subject.server.execute(code)["stdout"].splitlines()
    assert names == "['lo']" and problem == "OSError"


@pytest.mark.every_way
def test_network_full(subject, make_subject):
    """The operator offers it; the way has it or says that it has not."""
    missing = [name for name in ("ip", "nft") if not shutil.which(name)]
    if missing:
        pytest.skip(f"there is no {missing}")
    refused(subject, "BERTH_NETWORK_MODES", network="full")
    with internet.internet():
        own = make_subject(FULL)
        if not own.can("full"):
            refused(own, "full", own.engine, network="full")
        else:
            code = (f"import socket\nwith socket.create_connection(('{internet.PUBLIC}', {internet.PORT}), 20) "
                    "as one: print(one.recv(100).decode())")
            assert own.server.execute(code, network="full")["stdout"] == f"hello {internet.HOST}\n"
            assert own.server.execute(code)["exit_code"] == 1
        own.server.stop()


@pytest.mark.every_way
@pytest.mark.not_on("fake")  # a script has no network
def test_network_egress(make_subject, upstream):
    """One name is let through, others are refused with a reason; a session's can be changed."""
    subject = make_subject({"BERTH_EGRESS_ALLOW": f"{UP}:{upstream.port}", "BERTH_EGRESS_EXCEPT": "127.0.0.1"},
                           {UP: "127.0.0.1"})
    target = f"http://{UP}:{upstream.port}"
    ask = netrig.ASK + f"\nprint(*ask('{target}/one'))\nprint(ask('http://other.example.net/')[0])\n"
    done = subject.server.execute(ask, network="egress")
    assert done["stdout"] == "200 upstream /one\n403\n", (done, subject.server.log())
    large = netrig.ASK + f"\nprint(len(ask('{target}/bytes/3000000')[1]))\n"
    assert subject.server.execute(large, network="egress")["stdout"] == "3000000\n"
    one = Session(subject.server)
    assert one.run(netrig.ASK + f"print(ask('{target}/two')[0])")["stdout"] == "0\n"
    answer = subject.server.request("PUT", one.path + "/network", json.dumps({"network": "egress"}),
                                    {"Content-Type": "application/json"})
    assert answer.status == 200, answer
    again = one.run(f"import os\nos.environ['http_proxy'] = 'http://127.0.0.1:3128'\n"
                    f"print(ask('{target}/two')[0])")
    assert again["stdout"] == "200\n", again
    one.delete()
    assert "/two" in upstream.asked


# ---- what a fake host lacks ----


@pytest.mark.parametrize("word,fields,names", [
    ("memory", {"resources": {"ram": "64MiB"}}, "ram"),
    ("cpu", {"resources": {"cpu": "0.5"}}, "cpu"),
    ("storage disk", {"resources": {"storage": "8MiB"}}, "storage"),
    ("container", {"profile": "container"}, "profile"),
    ("layers", {"libraries": ["numpy"]}, "libraries"),
    ("full", {"network": "full"}, "full"),
    ("gpu", {"resources": {"gpu": 1}}, "gpu")])
def test_what_a_host_lacks_is_refused(make_server, word, fields, names):
    server = make_server({**ways.FAKE, "BERTH_FAKE_LACKS": word})
    for path in ("/execute", "/sessions"):
        code = {"code": "out hello"} if path == "/execute" else {}
        assert_error(server.post({**code, **fields}, path=path), 400, names)
    assert server.execute("out hello")["stdout"] == "hello\n"
