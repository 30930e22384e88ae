# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench mediator: throughput of a guest's NIC without the packet mediator, through one that
has never seen a snapshot, and through one that has and is idle again.

A guest and the host talk over the guest's tap, and then a guest that is a switch forwards frames
between two of them. The mediators are taken away, made anew, and made to take part in a snapshot,
in turns, while the same VM runs: nothing else differs. Each figure is taken by the clock and by the
processor time that QEMU used, which other programs hardly disturb. A ratio is the median of those
of the turns, so that it is one of figures taken within seconds."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import dataclass, field
from typing import Any

from hotsnap.ui.output import say

from . import program
from .flows import GUEST, Ends, Host, Through
from .guest import Guest
from .stats import Line, Series, rounded

MEMORY_GIB = 1
CONDITIONS = ("without", "before", "after")
WAYS = Ends.WAYS + Through.WAYS
BY = ("", ", of QEMU's time")
MBIT = 1e6 / 8


@dataclass
class Throughput:
    series: dict[tuple[str, str], Series] = field(default_factory=lambda: {
        (way + by, condition): Series("Mbit/s")
        for way in WAYS for by in BY for condition in CONDITIONS})

    def ratio(self, way: str, condition: str) -> float | None:
        turns = [with_it / without
                 for with_it, without in zip(self.series[way, condition].samples,
                                             self.series[way, "without"].samples) if without]
        return statistics.median(turns) if turns else None

    def report(self) -> dict[str, Any]:
        return {"mediator": {
            way: {**{c: self.series[way, c].report() for c in CONDITIONS},
                  **{f"{c}_ratio": rounded(self.ratio(way, c) or 0)
                     for c in CONDITIONS if c != "without"}}
            for way in dict.fromkeys(way for way, _ in self.series)}}

    def lines(self) -> list[Line]:
        found = []
        for way in dict.fromkeys(way for way, _ in self.series):
            found += [Line(f"{way}, {condition}", self.series[way, condition])
                      for condition in CONDITIONS]
            found += [Line(f"{way}, {condition} to without", self.ratio(way, condition), "ratio",
                           "at least 0.97") for condition in CONDITIONS if condition != "without"]
        return found


class Conditions:
    """Brings the VM from one into the next, in their order."""

    def __init__(self, guest: Guest):
        self.guest = guest
        self.turns = 0
        with guest.qmp() as qmp:
            objects = qmp.execute("qom-list", {"path": "/objects"})
            self.member = self._named(objects, "hotsnap-member")[0]
            self.filters = {name: qmp.execute("qom-get", {"path": f"/objects/{name}",
                                                          "property": "netdev"})
                            for name in self._named(objects, "filter-hotsnap")}

    @staticmethod
    def _named(objects: list[dict[str, str]], kind: str) -> list[str]:
        return [entry["name"] for entry in objects if entry["type"] == f"child<{kind}>"]

    def enter(self, condition: str) -> None:
        if condition == "after":
            self.turns += 1
            self.guest.discard(self.guest.snapshot(f"t{self.turns}"))
            return
        with self.guest.qmp() as qmp:
            for name, netdev in self.filters.items():
                if condition == "without":
                    qmp.execute("object-del", {"id": name})
                else:
                    qmp.execute("object-add", {"qom-type": "filter-hotsnap", "id": name,
                                               "netdev": netdev, "member": self.member})


def measure_guest(found: Throughput, guest: Guest, kind: type[Ends] | type[Through],
                  repeat: int) -> None:
    guest.start()
    host: Host = kind(guest)
    conditions = Conditions(guest)
    for turn in range(repeat):
        for condition in CONDITIONS:
            conditions.enter(condition)
            for way in kind.WAYS:
                for by, value in zip(BY, host.measure(way)):
                    found.series[way + by, condition].add(value / MBIT)
        say(f"  {turn + 1}/{repeat}: " + "; ".join(
            f"{way} " + "/".join(f"{found.series[way, c].samples[-1]:.0f}" for c in CONDITIONS)
            for way in kind.WAYS) + " Mbit/s")


def measure(folder: str, files: str, qemu: str, repeat: int) -> Throughput:
    found = Throughput()
    for name, kind, networks, role in (("mediator", Ends, 1, "idle"),
                                       ("forwarder", Through, 2, "switch")):
        with Guest(os.path.join(folder, name), files, qemu, MEMORY_GIB,
                   f"hs.ip={GUEST}/24 hs.role={role}", networks=networks) as guest:
            measure_guest(found, guest, kind, repeat)
    return found


def arguments(given: list[str] | None) -> argparse.Namespace:
    return program.arguments("mediator", 9, given)


def main(given: list[str] | None = None) -> int:
    return program.main(arguments(given), WAYS, MEMORY_GIB, measure)


if __name__ == "__main__":
    sys.exit(main())
