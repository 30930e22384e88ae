# SPDX-License-Identifier: GPL-2.0-or-later
"""unfinished.json of a store: files that are whole, of a snapshot that is not. A run that goes on
after another one was killed does not send them again.

A file is known by the checksums of the layer that it is a copy of, and by the store's file that it
lies over, which is kept for as long as it is listed: the same layer over the same file gives the
same again. Nothing is joined while anything is listed, since that would change files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container

from ..formats.sums import xxh3_64_intdigest
from ..host.atomic import write_json
from .target import Layer


def key(layer: Layer, below: str | None) -> str | None:
    """None of a layer without checksums, which nothing tells from another one."""
    if layer.sums is None:
        return None
    return f"{xxh3_64_intdigest(layer.sums.encode()):016x} over {below or 'nothing'}"


class Unfinished:
    def __init__(self, path: str):
        self.path = path

    def files(self) -> dict[str, str]:
        """Key to the file, relative to the store. What cannot be read is sent again."""
        try:
            with open(self.path, encoding="utf-8") as stream:
                found = json.load(stream)
        except (OSError, ValueError):
            return {}
        return {key: file for key, file in found.items() if isinstance(file, str)} \
            if isinstance(found, dict) else {}

    def find(self, of: str | None) -> str | None:
        return self.files().get(of) if of else None

    def note(self, of: str | None, file: str) -> None:
        if of:
            write_json(self.path, {**self.files(), of: file})

    def settle(self, store: str, needed: Container[str]) -> list[str]:
        """The paths that are still of no snapshot; the others are forgotten."""
        files = self.files()
        left = {of: file for of, file in files.items()
                if os.path.exists(os.path.join(store, file))
                and os.path.join(store, file) not in needed}
        if left:
            if left != files:
                write_json(self.path, left)
        else:
            self.clear()
        return [os.path.join(store, file) for file in left.values()]

    def clear(self) -> None:
        if os.path.exists(self.path):
            os.unlink(self.path)
