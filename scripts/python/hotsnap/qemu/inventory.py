# SPDX-License-Identifier: GPL-2.0-or-later
"""What a running member's machine has: devices, disks that are not ours, discs in its drives.

A restore starts the machine that the cluster file describes. So what was plugged in or taken away
since the member's start has to be known before a snapshot is taken.
"""

from __future__ import annotations

from typing import Any

from ..host.paths import resolved
from ..model.disk_table import id_of
from .qmp import Qmp


def disk_of(device: dict[str, Any]) -> str | None:
    """The id of the disk that an entry of query-block is of; None if 'up' has not made it."""
    return id_of(device.get("qdev", "")) or id_of(device["device"])


def written(qmp: Qmp) -> dict[str, dict[str, Any]]:
    """Disk id to the `inserted` part of query-block, of the disks that are written to."""
    return {disk: device["inserted"] for device in qmp.execute("query-block")
            if (disk := disk_of(device)) and _is_written(device)}


def foreign(qmp: Qmp) -> list[str]:
    """The devices of disks that the guest can write to and 'up' has not made, with their files."""
    return [f"{device['qdev']} ({device['inserted']['file']})"
            for device in qmp.execute("query-block")
            if device.get("qdev") and not disk_of(device) and _is_written(device)]


def _is_written(device: dict[str, Any]) -> bool:
    return bool(device.get("inserted")) and not device["inserted"]["ro"]


def media(qmp: Qmp) -> dict[str, str | None]:
    """Disk id to the file that is read there, of disks that cannot be written and of CD-ROM drives;
    None for a drive without a disc. Those that `args` bring along have QEMU's name of the drive in
    place of an id."""
    return {disk_of(device) or device["device"] or device["qdev"]:
            resolved(device["inserted"]["image"]["filename"]) if device.get("inserted") else None
            for device in qmp.execute("query-block")
            if device.get("qdev") and not _is_written(device)}


def devices(qmp: Qmp) -> list[str]:
    """The devices that the command line or device_add made: ids, or type and place for those that
    have none."""
    found = [each["name"] for each in qmp.execute("qom-list", {"path": "/machine/peripheral"})
             if each["type"].startswith("child<")]
    found += [f"{each['type'].removeprefix('child<').removesuffix('>')} ({each['name']})"
              for each in qmp.execute("qom-list", {"path": "/machine/peripheral-anon"})
              if each["type"].startswith("child<")]
    return sorted(found)
