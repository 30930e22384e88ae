# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts/bench groups measures: the figures, their table and their file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .guest import GIB
from .stats import Line, Series, ratio, rounded

DISKS = (1, 4, 8)
MEMBERS = (2, 4, 8, 16)
PERIOD_SECONDS = 5.0  # between snapshots of the database
GOALS = {"hold": "2, at most 10", "barrier": "at most 15", "size": "at most 1.2",
         "members": "at most 1.2", "commits": "at least 0.95"}


@dataclass(frozen=True)
class Size:
    name: str
    size: str
    used: int = 0  # bytes


SIZES = (Size("1 GiB", "1G"), Size("64 GiB", "64G"), Size("1 TiB", "1T"),
         Size("1 TiB, 1 GiB of it written", "1T", GIB))


def milliseconds() -> Series:
    return Series("ms")


def longest(series: Series) -> float | None:
    return max(series.samples, default=None)


@dataclass
class Groups:
    """`holds`: by number of disks; `guest`, `guest_without`: the longest write or sync of a guest
    that does nothing else, with a snapshot and in as long without one. `sizes`: by disk. `causal`,
    `barrier`: the longest hold of a snapshot, by members. `commits`: commits a second with a
    snapshot every few seconds, `commits_without`: in the turns between."""

    holds: dict[int, Series] = field(default_factory=lambda: {
        count: milliseconds() for count in DISKS})
    guest: Series = field(default_factory=milliseconds)
    guest_without: Series = field(default_factory=milliseconds)
    sizes: dict[str, Series] = field(default_factory=lambda: {
        size.name: milliseconds() for size in SIZES})
    causal: dict[int, Series] = field(default_factory=lambda: {
        count: milliseconds() for count in MEMBERS})
    barrier: dict[int, Series] = field(default_factory=lambda: {
        count: milliseconds() for count in MEMBERS})
    commits: Series = field(default_factory=lambda: Series("1/s"))
    commits_without: Series = field(default_factory=lambda: Series("1/s"))
    snapshots: int = 0
    violations: int = 0
    one_by_one: int = 0
    violations_one_by_one: int = 0
    one_by_one_span: Series = field(default_factory=milliseconds)

    def all_holds(self) -> Series:
        return Series("ms", [sample for series in self.holds.values() for sample in series.samples])

    def all_barriers(self) -> Series:
        return Series("ms", [sample for series in self.barrier.values()
                             for sample in series.samples])

    def size_ratio(self) -> float | None:
        """Of the largest median to the smallest."""
        medians = [series.median for series in self.sizes.values() if series.median]
        return ratio(max(medians, default=None), min(medians, default=None))

    def members_ratio(self) -> float | None:
        return ratio(self.causal[max(self.causal)].median, self.causal[min(self.causal)].median)

    def commit_ratio(self) -> float | None:
        return ratio(self.commits.median, self.commits_without.median)

    def lines(self) -> list[Line]:
        return [line for line in self.all_lines() if (
            bool(line.value.samples) if isinstance(line.value, Series) else line.value is not None)]

    def all_lines(self) -> list[Line]:
        return [
            *(Line(f"hold, {count} disks written to", series)
              for count, series in self.holds.items()),
            Line("hold, all of these", self.all_holds(), target=GOALS["hold"]),
            Line("longest write or sync in the guest", self.guest),
            Line("the same without a snapshot", self.guest_without),
            *(Line(f"hold, disk of {name}", series) for name, series in self.sizes.items()),
            Line("largest of these medians to the smallest", self.size_ratio(),
                 target=GOALS["size"]),
            *(Line(f"longest hold, {count} members, causal", series)
              for count, series in self.causal.items()),
            Line("most members to fewest, causal", self.members_ratio(),
                 target=GOALS["members"]),
            *(Line(f"longest hold, {count} members, barrier", series)
              for count, series in self.barrier.items()),
            Line("hold, barrier, all of these", self.all_barriers(), target=GOALS["barrier"]),
            Line(f"commits, a snapshot every {PERIOD_SECONDS:g} s", self.commits),
            Line("commits without", self.commits_without),
            Line("with snapshots to without", self.commit_ratio(), target=GOALS["commits"]),
            Line(f"group snapshots that are inconsistent, of {self.snapshots}",
                 self.violations if self.snapshots else None, target="0"),
            Line(f"the same of VM by VM, of {self.one_by_one}",
                 self.violations_one_by_one if self.one_by_one else None),
            Line("VM by VM, first to last", self.one_by_one_span)]

    def report(self) -> dict[str, Any]:
        """Figures of parts that were not measured are not in it."""
        holds = self.all_holds()
        figures = {
            "hold_ms_median": holds.median, "hold_ms_max": longest(holds),
            "barrier_ms_max": longest(self.all_barriers()), "size_ratio": self.size_ratio(),
            "members_ratio": self.members_ratio(), "commit_ratio": self.commit_ratio(),
            **({"snapshots": self.snapshots, "violations": self.violations,
                "one_by_one": self.one_by_one,
                "violations_one_by_one": self.violations_one_by_one} if self.snapshots else {})}
        return {
            **{name: rounded(value) for name, value in figures.items() if value is not None},
            "series": {
                **{f"hold {count} disks": s.report() for count, s in self.holds.items()},
                "guest": self.guest.report(), "guest without": self.guest_without.report(),
                **{f"hold {name}": s.report() for name, s in self.sizes.items()},
                **{f"causal {count}": s.report() for count, s in self.causal.items()},
                **{f"barrier {count}": s.report() for count, s in self.barrier.items()},
                "commits": self.commits.report(),
                "commits without": self.commits_without.report(),
                "one by one": self.one_by_one_span.report()}}
