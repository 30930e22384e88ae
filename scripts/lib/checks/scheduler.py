# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs test programs side by side: as many at once as there are slots.

Each program has a process of this module's above it, its keeper, which adopts the program's orphans
and ends them (process.run). So programs that run at once are told apart by their keepers, and an
interrupt has one process for each program to tell.

Programs can be added while others run. Of those that wait the first of schedule() starts when a slot
becomes free; one that waits for most of its time may find half a slot before its turn. Programs are
reported in the order of their starts, not of their ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from . import process

HEARTBEAT = 10.0  # seconds between two signs of life
POLL = 0.5


@dataclass(frozen=True)
class Program:
    """A test program to run. `alone`: nothing else runs while it does. `waits`: it hardly uses a
    processor, so that two of them share a slot."""

    name: str
    command: Sequence[str]
    log: str
    timeout: float
    alone: bool = False
    waits: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None


def slots() -> int:
    """How many programs run at once: two, where there are two processors."""
    wanted = os.environ.get("HOTSNAP_CHECK_JOBS")
    return max(1, int(wanted)) if wanted else min(2, os.cpu_count() or 1)


def schedule(programs: Sequence[Program]) -> list[int]:
    """The order of the starts: programs that may take longest come first, so that no long one is
    left over at the end; those that run alone come last, since no other can run beside them."""
    return sorted(range(len(programs)),
                  key=lambda i: (programs[i].alone, -programs[i].timeout, i))


@dataclass
class Keeper:
    """The process above a program that runs; `pipe` gives its account when it ends."""

    program: Program
    pid: int
    pipe: int
    started: float


def keep(program: Program) -> Keeper:
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            # Ctrl-C reaches the parent alone, which passes it on.
            os.setpgid(0, 0)
            process.install(parent)
            end = process.run(program.command, program.log, program.timeout,
                              env=program.env, cwd=program.cwd)
            os.write(writing, json.dumps(asdict(end)).encode())
            os._exit(0)
        except process.Interrupted as interrupt:
            os._exit(interrupt.status)
        except BaseException as error:  # pylint: disable=broad-except # told by process.lost
            os.write(2, f"{program.name}: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)
    os.close(writing)
    return Keeper(program, pid, reading, time.monotonic())


def account(keeper: Keeper) -> process.Finished:
    """How its program ended; called when the keeper has closed its pipe."""
    text = b""
    while piece := os.read(keeper.pipe, 65536):
        text += piece
    os.close(keeper.pipe)
    _, status = os.waitpid(keeper.pid, 0)
    if text:
        return process.Finished(**json.loads(text))
    # Without an account nothing that the program has printed can be believed.
    return process.lost(time.monotonic() - keeper.started, os.waitstatus_to_exitcode(status))


class Scheduler:
    """The programs that were added: waiting, running, ended or reported. A program's index is the
    number of those that were added before. `done` is called for each that has ended."""

    def __init__(self, done: Callable[[int, process.Finished], None]) -> None:
        self.done = done
        self.programs: list[Program] = []
        self.waiting: list[int] = []
        self.running: dict[int, Keeper] = {}
        self.ended: dict[int, process.Finished] = {}
        self.to_report: list[int] = []  # those that have begun, in that order

    def add(self, program: Program) -> None:
        self.programs.append(program)
        self.waiting = [index for index in schedule(self.programs)
                        if index in self.waiting or index == len(self.programs) - 1]

    def pump(self, at_once: int, beside: int | None = None) -> list[int]:
        """Start what may start, with `at_once` slots; wait a while for an end; the programs that
        have ended. `beside` is the pid of another child of ours: while it runs, no program starts
        that must be alone."""
        for index in startable(self.programs, self.waiting, self.running, at_once, beside is None):
            self.waiting.remove(index)
            self.to_report.append(index)
            self.running[index] = keep(self.programs[index])
        found = ready(self.running)
        for index in found:
            self.ended[index] = account(self.running.pop(index))
            if self.ended[index].lost:  # its program may live on, and is nobody's now but ours
                others = [keeper.pid for keeper in self.running.values()]
                process.end_orphans(0, others if beside is None else [*others, beside])
        return found

    def tell(self) -> None:
        """Report those that have ended, in the order of the starts, up to one that still runs."""
        while self.to_report and self.to_report[0] in self.ended:
            self.done(self.to_report[0], self.ended.pop(self.to_report[0]))
            del self.to_report[0]

    def finish(self, at_once: int) -> None:
        """Run and report all that were added."""
        beat = Heartbeat()
        try:
            self.tell()
            while self.waiting or self.to_report:
                beat.beat(self.running.values(), len(self.waiting))
                for index in self.pump(at_once):
                    if index != self.to_report[0]:
                        beat.say(f"{self.programs[index].name} has ended after "
                                 f"{self.ended[index].seconds:.0f} s; its results follow in their turn")
                if self.to_report and self.to_report[0] in self.ended:
                    beat.clear()
                    self.tell()
        except BaseException:
            self.end()
            raise
        finally:
            beat.clear()

    def end(self) -> None:
        """End those that run; nothing is reported of them."""
        end(self.running)
        self.running.clear()


def startable(programs: Sequence[Program], waiting: Sequence[int], running: Mapping[int, Keeper],
              at_once: int, alone: bool = True) -> list[int]:
    """The waiting programs that may start now, in their order."""
    active = [programs[index] for index in running]
    found: list[int] = []
    for index in waiting:
        program = programs[index]
        if any(other.alone for other in active) or (program.alone and (active or not alone)):
            break
        if halves(active) + halves([program]) > 2 * at_once:
            continue  # one that waits may fit into half a slot
        active.append(program)
        found.append(index)
    return found


def halves(programs: Iterable[Program]) -> int:
    """How many halves of a slot they take."""
    return sum(1 if program.waits else 2 for program in programs)


def ready(running: Mapping[int, Keeper]) -> list[int]:
    """The programs whose keeper has something to say; waits a while at most."""
    pipes = {keeper.pipe: index for index, keeper in running.items()}
    found, _, _ = select.select(list(pipes), [], [], POLL)
    return [pipes[pipe] for pipe in found]


def end(running: Mapping[int, Keeper]) -> None:
    """Ends every program with its keeper, and waits for all."""
    for keeper in running.values():
        try:
            os.kill(keeper.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    for keeper in running.values():
        os.close(keeper.pipe)
        try:
            os.waitpid(keeper.pid, 0)
        except ChildProcessError:
            pass
    process.end_orphans(0)  # of a keeper that was killed


class Heartbeat:
    """Says on standard error which programs are running: a line that is overwritten on a terminal,
    otherwise one every ten seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.next = time.monotonic() + (1.0 if self.terminal else HEARTBEAT)

    def beat(self, running: Iterable[Keeper], waiting: int) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + (POLL if self.terminal else HEARTBEAT)
        parts = [f"{keeper.program.name} {now - keeper.started:.0f} s "
                 f"{last_result(keeper.program.log)}".strip() for keeper in running]
        text = "; ".join(parts) + (f"; {waiting} to come" if waiting else "")
        if self.terminal:
            sys.stderr.write(f"\r{text[:100]}\x1b[K")
        else:
            sys.stderr.write(f"... {text}\n")
        sys.stderr.flush()

    def say(self, text: str) -> None:
        self.clear()
        print(f"   {text}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def last_result(log: str) -> str:
    """The last result in the log, so that one sees how far the program is."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, os.path.getsize(log) - 8192))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:  # it has hardly begun
        return ""
    for line in reversed(lines):
        if line.startswith(("ok", "not ok", "skip", "[ ")):
            return f"({line[:60]})"
    return ""
