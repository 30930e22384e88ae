# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a snapshot that is about to be taken could be restored; told before it is taken.

A restore starts each member as the cluster file describes it, and with the discs that were in its
drives. Memory and devices are loaded into that machine, so it must be the one that was saved.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import HotsnapError
from ..model import bundle
from ..model.cluster import Member
from ..model.disk_table import Disk, id_of
from ..model.golden import GoldenImage
from ..model.notes import Media
from ..model.state import State
from ..qemu import inventory
from ..qemu.fleet import Fleet
from ..qemu.qmp import Qmp


def check(state: State, fleet: Fleet) -> dict[str, Media]:
    """HotsnapError if a running member has become another machine than the one that it was started
    as. Returns what each member reads from: its read-only disks, and the discs in its drives."""
    found = {}
    for name in fleet.running_names():
        with fleet.monitor(name) as qmp:
            _same_devices(state, name, qmp)
            for disk in inventory.foreign(qmp):
                raise HotsnapError(f"member {name}: the guest writes to {disk}, which no restore "
                                   "could bring back: take it away, or make it a [[member.disk]]")
            found[name] = _media(state, name, qmp)
    return found


def _same_devices(state: State, name: str, qmp: Qmp) -> None:
    before = state.member(name).devices
    if before is None:
        return  # started by an older version of this program
    now = inventory.devices(qmp)
    changes = [*(f"{device} was plugged in" for device in now if device not in before),
               *(f"{device} was taken away" for device in before if device not in now)]
    if changes:
        raise HotsnapError(f"member {name} is another machine than 'hotsnap up' has started: "
                           f"{', '.join(changes)}; undo it (device_del, device_add), or bring the "
                           "cluster file up to date and start the member anew")


def _media(state: State, name: str, qmp: Qmp) -> Media:
    started = state.member(name).media
    own = {disk.id for disk in state.cluster.member(name).disks}
    found: Media = {}
    for disk, file in inventory.media(qmp).items():
        if disk not in own and state.member(name).devices is not None \
                and file != (started[disk].image if disk in started else None):
            raise HotsnapError(f"member {name}: the disc in {disk} is another one than 'args' have "
                               "put there, and a restored guest would find that: put it back, or "
                               "write cdrom in a [[member.disk]] in place of the argument")
        if file is None:
            found[disk] = None
            continue
        try:
            found[disk] = now = GoldenImage.of(file)
        except OSError as error:
            raise HotsnapError(f"member {name}: disk {disk} reads {file}, which no restore could "
                               f"open: {error.strerror}; put the file back") from error
        before = started.get(disk)
        if before and before.image == file and not before.same(now):
            raise HotsnapError(f"member {name}: disk {disk} reads {file}, which was made anew since "
                               "the member was started: a restored guest would find another disk; "
                               f"put it back ({before.describe()}), or start the member anew")
    return found


def machines(state: State, saved: bundle.Bundle) -> list[Member]:
    """The cluster file's members, so far as a snapshot has them. HotsnapError if it has others, or
    nothing of any."""
    names = {member.name for member in saved.members if member.disks or not saved.only_disks}
    members = [member for member in state.cluster.members if member.name in names]
    if len(members) < len(names):
        gone = sorted(names - {member.name for member in members})
        raise HotsnapError(f"snapshot {saved.tag!r} is of {', '.join(gone)} too, which "
                           f"{state.cluster.file} does not name: put the cluster file back")
    if not members:
        raise HotsnapError(f"snapshot {saved.tag!r} is of no disk: there is nothing to restore")
    return members


def missing(member: Member, saved: bundle.Bundle) -> Member:
    """The member with the disks only that a snapshot of disks has not."""
    has = {id_of(disk.device) for entry, disk in saved.layers() if entry.name == member.name}
    return replace(member, disks=tuple(disk for disk in member.disks
                                       if not disk.read_only and disk.id not in has))


def discs(state: State, saved: bundle.Bundle) -> dict[str, dict[str, str | None]]:
    """Member to drive to the disc in it at the cut, for Fleet.start. HotsnapError if one of them,
    or a read-only disk, has changed since."""
    found: dict[str, dict[str, str | None]] = {}
    for member in saved.members:
        media = saved.notes().media.get(member.name, {})
        own = {disk.id: disk for disk in state.cluster.member(member.name).disks}
        found[member.name] = {}
        for name, then in media.items():
            file = _find(member.name, name, own.get(name), then) if then else None
            if name in own:
                found[member.name][name] = file
    return found


def _find(member: str, name: str, disk: Disk | None, then: GoldenImage) -> str:
    """The file with the content of then: the same one, or the one that the cluster file names, as
    when the cluster's folder was moved."""
    for file in (then.image, disk.image if disk else None):
        try:
            if file and then.same(GoldenImage.of(file)):
                return file
        except OSError:
            pass
    raise HotsnapError(f"member {member}: disk {name} read {then.image} when the snapshot was "
                       f"taken, and that file has changed since or is gone: put it back "
                       f"({then.describe()}); nothing was started")
