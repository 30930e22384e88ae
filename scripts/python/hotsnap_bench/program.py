# SPDX-License-Identifier: GPL-2.0-or-later
"""What the programs of scripts/bench have in common: arguments, room, cleaning up, the table, the
JSON file, the exit code."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hotsnap.errors import EXIT_FAILED, HotsnapError, Interrupted
from hotsnap.host import atomic
from hotsnap.qemu import binaries
from hotsnap.ui.output import human_seconds, say

from . import core, guest
from .guest import GIB
from .stats import Line, show


class Found(Protocol):
    def lines(self) -> list[Line]: ...

    def report(self) -> dict[str, Any]:
        """What the JSON file holds, beside `details`."""


# Folder, guest's files, QEMU, repeat -> what was measured.
Measure = Callable[[str, str, str, int], Found]


def arguments(name: str, repeat: int, given: list[str] | None,
              add: Callable[[argparse.ArgumentParser], None] = lambda _: None
              ) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"bench {name}", description="see scripts/bench --help")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--repeat", metavar="N", type=core.count, default=repeat)
    parser.add_argument("--list-parts", action="store_true",
                        help="print what would be measured, and measure nothing")
    add(parser)
    return parser.parse_args(given)


def main(options: argparse.Namespace, parts: Sequence[str], memory_gib: float,
         measure: Measure) -> int:
    if options.list_parts:
        print(*parts, sep=", ")
        return 0
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, core.interrupt)
    build = os.path.join(binaries.CHECKOUT, "build")
    folder, qemu = os.path.join(build, "bench"), binaries.qemu()
    began = time.monotonic()
    try:
        guest.clean(folder)
        if core.available_memory() < memory_gib * GIB + core.SPARE_MEMORY:
            raise HotsnapError(f"{memory_gib:g} GiB of memory are needed for VMs, and some to "
                               "spare: end other programs")
        facts = core.facts(qemu, None, folder)
        facts["load_average_before"] = os.getloadavg()
        guest.small_pages_only()
        os.makedirs(folder)
        try:
            found = measure(folder, os.path.join(build, "guest"), qemu, options.repeat)
        except Interrupted:
            guest.clean(folder)
            raise
        shutil.rmtree(folder)
        facts["load_average_after"] = os.getloadavg()
        facts["seconds"] = round(time.monotonic() - began, 1)
        if options.json:
            atomic.write_json(options.json, {**found.report(),
                                             "details": {"facts": facts,
                                                         "repeat": options.repeat}})
    except core.EXPECTED as error:
        say(f"bench: error: {error}")
        return error.exit_code if isinstance(error, HotsnapError) else EXIT_FAILED
    print(show(found.lines()))
    print(f"\n{facts['qemu']}, Linux {facts['kernel']}, {facts['cpus']} CPUs, "
          f"{human_seconds(facts['seconds'])}", flush=True)
    return 0
