"""The process of `sandbox.py`: reads what to run, shuts itself in, runs it, and says at the end that it got there.

A script of the standard library alone; it runs without llmops.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import types
import unittest
from collections.abc import Callable
from typing import Any, NoReturn

_NEW_USER, _NEW_NET, _NEW_PROCESSES, _NEW_MOUNTS, _NEW_IPC = 0x10000000, 0x40000000, 0x20000000, 0x00020000, 0x08000000
_RECURSIVE, _PRIVATE, _NO_SETUID, _NO_DEVICES = 0x4000, 0x40000, 0x2, 0x4
_MOUNT_SETATTR = 442  # the same number on every architecture
_AT_WORKING_FOLDER, _AT_RECURSIVE = -100, 0x8000
_READ_ONLY = 0x1
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38


def main() -> NoReturn:
    with open(0, "rb", closefd=False) as handed:
        job = json.load(handed)
    speak = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        _call(libc.prctl, _DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if job["kind"] == "namespaces":
            _shut_in(libc, job["folder"], job["written_mb"])
        os.chdir(job["folder"])
        _limit(job)
        _call(libc.prctl, _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        tests = [compile(test, "<tests>", "exec") for test in job["tests"]]
    except (OSError, ValueError, AttributeError) as error:
        os.write(speak, f"{job['word']} {error or type(error).__name__}".encode()[:900])
        os._exit(1)
    word, code = job.pop("word").encode(), job.pop("code")
    # Taken before the program runs: it may put others in their place.
    write, leave = os.write, os._exit
    sys.addaudithook(_refuser(job["folder"]))
    try:
        _test(code, tests)
    except BaseException:
        leave(1)
    write(speak, word)
    leave(0)


def _test(code: str, tests: list[types.CodeType]) -> None:
    """Raises what the program or one of its tests raises; SystemExit too is no success."""
    run, isinstance_, getattr_ = exec, isinstance, getattr
    function, case, loader = types.FunctionType, unittest.TestCase, unittest.TestLoader()
    # Not `__main__`, so that what a program does when it is started by hand is left out.
    module = types.ModuleType("program")
    sys.modules["program"] = module
    names = module.__dict__
    run(compile(code, "<program>", "exec"), names)
    for test in tests:
        before = dict(names)
        run(test, names)
        fresh = [(name, value) for name, value in names.items() if before.get(name) is not value]
        for name, value in fresh:
            if isinstance_(value, function) and name.startswith("test") and not value.__code__.co_argcount:
                value()
            if isinstance_(value, type) and value is not case and case in getattr_(value, "__mro__", ()):
                result = unittest.TestResult()
                loader.loadTestsFromTestCase(value).run(result)
                if not result.wasSuccessful():
                    raise AssertionError(name)


def _call(function: Callable[..., int], *arguments: Any) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _shut_in(libc: Any, folder: str, written_mb: int) -> None:
    """Into namespaces of its own: no network, no other processes, everything read-only but `folder`, which is empty."""
    user, group = os.getuid(), os.getgid()
    _call(libc.unshare, _NEW_USER | _NEW_NET | _NEW_PROCESSES | _NEW_MOUNTS | _NEW_IPC)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    _call(libc.mount, b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
    # Root owns the disks' device files, which a read-only mount alone would let it write.
    flags = _READ_ONLY | _NO_SETUID | (_NO_DEVICES if user == 0 else 0)
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    _call(
        libc.syscall,
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_WORKING_FOLDER),
        ctypes.c_char_p(b"/"),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    options = f"size={written_mb}m,nr_inodes=10000,mode=0700".encode()
    _call(libc.mount, b"tmpfs", folder.encode(), b"tmpfs", _NO_SETUID | _NO_DEVICES, options)
    # The first process of the new table is a child; when it dies, all in the table do.
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        os._exit(0)
    _call(libc.prctl, _DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    # Within its own namespaces it has all rights, which would let it undo the mounts.
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _call(libc.capset, header, (ctypes.c_uint32 * 6)())


def _limit(job: dict[str, Any]) -> None:
    seconds = int(job["seconds"]) + 1
    for what, most in (
        (resource.RLIMIT_AS, job["memory_mb"] << 20),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NPROC, job["threads"]),
        (resource.RLIMIT_FSIZE, job["written_mb"] << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


_REFUSED = (
    "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec", "subprocess.Popen", "pty.spawn",
    "os.kill", "os.killpg", "ctypes.dlopen", "ctypes.dlsym", "ctypes.call_function", "resource.prlimit",
)  # fmt: skip
_CHANGING = {
    "os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.chmod": 1,
    "os.chown": 1, "os.truncate": 1, "os.utime": 1, "os.setxattr": 1, "os.removexattr": 1,
}  # fmt: skip
"""Events that change files, and how many paths they begin with."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _refuser(folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """A hook that Python asks before it does what reaches outside; it cannot be taken out again."""
    inside = os.path.realpath(folder) + os.sep
    # Held here, since the program could replace them where they are.
    real, text, refused, changing, writing = os.path.realpath, os.fsdecode, _REFUSED, dict(_CHANGING), _WRITING

    def outside(path: Any) -> bool:
        return not isinstance(path, int) and path is not None and not (real(text(path)) + "/").startswith(inside)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in refused or (event.startswith("socket.") and event != "socket.__new__"):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open":
            path, _, flags = arguments
            if flags & writing and outside(path):
                raise PermissionError(f"{path} may not be written")
        elif event in changing and any(outside(path) for path in arguments[: changing[event]]):
            raise PermissionError(f"{arguments[0]} may not be changed")

    return hook


if __name__ == "__main__":
    main()
