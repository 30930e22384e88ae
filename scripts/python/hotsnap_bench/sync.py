# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench sync: how near to the given time the copies end, and how near to each other those
of unequal members (SyncSnap, 2014)."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from hotsnap.model import bundle
from hotsnap.ui.output import say

from . import program
from .guest import Guest
from .lab import Lab
from .stats import Line, Series, rounded

PARTS = ("deviation", "spread")
SIZE_GIB = 1
DURATIONS = (3, 10, 30)
LOADS = {"idle": "hs.role=idle", "writing": "hs.role=writer hs.writer.mib=256 hs.writer.rate=0"}
# Name, MiB, load.
MEMBERS = (("a", 192, "hs.role=idle"),
           ("b", 512, "hs.role=writer hs.writer.mib=128 hs.writer.rate=0"),
           ("c", 1024, "hs.role=writer hs.writer.mib=64 hs.writer.rate=2000 hs.writer.disk=20"),
           ("d", 2048, "hs.role=writer hs.writer.mib=256 hs.writer.rate=20000"))
TOGETHER_SECONDS = 10
MEMORY_GIB = 4


@dataclass
class Ends:
    """`deviation`: of the last page saved from the given time after the pause began. `spread`: from
    the first member's last page to the last member's."""

    deviation: dict[tuple[str, int], Series] = field(default_factory=lambda: {
        (load, seconds): Series("ms") for load in LOADS for seconds in DURATIONS})
    spread: Series = field(default_factory=lambda: Series("ms"))
    uncontrolled: Series = field(default_factory=lambda: Series("ms"))

    def distances(self) -> Series:
        return Series("ms", [abs(sample) for series in self.deviation.values()
                             for sample in series.samples])

    def lines(self) -> list[Line]:
        found = [Line(f"deviation from {seconds} s, {load}", series)
                 for (load, seconds), series in self.deviation.items()]
        return [*found,
                Line("distance from the given time, all", self.distances(),
                     target="3, at most 10"),
                Line("spread of four members' ends", self.spread, target="at most 10"),
                Line("spread without a given time", self.uncontrolled)]

    def report(self) -> dict[str, Any]:
        distances = self.distances()
        return {"deviation_ms_median": rounded(distances.median or 0),
                "deviation_ms_max": rounded(max(distances.samples, default=0)),
                "spread_ms": rounded(self.spread.median or 0),
                "spread_uncontrolled_ms": rounded(self.uncontrolled.median or 0),
                "series": {
                    **{f"deviation {load} {seconds} s": series.report()
                       for (load, seconds), series in self.deviation.items()},
                    "spread": self.spread.report(), "uncontrolled": self.uncontrolled.report()}}


def ends_ms(saved: bundle.Bundle) -> list[float]:
    """When each member's last page was saved, after the first pause began."""
    cut = min(member.pause.begin_ns for member in saved.members)
    return [((member.memory.copied_ns or 0) - cut) / 1e6 for member in saved.members]


def measure_deviation(found: Ends, folder: str, files: str, qemu: str, repeat: int) -> None:
    for load, parameters in LOADS.items():
        say(f"  start a VM with {SIZE_GIB} GiB, {load}")
        with Guest(os.path.join(folder, load), files, qemu, SIZE_GIB, parameters) as guest:
            guest.start()
            if load == "writing":
                guest.wait_writing()
            for turn in range(repeat):
                for seconds in DURATIONS:
                    snapshot = guest.snapshot(f"t{turn}-{seconds}", duration=seconds)
                    off = ends_ms(snapshot.saved)[0] - seconds * 1000
                    found.deviation[load, seconds].add(off)
                    guest.discard(snapshot)
                    say(f"  {turn + 1}/{repeat}: {load}: {seconds} s, and {off:+.2f} ms")


def measure_spread(found: Ends, folder: str, files: str, qemu: str, repeat: int) -> None:
    say(f"  start {len(MEMBERS)} VMs")
    with Lab(os.path.join(folder, "spread"), files, qemu, MEMBERS) as lab:
        for turn in range(repeat):
            for series, tag, options in ((found.uncontrolled, f"f{turn}", {}),
                                         (found.spread, f"t{turn}",
                                          {"duration": TOGETHER_SECONDS})):
                ends = ends_ms(lab.snapshot(tag, **options))
                series.add(max(ends) - min(ends))
            say(f"  {turn + 1}/{repeat}: spread {found.spread.samples[-1]:.2f} ms; without a given "
                f"time {found.uncontrolled.samples[-1]:.0f} ms")


def measure(folder: str, files: str, qemu: str, repeat: int) -> Ends:
    found = Ends()
    measure_deviation(found, folder, files, qemu, repeat)
    measure_spread(found, folder, files, qemu, repeat)
    return found


def arguments(given: list[str] | None) -> argparse.Namespace:
    return program.arguments("sync", 5, given)


def main(given: list[str] | None = None) -> int:
    return program.main(arguments(given), PARTS, MEMORY_GIB, measure)


if __name__ == "__main__":
    sys.exit(main())
