"""The inner wall: one submission's process, alone in its namespaces, with its own small disk, limits and system-call filter.

The worker, which already stands behind the outer wall (`grader.sandbox`), calls `settle` once and `fork` for each submission. The forked
process is process 1 of its own process namespace and, before it runs the learner's code, leaves the worker's other namespaces for
its own, mounts a size- and inode-limited `/box` and an empty `/proc`, sets its resource limits, gives up all capabilities and the way
to new ones, closes every descriptor but its own, and puts on the system-call filter. When it ends, the kernel ends all that it started.

The filter refuses new processes altogether, so that the limits of one process are the limits of the submission: no fork bomb, no
daemon, no memory hidden in children, no set-uid program. Threads are allowed and count. Nothing here is Linux-only at import.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BOX = "/box"
"""The only place where a submission can write."""
STUDENT_UID = 1000
NOBODY = 65534


@dataclass(frozen=True)
class Limits:
    """What one submission's process may use. Memory and threads count from what the warm worker already holds."""

    seconds: float = 10.0
    """Wall-clock time spent waiting for it, over its whole life."""
    memory_bytes: int = 1 << 30
    output_bytes: int = 1 << 20
    """What it may print before it is ended."""
    disk_bytes: int = 64 << 20
    disk_files: int = 4096
    threads: int = 64
    open_files: int = 256

    @property
    def cpu_seconds(self) -> int:
        """Processor time of all threads together, whole seconds as the kernel counts them."""
        return int(self.seconds) + 2


class WallError(OSError):
    """A wall could not be put up. No submission's code has run."""


_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET, _CLONE_THREAD = 0x10000000, 0x20000000, 0x40000000, 0x00010000
_NAMESPACES = _CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNET
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000
_SECCOMP_MODE_FILTER = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise WallError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, value: int = 0, what: str = "prctl") -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), what)


def _new_user_namespace(also: int, inside: int) -> None:
    """Enters a new user namespace, and those in `also`, where this process's user is called `inside`."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER | also), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{inside} {uid} 1"), ("gid_map", f"{inside} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def settle() -> None:
    """Makes this process the warm worker behind walls: process 1 of a process namespace of its own, in a user namespace of its own.

    Root becomes nobody first, for good. Returns in the worker; the process that it was called in waits and ends as the worker does.
    To be called before anything large is imported.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _prctl(_PR_SET_DUMPABLE, 1)  # changing the user made /proc/self unwritable
    _new_user_namespace(_CLONE_NEWPID, NOBODY)
    if pid := os.fork():
        os.closerange(3, 1 << 16)  # the pipe among them: who waits at its other end must see the worker die
        _, status = os.waitpid(pid, 0)
        os._exit(abs(os.waitstatus_to_exitcode(status)) & 0xFF)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    filter_program(os.uname().machine)  # made once, and inherited by every fork


def try_out() -> None:
    """Puts up the inner wall once around nothing. Raises: WallError when it does not stand."""
    settle()
    read, write = os.pipe()
    pid = fork(lambda: os.write(3, b"ok"), (write, 2), Limits(), walls=True)
    os.close(write)
    answer = os.read(read, 2)
    os.waitpid(pid, 0)
    if answer != b"ok":
        raise WallError(errno.EPERM, "the inner wall does not stand")


def fork(child: Callable[[], Any], keep: tuple[int, int], limits: Limits, walls: bool) -> int:
    """The id of a new process that runs `child` and ends; with walls, behind them, in a worker that has settled.

    `keep` are the descriptors for data and for output; `child` finds them as 3 and as 1 and 2. Without walls the process is
    a plain child with resource limits.
    """
    in_use = _memory_in_use()
    pid = _fork_into_new_namespace() if walls else os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if sys.platform.startswith("linux"):
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()  # else kill(0, SIGKILL) would reach the worker's process group
        if walls:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")  # when the machine runs out of memory, this process goes first
            _new_user_namespace(_NAMESPACES, STUDENT_UID)
            _private_mounts(limits)
        _set_limits(limits, *in_use)
        if walls:
            _drop_capabilities()
        _only_descriptors(*keep)
        if walls:
            _filter_system_calls()
    except BaseException as error:
        _complain("the inner wall failed", error)
        os._exit(125)
    try:
        child()
        os._exit(0)
    except BaseException as error:
        _complain("the runner stopped", error)
    finally:
        os._exit(1)


def _fork_into_new_namespace() -> int:
    """Forks so that the child is process 1 of a new process namespace; this process itself stays where it is."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    _check(_libc.unshare(_CLONE_NEWPID), "unshare")
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid:  # a second unshare is only granted from where the first began
            _check(_libc.setns(own, _CLONE_NEWPID), "setns")
        os.close(own)
    return pid


def _complain(what: str, error: BaseException) -> None:
    os.write(2, f"{what}: {type(error).__name__}: {error}\n".encode(errors="replace"))


def _private_mounts(limits: Limits) -> None:
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("box", BOX, "tmpfs", flags, f"size={limits.disk_bytes},nr_inodes={limits.disk_files},mode=700")
    _mount("none", "/proc", "tmpfs", flags | _MS_RDONLY, "size=0,nr_inodes=1,mode=555")
    os.chdir(BOX)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = (None if t is None else t.encode() for t in (source, target, kind))
    _check(_libc.mount(*texts, ctypes.c_ulong(flags), None if data is None else data.encode()), f"mount {target}")


def _memory_in_use() -> tuple[int, int]:
    """(data bytes, address-space bytes) of this process, or zeros where /proc does not say."""
    try:
        with open("/proc/self/status") as file:
            sizes = {line.split(":")[0]: line.split()[1] for line in file if line.startswith(("VmData", "VmSize"))}
        return int(sizes["VmData"]) << 10, int(sizes["VmSize"]) << 10
    except (OSError, KeyError):
        return 0, 0


def _set_limits(limits: Limits, data: int, space: int) -> None:
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_FSIZE": limits.disk_bytes,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_NPROC": limits.threads,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_DATA": data + limits.memory_bytes if data else None,
        # Shared anonymous memory is not "data". What is left over is for libraries loaded later and thread stacks.
        "RLIMIT_AS": space + limits.memory_bytes + (512 << 20) if space else None,
    }
    for name, value in wanted.items():
        if value is None or not hasattr(resource, name):
            continue
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(number, (value, value))


def _drop_capabilities() -> None:
    _libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), *[ctypes.c_ulong(0)] * 3)
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), *[ctypes.c_ulong(0)] * 3) != 0:
            break  # beyond the last one that this kernel knows
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3, this process
    _check(_libc.capset(header, bytes(24)), "capset")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")


def _only_descriptors(data: int, output: int) -> None:
    """Leaves 0 (nothing to read), 1 and 2 (output) and 3 (data), and closes everything else."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    # Away from the low numbers first, so that no dup2 overwrites one that is still needed.
    data, output, nothing = (_above(d) for d in (data, output, nothing))
    for source, target in ((nothing, 0), (output, 1), (output, 2), (data, 3)):
        os.dup2(source, target, inheritable=False)
    os.closerange(4, 1 << 16)


def _above(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 32)


# The filter. Numbers as (x86_64, aarch64); None where the machine has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes, and what they hold
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "personality": (135, 92),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "mknod": (133, None),
    "mknodat": (259, 33), "quotactl": (179, 60), "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225),
    # the network, and memory or messages that outlive or escape the limits
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "memfd_create": (319, 279), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "semget": (64, 190), "semctl": (66, 191), "semop": (65, 193), "semtimedop": (220, 192), "msgget": (68, 186),
    "msgctl": (71, 187), "msgsnd": (69, 189), "msgrcv": (70, 188), "mq_open": (240, 180), "mq_unlink": (241, 181),
    # doors into the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "io_setup": (206, 0), "fanotify_init": (300, 262),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "modify_ldt": (154, None), "iopl": (172, None), "ioperm": (173, None),
    "uselib": (134, None), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "syslog": (103, 116),
    # the machine's clock, name, scheduling and state
    "reboot": (169, 142), "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
# From 424 on the numbers are the same everywhere. All later calls are answered "no such call", except these:
# close_range, openat2, faccessat2, epoll_pwait2, futex_waitv, fchmodat2. clone3 is among those refused, so that the C library
# falls back to clone, whose flags a filter can read.
_FIRST_COMMON, _COMMON_ALLOWED = 424, (436, 437, 439, 441, 449, 452)
_CLONE, _IOCTL, _TIOCSTI, _TIOCLINUX = (56, 220), (16, 29), 0x5412, 0x541C
_X32_BIT = 0x40000000
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7), "arm64": (1, 0xC00000B7)}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARG0, _OFFSET_ARG1 = 0, 4, 16, 24


@functools.cache
def filter_program(machine: str) -> bytes:
    """The filter as classic BPF for `machine` ("x86_64" or "aarch64"): what is not refused is allowed.

    Raises: WallError for another machine.
    """
    if machine not in _ARCHITECTURES or sys.byteorder != "little":
        raise WallError(errno.ENOSYS, f"no system-call filter for {machine}; grade on x86_64 or aarch64")
    column, arch = _ARCHITECTURES[machine]
    code: list[tuple[int, int, int, int]] = []

    def when(test: int, value: int, then: int) -> None:
        code.append((test, 0, 1, value))
        code.append((_RETURN, 0, 0, then))

    refuse = _ERRNO | errno.EPERM
    code.append((_LOAD, 0, 0, _OFFSET_ARCH))
    code += [(_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL)]
    code.append((_LOAD, 0, 0, _OFFSET_NUMBER))
    if column == 0:
        when(_AT_LEAST, _X32_BIT, _KILL)
    for number in _COMMON_ALLOWED:
        when(_EQUAL, number, _ALLOW)
    when(_AT_LEAST, _FIRST_COMMON, _ERRNO | errno.ENOSYS)
    for numbers in _REFUSED.values():
        if numbers[column] is not None:
            when(_EQUAL, numbers[column], refuse)
    # clone only makes threads
    code += [(_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _OFFSET_ARG0)]
    code += [(_ANY_BIT, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, refuse)]
    # ioctl types nothing into a terminal
    code += [(_EQUAL, 0, 5, _IOCTL[column]), (_LOAD, 0, 0, _OFFSET_ARG1)]
    when(_EQUAL, _TIOCSTI, refuse)
    when(_EQUAL, _TIOCLINUX, refuse)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _filter_system_calls() -> None:
    program = filter_program(os.uname().machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    result = _libc.prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), header, ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    _check(result, "system-call filter")
