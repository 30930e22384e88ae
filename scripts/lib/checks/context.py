# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the groups of checks: folders, build steps, and running test programs."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from . import formats, process, scheduler
from .results import FAILED, PASSED, SKIPPED, Report, Result

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))

# A run's tier: the tests that fit the time which every change may take, or all tests.
DEFAULT, ALL = "default", "all"

# A test program's line about a part that it left out in this tier (tests/support/tier.py).
LEFT_LINE = re.compile(r"^# left to --all: (.+)$", re.MULTILINE)

Reader = Callable[[str, str], list[Result]]  # program, text -> results


class CannotRun(Exception):
    """A group cannot go on; the text says why. Counts as one failure."""


@dataclass(frozen=True)
class Job:
    """A test program of a group, and how to read its results."""

    group: str
    title: str
    program: scheduler.Program
    read: Reader | None
    gtest_output: str | None
    skip_reason: str


class Context:
    def __init__(self, report: Report, root: str = ROOT, tier: str = DEFAULT,
                 groups: Collection[str] = ()) -> None:
        self.report = report
        self.groups = groups  # those of this run
        self.root = root
        self.tier = tier
        self.build = os.path.join(root, "build")
        self.logs = os.path.join(self.build, "logs", "check")
        self.jobs: list[Job] = []  # by the scheduler's index
        self.scheduler = scheduler.Scheduler(lambda index, end: self._report(self.jobs[index], end))
        self.scratch = ExitStack()  # what the jobs need while they run

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    @contextmanager
    def timed(self, program: str) -> Iterator[None]:
        """The block's time counts as that of `program`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.report.spent(self.report.group, program, time.monotonic() - started)

    def script(self, *command: str) -> None:
        """Run one of scripts/ that prepares something, its progress shown as it is. Test programs
        that were handed to run() before go on beside it, in one slot less; they are reported when
        it has ended, since its progress has the terminal."""
        text = f"scripts/{' '.join(command)}"
        with self.timed(text):
            child = subprocess.Popen([self.path("scripts", command[0]), *command[1:]],
                                     stdin=subprocess.DEVNULL)
            try:
                while (status := child.poll()) is None:
                    self.scheduler.pump(scheduler.slots() - 1, beside=child.pid)
            except BaseException:
                child.terminate()  # it cleans up after itself
                child.wait()
                raise
        group = self.report.group
        self.scheduler.tell()
        self.report.begin(group)
        if status != 0:
            raise CannotRun(f"'{text}' failed: see its output above")

    def packages(self, *names: str) -> None:
        """Install the missing packages of these sets of scripts/lib/packages.sh."""
        self.script("lib/need-packages", *names)

    def log(self, program: str) -> str:
        return os.path.join(self.logs, self.report.group,
                            re.sub(r"[^A-Za-z0-9_.+-]+", "-", program) + ".log")

    def run(self, program: str, command: Sequence[str], timeout: float,
            read: Reader | None = formats.read_tap, *, gtest_output: str | None = None,
            env: Mapping[str, str] | None = None, cwd: str | None = None, alone: bool = False,
            waits: bool = False,
            skip_reason: str = "it cannot run here: see its log") -> None:
        """Have a test program run, beside scripts that prepare others or in finish(), and its
        results reported. Status 77 is a skip, for `skip_reason`. The program is told the tier in
        HOTSNAP_TIER. All that it needs must be there.

        The results are read from `gtest_output` if the program, being one of GoogleTest's, wrote
        it; otherwise from its log by `read`; without a reader its exit status is the only result.
        """
        group = self.report.group
        if gtest_output is not None and os.path.exists(gtest_output):
            os.remove(gtest_output)
        self.jobs.append(Job(group, program, scheduler.Program(
            f"{group}/{program}", command, self.log(program), timeout, alone, waits,
            {**(env or {}), "HOTSNAP_TIER": self.tier}, cwd), read, gtest_output, skip_reason))
        self.scheduler.add(self.jobs[-1].program)

    def finish(self) -> None:
        """Run the programs that were handed to run() and are still to run, some side by side."""
        self.scheduler.finish(scheduler.slots())

    def abandon(self, interrupt: process.Interrupted) -> None:
        """End the programs that run. One that has not run must not be missing without a word."""
        self.scheduler.end()
        self.scheduler.tell()
        for indexes, reason in ((self.scheduler.to_report, f"interrupted by {interrupt}"),
                                (self.scheduler.waiting, "it has not been run")):
            for index in indexes:
                self.report.begin(self.jobs[index].group)
                self.report.add([Result(self.jobs[index].title, "end", FAILED, reason)])

    def _report(self, job: Job, end: process.Finished) -> None:
        self.report.begin(job.group)
        program, log = job.title, job.program.log
        results: list[Result] = []
        if end.lost:
            results = [Result(program, "end", FAILED, end.lost)]
        else:
            try:
                if job.gtest_output is not None and os.path.exists(job.gtest_output):
                    results = formats.read_gtest(program, read_text(job.gtest_output))
                elif job.read is not None:
                    results = job.read(program, read_text(log))
                elif end.status == 0 and end.timeout is None:
                    results = [Result(program, "main", PASSED)]
            except (ValueError, KeyError) as error:
                results = [Result(program, "output", FAILED, f"cannot be read: {error!r}")]
            results = formats.judge(program, results, end.status, end.timeout, end.seconds,
                                    job.skip_reason)
        if end.left:
            results.append(Result(program, "leaves no process", FAILED, ", ".join(end.left[:8])))
        self.report.spent(job.group, program, end.seconds, end.cpu_seconds)
        self.report.add(results, log, end.seconds)
        if job.gtest_output is None and not end.lost:
            for what in LEFT_LINE.findall(read_text(log)):
                self.report.leave(f"{program} ({what})")

    def check(self, program: str, name: str, function: Callable[[], str]) -> None:
        """Report a check made in this process: `function` returns its complaint, or nothing."""
        started = time.monotonic()
        complaint = function()
        seconds = time.monotonic() - started
        self.report.spent(self.report.group, program, seconds)
        self.report.add([Result(program, name, FAILED if complaint else PASSED, complaint,
                                seconds)])

    def skip(self, program: str, name: str, reason: str) -> None:
        self.report.add([Result(program, name, SKIPPED, reason)])

    def leave(self, program: str) -> None:
        """`program` is of the tier "all", and this run is not."""
        self.report.leave(program)


def read_text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def output_of(*command: str, cwd: str | None = None, data: str | None = None) -> tuple[int, str]:
    """Status and output (both streams) of a short command."""
    done = subprocess.run(command, cwd=cwd, input=data, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
                          stdin=subprocess.DEVNULL if data is None else None)
    return done.returncode, done.stdout
