"""What a sandbox looks like from inside, and its limits one by one: what is there, what tells nothing
of the host, what works, how much there is. What is attacked is in test_attacks.py."""
import base64
import json
import socket

import pytest

from harness import assert_error

HEAD = """
import ctypes, errno, json, os, socket
def tell(value): print(json.dumps(value))
def fails(function, *arguments):
    try: function(*arguments)
    except OSError as problem: return errno.errorcode.get(problem.errno, str(problem.errno))
"""


def inside(server, code, **fields):
    """Runs code that ends with tell(value); returns the value."""
    done = server.execute(HEAD + code, **fields)
    assert done["exit_code"] == 0, done["stderr"] + str(done["killed_by"])
    return json.loads(done["stdout"].splitlines()[-1])


# ---- what is there ----


def test_mountinfo_tells_nothing_of_the_host(server, profile):
    got = inside(server, "tell([open('/proc/self/mountinfo').read(), open('/proc/mounts').read(),"
                         " open('/proc/self/cgroup').read(), open('/proc/self/maps').read()])",
                 profile=profile)
    for text in got:
        for word in (server.state, server.instance, "berth", "priv", "/tmp/"):
            assert word not in text, text


def test_the_environment_tells_nothing_of_the_server(server, profile):
    got = inside(server, "tell([dict(os.environ), os.uname().nodename, socket.gethostname()])",
                 profile=profile)
    assert got[1:] == ["sandbox", "sandbox"]
    assert not [name for name in got[0] if "BERTH" in name or "SECRET" in name]
    assert socket.gethostname() not in str(got[0])


def test_homes(server):
    got = inside(server, "tell([os.listdir('/home'), os.listdir('/root') if"
                         " os.access('/root', 4) else []])")
    assert got == [["sandbox"], []]


def test_devices_that_are_there(server, profile):
    got = inside(server, "tell(sorted(os.listdir('/dev')))", profile=profile)
    assert set(got) == {"fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
                        "stdout", "tty", "urandom", "zero"}


def test_no_capabilities_and_a_filter(server):
    got = inside(server, "tell(dict(line.split(':\\t', 1) for line in"
                         " open('/proc/self/status').read().splitlines() if ':\\t' in line))")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(got[name], 16) == 0, (name, got[name])
    assert got["NoNewPrivs"] == "1"
    assert got["Seccomp"] == "2"
    assert got["Uid"].split() == ["1000"] * 4 and got["Gid"].split() == ["1000"] * 4
    assert got["Groups"].strip() == ""


def test_only_standard_streams_are_open(server, profile):
    got = inside(server, "tell([os.readlink(f'/proc/self/fd/{n}') for n in"
                         " sorted(int(x) for x in os.listdir('/proc/self/fd')) if n < 1000"
                         " and os.path.exists(f'/proc/self/fd/{n}')][:8])", profile=profile)
    kinds = [text.split(":")[0] for text in got]
    assert kinds == ["pipe", "pipe", "pipe", "socket"], got  # the last: the kernel's, to init


def test_there_is_only_a_loopback(server, profile):
    got = inside(server, "tell([[name for _, name in socket.if_nameindex()],"
                         " open('/proc/net/route').read().splitlines()[1:]])", profile=profile)
    assert got == [["lo"], []]


def test_loopback_works_inside(server, profile):
    got = inside(server, """
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
peer, _ = listener.accept()
client.sendall(b'x')
tell(peer.recv(1).decode())""", profile=profile)
    assert got == "x"


# ---- limits ----


def test_storage_is_enforced(server, profile):
    got = server.execute("import os\n"
                         "def fill(path):\n"
                         "    try:\n"
                         "        with open(path, 'wb', buffering=0) as f:\n"
                         "            while True: f.write(b'x' * 65536)\n"
                         "    except OSError as e: return e.errno\n"
                         "print([fill(p) for p in ('/tmp/a', '/dev/shm/b', '/workspace/c',"
                         " '/var/tmp/d', '/home/sandbox/e')])\n"
                         "print(sum(os.path.getsize(p) for p in ('/tmp/a', '/dev/shm/b',"
                         " '/workspace/c')) >> 20)\n", profile=profile,
                         resources={"ram": "128MiB", "storage": "16MiB"})
    lines = got["stdout"].splitlines()
    assert all(code in (27, 28) for code in json.loads(lines[0])), got
    assert int(lines[1]) <= 16 and got["limits_hit"] == ["disk"], got


def test_inodes_are_enforced(server, profile):
    done = server.execute("import os\n"
                          "os.mkdir('/tmp/many'); os.chdir('/tmp/many')\n"
                          "count = 0\n"
                          "try:\n"
                          "    while True: open(str(count), 'w').close(); count += 1\n"
                          "except OSError as e: print(e.errno, count)\n", profile=profile,
                          resources={"ram": "64MiB", "storage": "8MiB"}, timeout=60)
    number, count = map(int, done["stdout"].split())
    assert number == 28 and count < 20000 and done["limits_hit"] == ["files"], done


def test_processes_are_enforced(server, profile):
    done = server.execute("import os, time\n"
                          "count = 0\n"
                          "try:\n"
                          "    while True:\n"
                          "        if os.fork() == 0: time.sleep(100); os._exit(0)\n"
                          "        count += 1\n"
                          "except OSError as e: print(e.errno, count)\n", profile=profile)
    number, count = map(int, done["stdout"].split())
    assert number == 11 and count < 128 and "pids" in done["limits_hit"], done


def test_threads_are_enforced(server, profile):
    done = server.execute("import threading, time\n"
                          "count = 0\n"
                          "try:\n"
                          "    while True:\n"
                          "        threading.Thread(target=time.sleep, args=(100,),"
                          " daemon=True).start(); count += 1\n"
                          "except RuntimeError: print(count, flush=True)\n"
                          "import os; os._exit(0)\n", profile=profile)
    assert int(done["stdout"]) < 128 and "pids" in done["limits_hit"], done


def test_open_files_are_enforced(server, profile):
    got = inside(server, """
held = []
try:
    while True: held.append(os.open('/dev/null', os.O_RDONLY))
except OSError as e: number = e.errno
count = len(held)
for fd in held: os.close(fd)
tell([errno.errorcode[number], count])""", profile=profile)
    assert got[0] == "EMFILE" and got[1] <= 1024, got


def test_signals_to_everybody_reach_only_own_processes(server, profile):
    stream = server.stream("print('on', flush=True)\nimport time; time.sleep(600)", profile=profile)
    name = next(stream)[1]["execution_id"]
    assert next(stream)[0] == "stdout"
    server.execute("import os\nos.kill(-1, 9)", profile=profile)
    assert server.get(f"/executions/{name}").json()["status"] == "running"
    server.request("DELETE", f"/executions/{name}")
    stream.close()


# ---- uploads ----


def test_upload_over_a_folder(server):
    files = [{"path": "d/x", "content": "eA=="}, {"path": "d", "content": "eA=="}]
    assert_error(server.post({"code": "print('ran')", "files": files}), 400, "file")


def test_upload_larger_than_the_storage(server):
    files = [{"path": "big", "content": base64.b64encode(b"x" * (2 << 20)).decode()}]
    answer = server.post({"code": "print('ran')", "files": files,
                          "resources": {"ram": "32MiB", "storage": "1MiB"}})
    assert_error(answer, 400, "file")


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/sudoers", "/etc/machine-id"])
def test_the_image_leaves_out_what_is_the_hosts(server, path):
    assert inside(server, f"tell(fails(open, {path!r}))") == "ENOENT"
