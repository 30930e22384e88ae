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

from ..disks import relocate
from ..errors import HotsnapError
from ..formats import archive
from ..formats.archive import Head
from ..host import atomic, tarball
from ..host.space import free
from ..model import bundle, cluster, notes
from ..model.bundle import Bundle
from ..model.golden import GoldenImage
from ..model.state import MemberState, State
from ..ui.output import Progress, human_size, printable, say
from . import archive_checks as packed
from . import lifecycle, verify

MARK = ".hotsnap-import"
LOOK, LEAST_FREE = 64 << 20, 64 << 20  # bytes: how often the free space is looked at, and its least


def load(path: str, folder: str, every_checksum: bool = True, quiet: bool = False,
         host_images: bool = False) -> dict[str, Any]:
    """Makes `folder`, which must not exist or be empty, a cluster's folder of the archive at `path`.
    Nothing runs afterwards. After a failure the folder is as it was. `host_images`: guests may read
    the images of this host that the archive names and has not."""
    tarball.check_programs()
    if not os.path.isfile(path):
        raise HotsnapError(f"there is no file {path}")
    folder = os.path.realpath(folder)
    if not os.path.isdir(os.path.dirname(folder)):
        raise HotsnapError(f"there is no folder {os.path.dirname(folder)}: make it first")
    head = Head.read(tarball.peek(path, archive.HEAD, archive.MAX_HEAD), path)
    _check_left(head, path, host_images)
    with _new_folder(folder):
        if head.allocated() > free(folder):
            raise HotsnapError(f"{path} needs {human_size(head.allocated())}, and the file system of "
                               f"{folder} has {human_size(free(folder))}: nothing was imported")
        new = os.path.join(folder, archive.CLUSTER_FILE + atomic.UNFINISHED)
        _unpack(path, folder, head, quiet)
        os.rename(os.path.join(folder, archive.CLUSTER_FILE), new)
        packed.check_cluster_file(new, head, path)
        state = State(cluster.load(new))
        packed.check(state, head, path)
        saved = _settle(state, head, path)
        packed.check_settled(state, saved, path)
        damage = (verify.check_visibly(saved, quiet).damage if every_checksum
                  else verify.outline(saved))
        if damage:
            raise packed.refusal(path, f"snapshot {head.tag!r} is damaged: {damage[0]}")
        _make_durable(folder)
        file = os.path.join(folder, archive.CLUSTER_FILE)
        os.rename(new, file)
        atomic.sync_folder(folder)
        atomic.sync_folder(os.path.dirname(folder))
    return {"imported": head.tag, "folder": folder, "file": file, "members": head.members,
            "verified": every_checksum, "left_out": head.left,
            "args": {member.name: list(member.args) for member in state.cluster.members
                     if member.args}}


def _check_left(head: Head, path: str, permitted: bool) -> None:
    """Before anything is unpacked: images that the archive has not."""
    if head.left and not permitted:
        raise HotsnapError(f"{path} has not all images, and its guests would read these files of this "
                           f"host: {printable(', '.join(head.left))}; if they may, give --host-images")
    for file in head.left:
        if not os.path.exists(file):
            raise HotsnapError(f"{path} has not the image {printable(file)}, and it is not on this "
                               "host: put it there first, as it was")


def _unpack(path: str, folder: str, head: Head, quiet: bool) -> None:
    bar = Progress(f"import {head.tag}", quiet)
    show, since = bar.adder(head.allocated()), 0

    def tell(count: int) -> None:
        nonlocal since
        show(count)
        since += count
        if since >= LOOK:
            since = 0
            if free(folder) < LEAST_FREE:
                raise HotsnapError(f"the file system of {folder} is nearly full: nothing was "
                                   "imported")

    try:
        tarball.unpack(path, folder, head.sizes(), tell)
    finally:
        bar.clear()


def _settle(state: State, head: Head, path: str) -> Bundle:
    """Makes the files name each other by the paths that they have here. HotsnapError if an image
    of this host is not as it was."""
    there = {image.path: os.path.join(state.directory, image.name) for image in head.images}

    def now(image: GoldenImage) -> GoldenImage:
        if image.image in there:
            return GoldenImage.of(there[image.image])
        if image.image not in head.left or not image.same(GoldenImage.of(image.image)):
            raise packed.refusal(path, f"{printable(image.image)} is not as it was "
                                       f"({image.describe()})")
        return image

    with state.locked():
        state.members = {name: MemberState(layers=entry.layers)
                         for name, entry in state.members.items()}
        relocate.adapt(state, {relocate.here(state, layer): now(image)
                               for layer, image in state.images.items()})
        saved = bundle.read(os.path.join(state.bundles, head.tag))
        known = saved.notes()
        known.media = {name: {disk: now(image) if image else None
                              for disk, image in media.items()}
                       for name, media in known.media.items()}
        notes.write(saved.path, known)
        if saved.only_disks:
            lifecycle.other_disks(state, saved)
        state.save()
    return saved


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
        say(f"guests will read the file {printable(path)} of this host")
    for name, args in done["args"].items():
        say(f"member {name} has QEMU arguments of the archive's maker, which may name files of this "
            f"host: {printable(' '.join(args))}")
