"""Runs inside a sandbox, as the file attacks.py beside the code: raw system calls, and one line of
JSON for what came of them. Standard library only."""
import ctypes
import errno
import json
import os

libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
NEWIPC, NEWUTS, NEWCGROUP, NEWTIME = 0x8000000, 0x4000000, 0x2000000, 0x80
CALLS = {  # x86-64; Linux: arch/x86/entry/syscalls/syscall_64.tbl
    "ptrace": (101, 0, 0, 0, 0), "mount": (165, b"none", b"/mnt", b"tmpfs", 0, 0),
    "umount2": (166, b"/proc", 0), "swapon": (167, b"/tmp/x", 0), "reboot": (169, 0, 0, 0),
    "pivot_root": (155, b"/", b"/"), "chroot": (161, b"/tmp"), "sethostname": (170, b"x", 1),
    "init_module": (175, 0, 0, b""), "delete_module": (176, b"x", 0),
    "finit_module": (313, 0, b"", 0),
    "kexec_load": (246, 0, 0, 0, 0), "kexec_file_load": (320, 0, 0, 0, 0, 0),
    "add_key": (248, b"user", b"x", b"y", 1, -3), "request_key": (249, b"user", b"x", 0, 0),
    "keyctl": (250, 0, -3, 1), "unshare_user": (272, NEWUSER), "unshare_ns": (272, NEWNS),
    "unshare_net": (272, NEWNET), "unshare_pid": (272, NEWPID), "unshare_cgroup": (272, NEWCGROUP),
    "unshare_ipc": (272, NEWIPC), "unshare_uts": (272, NEWUTS), "unshare_time": (272, NEWTIME),
    "clone_user": (56, NEWUSER | 17, 0, 0, 0, 0), "clone_ns": (56, NEWNS | 17, 0, 0, 0, 0),
    "clone_net": (56, NEWNET | 17, 0, 0, 0, 0), "clone_pid": (56, NEWPID | 17, 0, 0, 0, 0),
    "clone3": (435, 0, 88), "setns": (308, 0, 0), "perf_event_open": (298, 0, 0, -1, -1, 0),
    "bpf": (321, 0, 0, 0), "userfaultfd": (323, 0), "userfaultfd_user": (323, 1),
    "io_uring_setup": (425, 8, 0), "io_uring_enter": (426, 0, 0, 0, 0, 0),
    "io_uring_register": (427, 0, 0, 0, 0), "open_by_handle_at": (304, 3, 0, 0),
    "name_to_handle_at": (303, -100, b"/", 0, 0, 0), "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, 1, 0, 0, 0, 0, 0), "kcmp": (312, 1, 1, 0, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0), "open_tree": (428, -100, b"/", 1),
    "move_mount": (429, 0, 0, 0, 0, 0),
    "fsopen": (430, b"tmpfs", 0), "fsconfig": (431, 0, 0, 0, 0, 0), "fsmount": (432, 0, 0, 0),
    "fspick": (433, -100, b"/", 0), "mount_setattr": (442, -100, b"/", 0, 0, 0),
    "acct": (163, b"/tmp/x"), "quotactl": (179, 0, 0, 0, 0), "settimeofday": (164, 0, 0),
    "clock_settime": (227, 0, 0), "adjtimex": (159, 0), "iopl": (172, 3), "ioperm": (173, 0, 8, 1),
    "syslog": (103, 3, 0, 0), "vhangup": (153,), "modify_ldt": (154, 0, 0, 0),
    "lookup_dcookie": (212, 0, 0, 0), "fanotify_init": (300, 0, 0),
    "move_pages": (279, 1, 0, 0, 0, 0, 0),
    "migrate_pages": (256, 1, 0, 0, 0), "uselib": (134, b"x"), "nfsservctl": (180, 0, 0, 0),
    "memfd_secret": (447, 0), "process_madvise": (440, 0, 0, 0, 0, 0),
    "quotactl_fd": (443, 0, 0, 0, 0),
    "socket_packet": (41, 17, 3, 0), "socket_vsock": (41, 40, 1, 0), "socket_alg": (41, 38, 5, 0),
    "socket_bluetooth": (41, 31, 3, 0), "socket_raw": (41, 2, 3, 1),
    "personality_exec": (135, 0x400000), "personality_other": (135, 8),
}


def call(name):
    """The errno of a call, 0 when it was allowed. A clone's child ends at once."""
    number, *arguments = CALLS[name]
    ctypes.set_errno(0)
    result = libc.syscall(number, *[ctypes.c_long(a) if isinstance(a, int) else a
                                    for a in arguments])
    if result == 0 and name.startswith("clone"):
        os._exit(0)
    return ctypes.get_errno() if result == -1 else 0


def name_of(number):
    return errno.errorcode.get(number, "allowed" if number == 0 else str(number))


def attempt(function, *arguments, **options):
    """The name of the error that a function raises, "allowed" when none."""
    try:
        function(*arguments, **options)
    except OSError as problem:
        return name_of(problem.errno) if problem.errno else type(problem).__name__
    return "allowed"


def tell(value):
    print(json.dumps(value))
