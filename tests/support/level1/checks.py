# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of snapshots of level-2 guests: the image is the memory of the pause, an open trap is
noticed, the restored guest goes on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass

from ..identity import BANDWIDTH, let_write
from ..image import Image, compare
from ..outcome import check, wait_until
from .machine import BOOT_TIMEOUT, BUNDLES, Guest, Level1

# The manners of saving that have a trap. A trap's name is the manner's without "_write".
WRITES = ["guest_write", "dma_write", "kvm_write"]
TRAPPED = {"none": [], "uffd": WRITES[:2]}  # by engine; the other engines have all traps


def pages_written(guest: Guest) -> dict[str, int]:
    """The number of pages that each writer has written, from its last line."""
    return {cpu: int(count) for cpu, count in
            re.findall(r"writer (cpu\d) pages=(\d+) disk", guest.text())}


def wait_writers(guest: Guest) -> None:
    guest.wait_console(r"writer disk pages=\d+ disk=[1-9]", BOOT_TIMEOUT)
    for cpu in range(guest.plan.cpus):
        guest.wait_console(rf"writer cpu{cpu + 1} pages=[1-9]", BOOT_TIMEOUT)


@dataclass(frozen=True)
class Shot:
    """A snapshot to take: its name, its engine, and the trap to leave open."""

    name: str
    engine: str
    open_trap: str = ""

    @property
    def arguments(self) -> dict[str, object]:
        return {"engine": self.engine, "x-dump": True, "bandwidth": BANDWIDTH,
                **({"x-open-trap": self.open_trap} if self.open_trap else {})}

    @property
    def manners(self) -> list[str]:
        """The manners in which this snapshot saves pages that are written while it copies."""
        return [manner for manner in TRAPPED.get(self.engine, WRITES)
                if manner != f"{self.open_trap}_write"]


def take_snapshots(machine: Level1, name: str, shots: list[Shot]) -> dict[str, int]:
    """Takes the snapshots. Returns the writers' counts of pages before the first one."""
    with machine.guest(name) as guest:
        check(guest.qmp.execute("query-kvm") == {"enabled": True, "present": True}, "no KVM")
        wait_writers(guest)
        before = pages_written(guest)
        for shot in shots:
            guest.snapshot(f"{name}-{shot.name}", lambda shot=shot: let_write(guest, shot.manners),
                           **shot.arguments)
    return before


def restore(machine: Level1, name: str, tag: str, before: dict[str, int] | None) -> None:
    with machine.guest(name) as guest:
        check(before, "there is no snapshot to restore")
        guest.restore(tag)
        wait_writers(guest)
        first = pages_written(guest)
        wait_until(lambda: pages_written(guest)["cpu1"] > first["cpu1"],
                   lambda: f"the restored guest does not go on: {first}, {pages_written(guest)}")
    for cpu, count in before.items():
        check(first[cpu] >= count, f"{cpu} starts anew: {before} before, {first} restored")


def differing(machine: Level1, member: str, shot: Shot) -> tuple[Counter[str], dict]:
    """The pages in which image and dump differ, by memory block, and the counts by manner."""
    folder, bundle = machine.folder, f"{BUNDLES}/{member}-{shot.name}"
    manifest = json.loads(machine.take_out(f"{bundle}/manifest.json", folder / "manifest")
                          .read_text())
    files = [machine.take_out(f"{bundle}/{member}/{name}", folder / name)
             for name in ("state", "state.dump")]
    with Image(files[0]) as image, Image(files[1]) as dump:
        pages = compare(image, dump)
    for file in files:
        file.unlink()
    memory = manifest["members"][0]["memory"]
    check(memory["engine"] == shot.engine, f"engine {memory['engine']}")
    return Counter(page.block for page in pages), memory["pages"]


def identity(machine: Level1, member: str, shot: Shot, manners: list[str]) -> None:
    """The image is the memory of the pause, and pages were saved in each of these manners."""
    blocks, pages = differing(machine, member, shot)
    print(f"# {member}-{shot.name}: {json.dumps(pages)}")
    check(not blocks, f"pages differ: {dict(blocks)}")
    for manner in manners:
        check(pages[manner] > 0, f"no page was saved as {manner}: nothing was proved about that")


def control(machine: Level1, member: str, shot: Shot, memory: set[str],
            others: set[str] = frozenset()) -> None:
    """The image is not the memory of the pause in any block of `memory`. The reason is the trap
    left open: no page was saved in its manner, and some were saved in each of the `others`."""
    blocks, pages = differing(machine, member, shot)
    print(f"# {member}-{shot.name}: {dict(blocks)} pages differ; {json.dumps(pages)}")
    check(memory <= blocks.keys(), "with open traps the images are identical in "
          f"{memory - blocks.keys()}: the checker sees nothing")
    # Engine none has no trap at all.
    for manner in [f"{shot.open_trap}_write"] if shot.open_trap else WRITES:
        check(pages[manner] == 0, f"{pages[manner]} pages were saved as {manner}: the trap that "
              "was to be open is not")
    for manner in others:
        check(pages[manner] > 0, f"no page was saved as {manner}: more than one trap is open")
