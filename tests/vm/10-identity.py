#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Image identity: the image that was completed while the guest wrote on is, page for page, the one
that a plain dump inside the same pause holds.

For several kinds of guest memory and devices; and the negative control: without write traps the
same comparison must fail.
"""

import json

from harness import Cluster, Report, Workplace, check
from hotsnap.image import Image, compare

LOAD = ("hs.writer.mib=96 hs.writer.rate=0 hs.writer.disk=50")

KINDS = {
    "anonymous": {},
    "memfd": {"memory_args": ["-object", "memory-backend-memfd,id=ram,size=256M,share=on",
                              "-machine", "memory-backend=ram"]},
    "two-vcpus-numa": {"cpus": 2, "memory_args": [
        "-object", "memory-backend-ram,id=ram0,size=128M",
        "-object", "memory-backend-memfd,id=ram1,size=128M,share=on",
        "-numa", "node,memdev=ram0,cpus=0", "-numa", "node,memdev=ram1,cpus=1"]},
}


def writes(manifest: dict) -> dict:
    return manifest["members"][0]["memory"]["pages"]


def identity(kind: str, options: dict, engine: str = "auto") -> tuple[int, dict]:
    """Pages in which image and dump differ, and the page counts."""
    with Workplace() as place:
        cluster = Cluster(place, [("solo", "writer", {"append": LOAD, "disktag": True, **options})])
        cluster.up()
        solo = cluster["solo"].vm
        solo.wait_console(r"writer solo pages=[1-9]")
        manifest = cluster.snapshot("t", x_dump=True, engine=engine,
                                    bandwidth=0 if engine == "none" else 64 << 20)
        check(solo.running(), "the guest does not run after the snapshot")
        folder = cluster.bundles / "t" / "solo"
        with Image(folder / "state") as image, Image(folder / "state.dump") as dump:
            return len(compare(image, dump)), writes(manifest)


def same(kind: str, options: dict) -> None:
    differing, pages = identity(kind, options)
    print(f"# {kind}: {json.dumps(pages)}")
    check(differing == 0, f"{differing} pages differ")
    check(pages["guest_write"] > 0, "no page was saved for a guest write: nothing was proved")
    check(pages["dma_write"] > 0, "no page was saved for a DMA write: nothing was proved")


def control() -> None:
    differing, _ = identity("anonymous", {}, engine="none")
    check(differing > 0, "without write traps the images are identical: the checker sees nothing")
    print(f"# without traps {differing} pages differ")


report = Report()
for name, extra in KINDS.items():
    report.run(f"identity-{name}", lambda: same(name, extra))
report.run("identity-control-no-trap", control)
report.exit()
