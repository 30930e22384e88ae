# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that outlive the command that started them. A pid alone does not tell which process is
meant, since pids are used again."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from ..record import Record

_SET_PDEATHSIG = 1  # <sys/prctl.h>
_libc = ctypes.CDLL(None)


@dataclass
class Identity(Record):
    """A process by its pid and by when it was started, since a pid is used again."""

    pid: int
    start: int | None  # clock ticks since the host's boot; None of a process that had ended
    boot: str


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def _start_ticks(pid: int) -> int | None:
    """When a process was started; None if it has ended, whether it was waited for or not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def identity(pid: int) -> Identity:
    return Identity(pid, _start_ticks(pid), boot_id())


def alive(process: Identity | None) -> bool:
    return (process is not None and process.boot == boot_id()
            and process.start is not None and _start_ticks(process.pid) == process.start)


def find(*arguments: str) -> list[Identity]:
    """The processes whose command lines have these arguments in a row."""
    wanted = b"\0" + b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as stream:
            if wanted in b"\0" + stream.read():
                found.append(identity(int(pid)))
    return found


def start(command: Sequence[str], log: str, umask: int = 0o077) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own, its output appended to `log`. By default nobody
    else may read the files that it makes; -1 is this process's own umask."""
    with open(log, "ab") as stream:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                                start_new_session=True, umask=umask)


def companion(command: Sequence[str], keep: Sequence[int] = (), stdout: int | IO[bytes] | None = None,
              stderr: int | IO[bytes] | None = None,
              stdin: int | IO[bytes] | None = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Starts a program that does not outlive this process: the kernel kills it then. It is in a
    session of its own, so that Ctrl-C is this process's to answer. Nobody else may read the files
    that it makes. It inherits the handles in `keep`."""
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr,
                            start_new_session=True, umask=0o077, pass_fds=keep,
                            preexec_fn=functools.partial(end_with, os.getpid()))


def end_with(parent: int) -> None:
    """In a child: the kernel kills it when its parent ends, the process of that pid."""
    _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def detach(child: subprocess.Popen[bytes]) -> Identity:
    """For a child that is to outlive this process: Popen does not wait for its end any more."""
    child.returncode = 0
    return identity(child.pid)


def spawn(command: Sequence[str], log: str) -> Identity:
    """Starts a program that outlives this process."""
    return detach(start(command, log))


def end(process: Identity | None, number: int = signal.SIGKILL, timeout: float = 60.0) -> bool:
    """Signals a process, if it is still that one, and waits for its end. Signal 0 only waits. False
    if it lives on."""
    if process is None or not alive(process):
        return True
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if alive(process):  # the handle is of the process that was meant
            if number:
                signal.pidfd_send_signal(handle, number)
            if not select.select([handle], [], [], timeout)[0]:
                return False
        with contextlib.suppress(ChildProcessError):  # it is the child of another command
            os.waitpid(process.pid, os.WNOHANG)
        return True
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)


def tail(log: str, lines: int = 4, begin: int = 0) -> str:
    """The last lines of a log, to be shown in an error; none that stand before byte `begin`."""
    try:
        with open(log, encoding="utf-8", errors="replace") as stream:
            stream.seek(begin)
            return "; ".join(line.strip() for line in stream.readlines()[-lines:] if line.strip())
    except OSError:
        return ""
