# SPDX-License-Identifier: GPL-2.0-or-later
"""What snapshots of its disks cost a PostgreSQL that commits as fast as it can."""

from __future__ import annotations

import os
import re
import threading
import time

from hotsnap.errors import HotsnapError
from hotsnap.ui.output import say
from support.shell import Shell

from .group_figures import PERIOD_SECONDS, Groups
from .group_holds import tidy
from .lab import Lab

TURN_SECONDS = 20
CLIENTS = 4
_RATE = re.compile(r"^tps = ([0-9.]+)", re.M)
_PROGRAM = "/usr/lib/postgresql/15/bin/pgbench -h /run/postgresql -U hotsnap"


def rate(output: str) -> float:
    """Commits a second, of what pgbench printed."""
    found = _RATE.search(output)
    if found is None or "number of failed transactions: 0 " not in output:
        raise HotsnapError(f"pgbench in the guest failed: {output[-300:]!r}")
    return float(found[1])


class Commits(threading.Thread):
    """Runs pgbench in the guest for a turn."""

    def __init__(self, shell: Shell):
        super().__init__()
        self.shell = shell
        self.output: str | HotsnapError = ""
        self.start()

    def run(self) -> None:
        try:
            self.output = self.shell.run(f"{_PROGRAM} -n -N -c {CLIENTS} -T {TURN_SECONDS} "
                                         "hotsnap 2>&1", timeout=TURN_SECONDS + 120)
        except HotsnapError as error:
            self.output = error

    def rate(self) -> float:
        self.join()
        if isinstance(self.output, HotsnapError):
            raise self.output
        return rate(self.output)


def measure(found: Groups, folder: str, files: str, qemu: str, repeat: int) -> None:
    with Lab(os.path.join(folder, "database"), files, qemu,
             [("db", 512, "hs.role=db hs.ip=10.77.1.1/24")],
             {"db": [f'image = "{os.path.realpath(os.path.join(files, "pgdata.raw"))}"']}) as lab:
        shell = lab.shells["db"]
        said = shell.run(f"{_PROGRAM} -i -q -s 2 hotsnap 2>&1", timeout=300)
        if "done in" not in said:
            raise HotsnapError(f"pgbench made no tables: {said[-300:]!r}")
        for turn in range(repeat):
            # In turns, the first one in turns as well: a database grows.
            for with_snapshots in ((True, False) if turn % 2 else (False, True)):
                commits = Commits(shell)
                if with_snapshots:
                    _snapshots(lab, turn, commits)
                (found.commits if with_snapshots else found.commits_without).add(commits.rate())
            tidy(lab)
            say(f"  {turn + 1}/{repeat}: {found.commits.samples[-1]:.0f} commits a second, "
                f"{found.commits_without.samples[-1]:.0f} without snapshots")


def _snapshots(lab: Lab, turn: int, commits: Commits) -> None:
    began, number = time.monotonic(), 0
    while commits.is_alive():
        due = began + PERIOD_SECONDS * (number + 0.5)
        commits.join(max(0.0, due - time.monotonic()))
        if commits.is_alive():
            lab.snapshot(f"p{turn}-{number}", content="disks")
            number += 1
