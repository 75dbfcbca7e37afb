"""A kept disk that the code left in a bad state: full to the last block or the last file, with the
folders gone that a sandbox's mounts go on. It starts again, with everything that was kept."""
import pytest

from engine import Engine, MIB
from faults import assert_nothing_left, skip_unless

SPEC = {"profile": "container", "disk": True, "keep_files": True, "memory": 256 * MIB,
        "storage": 64 * MIB}

# Every folder of the root that nothing is mounted on, and what is in it.
REMOVE = ("rm -rf /.shm /srv /mnt /opt /home /root /var/tmp /var/cache /var/log /run/lock "
          "/run/sudo 2>/dev/null; ls -ld /.shm /srv 2>/dev/null")
# Down to the last block, with writes that end in single bytes; below /usr they go through an overlay.
# What is free then is not the code's.
FILL_BLOCKS = ("for folder in /workspace /usr; do for size in 1M 4k 1; do "
               "dd if=/dev/zero bs=$size of=$folder/f$size conv=fsync 2>/dev/null; done; "
               "for i in 1 2 3 4 5 6 7 8; do echo x > $folder/more$i; done 2>/dev/null; done; "
               "[ $(stat -f -c %f /) -ge 60 ] && stat -f -c %a /")
FILL_FILES = ("mkdir -p /workspace/n && cd /workspace/n && i=0; "
              "while true > $$-$i; do i=$((i+1)); done 2>/dev/null; stat -f -c %d /")
FILLS = {"blocks": FILL_BLOCKS, "files": FILL_FILES}


@pytest.fixture(scope="module")
def engine():
    skip_unless(container=True, disk=True)
    with Engine() as one:
        yield one
        one.stop()
        assert_nothing_left(one.state)


@pytest.fixture
def kept(engine):
    box = engine.create("kept", **SPEC)
    assert box.sh("echo precious > /workspace/kept && sync /workspace/kept").exit_code == 0
    box.channel.close()
    yield
    engine.destroy("kept")


def again(engine, script):
    """Starts it, runs the script, stops it."""
    box = engine.restart_sandbox("kept", **SPEC)
    result = box.sh(script, timeout_ms=100000)
    box.channel.close()
    engine.stop_sandbox("kept")
    return result


@pytest.mark.parametrize("first", ["fill", "remove"])
@pytest.mark.parametrize("what", FILLS)
def test_a_full_disk_without_folders_starts(engine, kept, what, first):
    engine.stop_sandbox("kept")
    steps = [FILLS[what], REMOVE] if first == "fill" else [REMOVE, FILLS[what]]
    for _ in range(3):  # what the first start used is there for the next one
        result = again(engine, "; ".join(steps))
        assert result.cause == "none", result
    if first == "remove":
        assert result.stdout.split() == [b"0"], result  # nothing is left for the code
    result = again(engine, "cat /workspace/kept; ls -d /.shm /srv /root /var/tmp; "
                           "rm -rf /workspace/n /workspace/f* && "
                           "echo new > /dev/shm/new && cat /dev/shm/new")
    assert result.stdout.split() == [b"precious", b"/.shm", b"/root", b"/srv", b"/var/tmp",
                                     b"new"], result
