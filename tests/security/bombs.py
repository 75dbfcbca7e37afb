"""The bombs of test_bombs.py: programs that take all that they can get of one thing, and go on taking
until they are ended. Each is Python that runs in a sandbox."""

PRELUDE = """
import ctypes, errno, mmap, os, resource, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def forever(take):
    # Takes until an error, keeps what it has, and tries again.
    held = []
    while True:
        try:
            for _ in range(1000): held.append(take())
        except (OSError, ValueError, MemoryError, RuntimeError):
            time.sleep(0.001)
def in_children(take, count=20):
    # As many processes, since some limits are a process's own.
    for _ in range(count):
        if os.fork() == 0: forever(take)
    forever(take)
"""

# name: (code, how it may end, limits that it has to hit, resources or None)
SMALL = {"ram": "64MiB", "storage": "16MiB"}
BOMBS = {
    # no bomb: what the neighbour's figures are measured against on a busy machine
    "nothing": ("time.sleep(1000)\n", {"timeout"}, set(), None),
    "forks": ("while True:\n    try: os.fork()\n    except OSError: pass\n",
              {"timeout"}, {"pids"}, None),
    "threads": ("def stay(): time.sleep(1000)\n"
                "forever(lambda: threading.Thread(target=stay, daemon=True).start())\n",
                {"timeout"}, {"pids"}, None),
    "zombies": ("def take():\n    if os.fork() == 0: os._exit(0)\nforever(take)\n",
                {"timeout"}, {"pids"}, None),
    "processor": ("for _ in range(30):\n    if os.fork() == 0: break\nwhile True: pass\n",
                  {"timeout"}, set(), None),
    "processor_share": ("for _ in range(30):\n    if os.fork() == 0: break\nwhile True: pass\n",
                        {"timeout"}, {"cpu"}, {"cpu": "0.2"}),
    "memory": ("x = []\nwhile True: x.append(bytearray(4 << 20))\n", {"oom"}, {"memory"}, SMALL),
    "memory_in_many": ("for _ in range(50):\n    if os.fork() == 0: break\n"
                       "x = []\nwhile True: x.append(bytearray(1 << 18))\n",
                       {"oom"}, {"memory"}, SMALL),
    "memory_maps": ("forever(lambda: mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE |"
                    " mmap.MAP_ANONYMOUS | 0x4000))\n", {"timeout", "oom"}, set(), SMALL),
    "memory_pieces": ("forever(lambda: mmap.mmap(-1, 4096))\n", {"timeout", "oom"}, set(), SMALL),
    "memory_locked": ("def take():\n    area = mmap.mmap(-1, 1 << 20)\n"
                      "    if libc.mlock(ctypes.c_void_p(ctypes.addressof("
                      "ctypes.c_char.from_buffer(area))), 1 << 20): raise OSError\n"
                      "    return area\nforever(take)\n", {"timeout", "oom"}, set(), SMALL),
    "memory_files": ("def take():\n    fd = os.memfd_create('x')\n    os.write(fd, bytes(1 << 20))\n"
                     "    return fd\nforever(take)\n", {"oom"}, {"memory"}, SMALL),
    "shared_memory": ("libc.shmat.restype = ctypes.c_void_p\ndef take():\n"
                      "    n = libc.shmget(0, 1 << 20, 0o1600)\n    if n < 0: raise OSError\n"
                      "    ctypes.memset(libc.shmat(n, None, 0), 1, 1 << 20)\nforever(take)\n",
                      {"oom"}, {"memory"}, SMALL),
    "shared_memory_empty": ("def take():\n    if libc.shmget(0, 1 << 30, 0o1600) < 0: raise OSError\n"
                            "forever(take)\n", {"timeout", "oom"}, set(), SMALL),
    "files": ("n = 0\ndef take():\n    global n\n    n += 1\n"
              "    with open(f'/tmp/{n % 3000}', 'wb') as f: f.write(bytes(1 << 16))\n"
              "forever(take)\n", {"timeout"}, {"disk"}, SMALL),
    "disk": ("n = 0\ndef take():\n    global n\n    n += 1\n"
             "    with open(f'/tmp/{n}', 'wb') as f: f.write(bytes(1 << 20))\n"
             "forever(take)\n", {"timeout"}, {"disk"}, {"ram": "64MiB", "storage": "96MiB"}),
    "inodes": ("n = 0\ndef take():\n    global n\n    n += 1\n    open(f'/tmp/{n}', 'w').close()\n"
               "forever(take)\n", {"timeout"}, {"files"}, SMALL),
    "sparse_files": ("n = 0\ndef take():\n    global n\n    n += 1\n"
                     "    with open(f'/tmp/{n % 1000}', 'w') as f:\n"
                     "        f.seek((15 << 20) - 1); f.write('x')\n"
                     "    os.truncate(f'/tmp/{n % 1000}', 1 << 60)\nforever(take)\n",
                     {"timeout"}, set(), SMALL),
    "deep_folders": ("os.chdir('/tmp')\ndef take():\n    os.mkdir('d'); os.chdir('d')\nforever(take)\n",
                     {"timeout"}, set(), SMALL),
    "long_names": ("n = 0\ndef take():\n    global n\n    n += 1\n"
                   "    os.symlink('x' * 4000, '/tmp/' + str(n).rjust(250, 'y'))\nforever(take)\n",
                   {"timeout", "oom"}, set(), SMALL),
    "absent_names": ("n = 0\nwhile True:\n    n += 1\n    os.path.exists('/tmp/' + 'z' * 200 + str(n))\n",
                     {"timeout", "oom"}, set(), SMALL),
    "descriptors": ("in_children(lambda: os.open('/dev/null', os.O_RDONLY))\n",
                    {"timeout", "oom"}, set(), None),
    "pipes": ("def take():\n    r, w = os.pipe()\n    os.set_blocking(w, False)\n"
              "    try:\n        while True: os.write(w, bytes(65536))\n"
              "    except BlockingIOError: pass\n    return r, w\nin_children(take)\n",
              {"timeout", "oom"}, set(), SMALL),
    "socket_buffers": ("def take():\n    a, b = socket.socketpair()\n    a.setblocking(False)\n"
                       "    a.setsockopt(1, 7, 1 << 30)\n"
                       "    try:\n        while True: a.send(bytes(65536))\n"
                       "    except BlockingIOError: pass\n    return a, b\nin_children(take)\n",
                       {"timeout", "oom"}, set(), SMALL),
    "passed_descriptors": ("def take():\n    a, b = socket.socketpair()\n    a.setblocking(False)\n"
                           "    while True: socket.send_fds(a, [b'x'], [a.fileno(), b.fileno()] * 100)\n"
                           "in_children(take)\n", {"timeout", "oom"}, set(), SMALL),
    "loopback": ("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0))\n"
                 "for _ in range(8):\n    if os.fork() == 0: break\n"
                 "while True: s.sendto(bytes(60000), s.getsockname())\n", {"timeout"}, set(), None),
    "polls": ("import select\nin_children(select.epoll)\n", {"timeout", "oom"}, set(), None),
    "timers": ("def take():\n    if libc.timerfd_create(1, 0) < 0: raise OSError\nin_children(take)\n",
               {"timeout", "oom"}, set(), None),
    "posix_timers": ("def take():\n    n = ctypes.c_int()\n"
                     "    if libc.syscall(222, 1, None, ctypes.byref(n)): raise OSError\n"
                     "in_children(take)\n", {"timeout", "oom"}, set(), None),
    "events": ("def take():\n    if libc.eventfd(0, 0) < 0: raise OSError\nin_children(take)\n",
               {"timeout", "oom"}, set(), None),
    "watches": ("os.makedirs('/tmp/w')\nfd = libc.inotify_init()\nn = 0\ndef take():\n"
                "    global n\n    n += 1\n    path = f'/tmp/w/{n}'\n    open(path, 'w').close()\n"
                "    if libc.inotify_add_watch(fd, path.encode(), 0xfff) < 0: raise OSError\n"
                "forever(take)\n", {"timeout", "oom"}, set(), None),
    "inotify": ("def take():\n    if libc.inotify_init() < 0: raise OSError\nin_children(take)\n",
                {"timeout", "oom"}, set(), None),
    "terminals": ("in_children(lambda: os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY), 40)\n",
                  {"timeout", "oom"}, set(), None),
    "locks": ("import fcntl\nf = open('/tmp/l', 'w')\nn = 0\ndef take():\n    global n\n    n += 2\n"
              "    fcntl.lockf(f, fcntl.LOCK_EX, 1, n)\nforever(take)\n",
              {"timeout", "oom"}, set(), SMALL),
    "signals": ("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
                "def take():\n    if libc.sigqueue(os.getpid(), 40, ctypes.c_void_p(0)): raise OSError\n"
                "in_children(take)\n", {"timeout"}, set(), None),
    "arguments": ("for _ in range(60):\n    if os.fork() == 0: break\nwhile True:\n"
                  "    if os.fork() == 0:\n"
                  "        try: os.execve('/bin/true', ['x' * 130000] * 15, {'E': 'y' * 130000})\n"
                  "        except OSError: os._exit(1)\n    os.wait()\n",
                  {"timeout", "oom"}, set(), {"ram": "128MiB", "storage": "16MiB"}),
    "output": ("block = b'x' * 65536\nfor _ in range(16384): os.write(1, block)\n",
               {"output"}, {"output"}, None),
    "syncs": ("for _ in range(8):\n    if os.fork() == 0: break\n"
              "fd = os.open('/workspace', os.O_RDONLY)\n"
              "while True:\n    os.sync()\n    if libc.syncfs(fd): raise OSError\n",
              {"timeout"}, set(), None),
    "namespace_calls": ("while True: libc.unshare(0x10000000); libc.clone(0, 0, 0x10000000, 0)\n",
                        {"timeout"}, set(), None),
    "filters": ("code = (ctypes.c_uint64 * 1)(0x7fff000000000006)\n"
                "class Prog(ctypes.Structure):\n"
                "    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]\n"
                "prog = Prog(1, ctypes.addressof(code))\n"
                "def take():\n    if libc.prctl(22, 2, ctypes.byref(prog)): raise OSError\nforever(take)\n",
                {"timeout", "oom"}, set(), SMALL),
}
