# SPDX-License-Identifier: GPL-2.0-or-later
"""ship.json in the cluster's folder: an id, by which stores know whose they are, and the stores
that were filled from here."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field

from ..errors import HotsnapError
from ..host.atomic import write_json
from ..record import Malformed, Record
from .state import State

VERSION = 1


@dataclass
class Source(Record):
    version: int
    id: str
    stores: list[str] = field(default_factory=list)  # as Target.where names them


def load(state: State) -> Source:
    """Made at the first use. The caller holds the cluster's lock."""
    try:
        with open(state.shipping, encoding="utf-8") as stream:
            found = Source.parse(json.load(stream), state.shipping)
    except FileNotFoundError:
        found = Source(VERSION, str(uuid.uuid4()))
        write_json(state.shipping, found.dump())
    except (OSError, ValueError, Malformed) as error:
        raise HotsnapError(f"cannot read {state.shipping}: {error}: put it back; stores know the "
                           "cluster by it") from error
    if found.version != VERSION:
        raise HotsnapError(f"{state.shipping} has version {found.version}, this program knows "
                           f"{VERSION}: use the program that wrote it")
    return found


def note_store(state: State, found: Source, where: str) -> None:
    if where not in found.stores:
        found.stores.append(where)
        write_json(state.shipping, found.dump())
