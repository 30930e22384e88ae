# SPDX-License-Identifier: GPL-2.0-or-later
"""Which snapshot came from which: told by the disk layers, since a snapshot's frozen layers lie over
those of the snapshot that its cluster was restored from, or had taken before."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import HotsnapError
from ..formats import qcow2
from ..model.bundle import Bundle


def parents(bundles: Iterable[Bundle]) -> dict[str, str]:
    """Tag to the tag of the snapshot that it came from; a snapshot that began at the golden images,
    or whose layers are missing, has no entry."""
    bundles = list(bundles)
    owners: dict[str, str] = {}  # frozen layer to tag; of several the oldest has frozen it
    for found in sorted(bundles, key=lambda b: (b.manifest.created, b.manifest.epoch), reverse=True):
        owners.update({os.path.realpath(disk.file): found.tag for _, disk in found.layers()})
    result = {}
    for found in bundles:
        for _, disk in found.layers():
            parent = _below(disk.file, owners, found.tag)
            if parent:
                result[found.tag] = parent
                break
    return result


def _below(file: str, owners: dict[str, str], own: str) -> str | None:
    """The owner of the nearest layer under a file that is not the snapshot's own."""
    layer: str | None = os.path.realpath(file)
    seen = set()
    try:
        while layer and layer not in seen:
            if owners.get(layer, own) != own:
                return owners[layer]
            seen.add(layer)
            layer = qcow2.backing_file(layer)
    except (HotsnapError, OSError):
        pass  # the golden image, or a layer that is missing
    return None


def tree(tags: Iterable[str], parent: dict[str, str]) -> list[tuple[int, str]]:
    """All tags with their depths, each below its parent, in their order otherwise."""
    tags = list(tags)
    children: dict[str | None, list[str]] = {}
    for tag in tags:
        lower = parent.get(tag)
        children.setdefault(lower if lower in tags else None, []).append(tag)
    found = []
    waiting = [(0, tag) for tag in reversed(children.get(None, []))]
    while waiting:
        depth, tag = waiting.pop()
        found.append((depth, tag))
        waiting += [(depth + 1, child) for child in reversed(children.get(tag, []))]
    return found
