"""What code with network "egress" may not reach, in every spelling: this host, its networks, the
server. The operator of these tests allows all names, and even names the addresses: that they are
refused is for what they are. Nothing may arrive at the targets, whatever the answer says."""
import os
import pwd
import socket

import pytest

import netrig
import harness
from sessions import Session

# Names of a public domain that somebody made resolve to what is not public.
PRIVATE = {
    "loopback.example.com": "127.0.0.1",
    "loopback-2.example.com": "127.8.9.10",
    "any.example.com": "0.0.0.0",
    "ten.example.com": "10.0.0.1",
    "home.example.com": "192.168.1.1",
    "seventeen.example.com": "172.16.0.1",
    "link-local.example.com": "169.254.1.1",
    "metadata.example.com": "169.254.169.254",
    "cgnat.example.com": "100.64.0.1",
    "multicast.example.com": "224.0.0.1",
    "broadcast.example.com": "255.255.255.255",
    "documentation.example.com": "198.51.100.7",
    "loopback6.example.com": "::1",
    "any6.example.com": "::",
    "mapped.example.com": "::ffff:127.0.0.1",
    "compatible.example.com": "::127.0.0.1",
    "unique-local.example.com": "fd00::1",
    "link-local6.example.com": "fe80::1",
    "nat64.example.com": "64:ff9b::7f00:1",
    "six-to-four.example.com": "2002:7f00:1::1",
    "teredo.example.com": "2001:0:7f00:1::1",
}

# Spellings of loopback, of the metadata service, of private networks.
LITERALS = ["127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1",
            "017700000001", "127.0.0.1.", "0", "0.0.0.0", "localhost", "localhost.", "LOCALHOST",
            "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
            "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[::1%25lo]", "[fe80::1]",
            "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
            "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "metadata.google.internal",
            "10.0.0.1", "192.168.0.1", "172.17.0.1", "100.64.0.1", "[fd00::1]", "[ff02::1]"]


def own_addresses():
    """The host's own, but loopback."""
    found = {"127.0.1.1"}
    for target in ("203.0.113.1", "192.0.2.1"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            try:
                one.connect((target, 9))  # sends nothing
                found.add(one.getsockname()[0])
            except OSError:
                pass
    return sorted(found - {"0.0.0.0"})


@pytest.fixture(scope="module")
def targets():
    """Servers on the host's loopback: on every address of both families."""
    found = [netrig.Upstream("0.0.0.0")]
    if socket.has_ipv6:
        try:
            found.append(netrig.Upstream("::", socket.AF_INET6))
        except OSError:
            pass  # a host without IPv6
    yield found
    for one in found:
        one.close()


@pytest.fixture(scope="module")
def hostile(targets):
    ports = [one.port for one in targets]
    allow = ["*"] + [f"*:{port}" for port in ports]
    literal = ["127.0.0.1", "169.254.169.254", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
    allow += [f"{host}:{port}" for host in [*literal, *own_addresses()] for port in ports]
    one = netrig.NamedServer({**PRIVATE, "public.example.com": "198.51.100.8"},
                             {"BERTH_EGRESS_ALLOW": " ".join(allow)}).start()
    yield one
    harness.end(one)


@pytest.fixture(scope="module")
def attacker(hostile):
    session = Session(hostile, network="egress")
    session.run(ATTACK)
    yield session
    session.delete()


# The proxy asked by hand, so that no library of the code changes a spelling.
ATTACK = """
import socket
def proxy(request):
    with socket.create_connection(("127.0.0.1", 3128), 30) as sock:
        sock.sendall(request.encode())
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
            if b"\\r\\n\\r\\n" in answer and answer.startswith(b"HTTP/1.1 200"):
                break
    return answer.decode(errors="replace")
def status(answer):
    return answer.split(" ", 2)[1] if answer.startswith("HTTP/") else repr(answer[:80])
def tries(target):
    yield f"CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n"
    yield f"GET http://{target}/arrived HTTP/1.1\\r\\nHost: {target}\\r\\nConnection: close\\r\\n\\r\\n"
    yield f"GET http://{target}/arrived HTTP/1.1\\r\\nHost: public.example.com\\r\\nConnection: close\\r\\n\\r\\n"
"""


def attack(session, names, port):
    """{name: statuses}."""
    done = session.run(f"for name in {names!r}:\n"
                       f"    print(name, *[status(proxy(one)) for one in tries(f'{{name}}:{port}')])",
                       timeout=200)
    assert done["status"] == "success", done
    return {line.split(" ", 1)[0]: line.split(" ")[1:] for line in done["stdout"].splitlines()}


def assert_stopped(found, targets):
    for name, statuses in found.items():
        assert statuses and all(one in ("400", "403", "502") for one in statuses), (name, statuses)
        assert "200" not in statuses, (name, statuses)
    arrived = [path for target in targets for path in target.asked]
    assert not arrived, arrived


def test_the_targets_are_there(targets):
    """Else nothing below says anything."""
    for one, host in zip(targets, ("127.0.0.1", "::1")):
        with socket.create_connection((host, one.port), 10) as sock:
            sock.sendall(b"GET /self HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"200" in sock.recv(1000)
        assert one.asked.pop() == "/self"


def test_names_that_resolve_to_what_is_not_public(attacker, targets):
    for target in targets:
        assert_stopped(attack(attacker, list(PRIVATE), target.port), targets)


def test_addresses_in_every_spelling(attacker, targets):
    for target in targets:
        assert_stopped(attack(attacker, LITERALS, target.port), targets)


def test_the_host_by_its_own_addresses(attacker, targets):
    found = attack(attacker, own_addresses() + [socket.gethostname()], targets[0].port)
    assert_stopped(found, targets)


def test_the_server_itself(hostile, attacker):
    before = hostile.metric("berth_http_connections_total")
    names = ["127.0.0.1", "localhost", "loopback.example.com", "[::1]", *own_addresses()]
    found = attack(attacker, names, hostile.port)
    assert_stopped(found, [])
    # One connection for the attack itself, and one for each question about it.
    assert hostile.metric("berth_http_connections_total") <= before + 3


def test_a_refusal_says_why(hostile, attacker):
    session = Session(hostile, network={"mode": "egress", "allow": ["public.example.com"]})
    session.run(ATTACK)
    done = session.run("print(proxy('CONNECT elsewhere.example.org:443 HTTP/1.1\\r\\n"
                       "Host: elsewhere.example.org\\r\\n\\r\\n'))")
    text = done["stdout"]
    assert text.startswith("HTTP/1.1 403") and "elsewhere.example.org" in text, text
    assert "network" in text or "allow" in text, text
    session.delete()
    done = attacker.run("print(proxy('CONNECT ten.example.com:443 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'))")
    assert done["stdout"].startswith("HTTP/1.1 403") and "ten.example.com" in done["stdout"], done


SMUGGLE = [
    "GET http://public.example.com@127.0.0.1:{port}/arrived HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET http://127.0.0.1:{port}\\@public.example.com/arrived HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET http://127.0.0.1:{port}#@public.example.com/arrived HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET http://127.0.0.1%00.example.com:{port}/arrived HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET http://①②⑦.0.0.1:{port}/arrived HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /arrived HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    "GET ftp://127.0.0.1:{port}/arrived HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT 127.0.0.1:{port}@public.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT public.example.com:443\t127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT unix:/run/docker.sock HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT 127.0.0.1:{port} HTTP/1.1\nHost: x\n\n",
]


def test_odd_requests(attacker, targets):
    port = targets[0].port
    done = attacker.run(f"for one in {[one.format(port=port) for one in SMUGGLE]!r}:\n"
                        "    print(status(proxy(one)))", timeout=200)
    assert done["status"] == "success", done
    lines = done["stdout"].splitlines()
    assert len(lines) == len(SMUGGLE) and not any(line.startswith("200") for line in lines), lines
    assert not targets[0].asked, targets[0].asked
    assert "root:" not in done["stdout"]


def test_egress_has_no_rights(hostile):
    """A user without privilege; it can't read the server's books or the engine's socket."""
    pid = hostile.child("berth-egress")
    status = harness.snapshot_tool.status_of(str(pid))
    assert int(status["CapEff"], 16) == 0 and int(status["CapPrm"], 16) == 0, status
    assert status["NoNewPrivs"] == "1", status
    uids = set(map(int, status["Uid"].split()))
    assert 0 not in uids and os.geteuid() not in uids, status
    server = harness.snapshot_tool.status_of(str(hostile.child("berth-server")))
    shared = uids & set(map(int, server["Uid"].split()))
    assert not shared or pwd.getpwnam("berth").pw_uid in shared, (status["Uid"], server["Uid"])


def test_it_is_in_the_log(hostile, attacker):
    attacker.run("proxy('CONNECT logged.example.org:22 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')")
    harness.wait_until(lambda: "logged.example.org" in hostile.log(), "the log tells of it")
    line = [line for line in hostile.log().splitlines() if "logged.example.org" in line][-1]
    assert "CONNECT" in line and "22" in line, line


def test_a_forged_egress(hostile):
    """Code can't say that it is egress: init's socket is not inside, and nobody listens but the proxy."""
    done = hostile.execute("import os, socket\n"
                           "print(sorted(os.listdir('/run')) if os.path.isdir('/run') else [])\n"
                           "s = socket.socket()\n"
                           "try: s.bind(('127.0.0.1', 3128)); s.listen(); print('taken')\n"
                           "except OSError as problem: print(problem.errno)", network="egress")
    assert "taken" not in done["stdout"], done
