# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster's folder on the host, and what is known of its members between commands.

    state.json                what this module keeps: which members run, on which disk files
    lock                      held (flock) by the one command that changes anything
    run/MEMBER.{qmp,mon,hs}   sockets, for as long as the member runs
    members/MEMBER/           serial.log, qemu.log, and the disk layers
    bundles/TAG/              snapshots (docs/formats/bundle.md)
    merge.json                a merge of layers that is under way, see merge.py
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from ..disks import layers
from ..host.atomic import write_json
from .cluster import Cluster
from ..errors import HotsnapError
from ..qemu.machine import Paths

VERSION = 1
MAX_SOCKET_PATH = 107  # sun_path, less its final NUL


class State:
    """state.json in memory. `members` maps a name to:

    `process`  pid, start (clock ticks, so that a pid used again is not taken for ours), boot; or
               None when it was taken down
    `disks`    disk id to the file that it writes to, of every disk that is not read-only
    `argv`     its command line
    `since`    seconds since 1970 when it was started

    `images` maps a layer that lies over a golden image to the `image`, and to its `size` and
    `mtime_ns` when the layer was made. Merges keep the lowest layer's name.

    `restoring` is there while a restore is under way, see recovery.py.
    """

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.directory = cluster.directory
        self.members: dict[str, dict[str, Any]] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.restoring: dict[str, Any] | None = None
        self.load()

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

    def member_folder(self, name: str) -> str:
        return os.path.join(self.directory, "members", name)

    def paths(self, name: str) -> Paths:
        run = os.path.join(self.directory, "run", name)
        return Paths(qmp=run + ".qmp", monitor=run + ".mon", listen=run + ".hs",
                     serial=os.path.join(self.member_folder(name), "serial.log"),
                     pidfile=run + ".pid")

    def address(self, name: str) -> str:
        return "unix:" + self.paths(name).listen

    def new_layer(self, member: str, disk: str) -> str:
        """A file name for a disk layer that no layer has had since the folder was made."""
        folder = os.path.realpath(self.member_folder(member))
        self.members.setdefault(member, {})
        number = self.members[member].get("layers", 0)
        while True:
            number += 1
            path = os.path.join(folder, f"{disk}-{number}.qcow2")
            if not os.path.lexists(path):
                self.members[member]["layers"] = number
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
        if kept.get("version") != VERSION:
            raise HotsnapError(f"{self.file} has version {kept.get('version')}, this program "
                               f"knows {VERSION}: use the program that wrote it")
        self.members, self.restoring = kept["members"], kept.get("restoring")
        for entry in self.members.values():
            for disk, path in entry.get("disks", {}).items():
                entry["disks"][disk] = os.path.realpath(path)
            for disk, paths in entry.get("below", {}).items():
                entry["below"][disk] = [os.path.realpath(path) for path in paths]
        self.images = {os.path.realpath(p): image for p, image in kept.get("images", {}).items()}

    def save(self) -> None:
        kept = {"version": VERSION, "cluster": self.cluster.name, "members": self.members,
                "images": self.images}
        if self.restoring:
            kept["restoring"] = self.restoring
        write_json(self.file, kept)

    # Golden images

    def note_image(self, layer: str, image: str) -> None:
        found = os.stat(image)
        self.images[layer] = {"image": image, "size": found.st_size, "mtime_ns": found.st_mtime_ns}

    def forget_images(self) -> None:
        """Of layers that are gone."""
        self.images = {p: kept for p, kept in self.images.items() if os.path.lexists(p)}

    def check_images(self, files: Iterable[str]) -> None:
        """Refuse layers whose golden image is not what it was: the guest would read nonsense."""
        for file in files:
            for layer in layers.chain(file):
                if layer in self.images:
                    self._check_image(layer, **self.images[layer])

    @staticmethod
    def _check_image(layer: str, image: str, size: int, mtime_ns: int) -> None:
        found = os.stat(image)
        if (found.st_size, found.st_mtime_ns) != (size, mtime_ns):
            seconds, rest = divmod(mtime_ns, 10**9)
            raise HotsnapError(
                f"golden image {image} was changed since {layer} was made over it: put it back, or "
                "start over with 'hotsnap up --fresh'; if only its time changed, 'touch -d "
                f"@{seconds}.{rest:09d}' sets it back")

    def make_folders(self) -> None:
        for path in (os.path.join(self.directory, "run"), self.bundles,
                     *(self.member_folder(m.name) for m in self.cluster.members)):
            os.makedirs(path, mode=0o700, exist_ok=True)
        for member in self.cluster.members:
            for path in self.paths(member.name).__dict__.values():
                if len(os.fsencode(path)) > MAX_SOCKET_PATH:
                    raise HotsnapError(
                        f"{path} is too long for a socket ({MAX_SOCKET_PATH} bytes): set "
                        "'directory' in [cluster] to a shorter path")

    @contextlib.contextmanager
    def locked(self) -> Iterator[State]:
        """For commands that change something: one at a time, and with the state as it is now."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        with open(os.path.join(self.directory, "lock"), "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HotsnapError(f"another command works on cluster {self.cluster.name!r}: wait "
                                   "until it has ended") from error
            self.load()
            yield self
