# SPDX-License-Identifier: GPL-2.0-or-later
"""Running test programs so that nothing of them is left: timeouts, process groups, orphans.

QEMU and the test programs that start it move to process groups of their own, so ending the
program's group does not reach everything. The runner therefore becomes the reaper of its
descendants' orphans (prctl PR_SET_CHILD_SUBREAPER), and after each program ends whatever has
come to it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

PR_SET_CHILD_SUBREAPER = 36
HEARTBEAT = 10.0  # seconds between two signs of life
GRACE = 30.0  # for a program to clean up after SIGTERM
ORPHAN_GRACE = 30.0  # for processes that are on their way out when their program ends
KILLED_GRACE = 10.0  # for those that were killed with it


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP came."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def install() -> None:
    """Turn signals into Interrupted, and adopt orphans. Once, in the main thread."""
    def interrupt(number: int, _frame: object) -> None:
        # A second Ctrl-C must not cut the cleanup off.
        for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(again, signal.SIG_IGN)
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    adopt_orphans()


def adopt_orphans() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@dataclass(frozen=True)
class Finished:
    """How a program ended. `left` names the processes that it left behind."""

    status: int
    seconds: float
    timeout: float | None  # the time it had, if that was not enough
    left: list[str]


def descendants() -> Iterator[tuple[int, str]]:
    """Pid and name of each living process below this one, parents before children."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stream:
                name, _, fields = stream.read().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, parent = fields.split()[:2]
        if state not in "ZX":
            children.setdefault(int(parent), []).append((int(entry), name))
    queue = [os.getpid()]
    while queue:
        for pid, name in children.get(queue.pop(0), []):
            yield pid, name
            queue.append(pid)


def reap() -> None:
    """Collect orphans that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def end_orphans(grace: float) -> list[str]:
    """End every descendant; the names of those that had to be ended after `grace` seconds."""
    deadline = time.monotonic() + grace
    while True:
        reap()
        left = list(descendants())
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
        while (left := list(descendants())) and time.monotonic() < deadline:
            reap()
            time.sleep(0.05)
    reap()
    return names


def run(name: str, command: Sequence[str], log: str, timeout: float, *,
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
        with Heartbeat(name, log, started) as heartbeat:
            while process.poll() is None:
                if time.monotonic() - started > timeout:
                    overdue = timeout
                    stop(process)
                    break
                heartbeat.beat()
                time.sleep(0.02 if time.monotonic() - started < 1 else 0.2)
    except BaseException:
        stop(process)
        end_orphans(0)
        raise
    seconds = time.monotonic() - started
    return Finished(process.returncode, seconds, overdue,
                    end_orphans(ORPHAN_GRACE if overdue is None else KILLED_GRACE))


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


class Heartbeat:
    """Says on standard error that a program is still running: a line that is overwritten on a
    terminal, otherwise one every ten seconds."""

    def __init__(self, name: str, log: str, started: float) -> None:
        self.name, self.log, self.started = name, log, started
        self.terminal = sys.stderr.isatty()
        self.next = started + (1.0 if self.terminal else HEARTBEAT)

    def beat(self) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + (0.5 if self.terminal else HEARTBEAT)
        text = f"{self.name} ... {now - self.started:.0f} s {self.last_line()}"
        if self.terminal:
            sys.stderr.write(f"\r{text[:100]}\x1b[K")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def last_line(self) -> str:
        """The last result in the log, so that one sees how far the program is."""
        with open(self.log, "rb") as stream:
            stream.seek(max(0, os.path.getsize(self.log) - 8192))
            lines = stream.read().decode("utf-8", "replace").splitlines()
        for line in reversed(lines):
            if line.startswith(("ok", "not ok", "skip", "[ ")):
                return f"({line[:80]})"
        return ""

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
