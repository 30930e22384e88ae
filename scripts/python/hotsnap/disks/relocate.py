# SPDX-License-Identifier: GPL-2.0-or-later
"""Adapts a cluster's folder that was moved, or copied, to the place where it is now.

Headers of layers, manifests and state.json name layers by absolute paths. A name that ends in
members/MEMBER/FILE is of the file that is there now. The state is saved last: until then a command
that was cut short is repeated by the next one, step by step, and each step can be repeated. Nothing
outside the folder is changed, so what was copied is as good as before.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping

from ..errors import HotsnapError
from ..formats import qcow2
from ..host import atomic, process
from ..model import bundle, reading, recoveries
from ..model.golden import GoldenImage
from ..model.state import State
from ..qemu import binaries
from ..ui.output import say
from . import layer_sums, layers
from .survey import Misplaced, folders


def relocate(state: State, golden: bool = True) -> None:
    """Does nothing in a folder that was not moved. HotsnapError if an image that layers lie over is
    not found, unless `golden` is False. The caller holds the lock."""
    before = _before(state)
    if before is None:
        return
    if state.restoring or os.path.exists(state.journal):
        raise Misplaced(f"the cluster's folder was {before}, and a restore or merge was under way: "
                        "put the cluster's folder back, run 'hotsnap down', and move it then")
    for name in recoveries.load(state.directory):
        raise Misplaced(f"the cluster's folder was {before}, and the disks of recovery {name!r} "
                        f"name layers there: run 'hotsnap recovery rm {name}', or put the folder "
                        "back if it was moved")
    if recoveries.read(state.directory):
        raise Misplaced(f"this recovery was in {before}, and its disks name layers beside that: "
                        "'hotsnap recovery rm' removes it; else put the cluster's folder back")
    alive = _alive(state)
    if alive:
        raise Misplaced(f"{alive} runs on the disks in {before}: run 'hotsnap down' there first; put "
                        "the cluster's folder back if it was moved")
    reading.refuse(state, f"the cluster's folder was {before}, and its disk layers cannot be adapted "
                          "now")
    images = _golden(state, layers.scan(folders(state)), golden)
    say(f"the cluster's folder was {before} and is {state.directory}: its disk layers are adapted")
    adapt(state, images)


def adapt(state: State, images: Mapping[str, GoldenImage]) -> None:
    """Makes layers, manifests and state name the files of this folder; `images`: lowest layer, as it
    is called here, to the golden image that it lies over from now on. Can be repeated."""
    changed = _rewrite_headers(state, layers.scan(folders(state)), images)
    _rewrite_bundles(state, changed)
    for entry in state.members.values():
        entry.disks = {disk: here(state, path) for disk, path in entry.disks.items()}
        entry.below = {disk: [here(state, path) for path in paths]
                       for disk, paths in entry.below.items()}
        entry.process = None
    state.images = {here(state, layer): images.get(here(state, layer), kept)
                    for layer, kept in state.images.items()}
    state.save()


def check_own(state: State) -> None:
    """Misplaced if the members that run are those of the folder that this one is a copy of: they
    are not to be ended from here."""
    before, alive = _before(state), _alive(state)
    if before and alive and os.path.exists(os.path.join(before, os.path.basename(state.file))):
        raise Misplaced(f"{alive} runs on the disks in {before}, of which {state.directory} is a "
                        "copy: run 'hotsnap down' there")


def _before(state: State) -> str | None:
    """The folder that the state names, if it is not this one."""
    old = next((path for entry in state.members.values() for path in entry.disks.values()
                if here(state, path) != path), None)
    return os.path.dirname(os.path.dirname(os.path.dirname(old))) if old else None


def _alive(state: State) -> str:
    return ", ".join(sorted(name for name, entry in state.members.items()
                            if process.alive(entry.process)))


def here(state: State, path: str) -> str:
    """The file of this folder that a path stands for, or the path itself."""
    parts = path.split(os.sep)
    if len(parts) < 3 or parts[-3] != "members":
        return path
    there = os.path.realpath(os.path.join(state.directory, *parts[-3:]))
    return there if os.path.exists(there) else path


def _golden(state: State, lower: Mapping[str, str | None], all_of_them: bool
            ) -> dict[str, GoldenImage]:
    """Lowest layer to its golden image: where the cluster file has it now, or where it was.
    HotsnapError if one is missing and `all_of_them` are needed; nothing is changed then."""
    found = {}
    kept = {here(state, layer): image for layer, image in state.images.items()}
    for layer in lower:
        if layer not in kept:
            continue
        image = kept[layer]
        for path in (_of_cluster_file(state, layer), image.image):
            if path and os.path.exists(path) and image.same(GoldenImage.of(path)):
                found[layer] = GoldenImage.of(path)
                break
        else:
            if all_of_them:
                raise HotsnapError(
                    f"golden image {image.image} of {layer} is not where it was, and the cluster "
                    f"file does not name it as it was: put it back ({image.describe()}); or start "
                    "over with 'hotsnap up --fresh'")
    return found


def _of_cluster_file(state: State, layer: str) -> str | None:
    name, disk = os.path.basename(os.path.dirname(layer)), os.path.basename(layer).split("-")[0]
    return next((d.image for member in state.cluster.members if member.name == name
                 for d in member.disks if d.id == disk), None)


def _rewrite_headers(state: State, lower: Mapping[str, str | None],
                     golden: Mapping[str, GoldenImage]) -> set[str]:
    """Returns the layers whose headers were changed."""
    changed = set()
    image_tool = binaries.qemu_img(state.cluster.qemu)
    for layer, below in sorted(lower.items()):
        if below is None:
            continue
        image = golden.get(layer)
        now = image.image if image else here(state, below)
        if now == below:
            continue
        binaries.run_img(image_tool, "rebase", "-u", "-f", "qcow2", "-F",
                         qcow2.backing_format(layer) if image else "qcow2", "-b", now, layer)
        atomic.sync_file(layer)
        changed.add(layer)
    return changed


def _rewrite_bundles(state: State, changed: Container[str]) -> None:
    whole, damaged = bundle.survey(state.bundles)
    for error in damaged:
        say(f"not adapted: {error}")
    for kept in whole:
        try:
            _rewrite(state, kept, changed)
        except HotsnapError as error:
            say(f"not adapted: {kept.path}: {error}; 'hotsnap rm {kept.tag}' removes it")


def _rewrite(state: State, kept: bundle.Bundle, changed: Container[str]) -> None:
    stale = []
    for _, disk in kept.layers():
        now = here(state, disk.file)
        if now != os.path.realpath(disk.file) or now in changed:
            disk.file, disk.overlay = now, here(state, disk.overlay)
            stale.append(layer_sums.renew(kept, disk, qcow2.cluster_size(now)))
    if stale:
        kept.save_manifest()
        for path in stale:
            os.unlink(path)
