# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster file: TOML in, a checked Cluster out.

Every error names the file, the line and the key. Paths in the result are absolute; a relative path
begins at the folder of the cluster file; the path of the cluster's folder has no links in it.
Nothing here changes the system: the file is read, and the files that it names must exist.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from . import disk_table
from .disk_table import Disk
from .tables import Source, Table
from .units import MIB

MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
FIRMWARE = ("bios", "uefi")
MOST_QUEUES = 256  # of a tap, by the kernel


@dataclass(frozen=True)
class Nic:
    id: str
    network: str
    model: str
    mac: str
    queues: int = 1


@dataclass(frozen=True)
class Member:
    name: str
    memory: int  # bytes
    cpus: int
    machine: str
    cpu: str | None
    kernel: str | None
    initrd: str | None
    append: str | None
    args: tuple[str, ...]
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    firmware: str = "bios"
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    agent: bool = False  # the guest has a port for qemu-guest-agent
    args_place: str = field(default="", compare=False)  # file, line and key of `args`


@dataclass(frozen=True)
class Cluster:
    name: str
    file: str
    directory: str
    accel: str
    qemu: str | None
    networks: tuple[str, ...]
    members: tuple[Member, ...] = field(default=())

    def member(self, name: str) -> Member:
        for member in self.members:
            if member.name == name:
                return member
        known = ", ".join(m.name for m in self.members)
        raise UsageError(f"no member {name!r} in {self.file}: it has {known}")


def default_mac(cluster: str, member: str, index: int) -> str:
    """The same address for the same names, so that a restored guest finds the NIC that it had."""
    digest = hashlib.sha256(f"{cluster}/{member}/{index}".encode()).digest()
    return "52:54:00:" + ":".join(f"{octet:02x}" for octet in digest[:3])


def load(path: str) -> Cluster:
    """Reads and checks a cluster file; UsageError at the first fault."""
    source = Source(path)
    top = Table(source, (), source.values)
    head = Table(source, ("cluster",), top.take("cluster", dict, required=True))
    name = head.name("name")
    directory = head.take("directory", str, os.path.join(".hotsnap", name))
    qemu = head.file("qemu")
    accel = head.choice("accel", ("auto", "kvm", "tcg"), "auto")
    defaults = {"memory": head.size("memory", 512 * MIB), "cpus": head.take("cpus", int, 1),
                "machine": head.take("machine", str, "pc"), "cpu": head.take("cpu", str),
                "firmware": head.choice("firmware", FIRMWARE, "bios")}
    head.done()

    networks: list[str] = []
    for table in top.tables("network"):
        network = table.name("name")
        if network in networks:
            table.fail("name", f"network {network!r} is named twice")
        networks.append(network)
        table.done()

    members: list[Member] = []
    for table in top.tables("member"):
        members.append(_member(table, name, defaults, networks))
        if members[-1].name in [m.name for m in members[:-1]]:
            table.fail("name", f"member {members[-1].name!r} is named twice")
    if not members:
        source.fail(("member",), "a cluster needs at least one [[member]]")
    top.done()
    _check_macs(source, members)
    # One spelling, since layers are told apart by their paths.
    return Cluster(name, source.path, os.path.realpath(os.path.join(source.folder, directory)),
                   accel, qemu, tuple(networks), tuple(members))


def _check_macs(source: Source, members: list[Member]) -> None:
    seen: dict[str, str] = {}
    for i, member in enumerate(members):
        for j, nic in enumerate(member.nics):
            where = f"NIC {j} of member {member.name!r}"
            if nic.mac in seen:
                source.fail(("member", i, "nic", j, "mac"),
                            f"{nic.mac} is also the address of {seen[nic.mac]}: give one of them "
                            "another mac")
            seen[nic.mac] = where


def _member(table: Table, cluster: str, defaults: dict[str, Any],
            networks: list[str]) -> Member:
    name = table.name("name")
    memory = table.size("memory", defaults["memory"])
    if memory % MIB or not memory:
        table.fail("memory", "must be a whole number of MiB, at least 1")
    cpus = table.take("cpus", int, defaults["cpus"])
    if not 1 <= cpus <= 255:
        table.fail("cpus", f"must be 1 to 255, not {cpus}")
    kernel, initrd = table.file("kernel"), table.file("initrd")
    append = table.take("append", str)
    if kernel is None and (initrd or append):
        table.fail("initrd" if initrd else "append", "needs a kernel as well")
    args = table.take("args", list, [])
    if not all(isinstance(argument, str) for argument in args):
        table.fail("args", "must be an array of strings, one QEMU argument each")
    if problem := disk_table.refuse_in_args(args):
        table.fail("args", problem)
    firmware = table.choice("firmware", FIRMWARE, defaults["firmware"])
    disks = tuple(disk_table.read(t, i) for i, t in enumerate(table.tables("disk")))
    if firmware == "uefi":
        disks = (*disks, disk_table.nvram())
    nics = tuple(_nic(t, cluster, name, i, networks) for i, t in enumerate(table.tables("nic")))
    member = Member(name, memory, cpus, table.take("machine", str, defaults["machine"]),
                    table.take("cpu", str, defaults["cpu"]), kernel, initrd, append, tuple(args),
                    disks, nics, firmware, table.labels(), table.take("agent", bool, False),
                    table.source.place((*table.path, "args")))
    table.done()
    return member


def _nic(table: Table, cluster: str, member: str, index: int, networks: list[str]) -> Nic:
    network = table.take("network", str, required=True)
    if network not in networks:
        table.fail("network", f"no [[network]] is named {network!r}")
    mac = table.take("mac", str, default_mac(cluster, member, index))
    if not MAC.fullmatch(mac):
        table.fail("mac", f"{mac!r} is not a MAC address like 52:54:00:12:34:56")
    if int(mac[:2], 16) & 1:
        table.fail("mac", f"{mac} is a multicast address: its first octet must be even")
    if not mac.strip("0:"):
        table.fail("mac", f"for {mac} QEMU takes 52:54:00:12:34:56, in each member the same: leave "
                          "the key out")
    model, queues = table.take("model", str, "virtio-net-pci"), table.take("queues", int, 1)
    if not 1 <= queues <= MOST_QUEUES:
        table.fail("queues", f"must be 1 to {MOST_QUEUES}, not {queues}")
    if queues > 1 and not model.startswith("virtio-net-pci"):
        table.fail("queues", f"{model} has one; virtio-net-pci can have several")
    nic = Nic(f"net{index}", network, model, mac.lower(), queues)
    table.done()
    return nic
