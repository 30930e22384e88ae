# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests say, counted: one Result a test case, and the report over all of them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TextIO

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


class Report:
    """Results as they come in, shown at once: failures and skips each, passes in one line."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self.stream = stream
        self.started = time.monotonic()
        self.results: list[tuple[str, Result]] = []
        self.group = ""

    def begin(self, group: str, description: str) -> None:
        self.group = group
        self.say(f"== {group}: {description}")

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def add(self, results: list[Result], log: str = "") -> None:
        """All results of one program. `log` is named where something failed."""
        for result in results:
            self.results.append((self.group, result))
            if result.outcome != PASSED:
                reason = f" - {result.reason}" if result.reason else ""
                self.say(f"{MARKS[result.outcome]} {self.group}/{result.program}: "
                         f"{result.name}{reason}")
        passed = [result for result in results if result.outcome == PASSED]
        if passed:
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

    def write_json(self, path: str) -> None:
        counts = {outcome: self.count(outcome) for outcome in (PASSED, FAILED, SKIPPED)}
        rows = [{"group": group, **asdict(result)} for group, result in self.results]
        partial = f"{path}.partial"
        with open(partial, "w", encoding="utf-8") as stream:
            json.dump({**counts, "seconds": round(time.monotonic() - self.started, 1),
                       "results": rows}, stream, indent=1)
            stream.write("\n")
        os.replace(partial, path)
