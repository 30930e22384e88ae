# SPDX-License-Identifier: GPL-2.0-or-later
"""What a second store can do, whatever it lies on: one class for each kind, in a module of its own.

A snapshot is in the store once publish() has returned, and in no part before. Whatever else ends at
any instant, the store holds the snapshots that were published. All that changes something is called
between locked() and its end.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..errors import HotsnapError
from ..formats.sums import Sums
from ..model.golden import GoldenImage
from .ledger import Identity, Shipped

Tell = Callable[[int], None]  # bytes that were done since the last call


class Busy(HotsnapError):
    """Another command works on the store."""


class SourceDamaged(HotsnapError):
    """A layer at the source is not what its checksums say; later snapshots may be whole."""


@dataclass(frozen=True)
class Layer:
    """A frozen layer at the source."""

    path: str
    sums: Sums | None  # None: no bundle names it, so nobody knows its checksums


@dataclass(frozen=True)
class Sent:
    file: str   # in the store
    bytes: int


class Target(abc.ABC):
    """A store. Methods raise StoreError, OSError of the store's medium, SourceDamaged."""

    where: str

    @abc.abstractmethod
    def locked(self, shared: bool = False) -> AbstractContextManager[None]:
        """Busy if another command has the lock; several may share it to read."""

    @abc.abstractmethod
    def begin(self, source: str, cluster: str, group: str, anew: bool) -> None:
        """Makes the store if it is none yet and `anew`; refuses another cluster's. Finishes or
        removes what a command that was killed has left behind."""

    @abc.abstractmethod
    def owner(self) -> tuple[str, str]:
        """The names of the cluster and of the group."""

    @abc.abstractmethod
    def size(self) -> int:
        """The space that it takes, in bytes."""

    @abc.abstractmethod
    def snapshots(self) -> list[Shipped]:
        """Those that are whole, oldest first."""

    @abc.abstractmethod
    def dropped(self) -> list[Identity]:
        """Those that keep() has dropped, unless forget() was told that the source has them no
        more."""

    @abc.abstractmethod
    def forget(self, there: Iterable[Identity]) -> None:
        """Of the dropped ones, the source has only these still."""

    @abc.abstractmethod
    def send_golden(self, image: GoldenImage, image_format: str) -> Sent:
        """The content of a golden image as one file; sends nothing if the store has it."""

    @abc.abstractmethod
    def send_layer(self, layer: Layer, stem: str, below: str | None, tell: Tell) -> Sent:
        """A copy of a layer that lies over the store's file `below`, whose content is the same as
        that of what the layer lies over. `stem` begins its name. Nothing is sent if a run that was
        cut short has made that copy."""

    @abc.abstractmethod
    def send_difference(self, head: str, stem: str, below: str) -> Sent:
        """A file over `below` with what the source's disk, whose topmost layer is `head`, holds
        otherwise than that: both are read."""

    @abc.abstractmethod
    def publish(self, shipped: Shipped, manifest: dict[str, object]) -> None:
        """The snapshot is whole: its files are durable, and it appears."""

    @abc.abstractmethod
    def keep(self, count: int) -> list[str]:
        """Drops all but the newest `count` snapshots; returns the tags of those."""

    @abc.abstractmethod
    def damage(self, tag: str | None) -> list[str]:
        """What is damaged of one snapshot's files, or of all files."""

    @abc.abstractmethod
    def take(self, tag: str, folder: str) -> list[str]:
        """Makes the folder, with a file for each disk of the snapshot that needs no other; returns
        their names."""
