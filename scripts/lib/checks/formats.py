# SPDX-License-Identifier: GPL-2.0-or-later
"""The outputs of test programs, read into results: GoogleTest's JSON, and TAP.

A program that ends badly without having reported a failure has failed as a whole: a crash must
never look like a shorter, passing run.
"""

from __future__ import annotations

import json
import re

from .results import FAILED, PASSED, SKIPPED, Result

# "ok 3 /path # SKIP why" is glib's, "ok NAME # 1.2 s" and "skip NAME - why" the VM tests'.
TAP_LINE = re.compile(r"(?P<mark>ok|not ok|skip)\b(?: \d+)?(?: -)? *(?P<rest>.*)$")
TAP_PLAN = re.compile(r"1\.\.(\d+)(?: # SKIP ?(.*))?$", re.IGNORECASE)
SKIP_DIRECTIVE = re.compile(r"# SKIP\b[ :-]*(.*)$", re.IGNORECASE)
SECONDS = re.compile(r"# ?([0-9.]+) s$")
SKIP_STATUS = 77  # the whole program could not run here


def tap_result(program: str, line: str) -> Result | None:
    """The result in one line of TAP; None for any other line."""
    match = TAP_LINE.match(line.strip())
    if not match:
        return None
    mark, rest = match["mark"], match["rest"]
    skip = SKIP_DIRECTIVE.search(rest)
    if skip:
        return Result(program, rest[:skip.start()].strip(), SKIPPED, skip[1].strip())
    seconds = SECONDS.search(rest)
    if seconds:
        rest = rest[:seconds.start()].strip()
    name, _, reason = rest.partition(" - ")
    outcome = {"ok": PASSED, "not ok": FAILED, "skip": SKIPPED}[mark]
    return Result(program, name.strip(), outcome, reason.strip(),
                  float(seconds[1]) if seconds else 0.0)


def read_tap(program: str, text: str) -> list[Result]:
    """All results in a TAP stream; fewer than its plan announced is a failure."""
    results, planned = [], None
    for line in text.splitlines():
        plan = TAP_PLAN.match(line.strip())
        if plan:
            planned = int(plan[1])
            if planned == 0:
                results.append(Result(program, "all", SKIPPED, plan[2] or "nothing to run here"))
            continue
        result = tap_result(program, line)
        if result:
            results.append(result)
    if planned and len(results) < planned:
        results.append(Result(program, "plan", FAILED,
                              f"{len(results)} of {planned} tests reported a result"))
    return results


def read_gtest(program: str, text: str) -> list[Result]:
    """The cases in a file written by --gtest_output=json."""
    results = []
    for suite in json.loads(text)["testsuites"]:
        for case in suite["testsuite"]:
            if case["status"] == "NOTRUN":
                continue  # filtered out or disabled by its author
            name = f"{suite['name']}.{case['name']}"
            seconds = float(case["time"].rstrip("s"))
            failures = case.get("failures", [])
            if failures:
                reason = failures[0]["failure"].strip().replace("\n", "; ")
                results.append(Result(program, name, FAILED, reason[:160], seconds))
            elif case.get("result") == "SKIPPED":
                reason = "; ".join(entry["message"].strip() for entry in case.get("skipped", []))
                results.append(Result(program, name, SKIPPED, reason or "see the log", seconds))
            else:
                results.append(Result(program, name, PASSED, "", seconds))
    return results


def judge(program: str, results: list[Result], status: int, timeout: float | None,
          seconds: float, skip_reason: str = "") -> list[Result]:
    """Add the end of the program to its results: its status, or its `timeout` if it was too slow."""
    if timeout is not None:
        return [*results, Result(program, "end", FAILED, f"not finished after {timeout:g} s")]
    if status == SKIP_STATUS and not results:
        return [Result(program, "all", SKIPPED, skip_reason)]
    if status == 0 and not results:
        return [Result(program, "end", FAILED, "it reported no result")]
    if status != 0 and not any(result.outcome == FAILED for result in results):
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return [*results, Result(program, "end", FAILED, f"ended with {how}", seconds)]
    return results
