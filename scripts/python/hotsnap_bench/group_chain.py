# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of the disks of three members that hand numbers on (support/chain.py): all at once, and
VM by VM with QMP's blockdev-snapshot-sync (group_one.py), as is usual without groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from hotsnap.disks import merge
from hotsnap.errors import HotsnapError
from hotsnap.model.disk_table import id_of
from hotsnap.ui.output import say
from support import chain

from .group_figures import Groups
from .lab import Lab

MEMBERS = {"a": ("a0", "a1"), "b": ("b0",), "c": ("c0",)}
SNAPSHOTS_EACH = 10  # of each kind, for one repetition


@dataclass
class Link:
    """A member as support/chain.py wants it."""

    name: str
    ip: str
    shell_socket: str
    options: dict[str, Any]


@dataclass
class Links:
    members: list[Link] = field(default_factory=list)


def links(lab: Lab) -> Links:
    return Links([Link(name, address(number), lab.shells[name].path, {"more_disks": serials})
                  for number, (name, serials) in enumerate(MEMBERS.items())])


def address(number: int) -> str:
    return f"10.77.1.{number + 1}"


def device(serial: str) -> str:
    """disk0 is the root; the others are in the order of their serials."""
    return f"disk{int(serial[1:]) + 1}"


def numbers_of_group(lab: Lab, tag: str) -> list[int]:
    saved = lab.snapshot(tag, content="disks", disks=[
        {"member": name, "device": f"{device(serial)}-dev"}
        for name, serials in MEMBERS.items() for serial in serials])
    files = {(member.name, id_of(disk.device)): disk for member, disk in saved.layers()}
    return [number_in(files[name, device(serial)].file)
            for name, serials in MEMBERS.items() for serial in serials]


def number_in(path: str) -> int:
    return chain.on_disk({"overlay": path, "file": path, "format": "qcow2"})


def numbers_one_by_one(lab: Lab, tag: str) -> tuple[list[int], float]:
    """The numbers, and the milliseconds from the first VM's answer to the last one's. Each VM is
    saved by a command of its own, as a script does it."""
    frozen: list[str] = []
    answers: list[float] = []
    for name, serials in MEMBERS.items():
        done = subprocess.run([sys.executable, "-m", "hotsnap_bench.group_one",
                               lab.state.paths(name).monitor, tag, *map(device, serials)],
                              check=True, stdout=subprocess.PIPE)
        answers.append(time.monotonic())
        frozen += json.loads(done.stdout)
    return [number_in(path) for path in frozen], (answers[-1] - answers[0]) * 1000


def measure(found: Groups, folder: str, files: str, qemu: str, repeat: int) -> None:
    members = [(name, 160, f"hs.role=idle hs.ip={address(number)}/24")
               for number, name in enumerate(MEMBERS)]
    disks = {name: [f'size = "16M"\n  serial = "{serial}"' for serial in serials]
             for name, serials in MEMBERS.items()}
    with Lab(os.path.join(folder, "chain"), files, qemu, members, disks) as lab:
        chain.begin(links(lab))  # type: ignore[arg-type]
        before = 0
        for turn in range(repeat):
            for number in range(SNAPSHOTS_EACH):
                of_group = numbers_of_group(lab, f"g{turn}-{number}")
                if of_group[0] <= before:
                    raise HotsnapError(f"the chain stands still at {of_group}")
                before = of_group[0]
                apart, span = numbers_one_by_one(lab, f"o{turn}-{number}")
                found.snapshots += 1
                found.violations += chain.grows(of_group)
                found.one_by_one += 1
                found.violations_one_by_one += chain.grows(apart)
                found.one_by_one_span.add(span)
            with lab.state.locked():
                merge.tidy(lab.state, lab.fleet, quiet=True)
            say(f"  {turn + 1}/{repeat}: inconsistent: {found.violations} of {found.snapshots} "
                f"group snapshots, {found.violations_one_by_one} of {found.one_by_one} VM by VM")
