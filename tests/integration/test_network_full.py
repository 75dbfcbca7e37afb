"""Network "full" through the real engine: what a sandbox reaches, what it does not, how it comes and goes,
and what is left of it. The host is a network namespace of this module's own (internet.py)."""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess

import pytest

import faults
import harness
import internet
from engine import Engine
from harness import assert_error, wait_until
from sessions import Session

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs the host's root"),
              pytest.mark.skipif(not shutil.which("nft") or not shutil.which("ip"),
                                 reason="needs nft and ip (packages nftables, iproute2)")]

SETTINGS = {"BERTH_NETWORK_MODES": "none,egress,full", "BERTH_FULL_DNS": internet.DNS, "BERTH_TESTING": "1",
            "BERTH_SWEEP_MS": "300", "BERTH_POOL_MAX": "2"}

TRY = """
import socket
def tcp(address, port=%d, timeout=3):
    try:
        with socket.create_connection((address, port), timeout) as one: return one.recv(100).decode()
    except OSError as problem: return type(problem).__name__ + " " + str(problem.errno)
def udp(address, port=%d):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(1.5)
        try:
            one.sendto(b"x", (address, port)); return one.recv(100).decode()
        except OSError as problem: return type(problem).__name__ + " " + str(problem.errno)
""" % (internet.PORT, internet.PORT)

HELLO = f"hello {internet.HOST}"


@pytest.fixture(scope="module", autouse=True)
def host():
    with internet.internet():
        yield


@pytest.fixture(scope="module")
def full(host):
    one = harness.Server(SETTINGS).start()
    yield one
    harness.end(one)


def links():
    shown = subprocess.run(["ip", "-json", "link"], capture_output=True, check=True, timeout=20).stdout
    return sorted(link["ifname"] for link in json.loads(shown) if link["ifname"].startswith("bth"))


def tables():
    return subprocess.run(["nft", "list", "tables"], capture_output=True, check=True, timeout=20, text=True
                          ).stdout.split("\n")[:-1]


def nothing_left():
    return not links() and not tables()


def put(session, network):
    body = json.dumps({"network": network})
    return session.server.request("PUT", session.path + "/network", body, harness.JSON_TYPE)


def run(session, code):
    return session.run(TRY + code)["stdout"].strip()


def test_the_rig_reaches_what_sandboxes_must_not():
    for address in internet.RESERVED:
        with socket.create_connection((address, internet.PORT), 5) as one:
            assert one.recv(100).startswith(b"hello"), address


def test_an_execution_reaches_the_internet(full):
    done = full.execute(TRY + f"print(tcp({internet.PUBLIC!r})); print(udp({internet.PUBLIC!r}))\n"
                        f"print(socket.gethostbyname({internet.NAME!r}))", network="full")
    assert done["stdout"].splitlines() == [HELLO, HELLO, internet.PUBLIC], (done, full.log())
    wait_until(nothing_left, "nothing left")


def test_the_capability_is_shown(full):
    assert "full" in json.dumps(full.get("/api/v1/info").json())


@pytest.mark.parametrize("profile", ["strict", "container"])
def test_reserved_addresses_are_refused(full, profile):
    targets = [*internet.RESERVED, internet.HOST, "198.19.192.1", "255.255.255.255", "224.0.0.1", "0.0.0.0"]
    done = full.execute(TRY + f"for target in {targets!r}: print(target, '|', tcp(target, timeout=1), '|', "
                        f"udp(target))\nprint(tcp({internet.PUBLIC!r}))", network="full", profile=profile,
                        timeout=120)
    lines = done["stdout"].splitlines()
    assert lines[-1] == HELLO and len(lines) == len(targets) + 1, (done, full.log())
    assert "hello" not in "".join(lines[:-1]), done


def test_the_servers_port_and_the_hosts_are_refused(full):
    """Also by the address of the way out, which is the host's own."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        done = full.execute(TRY + "gateway = open('/proc/net/route').read().split()[11 + 2]\n"
                            "way = socket.inet_ntoa(bytes.fromhex(gateway)[::-1])\n"
                            f"for target in ('127.0.0.1', {internet.HOST!r}, way):\n"
                            f"    print(target, tcp(target, {port}, 1), tcp(target, {full.port}, 1))",
                            network="full", timeout=60)
        assert len(done["stdout"].splitlines()) == 3 and "hello" not in done["stdout"], done
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_no_ipv6(full):
    done = full.execute("import socket\n"
                        "print([line.split()[-1] for line in open('/proc/net/if_inet6')])", network="full")
    assert done["stdout"].strip() in ("['lo']", "[]"), done


def test_the_code_can_change_nothing(full):
    """Also as root of the profile container: the network is of the namespace around its own."""
    done = full.execute(
        "import fcntl, socket, struct\n"
        "def attempt(what):\n"
        "    try: what(); print('done')\n"
        "    except OSError as problem: print(problem.errno)\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "attempt(lambda: fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'eth0', 0)))\n"
        "attempt(lambda: fcntl.ioctl(s, 0x8916, struct.pack('16sHH4s8x', b'eth0', 2, 0, b'\\x0a\\0\\0\\1')))\n"
        "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))\n"
        "attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))\n"
        "attempt(lambda: s.bind(('10.1.2.3', 0)))\n"
        "attempt(lambda: s.setsockopt(0, 19, 1))\n"
        "attempt(lambda: open('/proc/sys/net/ipv4/ip_nonlocal_bind', 'w').write('1'))\n", network="full",
        profile="container")
    lines = done["stdout"].splitlines()
    assert len(lines) == 7 and "done" not in lines, done


def test_root_of_the_container_can_change_nothing(full):
    done = full.execute(
        "for what in 'ip link set eth0 down' 'ip address add 10.0.0.1/8 dev eth0' 'ip route add 10.0.0.0/8 dev eth0' \\\n"
        "    'ip link add x0 type veth' 'nft flush ruleset' 'nft add table inet mine' 'sysctl -w net.ipv4.ip_forward=1' \\\n"
        "    'ping -c 1 -W 1 45.0.0.2' 'nsenter --net=/proc/1/ns/net ip link set eth0 down'; do\n"
        "  sudo -n $what >/dev/null 2>&1 && echo \"done: $what\"; done; sudo -n id -u",
        lang="bash", network="full", profile="container", timeout=60)
    assert done["stdout"] == "0\n", done


def test_a_kernel_of_a_zygote_has_it_too():
    one = harness.Server({**SETTINGS, "BERTH_ZYGOTE": "on"}).start()
    try:
        for _ in range(3):
            done = one.execute(TRY + f"print(tcp({internet.PUBLIC!r})); print(tcp('10.9.9.9', timeout=1))", network="full")
            lines = done["stdout"].splitlines()
            assert lines[0] == HELLO and "hello" not in lines[1], (done, one.log())
    finally:
        harness.end(one)
    assert nothing_left()


def test_the_engine_dies_while_it_gives(full):
    """Whether before, in the midst, or after: the next engine finds out, and nothing half-made stays."""
    for point in ("native.network", "native.network.rules", "native.network.link"):
        with faults.Fault(point) as fault:
            one = harness.Server({**SETTINGS, **fault.env, "BERTH_POOL_MAX": "0"}).start()
            try:
                answer = one.post({"code": TRY + f"print(tcp({internet.PUBLIC!r}))", "network": "full"})
                assert answer.status in (200, 500, 503), answer
                assert fault.struck(), point
                wait_until(nothing_left, "nothing left")
                done = one.execute(TRY + f"print(tcp({internet.PUBLIC!r}))", network="full")
                assert done["stdout"].strip() == HELLO, (point, done, one.log())
            finally:
                harness.end(one)
            assert nothing_left()


def test_a_server_that_ends_leaves_its_sessions_theirs():
    """And no rules where no session has it."""
    one = harness.Server(SETTINGS).start()
    one.execute("print(1)", network="full")
    one.stop()
    assert nothing_left()
    one.start()
    session = Session(one, network="full")
    one.stop()
    assert len(links()) == 1 and len(tables()) == 1
    one.start()
    assert run(session, f"print(tcp({internet.PUBLIC!r}))") == HELLO
    harness.end(one)
    wait_until(nothing_left, "nothing left")


def test_two_sandboxes_do_not_meet(full):
    one, two = (Session(full, network="full") for _ in range(2))
    run(one, "l = socket.create_server(('0.0.0.0', 4444)); u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "u.bind(('0.0.0.0', 4444)); u.settimeout(0.5); l.settimeout(0.5)")
    probe = ("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('45.0.0.2', 9))\n"
             "print(s.getsockname()[0])")
    first, second = run(one, probe), run(two, probe)
    assert first != second
    said = run(two, f"print(tcp({first!r}, 4444, 1)); print(udp({first!r}, 4444))")
    assert "hello" not in said and len(said.splitlines()) == 2
    heard = run(one, "for what in (lambda: l.accept(), lambda: u.recv(9)):\n"
                "    try: what(); print('heard')\n    except TimeoutError: print('nothing')")
    assert heard.split() == ["nothing", "nothing"]
    one.delete()
    two.delete()
    wait_until(nothing_left, "nothing left")


def test_put_gives_and_takes(full):
    session = Session(full)
    assert run(session, f"print(tcp({internet.PUBLIC!r}))") == "OSError 101"
    for _ in range(3):
        assert put(session, "full").status == 200
        assert session.get().json()["network"]["mode"] == "full"
        assert run(session, f"print(tcp({internet.PUBLIC!r}))") == HELLO
        assert run(session, f"keep = socket.create_connection(({internet.PUBLIC!r}, {internet.PORT}))\n"
                   "keep.settimeout(2); print(keep.recv(99).decode())") == HELLO
        assert put(session, "none").status == 200
        assert not links()
        assert run(session, f"print(tcp({internet.PUBLIC!r}))") == "OSError 101"
        assert "Error" in run(session, "try: keep.send(b'x'); print(keep.recv(9))\n"
                              "except OSError as problem: print(type(problem).__name__, 'Error')")
    session.delete()


def test_full_and_egress_take_turns(full):
    session = Session(full, network="egress")
    assert put(session, "full").status == 200 and links()
    assert run(session, f"print(tcp('127.0.0.1', 3128)); print(tcp({internet.PUBLIC!r}))").splitlines() == [
        "ConnectionRefusedError 111", HELLO]
    assert put(session, "egress").status == 200 and not links()
    assert run(session, f"print(tcp({internet.PUBLIC!r}))") == "OSError 101"
    session.delete()


def test_the_engine_dies(full):
    session, other = Session(full, network="full"), Session(full, network="full")
    before = links()
    os.kill(full.children()["berth-native"], signal.SIGKILL)
    assert run(session, f"print(tcp({internet.PUBLIC!r}))") == HELLO  # it needs no engine
    wait_until(lambda: full.execute("print(1)").get("stdout") == "1\n", "a new engine")
    assert links() == before and run(session, f"print(tcp({internet.PUBLIC!r}))") == HELLO
    assert put(session, "none").status == 200
    assert len(links()) == 1 and run(session, f"print(tcp({internet.PUBLIC!r}))") == "OSError 101"
    assert run(other, f"print(tcp({internet.PUBLIC!r}))") == HELLO
    session.delete()
    other.delete()
    wait_until(nothing_left, "nothing left")


@pytest.mark.parametrize("lacking", ["images", "nft"])
def test_an_engine_that_an_accident_stops_takes_no_network(tmp_path, lacking):
    """What lives is not known to it, or not how to make rules: those that stand are left."""
    images, aside = tmp_path / "images", tmp_path / "aside"
    images.mkdir()
    with Engine(SETTINGS, options=["--images", str(images)]) as engine:
        engine.create("one").channel.close()
        engine.network_full("one")
        before = links(), tables()
        assert len(before[0]) == len(before[1]) == 1
        engine.kill()
        if lacking == "images":
            images.rename(aside)
            engine.start()
            assert "images" in engine.probe()["unavailable"]
            assert engine.process.wait(20) == 0, engine.log()
            aside.rename(images)
        else:
            engine.start(hidden=[shutil.which("nft")])
            assert "nft" in engine.probe()["missing"]  # the first sweep comes before any answer
            engine.kill(signal.SIGTERM)
        assert (links(), tables()) == before, engine.log()
        engine.start()
        assert engine.inspect("one") == "running" and (links(), tables()) == before
        engine.destroy("one")
        wait_until(nothing_left, "nothing left")


def test_everything_dies_and_the_session_keeps_its_network(full):
    session = Session(full, network="full")
    full.kill()
    wait_until(lambda: not full.children(), "all programs to end")
    full.start()
    assert run(session, f"print(tcp({internet.PUBLIC!r}))") == HELLO
    assert put(session, "none").status == 200 and not links()
    session.delete()
    wait_until(nothing_left, "nothing left")


def test_a_sandbox_that_is_killed_leaves_nothing(full):
    session = Session(full, network="full")
    assert len(links()) == 1
    for pid in full.inits().values():
        os.kill(pid, signal.SIGKILL)
    wait_until(nothing_left, "nothing left")
    wait_until(lambda: session.get().status == 404, "the session's end")


def test_rules_that_somebody_empties_come_back(full):
    session = Session(full, network="full")
    subprocess.run(["nft", "flush", "ruleset"], check=True, timeout=20)
    # What is in the sandbox's own namespace holds meanwhile.
    for address in ("10.9.9.9", "169.254.169.254"):
        assert "hello" not in run(session, f"print(tcp({address!r}, timeout=1))")
    wait_until(lambda: len(tables()) == 1, "the rules")
    assert run(session, f"print(tcp({internet.PUBLIC!r}))") == HELLO
    session.delete()
    wait_until(nothing_left, "nothing left")


def inside(session, *command):
    """As the host's root in the network of the session's sandbox, which no code of a sandbox can be."""
    init, = session.server.inits().values()
    return subprocess.run(["nsenter", f"--net=/proc/{init}/ns/net", *command], check=True, timeout=20,
                          capture_output=True, text=True).stdout


def test_the_hosts_rules_do_alone():
    """Were there none inside, and could the code give itself addresses."""
    one = harness.Server({**SETTINGS, "BERTH_POOL_MAX": "0"}).start()
    try:
        session = Session(one, network="full")
        inside(session, "nft", "flush", "ruleset")
        own = run(session, "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('45.0.0.2', 9))\n"
                  "print(s.getsockname()[0])")
        way = own.rsplit(".", 1)[0] + "." + str(int(own.rsplit(".", 1)[1]) - 1)
        for address in [*internet.RESERVED, internet.HOST, way]:
            said = run(session, f"print(tcp({address!r}, timeout=0.5)); print(tcp({address!r}, {one.port}, 0.5))")
            assert "hello" not in said and "Refused" not in said and len(said.splitlines()) == 2, (address, said)
        inside(session, "ip", "address", "add", "45.0.0.77/32", "dev", "eth0")
        spoof = ("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('%s', 0)); u.settimeout(0.7)\n"
                 "u.sendto(b'x', ('45.0.0.2', 8080))\ntry: print(u.recv(99).decode())\n"
                 "except TimeoutError: print('nothing')")
        seen = pathlib.Path("/proc/sys/net/netfilter/nf_conntrack_count")
        before = int(seen.read_text(encoding="ascii"))
        assert run(session, spoof % "45.0.0.77") == "nothing"
        assert run(session, spoof % own) == HELLO
        assert int(seen.read_text(encoding="ascii")) <= before + 4
        session.delete()
    finally:
        harness.end(one)


def test_one_can_not_fill_the_hosts_table_of_connections(full):
    done = full.execute("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                        "for port in range(10000, 14000): s.sendto(b'x', ('45.0.0.2', port))\nprint('sent')",
                        network="full")
    count = int(pathlib.Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text(encoding="ascii"))
    assert done["stdout"] == "sent\n" and 900 < count < 1300, (done, count)
    other = full.execute(TRY + f"print(tcp({internet.PUBLIC!r}))", network="full")
    assert other["stdout"].strip() == HELLO, other


def test_other_tables_and_links_stay(full):
    subprocess.run(["nft", "add", "table", "inet", "others"], check=True, timeout=20)
    subprocess.run(["ip", "link", "add", "bth-other", "type", "veth", "peer", "name", "bth-peer"], check=True, timeout=20)
    full.execute("print(1)", network="full")
    wait_until(lambda: tables() == ["table inet others"], "our table to go")
    assert links() == ["bth-other", "bth-peer"]
    subprocess.run(["nft", "delete", "table", "inet", "others"], check=True, timeout=20)
    subprocess.run(["ip", "link", "delete", "bth-other"], check=True, timeout=20)


def test_what_is_not_offered_is_refused_and_taken_back():
    one = harness.Server(SETTINGS).start()
    try:
        session = Session(one, network="full")
        one.kill()
        wait_until(lambda: not one.children(), "all programs to end")
        one.env["BERTH_NETWORK_MODES"] = "none,egress"
        one.start()
        wait_until(nothing_left, "nothing left")
        assert run(session, f"print(tcp({internet.PUBLIC!r}))") == "OSError 101"
        assert_error(one.request("POST", "/execute", json.dumps({"code": "1", "network": "full"}),
                                 harness.JSON_TYPE), 400)
    finally:
        harness.end(one)


def test_a_host_that_forwards_nothing_says_so():
    setting = pathlib.Path("/proc/sys/net/ipv4/ip_forward")
    setting.write_text("0", encoding="ascii")
    try:
        one = harness.Server(SETTINGS).start()
        try:
            assert "ip_forward" in json.dumps(one.get("/api/v1/info").json())
            answer = one.request("POST", "/execute", json.dumps({"code": "1", "network": "full"}),
                                 harness.JSON_TYPE)
            assert answer.status == 400 and b"full" in answer.body
        finally:
            harness.end(one)
        assert setting.read_text(encoding="ascii").strip() == "0"
    finally:
        setting.write_text("1", encoding="ascii")
