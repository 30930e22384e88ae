# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares the image that was completed while the guest wrote on with a plain dump that was made
inside the same pause."""

import json
from typing import Callable

from harness import Cluster, Workplace, check
from hotsnap.image import Image, compare

LOAD = "hs.writer.mib=96 hs.writer.rate=0 hs.writer.disk=50"
BANDWIDTH = 64 << 20  # slow enough that the guest writes to much of the memory before it is copied


def identity(options: dict, engine: str = "auto",
             before: Callable[[Cluster], None] | None = None,
             meanwhile: Callable[[Cluster], None] | None = None,
             after: Callable[[Cluster], None] | None = None,
             bandwidth: int = BANDWIDTH) -> tuple[int, dict]:
    """Pages in which image and dump differ, and the page counts by manner. `before`, `meanwhile`
    and `after` are done before the snapshot, while its copy runs, and when both were compared.
    `bandwidth` limits the copy in bytes a second; it is lifted after `meanwhile`."""
    with Workplace() as place:
        cluster = Cluster(place, [("solo", "writer", {"append": LOAD, "disktag": True, **options})])
        cluster.up()
        solo = cluster["solo"].vm
        solo.wait_console(r"writer solo pages=[1-9]")
        if before:
            before(cluster)
        cluster.begin_snapshot("t", x_dump=True, engine=engine, bandwidth=bandwidth)
        if meanwhile:
            meanwhile(cluster)
            solo.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})
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
    """`dma`: the devices write from threads of their own, so the count of DMA writes proves it."""
    differing, pages = identity(options, **hooks)
    print(f"# {name}: {json.dumps(pages)}")
    check(differing == 0, f"{differing} pages differ")
    check(pages["guest_write"] > 0, "no page was saved for a guest write: nothing was proved")
    check(not dma or pages["dma_write"] > 0,
          "no page was saved for a DMA write: nothing was proved")
