# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of a member: [[member.disk]] of the cluster file, and what `args` may not bring along."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import HotsnapError
from ..formats import images
from ..host.paths import resolved
from .tables import Table

INTERFACES = ("virtio-blk", "virtio-scsi", "ide", "ahci")
NVRAM = "nvram"
_ID = re.compile(rf"(?:^|[/-])(disk\d+|{NVRAM})-dev(?:[/-]|$)")


@dataclass(frozen=True)
class Disk:
    """A disk of a member. With an `image` the guest writes to an overlay or a copy of it, never to
    it; links are resolved, since an overlay belongs to the file that it was made over. A CD-ROM
    drive with no image is empty."""

    id: str
    image: str | None
    format: str
    size: int | None  # bytes, of a disk that starts empty
    interface: str  # one of INTERFACES, or "pflash"
    serial: str | None
    iothread: bool
    read_only: bool
    cdrom: bool = False
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


def id_of(device: str) -> str | None:
    """The disk's id that stands in the name that QEMU gives its device: an id, or the QOM path of a
    part of the device, its slashes perhaps replaced. None for a disk that 'up' has not made."""
    match = _ID.search(device)
    return match[1] if match else None


def nvram() -> Disk:
    """The memory of UEFI's variables: a flash chip, which starts as a copy of the firmware's own
    file, so that a newer package of the firmware changes nothing below it."""
    return Disk(NVRAM, None, "qcow2", None, "pflash", None, False, False)


def read(table: Table, index: int) -> Disk:
    if "cdrom" in table.left:
        return _cdrom(table, index)
    image = table.file("image")
    image = resolved(image) if image else None
    size = table.size("size", None)
    read_only = table.take("read_only", bool, False)
    if (image is None) == (size is None):
        table.source.fail(table.path, "needs either image (a golden image), or size (an empty "
                                      "disk), or cdrom (a disc)")
    if size is not None and (size % 512 or not size):
        table.fail("size", "must be a multiple of 512 bytes")
    if read_only and image is None:
        table.fail("read_only", "an empty disk that cannot be written is of no use: name an image")
    disk = Disk(f"disk{index}", image, _format(table, image), size,
                table.choice("interface", INTERFACES, "virtio-blk"), table.take("serial", str),
                table.take("iothread", bool, False), read_only, labels=table.labels())
    if read_only and disk.interface in ("ide", "ahci"):
        table.fail("read_only", f"{disk.interface} has no disks that cannot be written: use "
                                "virtio-blk or virtio-scsi, or write cdrom in place of image")
    if read_only and disk.format in images.COPIED:
        table.fail("image", f"{image} is {disk.format}, and QEMU saves no VM that reads such a file: "
                            "convert it with 'qemu-img convert -O qcow2'")
    if disk.iothread and disk.interface not in ("virtio-blk", "virtio-scsi"):
        table.fail("iothread", f"{disk.interface} cannot use one; virtio-blk and virtio-scsi can")
    table.done()
    return disk


def _format(table: Table, image: str | None) -> str:
    given = table.choice("format", images.FORMATS, "") if "format" in table.left else None
    if image is None:
        if given:
            table.fail("format", "is of an image, and there is none")
        return "qcow2"
    try:
        return images.choose(image, given)
    except HotsnapError as error:
        table.fail("format" if given else "image", str(error))


def _cdrom(table: Table, index: int) -> Disk:
    for key in ("image", "size", "format", "read_only", "iothread", "labels"):
        if key in table.left:
            table.fail(key, "does not go with cdrom, whose value is the file of the disc")
    image = None
    if table.left["cdrom"] == "":
        table.take("cdrom", str)
    else:
        image = resolved(table.file("cdrom", required=True) or "")
        try:
            found = images.probe(image)
        except HotsnapError as error:
            table.fail("cdrom", str(error))
        if found != "raw":
            table.fail("cdrom", f"{image} is {found}, and no disc as an ISO file is one")
    interface = table.choice("interface", INTERFACES, "ide")
    if interface == "virtio-blk":
        table.fail("interface", "virtio-blk has no CD-ROM drives: use ide, ahci or virtio-scsi")
    disk = Disk(f"disk{index}", image, "raw", None, interface, table.take("serial", str), False,
                True, cdrom=True)
    table.done()
    return disk


_WRITTEN = {"hda", "hdb", "hdc", "hdd", "fda", "fdb", "mtdblock", "sd", "pflash"}
_ON = {"on", "yes", "true", "y"}


def refuse_in_args(args: Sequence[str]) -> str | None:
    """Why QEMU arguments cannot be taken, since they bring a disk along that the guest writes to:
    no snapshot of it could be restored. None if they do not; block nodes are seen only once QEMU
    has them (fleet.py)."""
    for number, argument in enumerate(args):
        option = argument.lstrip("-") if argument.startswith("-") else ""
        value = args[number + 1] if number + 1 < len(args) else ""
        if option == "snapshot":
            return ("-snapshot drops what the guest writes, also what a snapshot has saved: leave "
                    "it out; 'hotsnap up --fresh' starts over from the golden images")
        if option in _WRITTEN or (option == "drive" and _is_written(value)):
            return (f"{argument} {value} is a disk that the guest writes to, which a restore could "
                    "not bring back: " + (
                        'write firmware = "uefi" instead' if option == "pflash"
                        or "if=pflash" in value.split(",") else
                        "make it a [[member.disk]], or add readonly=on"))
    return None


def _is_written(drive: str) -> bool:
    fields = dict(field.partition("=")[::2] for field in drive.replace(",,", "").split(","))
    if fields.get("media") == "cdrom":
        return False
    if any(fields.get(key, "on") in (*_ON, "") for key in ("readonly", "read-only")
           if key in fields):
        return False
    return any(key.startswith("file") for key in fields)
