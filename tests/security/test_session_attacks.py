"""A session whose code attacks: what it says in its kernel's name, what it makes init spend, what it
leaves behind, and what the server keeps for a client that has gone. Each has to concern that session
alone, and the session goes on, or ends, as it is said."""
import json
import os
import pathlib

import pytest

from harness import JSON_TYPE, SLOW, head, wait_until
from sessions import Session, in_background

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")

# Finds the kernel's own socket to init. `tell` sends in pieces that the host's kernel keeps whole, so
# what the kernel says meanwhile stays readable.
PRELUDE = """
import os, socket, stat, struct, threading, time
def find():
    for number in range(3, 400):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                return socket.socket(fileno=os.dup(number))
        except OSError:
            pass
C = find()
def message(kind, body=b""): return struct.pack("<I", len(body)) + kind + body
def tell(*messages): C.sendall(b"".join(messages))
def later(function):
    def wait():
        while not os.path.exists("/workspace/go"): time.sleep(0.01)
        function()
        open("/workspace/done", "w").close()
    threading.Thread(target=wait, daemon=True).start()
"""


class Inside(Session):
    """A session, and its init as the host sees it."""

    def __init__(self, server, **fields):
        super().__init__(server, **fields)
        self.run(PRELUDE + f"open('/workspace/{self.id}', 'w').close()")
        found = [pid for pid in server.inits().values()
                 if os.path.exists(f"/proc/{pid}/root/workspace/{self.id}")]
        assert len(found) == 1, found
        self.init = found[0]

    def init_secs(self):
        """Processor time of init."""
        fields = pathlib.Path(f"/proc/{self.init}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def init_bytes(self, name="VmRSS"):
        """Memory of init; VmHWM is the most that it ever had."""
        for line in pathlib.Path(f"/proc/{self.init}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")

    def between_two_runs(self, code):
        """Runs the body of a function when no run is there; returns when it has."""
        self.run("def attack():\n" + code + "\nlater(attack)")
        assert self.server.request("PUT", self.path + "/files?path=go", b"").status == 200
        wait_until(lambda: self.server.get(self.path + "/files?path=done").status == 200,
                   "it is through")

    def is_well(self):
        """The next run is one as any other."""
        done = self.run("print('well')\n6 * 7")
        assert (done["status"], done["stdout"], done["stderr"]) == ("success", "well\n", ""), done
        assert (done["results"], done["error"]) == ([{"text/plain": "42"}], None), done
        assert (done["killed_by"], done["state"]) == (None, "kept"), done


@pytest.fixture
def inside(server, profile):
    one = Inside(server, profile=profile)
    yield one
    if one.get().status == 200:
        one.delete()


# ---- what it says ----

NOTHING = {"status": "success", "exit_code": 0, "killed_by": None, "state": "kept"}
OUTPUT = {"status": "killed", "exit_code": 137, "killed_by": "output", "state": "lost"}
LOST = {"status": "success", "exit_code": 0, "killed_by": None, "state": "lost"}
TIMEOUT = {"status": "timeout", "exit_code": 137, "killed_by": "timeout", "state": "lost"}
FORGERIES = {
    "ready_again": ("tell(message(b'R') * 3)", NOTHING),
    "ends_of_a_wrong_size": ("tell(message(b'D'), message(b'D', b'ab'))", NOTHING),
    "a_run": ("tell(message(b'X', b'x' * 64))", NOTHING),
    "unknown_kinds": ("tell(*(message(bytes([n]), b'?') for n in range(256)"
                      " if n not in b'MD'))", NOTHING),
    "an_endless_message": ("tell(b'\\xff' * 64); time.sleep(600)", OUTPUT),
    "half_a_header": ("tell(b'\\x10\\0\\0')", TIMEOUT),
    "a_closed_channel": ("os.closerange(3, 400)", LOST),
    "a_channel_shut_down": ("C.shutdown(socket.SHUT_RDWR)", LOST),
    "another_program": ("os.execv('/bin/sleep', ['sleep', '600'])",
                        {"status": "error", "exit_code": 137, "killed_by": "signal",
                         "state": "lost"}),
    "stopped": ("import signal; os.kill(os.getpid(), signal.SIGSTOP)", TIMEOUT),
    "deaf_to_signals": ("import signal\nfor n in range(1, 65):\n"
                        "    try: signal.signal(n, signal.SIG_IGN)\n"
                        "    except (OSError, ValueError): pass\nwhile True: pass", TIMEOUT),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_said_in_the_kernels_name(inside, name):
    code, expected = FORGERIES[name]
    done = inside.run(code, timeout=2)
    assert {key: done[key] for key in expected} == expected, done
    assert done["results"] == [] and done["error"] is None, done
    inside.is_well()


def test_a_forged_end_concerns_its_session_alone(server, inside):
    """The code runs on beside what comes next, and may spoil that; its words go nowhere."""
    other = Inside(server)
    done = inside.run("tell(message(b'D', b'\\x07')); time.sleep(0.5); print('late')")
    assert (done["status"], done["exit_code"], done["stdout"]) == ("error", 7, ""), done
    other.is_well()
    assert "late" not in inside.run("print('next')")["stdout"]
    # Ends and runs are in step again once an end comes when no run is there.
    wait_until(lambda: inside.run("6 * 7")["results"], "a run has its own end")
    inside.is_well()
    other.delete()


def test_messages_that_are_none(server, inside):
    """What is kept of them is JSON that the server wrote itself; the rest is dropped."""
    program = server.child("berth-server")
    deep = '{"type":"result","data":{"a":' + "[" * 100000 + "]" * 100000 + "}}"
    done = inside.run("sent = [b'{', b'\\xff\\xfe', b'\\0' * 100, b'[]', b'7', b'{\"type\":\"end\"}',\n"
                      " b'{\"type\":\"result\"}', b'{\"type\":\"result\",\"data\":{}}',\n"
                      " b'{\"type\":\"result\",\"data\":[1]}',\n"
                      " b'{\"type\":\"result\",\"data\":{\"a\":\"\\xff\"}}',\n"
                      " b'{\"type\":\"result\",\"data\":{\"a\":\"\\\\ud800\"}}',\n"
                      " b'{\"type\":\"result\",\"data\":{\"a\":\"\\\\u0000\"}}',\n"
                      " b'{\"type\":\"result\",\"data\":{\"a\\\\u0000b\":1}}',\n"
                      " b'{\"type\":\"result\",\"data\":{\"a\":1e999}}',\n"
                      " b'{\"type\":\"result\",\"data\":{\"a\":NaN}}',\n"
                      " b'{\"type\":\"result\",\"data\":{\"a\":' + b'9' * 5000 + b'}}',\n"
                      f" {deep.encode()!r}]\n"
                      "for one in sent: tell(message(b'M', one))", timeout=60)
    assert (done["status"], done["results"], done["error"]) == ("success", [], None), done
    done = inside.run("tell(message(b'M', b'{\"type\":\"result\",\"data\":{\"a\":1,\"a\":2},\"exit_code\":9,'\n"
                      "             b'\"killed_by\":\"oom\"}'),\n"
                      "     message(b'M', b'{\"type\":\"error\",\"name\":5,\"value\":{},\"status\":\"x\"}'))")
    assert done["results"] == [{"a": 2}], done
    assert done["error"] == {"name": "", "value": "", "traceback": ""}, done
    assert (done["status"], done["exit_code"], done["killed_by"]) == ("success", 0, None), done
    inside.is_well()
    assert server.child("berth-server") == program


def init_descriptors(inside):
    """How many init has once nothing moves: the last run's are let go, the next one's made, a moment later."""
    seen = []

    def still():
        seen.append(len(os.listdir(f"/proc/{inside.init}/fd")))
        return len(seen) >= 20 and len(set(seen[-20:])) == 1

    wait_until(still, "init opens and closes no descriptor", step_secs=0.05)
    return seen[-1]


def test_descriptors_sent_to_init(inside):
    before = init_descriptors(inside)
    inside.run("import array\n"
               "try:\n"
               "    for _ in range(200):\n"
               "        C.sendmsg([message(b'M', b'{}')], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,\n"
               "                                            array.array('i', [0] * 100))])\n"
               "except OSError: pass")  # the host's kernel bounds what is on its way
    inside.is_well()
    assert init_descriptors(inside) <= before


def test_a_program_forges_the_end_of_its_run(server, profile):
    """One without a session: its end is that of its process, and init's deadline holds."""
    code = PRELUDE + "tell(message(b'R'), message(b'D', b'\\0'))\nprint('here', flush=True)\n"
    done = server.execute(code + "time.sleep(0.3); print('late'); raise SystemExit(9)",
                          profile=profile)
    assert (done["status"], done["exit_code"], done["stdout"]) == ("error", 9, "here\nlate\n"), done
    done = server.execute(code + "while True: pass", profile=profile, timeout=1)
    assert (done["status"], done["killed_by"]) == ("timeout", "timeout"), done


# ---- what it makes init spend ----

def test_noise_between_two_runs_costs_init_little(inside):
    """16 MiB of messages of five bytes, to nobody. Init moved its buffer once for each of them: 0.06 s
    of the processor for 64 KiB."""
    before = inside.init_secs()
    inside.between_two_runs("    noise = message(b'?') * 800\n"
                            "    for _ in range(16 * 256): tell(noise)")
    assert inside.init_secs() - before < 3 * SLOW
    inside.is_well()


def test_noise_in_a_run_has_an_end(inside):
    """Messages that are nearly nothing count for more than their bytes."""
    for piece in ("message(b'?')", "message(b'M')", "message(b'M', b'x')"):
        before = inside.init_secs()
        done = inside.run(f"noise = {piece} * 600\nwhile True: tell(noise)", timeout=200)
        assert {key: done[key] for key in OUTPUT} == OUTPUT, done
        assert inside.init_secs() - before < 20 * SLOW
        inside.run(PRELUDE)
    inside.is_well()


def test_half_a_message_between_two_runs_takes_none_of_inits_memory(inside):
    inside.between_two_runs("    tell(struct.pack('<I', 32 << 20), b'M')\n"
                            "    for _ in range(31 * 256): tell(b'x' * 4096)")
    assert inside.init_bytes("VmHWM") < 16 * MIB


def test_what_was_said_leaves_init_with_its_outcome(inside):
    """The log of a run is of use until the outcome is in the store: an idle session holds none."""
    done = inside.run("display({'text/plain': 'x' * 7_900_000}, raw=True); print('y' * 1_000_000)")
    assert len(done["results"][0]["text/plain"]) == 7_900_000, done["limits_hit"]
    wait_until(lambda: inside.init_bytes() < 4 * MIB, "init has forgotten it")
    inside.is_well()


# ---- what it leaves ----

def test_the_end_of_a_session_that_multiplies(server, inside):
    code = ("while True:\n    try:\n        if os.fork() == 0: os.setsid()\n"
            "    except OSError: pass")
    call = in_background(lambda: inside.post(code, timeout=300))
    inside.running()
    wait_until(lambda: len(server.code_pids()) > 60, "there are many")
    inside.delete()
    assert call().json()["killed_by"] == "user"
    wait_until(lambda: not os.path.exists(f"/proc/{inside.init}"), "it is gone")


def test_daemons_end_with_the_kernel(inside):
    inside.run("if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
               "        while True:\n"
               "            try: tell(message(b'M', b'{\"type\":\"result\",\"data\":{\"a\":1}}'))\n"
               "            except OSError: time.sleep(600)\n"
               "    os._exit(0)\n")
    assert inside.run("os._exit(3)")["state"] == "lost"
    done = inside.run("import os\nprint([int(p) for p in os.listdir('/proc') if p.isdigit()"
                      " and int(p) not in (1, os.getpid())])")
    assert (done["stdout"], done["results"]) == ("[]\n", []), done


def test_nothing_is_left_for_the_next_one(server, profile):
    """Sandboxes made ahead are used once: none shows what an earlier one did."""
    code = """
import glob, json, os, socket, subprocess, sys
places = ['/tmp', '/var/tmp', '/dev/shm', '/home/sandbox', '/workspace', '/dev/mqueue']
found = [path for place in places for path in glob.glob(place + '/**', recursive=True)
         + glob.glob(place + '/.*') if 'planted' in path]
found += [name for name in os.environ if 'PLANTED' in name]
found += [name for name in dir(__builtins__) + list(sys.modules) if 'planted' in name]
found += [line for line in open('/proc/net/unix') if 'planted' in line]
found += open('/proc/sysvipc/shm').read().splitlines()[1:]
found += [p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())]
print(json.dumps(found))
for place in places:
    try: open(place + '/planted', 'w').close()
    except OSError: pass
import builtins
builtins.planted = 1; os.environ['PLANTED'] = '1'
listener = socket.socket(socket.AF_UNIX); listener.bind('\\0planted')
subprocess.Popen(['sleep', '600'], start_new_session=True)
"""
    for _ in range(6):
        assert json.loads(server.execute(code, profile=profile)["stdout"]) == []


# ---- clients that have gone ----

def test_who_waits_and_has_gone_leaves_connections_to_others(make_server):
    """An execution that waits for its turn goes on without its client, on the server's connection."""
    most = 16
    server = make_server({"BERTH_MAX_CONNECTIONS": str(most)})
    session = Session(server)
    body = json.dumps({"code": "import time; time.sleep(600)", "timeout": 900}).encode()
    for _ in range(2 * most):
        sock = server.connect()
        sock.sendall(head("POST", session.path + "/execute", "127.0.0.1",
                          f"Content-Type: {JSON_TYPE['Content-Type']}",
                          f"Content-Length: {len(body)}") + body)
        # Those that are refused are answered; the others wait, whatever their client does.
        sock.settimeout(0.2)
        try:
            assert b" 503 " in sock.recv(65536).split(b"\r\n")[0]
        except TimeoutError:
            pass
        sock.close()
    wait_until(lambda: session.get().json()["waiting"] == most // 4 + 1, "they wait")
    assert server.get("/health").status == 200
    session.delete()
