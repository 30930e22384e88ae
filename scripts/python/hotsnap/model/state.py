# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster's folder on the host, and what is known of its members between commands.

    state.json                what this module keeps: which members run, on which disk files
    lock                      held (flock) by the one command that changes anything
    run/MEMBER.{qmp,mon,hs,ga}  sockets, for as long as the member runs
    members/MEMBER/           serial.log, qemu.log, and the disk layers
    bundles/TAG/              snapshots (docs/formats/bundle.md)
    merge.json                a merge of layers that is under way, see disks/journal.py
    every.json, every.lock    the series of snapshots, see series_state.py; its command's own lock
    reading/                  layers that commands read without the lock, see reading.py
    ship.json                 the cluster's id for its second stores, see source.py
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..errors import HotsnapError
from ..formats import qcow2
from ..host.atomic import write_json
from ..host.process import Identity
from ..record import Record
from .cluster import Cluster
from .golden import GoldenImage

VERSION = 1
MAX_SOCKET_PATH = 107  # sun_path, less its final NUL


class Locked(HotsnapError):
    """Another command has the lock."""


@dataclass(frozen=True)
class Paths:
    """Files of one member that exist while it runs."""

    qmp: str      # commands and jobs: one client at a time
    monitor: str  # questions that must not wait for a job's client
    listen: str   # the member's own protocol
    agent: str    # the guest agent's port, of members that have one
    serial: str
    pidfile: str

    def all(self) -> tuple[str, ...]:
        return self.qmp, self.monitor, self.listen, self.agent, self.serial, self.pidfile


@dataclass
class MemberState(Record):
    """What is known of a member. Disks are those that are not read-only, by their ids."""

    process: Identity | None = None  # None before its first start, and when it was taken down
    disks: dict[str, str] = field(default_factory=dict)  # the file that each writes to
    below: dict[str, list[str]] = field(default_factory=dict)  # the layers under that file
    argv: list[str] = field(default_factory=list)
    accel: str | None = None
    since: float | None = None  # seconds since 1970 when it was started
    layers: int = 0  # the last number that a layer's name was made with
    devices: list[str] | None = None  # that it was started with, see qemu/inventory.py
    media: dict[str, GoldenImage] = field(default_factory=dict)  # that it reads only, then


@dataclass
class Restoring(Record):
    """A restore that is under way, see commands/recovery.py."""

    tag: str
    before: dict[str, dict[str, str]]  # member to disk id to the file that it wrote to
    made: dict[str, dict[str, str]]    # the same, of the new layers
    started: bool = False  # the new members are about to be started, and all old ones are ended
    undo: bool = False     # the restore is known to have failed


@dataclass
class _File(Record):
    """state.json."""

    version: int
    cluster: str
    members: dict[str, MemberState]
    images: dict[str, GoldenImage] = field(default_factory=dict)
    restoring: Restoring | None = None


class State:
    """state.json in memory: `members` by name; `images` by the lowest layer of a disk, which keeps
    its name in a merge; `restoring` while a restore is under way."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.directory = cluster.directory
        self.members: dict[str, MemberState] = {}
        self.images: dict[str, GoldenImage] = {}
        self.restoring: Restoring | None = None
        self.load()

    def member(self, name: str) -> MemberState:
        """The entry of a member, which the caller may change; it is empty before the first
        start."""
        return self.members.setdefault(name, MemberState())

    # Paths

    @property
    def file(self) -> str:
        return os.path.join(self.directory, "state.json")

    @property
    def bundles(self) -> str:
        return os.path.join(self.directory, "bundles")

    @property
    def journal(self) -> str:
        return os.path.join(self.directory, "merge.json")

    @property
    def series(self) -> str:
        return os.path.join(self.directory, "every.json")

    @property
    def shipping(self) -> str:
        return os.path.join(self.directory, "ship.json")

    def member_folder(self, name: str) -> str:
        return os.path.join(self.directory, "members", name)

    def paths(self, name: str) -> Paths:
        run = os.path.join(self.directory, "run", name)
        return Paths(qmp=run + ".qmp", monitor=run + ".mon", listen=run + ".hs",
                     agent=run + ".ga",
                     serial=os.path.join(self.member_folder(name), "serial.log"),
                     pidfile=run + ".pid")

    def address(self, name: str) -> str:
        return "unix:" + self.paths(name).listen

    def new_layer(self, member: str, disk: str) -> str:
        """A file name for a disk layer; no layer of this folder ever had it."""
        folder = os.path.realpath(self.member_folder(member))
        entry = self.member(member)
        number = entry.layers
        while True:
            number += 1
            path = os.path.join(folder, f"{disk}-{number}.qcow2")
            if not os.path.lexists(path):
                entry.layers = number
                return path

    # Keeping it

    def load(self) -> None:
        try:
            with open(self.file, encoding="utf-8") as stream:
                kept = json.load(stream)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise HotsnapError(f"cannot read {self.file}: {error}") from error
        version = kept.get("version") if isinstance(kept, dict) else None
        if version != VERSION:
            raise HotsnapError(f"{self.file} has version {version}, this program knows {VERSION}: "
                               "use the program that wrote it")
        file = _File.parse(kept, self.file)
        self.members, self.restoring = file.members, file.restoring
        for entry in self.members.values():
            entry.disks = {disk: os.path.realpath(path) for disk, path in entry.disks.items()}
            entry.below = {disk: [os.path.realpath(path) for path in paths]
                           for disk, paths in entry.below.items()}
        self.images = {os.path.realpath(path): image for path, image in file.images.items()}

    def save(self) -> None:
        write_json(self.file, _File(VERSION, self.cluster.name, self.members, self.images,
                                    self.restoring).dump())

    # Golden images

    def note_image(self, layer: str, image: str) -> None:
        self.images[layer] = GoldenImage.of(image)

    def forget_images(self) -> None:
        """Drops the entries of layers that were deleted."""
        self.images = {p: kept for p, kept in self.images.items() if os.path.lexists(p)}

    def check_images(self, files: Iterable[str]) -> None:
        """Refuses layers whose golden image was changed: the guest would read nonsense."""
        for file in files:
            for layer in qcow2.chain(file):
                if layer in self.images:
                    self._check_image(layer, self.images[layer])

    @staticmethod
    def _check_image(layer: str, kept: GoldenImage) -> None:
        try:
            same = kept.same(GoldenImage.of(kept.image))
        except OSError as error:
            raise HotsnapError(f"golden image {kept.image} of {layer} cannot be read: "
                               f"{error.strerror}: put it back, or start over with 'hotsnap up "
                               "--fresh'") from error
        if not same:
            raise HotsnapError(
                f"golden image {kept.image} was changed since {layer} was made over it: put it "
                "back, or start over with 'hotsnap up --fresh'"
                + ("" if kept.head else f"; if only its time changed, {kept.remedy()} sets it back"))

    def make_folders(self) -> None:
        for path in (os.path.join(self.directory, "run"), self.bundles,
                     *(self.member_folder(m.name) for m in self.cluster.members)):
            os.makedirs(path, mode=0o700, exist_ok=True)
        for member in self.cluster.members:
            for path in self.paths(member.name).all():
                if len(os.fsencode(path)) > MAX_SOCKET_PATH:
                    raise HotsnapError(
                        f"{path} is too long for a socket ({MAX_SOCKET_PATH} bytes): set "
                        "'directory' in [cluster] to a shorter path")

    @contextlib.contextmanager
    def locked(self) -> Iterator[State]:
        """For commands that change something: only one at a time runs. The state is read again,
        since an earlier command may have changed it."""
        with self._lock("lock", f"another command works on cluster {self.cluster.name!r}: wait "
                                "until it has ended"):
            self.load()
            yield self

    @contextlib.contextmanager
    def series_locked(self) -> Iterator[None]:
        """For the one command that takes regular snapshots. It has the other lock only while it
        changes something."""
        with self._lock("every.lock", "'hotsnap every' runs already for cluster "
                                      f"{self.cluster.name!r}: 'hotsnap every --status' tells as "
                                      "which process"):
            yield

    @contextlib.contextmanager
    def _lock(self, name: str, refusal: str) -> Iterator[None]:
        """The kernel drops the lock when the process ends, however it does."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        with open(os.path.join(self.directory, name), "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Locked(refusal) from error
            yield
