# SPDX-License-Identifier: GPL-2.0-or-later
"""merge.json: the journal of a merge of disk layers, which is there from before its first step
until after its last."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from ..errors import HotsnapError
from ..host.atomic import write_json
from ..record import Malformed, Record
from .layers import Merge

BEGUN = "begun"            # the layer on top counts
FINALIZING = "finalizing"  # the lower one counts, and a QEMU may still hold both
COMMITTED = "committed"    # the lower one counts, and nothing uses the others


@dataclass
class Entry(Record):
    """The merge (see layers.Merge), and how far it has come."""

    base: str
    removed: list[str]
    above: list[str]
    stage: str

    def merge(self) -> Merge:
        """The merge, its paths with all links resolved."""
        return Merge(os.path.realpath(self.base), tuple(map(os.path.realpath, self.removed)),
                     tuple(map(os.path.realpath, self.above)))


def read(path: str) -> Entry | None:
    """None if no merge is under way."""
    try:
        with open(path, encoding="utf-8") as stream:
            return Entry.parse(json.load(stream), path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, Malformed) as error:
        raise HotsnapError(f"cannot read {path}, the journal of a merge of disk layers: {error}"
                           ) from error


def write(path: str, merge: Merge, stage: str) -> None:
    write_json(path, Entry(merge.base, list(merge.removed), list(merge.above), stage).dump())
