#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Image identity with other devices: each has its own way of writing guest memory."""

from harness import GUEST, Report, Skipped
from identity import must_be_identical

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


def identical(name: str, options: dict) -> None:
    if "kernel" in options and not (GUEST / options["kernel"]).exists():
        raise Skipped("the full kernel is not there; scripts/guest-image --generic makes it")
    # AHCI writes its results from the vCPU's thread that rang the bell: counted as guest writes.
    must_be_identical(name, options, dma="ahci" not in name)


report = Report()
for kind, extra in KINDS.items():
    report.run(f"identity-{kind}", lambda: identical(kind, extra))
report.exit()
