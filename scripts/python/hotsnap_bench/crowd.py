# SPDX-License-Identifier: GPL-2.0-or-later
"""Backoff of a cluster of more busy members than the host has processors."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from hotsnap.ui.output import say

from .lab import Lab
from .stats import Line, Series

COUNT = 16
MIB = 192
BETWEEN_SECONDS = 2.0


@dataclass
class Crowd:
    """`backoff`: from the first suspend to the last resume. `downtime`: the longest pause."""

    backoff: Series = field(default_factory=lambda: Series("ms"))
    downtime: Series = field(default_factory=lambda: Series("ms"))
    samples: list[dict[str, Any]] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        return {"backoff": self.backoff.report(), "downtime_max": self.downtime.report(),
                "samples": self.samples}


def members() -> list[tuple[str, int, str]]:
    """Each writes to its memory, and exchanges messages with the next one."""
    names = [f"m{number}" for number in range(COUNT)]
    ips = {name: f"10.77.1.{number + 1}" for number, name in enumerate(names)}
    found = []
    for number, name in enumerate(names):
        peers = {names[number - 1], names[(number + 1) % COUNT]}
        listed = ",".join(f"{peer}:{ips[peer]}" for peer in sorted(peers))
        found.append((name, MIB, f"hs.ip={ips[name]}/24 hs.peers={listed} hs.role=writer "
                                 "hs.writer.mib=32 hs.writer.rate=1000"))
    return found


def measure(folder: str, files: str, qemu: str, repeat: int) -> Crowd:
    found = Crowd()
    say(f"  start {COUNT} VMs")
    with Lab(os.path.join(folder, "crowd"), files, qemu, members()) as lab:
        for turn in range(repeat):
            time.sleep(BETWEEN_SECONDS)
            before = os.getloadavg()[0]
            saved = lab.snapshot(f"t{turn}")
            found.backoff.add(saved.backoff_max_ms() or 0)
            found.downtime.add(saved.downtime_max_ms())
            first = min(member.pause.begin_ns for member in saved.members)
            found.samples.append({"load_average": before, "members": [
                {"name": member.name, "cause": member.cause, "pause_ms": member.pause.ms,
                 "begin_ms": (member.pause.begin_ns - first) / 1e6,
                 "steps_us": {step.name: step.us for step in member.pause.steps}}
                for member in saved.members]})
            say(f"  {turn + 1}/{repeat}: backoff {found.backoff.samples[-1]:.2f} ms, longest pause "
                f"{found.downtime.samples[-1]:.2f} ms")
    return found


def lines(found: Crowd | None) -> list[Line]:
    if found is None:
        return []
    return [Line(f"backoff of {COUNT} members", found.backoff, target="at most 15"),
            Line(f"longest pause of {COUNT} members", found.downtime)]
