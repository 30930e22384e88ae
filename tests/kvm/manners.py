#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages by manner of saving, for several workloads: HotSnap's Table 2 (LISA '13), on the patched
KVM in an emulated machine. `scripts/bench manners` runs this.

The copy is slowed down, so that it takes about ten seconds and the workloads have time to write.
"""

import argparse
import json
import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.level1.machine import BUNDLES, Level1, Level2
from support.outcome import check
from support.patched import SUITE, modules
from support.workplace import Workplace

NIC = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile=",
       "-object", "filter-hotsnap,id=med0,netdev=net0,member=hs0"]
# By workload: words for the guest's command line, and the text on its console when the load runs.
WORKLOADS = {
    "idle": ("hs.load=idle", "load idle"),
    "memory": ("", "writer cpu1 pages=[1-9]"),
    "archive": ("hs.load=archive", "load archive"),
    "disk": ("hs.load=disk", "load disk"),
    "network": ("hs.load=idle hs.ip=10.0.2.15 hs.ping=10.0.2.2", "load idle"),
}
RATE = 8 << 20
MANNERS = ["background", "guest_write", "dma_write", "kvm_write"]


def measure(machine: Level1, name: str) -> None:
    with machine.guest(name) as guest:
        guest.wait_console(WORKLOADS[name][1])
        guest.snapshot(f"manners-{name}", engine="kvm", bandwidth=RATE)


def pages_of(machine: Level1, name: str) -> dict[str, int]:
    manifest = machine.take_out(f"{BUNDLES}/manners-{name}/manifest.json", machine.folder / name)
    memory = json.loads(manifest.read_text())["members"][0]["memory"]
    check(memory["engine"] == "kvm", f"engine {memory['engine']}")
    return memory["pages"]


def table(rows: dict[str, dict[str, int]]) -> str:
    """Each manner in pages and percent of all; these include zero pages and neighbors."""
    lines = [f"{'WORKLOAD':<9} {'PAGES':>6} {'BACKGROUND':>15} {'GUEST WRITE':>15} "
             f"{'DMA WRITE':>15} {'KVM WRITE':>15} {'ZERO':>6} {'NEIGHBORS':>10}"]
    for name, pages in rows.items():
        shares = [f"{pages[m]} ({100 * pages[m] / pages['total']:.1f}%)" for m in MANNERS]
        lines.append(f"{name:<9} {pages['total']:>6} " +
                     " ".join(f"{share:>15}" for share in shares) +
                     f" {pages['zero']:>6} {pages['neighbors']:>10}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench manners", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the counts as one JSON object")
    options = parser.parse_args()
    with Workplace() as place:
        plan = [Level2(name, append=append, args=NIC if "ping" in append else [])
                for name, (append, _) in WORKLOADS.items()]
        machine = Level1(place, "manners", SUITE, plan, modules=modules())
        for name in WORKLOADS:
            print(f"{name} ...", flush=True)
            measure(machine, name)
        machine.power_off()
        rows = {name: pages_of(machine, name) for name in WORKLOADS}
    print(table(rows))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump({"pages": rows, "copy_bytes_per_second": RATE}, stream, indent=1)
            stream.write("\n")


main()
