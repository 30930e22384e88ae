# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU command line of a member.

A pure function of the cluster file, the paths of the moment and the accelerator, so that a restore
starts the machine that was saved. `hardware` reduces a command line to what the guest can see, to
tell whether two of them describe the same machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..host.netns import several_queues, tap_netdev
from ..host.paths import is_device
from ..model.cluster import Member
from ..model.disk_table import NVRAM, Disk
from ..model.state import Paths
from ..model.units import MIB

MEMBER_OBJECT = "hs0"
AGENT_PORT = "org.qemu.guest_agent.0"  # where qemu-ga in the guest looks for it


def command_line(qemu: str, firmware: Sequence[str], member: Member, accelerator: str,
                 paths: Paths, disk_files: dict[str, str], taps: dict[str, str],
                 machine: str | None = None, incoming: bool = False,
                 snapshots: bool = True, discs: Mapping[str, str | None] | None = None
                 ) -> list[str]:
    """`firmware`: arguments that name it; `disk_files`: disk id to the file it writes to; `taps`:
    NIC id to its tap; `machine`: the resolved type of a saved member; `snapshots` False leaves out
    what only the fork has; `discs`: id of a CD-ROM drive to the disc in it, None for no disc, where
    it is not the one of the cluster file."""
    line = [qemu, "-name", f"guest={member.name},debug-threads=on", "-no-user-config",
            "-nodefaults", "-display", "none", *firmware,
            "-machine", with_type(member.machine, machine),
            "-accel", "tcg,thread=multi" if accelerator == "tcg" else "kvm",
            "-m", f"size={member.memory // MIB}M", "-smp", str(member.cpus)]
    if member.cpu:
        line += ["-cpu", member.cpu]
    line += ["-pidfile", paths.pidfile]
    for name, path in (("qmp", paths.qmp), ("monitor", paths.monitor)):
        line += ["-chardev", f"socket,id={name},path={_quote(path)},server=on,wait=off",
                 "-mon", f"chardev={name},mode=control"]
    line += ["-chardev", f"file,id=serial0,path={_quote(paths.serial)},append=on",
             "-serial", "chardev:serial0"]
    if snapshots:
        line += ["-object", f"hotsnap-member,id={MEMBER_OBJECT},name={member.name},"
                            f"listen=unix:{_quote(paths.listen)}" + _labels(member)]
    if member.kernel:
        line += ["-kernel", member.kernel]
        if member.initrd:
            line += ["-initrd", member.initrd]
        if member.append:
            line += ["-append", member.append]
    line += _disks(member.disks, disk_files, discs or {})
    for nic in member.nics:  # no boot ROM, which would be one more file to find at a restore
        line += ["-netdev", tap_netdev(nic.id, taps[nic.id], nic.queues),
                 "-device", f"{nic.model},netdev={nic.id},mac={nic.mac},id={nic.id}-dev"
                            + several_queues(nic.queues)
                            + (",romfile=" if _has_boot_rom(nic.model) else "")]
        if snapshots:
            line += ["-object", f"filter-hotsnap,id=hsf-{nic.id},netdev={nic.id},"
                                f"member={MEMBER_OBJECT}"]
    if member.agent:
        line += ["-chardev", f"socket,id=agent,path={_quote(paths.agent)},server=on,wait=off",
                 "-device", "virtio-serial-pci,id=agent-bus",
                 "-device", "virtserialport,bus=agent-bus.0,chardev=agent,id=agent-dev,"
                            f"name={AGENT_PORT}"]
    line += member.args
    if incoming:
        line += ["-incoming", "defer", "-S"]
    return line


def _has_boot_rom(model: str) -> bool:
    """PCI devices have the property; those of ISA, USB and virtio-mmio refuse it."""
    return not (model.endswith(("_isa", "-device")) or model == "usb-net")


def _quote(value: str) -> str:
    """A value in a QEMU option string: a comma is written twice."""
    return value.replace(",", ",,")


# The variables of UEFI. With a drive's id, since a flash chip of the board has none of its own.
_NVRAM = f"if=pflash,unit=1,id={NVRAM}-dev,node-name={NVRAM},format=qcow2,file="
_UEFI_CODE = "if=pflash,unit=0,format=raw,readonly=on,file="


def uefi(code: str) -> list[str]:
    """The arguments that name UEFI's code."""
    return ["-drive", _UEFI_CODE + _quote(code)]


def _node(disk: Disk, file: str) -> list[str]:
    node: dict[str, Any] = {"node-name": disk.id,
                            "driver": disk.format if disk.read_only else "qcow2",
                            "read-only": disk.read_only, "discard": "unmap",
                            "file": {"driver": "host_device" if is_device(file) else "file",
                                     "filename": file}}
    return ["-blockdev", json.dumps(node)]


def _labels(member: Member) -> str:
    """For other tools than hotsnap, which looks in the cluster file."""
    told = ",".join(f"{name}={value}" for name, value in sorted(member.labels.items()))
    return f",labels={_quote(told)}" if told else ""


def _disks(disks: Sequence[Disk], files: Mapping[str, str], discs: Mapping[str, str | None]
           ) -> list[str]:
    line: list[str] = []
    scsi = [disk for disk in disks if disk.interface == "virtio-scsi"]
    if any(disk.iothread for disk in scsi):  # one controller, so one thread for all its disks
        line += ["-object", "iothread,id=iothread-scsi0",
                 "-device", "virtio-scsi-pci,id=scsi0,iothread=iothread-scsi0"]
    elif scsi:
        line += ["-device", "virtio-scsi-pci,id=scsi0"]
    if any(d.interface == "ahci" for d in disks):
        line += ["-device", "ahci,id=ahci0"]
    ports = 0
    for disk in disks:
        if disk.interface == "pflash":
            line += ["-drive", _NVRAM + _quote(files[disk.id])]
            continue
        file = discs.get(disk.id, disk.image) if disk.read_only else files[disk.id]
        common = f"id={disk.id}-dev"
        if file:
            line += _node(disk, file)
            common = f"drive={disk.id},{common}"
        if disk.serial:
            common += f",serial={_quote(disk.serial)}"
        kind = "cd" if disk.cdrom else "hd"
        if disk.interface == "virtio-blk":
            if disk.iothread:
                line += ["-object", f"iothread,id=iothread-{disk.id}"]
                common += f",iothread=iothread-{disk.id}"
            line += ["-device", f"virtio-blk-pci,{common}"]
        elif disk.interface == "virtio-scsi":
            line += ["-device", f"scsi-{kind},bus=scsi0.0,{common}"]
        elif disk.interface == "ahci":
            line += ["-device", f"ide-{kind},bus=ahci0.{ports},{common}"]
            ports += 1
        else:
            line += ["-device", f"ide-{kind},{common}"]
    return line


# Options that name only where things are on the host, or how it runs the guest.
_HOST_OPTIONS = {"-L", "-pidfile", "-chardev", "-mon", "-serial", "-incoming", "-accel", "-name",
                 "-blockdev", "-netdev", "-D", "-display", "-vnc", "-spice", "-monitor", "-qmp",
                 "-gdb"}
# The guest has read these files into its memory: another file makes no other machine, no file does.
_PRESENCE_OPTIONS = {"-kernel", "-initrd", "-append"}
# Properties of -machine that are the host's matter.
_HOST_PROPERTIES = {"accel", "dump-guest-core", "mem-merge", "memory-backend"}


def _machine_fields(value: str) -> tuple[str, list[str]]:
    """Type and properties of -machine, as in q35,hpet=off; the type may also be named by a key."""
    kind, properties = "", []
    for number, field in enumerate(value.split(",")):
        if field.startswith("type="):
            kind = field.removeprefix("type=")
        elif number == 0 and "=" not in field:
            kind = field
        else:
            properties.append(field)
    return kind, properties


def with_type(wanted: str, resolved: str | None) -> str:
    """The machine of the cluster file, of the type that a saved member had: `pc-q35-10.0` for
    `q35`. Its properties stay."""
    if resolved is None:
        return wanted
    return ",".join([resolved, *_machine_fields(wanted)[1]])


def hardware(argv: Sequence[str]) -> list[str]:
    """The options of a command line that the guest can see. The machine type is left out, since the
    manifest has the resolved one, but not its properties; so are objects of this project and of the
    host."""
    kept: list[str] = []
    position = 1
    while position < len(argv):
        option = argv[position]
        value = argv[position + 1] if position + 1 < len(argv) else ""
        has_value = not value.startswith("-") and position + 1 < len(argv)
        position += 2 if has_value else 1
        if option == "-machine":
            kept += [f"-machine {field}" for field in sorted(_machine_fields(value)[1])
                     if field.partition("=")[0] not in _HOST_PROPERTIES]
            continue
        if option in _HOST_OPTIONS or option == "-S":
            continue
        if option == "-drive" and value.startswith(_UEFI_CODE):
            continue  # the guest has it in its memory
        if option == "-drive" and value.startswith(_NVRAM):
            kept.append("UEFI")
            continue
        if option == "-device":
            value = _without_medium(value)
        if option == "-object" and value.startswith(("hotsnap-member,", "filter-hotsnap,",
                                                      "iothread,")):
            continue
        shown = has_value and option not in _PRESENCE_OPTIONS
        kept.append(f"{option} {value}" if shown else option)
    return kept


def _without_medium(device: str) -> str:
    """A CD-ROM drive, whatever disc is in it."""
    if not device.startswith(("ide-cd,", "scsi-cd,")):
        return device
    return ",".join(part for part in device.split(",") if not part.startswith("drive="))


def hardware_difference(saved: Sequence[str], wanted: Sequence[str]) -> str | None:
    """One line that says how two command lines differ for the guest, or None."""
    before, now = hardware(saved), hardware(wanted)
    gone = [a for a in before if a not in now]
    new = [a for a in now if a not in before]
    if not gone and not new:
        return None
    return f"saved: {'; '.join(gone) or 'nothing'} | now: {'; '.join(new) or 'nothing'}"
