# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench groups: how long snapshots of disks hold a guest's requests, by disks, by their
size and by members; what they cost a database; and what snapshots of one VM after the other miss
(Software-defined consistency groups, DCC 2016)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from hotsnap.ui.output import say

from . import group_chain, group_database, group_holds, program
from .group_figures import Groups

MEMORY_GIB = 4  # of 16 members

PARTS: dict[str, Callable[[Groups, str, str, str, int], None]] = {
    "disks": group_holds.measure_disks, "sizes": group_holds.measure_sizes,
    "members": group_holds.measure_members, "chain": group_chain.measure,
    "database": group_database.measure}


def measured(only: list[str]) -> program.Measure:
    def measure(folder: str, files: str, qemu: str, repeat: int) -> Groups:
        found = Groups()
        for name in only or PARTS:
            say(f"{name}:")
            PARTS[name](found, folder, files, qemu, repeat)
        return found
    return measure


def arguments(given: list[str] | None) -> argparse.Namespace:
    return program.arguments("groups", 10, given, lambda parser: parser.add_argument(
        "--only", metavar="PART", action="append", default=[], choices=list(PARTS)))


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    return program.main(options, options.only or list(PARTS), MEMORY_GIB, measured(options.only))


if __name__ == "__main__":
    sys.exit(main())
