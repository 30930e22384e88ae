# SPDX-License-Identifier: GPL-2.0-or-later
"""Who spoke to whom first after the cut, and the restore line that follows from it, for `show`.

The library's line is in coordinator/restore_line.h, with the argument in
docs/internals/restore-line.md. This one is made in the same way, and compared with it by
tests/unit/coordinator/restore_lines.json. All of it rests on hints: of a member whose hints are
missing, or not as docs/formats/bundle.md has them, nothing is known.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..formats import access
from .bundle import Bundle

# Loading was not measured yet when a bundle is looked at: `show` says that it assumes this.
BYTES_PER_SECOND = 1_000_000_000
LONGEST_US = 3_600_000_000


@dataclass
class Speaker:
    """All contacts before `until_us` after the cut: (index of the member, microseconds)."""

    until_us: int = 0
    contacts: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Group:
    """Members that start together. Times are microseconds since loading begins."""

    members: list[int]
    bytes: int = 0
    begin_us: int = 0
    ready_us: int = 0
    start_us: int = 0
    latest_us: int | None = None  # None: at any time


def _is_time(value: Any, below: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


def _speaker(contacts: Any, index: dict[str, int]) -> Speaker:
    if not isinstance(contacts, dict):
        return Speaker()
    until, first = contacts.get("until_us"), contacts.get("first_us")
    if not _is_time(until, LONGEST_US + 1) or not isinstance(first, dict) or not all(
            _is_time(us, until) for us in first.values()):
        return Speaker()
    return Speaker(until, [(index[name], us) for name, us in first.items() if name in index])


def graph(names: list[str], contacts: list[Any]) -> list[Speaker]:
    """By member; `contacts` are as in the manifest, None where it has none."""
    index = {name: number for number, name in enumerate(names)}
    return [_speaker(each, index) for each in contacts]


def line(speakers: list[Speaker], windows: list[int], bytes_per_second: int) -> list[Group]:
    """The groups, in the order in which they load. `windows`: bytes to load before the start."""
    end = _time(sum(windows), bytes_per_second)
    binding = [[to for to, us in speaker.contacts if us < end and to != member]
               for member, speaker in enumerate(speakers)]
    groups = [Group(members) for members in _components(binding)]
    group_of = {member: number for number, group in enumerate(groups) for member in group.members}
    for group in groups:
        group.bytes = sum(windows[member] for member in group.members)

    def rank(number: int) -> tuple[float, int]:
        return groups[number].bytes / len(groups[number].members), groups[number].members[0]

    def total(order: list[int]) -> int:
        _use_order(order, groups, group_of, speakers, end, bytes_per_second)
        return sum(group.start_us * len(group.members) for group in groups)

    shortest = sorted(range(len(groups)), key=rank)
    receivers = _receivers_first(groups, group_of, binding, rank)
    if total(shortest) >= total(receivers):
        shortest = receivers
    total(shortest)
    _find_latest(groups, group_of, speakers)
    return sorted(groups, key=lambda group: (group.ready_us, group.members[0]))


def _time(size: int, bytes_per_second: int) -> int:
    return -(-size * 1_000_000 // bytes_per_second)


def _components(edges: list[list[int]]) -> list[list[int]]:
    """Strongly connected ones (Tarjan), each after those that it has edges to."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    open_, done, found = [], set(), []
    for root in range(len(edges)):
        calls = [] if root in number else [(root, iter(edges[root]))]
        if calls:
            number[root] = low[root] = len(number)
            open_.append(root)
        while calls:
            member, rest = calls[-1]
            for to in rest:
                if to not in number:
                    number[to] = low[to] = len(number)
                    open_.append(to)
                    calls.append((to, iter(edges[to])))
                    break
                if to not in done:
                    low[member] = min(low[member], number[to])
            else:
                calls.pop()
                if calls:
                    low[calls[-1][0]] = min(low[calls[-1][0]], low[member])
                if low[member] == number[member]:
                    at = open_.index(member)
                    found.append(sorted(open_[at:]))
                    done.update(open_[at:])
                    del open_[at:]
    return found


def _receivers_first(groups: list[Group], group_of: dict[int, int], binding: list[list[int]],
                     rank: Callable[[int], tuple[float, int]]) -> list[int]:
    speakers: list[list[int]] = [[] for _ in groups]
    missing = [0] * len(groups)
    for member, receivers in enumerate(binding):
        for to in receivers:
            if group_of[to] != group_of[member]:
                speakers[group_of[to]].append(group_of[member])
                missing[group_of[member]] += 1
    free = [(rank(number), number) for number, count in enumerate(missing) if not count]
    heapq.heapify(free)
    order = []
    while free:
        _, number = heapq.heappop(free)
        order.append(number)
        for speaker in speakers[number]:
            missing[speaker] -= 1
            if not missing[speaker]:
                heapq.heappush(free, (rank(speaker), speaker))
    return order


def _use_order(order: list[int], groups: list[Group], group_of: dict[int, int],
               speakers: list[Speaker], end: int, bytes_per_second: int) -> None:
    loaded = 0
    for number in order:
        group = groups[number]
        group.begin_us = _time(loaded, bytes_per_second)
        loaded += group.bytes
        group.ready_us = _time(loaded, bytes_per_second)
    for number, group in enumerate(groups):  # receivers come before those that speak to them
        group.start_us = max([group.ready_us, *(end - speakers[m].until_us for m in group.members),
                              *(groups[group_of[to]].start_us - us for m in group.members
                                for to, us in speakers[m].contacts
                                if us < end and group_of[to] != number)])


def _find_latest(groups: list[Group], group_of: dict[int, int], speakers: list[Speaker]) -> None:
    latest = [math.inf] * len(groups)
    until = [min(group.start_us + speakers[m].until_us for m in group.members) for group in groups]
    for number, group in enumerate(groups):
        for member in group.members:
            for to, us in speakers[member].contacts:
                if group_of[to] != number:
                    latest[group_of[to]] = min(latest[group_of[to]], group.start_us + us)
    first = heapq.nsmallest(2, range(len(groups)), key=until.__getitem__)
    for number, group in enumerate(groups):
        least = min([latest[number], *(until[other] for other in first if other != number)])
        group.latest_us = None if least == math.inf else int(least)


@dataclass
class Plan:
    """Of a bundle; `speakers` and `windows` are by member."""

    speakers: list[Speaker]
    windows: list[int]
    groups: list[Group]


def plan(found: Bundle) -> Plan | None:
    """None if the bundle says nothing of who spoke to whom."""
    contacts = [member.channel.dump().get("contacts") for member in found.members]
    if found.only_disks or all(each is None for each in contacts):
        return None
    speakers = graph([member.name for member in found.members], contacts)
    windows = []
    for member in found.members:
        window = access.window(found.file(f"{member.name}/access"), BYTES_PER_SECOND)
        pages = member.memory.pages if member.memory else None
        whole = max(pages.total - pages.zero, 0) * access.PAGE if pages else 0
        windows.append(whole if window is None else window)
    return Plan(speakers, windows, line(speakers, windows, BYTES_PER_SECOND))
