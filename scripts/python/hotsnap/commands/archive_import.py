# SPDX-License-Identifier: GPL-2.0-or-later
"""import: makes a cluster's folder of a snapshot's archive (docs/formats/archive.md), in these steps:

    .hotsnap-import       in the new folder, locked: an import is under way here
    the files             at their places
    checks                nothing names a file outside of the folder; a stranger may have made it
    disks/relocate.py     layers, manifest and state name the files of this folder
    checks                every layer lies over one of these, every checksum
    cluster.toml          from here on it is a cluster
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from ..disks import relocate, survey
from ..errors import HotsnapError
from ..formats import archive, images, qcow2
from ..formats.archive import Head
from ..host import atomic, tarball
from ..host.space import free
from ..model import bundle, cluster, notes
from ..model.bundle import Bundle
from ..model.cluster import Member
from ..model.golden import GoldenImage
from ..model.state import State
from ..ui.output import Progress, human_size, say
from . import lifecycle, verify

MARK = ".hotsnap-import"


def load(path: str, folder: str, every_checksum: bool = True, quiet: bool = False
         ) -> dict[str, Any]:
    """Makes `folder`, which must not exist or be empty, a cluster's folder of the archive at `path`.
    Nothing runs afterwards. After a failure the folder is as it was."""
    tarball.check_programs()
    if not os.path.isfile(path):
        raise HotsnapError(f"there is no file {path}")
    folder = os.path.realpath(folder)
    if not os.path.isdir(os.path.dirname(folder)):
        raise HotsnapError(f"there is no folder {os.path.dirname(folder)}: make it first")
    head = Head.read(tarball.peek(path, archive.HEAD, archive.MAX_HEAD), path)
    with _new_folder(folder):
        if head.allocated() > free(folder):
            raise HotsnapError(f"{path} needs {human_size(head.allocated())}, and the file system of "
                               f"{folder} has {human_size(free(folder))}: nothing was imported")
        new = os.path.join(folder, archive.CLUSTER_FILE + atomic.UNFINISHED)
        _unpack(path, folder, head, quiet)
        os.rename(os.path.join(folder, archive.CLUSTER_FILE), new)
        state = State(cluster.load(new))
        _check_packed(state, head, path)
        saved = _settle(state, head)
        _check_settled(state, saved, path)
        damage = (verify.check_visibly(saved, quiet).damage if every_checksum
                  else verify.outline(saved))
        if damage:
            raise _refusal(path, f"snapshot {head.tag!r} is damaged: {damage[0]}")
        _make_durable(folder)
        file = os.path.join(folder, archive.CLUSTER_FILE)
        os.rename(new, file)
        atomic.sync_folder(folder)
    return {"imported": head.tag, "folder": folder, "file": file, "members": head.members,
            "verified": every_checksum, "left_out": head.left,
            "args": {member.name: list(member.args) for member in state.cluster.members
                     if member.args}}


def _unpack(path: str, folder: str, head: Head, quiet: bool) -> None:
    bar = Progress(f"import {head.tag}", quiet)
    total, done = head.allocated(), 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        bar.update(min(done, total), total, human_size(done))

    try:
        tarball.unpack(path, folder, head.sizes(), tell)
    finally:
        bar.clear()


def _settle(state: State, head: Head) -> Bundle:
    """Makes the files name each other by the paths that they have here."""
    folder = state.directory
    there = {image.path: os.path.join(folder, image.name) for image in head.images}
    with state.locked():
        relocate.relocate(state, golden=False, tell=False)
        saved = bundle.read(os.path.join(state.bundles, head.tag))
        known = notes.read(saved.path)
        for media in known.media.values():
            for image in media.values():
                if image and image.image in there:
                    image.image = there[image.image]
        notes.write(saved.path, known)
        for entry in state.members.values():
            entry.disks, entry.below, entry.process = {}, {}, None
        state.images = {layer: GoldenImage.of(there.get(image.image, image.image))
                        if os.path.exists(there.get(image.image, image.image)) else image
                        for layer, image in state.images.items()}
        if saved.only_disks and not head.left:
            lifecycle.other_disks(state, saved)
        state.save()
    return saved


def _check_packed(state: State, head: Head, path: str) -> None:
    """Before any program opens a file that was unpacked: images are single files, layers are as this
    program makes them, and cluster file and manifest name files of the archive only, but for images
    that were left out, which are told. A stranger may have made the archive."""
    told = state.cluster
    if (told.name, sorted(member.name for member in told.members), told.directory, told.qemu) \
            != (head.cluster, sorted(head.members), os.path.dirname(told.file), None):
        raise _refusal(path, f"its {archive.CLUSTER_FILE} is of another cluster or folder than the "
                             "archive")
    inside = {os.path.join(state.directory, image.name) for image in head.images}
    for member in state.cluster.members:
        for file in _images_of(member):
            if file not in inside and file not in head.left:
                raise _refusal(path, f"its {archive.CLUSTER_FILE} names {file}, which is not of the "
                                     "archive")
    for file in inside:
        if what := images.in_several_files(file):
            raise _refusal(path, f"its image {os.path.basename(file)} is not one file, since {what}")
    for layer in survey.scan(state):
        if what := qcow2.strange(layer):
            raise _refusal(path, f"{os.path.basename(layer)} is no layer that this program has made, "
                                 f"since {what}")
    saved = bundle.read(os.path.join(state.bundles, head.tag))
    if saved.tag != head.tag:
        raise _refusal(path, f"its snapshot is of tag {saved.tag!r}")
    own = {entry.name for entry in head.files}
    for name in _named(saved):
        if f"bundles/{head.tag}/{name}" not in own:
            raise _refusal(path, f"its manifest names {name}, which is not of the archive")


def _check_settled(state: State, saved: Bundle, path: str) -> None:
    """Each layer lies over one of this folder, or over an image of the cluster file, as a file of
    that image's format; and the manifest's layers are of this folder."""
    formats = {file: image_format for member in state.cluster.members
               for file, image_format in _images_of(member).items()}
    known = survey.scan(state)
    for layer, below in known.items():
        if below is not None:
            expected = "qcow2" if below in known else formats.get(below)
            if expected is None or qcow2.backing_format(layer) != expected:
                raise _refusal(path, f"{layer} lies over {below}, which the archive does not have so")
    for _, disk in saved.layers():
        if os.path.realpath(disk.file) not in known:
            raise _refusal(path, f"its manifest names the disk layer {disk.file}, which is not of "
                                 "the archive")


def _refusal(path: str, what: str) -> HotsnapError:
    return HotsnapError(f"{path}: {what}: nothing was imported")


def _images_of(member: Member) -> dict[str, str]:
    """The files that the cluster file names for a member, and their formats."""
    return {**{file: "raw" for file in (member.kernel, member.initrd) if file},
            **{disk.image: disk.format for disk in member.disks if disk.image}}


def _named(saved: Bundle) -> Iterator[str]:
    """The files of its own folder that a manifest names."""
    for member in saved.members:
        if member.memory:
            yield from (member.memory.file, member.memory.sums)
        yield from (disk.sums for disk in member.disks)
        yield from filter(None, (member.channel.file, member.channel.vnet))


def _make_durable(folder: str) -> None:
    """All files, and then the folders that name them, the deepest first."""
    for above, _, names in os.walk(folder, topdown=False):
        for name in names:
            atomic.sync_file(os.path.join(above, name))
        atomic.sync_folder(above)


@contextlib.contextmanager
def _new_folder(folder: str) -> Iterator[None]:
    """The folder of an import, with its mark, which another import of a killed command's folder
    takes over. If the block fails the folder is empty, or gone if it was not there."""
    there = os.path.isdir(folder)
    if there and (found := set(os.listdir(folder))) and MARK not in found:
        raise HotsnapError(f"{folder} is not empty: name a folder that is to be made")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, MARK), "w", encoding="utf-8") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HotsnapError(f"another import to {folder} is under way: wait until it has ended"
                               ) from error
        if os.path.exists(os.path.join(folder, archive.CLUSTER_FILE)):
            os.unlink(mark.name)
            raise HotsnapError(f"{folder} is a cluster's folder: name one that is to be made")
        json.dump({"under way": "hotsnap import"}, mark)
        mark.flush()
        try:
            _empty(folder)
            yield
        except BaseException:
            _empty(folder)
            os.unlink(mark.name)
            if not there:
                os.rmdir(folder)
            raise
        os.unlink(mark.name)


def _empty(folder: str) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != MARK:
            os.unlink(entry.path)


def tell(done: dict[str, Any]) -> None:
    """What a user has to know of an import before he restores it."""
    for path in done["left_out"]:
        say(f"{path} is not in the archive: put it there, as it was, before the restore")
    for name, args in done["args"].items():
        say(f"member {name} has QEMU arguments of the archive's maker, which may name files of this "
            f"host: {' '.join(args)}")
