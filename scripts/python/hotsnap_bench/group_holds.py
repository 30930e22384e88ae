# SPDX-License-Identifier: GPL-2.0-or-later
"""How long snapshots of disks hold requests: by disks, by their size and by members.

A hold is what QEMU measures: from the begin of the drain until requests go on. What a guest notices
is measured by fio in it: the longest write or sync, each of them waits for the one before.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from hotsnap.disks import merge
from hotsnap.errors import HotsnapError
from hotsnap.model import bundle
from hotsnap.ui.output import say
from support import chain
from support.shell import Shell

from .group_figures import DISKS, MEMBERS, SIZES, Groups
from .lab import Lab

LOAD_SECONDS = 4
SNAPSHOTS_OF_A_SIZE = 5  # for one repetition: holds are so short that they spread by a factor
FIRST_FURTHER_DISK = 1  # disk0 is the root


def serial(number: int) -> str:
    return f"further{number}"


def further(sizes: Sequence[str]) -> list[str]:
    return [f'size = "{size}"\n  serial = "{serial(number)}"' for number, size in enumerate(sizes)]


class Load:
    """A guest that writes to disks and does nothing else: 4 KiB at random places, O_DIRECT, a sync
    after each; a process for each disk."""

    def __init__(self, shell: Shell, serials: Sequence[str], seconds: float = LOAD_SECONDS):
        jobs = " ".join(f"--name={name} --filename=$(find_disk {name})" for name in serials)
        self.command = (
            f"{chain.FIND}; fio --output-format=json --ioengine=psync --rw=randwrite --bs=4k "
            f"--direct=1 --fsync=1 --size=64m --time_based --runtime={seconds:g} {jobs}")
        self.shell, self.seconds = shell, seconds
        self.thread = threading.Thread(target=self._run)
        self.output: str | HotsnapError = ""

    def _run(self) -> None:
        try:
            self.output = self.shell.run(self.command, timeout=120)
        except HotsnapError as error:
            self.output = error

    def __enter__(self) -> Load:
        self.thread.start()
        time.sleep(self.seconds / 2)  # fio has begun
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join()

    def longest_ms(self) -> float:
        if isinstance(self.output, HotsnapError):
            raise self.output
        return longest_ms(self.output)


def longest_ms(output: str) -> float:
    """The longest write or sync, of what fio printed."""
    try:
        jobs = json.loads(output[output.index("{"):])["jobs"]
        if not all(job["write"]["total_ios"] for job in jobs):
            raise HotsnapError("fio wrote nothing in the guest")
        return max(max(job["write"]["lat_ns"]["max"], job["sync"]["lat_ns"]["max"])
                   for job in jobs) / 1e6
    except (ValueError, KeyError) as error:
        raise HotsnapError(f"fio in the guest failed: {output[-300:]!r}") from error


def devices(member: str, numbers: Sequence[int]) -> dict[str, Any]:
    """The arguments of hotsnap-cluster for these further disks of a member."""
    return {"content": "disks", "disks": [
        {"member": member, "device": f"disk{FIRST_FURTHER_DISK + number}-dev"}
        for number in numbers]}


def hold_ms(saved: bundle.Bundle) -> float:
    longest = saved.hold_max_ms()
    if longest is None:
        raise HotsnapError(f"snapshot {saved.tag} tells of no hold")
    return longest


def tidy(lab: Lab) -> None:
    """As `rm` does, so that each snapshot finds as many layers as the first one."""
    with lab.state.locked():
        merge.tidy(lab.state, lab.fleet, quiet=True)


def measure_disks(found: Groups, folder: str, files: str, qemu: str, repeat: int) -> None:
    most = max(DISKS)
    with Lab(os.path.join(folder, "disks"), files, qemu, [("vm", 512, "hs.role=idle")],
             {"vm": further(["1G"] * most)}) as lab:
        shell = lab.shells["vm"]
        for turn in range(repeat):
            for count in DISKS:
                written = [serial(number) for number in range(count)]
                with Load(shell, written) as load:
                    saved = lab.snapshot(f"d{turn}-{count}", **devices("vm", range(count)))
                with Load(shell, written) as without:
                    pass
                found.holds[count].add(hold_ms(saved))
                found.guest.add(load.longest_ms())
                found.guest_without.add(without.longest_ms())
                tidy(lab)
                say(f"  {turn + 1}/{repeat}: {count} disks: hold {hold_ms(saved):.2f} ms, longest "
                    f"in the guest {load.longest_ms():.1f} ms, without {without.longest_ms():.1f}")


def measure_sizes(found: Groups, folder: str, files: str, qemu: str, repeat: int) -> None:
    with Lab(os.path.join(folder, "sizes"), files, qemu, [("vm", 512, "hs.role=idle")],
             {"vm": further([size.size for size in SIZES])}) as lab:
        shell = lab.shells["vm"]
        for number, size in enumerate(SIZES):
            if size.used:
                shell.run(f"{chain.FIND}; dd if=/dev/zero of=$(find_disk {serial(number)}) bs=1M "
                          f"count={size.used >> 20} oflag=direct conv=fsync", timeout=600)
        for turn in range(repeat):
            for number, size in enumerate(SIZES):
                with Load(shell, [serial(number)]) as load:
                    for each in range(SNAPSHOTS_OF_A_SIZE):
                        saved = lab.snapshot(f"z{turn}-{number}-{each}", **devices("vm", [number]))
                        found.sizes[size.name].add(hold_ms(saved))
                load.longest_ms()  # it has written
                tidy(lab)
            say(f"  {turn + 1}/{repeat}: " + ", ".join(
                f"{name} {series.samples[-1]:.2f} ms" for name, series in found.sizes.items()))


def measure_members(found: Groups, folder: str, files: str, qemu: str, repeat: int) -> None:
    names = [f"m{number}" for number in range(max(MEMBERS))]
    with Lab(os.path.join(folder, "members"), files, qemu,
             [(name, 160, "hs.role=writer hs.writer.mib=8 hs.writer.rate=50 hs.writer.disk=10")
              for name in names]) as lab:
        for turn in range(repeat):
            for count in MEMBERS:
                for cut, series in (("causal", found.causal), ("barrier", found.barrier)):
                    saved = lab.snapshot(f"{cut}{turn}-{count}", names[:count], content="disks",
                                         cut=cut)
                    series[count].add(hold_ms(saved))
            tidy(lab)
            say(f"  {turn + 1}/{repeat}: " + ", ".join(
                f"{count} members {found.causal[count].samples[-1]:.2f} and "
                f"{found.barrier[count].samples[-1]:.2f} ms" for count in MEMBERS))
