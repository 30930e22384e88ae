# SPDX-License-Identifier: GPL-2.0-or-later
"""A series of regular snapshots: when each is due, how it is named, and which are kept.

Time is cut into slots: slot S of a period P is from S to S + P, and S is a multiple of P in seconds
since 1970. So a series has the same slots after a restart. Each slot has one snapshot, which is due
when the slot begins; the first slot of a series, and that in which the command is started again,
have it at once. A slot that has none when it ends is missed.

Nothing here looks at a clock: readings are passed in. A reading has two times: `wall` names the
slots, and can be set by anybody; `steady` tells how much time went by.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
PERIOD = re.compile(rf"(\d{{1,9}})([{''.join(UNITS)}]?)")
HOUR, DAY = UNITS["h"], UNITS["d"]
TIME = "%Y%m%dT%H%M%SZ"
STEP = 2.0  # seconds; when the wall clock is further off, it was set


def parse_period(text: str) -> int:
    """"60s", "5m" or "90" in seconds; ValueError says what is allowed."""
    match = PERIOD.fullmatch(text)
    if not match or not int(match[1]):
        raise ValueError(f"{text!r} is not a period: write seconds, or a number with s, m, h, d "
                         "or w")
    return int(match[1]) * UNITS[match[2]]


def utc(seconds: float, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime(form)


# --- tags ----------------------------------------------------------------------------------------

def new_tag(prefix: str, slot: int, exists: Callable[[str], bool]) -> str:
    """A tag that no snapshot has; it sorts by time. After the clock was set back there may be one
    of that slot."""
    stem = f"{prefix}-{utc(slot, TIME)}"
    tag, number = stem, 1
    while exists(tag):
        number += 1
        tag = f"{stem}-{number}"
    return tag


def is_tag(prefix: str, tag: str) -> bool:
    return re.fullmatch(re.escape(prefix) + r"-\d{8}T\d{6}Z(-\d+)?", tag) is not None


# --- what is kept --------------------------------------------------------------------------------

@dataclass(frozen=True)
class Keep:
    """How many are kept: of the newest; of the newest of an hour each; of the newest of a day each
    (UTC). Those of all three are kept. If none is given, every snapshot is."""

    newest: int | None = None
    hourly: int | None = None
    daily: int | None = None

    def everything(self) -> bool:
        return self.newest is None and self.hourly is None and self.daily is None


def doomed(slots: Sequence[int], keep: Keep) -> list[int]:
    """The positions in `slots` of the snapshots that are not kept. `slots` is in the order in which
    they were taken, oldest first: a clock that was set makes none of them newer. Hours and days
    without a snapshot are not counted; the newest snapshot is always kept."""
    if keep.everything():
        return []
    order = range(len(slots) - 1, -1, -1)
    kept = set(order[:max(1, keep.newest or 0)])
    for length, count in ((HOUR, keep.hourly or 0), (DAY, keep.daily or 0)):
        seen: set[int] = set()
        for position in order:
            bucket = slots[position] // length
            if bucket not in seen and len(seen) < count:
                seen.add(bucket)
                kept.add(position)
    return [position for position in range(len(slots)) if position not in kept]


# --- when each is due ----------------------------------------------------------------------------

@dataclass(frozen=True)
class Reading:
    wall: float    # seconds since 1970
    steady: float  # seconds since the host's boot; nobody sets it


@dataclass(frozen=True)
class Turn:
    """What is to be done now."""

    due: int     # the slot whose snapshot is next
    wait: float  # seconds until it is due; not above 0 if it is due now
    missed: int  # slots that ended without a snapshot since the turn before
    step: float  # seconds by which the wall clock was set since then


class Schedule:
    """Which slot is due. A slot is settled when its snapshot was taken or missed, and so are all
    before it."""

    def __init__(self, period: int, now: Reading, settled: int | None = None,
                 settled_period: int | None = None):
        """`settled` is the last slot of an earlier run, of a period that may have been another."""
        self.period = period
        self.tolerance = min(STEP, period / 2)
        self.down = 0  # slots that ended while the command did not run
        self._anchor = now
        self._missed = 0
        current = self._current(now.wall)
        self.settled = current - period
        if settled is not None:
            before = settled_period or period
            last = int(now.wall // before) * before
            self.down = max(0, (last - settled) // before - 1)
            # A slot of the future: the clock is a little behind the one before, or was set.
            rounded = settled // period * period
            self.settled = rounded if current <= rounded < current + 2 * period else \
                current if rounded > current else current - period

    def _current(self, wall: float) -> int:
        return int(wall // self.period) * self.period

    def _time(self, now: Reading) -> float:
        """The wall clock as it would be had nobody set it."""
        return self._anchor.wall + now.steady - self._anchor.steady

    def begins(self, slot: int) -> float:
        """When a slot begins, by the steady clock."""
        return self._anchor.steady + slot - self._anchor.wall

    @property
    def next(self) -> int:
        return self.settled + self.period

    def look(self, now: Reading) -> Turn:
        step = self._follow(now)
        self._pass_over(self._current(self._time(now)) - self.period)
        missed, self._missed = self._missed, 0
        return Turn(self.next, self.begins(self.next) - now.steady, missed, step)

    def settle(self, slot: int) -> None:
        self.settled = max(self.settled, slot)

    def overrun(self, now: Reading) -> int:
        """Settles the slots that have begun, because a snapshot was under way then; returns their
        number."""
        before = self.settled
        self.settled = max(self.settled, self._current(self._time(now)))
        return (self.settled - before) // self.period

    def _pass_over(self, slot: int) -> None:
        """Slots up to this one have ended."""
        if slot > self.settled:
            self._missed += (slot - self.settled) // self.period
            self.settled = slot

    def _follow(self, now: Reading) -> float:
        """Takes over the wall clock, and returns by how much it was set. Slots are not missed
        because somebody leaps over them, and a clock that was set back does not stop the series:
        the next snapshot is due at the next slot of the new time, or at once if one is due now."""
        step = now.wall - self._time(now)
        if abs(step) > self.tolerance:
            current = self._current(self._time(now))
            self._pass_over(current - self.period)
            is_due = self.settled < current
            current = self._current(now.wall)
            self.settled = current - self.period if is_due else current
        else:
            step = 0.0
        self._anchor = now
        return step
