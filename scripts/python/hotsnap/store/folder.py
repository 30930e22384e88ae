# SPDX-License-Identifier: GPL-2.0-or-later
"""A store in a folder of this host, which may be a mounted one.

    store.json                whose it is (ledger.py)
    snapshots/TAG.json        one for each whole snapshot
    layers/MEMBER-DISK-N.qcow2  what was sent; over another one or a golden image, named relatively
    golden/N.qcow2            golden images, each as one file
    *.sums                    the checksums of the file beside it
    merge.json                layers that are being joined (join.py)
    unfinished.json           files that are to be part of a snapshot (unfinished.py)
    lock                      held (flock) by the command that works on it

A file is whole and durable before a snapshot names it, and no snapshot names it when it goes. What
no snapshot needs and unfinished.json does not list is removed by begin(): a command that was killed
has left it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator

from ..errors import HotsnapError
from ..formats import qcow2, sums
from ..host import atomic
from ..host.space import allocated, allocated_below
from ..model.golden import GoldenImage
from ..qemu import binaries
from . import join, ledger, transfer
from .ledger import Description, Identity, Shipped, StoreError
from .target import Busy, Layer, Sent, Target, Tell
from .unfinished import Unfinished, key

_OWN = {"store.json", "snapshots", "layers", "golden", "merge.json", "unfinished.json",
        "lock"}
_OF_FILE_SYSTEM = {"lost+found"}


class Folder(Target):
    def __init__(self, path: str, image_tool: str):
        self.where = os.path.realpath(path)
        self.image_tool = image_tool
        self.description: Description | None = None
        self.unfinished = Unfinished(self._path("unfinished.json"))

    def _path(self, *names: str) -> str:
        return os.path.join(self.where, *names)

    @property
    def _file(self) -> str:
        return self._path("store.json")

    # Whose it is

    @contextlib.contextmanager
    def locked(self, shared: bool = False) -> Iterator[None]:
        if not os.path.exists(self._file):
            self._check_empty(not shared)
        # A store that can only be read is locked by nobody, and changed by nobody.
        try:
            handle = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            if not shared:
                raise
            yield
            return
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise Busy(f"another 'hotsnap ship' works on {self.where}: wait until it has ended"
                       ) from error
        try:
            yield
        finally:
            os.close(handle)

    def _check_empty(self, to_be_made: bool) -> None:
        """Before anything is made in a folder that is no store."""
        if not os.path.isdir(self.where):
            raise StoreError(f"there is no folder {self.where}: make it, or mount it")
        if not to_be_made:
            raise StoreError(f"{self.where} is no store: 'hotsnap ship --group NAME' makes one")
        foreign = set(os.listdir(self.where)) - _OWN - _OF_FILE_SYSTEM
        if any(not name.startswith(".store.json.") for name in foreign):
            raise StoreError(f"{self.where} is no store, and not empty: name an empty folder")

    def begin(self, source: str, cluster: str, group: str, anew: bool) -> None:
        try:
            found = ledger.read(self._file, Description)
        except FileNotFoundError:
            if not anew:
                raise StoreError(
                    f"{self.where} was a store, and has no store.json now: mount it; or begin anew "
                    "there with --new, which sends all that the disks hold") from None
            found = Description(ledger.STORE, ledger.VERSION, source, cluster, group)
            for name in ("snapshots", "layers", "golden"):
                os.makedirs(self._path(name), mode=0o700, exist_ok=True)
            ledger.write(self._file, found)
        if (found.source, found.group) != (source, group):
            other = f"cluster {found.cluster!r}" + (
                ", in another folder," if found.source != source and found.cluster == cluster
                else "")
            raise StoreError(f"{self.where} is the store of group {found.group!r} of {other} and "
                             f"not of group {group!r} of {cluster!r}: name another folder")
        self.description = found
        join.recover(self.where, self.image_tool)
        self._sweep()

    def _known(self) -> Description:
        if self.description is None:
            try:
                self.description = ledger.read(self._file, Description)
            except FileNotFoundError:
                self._check_empty(to_be_made=False)
                raise
        return self.description

    def owner(self) -> tuple[str, str]:
        return self._known().cluster, self._known().group

    def size(self) -> int:
        return allocated_below(self.where)

    # What is there

    def snapshots(self) -> list[Shipped]:
        self._known()
        found = []
        for path in join.manifests(self.where):
            with contextlib.suppress(FileNotFoundError):  # it was dropped just now
                found.append(ledger.read(path, Shipped))
        return sorted(found, key=Shipped.order)

    def dropped(self) -> list[Identity]:
        return self._known().dropped

    def forget(self, there: Iterable[Identity]) -> None:
        there = list(there)
        self._set_dropped([one for one in self.dropped() if one in there])

    def _set_dropped(self, dropped: list[Identity]) -> None:
        known = self._known()
        if known.dropped != dropped:
            known.dropped = dropped
            ledger.write(self._file, known)

    def _chain(self, file: str) -> list[str]:
        """Paths, topmost first; the last may be a golden image."""
        return qcow2.chain(self._path("layers", file))

    def _sweep(self) -> None:
        """Removes what no snapshot needs. StoreError if one is damaged: its needs are unknown."""
        needed = {path for one in self.snapshots() for disk in one.disks
                  for path in self._chain(disk.file)}
        for path in self.unfinished.settle(self.where, needed):
            needed.update(qcow2.chain(path))
        for folder in ("layers", "golden"):
            gone = False
            for name in sorted(os.listdir(self._path(folder))):
                path = self._path(folder, name)
                if path.removesuffix(".sums") not in needed:
                    os.unlink(path)
                    gone = True
            if gone:
                atomic.sync_folder(self._path(folder))
        for folder in ("snapshots", ""):
            for name in os.listdir(self._path(folder)):
                if name.startswith(".") and name.endswith(".new"):  # of atomic.write_bytes
                    os.unlink(self._path(folder, name))
        known = self._known()
        left = {name: image for name, image in known.golden.items()
                if self._path("golden", name) in needed}
        if left != known.golden:
            known.golden = left
            ledger.write(self._file, known)

    # Sending

    def send_golden(self, image: GoldenImage, image_format: str) -> Sent:
        known = self._known()
        for name, one in known.golden.items():
            if one == image:
                return Sent(os.path.join("..", "golden", name), 0)
        name = f"{1 + max((int(n.split('.')[0]) for n in known.golden), default=0)}.qcow2"
        path = self._path("golden", name)
        binaries.create_copy(self.image_tool, path, image.image, image_format)
        self._same(path, image.image, image_format)
        if not image.same(GoldenImage.of(image.image)):
            raise StoreError(f"golden image {image.image} changed while it was sent: nothing was "
                             "shipped")
        sums.write(path, path + ".sums")
        known.golden[name] = image
        ledger.write(self._file, known)
        self.unfinished.note(f"golden image {name}", os.path.join("golden", name))
        return Sent(os.path.join("..", "golden", name), allocated(path))

    def _same(self, made: str, origin: str, image_format: str) -> None:
        try:
            binaries.run_img(self.image_tool, "compare", "-q", "-U", "-f", "qcow2", "-F",
                             image_format, made, origin)
        except HotsnapError as error:
            raise StoreError(f"{made} was written, and reads otherwise than {origin}: the storage "
                             f"below it is faulty ({error})") from error

    def _new(self, stem: str) -> str:
        """A path in layers/ that no file has."""
        number = 1
        while os.path.lexists(self._path("layers", f"{stem}-{number}.qcow2")):
            number += 1
        return self._path("layers", f"{stem}-{number}.qcow2")

    def send_layer(self, layer: Layer, stem: str, below: str | None, tell: Tell) -> Sent:
        there = self.unfinished.find(key(layer, below))
        if there:
            return Sent(os.path.basename(there), 0)
        path = self._new(stem)
        with atomic.whole(path) as new:
            known = transfer.copy(layer, new, tell)
            if below:
                binaries.run_img(self.image_tool, "rebase", "-u", "-f", "qcow2", "-F", "qcow2",
                                 "-b", below, new)
            # The header alone has changed, so what was compared stays compared.
            sums.refresh(new, known, path + ".sums", qcow2.cluster_size(new) if below else 0)
        done = self._sent(path)
        self.unfinished.note(key(layer, below), os.path.join("layers", done.file))
        return done

    def send_difference(self, head: str, stem: str, below: str) -> Sent:
        path = self._new(stem)
        with atomic.whole(path) as new:
            binaries.run_img(self.image_tool, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
                             head, new)
            binaries.run_img(self.image_tool, "rebase", "-q", "-f", "qcow2", "-F", "qcow2",
                             "-b", below, new)
            self._same(new, head, "qcow2")
            sums.write(new, path + ".sums")
        return self._sent(path)

    @staticmethod
    def _sent(path: str) -> Sent:
        return Sent(os.path.basename(path), allocated(path))

    def publish(self, shipped: Shipped, manifest: dict[str, object]) -> None:
        path = self._path("snapshots", shipped.tag + ".json")
        atomic.write_json(path, {**shipped.dump(), "manifest": manifest})
        self.unfinished.clear()

    def keep(self, count: int) -> list[str]:
        self.unfinished.clear()
        old = self.snapshots()[:-count]
        for one in old:
            # The note comes first: else the snapshot would be sent again.
            if one.identity() not in self.dropped():
                self._set_dropped([*self.dropped(), one.identity()])
            os.unlink(self._path("snapshots", one.tag + ".json"))
        if old:
            atomic.sync_folder(self._path("snapshots"))
        self._sweep()
        join.tidy(self.where, self.image_tool, count)
        return [one.tag for one in old]

    # Reading

    def damage(self, tag: str | None) -> list[str]:
        if tag and all(one.tag != tag for one in self.snapshots()):
            raise StoreError(f"{self.where} has no snapshot {tag!r}: 'hotsnap ship --list "
                             f"{self.where}' lists them")
        found, looked = [], set()
        joined = join.under_way(self.where)
        for one in self.snapshots():
            if tag not in (None, one.tag):
                continue
            for disk in one.disks:
                try:
                    chain = self._chain(disk.file)
                except (HotsnapError, OSError) as error:
                    found.append(f"{one.tag}: {disk.member}:{disk.disk}: {error}")
                    continue
                for path in chain:
                    # While layers are joined the lowest changes, and those of the run hide it.
                    if path not in looked and path not in joined:
                        found += self._damage(path)
                    looked.add(path)
        return found

    @staticmethod
    def _damage(path: str) -> list[str]:
        try:
            at = transfer.difference(path, sums.read(path + ".sums"))
        except (HotsnapError, OSError) as error:
            return [str(error)]
        return [] if at is None else [f"{path} is damaged at offset {at:#x}"]

    def take(self, tag: str, folder: str) -> list[str]:
        found = self.damage(tag)
        if found:
            raise StoreError(f"snapshot {tag!r} of {self.where} is damaged: {found[0]}: nothing was "
                             "taken")
        one = next(each for each in self.snapshots() if each.tag == tag)
        partial = folder.rstrip(os.sep) + ".partial"
        for path in (folder, partial):
            if os.path.lexists(path):
                raise StoreError(f"{path} exists: name another folder, or remove it")
        os.mkdir(partial, 0o700)
        try:
            names = []
            for disk in one.disks:
                names.append(f"{disk.member}-{disk.disk}.qcow2")
                binaries.create_copy(self.image_tool, os.path.join(partial, names[-1]),
                                     self._path("layers", disk.file), "qcow2")
            atomic.write_json(os.path.join(partial, "snapshot.json"), one.dump())
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        atomic.sync_folder(os.path.dirname(os.path.abspath(folder)))
        return names
