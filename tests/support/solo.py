# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster of one, saved, whose memory is then loaded on demand."""

from __future__ import annotations

import re
from pathlib import Path

from .cluster import Cluster
from .outcome import check, wait_until
from .vm import Vm
from .workplace import Workplace

MIB = 192
SIZE = MIB << 20
WRITER = r"^writer solo pages=(\d+) disk=(\d+)"
APPEND = "hs.writer.mib=48 hs.writer.rate=3000 hs.writer.disk=20"


class Solo:
    """A cluster of one member that writes to memory and disk, saved twice: stopped, as `still`, and
    while it ran, as `live`."""

    def __init__(self, place: Workplace, **options):
        self.cluster = Cluster(place, [("solo", "writer", {
            "append": APPEND, "memory": MIB, "disktag": True, **options})])
        self.folder = place.path
        self.cluster.up()
        self.vm.wait_console(r"writer solo pages=[1-9]\d* disk=[1-9]")
        self.cluster.snapshot("live")
        self.vm.qmp.execute("stop")
        self.cluster.snapshot("still")
        self.cluster.kill()

    @property
    def vm(self) -> Vm:
        return self.cluster["solo"].vm

    def image(self, tag: str) -> Path:
        return self.cluster.bundles / tag / "solo" / "state"

    def accesses(self, tag: str) -> Path:
        """The file of the working set."""
        return self.image(tag).with_name("access")

    def restore(self, tag: str, prefetch: bool = False, **arguments) -> None:
        """Without prefetching, all pages but those of the devices are absent at first."""
        self.cluster.kill()
        if not prefetch:
            self.accesses(tag).unlink(missing_ok=True)
        self.cluster.restore(tag, memory="lazy", **arguments)

    def lines(self, offset: int = 0) -> list[int]:
        """The counts of pages that the writer told of."""
        return [int(pages) for pages, _ in re.findall(WRITER, self.vm.text()[offset:], re.M)]

    def goes_on(self, lines: int = 3) -> None:
        before = len(self.lines())
        wait_until(lambda: len(self.lines()) >= before + lines,
                   lambda: f"the writer stands still: {self.vm.text()[-300:]!r}")
        told = self.lines()[before:]
        check(told == sorted(set(told)), f"the writer's count does not grow: {told}")
