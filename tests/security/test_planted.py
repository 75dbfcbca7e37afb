"""Attacks in which the host acts on a sandbox while its code runs: files are written and read where
the code has planted something, programs enter, a second sandbox starts. The code may do what it
likes with its own files; nothing may be reached through them."""
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import subprocess
import time

import pytest

import verdicts
from engine import Engine
from harness import assert_error, read, wait_until
from host import uploads
from running import Running, open_files
from test_attacks import settle

STAY = "\nprint('ready', flush=True)\nimport time\nwhile True: time.sleep(0.05)\n"
PLANT = "import os\nos.chdir('/workspace')\n"


@contextlib.contextmanager
def running(server, profile, code, **options):
    """Code that has planted its things and stays."""
    one = Running(server, PLANT + code + STAY, profile, **options)
    sandbox = one.connect()
    try:
        yield one, sandbox
    finally:
        sandbox.close()
        one.end()


def conclude(host, name, profile, detail, reached=None, output=""):
    """The verdict: stopped, unless the test saw something reached or the host does."""
    if reached:
        settle("native", name, profile, "host", {"verdict": "ESCAPED", "detail": reached})
    else:
        settle("native", name, profile, "host", {"verdict": "stopped", "detail": detail}, host.check(output))


def words(numbers):
    return ", ".join(sorted({errno.errorcode.get(n, "written inside") for n in numbers}))


def links_to(targets):
    return "".join(f"os.symlink({str(target)!r}, 'link{i}')\n" for i, target in enumerate(targets))


def put_each(sandbox, count, mode=0o644):
    return [sandbox.put(f"/workspace/link{i}", mode=mode) for i in range(count)]


# ---- uploads ----


def test_upload_symlink(server, host, profile):
    targets = [host.file, f"/../../../..{host.file}", "../../../../../.." + str(host.file),
               f"/proc/1/root{host.file}", f"/proc/self/root{host.file}", "/usr/bin/env",
               "/etc/passwd", host.state_files[0], host.posix_shm]
    with running(server, profile, links_to(targets)) as (_, sandbox):
        got = put_each(sandbox, len(targets))
    conclude(host, "upload_symlink", profile, words(got))


def test_upload_symlink_parent(server, host, profile):
    targets = [host.folder, "/proc/1/root" + str(host.folder), "../../../../root", "/usr/bin",
               "/etc", "/proc/self/cwd", "/proc/self/fd", server.state, "link5"]
    with running(server, profile, links_to(targets)) as (_, sandbox):
        got = [sandbox.put(f"/workspace/link{i}/{name}") for i in range(len(targets))
               for name in ("secret", "env", "deep/er")]
        loops = sandbox.put("/workspace/link8/x")
    assert loops != 0
    conclude(host, "upload_symlink_parent", profile, words(got))


def test_upload_chown(server, host, profile):
    """Owner and mode change with the write: by the code's rights, on the code's own files."""
    targets = ["/usr/bin/env", "/etc/passwd", host.file, "/usr/bin"]
    with running(server, profile, links_to(targets)) as (one, sandbox):
        got = put_each(sandbox, len(targets), mode=0o777)
        assert sandbox.put("/workspace/fresh", mode=0o755) == 0
        with pytest.raises(ConnectionError):  # no such mode is taken
            sandbox.put("/workspace/special", mode=0o6755)
        owner = os.stat(one.root("/workspace/fresh")).st_uid
    assert owner >= 65536, f"a file of user {owner} of the host"
    conclude(host, "upload_chown", profile, words(got))


def test_upload_fifo(server, host, profile):
    code = ("os.mkfifo('idle'); os.mkfifo('read')\n"
            "fd = os.open('read', os.O_RDWR | os.O_NONBLOCK)\n")
    with running(server, profile, code) as (_, sandbox):
        got = [sandbox.put("/workspace/idle"), sandbox.put("/workspace/read")]
    assert 0 not in got, got
    conclude(host, "upload_fifo", profile, words(got))


def test_upload_device(server, host, profile):
    code = "import pty\nleader, follower = pty.openpty()\n"
    paths = ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/pts/0",
             "/dev/stdout", "/dev/fd/1", "/dev/fresh"]
    with running(server, profile, code) as (_, sandbox):
        got = [sandbox.put(path) for path in paths]
    assert 0 not in got, dict(zip(paths, got))
    conclude(host, "upload_device", profile, words(got))


PROC_TARGETS = [
    "/proc/self/mem", "/proc/self/oom_score_adj", "/proc/self/attr/current", "/proc/self/uid_map",
    "/proc/self/fd/0", "/proc/self/fd/3", "/proc/self/exe", "/proc/thread-self/comm",
    "/proc/1/mem", "/proc/1/oom_score_adj", "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"]


def test_upload_procfs(server, host, profile):
    with running(server, profile, links_to(PROC_TARGETS)) as (_, sandbox):
        got = put_each(sandbox, len(PROC_TARGETS))
        got += [sandbox.put(path) for path in PROC_TARGETS]
    assert 0 not in got, got
    conclude(host, "upload_procfs", profile, words(got))


def test_upload_hardlink(server, host, profile):
    """Hard links reach the code's own files only: others are on another mount."""
    code = ("open('own', 'w').write('own')\nos.link('own', 'second')\nrefused = []\n"
            "for path in ('/usr/bin/env', '/etc/passwd', '/proc/self/exe', '/dev/null'):\n"
            "    try: os.link(path, 'link-' + os.path.basename(path)); print('linked', path)\n"
            "    except OSError: pass\n")
    with running(server, profile, code) as (one, sandbox):
        assert sandbox.put("/workspace/second") == 0
        assert pathlib.Path(one.root("/workspace/own")).read_text() == "written by the host\n"
        assert "linked" not in one.output, one.output
    conclude(host, "upload_hardlink", profile, "there are none to files that are not the code's")


SWAP = """
import ctypes
libc = ctypes.CDLL(None)
os.mkdir('d')
for name in ('env', 'passwd', 'secret', 'fresh'): open('d/' + name, 'w').close()
targets = ['/usr/bin', '/etc', {folder!r}, '/proc/self', '/proc/1/root/usr/bin', '/proc/1/cwd']
for i, target in enumerate(targets): os.symlink(target, f't{{i}}')
if os.fork() == 0:
    while True:
        for i in range(len(targets)):
            for _ in range(2):  # there and back
                libc.syscall(316, -100, b'd', -100, b't%d' % i, 2)
"""


def test_upload_race(server, host, profile):
    with running(server, profile, SWAP.format(folder=str(host.folder))) as (_, sandbox):
        got = [sandbox.put("/workspace/d/" + ("env", "passwd", "secret", "fresh")[i % 4])
               for i in range(400)]
    conclude(host, "upload_race", profile, f"400 writes: {words(got)}")


TRAVERSALS = ["../escape", "/workspace/../etc/x", "a/../../b", "/proc/self/mem", "/proc/1/mem",
              "/proc/sys/kernel/hostname", "/dev/null", "/dev/x", "/usr/bin/x", "/sys/x", "/bin/sh",
              "/usr/lib/python3/x", "/etc/passwd", "/proc/self/fd/1", "/proc/self/cwd/x",
              "/dev/stdout", "/dev/fd/1", "/root/x", "/x", "/lib/x"]


def test_upload_traversal(server, host, profile):
    """By the protocol, past the server's own checks of paths."""
    paths = TRAVERSALS + ["/", "/workspace", "//proc//self/mem", "/workspace/./../../proc/1/mem",
                          "../" * 40 + "root/x", "/" + "a" * 300]
    # root inside may write to its own root; the image stays as it is.
    allowed = {"container": {"../escape", "/root/x", "/x", "/workspace/../etc/x", "/etc/passwd",
                             "a/../../b", "../" * 40 + "root/x"}}.get(profile, set())
    with running(server, profile, "") as (_, sandbox):
        got = {path: sandbox.put(path) for path in paths}
    written = [path for path, number in got.items() if number == 0 and path not in allowed]
    conclude(host, "upload_traversal", profile, words(got.values()),
             reached=f"written: {written}" if written else None)


@pytest.mark.parametrize("path", TRAVERSALS)
def test_uploads_to_forbidden_places(server, path):
    """A clear 400 that names the files, and no code has run."""
    answer = server.post({"code": "print('ran')", "profile": "strict",
                          "files": [{"path": path, "content": "eHh4"}]})
    assert_error(answer, 400, "file")


# ---- downloads ----


def refuse_all(host, name, profile, got):
    """No file that is not the code's own may give a byte."""
    given = [f"{path} gave {data[:40]!r}" for path, (_, data) in got.items() if data]
    conclude(host, name, profile, words(number for number, _ in got.values()),
             reached="; ".join(given))


def test_download_symlink(server, host, profile):
    targets = [host.file, f"/../../../..{host.file}", f"/proc/1/root{host.file}",
               f"/proc/self/root{host.file}", host.state_files[0],
               "/proc/1/cwd/etc/passwd"]
    with running(server, profile, links_to(targets)) as (_, sandbox):
        got = {target: sandbox.get(f"/workspace/link{i}") for i, target in enumerate(targets)}
    refuse_all(host, "download_symlink", profile, got)


def test_download_fifo(server, host, profile):
    with running(server, profile, "os.mkfifo('idle')\n") as (_, sandbox):
        got = {path: sandbox.get(path) for path in ("/workspace/idle", "/dev/zero", "/dev/random",
                                                    "/dev/tty", "/dev/stdin")}
    assert all(number != 0 for number, _ in got.values()), got
    refuse_all(host, "download_fifo", profile, got)


def test_download_procfs(server, host, profile):
    targets = ["/proc/1/environ", "/proc/self/environ", "/proc/self/maps", "/proc/self/mem",
               "/proc/self/exe", "/proc/self/fd/3", "/proc/kcore", "/proc/1/cmdline"]
    with running(server, profile, links_to(targets)) as (_, sandbox):
        got = {path: sandbox.get(path) for path in targets}
        got |= {f"link to {target}": sandbox.get(f"/workspace/link{i}")
                for i, target in enumerate(targets)}
    refuse_all(host, "download_procfs", profile, got)


# ---- files that the image shares with the host ----


def test_host_locks(server, host, profile):
    code = ("import fcntl\nfiles = [open(p) for p in ('/usr/bin/env', '/usr/bin/id')]\n"
            "for f in files: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n")
    reached = []
    with running(server, profile, code):
        with open("/usr/bin/env", "rb") as mine:
            try:
                fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                reached.append("the host")
        seen = server.execute("import fcntl\n"
                              "fcntl.flock(open('/usr/bin/id'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
                              profile=profile)
        if seen["exit_code"] != 0:
            reached.append("a neighbour")
    conclude(host, "host_locks", profile, "its locks are its own",
             reached and "a lock of the code holds up " + " and ".join(reached))


def test_host_leases(server, host, profile):
    """A lease makes openers wait, the host's too, if it is on the host's inode."""
    code = ("import fcntl\nfiles = [open(p) for p in ('/usr/bin/tac', '/etc/passwd')]\n"
            "for f in files:\n    try: fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_RDLCK)\n"
            "    except OSError as e: print(e.errno)\n")
    with running(server, profile, code):
        info = os.stat("/usr/bin/tac")
        place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino} "
        leases = [line for line in read("/proc/locks").splitlines()
                  if "LEASE" in line and place in line]
    conclude(host, "host_leases", profile, "there are none on the host's files",
             reached="; ".join(leases))


def test_host_watches(server, host, profile):
    code = ("import ctypes, threading\nlibc = ctypes.CDLL(None)\nfd = libc.inotify_init()\n"
            "libc.inotify_add_watch(fd, b'/usr/bin/tac', 0xfff)\n"
            "threading.Thread(target=lambda: (os.read(fd, 4096), print('seen', flush=True)),"
            " daemon=True).start()\n")
    with running(server, profile, code) as (one, _):
        subprocess.run(["/usr/bin/tac", "/dev/null"], check=True)
        server.execute("import subprocess\nsubprocess.run(['tac', '/dev/null'], check=True)",
                       profile=profile)
        time.sleep(0.2)
        output = one.end()
    conclude(host, "host_watches", profile, "only its own use of them is seen",
             reached="the code sees when others run a program" if "seen" in output else None)


# ---- what enters, what is open ----


def devices_of(one):
    """The devices that files of a sandbox are on, pipes and sockets aside."""
    return {os.stat(one.root(path)).st_dev for path in ("/", "/dev", "/workspace", "/dev/shm")}


def test_code_descriptors(server, host, profile):
    """The writer of a file waits for its bytes: what it and the code have open is the sandbox's."""
    with running(server, profile, "") as (one, sandbox):
        stream = sandbox.begin_put("/workspace/slow", b"x")
        wait_until(lambda: any("/slow" in target for pid in one.code_pids()
                               for target, _ in open_files(pid).values()), "the writer has opened")
        seen = [(pid, number, *found) for pid in one.code_pids()
                for number, found in open_files(pid).items()]
        own = devices_of(one)
        foreign = [each for each in seen if each[3] not in own
                   and not each[2].startswith(("pipe:", "socket:"))]
        assert sandbox.end_put(stream) == 0
    conclude(host, "code_descriptors", profile, f"{len(seen)} descriptors, all the sandbox's own",
             reached=str(foreign) if foreign else None)


def test_init_descriptors(server, host, profile):
    with running(server, profile, "") as (one, _):
        own = (f"/berth-{server.instance}/{one.id}", "/ids/", "/dev/null")
        foreign = [f"{number}: {target}" for number, (target, _) in open_files(one.init).items()
                   if not target.startswith(("socket:", "pipe:", "anon_inode:", "user:["))
                   and not any(word in target for word in own)]
    conclude(host, "init_descriptors", profile, "sockets, pipes, its own control groups",
             reached="; ".join(foreign))


ENTERED = """
import ctypes, threading, time
libc = ctypes.CDLL(None)
found = set()
def look():
    mine = os.getpid()
    while True:
        print('looked', flush=True)
        time.sleep(0.002)
        for name in os.listdir('/proc'):
            if not name.isdigit() or int(name) == mine: continue
            if libc.ptrace(0x4206, int(name), 0, 0) == 0:  # PTRACE_SEIZE
                print('entered', name, 'ptrace', flush=True)
            for what, flags in (('exe', os.O_WRONLY), ('exe', os.O_RDONLY), ('mem', os.O_RDWR),
                                ('cwd', os.O_PATH), ('root', os.O_PATH), ('environ', os.O_RDONLY),
                                ('maps', os.O_RDONLY), ('fd/3', os.O_RDONLY), ('fd/5', os.O_PATH)):
                try:
                    fd = os.open(f'/proc/{name}/{what}', flags)
                    # Of a process that is just gone, these open and are empty.
                    empty = what in ('maps', 'environ') and not os.read(fd, 1)
                    os.close(fd)
                except OSError: continue
                if empty: continue
                if (name, what) not in found:
                    found.add((name, what))
                    print('entered', name, what, flags, flush=True)
threading.Thread(target=look, daemon=True).start()
"""


def test_init_exe_entered(server, host, profile):
    """Writers of files are forks of init in the code's own identity: none can be looked into."""
    with running(server, profile, ENTERED) as (one, sandbox):
        for i in range(60):
            stream = sandbox.begin_put(f"/workspace/{i}", b"x" * 20000)
            if i % 4 == 0:  # it stays in the sandbox while the code looks
                one.read_until_grown("looked")
            assert sandbox.end_put(stream) == 0
        output = one.end()
    opened = [line for line in output.splitlines() if line.startswith("entered")]
    conclude(host, "init_exe_entered", profile, "60 entries, none could be opened",
             reached="; ".join(opened)[:200], output=output)


def test_cwd_by_link(host, profile):
    """A working directory is the caller's choice, and what is there the code's."""
    look = "pwd; pwd -P; ls -a . ../../../../..; cat ../../../../../.." + str(host.file)
    places = [f"/proc/self/fd/{number}" for number in range(48)] + [
        "/proc/1/cwd", "/proc/1/root", "/proc/self/cwd", "/proc/thread-self/root", "/workspace/link",
        "/workspace/root", "/proc/self/fd", str(host.folder)]
    with Engine() as engine, engine.create(profile=profile) as sandbox:
        sandbox.sh(f"ln -s {host.folder} /workspace/link; ln -s /proc/1/root /workspace/root")
        got = {place: sandbox.sh(look, cwd=place) for place in places}
        inside = set(sandbox.run("/bin/ls", "-a", "/").stdout.split())
    reached = []
    for place, done in got.items():
        names = set(done.stdout.split()) - inside
        if host.name in str(done) or host.secret in str(done) or {b"priv", b"berth-init"} & names:
            reached.append(f"{place}: {done.stdout[:80]!r}")
    started = [place for place, done in got.items() if not done.start_error]
    conclude(host, "cwd_by_link", profile, f"{len(started)} of {len(places)} are folders, all inside",
             reached="; ".join(reached), output=str(got))


def test_init_exe_program(host, profile):
    """Until it executes, the child is init's own program: it must not be had by a link to itself."""
    script = b"#!/proc/self/exe --version\n"
    with Engine() as engine, engine.create(profile=profile) as sandbox:
        assert sandbox.put_file("/workspace/script", script, mode=0o755).errno == 0
        got = [sandbox.run(program, "--version") for program in (
            "/proc/self/exe", "/proc/1/exe", "/workspace/script", "/proc/thread-self/exe")]
        got += [sandbox.sh(command) for command in (
            "cat /proc/1/exe | head -c 4", "/workspace/script", "exec 9<>/proc/self/exe",
            "for p in /proc/[0-9]*; do echo x > $p/exe; done")]
    ran = sum(b"berth-init" in done.stdout for done in got)
    conclude(host, "init_exe_program", profile, f"init's program is as it was ({ran} ran it)",
             output=str(got))


NEXT = """
import os, json, stat
out = {}
for path in ('/proc/keys', '/proc/timer_list', '/proc/kallsyms'):
    if os.path.exists(path): out[path] = len(open(path, 'rb').read(16))
for path, number in (('/dev/null', (1, 3)), ('/dev/zero', (1, 5)), ('/dev/tty', (5, 0))):
    info = os.lstat(path)
    out[path] = int(not stat.S_ISCHR(info.st_mode) or
                    (os.major(info.st_rdev), os.minor(info.st_rdev)) != number)
for path in ('/proc/sys', '/proc/bus', '/proc/irq', '/proc/fs'):
    out[path] = int(not os.statvfs(path).f_flag & os.ST_RDONLY)
out['/dev/pts'] = int(os.path.islink('/dev/pts') or not os.path.exists('/dev/pts/ptmx'))
print(json.dumps(out))
"""


def test_masks_of_the_next(server, host, profile):
    code = ("import sys\nsys.argv = ['attack', 'masked_paths', 'console_paths', 'host_devices']\n"
            "import attack_main\nattack_main.main()\nos.chdir('/workspace')\n")
    with running(server, profile, code, files=uploads(False), env=host.parameters()) as (one, _):
        done = server.execute(NEXT, profile=profile)
        assert done["exit_code"] == 0, done
        open_now = [path for path, fault in json.loads(done["stdout"]).items() if fault]
    conclude(host, "masks_of_the_next", profile, "all masks of the second are in place",
             reached=", ".join(open_now), output=one.output)


def test_setuid_left(server, host, profile):
    """The host's root runs what was left: neither its owner nor its bits count."""
    code = ("import shutil\nshutil.copy('/usr/bin/id', 'id')\n"
            "try: os.chown('id', 0, 0)\nexcept OSError: pass\nos.chmod('id', 0o6755)\n")
    with running(server, profile, code) as (one, _):
        path = one.root("/workspace/id")
        info = os.stat(path)
        ran = subprocess.run([path, "-u"], capture_output=True, text=True, check=True)
    assert info.st_mode & 0o6000, "the bits were planted"
    reached = None
    if info.st_uid < 65536 or info.st_gid < 65536:
        reached = f"its owner is {info.st_uid}:{info.st_gid} of the host"
    elif ran.stdout.strip() != "0":
        reached = f"it ran as user {ran.stdout}"
    conclude(host, "setuid_left", profile, "its owner is no user of the host, its bits do not count",
             reached)


def test_all_host_attacks_are_here():
    source = pathlib.Path(__file__).read_text()
    for name in verdicts.names("HOST"):
        assert f"def test_{name}(" in source, name
