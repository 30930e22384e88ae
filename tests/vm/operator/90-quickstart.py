#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The README's first command, as a user runs it. It leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.outcome import Report, check
from support.paths import BUILD, ROOT
from support.workplace import Workplace

LAST = (r"^quickstart: PASS members=3 downtime_max_ms=[\d.]+ backoff_max_ms=[\d.]+ "
        r"orphans=0 lost=0 restored=3$")


RUN = [str(ROOT / "scripts" / "quickstart")]


# Traces of other tests that run beside this one.
OTHERS = re.compile(r"hs-test-|hs-operator-test-|hs-every-test-|hotsnap-test-")


def traces() -> set[str]:
    """The traces that a run could leave: network namespaces, mounts, and processes."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    found = {line.split()[0] for line in names.stdout.splitlines() if line.startswith("hs-")}
    found |= set(Path("/proc/self/mounts").read_text().splitlines())
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended
        if str(BUILD / "quickstart") in command:
            found.add(command)
    return {trace for trace in found if not OTHERS.search(trace)}


def quickstart() -> None:
    with Workplace() as place:
        result = place.path / "result.json"
        done = subprocess.run([*RUN, "--json", str(result)],
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


def interrupted() -> None:
    """Ctrl-C in the middle; the terminal sends it to all processes of the foreground."""
    with subprocess.Popen(RUN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, start_new_session=True) as run:
        lines = []
        for line in run.stdout:
            lines.append(line)
            if "wait until traffic flows" in line:
                check(traces() > BEFORE, "the check for what is left sees nothing of what runs")
                os.killpg(run.pid, signal.SIGINT)
    check(run.returncode == 130, f"exit code {run.returncode}")
    check(lines[-1].startswith("quickstart: FAIL "), f"its last line is: {lines[-1]}")


def nothing_left() -> None:
    check(traces() <= BEFORE, f"left: {traces() - BEFORE}")


BEFORE = traces()
report = Report()
report.run("quickstart", quickstart)
report.run("quickstart-leaves-nothing", nothing_left)
report.run("quickstart-interrupted", interrupted)
report.run("quickstart-interrupted-leaves-nothing", nothing_left)
report.exit()
