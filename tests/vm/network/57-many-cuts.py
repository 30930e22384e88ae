#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
# tier: all
# timeout: 5400
"""A thousand cuts over all labs of support/labs.py: none has an orphan, none a frame that is
declared lost or has no place, and no message is missing after restores of the last of each series.
SNAPSHOT reaches one member up to 30 ms late, each member but the first in turn, so that frames of
the others cross its cut.

    57-many-cuts.py [CUTS [LAB]...]

Each series starts new guests, so that their disks' chains of layers stay short. The checkers' controls
are in 52-any-frame.py.
"""

import random
import shutil
import sys
import time
from functools import partial

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cuts import must_be_whole, restored, snapshot_late, unharmed
from support.labs import LABS, Lab
from support.outcome import Report
from support.workplace import Workplace

SERIES = 46  # cuts at most
LATE = 0.03  # seconds at most


class Sums:
    """What all cuts had to do with."""

    def __init__(self) -> None:
        self.cuts = self.frames = self.on_the_fly = self.waited = 0
        self.held_us = self.waited_us = 0  # the longest

    def add(self, manifest: dict) -> None:
        self.cuts += 1
        for member in manifest["members"]:
            channel = member["channel"]
            self.frames += channel["frames"]
            self.on_the_fly += channel["on_the_fly"]
            self.held_us = max(self.held_us, channel["held_us_max"])
            for kind in ("group", "source", "destination"):
                self.waited += channel[f"waited_{kind}"]
                self.waited_us = max(self.waited_us, channel[f"waited_{kind}_us_max"])

    def __str__(self) -> str:
        return (f"{self.cuts} cuts, {self.frames} frames recorded, {self.on_the_fly} red frames "
                f"before their receiver's cut (held for {self.held_us / 1000:.1f} ms at most), "
                f"{self.waited} frames without a color (they waited for "
                f"{self.waited_us / 1000:.1f} ms at most)")


def wait_randomly(seconds: float) -> bool:
    time.sleep(random.uniform(0, seconds))
    return True


def series(lab: Lab, cuts: int, sums: Sums) -> None:
    with Workplace() as place:
        cluster = lab.start(place)
        for number in range(cuts):
            late = cluster.members[1 + number % (len(cluster.members) - 1)].name
            manifest = snapshot_late(cluster, f"t{number}", late, partial(wait_randomly, LATE))
            must_be_whole(cluster, f"t{number}", manifest)
            sums.add(manifest)
            if number + 1 < cuts:
                shutil.rmtree(cluster.bundles / f"t{number}")
        unharmed(cluster)
        restored(cluster, f"t{cuts - 1}")


def many(report: Report, cuts: int, labs: list[Lab]) -> None:
    each = -(-cuts // len(labs))
    for lab in labs:
        sums = Sums()
        for begin in range(0, each, SERIES):
            report.run(f"{lab.name}-cuts-{begin + 1}",
                       partial(series, lab, min(SERIES, each - begin), sums))
        print(f"# {lab.name}: {sums}", flush=True)


main = Report()
many(main, int(sys.argv[1]) if sys.argv[1:] else 1000,
     [LABS[name] for name in sys.argv[2:] or LABS])
main.exit()
