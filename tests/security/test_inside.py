"""Attacks from within: code in a sandbox tries to reach the host, its neighbours, the init and the
server, and to use up what they share."""
import base64
import json
import os
import pathlib
import socket
import subprocess

import pytest

from harness import assert_error, wait_until

ATTACKS = pathlib.Path(__file__).with_name("attacks.py").read_bytes()
FILES = [{"path": "attacks.py", "content": base64.b64encode(ATTACKS).decode()}]
REFUSED = {"EPERM", "EACCES", "ENOSYS", "ENOENT", "EROFS"}


def inside(server, code, **fields):
    """Runs code that ends with tell(value); returns the value."""
    done = server.execute("import os, socket, sys\nfrom attacks import *\n" + code, files=FILES,
                          **fields)
    assert done["exit_code"] == 0, done["stderr"] + str(done["killed_by"])
    return json.loads(done["stdout"].splitlines()[-1])


# ---- files ----


@pytest.mark.parametrize("path", [
    "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh", "/etc/machine-id", "/etc/fstab",
    "/root/.bashrc", "/boot", "/var/log/syslog", "/var/lib/dpkg", "/var/run/docker.sock",
    "/run/docker.sock", "/run/systemd", "/proc/kcore", "/proc/kallsyms", "/proc/kmsg",
    "/proc/sysrq-trigger", "/proc/keys", "/proc/timer_list", "/dev/mem", "/dev/kmsg", "/dev/vda",
    "/dev/sda", "/dev/loop0", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/sys/fs/cgroup",
    "/sys/kernel", "/sys/class"])
def test_host_files_cannot_be_read(server, path):
    got = inside(server, f"""
def look(path):
    if os.path.isdir(path):
        raise SystemExit('full') if os.listdir(path) else PermissionError(13, 'empty')
    with open(path, 'rb') as f:
        if f.read(64) == b'': raise PermissionError(13, 'empty')
tell(attempt(look, {path!r}))""")
    assert got in REFUSED | {"ENXIO"}, got


def test_state_folder_is_not_there(server):
    secret = pathlib.Path(server.state) / "secret"
    secret.write_text("secret")
    try:
        got = inside(server, f"tell([attempt(open, {str(secret)!r}),"
                             f" attempt(os.listdir, {server.state!r}), os.listdir('/home'),"
                             " os.listdir('/root') if os.access('/root', 4) else []])")
    finally:
        secret.unlink()
    assert got == ["ENOENT", "ENOENT", ["sandbox"], []]


def test_mountinfo_tells_nothing_of_the_host(server):
    got = inside(server, "tell([open('/proc/self/mountinfo').read(), open('/proc/mounts').read(),"
                         " open('/proc/self/cgroup').read(), open('/proc/self/maps').read()])")
    for text in got:
        for word in (server.state, server.instance, "berth", "priv", "/tmp/"):
            assert word not in text, text


def test_the_environment_tells_nothing_of_the_server(server):
    got = inside(server, "tell([dict(os.environ), os.uname().nodename, socket.gethostname()])")
    assert got[1:] == ["sandbox", "sandbox"]
    assert not [name for name in got[0] if "BERTH" in name or "SECRET" in name]
    assert socket.gethostname() not in str(got[0])


@pytest.mark.parametrize("path", ["/usr/x", "/usr/bin/x", "/usr/lib/x", "/usr/local/x", "/etc/x",
                                  "/x", "/dev/x", "/proc/x", "/sys/x", "/bin/x", "/lib/x",
                                  "/root/x"])
def test_system_folders_are_not_writable(server, path):
    assert inside(server, f"tell(attempt(open, {path!r}, 'w'))") in REFUSED


@pytest.mark.parametrize("path", ["kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory",
                                  "fs/file-max", "net/ipv4/ip_forward", "kernel/sysrq",
                                  "user/max_user_namespaces", "kernel/ns_last_pid"])
def test_kernel_settings_are_not_writable(server, path):
    path = "/proc/sys/" + path
    assert inside(server, f"tell(attempt(open, {path!r}, 'r+'))") in REFUSED


def test_oom_score_cannot_be_lowered(server):
    got = inside(server, "def lower():\n    f = open('/proc/self/oom_score_adj', 'w')\n"
                         "    f.write('-1000'); f.flush()\ntell(attempt(lower))")
    assert got in REFUSED


def test_devices_cannot_be_made_or_used(server):
    got = inside(server, """
import stat
tell({kind: attempt(os.mknod, '/tmp/' + kind, mode | 0o666, os.makedev(*number))
      for kind, mode, number in (('block', stat.S_IFBLK, (254, 0)), ('mem', stat.S_IFCHR, (1, 1)),
                                 ('null', stat.S_IFCHR, (1, 3)),
                                 ('loop', stat.S_IFBLK, (7, 0)))})""")
    assert set(got.values()) <= REFUSED, got


def test_devices_that_are_there(server):
    got = inside(server, "tell(sorted(os.listdir('/dev')))")
    assert set(got) == {"fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
                        "stdout", "tty", "urandom", "zero"}


# ---- identity ----


def test_no_capabilities_and_a_filter(server):
    got = inside(server, "tell(dict(line.split(':\\t', 1) for line in"
                         " open('/proc/self/status').read().splitlines() if ':\\t' in line))")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(got[name], 16) == 0, (name, got[name])
    assert got["NoNewPrivs"] == "1"
    assert got["Seccomp"] == "2"
    assert got["Uid"].split() == ["1000"] * 4 and got["Gid"].split() == ["1000"] * 4
    assert got["Groups"].strip() == ""


def test_becoming_root_fails(server):
    got = inside(server, "tell([attempt(os.setuid, 0), attempt(os.setgid, 0),"
                         " attempt(os.setgroups, [0]), attempt(os.setresuid, 0, 0, 0),"
                         " attempt(os.chown, '/workspace', 0, 0), attempt(os.chroot, '/tmp')])")
    assert set(got) <= REFUSED | {"EINVAL"}, got


def test_setuid_programs_give_nothing(server):
    got = inside(server, """
import subprocess
found = [os.path.join(d, f) for d in ('/usr/bin', '/usr/sbin', '/usr/lib/openssh')
         if os.path.isdir(d) for f in os.listdir(d)
         if os.path.isfile(os.path.join(d, f)) and os.stat(os.path.join(d, f)).st_mode & 0o6000]
ran = []
os.makedirs('/tmp/m')
for words in (['su', '-c', 'id -u'], ['mount', '-t', 'tmpfs', 'x', '/tmp/m'], ['sudo', '-n', 'id'],
              ['newgrp', 'root'], ['umount', '/proc']):
    try: ran.append(subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, timeout=20).returncode)
    except FileNotFoundError: ran.append(127)
tell([found, ran, 'tmpfs /tmp/m' in open('/proc/mounts').read(),
      [os.stat(p).st_uid for p in found]])""")
    assert all(code != 0 for code in got[1][:3]) and not got[2], got
    copy = inside(server, """
import shutil, subprocess
shutil.copy('/usr/bin/id', '/tmp/id'); os.chmod('/tmp/id', 0o6755)
tell(subprocess.run(['/tmp/id', '-u'], capture_output=True, text=True).stdout.strip())""")
    assert copy == "1000"


# ---- system calls ----


def all_calls():
    scope = {}
    exec(compile(ATTACKS, "attacks.py", "exec"), scope)  # noqa: S102: our own file
    return sorted(scope["CALLS"])


@pytest.fixture(scope="module")
def outcomes(server):
    if os.uname().machine != "x86_64":
        pytest.skip("the table of calls is that of x86-64")
    return inside(server, "tell({name: name_of(call(name)) for name in CALLS})")


@pytest.mark.parametrize("name", all_calls())
def test_call_is_refused(outcomes, name):
    assert outcomes[name] in REFUSED | {"EAFNOSUPPORT"}, outcomes[name]


def test_calls_of_other_architectures(server):
    """int 0x80 and x32 numbers do not get round the filter."""
    if os.uname().machine != "x86_64":
        pytest.skip("x86-64 only")
    got = inside(server, """
import mmap
libc.syscall.restype = ctypes.c_long
ctypes.set_errno(0)
x32 = libc.syscall(0x40000000 + 165, b'none', b'/mnt', b'tmpfs', 0, 0)
first = name_of(ctypes.get_errno())
# mov eax, 20 (getpid of i386); int 0x80; movsxd rax, eax; ret
code = mmap.mmap(-1, 4096, prot=7)
code.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\x48\\x63\\xc0\\xc3')
function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
tell([x32, first, function()])""")
    assert got[:2] == [-1, "ENOSYS"] and got[2] == -38, got


def test_tracing_an_own_child_is_refused(server):
    got = inside(server, """
pid = os.fork()
if pid == 0:
    import time; time.sleep(60); os._exit(0)
result = libc.ptrace(16, pid, 0, 0)
error = ctypes.get_errno()
os.kill(pid, 9); os.waitpid(pid, 0)
tell([result, name_of(error)])""")
    assert got[0] == -1 and got[1] in REFUSED, got


# ---- processes ----


def test_only_own_processes_are_seen(server):
    got = inside(server, "tell([os.getpid(), os.getppid(),"
                         " sorted(int(n) for n in os.listdir('/proc') if n.isdigit())])")
    assert set(got[2]) <= {1, got[0]}, got


@pytest.mark.parametrize("name", ["mem", "environ", "maps", "exe", "fd", "cwd", "root", "io",
                                  "auxv", "syscall", "stack", "ns/user", "ns/pid", "map_files",
                                  "task/1/mem", "fdinfo"])
def test_init_cannot_be_looked_into(server, name):
    got = inside(server, f"""
def look(path):
    if os.path.islink(path): return os.readlink(path)
    if os.path.isdir(path): return os.listdir(path)
    with open(path, 'rb') as f:
        if not f.read(16): raise PermissionError(13, 'empty')
tell(attempt(look, '/proc/1/{name}'))""")
    assert got in REFUSED, got


def test_init_cannot_be_touched(server):
    got = inside(server, """
import resource, signal
tell([attempt(os.kill, 1, n) for n in (9, 15, 19, 1)] +
     [attempt(resource.prlimit, 1, resource.RLIMIT_NOFILE, (0, 0)),
      attempt(os.setpriority, os.PRIO_PROCESS, 1, 19), attempt(os.sched_setaffinity, 1, {0}),
      attempt(signal.pidfd_send_signal, os.pidfd_open(1), 9)])""")
    assert set(got) == {"EPERM"}, got
    got = inside(server, "attempt(os.kill, -1, 0)\ntell('alive')")
    assert got == "alive"


def test_only_standard_streams_are_open(server):
    got = inside(server, "tell([os.readlink(f'/proc/self/fd/{n}') for n in"
                         " sorted(int(x) for x in os.listdir('/proc/self/fd')) if n < 1000"
                         " and os.path.exists(f'/proc/self/fd/{n}')][:8])")
    kinds = [text.split(":")[0] for text in got]
    assert kinds == ["pipe", "pipe", "pipe"], got


def test_signals_to_everybody_reach_only_own_processes(server):
    stream = server.stream("print('on', flush=True)\nimport time; time.sleep(600)")
    name = next(stream)[1]["execution_id"]
    assert next(stream)[0] == "stdout"
    server.execute("import os\nos.kill(-1, 9)")
    assert server.get(f"/executions/{name}").json()["status"] == "running"
    server.request("DELETE", f"/executions/{name}")
    stream.close()


# ---- network ----


def test_there_is_only_a_loopback(server):
    got = inside(server, "tell([[name for _, name in socket.if_nameindex()],"
                         " open('/proc/net/route').read().splitlines()[1:]])")
    assert got == [["lo"], []]


def test_loopback_works_inside(server):
    got = inside(server, """
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
peer, _ = listener.accept()
client.sendall(b'x')
tell(peer.recv(1).decode())""")
    assert got == "x"


def test_the_host_cannot_be_reached(server):
    got = inside(server, f"""
def reach(address):
    socket.create_connection(address, timeout=3).close()
tell([attempt(reach, address) for address in (('127.0.0.1', {server.port}), ('169.254.169.254', 80),
      ('10.0.0.1', 80), ('192.168.0.1', 80), ('8.8.8.8', 53), ('::1', {server.port}))])""")
    assert got[0] == "ECONNREFUSED", got
    assert set(got[1:]) <= {"ENETUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL"}, got


def test_abstract_sockets_of_the_host_cannot_be_reached(server):
    name = f"berth-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        got = inside(server, f"s = socket.socket(socket.AF_UNIX)\n"
                             f"tell([attempt(s.connect, '\\0{name}'),"
                             f" '{name}' in open('/proc/net/unix').read()])")
    assert got == ["ECONNREFUSED", False]


def test_ipc_of_the_host_is_not_seen(server):
    made = subprocess.run(["ipcmk", "-M", "4096"], capture_output=True, text=True, check=True)
    number = made.stdout.split(":")[1].strip()
    try:
        got = inside(server, "tell(len(open('/proc/sysvipc/shm').read().splitlines()))")
    finally:
        subprocess.run(["ipcrm", "-m", number], check=True)
    assert got == 1


# ---- limits ----


def test_storage_is_enforced(server):
    got = server.execute("import os\n"
                         "def fill(path):\n"
                         "    try:\n"
                         "        with open(path, 'wb', buffering=0) as f:\n"
                         "            while True: f.write(b'x' * 65536)\n"
                         "    except OSError as e: return e.errno\n"
                         "print([fill(p) for p in ('/tmp/a', '/dev/shm/b', '/workspace/c',"
                         " '/var/tmp/d', '/home/sandbox/e')])\n"
                         "print(sum(os.path.getsize(p) for p in ('/tmp/a', '/dev/shm/b',"
                         " '/workspace/c')) >> 20)\n",
                         resources={"ram": "128MiB", "storage": "16MiB"})
    lines = got["stdout"].splitlines()
    assert all(code in (27, 28) for code in json.loads(lines[0])), got
    assert int(lines[1]) <= 16 and got["limits_hit"] == ["disk"], got


def test_inodes_are_enforced(server):
    done = server.execute("import os\n"
                          "os.mkdir('/tmp/many'); os.chdir('/tmp/many')\n"
                          "count = 0\n"
                          "try:\n"
                          "    while True: open(str(count), 'w').close(); count += 1\n"
                          "except OSError as e: print(e.errno, count)\n",
                          resources={"ram": "64MiB", "storage": "8MiB"}, timeout=60)
    number, count = map(int, done["stdout"].split())
    assert number == 28 and count < 20000 and done["limits_hit"] == ["files"], done


def test_processes_are_enforced(server):
    done = server.execute("import os, time\n"
                          "count = 0\n"
                          "try:\n"
                          "    while True:\n"
                          "        if os.fork() == 0: time.sleep(100); os._exit(0)\n"
                          "        count += 1\n"
                          "except OSError as e: print(e.errno, count)\n")
    number, count = map(int, done["stdout"].split())
    assert number == 11 and count < 128 and "pids" in done["limits_hit"], done


def test_threads_are_enforced(server):
    done = server.execute("import threading, time\n"
                          "count = 0\n"
                          "try:\n"
                          "    while True:\n"
                          "        threading.Thread(target=time.sleep, args=(100,),"
                          " daemon=True).start(); count += 1\n"
                          "except RuntimeError: print(count, flush=True)\n"
                          "import os; os._exit(0)\n")
    assert int(done["stdout"]) < 128 and "pids" in done["limits_hit"], done


def test_open_files_are_enforced(server):
    got = inside(server, """
held = []
try:
    while True: held.append(os.open('/dev/null', os.O_RDONLY))
except OSError as e: number = e.errno
count = len(held)
for fd in held: os.close(fd)
tell([name_of(number), count])""")
    assert got[0] == "EMFILE" and got[1] <= 1024, got


def test_limits_cannot_be_raised(server):
    got = inside(server, """
import resource
out = {}
for name in ('NOFILE', 'FSIZE', 'CORE', 'MEMLOCK', 'RTPRIO', 'MSGQUEUE'):
    try:
        resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (1 << 40, 1 << 40))
        out[name] = 'allowed'
    except (ValueError, OSError): out[name] = 'refused'
tell(out)""")
    assert set(got.values()) == {"refused"}, got


# ---- uploads ----


@pytest.mark.parametrize("path", ["../escape", "/workspace/../etc/x", "a/../../b", "/proc/self/mem",
                                  "/proc/1/mem", "/proc/sys/kernel/hostname", "/dev/null", "/dev/x",
                                  "/usr/bin/x", "/usr/lib/python3/x", "/etc/passwd", "/sys/x",
                                  "/bin/sh", "/proc/self/fd/1", "/proc/self/cwd/x", "/dev/stdout",
                                  "/dev/fd/1", "/root/x", "/x", "/lib/x"])
def test_uploads_to_forbidden_places(server, path):
    """A clear 400 that names the files, and no code has run."""
    answer = server.post({"code": "print('ran')",
                          "files": [{"path": path, "content": "eHh4"}]})
    assert_error(answer, 400, "file")


def test_upload_over_a_folder(server):
    files = [{"path": "d/x", "content": "eA=="}, {"path": "d", "content": "eA=="}]
    assert_error(server.post({"code": "print('ran')", "files": files}), 400, "file")


def test_upload_larger_than_the_storage(server):
    files = [{"path": "big", "content": base64.b64encode(b"x" * (2 << 20)).decode()}]
    answer = server.post({"code": "print('ran')", "files": files,
                          "resources": {"ram": "32MiB", "storage": "1MiB"}})
    assert_error(answer, 400, "file")


# ---- all of it at once ----


def test_bombs_leave_nothing(clean_server):
    forks = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    memory = "x = []\nwhile True: x.append(bytearray(1 << 22))\n"
    files = ("import os\ni = 0\nwhile True:\n    try:\n        i += 1\n"
             "        open(f'/tmp/{i}', 'wb').write(b'x' * 4096)\n    except OSError: pass\n")
    pipes = ("import os\nx = []\nwhile True:\n    try: x.append(os.pipe())\n"
             "    except OSError: pass\n")
    for code in (forks, memory, files, pipes, forks):
        done = clean_server.execute(code, timeout=1.5,
                                    resources={"ram": "64MiB", "storage": "16MiB"})
        assert done["killed_by"] in ("timeout", "oom"), done
    clean_server.hello()
    wait_until(lambda: not clean_server.code_pids(), "no code runs")
