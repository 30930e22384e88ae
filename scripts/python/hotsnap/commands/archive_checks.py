# SPDX-License-Identifier: GPL-2.0-or-later
"""What the import looks for in an archive, which a stranger may have made: that nothing in it makes
this program or QEMU open a file outside of the new folder."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator

from ..disks import survey
from ..errors import HotsnapError
from ..formats import archive, images, qcow2
from ..formats.archive import Head
from ..host.paths import resolved
from ..model import bundle
from ..model.bundle import Bundle
from ..model.cluster import Cluster, Member
from ..model.state import State
from ..ui.output import printable

_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_CPU = re.compile(r"[A-Za-z0-9_.,+=:-]+")
# Properties of -machine that name no file.
_PROPERTY = re.compile(r"(?:hpet|smm|vmport|acpi|usb|graphics|nvdimm|pit|i8042|sata|smbus|pic|rtc|"
                       r"isa-serial|pcie|kernel[-_]irqchip|x-oem-id|x-oem-table-id|mem-merge|"
                       r"dump-guest-core|max-ram-below-4g|smbios-entry-point-type)=[A-Za-z0-9._-]+")


def refusal(path: str, what: str) -> HotsnapError:
    return HotsnapError(f"{path}: {printable(what)}: nothing was imported")


def check_cluster_file(file: str, head: Head, path: str) -> None:
    """Before the cluster file is loaded, which opens the files that it names."""
    with open(file, "rb") as stream:
        try:
            text = tomllib.load(stream)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise refusal(path, f"its {archive.CLUSTER_FILE} is damaged: {error}") from error
    own = {image.name for image in head.images}
    for key, name in _files(text):
        if name not in own and name not in head.left:
            raise refusal(path, f"its {archive.CLUSTER_FILE} names {name}, by {key}, which is not of "
                                "the archive")


def _files(table: object) -> Iterator[tuple[str, str]]:
    """The keys of a cluster file that name files, wherever they stand, and their values."""
    if isinstance(table, list):
        for inner in table:
            yield from _files(inner)
    elif isinstance(table, dict):
        for key, value in table.items():
            if key in ("image", "kernel", "initrd", "cdrom", "qemu") and value != "":
                yield key, str(value)
            yield from _files(value)


def check(state: State, head: Head, path: str) -> None:
    """Before any program opens a file that was unpacked: the state is one that an export makes,
    machines are described by words alone, images are single files, layers are as this program makes
    them, and the manifest names files of the archive."""
    _check_state(state, head, path)
    _check_machines(state.cluster, path)
    for image in head.images:
        if what := images.in_several_files(os.path.join(state.directory, image.name)):
            raise refusal(path, f"its image {image.name} is not one file, since {what}")
    for entry in head.files:
        if entry.name.endswith(".qcow2") and entry.name.startswith("members/"):
            if what := qcow2.strange(os.path.join(state.directory, entry.name)):
                raise refusal(path, f"{entry.name} is no layer that this program has made, since "
                                    f"{what}")
    saved = bundle.read(os.path.join(state.bundles, head.tag))
    if saved.tag != head.tag:
        raise refusal(path, f"its snapshot is of tag {saved.tag!r}")
    own = {entry.name for entry in head.files}
    for name in saved.named_files():
        if f"bundles/{head.tag}/{name}" not in own:
            raise refusal(path, f"its manifest names {name}, which is not of the archive")
    for member in saved.members:
        if member.name not in head.members or not _WORD.fullmatch(member.machine):
            raise refusal(path, f"its manifest has a member {member.name!r} of machine "
                                f"{member.machine!r}")


def _check_state(state: State, head: Head, path: str) -> None:
    told = state.cluster
    if (told.name, sorted(member.name for member in told.members), told.directory) \
            != (head.cluster, sorted(head.members), os.path.dirname(told.file)):
        raise refusal(path, f"its {archive.CLUSTER_FILE} is of another cluster or folder than the "
                            "archive")
    if state.restoring or not set(state.members) <= set(head.members):
        raise refusal(path, f"its {archive.STATE} is none that an export makes")


def _check_machines(found: Cluster, path: str) -> None:
    """Options of QEMU are made of these words, and a comma would begin another one."""
    for member in found.members:
        kind, *properties = member.machine.split(",")
        words = [kind, *(nic.model for nic in member.nics)]
        bad = [word for word in words if not _WORD.fullmatch(word)]
        bad += [word for word in properties if not _PROPERTY.fullmatch(word)]
        if member.cpu and not _CPU.fullmatch(member.cpu):
            bad.append(member.cpu)
        if bad:
            raise refusal(path, f"member {member.name} has {bad[0]!r} in machine, cpu or model, which "
                                "is not among what an import takes")


def check_settled(state: State, saved: Bundle, path: str) -> None:
    """Each layer lies over one of this folder, or over an image of the cluster file, as a file of
    that image's format; and the manifest's layers are of this folder."""
    formats = {resolved(file): image_format for member in state.cluster.members
               for file, image_format in _images_of(member).items()}
    known = survey.scan(state)
    for layer, below in known.items():
        if below is not None:
            expected = "qcow2" if below in known else formats.get(below)
            if expected is None or qcow2.backing_format(layer) != expected:
                raise refusal(path, f"{layer} lies over {below}, which the archive does not have so")
    for _, disk in saved.layers():
        if os.path.realpath(disk.file) not in known:
            raise refusal(path, f"its manifest names the disk layer {disk.file}, which is not of the "
                                "archive")


def _images_of(member: Member) -> dict[str, str]:
    """The files that the cluster file names for a member, and their formats."""
    return {**{file: "raw" for file in (member.kernel, member.initrd) if file},
            **{disk.image: disk.format for disk in member.disks if disk.image}}
