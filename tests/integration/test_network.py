"""The network of sandboxes through the real server: what a request may ask for, what reaches a program,
changes on a live session, deaths of egress and of the server, and registries where there are some."""
import json
import os
import signal
import subprocess
import threading

import pytest

import netrig
import harness
from harness import assert_error, at_once, wait_until
from sessions import Session, in_background
from websocket import WebSocket

UP = "up.example.net"
OTHER = "other.example.net"


@pytest.fixture(scope="module")
def upstream():
    one = netrig.Upstream()
    yield one
    one.close()


@pytest.fixture(scope="module")
def net(upstream):
    """A server whose sandboxes may reach the upstream by two names."""
    port = upstream.port
    one = netrig.NamedServer({UP: "127.0.0.1", OTHER: "127.0.0.1"},
                             {"BERTH_EGRESS_ALLOW": f"{UP}:{port} {OTHER}:{port}",
                              "BERTH_EGRESS_EXCEPT": "127.0.0.1", "BERTH_POOL_MAX": "4"}).start()
    yield one
    harness.end(one)


def url(upstream, path="/", name=UP):
    return f"http://{name}:{upstream.port}{path}"


def ask(target):
    return netrig.ASK + f"\nprint(*ask({target!r}))\n"


def put(session, network):
    body = json.dumps({"network": network})
    return session.server.request("PUT", session.path + "/network", body, harness.JSON_TYPE)


def ask_in(session, target):
    return session.run(ask(target))["stdout"]


# ---- /execute ----

def test_an_execution_gets_out(net, upstream):
    done = net.execute(ask(url(upstream, "/one")), network="egress")
    assert done["stdout"] == "200 upstream /one\n", (done, net.log())
    assert "/one" in upstream.asked


def test_none_is_the_default(net, upstream):
    for fields in ({}, {"network": "none"}, {"network": None}, {"network": {"mode": "none"}}):
        done = net.execute("import os\nprint([n for n in os.environ if 'proxy' in n.lower()])"
                           + ask(url(upstream, "/none")), **fields)
        lines = done["stdout"].splitlines()
        assert lines[0] == "[]" and lines[1].startswith("0 "), done
    assert "/none" not in upstream.asked


def test_without_the_proxy_there_is_nothing(net, upstream):
    done = net.execute("import socket\n"
                       "for target in (('127.0.0.1', %d), ('203.0.113.1', 80)):\n"
                       "    try: socket.create_connection(target, 5); print('connected')\n"
                       "    except OSError as problem: print(type(problem).__name__)\n"
                       "print([name for _, name in socket.if_nameindex()])" % upstream.port,
                       network="egress")
    assert done["stdout"].splitlines() == ["ConnectionRefusedError", "OSError", "['lo']"], done


def test_a_request_narrows(net, upstream):
    port = upstream.port
    code = ask(url(upstream, "/a")) + f"print(*ask({url(upstream, '/b', OTHER)!r}))"
    done = net.execute(code, network={"mode": "egress", "allow": [f"{OTHER}:{port}"]})
    first, second = done["stdout"].split("\n\n", 1)
    assert first.startswith("403 ") and UP in first, done
    assert second == "200 upstream /b\n", done
    done = net.execute(code, network={"mode": "egress", "allow": []})
    assert [line[:3] for line in done["stdout"].splitlines() if line[:1].isdigit()] == ["403"] * 2


@pytest.mark.parametrize("network, words", [
    ("full", ("network", "full")), ("bridge", ("network", "bridge")), (7, ("network",)),
    ({}, ("network.mode",)), ({"mode": "egress", "allow": "x"}, ("network.allow",)),
    ({"mode": "egress", "allow": [1]}, ("network.allow[0]",)),
    ({"mode": "egress", "allow": ["elsewhere.example.org"]}, ("elsewhere.example.org",)),
    ({"mode": "egress", "allow": [UP]}, (UP,)),  # ports 80 and 443 are not the operator's
    ({"mode": "egress", "allow": ["http://" + UP]}, ("network.allow",)),
    ({"mode": "none", "allow": []}, ("allow",)),
])
def test_what_is_not_offered_is_400(net, network, words):
    assert_error(net.post({"code": "pass", "network": network}), 400, *words)
    assert_error(net.post({"network": network}, path="/sessions"), 400, *words)


def test_the_operator_may_offer_nothing(make_server):
    one = make_server({"BERTH_NETWORK_MODES": "none"})
    assert_error(one.post({"code": "pass", "network": "egress"}), 400, "egress")
    assert one.get("/api/v1/info").json()["network"]["modes"] == ["none"]
    one.hello()


def test_info_and_metrics(net):
    info = net.get("/api/v1/info").json()["network"]
    assert info["modes"] == ["none", "egress"] and info["default"] == "none", info
    assert len(info["allow"]) == 2 and info["bytes_max"] > 0, info
    before = net.metric("berth_egress_requests_total")
    refused = net.metric("berth_egress_refused_total")
    net.execute(ask(f"http://{info['allow'][0]}/metrics-1") + ask("http://off.example.org/"),
                network="egress")
    assert net.metric("berth_egress_up") == 1
    assert net.metric("berth_egress_requests_total") == before + 1
    assert net.metric("berth_egress_refused_total") == refused + 1
    assert net.metric("berth_egress_received_bytes_total") > 0
    wait_until(lambda: net.metric("berth_egress_sandboxes") == 0, "they are forgotten")


def test_a_hit_of_the_pool_is_one(net, upstream):
    wait_until(lambda: net.metric("berth_pool_ready") > 0, "the pool is filled")
    hits = net.metric("berth_pool_hits_total")
    done = net.execute(ask(url(upstream, "/pooled")), network="egress")
    assert done["stdout"] == "200 upstream /pooled\n", done
    assert net.metric("berth_pool_hits_total") == hits + 1
    assert net.metric("berth_pool_discarded_total") == 0


def test_what_the_caller_sets_counts(net):
    done = net.execute("import os; print(os.environ['HTTPS_PROXY'], os.environ['HTTP_PROXY'])",
                       network="egress", env={"HTTPS_PROXY": "mine"})
    assert done["stdout"] == "mine http://127.0.0.1:3128\n", done
    session = Session(net, network="egress", env={"HTTPS_PROXY": "mine"})
    for _ in range(2):
        done = session.run("import os; print(os.environ['HTTPS_PROXY'], os.environ['HTTP_PROXY'])")
        assert done["stdout"] == "mine http://127.0.0.1:3128\n", done
        assert put(session, "egress").status == 200
    session.delete()
    session = Session(net, env={"HTTPS_PROXY": "mine"})
    assert put(session, "egress").status == 200
    done = session.run("import os; print(os.environ['HTTPS_PROXY'], os.environ['HTTP_PROXY'])")
    assert done["stdout"] == "mine http://127.0.0.1:3128\n", done
    session.delete()


def test_a_language_without_a_kernel(net):
    """Each cell is a program, with the variables that hold now."""
    code = "print defined $ENV{https_proxy} ? $ENV{https_proxy} : 'none', \"\\n\";"
    answer = net.post({"code": code, "lang": "perl", "network": "egress"})
    if answer.status == 400 and "perl" in answer.json()["detail"]:
        pytest.skip("there is no perl")
    assert answer.json()["stdout"] == "http://127.0.0.1:3128\n", answer
    session = Session(net, lang="perl")
    for mode, said in (("none", "none\n"), ("egress", "http://127.0.0.1:3128\n"), ("none", "none\n")):
        assert put(session, mode).status == 200
        assert session.run(code)["stdout"] == said
    session.delete()


@pytest.mark.parametrize("lang, code", [
    ("bash", "echo ${https_proxy:-none}"), ("ruby", "puts ENV.fetch('https_proxy', 'none')")])
def test_a_kernel_gets_them_late(net, lang, code):
    """A kernel that lives gets the variables with the first run after the change, and keeps its state."""
    answer = net.post({"lang": lang}, path="/sessions")
    if answer.status == 400 and lang in answer.json()["detail"]:
        pytest.skip(f"there is no {lang}")
    net.request("DELETE", "/sessions/" + answer.json()["session_id"])
    session = Session(net, lang=lang)
    assert session.run("x=41")["status"] == "success"
    assert session.run(code)["stdout"] == "none\n"
    assert put(session, "egress").status == 200
    assert session.run(code)["stdout"] == "http://127.0.0.1:3128\n"
    show = "echo $x" if lang == "bash" else "puts x"
    assert session.run(show)["stdout"] == "41\n"
    session.delete()
    session = Session(net, lang=lang, network="egress")
    assert session.run(code)["stdout"] == "http://127.0.0.1:3128\n"
    session.delete()


def made_of_the_pool(net, **fields):
    """A session of JavaScript, and whether its kernel waited for it."""
    hits = net.metric("berth_pool_hits_total")
    return Session(net, lang="javascript", **fields), net.metric("berth_pool_hits_total") > hits


def waited(net):
    session, pooled = made_of_the_pool(net)
    session.delete()
    return pooled


def test_fetch_in_a_kernel(net, upstream):
    """Node looks only at its start for its options and the CA bundle: a kernel that waits had none, so it
    is of no use. One that lives gets late what can be had late."""
    need("node")
    code = f"const answer = await fetch({url(upstream, '/kernel')!r}); console.log(await answer.text())"
    wait_until(lambda: waited(net), "a kernel waits")
    session, pooled = made_of_the_pool(net, network="egress")
    assert not pooled
    done = session.run(code)
    assert (done["stdout"], done["exit_code"]) == ("upstream /kernel\n", 0), done
    session.delete()
    session, _ = made_of_the_pool(net)
    assert session.run("const kept = 41")["status"] == "success"
    assert put(session, "egress").status == 200
    done = session.run(f"{code}; kept")
    assert (done["stdout"], done["results"]) == ("upstream /kernel\n", [{"text/plain": "41"}]), done
    session.delete()


def test_what_a_sandbox_moves_has_a_cap(upstream):
    one = netrig.NamedServer({UP: "127.0.0.1"}, {"BERTH_EGRESS_ALLOW": f"{UP}:{upstream.port}",
                                                 "BERTH_EGRESS_EXCEPT": "127.0.0.1",
                                                 "BERTH_EGRESS_MAX_BYTES": "1MiB"}).start()
    try:
        session = Session(one, network="egress")
        session.run(netrig.ASK)
        big = session.run(f"print(len(ask({url(upstream, '/bytes/600000')!r})[1]))")
        assert big["stdout"] == "600000\n", big
        session.run(f"ask({url(upstream, '/bytes/600000')!r})")
        done = session.run(f"print(*ask({url(upstream, '/late')!r}))")
        assert not done["stdout"].startswith("200"), done
        assert "/late" not in upstream.asked
        session.delete()
    finally:
        harness.end(one)


# ---- a session ----

def test_a_live_session_changes_its_network(net, upstream):
    session = Session(net)
    assert session.get().json()["network"] == {"mode": "none", "allow": []}
    session.run("x = 41")
    assert ask_in(session, url(upstream, "/1")).startswith("0 ")
    answer = put(session, "egress")
    assert answer.status == 200 and len(answer.json()["network"]["allow"]) == 2, answer
    assert ask_in(session, url(upstream, "/2")) == "200 upstream /2\n"
    assert ask_in(session, url(upstream, "/3", OTHER)) == "200 upstream /3\n"
    answer = put(session, {"mode": "egress", "allow": [f"{OTHER}:{upstream.port}"]})
    assert answer.json()["network"] == {"mode": "egress", "allow": [f"{OTHER}:{upstream.port}"]}
    assert ask_in(session, url(upstream, "/4")).startswith("403 ")
    assert ask_in(session, url(upstream, "/5", OTHER)) == "200 upstream /5\n"
    answer = put(session, "none")
    assert answer.json()["network"] == {"mode": "none", "allow": []}
    assert ask_in(session, url(upstream, "/6", OTHER)).startswith("0 ")
    assert put(session, "egress").status == 200
    assert ask_in(session, url(upstream, "/7")) == "200 upstream /7\n"
    assert session.run("x + 1")["results"] == [{"text/plain": "42"}]
    session.delete()


def test_a_change_ends_what_is_open(net, upstream):
    """A tunnel that was open has ended when the answer to the change is there."""
    session = Session(net, network="egress")
    session.run(f"""
import socket
sock = socket.create_connection(('127.0.0.1', 3128), 20)
sock.sendall(b'CONNECT {UP}:{upstream.port} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
print(sock.recv(1000))
sock.sendall(b'GET /tunnel HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
print(b'upstream /tunnel' in sock.recv(10000) or sock.recv(1000))
""")
    assert "/tunnel" in upstream.asked
    assert put(session, {"mode": "egress", "allow": [f"{OTHER}:{upstream.port}"]}).status == 200
    done = session.run("try:\n    sock.sendall(b'GET /after HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
                       "    print(sock.recv(1000))\nexcept OSError: print(b'')")
    assert done["stdout"] == "b''\n", done
    assert "/after" not in upstream.asked
    session.delete()


def test_a_change_while_code_runs(net, upstream):
    session = Session(net)
    answer = in_background(lambda: session.run(
        netrig.ASK + "import os, time\nos.environ['http_proxy'] = 'http://127.0.0.1:3128'\n"
        f"while ask({url(upstream, '/loop')!r})[0] != 200: time.sleep(0.05)\nprint('out')",
        timeout=50))
    session.running()
    assert put(session, "egress").status == 200
    assert answer()["stdout"] == "out\n"
    session.delete()


def test_a_port_that_is_taken(net):
    session = Session(net)
    session.run("import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 3128))\ns.listen()")
    assert_error(put(session, "egress"), 409, "3128")
    assert session.get().json()["network"]["mode"] == "none"
    session.run("s.close()")
    assert put(session, "egress").status == 200
    session.delete()


def test_bad_changes(net):
    session = Session(net)
    for body in ("{}", "{\"network\": 1}", "{\"network\": \"full\"}",
                 "{\"network\": {\"mode\": \"egress\", \"allow\": [\"x.example.org\"]}}", "[]", "x"):
        answer = net.request("PUT", session.path + "/network", body, harness.JSON_TYPE)
        assert_error(answer, 400)
    missing = "/sessions/00000000-0000-4000-8000-000000000000/network"
    assert_error(net.request("PUT", missing, "{\"network\": \"none\"}", harness.JSON_TYPE), 404)
    assert_error(net.get(session.path + "/network"), 405)
    assert session.get().json()["network"]["mode"] == "none"
    session.delete()


def test_the_terminal_has_the_variables(net):
    session = Session(net, network="egress")
    terminal = WebSocket(net.port, session.path + "/terminal")
    terminal.type("echo pro''xy=$https_proxy.; exit\n")
    terminal.until(b"proxy=http://127.0.0.1:3128.")
    terminal.leave()
    session.delete()


def berth(server, *words):
    return subprocess.run([str(harness.BUILD / "berth"), *words], capture_output=True, text=True,
                          timeout=60, stdin=subprocess.DEVNULL,
                          env=harness.clean_environment({"BERTH_URL": server.url}))


def test_the_command_line(net, upstream):
    done = berth(net, "run", "--network", "egress", "-c", ask(url(upstream, "/cli")))
    assert (done.returncode, done.stdout) == (0, "200 upstream /cli\n"), done
    done = berth(net, "run", "--allow", f"{OTHER}:{upstream.port}", "-c", ask(url(upstream, "/cli2")))
    assert done.stdout.startswith("403 "), done
    one = berth(net, "session", "new", "--network", "egress").stdout.strip()
    assert berth(net, "session", "network", one).stdout.splitlines()[0] == "egress"
    done = berth(net, "session", "network", one, "egress", "--allow", f"{UP}:{upstream.port}")
    assert done.stdout == f"egress\n  {UP}:{upstream.port}\n", done
    assert berth(net, "session", "network", one, "none").stdout == "none\n"
    done = berth(net, "session", "network", one, "full")
    assert done.returncode == 125 and "full" in done.stderr, done
    assert berth(net, "session", "rm", one).returncode == 0


# ---- deaths ----

def load(session, upstream, stop, failures):
    """Asks again and again; a 200 or an error of the proxy are fine, anything else is not."""
    while not stop.is_set():
        done = session.run(f"print(*ask({url(upstream, '/load')!r}))")
        line = done["stdout"]
        if not (line.startswith(("200 ", "0 ", "503 ")) and done["status"] == "success"):
            failures.append(done)


def test_egress_is_killed_under_load(net, upstream):
    sessions = [Session(net, network="egress") for _ in range(4)]
    narrow = [f"{UP}:{upstream.port}"]
    assert put(sessions[0], {"mode": "egress", "allow": narrow}).status == 200
    for session in sessions:
        session.run(netrig.ASK)
    stop, failures = threading.Event(), []
    threads = [threading.Thread(target=load, args=(one, upstream, stop, failures))
               for one in sessions]
    for thread in threads:
        thread.start()
    for _ in range(3):
        first = net.child("berth-egress")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda before=first: net.children().get("berth-egress") not in (None, before),
                   "egress is started again")
        for session in sessions:  # each gets out again
            asked = len(upstream.asked)
            wait_until(lambda count=asked: len(upstream.asked) > count, "something gets out")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    for session in sessions:
        wait_until(lambda one=session: ask_in(one, url(upstream, "/again")) == "200 upstream /again\n",
                   "it has its network")
    assert sessions[0].get().json()["network"]["allow"] == narrow
    assert ask_in(sessions[0], url(upstream, "/off", OTHER)).startswith("403 ")
    for session in sessions:
        session.delete()
    done = net.execute(ask(url(upstream, "/fresh")), network="egress")
    assert done["stdout"] == "200 upstream /fresh\n", done


@pytest.mark.parametrize("program", ["berth-server", "berth-native", "berth-egress"])
def test_a_kill_keeps_the_network_of_sessions(net, upstream, program):
    wide, narrow, none = Session(net, network="egress"), Session(net), Session(net, network="egress")
    rules = [f"{OTHER}:{upstream.port}"]
    assert put(narrow, {"mode": "egress", "allow": rules}).status == 200
    assert put(none, "none").status == 200
    before = net.child(program)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: net.children().get(program) not in (None, before), "it is started again")
    wait_until(lambda: is_up(net), "the server answers")
    answers = at_once([lambda: wait_until(
        lambda: ask_in(wide, url(upstream, "/w")) == "200 upstream /w\n", "wide gets out")])
    assert answers
    wait_until(lambda: ask_in(narrow, url(upstream, "/n", OTHER)) == "200 upstream /n\n", "narrow too")
    assert ask_in(narrow, url(upstream, "/n")).startswith("403 ")
    assert ask_in(none, url(upstream, "/n")).startswith("0 ")
    assert narrow.get().json()["network"] == {"mode": "egress", "allow": rules}
    assert none.get().json()["network"]["mode"] == "none"
    for session in (wide, narrow, none):
        session.delete()


def is_up(server):
    try:
        return server.get("/health").json()["engines"][0]["status"] == "ok"
    except (OSError, ValueError, KeyError):
        return False


def test_a_new_server_has_other_rules(upstream):
    """What the operator takes away is taken from sessions too."""
    port = upstream.port
    hosts = {UP: "127.0.0.1", OTHER: "127.0.0.1"}
    one = netrig.NamedServer(hosts, {"BERTH_EGRESS_ALLOW": f"{UP}:{port} {OTHER}:{port}",
                                     "BERTH_EGRESS_EXCEPT": "127.0.0.1"}).start()
    try:
        session = Session(one, network="egress")
        session.run(netrig.ASK)
        assert session.run(f"print(*ask({url(upstream)!r}))")["stdout"].startswith("200 ")
        assert one.stop() == 0
        one.env["BERTH_EGRESS_ALLOW"] = f"{OTHER}:{port}"
        one.start()
        wait_until(lambda: session.run(f"print(*ask({url(upstream, '/', OTHER)!r}))")["stdout"]
                   .startswith("200 "), "it gets out")
        assert session.run(f"print(*ask({url(upstream)!r}))")["stdout"].startswith("403 ")
        assert session.get().json()["network"]["allow"] == [f"{OTHER}:{port}"]
        session.delete()
    finally:
        harness.end(one)


# ---- registries ----

@pytest.fixture(scope="module")
def registries():
    settings = netrig.registry_settings("pypi.org", "registry.npmjs.org")
    if settings is None:
        pytest.skip("this machine reaches no package registry")
    one = harness.Server({**settings, "BERTH_NETWORK_MODES": "none,egress"}).start()
    yield one
    harness.end(one)


def shell(server, words, **fields):
    code = ("import subprocess, sys\n"
            f"done = subprocess.run({words!r}, capture_output=True, text=True)\n"
            "print(done.returncode, done.stdout[-3000:], done.stderr[-3000:])")
    return server.execute(code, network="egress", timeout=120, resources={"ram": "1GiB"}, **fields)


def need(program):
    if not any(os.access(f"{folder}/{program}", os.X_OK) for folder in ("/usr/bin", "/bin")):
        pytest.skip(f"there is no {program} in /usr/bin")


def test_python_and_the_bundle(registries):
    done = registries.execute(netrig.ASK + "print(ask('https://pypi.org/simple/six/')[0])\n"
                              "print(*ask('https://www.example.com/'))", network="egress")
    lines = done["stdout"].splitlines()
    assert lines[0] == "200", done
    assert "403" in lines[1], done


def test_curl(registries):
    need("curl")
    done = shell(registries, ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}",
                              "https://pypi.org/simple/six/"])
    assert done["stdout"].startswith("0 200"), done
    done = shell(registries, ["curl", "-sS", "https://www.example.com/"])
    assert not done["stdout"].startswith("0 ") and "403" in done["stdout"], done


def test_pip(registries):
    done = shell(registries, ["python3", "-c", "import pip"])
    if not done["stdout"].startswith("0 "):
        pytest.skip("the host's python3 has no pip")
    done = shell(registries, ["python3", "-m", "pip", "install", "--no-cache-dir", "--target",
                              "/workspace/lib", "six"])
    assert done["stdout"].startswith("0 ") and "Successfully installed six" in done["stdout"], done


def test_npm(registries):
    need("npm")
    done = shell(registries, ["npm", "install", "--no-audit", "--no-fund", "is-number"])
    assert done["stdout"].startswith("0 "), done


def test_git(registries):
    """No registry speaks git; that it asks the proxy, with the bundle, is seen by the answer."""
    need("git")
    done = shell(registries, ["git", "ls-remote", "https://pypi.org/nothing.git"])
    assert "not found" in done["stdout"] or "404" in done["stdout"], done
    done = shell(registries, ["git", "ls-remote", "https://git.example.com/nothing.git"])
    assert "403" in done["stdout"], done


JAVA = """
import java.net.URI;
import java.net.http.*;
public class Ask {
    public static void main(String[] words) throws Exception {
        var client = HttpClient.newHttpClient();
        var request = HttpRequest.newBuilder(URI.create(words[0])).build();
        System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
    }
}
"""


NODE_HTTP = """
const http = require('http'), tls = require('tls');
const ask = http.request({host: '127.0.0.1', port: 3128, method: 'CONNECT',
                          path: 'registry.npmjs.org:443'});
ask.on('connect', (answer, socket) => {
  const secure = tls.connect({socket, servername: 'registry.npmjs.org'}, () => {
    secure.write('GET /is-number HTTP/1.1\\r\\nHost: registry.npmjs.org\\r\\nConnection: close\\r\\n\\r\\n');
    secure.once('data', data => { console.log(String(data).split(' ')[1]); process.exit(0); });
  });
});
ask.end();
"""


def test_node(registries):
    """A program that asks the proxy itself, and fetch(), which is led there (kernels/node_proxy.cjs)."""
    need("node")
    done = shell(registries, ["node", "-e", NODE_HTTP])
    assert done["stdout"].startswith("0 200"), done
    for url, words in (("https://registry.npmjs.org/is-number", "0 200"),
                       ("https://www.example.com/", "is not on the list")):
        done = shell(registries, ["node", "-e", f"fetch('{url}').then("
                                  "a => console.log(a.status), e => console.log(String(e.cause)))"])
        assert words in done["stdout"], done


@pytest.mark.parametrize("lang, code", [
    ("javascript", "fetch('https://registry.npmjs.org/is-number').then(a => console.log(a.status))"),
    ("java", JAVA.replace("class Ask", "class Main").replace("words[0]", '"https://pypi.org/simple/six/"')),
    ("bash", "curl -sS -o /dev/null -w '%{http_code}\\n' https://pypi.org/simple/six/"),
])
def test_languages(registries, lang, code):
    answer = registries.post({"code": code, "lang": lang, "network": "egress", "timeout": 120,
                              "resources": {"ram": "2GiB"}}, timeout_secs=180)
    if answer.status == 400 and lang in answer.json()["detail"]:
        pytest.skip(f"there is no {lang}")
    assert answer.status == 200 and answer.json()["stdout"] == "200\n", answer


def test_node_fetches_from_itself(registries):
    """NO_PROXY holds for fetch() as well."""
    need("node")
    done = shell(registries, ["node", "-e", "const s = require('http').createServer((q, a) => a.end('own'))"
                              ".listen(8123, '127.0.0.1', () => fetch('http://127.0.0.1:8123/')"
                              ".then(a => a.text()).then(t => { console.log(t); process.exit(); }))"])
    assert done["stdout"].startswith("0 own"), done


def test_java(registries):
    need("java")
    code = ("import subprocess\nopen('Ask.java', 'w').write(" + repr(JAVA) + ")\n"
            "done = subprocess.run(['java', 'Ask.java', 'https://pypi.org/simple/six/'],\n"
            "                      capture_output=True, text=True)\n"
            "print(done.returncode, done.stdout, done.stderr[-2000:])")
    done = registries.execute(code, network="egress", timeout=120, resources={"ram": "2GiB"})
    assert done["stdout"].startswith("0 200"), done
