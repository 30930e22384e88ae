#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The README's first command, as a user runs it, and what it leaves behind: nothing."""

import json
import re
import subprocess

from harness import BUILD, ROOT, Report, Workplace, check

LAST = (r"^quickstart: PASS members=3 downtime_max_ms=[\d.]+ backoff_max_ms=[\d.]+ "
        r"orphans=0 lost=0 restored=3$")


def namespaces() -> set[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line.startswith("hs-")}


def quickstart() -> None:
    before = namespaces()
    with Workplace() as place:
        result = place.path / "result.json"
        done = subprocess.run([str(ROOT / "scripts" / "quickstart"), "--json", str(result)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              stdin=subprocess.DEVNULL, check=False)
        lines = done.stdout.strip().splitlines()
        print("\n".join(f"# {line}" for line in lines[-25:]))
        check(done.returncode == 0, f"exit code {done.returncode}: {lines[-1:]}")
        check(re.match(LAST, lines[-1]), f"its last line is: {lines[-1]}")
        data = json.loads(result.read_text())
        for key in ("pass", "accel", "members", "downtime_max_ms", "backoff_max_ms", "orphans",
                    "lost", "restored"):
            check(key in data, f"{key} is missing in the JSON")
        check((BUILD / "quickstart" / "timeline.svg").stat().st_size > 0, "no picture")
    check(namespaces() <= before, f"namespaces left: {namespaces() - before}")


report = Report()
report.run("quickstart", quickstart)
report.exit()
