"""Profile "container": root inside, with what Docker gives by default, over an image that is the
host's and stays as it is. In memory and on disk."""
import hashlib
import os
import shutil
import stat
import subprocess

import pytest

from engine import Engine, MIB
from faults import assert_nothing_left, skip_unless
from harness import listed_mounts, read

ROOTS = {"memory": {"memory": 512 * MIB, "storage": 200 * MIB},
         "disk": {"memory": 256 * MIB, "storage": 400 * MIB, "disk": True}}
WATCHED = ("/usr/bin/passwd", "/usr/bin/env", "/etc/passwd", "/etc/hosts", "/var/lib/dpkg/status",
           "/usr/share", "/usr/share/doc", "/usr/bin", "/etc")


def look_at_host():
    """What a sandbox must not change: content, owner, mode and times of a few files and folders."""
    found = {}
    for path in filter(os.path.exists, WATCHED):
        info = os.stat(path)
        inside = (sorted(os.listdir(path)) if os.path.isdir(path)
                  else hashlib.sha256(open(path, "rb").read()).hexdigest())
        found[path] = (info.st_mtime_ns, info.st_uid, info.st_gid, info.st_mode, info.st_ino,
                       inside)
    return found


@pytest.fixture(scope="module")
def engine():
    skip_unless(container=True)
    before = look_at_host()
    one = Engine().start()
    yield one
    one.stop()
    try:
        assert_nothing_left(one.state)
    finally:
        one.remove()
    assert look_at_host() == before


@pytest.fixture(params=ROOTS)
def box(engine, request):
    skip_unless(container=True, disk=request.param == "disk")
    with engine.create(profile="container", **ROOTS[request.param]) as sandbox:
        yield sandbox


@pytest.fixture
def two(engine):
    with engine.create(profile="container") as one:
        with engine.create(profile="container") as other:
            yield one, other


def ok(sandbox, script, **options):
    result = sandbox.sh(script, **options)
    assert (result.exit_code, result.cause) == (0, "none"), f"{script}: {result}"
    return result.stdout.decode()


def test_who_one_is(box):
    assert ok(box, "id -u; id -g; id -G").split() == ["0", "0", "0"]
    assert ok(box, "touch /etc/new /usr/new /var/new /root/new /opt/new && echo done") == "done\n"


def test_the_owners_of_the_image_are_right(box):
    """Owner, group and mode of every program, set-user-ID ones too, as on the host."""
    command = "find /usr/bin /usr/sbin ! -type l -printf '%p %U %G %m\\n' | sort"
    host = subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, text=True)
    wanted = [line for line in host.stdout.splitlines()
              if all(int(word) < 65535 for word in line.split()[-3:-1])]
    assert any(line.endswith(" 4755") for line in wanted)
    assert set(wanted) <= set(ok(box, command).splitlines())


def test_chown(box):
    assert ok(box, "cd /workspace && touch a && mkdir d && chown 1234:4321 a && chown -R 33:33 d && "
                   "stat -c '%u:%g' a d /usr/bin/env").split() == ["1234:4321", "33:33", "0:0"]
    ok(box, "chown 7:8 /usr/bin/env && stat -c '%u:%g' /usr/bin/env | grep -qx 7:8")


def test_su(box):
    assert ok(box, "su sandbox -c 'id -un; id -u'").split() == ["sandbox", "1000"]
    assert ok(box, "su -s /bin/sh nobody -c 'id -u; cat /etc/shadow' 2>&1 || true").startswith(
        "65534\n")
    denied = box.sh("su -s /bin/sh nobody -c 'cat /etc/shadow'")
    assert denied.exit_code != 0 and b"denied" in denied.stderr, denied


@pytest.mark.skipif(not shutil.which("sudo"), reason="sudo is not installed")
def test_sudo(box):
    ok(box, "mkdir -p /etc/sudoers.d && echo 'sandbox ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/s && "
            "chmod 440 /etc/sudoers.d/s")
    ok(box, "grep -qs '^@includedir /etc/sudoers.d' /etc/sudoers || { "
            "echo '@includedir /etc/sudoers.d' >> /etc/sudoers; chmod 440 /etc/sudoers; }")
    assert ok(box, "su sandbox -c 'sudo -n id -u'") == "0\n"
    refused = box.sh("su -s /bin/sh nobody -c 'sudo -n id -u'")
    assert refused.exit_code != 0, refused


PACKAGE = {
    "DEBIAN/control": "Package: berth-test-package\nVersion: 1.0\nArchitecture: all\n"
                      "Maintainer: nobody <nobody@example.invalid>\nDescription: for a test\n",
    "DEBIAN/postinst": "#!/bin/sh\nset -e\nid -u > /var/lib/berth-test-package\n"
                       "chown daemon:daemon /opt/berth-test-package/data\n",
    "opt/berth-test-package/data": "packaged\n",
    "usr/share/berth-test-package/more": "more\n",
}


def build_package(folder):
    for name, text in PACKAGE.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "tree" / "DEBIAN" / "postinst").chmod(0o755)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(folder / "tree"),
                    str(folder / "package.deb")], check=True, capture_output=True)
    return (folder / "package.deb").read_bytes()


@pytest.mark.skipif(not shutil.which("apt-get"), reason="the host's image has no apt")
def test_apt_installs_and_removes_a_package(box, tmp_path):
    assert box.put_file("/root/package.deb", build_package(tmp_path)).errno == 0
    ok(box, "DEBIAN_FRONTEND=noninteractive apt-get install -y /root/package.deb", timeout_ms=120000)
    assert ok(box, "cat /opt/berth-test-package/data /usr/share/berth-test-package/more "
                   "/var/lib/berth-test-package") == "packaged\nmore\n0\n"
    assert ok(box, "stat -c %U:%G /opt/berth-test-package/data") == "daemon:daemon\n"
    assert "ok installed" in ok(box, "dpkg -s berth-test-package")
    ok(box, "DEBIAN_FRONTEND=noninteractive apt-get purge -y berth-test-package", timeout_ms=120000)
    assert box.sh("dpkg -s berth-test-package").exit_code != 0
    assert box.sh("ls /usr/share/berth-test-package").exit_code != 0
    assert not os.path.exists("/usr/share/berth-test-package")


def test_a_set_user_id_program_works_inside(box):
    ok(box, "cp /usr/bin/id /workspace/id && chown 0:0 /workspace/id && chmod 4755 /workspace/id")
    assert "euid=0(root)" in ok(box, "su -s /bin/sh nobody -c /workspace/id")
    ok(box, "chown 33:33 /workspace/id && chmod 4755 /workspace/id")
    assert "euid=33" in ok(box, "su -s /bin/sh nobody -c /workspace/id")


def test_file_capabilities_work_inside(box):
    ok(box, "cp /bin/cat /workspace/cat && setcap cap_dac_override+ep /workspace/cat && "
            "echo secret > /root/s && chmod 600 /root/s")
    assert ok(box, "su -s /bin/sh nobody -c '/workspace/cat /root/s'") == "secret\n"


PING = """
import socket, struct
def checksum(data):
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
    sock.settimeout(20)
    body = struct.pack('!BBHHH', 8, 0, 0, 0, 1) + b'berthping!'
    sock.sendto(body[:2] + struct.pack('!H', checksum(body)) + body[4:], ('127.0.0.1', 0))
    reply = sock.recv(1024)
assert reply[0] == 0 and reply.endswith(b'berthping!'), reply
print('pong')
"""


def test_ping_to_loopback(box):
    """As ping(8) does it; a raw socket would need the network namespace to be the code's own."""
    result = box.run("/usr/bin/python3", "-c", PING)
    assert result.stdout == b"pong\n", result
    if box.sh("command -v ping").exit_code == 0:
        ok(box, "ping -c 1 127.0.0.1 && su sandbox -c 'ping -c 1 127.0.0.1'")


def test_a_low_port_can_be_served(box):
    result = box.run("/usr/bin/python3", "-c", "import socket; s = socket.create_server(('', 80));"
                     "c = socket.create_connection(('127.0.0.1', 80)); print(c.getpeername()[1])")
    assert result.stdout == b"80\n", result


def test_chroot_works_and_mounts_do_not(box):
    assert ok(box, "chroot / /bin/echo inside") == "inside\n"
    for refused in ("mount -t tmpfs none /mnt", "mount --bind /usr /mnt", "umount /proc",
                    "unshare -U true", "unshare -m true", "unshare -n true",
                    "mknod /workspace/disk b 7 0", "date -s 2001-01-01",
                    "swapon /workspace/x", "insmod /workspace/x", "echo 1 > /proc/sys/vm/swappiness",
                    "ip link add d0 type dummy 2>/dev/null || false", "dmesg"):
        result = box.sh(refused)
        assert result.exit_code != 0, f"{refused}: {result}"
    assert ok(box, "hostname other; uname -n") == "sandbox\n"


def test_folders_of_the_image_are_removed_and_made_again(box):
    many = int(ok(box, "ls /usr/share/doc | wc -l"))
    assert many > 0
    ok(box, "rm -r /usr/share/doc && ! ls /usr/share/doc")
    assert ok(box, "mkdir /usr/share/doc && ls -A /usr/share/doc | wc -l") == "0\n"
    assert ok(box, "echo new > /usr/share/doc/one && cat /usr/share/doc/*") == "new\n"
    assert ok(box, "rm /usr/bin/env && ! ls /usr/bin/env 2>/dev/null && echo x > /usr/bin/env && "
                   "cat /usr/bin/env") == "x\n"
    assert ok(box, "mv /usr/share/man /usr/share/woman && ls -d /usr/share/*man") == (
        "/usr/share/woman\n")
    assert ok(box, "rm /etc/hosts && mkdir /etc/hosts && stat -c %F /etc/hosts") == "directory\n"
    assert len(os.listdir("/usr/share/doc")) == many


def test_two_do_not_see_each_other(two):
    one, other = two
    ok(one, "echo mine > /usr/share/only-one && rm /usr/bin/env && echo x >> /etc/passwd && "
            "rm -r /usr/share/doc")
    assert other.sh("ls /usr/share/only-one").exit_code != 0
    ok(other, "/usr/bin/env true && ! grep -x x /etc/passwd && test -d /usr/share/doc")
    assert not os.path.exists("/usr/share/only-one")


def run_as_nobody(path):
    """What a set-user-ID id says when an ordinary user of the host starts it, if it starts at all.
    The descriptor is opened by root: nobody alone would not even get there."""
    fd = os.open(path, os.O_RDONLY)
    try:
        done = subprocess.run([f"/proc/self/fd/{fd}"], pass_fds=[fd], user=65534, group=65534,
                              extra_groups=[], capture_output=True, text=True, check=False)
        return done.stdout
    except OSError:
        return ""
    finally:
        os.close(fd)


def test_a_set_user_id_root_program_is_nothing_to_the_host(engine, box):
    ok(box, "cp /usr/bin/id /workspace/id && chown 0:0 /workspace/id && chmod 6755 /workspace/id && "
            "cp /usr/bin/id /usr/bin/id2 && chmod 6755 /usr/bin/id2")
    pid = engine.init_pid(box.id)
    for name in ("workspace/id", "usr/bin/id2"):
        path = f"/proc/{pid}/root/{name}"
        info = os.stat(path)
        assert info.st_mode & stat.S_ISUID and info.st_uid >= 0x70000000, info
        said = run_as_nobody(path)
        assert "uid=65534" in said and "euid" not in said and "egid" not in said, said
    denied = subprocess.run(["/bin/ls", f"/proc/{pid}/root/"], user=65534, group=65534,
                            extra_groups=[], capture_output=True, check=False)
    assert denied.returncode != 0
    assert not [line for line in listed_mounts(1) + listed_mounts("self")
                if str(engine.state) in line or "/dev/loop" in line and "berth" in line]


def test_a_kept_disk_is_out_of_reach(engine):
    skip_unless(container=True, disk=True)
    spec = {**ROOTS["disk"], "keep_files": True}
    box = engine.create("kept-root", profile="container", **spec)
    ok(box, "cp /usr/bin/id /workspace/id && chmod 4755 /workspace/id && sync")
    box.channel.close()
    engine.stop_sandbox("kept-root")
    disks = engine.state / "priv" / "disks"
    assert stat.S_IMODE(disks.stat().st_mode) == 0o700
    assert stat.S_IMODE((disks / "kept-root.keep").stat().st_mode) == 0o600
    assert (disks / "kept-root.keep").stat().st_uid == 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        assert "kept-root" not in read(f"/proc/{pid}/mountinfo"), pid
    with engine.restart_sandbox("kept-root", profile="container", **spec) as again:
        assert "euid=0" in ok(again, "su -s /bin/sh nobody -c /workspace/id")


def test_over_http(server):
    skip_unless(container=True)
    done = server.execute("import os, subprocess\nprint(os.getuid())\nos.chown('/workspace', 5, 6)\n"
                          "subprocess.run(['rm', '-r', '/usr/share/doc'], check=True)\n"
                          "print(os.stat('/workspace').st_uid, os.path.exists('/usr/share/doc'))",
                          profile="container")
    assert (done["stdout"], done["exit_code"]) == ("0\n5 False\n", 0), done
    done = server.execute("import os; print(os.getuid(), os.path.exists('/usr/share/doc'))")
    assert done["stdout"] == "1000 True\n", done
