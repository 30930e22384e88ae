# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster as the text of a cluster file: the reverse of cluster.load.

Every value is written out, also those that are defaults, so that a later program with other
defaults describes the same machines.
"""

from __future__ import annotations

import json
from typing import Any

from .cluster import Cluster, Member, Nic
from .disk_table import NVRAM, Disk


def text(cluster: Cluster, remark: str) -> str:
    """`remark`: one line, which begins the file. The cluster's folder is that of the file."""
    lines = [f"# {remark}", "", "[cluster]",
             *_keys(name=cluster.name, directory=".", accel=cluster.accel, qemu=cluster.qemu)]
    for network in cluster.networks:
        lines += ["", "[[network]]", *_keys(name=network)]
    for member in cluster.members:
        lines += ["", *_member(member)]
    return "\n".join(lines) + "\n"


def _member(member: Member) -> list[str]:
    lines = ["[[member]]",
             *_keys(name=member.name, memory=member.memory, cpus=member.cpus,
                    machine=member.machine, cpu=member.cpu, firmware=member.firmware,
                    kernel=member.kernel, initrd=member.initrd, append=member.append,
                    args=list(member.args), labels=dict(member.labels) or None,
                    agent=member.agent or None)]
    for disk in member.disks:
        if disk.id != NVRAM:  # the firmware brings it along
            lines += ["", "  [[member.disk]]", *_keys("  ", **_disk(disk))]
    for nic in member.nics:
        lines += ["", "  [[member.nic]]", *_keys("  ", **_nic(nic))]
    return lines


def _disk(disk: Disk) -> dict[str, Any]:
    common = {"interface": disk.interface, "serial": disk.serial}
    if disk.cdrom:
        return {"cdrom": disk.image or "", **common}
    source = ({"image": disk.image, "format": disk.format} if disk.image else {"size": disk.size})
    return {**source, **common, "iothread": disk.iothread, "read_only": disk.read_only,
            "labels": dict(disk.labels) or None}


def _nic(nic: Nic) -> dict[str, Any]:
    return {"network": nic.network, "model": nic.model, "mac": nic.mac, "queues": nic.queues}


def _keys(indent: str = "", **values: Any) -> list[str]:
    """A line for each key that has a value."""
    return [f"{indent}{key} = {_value(value)}" for key, value in values.items()
            if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_value(key)} = {_value(inner)}"
                                for key, inner in value.items()) + " }"
    # JSON's strings, numbers and arrays are TOML's, but for one character that TOML has escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
