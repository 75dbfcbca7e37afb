"""What the kernel counts for a user and not for a namespace: sandboxes that take all they can get
must leave the host, and each other, theirs."""
import ctypes
import os
import threading

TAKE_ALL = """
import ctypes, time
libc = ctypes.CDLL(None)
taken = 0
while libc.inotify_init() >= 0:
    taken += 1
print(taken, flush=True)
time.sleep(30)
"""


def take_of_host(libc, wanted):
    """How many of wanted inotify instances root on the host gets; gives them back."""
    taken = []
    while len(taken) < wanted:
        fd = libc.inotify_init()
        if fd < 0:
            break
        taken.append(fd)
    for fd in taken:
        os.close(fd)
    return len(taken)


def test_inotify_instances_of_the_host_stay_its_own(server):
    libc = ctypes.CDLL(None)
    before = take_of_host(libc, 100)
    assert before > 0
    streams = [server.stream(TAKE_ALL, timeout=40) for _ in range(16)]
    try:
        counts = []

        def first_output(stream):
            for name, data in stream:
                if name == "stdout":
                    counts.append(int(data["text"]))
                    return

        threads = [threading.Thread(target=first_output, args=[one]) for one in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(counts) == len(streams)
        assert min(counts) == max(counts) > 0, "each sandbox has the same share"
        assert take_of_host(libc, 100) == before
    finally:
        for stream in streams:
            stream.close()
