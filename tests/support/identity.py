# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares an image, completed while the guest went on writing, with a plain dump made inside the
same pause."""

import json
import re
from contextlib import suppress
from typing import Callable, Sequence

from hotsnap.qemu.qmp import QmpError

from .cluster import Cluster
from .image import Image, compare
from .outcome import Failed, check, wait_until
from .vm import Vm
from .workplace import Workplace

# init_on_alloc=0: a kernel that clears the pages it hands out would write to each before any DMA.
LOAD = "hs.writer.mib=96 hs.writer.rate=0 hs.writer.disk=50 init_on_alloc=0"
BANDWIDTH = 1 << 20  # of the background copy, which then takes a minute or so
LINES = 4            # printed by a guest's writers while its memory is copied


def let_write(vm: Vm, manners: Sequence[str]) -> None:
    """Keeps a slow copy going until pages were saved in each of these manners and the guest has
    gone on writing for a while, or for 40 s at most; then lets the copy end. The test checks the
    counts."""
    offset = len(vm.text())

    def enough() -> bool:
        pages = vm.qmp.execute("query-hotsnap")["snapshot"]["pages"]
        return (all(pages[manner.replace("_", "-")] for manner in manners)
                and len(re.findall(r"^writer .*\n", vm.lines_after(offset), re.M)) >= LINES)

    ended = ("committed", "aborted")
    vm.reach("full", *ended)
    with suppress(Failed):
        wait_until(lambda: enough() or vm.phase() in ended, "", timeout=40)
    with suppress(QmpError):  # the snapshot has ended
        vm.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})


def identity(options: dict, engine: str = "auto", manners: Sequence[str] = (),
             before: Callable[[Cluster], None] | None = None,
             meanwhile: Callable[[Cluster], None] | None = None,
             after: Callable[[Cluster], None] | None = None) -> tuple[int, dict]:
    """Returns the number of pages in which image and dump differ, and the page counts by manner;
    waits for `manners`. Calls `before`, `meanwhile` and `after` before the snapshot, while its copy
    runs, and after the comparison."""
    with Workplace() as place:
        cluster = Cluster(place, [("solo", "writer", {"append": LOAD, "disktag": True, **options})])
        cluster.up()
        solo = cluster["solo"].vm
        solo.wait_console(r"writer solo pages=[1-9]")
        if before:
            before(cluster)
        cluster.begin_snapshot("t", x_dump=True, engine=engine, bandwidth=BANDWIDTH)
        if meanwhile:
            meanwhile(cluster)
        let_write(solo, manners)
        error = solo.wait_job("snap-t")
        check(error is None, f"snapshot: {error}")
        check(solo.running(), "the guest does not run after the snapshot")
        folder = cluster.bundles / "t"
        manifest = json.loads((folder / "manifest.json").read_text())
        with Image(folder / "solo" / "state") as image, \
                Image(folder / "solo" / "state.dump") as dump:
            differing = len(compare(image, dump))
        if after:
            after(cluster)
        return differing, manifest["members"][0]["memory"]["pages"]


def must_be_identical(name: str, options: dict, dma: bool = True, **hooks: Callable) -> None:
    """`dma`: the devices write from their own threads, so some pages must count as DMA writes."""
    manners = ["guest_write", *(["dma_write"] if dma else [])]
    differing, pages = identity(options, manners=manners, **hooks)
    print(f"# {name}: {json.dumps(pages)}")
    check(differing == 0, f"{differing} pages differ")
    for manner in manners:
        check(pages[manner] > 0, f"no page was saved as {manner}: nothing was proved")
