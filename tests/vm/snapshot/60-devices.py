#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Image identity with other devices: each writes guest memory in its own way. Guests with the
devices that differ most are restored, and go on writing through them."""

import re
import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster
from support.identity import must_be_identical
from support.outcome import Report, Skipped, check
from support.paths import GUEST
from support.tier import left_to_all
from support.unharmed import works_on

GENERIC = {"kernel": "vmlinuz-generic", "initrd": "initrd-generic.img"}
KINDS = {
    "virtio-scsi-iothread": {
        "disk_device": "scsi-hd",
        "before_disks": ["-object", "iothread,id=io0",
                         "-device", "virtio-scsi-pci,id=scsi0,iothread=io0"]},
    "virtio-blk-iothreads": {
        "disk_device": "virtio-blk-pci,iothread=io0",
        "before_disks": ["-object", "iothread,id=io0"]},
    "ide": {"machine": "pc", "disk_device": "ide-hd"},
    "ahci-e1000": {"machine": "q35", "disk_device": "ide-hd,bus=ide.{index}",
                   "nic": "e1000", **GENERIC},
}
RESTORED = ("virtio-scsi-iothread", "ahci-e1000")
# These write guest memory in no way that the restored ones do not cover.
LESS = ("virtio-blk-iothreads", "ide")


def disk_writes(console: str) -> list[int]:
    """The number of hs-disktag's completed writes in each of its lines."""
    return [int(n) for n in re.findall(r"^disktag solo issued=\d+ completed=(\d+)\s*\n", console, re.M)]


def brought_back(cluster: Cluster) -> None:
    """The guest goes on from its image and its disks as they were at the cut, not from a boot."""
    solo = cluster["solo"]
    last = disk_writes(solo.vm.text())[-1]
    cluster.kill()
    cluster.restore("t")
    works_on(solo.vm, 0)
    solo.vm.wait_console(r"disktag solo issued=(?s:.)*disktag solo issued=.*\n")
    writes = disk_writes(solo.vm.text())
    print(f"# restored: {writes[0]} disk writes, {last} before, and on to {writes[-1]}")
    check("ready" not in solo.vm.text(), "the guest was booted")
    check(0 < writes[0] <= last + 200 and writes[-1] > writes[0],
          f"disk writes do not go on: {writes}, the last before was {last}")


def identical(name: str, options: dict) -> None:
    if "kernel" in options and not (GUEST / options["kernel"]).exists():
        raise Skipped("the full kernel is not there; scripts/guest-image --generic makes it")
    # AHCI writes its results in the thread of the vCPU that started the command: they are counted
    # as guest writes.
    hooks = {"after": brought_back} if name in RESTORED else {}
    must_be_identical(name, options, dma="ahci" not in name, **hooks)


report = Report()
without = LESS if left_to_all(", ".join(LESS)) else ()
for kind, extra in KINDS.items():
    if kind not in without:
        report.run(f"identity-{kind}", lambda: identical(kind, extra))
report.exit()
