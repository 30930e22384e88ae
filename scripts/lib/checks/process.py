# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a test program so that nothing of it is left: timeouts, process groups, orphans.

QEMU and the test programs that start it move to process groups of their own, so ending the
program's group does not reach everything. A program's keeper (scheduler.py) is therefore the reaper
of its descendants' orphans (prctl PR_SET_CHILD_SUBREAPER), and ends those that have come to it when
the program has ended.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE = 30.0  # for a program to clean up after SIGTERM
ORPHAN_GRACE = 30.0  # for processes that are on their way out when their program ends
KILLED_GRACE = 10.0  # for those that were killed with it


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP came."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def install(parent: int | None = None) -> None:
    """Turn signals into Interrupted, and adopt orphans. Once, in the main thread. The end of
    `parent`, if given, is a SIGTERM."""
    def interrupt(number: int, _frame: object) -> None:
        # A second Ctrl-C must not cut the cleanup off.
        for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(again, signal.SIG_IGN)
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    adopt_orphans()
    if parent is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before that
            raise Interrupted(signal.SIGTERM)


def adopt_orphans() -> None:
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


@dataclass(frozen=True)
class Finished:
    """How a program ended. `left` names the processes that it left behind."""

    status: int
    seconds: float  # from its start to its end
    cpu_seconds: float  # of its processes, all together
    timeout: float | None  # the time it had, if that was not enough
    left: list[str]
    lost: str = ""  # why nothing is known of its end


def lost(seconds: float, status: int) -> Finished:
    """The end of a program whose keeper has ended without an account of it."""
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return Finished(-1, seconds, 0.0, None, [], f"the process above it ended with {how}")


def processes() -> Iterator[tuple[int, str, str, int]]:
    """Pid, name, state and parent of every process."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stream:
                name, _, fields = stream.read().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, parent = fields.split()[:2]
        yield int(entry), name, state, int(parent)


def descendants(spare: Collection[int] = ()) -> Iterator[tuple[int, str]]:
    """Pid and name of each living process below this one, parents before children; without those
    in `spare` and the processes below them."""
    children: dict[int, list[tuple[int, str]]] = {}
    for pid, name, state, parent in processes():
        if state not in "ZX" and pid not in spare:
            children.setdefault(parent, []).append((pid, name))
    queue = [os.getpid()]
    while queue:
        for pid, name in children.get(queue.pop(0), []):
            yield pid, name
            queue.append(pid)


def reap(spare: Collection[int] = ()) -> None:
    """Collect orphans that have ended."""
    for pid, _, state, parent in processes():
        if state == "Z" and parent == os.getpid() and pid not in spare:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


def end_orphans(grace: float, spare: Collection[int] = ()) -> list[str]:
    """End every descendant but those that are spared; the names of those that had to be ended after
    `grace` seconds."""
    deadline = time.monotonic() + grace
    while True:
        reap(spare)
        left = list(descendants(spare))
        if not left or time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    names = [name for _, name in left]
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
        if not left:
            break
        for pid, _ in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + patience
        while (left := list(descendants(spare))) and time.monotonic() < deadline:
            reap(spare)
            time.sleep(0.05)
    reap(spare)
    return names


def run(command: Sequence[str], log: str, timeout: float, *,
        env: Mapping[str, str] | None = None, cwd: str | None = None) -> Finished:
    """Run a test program with its output in `log`; nothing of it lives on when this returns."""
    os.makedirs(os.path.dirname(log), exist_ok=True)
    started = time.monotonic()
    overdue = None
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream,
                                   stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True,
                                   env={**os.environ, **(env or {})})
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        overdue = timeout
        stop(process)
    except BaseException:
        stop(process)
        end_orphans(0)
        raise
    seconds = time.monotonic() - started
    left = end_orphans(ORPHAN_GRACE if overdue is None else KILLED_GRACE)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Finished(process.returncode, seconds, used.ru_utime + used.ru_stime, overdue, left)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a program to end, then insist; its group ends with it."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    kill_group(process.pid, signal.SIGKILL)


def kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
