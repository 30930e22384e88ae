# SPDX-License-Identifier: GPL-2.0-or-later
"""export: the disks of a snapshot for other programs, as files that lie over nothing, or by NBD.

The cluster's lock is held only until the layers that will be read are listed (model/reading.py). From
then on no command merges or deletes them; whatever else there is goes on: members run, snapshots
are taken, restored and removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..disks import standalone, survey
from ..disks.standalone import FrozenDisk
from ..errors import HotsnapError, Interrupted, UsageError
from ..host import delivery
from ..host.space import allocated
from ..model import bundle, reading
from ..model.state import MAX_SOCKET_PATH, State
from ..qemu import binaries, copies, storage_daemon
from ..qemu.fleet import Fleet
from ..ui.output import Progress, human_size, print_json, say
from . import recovery, verify

FORMATS = ("qcow2", "raw")


@dataclass(frozen=True)
class Opened:
    """A snapshot's disks, entered as being exported; `handle` is the entry's lock."""

    saved: bundle.Bundle
    disks: list[FrozenDisk]
    sums: standalone.Sums
    handle: int

    def told(self, verified: bool) -> dict[str, Any]:
        """What the result says of checksums."""
        return {"verified": verified, "without_checksum": list(self.sums.unknown)}


def enter(stack: contextlib.ExitStack, state: State, fleet: Fleet, tag: str,
          entries: Sequence[str], quiet: bool) -> Opened:
    """Lists the layers of these disks, or of all, as being read until the end of `stack`. The caller
    holds the lock, and need not any more afterwards."""
    recovery.recover(state, fleet, quiet)
    if os.path.exists(state.journal):
        raise survey.Busy("a merge of disk layers waits to be finished")
    saved = bundle.read(os.path.join(state.bundles, tag))
    disks = standalone.chosen(state, saved, entries)
    sums = standalone.sums_of(state, saved, disks)
    held = stack.enter_context(reading.Reading(state, "export", tag))
    held.set({path for disk in disks for path in disk.chain})
    return Opened(saved, disks, sums, held.handle)


@contextlib.contextmanager
def _opened(state: State, fleet: Fleet, tag: str, entries: Sequence[str], quiet: bool
            ) -> Iterator[Opened]:
    check_tag(tag)
    with contextlib.ExitStack() as stack:
        with state.locked():
            found = enter(stack, state, fleet, tag, entries, quiet)
            if not found.disks:
                raise HotsnapError(f"snapshot {tag!r} is of no disk: there is nothing to export")
        yield found


def check_tag(tag: str) -> None:
    if "/" in tag:
        raise UsageError(f"{tag!r} is not a tag: 'hotsnap ls' lists them")


def _check(opened: Opened, contents: bool, quiet: bool) -> None:
    """HotsnapError if a layer is not as it was; tells what cannot be known."""
    bar = Progress(f"verify {opened.saved.tag}", quiet)
    try:
        damage = verify.check_files(opened.sums.known, contents, lambda done, total: bar.update(
            done, total, human_size(done)))
    finally:
        bar.clear()
    judge(opened, damage)


def judge(opened: Opened, damage: Sequence[verify.Damage]) -> None:
    """HotsnapError if there is damage; else tells which layers nothing is known of."""
    tag = opened.saved.tag
    if damage:
        raise HotsnapError(f"snapshot {tag!r} is damaged: {damage[0]}: nothing was exported; "
                           f"'hotsnap verify {tag}' lists the damage of its own files")
    for path in opened.sums.unknown:
        say(f"not verified: {path}: the snapshot with its checksums was removed, and several "
            "layers lie over it")


def to_folder(state: State, fleet: Fleet, tag: str, folder: str, entries: Sequence[str] = (),
              image_format: str = FORMATS[0], every_checksum: bool = True, quiet: bool = False
              ) -> dict[str, Any]:
    """Writes one file for each disk, all or none; returns what was made."""
    folder = os.path.realpath(folder)
    if os.path.commonpath((folder, os.path.realpath(state.directory))) \
            == os.path.realpath(state.directory):
        raise UsageError(f"{folder} is in the cluster's own folder, where disk layers are kept: "
                         "choose another folder")
    with _opened(state, fleet, tag, entries, quiet) as opened, _folder(folder):
        names = [disk.file_name(image_format) for disk in opened.disks]
        if len(set(names)) < len(names):
            raise HotsnapError(f"two disks would have one file among {', '.join(names)}: export "
                               "them one by one, to several folders")
        manifest = opened.saved.manifest
        of = f"{tag} {manifest.created} {manifest.epoch} {'' if every_checksum else 'not '}verified"
        if delivery.settled(folder, of, names):
            say(f"the export of {tag!r} to {folder} that was cut short was whole")
        else:
            with delivery.delivery(folder, of, names) as delivered:
                _check(opened, every_checksum, quiet)
                _copy(state, opened, delivered, image_format, quiet)
                delivered.publish()
    files = [os.path.join(folder, name) for name in names]
    return {"exported": tag, "folder": folder, "format": image_format, **opened.told(every_checksum),
            "disks": [{"member": disk.member, "disk": disk.disk, "file": file,
                       "bytes": allocated(file)}
                      for disk, file in zip(opened.disks, files)]}


@contextlib.contextmanager
def _folder(path: str) -> Iterator[None]:
    """The folder, made if it is not there; it goes again if nothing was put in."""
    made = not os.path.lexists(path)
    os.makedirs(path, mode=0o700, exist_ok=True)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _copy(state: State, opened: Opened, delivered: delivery.Delivery, image_format: str,
          quiet: bool) -> None:
    image_tool = binaries.qemu_img(state.cluster.qemu)
    sizes = [copies.virtual_size(image_tool, disk.file, disk.format) for disk in opened.disks]
    bar = Progress(f"export {opened.saved.tag}", quiet)
    try:
        for number, disk in enumerate(opened.disks):
            before, size = sum(sizes[:number]), sizes[number]
            copies.copy(image_tool, disk.file, disk.format,
                        delivered.unfinished(disk.file_name(image_format)), image_format,
                        (opened.handle, delivered.handle),
                        lambda part, before=before, size=size, name=disk.name:  # type: ignore[misc]
                        bar.update(before + part * size, sum(sizes), name))
    finally:
        bar.clear()


def serve(state: State, fleet: Fleet, tag: str, socket: str, entries: Sequence[str] = (),
          every_checksum: bool = True, as_json: bool = False) -> None:
    """Serves the disks by NBD until a signal ends it, and says how they are reached."""
    socket = os.path.abspath(socket)
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        raise UsageError(f"{socket} is too long for a socket ({MAX_SOCKET_PATH} bytes)")
    program = binaries.storage_daemon(state.cluster.qemu)
    image_tool = binaries.qemu_img(state.cluster.qemu)
    with _opened(state, fleet, tag, entries, as_json) as opened:
        _check(opened, every_checksum, as_json)
        images = [storage_daemon.Image(disk.name, disk.file, disk.format)
                  for disk in opened.disks]
        with storage_daemon.serving(program, socket, images, (opened.handle,)) as daemon:
            rows = [{"member": disk.member, "disk": disk.disk,
                     "uri": storage_daemon.uri(socket, disk.name),
                     "size": copies.virtual_size(image_tool, disk.file, disk.format)}
                    for disk in opened.disks]
            try:
                if as_json:
                    print_json({"exported": tag, "socket": socket,
                                **opened.told(every_checksum), "disks": rows})
                else:
                    print("\n".join(row["uri"] for row in rows), flush=True)
                daemon.wait()
            except (KeyboardInterrupt, Interrupted):
                pass  # as a server's work ends
