# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of the tests, counted: one Result a test case, and the report over all of them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, TextIO

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
MARKS = {PASSED: "ok", FAILED: "not ok", SKIPPED: "skip"}


@dataclass(frozen=True)
class Result:
    """One test case. `program` is the test program or checker that it belongs to."""

    program: str
    name: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Spent:
    """The time of a program, or of a step that prepares for some: from its start to its end, and
    the processor seconds of its processes, where they are known."""

    group: str
    program: str
    seconds: float
    cpu_seconds: float | None = None


SLOWEST = 10  # programs are named at the end


class Report:
    """Results as they come in, shown at once: failures and skips each, passes in one line."""

    def __init__(self, stream: TextIO = sys.stdout, tier: str = "default") -> None:
        self.stream = stream
        self.tier = tier
        self.started = time.monotonic()
        self.results: list[tuple[str, Result]] = []
        self.programs: list[Spent] = []
        self.left: list[str] = []
        self.interrupted = ""
        self.group = ""

    def begin(self, group: str, description: str = "") -> None:
        """The results that follow are of `group`. With a description it is told that the group begins."""
        self.group = group
        if description:
            self.say(f"== {group}: {description}")

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def spent(self, group: str, program: str, seconds: float,
              cpu_seconds: float | None = None) -> None:
        """Add to the time of a program."""
        for known in self.programs:
            if (known.group, known.program) == (group, program):
                known.seconds += seconds
                if cpu_seconds is not None:
                    known.cpu_seconds = (known.cpu_seconds or 0.0) + cpu_seconds
                return
        self.programs.append(Spent(group, program, seconds, cpu_seconds))

    def leave(self, program: str) -> None:
        """This run leaves `program` to one of tier "all"."""
        if f"{self.group}/{program}" not in self.left:
            self.left.append(f"{self.group}/{program}")

    def interrupt(self, signal: str) -> None:
        """The run ends here: that is a failure, so that it never looks like a shorter, passing one.
        """
        self.interrupted = signal
        self.add([Result("check", "end", FAILED, f"interrupted by {signal}")])

    def add(self, results: list[Result], log: str = "", seconds: float | None = None) -> None:
        """All results of one program, which took `seconds`; without them, the results' own times.
        `log` is named where something failed."""
        for result in results:
            self.results.append((self.group, result))
            if result.outcome != PASSED:
                reason = f" - {result.reason}" if result.reason else ""
                self.say(f"{MARKS[result.outcome]} {self.group}/{result.program}: "
                         f"{result.name}{reason}")
        passed = [result for result in results if result.outcome == PASSED]
        if passed:
            if seconds is None:
                seconds = sum(result.seconds for result in passed)
            what = passed[0].name if len(passed) == 1 else f"{len(passed)} cases"
            self.say(f"ok {self.group}/{passed[0].program}: {what} ({seconds:.1f} s)")
        if log and any(result.outcome == FAILED for result in results):
            self.say(f"   log: {os.path.relpath(log)}")

    def count(self, outcome: str, group: str | None = None) -> int:
        return sum(result.outcome == outcome and group in (None, of)
                   for of, result in self.results)

    def summary(self) -> str:
        """The line that scripts/check ends with."""
        counts = Counter(result.outcome for _, result in self.results)
        return ", ".join(f"{counts[outcome]} {outcome}" for outcome in (PASSED, FAILED, SKIPPED))

    def times(self) -> str:
        """The slowest programs, and how long all of it took."""
        slowest = sorted(self.programs, key=lambda spent: -spent.seconds)[:SLOWEST]
        lines = ["== the slowest programs and steps",
                 *(f"{spent.seconds:8.1f} s  {spent.group}/{spent.program}" for spent in slowest),
                 f"{time.monotonic() - self.started:8.1f} s  in total, tier {self.tier}"]
        if self.left:
            lines.append(f"left to --all: {', '.join(self.left)}")
        return "\n".join(lines)

    def write_json(self, path: str) -> None:
        counts = {outcome: self.count(outcome) for outcome in (PASSED, FAILED, SKIPPED)}
        data: dict[str, Any] = {
            **counts, "tier": self.tier, "interrupted": self.interrupted,
            "seconds": round(time.monotonic() - self.started, 1),
            "programs": [asdict(spent) for spent in self.programs], "left_to_all": self.left,
            "results": [{"group": group, **asdict(result)} for group, result in self.results]}
        partial = f"{path}.partial"
        with open(partial, "w", encoding="utf-8") as stream:
            json.dump(data, stream, indent=1)
            stream.write("\n")
        os.replace(partial, path)
