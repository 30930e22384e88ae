# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares the image that was completed while the guest wrote on with a plain dump that was made
inside the same pause."""

import json

from harness import Cluster, Workplace, check
from hotsnap.image import Image, compare

LOAD = "hs.writer.mib=96 hs.writer.rate=0 hs.writer.disk=50"


def identity(options: dict, engine: str = "auto") -> tuple[int, dict]:
    """Pages in which image and dump differ, and the page counts by manner."""
    with Workplace() as place:
        cluster = Cluster(place, [("solo", "writer", {"append": LOAD, "disktag": True, **options})])
        cluster.up()
        solo = cluster["solo"].vm
        solo.wait_console(r"writer solo pages=[1-9]")
        # Slow enough that the guest writes to much of the memory before it is copied.
        manifest = cluster.snapshot("t", x_dump=True, engine=engine,
                                    bandwidth=64 << 20)
        check(solo.running(), "the guest does not run after the snapshot")
        folder = cluster.bundles / "t" / "solo"
        with Image(folder / "state") as image, Image(folder / "state.dump") as dump:
            return len(compare(image, dump)), manifest["members"][0]["memory"]["pages"]


def must_be_identical(name: str, options: dict, dma: bool = True) -> None:
    """`dma`: the devices write from threads of their own, so the count of DMA writes proves it."""
    differing, pages = identity(options)
    print(f"# {name}: {json.dumps(pages)}")
    check(differing == 0, f"{differing} pages differ")
    check(pages["guest_write"] > 0, "no page was saved for a guest write: nothing was proved")
    check(not dma or pages["dma_write"] > 0,
          "no page was saved for a DMA write: nothing was proved")
