# SPDX-License-Identifier: GPL-2.0-or-later
"""export --archive: a snapshot with all that it needs as one file (docs/formats/archive.md).

It has the bundle, the disk layers below it, the golden images, discs and kernels that the cluster
file names, a cluster file, and a state. The cluster's lock is held only until the layers that will
be read are listed (model/reading.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..disks import layers, standalone, survey
from ..errors import HotsnapError
from ..formats import archive, images
from ..formats.archive import Entry, Head, Image
from ..host import atomic, tarball
from ..host.paths import resolved
from ..host.space import allocated
from ..model import cluster_text, recoveries
from ..model.bundle import Bundle
from ..model.cluster import Cluster, Member
from ..model.state import MemberState, State
from ..qemu.fleet import Fleet
from ..ui.output import Progress
from . import export, restorable, snapshot, verify

_UNFIT = re.compile(r"[^A-Za-z0-9._+-]+")  # in the name of a file
_NUMBER = re.compile(r"^\d+-")  # of an image that an archive had before


@dataclass
class _Parts:
    """What an archive will have: each file's name in it, and where it is; `images` by their
    paths."""

    files: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def add_image(self, path: str, wanted: bool) -> str:
        """The path by which the archive's cluster file names an image."""
        path = resolved(path)
        if not wanted:
            if path not in self.left:
                self.left.append(path)
            return path
        if path not in self.images:
            if what := images.in_several_files(path):
                raise HotsnapError(f"{path} is not one file, since {what}: leave it out with "
                                   "--no-images, or convert it with 'qemu-img convert -O qcow2'")
            own = _NUMBER.sub("", _UNFIT.sub("_", os.path.basename(path)))
            name = f"images/{len(self.images)}-{own}"
            self.files[name] = path
            self.images[path] = name
        return self.images[path]


def save(state: State, fleet: Fleet, tag: str, path: str, with_images: bool = True,
         every_checksum: bool = True, quiet: bool = False) -> dict[str, Any]:
    """Writes the archive of a snapshot to `path`, which must not exist; returns what was made."""
    export.check_tag(tag)
    tarball.check_programs()
    path = os.path.realpath(path)
    if os.path.lexists(path):
        raise HotsnapError(f"{path} exists: remove it, or choose another name")
    if not os.path.isdir(os.path.dirname(path)):
        raise HotsnapError(f"there is no folder {os.path.dirname(path)}: make it first")
    with contextlib.ExitStack() as stack:
        with state.locked():
            if recoveries.read(state.directory):
                raise HotsnapError("the disks of a recovery lie over layers of the cluster that it "
                                   "was made from: export that cluster's snapshot")
            opened = export.enter(stack, state, fleet, tag, (), quiet)
            saved, parts = opened.saved, _Parts()
            machines = restorable.machines(state, saved)
            _check_restorable(state, fleet, saved)
            described = _described(state, saved, machines, parts, with_images)
            kept = _layers(state, opened.disks, parts)
        _check(opened, every_checksum, quiet)
        with tempfile.TemporaryDirectory(prefix="hotsnap-export.") as scratch, _alone(path):
            _bundle_files(saved, parts, scratch)
            _write_state(scratch, described, state, kept)
            text = cluster_text.text(described, f"Of snapshot {tag} of cluster "
                                     f"{state.cluster.name}: the machines of then.")
            atomic.write_bytes(os.path.join(scratch, archive.CLUSTER_FILE), text.encode())
            own = {name: os.path.join(scratch, name)
                   for name in (archive.CLUSTER_FILE, archive.STATE)}
            head = _head(state, saved, described, {**own, **parts.files}, parts)
            own[archive.HEAD] = os.path.join(scratch, archive.HEAD)
            atomic.write_json(own[archive.HEAD], head.dump())
            bar = Progress(f"export {tag}", quiet)
            try:
                with atomic.whole(path) as new:
                    tarball.pack({archive.HEAD: own.pop(archive.HEAD), **own, **parts.files}, new,
                                 (opened.handle,), bar.adder(head.allocated()))
            finally:
                bar.clear()
    return {"exported": tag, "archive": path, "bytes": os.stat(path).st_size,
            **opened.told(every_checksum), "left_out": parts.left, "members": head.members,
            "args": {member.name: list(member.args) for member in described.members
                     if member.args}}


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """No other export writes to `path` meanwhile, under the name that it has until it is whole."""
    new = path + atomic.UNFINISHED
    handle = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
    with open(handle, "rb"):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HotsnapError(f"another export to {path} is under way: wait until it has ended, or "
                               "choose another name") from error
        try:
            if os.path.lexists(path):  # another one has ended since we looked
                raise HotsnapError(f"{path} exists: remove it, or choose another name")
            yield
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            raise


def _check_restorable(state: State, fleet: Fleet, saved: Bundle) -> None:
    """HotsnapError if the cluster file has changed since, so that no restore by it would succeed."""
    if saved.only_disks:
        for member in saved.members:
            if member.disks:
                snapshot.frozen_layers(state, member)
        return
    for member in saved.members:
        snapshot.frozen_disks(state, member)
    snapshot.same_hardware(state, fleet, saved)
    restorable.discs(state, saved)


def _described(state: State, saved: Bundle, machines: Iterable[Member], parts: _Parts,
               with_images: bool) -> Cluster:
    """The cluster file's machines, with the names that their files have in the archive."""
    def moved(path: str | None) -> str | None:
        return parts.add_image(path, with_images) if path else path

    members = tuple(
        replace(member, kernel=moved(member.kernel), initrd=moved(member.initrd),
                disks=tuple(replace(disk, image=moved(disk.image)) for disk in member.disks))
        for member in machines)
    for media in saved.notes().media.values():
        for image in media.values():  # also a disc that was put in later
            moved(image.image if image else None)
    return replace(state.cluster, members=members, qemu=None)


def _layers(state: State, disks: Iterable[standalone.FrozenDisk], parts: _Parts) -> dict[str, str]:
    """Adds the disks' layers; returns their paths by the names in the archive. HotsnapError if one
    lies over something that is neither a layer nor a golden image of the cluster file."""
    known = survey.scan(state)
    named = {*parts.images, *parts.left}
    found = {}
    for disk in disks:
        chain = layers.chain(known, disk.file)
        if not chain:
            raise HotsnapError(f"the snapshot names the disk layer {disk.file}, which is not among "
                               f"those in {state.directory}/members")
        lowest = known[chain[-1]]
        if lowest is not None and resolved(lowest) not in named:
            raise HotsnapError(f"{disk.name} lies over {lowest}, which {state.cluster.file} does not "
                               "name any more: put the cluster file back")
        for path in chain:
            name = "/".join(("members", os.path.basename(os.path.dirname(path)),
                             os.path.basename(path)))
            found[name] = path
    parts.files.update(found)
    return found


def _check(opened: export.Opened, every_checksum: bool, quiet: bool) -> None:
    """HotsnapError if something is not as it was; tells what cannot be known."""
    saved = opened.saved
    own = {path for path, _, _ in verify.large_files(saved)}
    lower = [entry for entry in opened.sums.known if entry[0] not in own]
    export.judge(opened, (verify.check_visibly(saved, quiet).damage if every_checksum
                          else verify.outline(saved)) or verify.check_files(lower, every_checksum))


def _bundle_files(saved: Bundle, parts: _Parts, scratch: str) -> None:
    """Adds the bundle's files. What the manifest does not name is small, and perhaps replaced by a
    restore right now: of that a copy is packed."""
    fixed = {"manifest.json", *saved.named_files()}
    for above, _, names in os.walk(saved.path):
        for name in sorted(names):
            path = os.path.join(above, name)
            relative = os.path.relpath(path, saved.path)
            if name.startswith(".") or name.endswith(atomic.UNFINISHED):
                continue
            if relative not in fixed:
                copy = os.path.join(scratch, "bundle", relative)
                os.makedirs(os.path.dirname(copy), exist_ok=True)
                path = shutil.copy2(path, copy)
            parts.files[f"bundles/{saved.tag}/{relative}"] = path


def _write_state(folder: str, described: Cluster, state: State, kept: dict[str, str]) -> None:
    """A state of members that never ran: what an import needs to know of the layers."""
    made = State(replace(described, directory=folder))
    made.members = {member.name: MemberState(layers=state.member(member.name).layers)
                    for member in described.members}
    made.images = {path: state.images[path] for path in kept.values() if path in state.images}
    made.save()


def _head(state: State, saved: Bundle, described: Cluster, files: dict[str, str], parts: _Parts
          ) -> Head:
    entries = [Entry(name, os.stat(path).st_size, allocated(os.path.realpath(path)))
               for name, path in files.items()]
    return Head(archive.FORMAT, archive.VERSION, saved.tag, state.cluster.name,
                [member.name for member in described.members], entries,
                [Image(name, path) for path, name in parts.images.items()], parts.left)
