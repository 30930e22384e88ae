# SPDX-License-Identifier: GPL-2.0-or-later
"""Clusters of test guests: members on bridges, their snapshots and restores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotsnap.host.netns import BRIDGE, several_queues, tap_netdev

from .outcome import check
from .paths import GUEST
from .shell import serial_port
from .vm import Vm
from .workplace import Workplace, img_create


@dataclass
class Nic:
    """A network card of a member: its address, its tap, and the bridge that the tap is on."""

    mac: str
    tap: str
    bridge: str


class Member:
    """One member of a test cluster: its options, and its VM while it runs."""

    def __init__(self, cluster: Cluster, index: int, name: str, role: str, options: dict[str, Any]):
        self.cluster, self.index, self.name, self.role = cluster, index, name, role
        self.options = options
        self.ip = f"10.77.0.{index + 1}"
        self.group_ip = f"10.78.0.{index + 1}"  # with the option `group`
        self.nics = [Nic(f"52:54:00:77:{number:02x}:{index + 1:02x}",
                         f"tap{index}" + (f"-{number}" if number else ""), bridge)
                     for number, bridge in enumerate(options.get("bridges", [BRIDGE]))]
        self.mac, self.tap = self.nics[0].mac, self.nics[0].tap
        self.queues = options.get("queues", 1)  # of each of them
        # All ports are free in the cluster's own network namespace.
        self.tcp = f"tcp:127.0.0.1:{7000 + index}" if options.get("tcp") else None
        self.socket = cluster.place.path / f"{name}.sock"
        self.shell_socket = cluster.place.path / f"{name}-shell.sock"  # with the option `shell`
        self.vm: Vm | None = None
        self.disks: list[tuple[str, Path]] = []
        self.restored_disks: list[tuple[str, Path]] = []

    @property
    def address(self) -> dict[str, str]:
        return {"name": self.name, "address": self.tcp or f"unix:{self.socket}"}

    def make_disks(self) -> None:
        directory = self.cluster.place.path / self.name
        directory.mkdir(exist_ok=True)
        # A golden image is a link; an overlay must name the link's present target.
        self.disks = [("root", img_create(directory / "root.qcow2",
                                          backing=(GUEST / "rootfs.raw").resolve()))]
        if "db" in self.role:
            self.disks.append(("pgdata", img_create(directory / "pgdata.qcow2",
                                                    backing=(GUEST / "pgdata.raw").resolve())))
        if self.options.get("disktag"):
            self.disks.append(("hsdisktag", img_create(directory / "tag.raw", "16M",
                                                       image_format="raw")))
        for serial in self.options.get("more_disks", []):
            self.disks.append((serial, img_create(directory / f"{serial}.qcow2", "16M")))

    def disk_args(self, disks: list[tuple[str, Path]]) -> list[str]:
        args: list[str] = []
        for index, (serial, path) in enumerate(disks):
            device = self.options.get("devices", {}).get(
                serial, self.options.get("disk_device", "virtio-blk-pci")).format(index=index)
            image_format = "raw" if path.suffix == ".raw" else "qcow2"
            cache = self.options.get("cache", "none")
            aio = "native" if cache == "none" else "threads"
            args += ["-drive", f"if=none,id={serial},file={path},format={image_format},"
                               f"cache={cache},aio={aio}",
                     "-device", f"{device},drive={serial},serial={serial}"]
        return args

    def nic_args(self) -> list[str]:
        args: list[str] = []
        for number, nic in enumerate(self.nics):
            args += ["-netdev", tap_netdev(f"net{number}", nic.tap, self.queues),
                     "-device", f"{self.options.get('nic', 'virtio-net-pci')},netdev=net{number},"
                                f"mac={nic.mac},romfile={several_queues(self.queues)}"]
            if not self.options.get("no_mediator"):
                args += ["-object", f"filter-hotsnap,id=med{number},netdev=net{number},member=hs0"]
        return args

    def guest_options(self) -> str:
        """What the guest is told of the options `shell` and `group`."""
        told = ["hs.shell=ttyS1"] if self.options.get("shell") else []
        if group := self.options.get("group"):
            others = ",".join(f"{m.name}:{m.group_ip}" for m in self.cluster.members
                              if m is not self)
            told.append(f"hs.group={group} hs.group.ip={self.group_ip}/24 hs.chatter.udp={others}")
        return " ".join(told)

    def start(self, disks: list[tuple[str, Path]] | None = None,
              extra: list[str] | None = None) -> Vm:
        o = self.options
        peers = ",".join(f"{m.name}:{m.ip}" for m in self.cluster.members if m is not self)
        append = (f"console=ttyS0 quiet mitigations=off no_timer_check hs.name={self.name} "
                  f"hs.ip={self.ip}/24 hs.role={self.role} "
                  f"{f'hs.peers={peers}' if peers else ''} {self.guest_options()} "
                  f"{o.get('append', '')}")
        memory = o.get("memory", 256)
        args = ["-machine", o.get("machine", "q35"), "-accel", "tcg", "-cpu", "max",
                "-smp", str(o.get("cpus", 1)), "-m", str(memory),
                *o.get("memory_args", []),
                "-kernel", str(GUEST / o.get("kernel", "vmlinuz")),
                "-initrd", str(GUEST / o.get("initrd", "initrd.img")), "-append", append,
                *o.get("before_member", []),
                "-object", f"hotsnap-member,id=hs0,name={self.name},"
                           f"listen={self.address['address']}{o.get('member_options', '')}",
                *self.nic_args(), "-device", "virtio-rng-pci",
                *o.get("before_disks", []), *self.disk_args(disks or self.disks),
                *(serial_port(str(self.shell_socket)) if o.get("shell") else []),
                *o.get("args", []), *(extra or [])]
        self.vm = Vm(self.cluster.place, self.name, args, network=self.cluster.network)
        return self.vm


class Cluster:
    """Members: [(name, role, options)]. A member has a NIC on each of the bridges that its option
    `bridges` names; without it, one NIC on the bridge that all such members share. With the option
    `queues`, its NICs have that many; it should have as many `cpus`. With `shell` its guest has a
    root shell on the socket `shell_socket`; with `group`, a MAC address, datagrams between members
    go to that group."""

    def __init__(self, place: Workplace, members: list[tuple[str, str, dict[str, Any]]]):
        self.place = place
        self.members: list[Member] = []
        for index, (name, role, options) in enumerate(members):
            self.members.append(Member(self, index, name, role, options))
        nics = [nic for member in self.members for nic in member.nics]
        self.network = place.network([nic.tap for nic in nics if nic.bridge == BRIDGE],
                                     {nic.tap: nic.bridge for nic in nics if nic.bridge != BRIDGE},
                                     {nic.tap: member.queues for member in self.members
                                      for nic in member.nics})
        for member in self.members:
            member.make_disks()
        self.bundles = place.path / "bundles"
        self.bundles.mkdir(exist_ok=True)

    def __getitem__(self, name: str) -> Member:
        return next(m for m in self.members if m.name == name)

    @property
    def keeps_order(self) -> bool:
        """Whether messages of a pair come in their order: not between NICs with several queues."""
        return all(member.queues == 1 for member in self.members)

    def up(self, timeout: float = 180) -> None:
        for member in self.members:
            member.start()
        for member in self.members:
            member.vm.wait_console(rf"hotsnap-guest: ready {member.name}\b", timeout)

    def snapshot(self, tag: str, initiator: int = 0, timeout: float = 300,
                 **arguments: Any) -> dict[str, Any]:
        """Takes a snapshot; returns the manifest."""
        error = self.try_snapshot(tag, initiator, timeout, **arguments)
        check(error is None, f"snapshot {tag}: {error}")
        return json.loads((self.bundles / tag / "manifest.json").read_text())

    def begin_snapshot(self, tag: str, initiator: int = 0, **arguments: Any) -> None:
        """Starts job snap-TAG."""
        request = {"job-id": f"snap-{tag}", "tag": tag, "directory": str(self.bundles),
                   "members": [m.address for m in self.members]}
        request.update({key.replace("_", "-"): value for key, value in arguments.items()})
        self.members[initiator].vm.qmp.execute("hotsnap-cluster", request)

    def try_snapshot(self, tag: str, initiator: int = 0, timeout: float = 300,
                     **arguments: Any) -> str | None:
        self.begin_snapshot(tag, initiator, **arguments)
        return self.members[initiator].vm.wait_job(f"snap-{tag}", timeout)

    def kill(self) -> None:
        for member in self.members:
            if member.vm:
                member.vm.kill()

    def start_for_restore(self, tag: str) -> None:
        """Starts all members on fresh overlays; they wait for hotsnap-restore."""
        manifest = json.loads((self.bundles / tag / "manifest.json").read_text())
        for member in self.members:
            report = next(m for m in manifest["members"] if m["name"] == member.name)
            disks = []
            for disk in report["disks"]:
                count = len(list((self.place.path / member.name).glob("restored-*")))
                path = self.place.path / member.name / f"restored-{count}.qcow2"
                disks.append((disk["device"], img_create(path, backing=Path(disk["file"]),
                                                         backing_format=disk["format"])))
            member.restored_disks = disks
            member.start(disks, ["-incoming", "defer", "-S"])

    def begin_restore(self, tag: str, initiator: int = 0, **arguments: Any) -> None:
        """Starts job restore-TAG."""
        self.members[initiator].vm.qmp.execute("hotsnap-restore", {
            "job-id": f"restore-{tag}", "bundle": str(self.bundles / tag),
            "members": [m.address for m in self.members], **arguments})

    def restore(self, tag: str, initiator: int = 0, timeout: float = 300, **arguments: Any) -> None:
        self.start_for_restore(tag)
        self.begin_restore(tag, initiator, **arguments)
        error = self.members[initiator].vm.wait_job(f"restore-{tag}", timeout)
        check(error is None, f"restore {tag}: {error}")
