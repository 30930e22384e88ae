# SPDX-License-Identifier: GPL-2.0-or-later
"""What the groups of checks share: folders, build steps, and running one test program."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from . import formats, process
from .results import FAILED, PASSED, SKIPPED, Report, Result

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))

Reader = Callable[[str, str], list[Result]]  # program, text -> results


class CannotRun(Exception):
    """A group cannot go on; the text says why. Counts as one failure."""


class Context:
    def __init__(self, report: Report, root: str = ROOT) -> None:
        self.report = report
        self.root = root
        self.build = os.path.join(root, "build")
        self.logs = os.path.join(self.build, "logs", "check")

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def script(self, *command: str) -> None:
        """Run one of scripts/ that prepares something, its progress shown as it is."""
        child = subprocess.Popen([self.path("scripts", command[0]), *command[1:]],
                                 stdin=subprocess.DEVNULL)
        try:
            status = child.wait()
        except BaseException:
            child.terminate()  # it cleans up after itself
            child.wait()
            raise
        if status != 0:
            raise CannotRun(f"'scripts/{' '.join(command)}' failed: see its output above")

    def packages(self, *names: str) -> None:
        """Install what is missing of these sets of scripts/lib/packages.sh."""
        self.script("lib/need-packages", *names)

    def log(self, program: str) -> str:
        return os.path.join(self.logs, self.report.group,
                            re.sub(r"[^A-Za-z0-9_.+-]+", "-", program) + ".log")

    def run(self, program: str, command: Sequence[str], timeout: float,
            read: Reader | None = formats.read_tap, *, gtest_output: str | None = None,
            env: Mapping[str, str] | None = None, cwd: str | None = None,
            skip_reason: str = "it cannot run here: see its log") -> None:
        """Run a test program and report its results. Status 77 is a skip, for `skip_reason`.

        They are read from `gtest_output` if the program, being one of GoogleTest's, wrote it;
        otherwise from its log by `read`; without a reader its exit status is the only result.
        """
        log = self.log(program)
        os.makedirs(os.path.dirname(log), exist_ok=True)
        if gtest_output is not None and os.path.exists(gtest_output):
            os.remove(gtest_output)
        end = process.run(f"{self.report.group}/{program}", command, log, timeout, env=env,
                          cwd=cwd)
        results: list[Result] = []
        try:
            if gtest_output is not None and os.path.exists(gtest_output):
                results = formats.read_gtest(program, read_text(gtest_output))
            elif read is not None:
                results = read(program, read_text(log))
            elif end.status == 0 and end.timeout is None:
                results = [Result(program, "main", PASSED)]
        except (ValueError, KeyError) as error:
            results = [Result(program, "output", FAILED, f"cannot be read: {error!r}")]
        results = formats.judge(program, results, end.status, end.timeout, end.seconds,
                                skip_reason)
        if end.left:
            results.append(Result(program, "leaves no process", FAILED, ", ".join(end.left[:8])))
        if not any(result.seconds for result in results):
            first, *rest = results
            results = [Result(first.program, first.name, first.outcome, first.reason,
                              end.seconds), *rest]
        self.report.add(results, log)

    def check(self, program: str, name: str, function: Callable[[], str]) -> None:
        """Report a check made in this process: `function` returns its complaint, or nothing."""
        started = time.monotonic()
        complaint = function()
        self.report.add([Result(program, name, FAILED if complaint else PASSED, complaint,
                                time.monotonic() - started)])

    def skip(self, program: str, name: str, reason: str) -> None:
        self.report.add([Result(program, name, SKIPPED, reason)])


def read_text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def output_of(*command: str, cwd: str | None = None, data: str | None = None) -> tuple[int, str]:
    """Status and output (both streams) of a short command."""
    done = subprocess.run(command, cwd=cwd, input=data, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
                          stdin=subprocess.DEVNULL if data is None else None)
    return done.returncode, done.stdout
