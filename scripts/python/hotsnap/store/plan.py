# SPDX-License-Identifier: GPL-2.0-or-later
"""What has to be sent of a disk, so that a store has a snapshot of it.

The source merges layers when snapshots are removed, so a layer of now may hold more than the one
that was sent. One thing stays as it was, whatever is merged: a snapshot names a layer, and with the
layers under it that holds what the disk held at the cut. So the store's file for a snapshot can
stand for the layer that the same snapshot names at the source now, and for nothing else; what lies
over that layer is what is missing. If the source has none of the store's snapshots any more under
the new one, the two are compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import HotsnapError
from ..disks import layers
from ..formats import qcow2, sums
from ..host.space import allocated
from ..model import bundle
from ..model.bundle import Bundle
from ..model.disk_table import id_of
from ..model.golden import GoldenImage
from ..model.state import State
from .ledger import Identity, Shipped, ShippedDisk
from .target import Layer, Target, Tell
from .transfer import check


@dataclass
class DiskPlan:
    """`send` is topmost first; it goes over `below`, a file of the store, or over a golden image, or
    is all that there is. With `compared` only what differs from `below` is sent, and `send` is what
    has to be read for it."""

    member: str
    disk: str
    device: str
    head: str  # the topmost layer at the source
    send: list[Layer]
    chain: list[str]  # all layers of the disk at the source
    below: str | None = None
    golden: GoldenImage | None = None
    golden_format: str = "raw"
    compared: bool = False


@dataclass
class Plan:
    found: Bundle
    note: str | None
    disks: list[DiskPlan] = field(default_factory=list)

    def layers(self) -> set[str]:
        return {path for disk in self.disks for path in disk.chain}

    def bytes(self) -> int:
        return sum(allocated(layer.path) for disk in self.disks for layer in disk.send)


def make(state: State, known: Mapping[str, str | None], found: Bundle, bundles: Iterable[Bundle],
         shipped: list[Shipped], note: str | None) -> Plan:
    """`known` are the layers at the source, `bundles` its snapshots, `shipped` those of the store.
    Checksums are read now, since a snapshot may be removed while it is sent. The caller holds the
    cluster's lock."""
    bundles = list(bundles)
    plan = Plan(found, note)
    for member, saved in found.layers():
        disk = id_of(saved.device)
        if disk is None or saved.format != "qcow2":
            raise HotsnapError(f"{found.tag}: the saved device {saved.device!r} of member "
                               f"{member.name} is not one that 'hotsnap up' has made: it cannot be "
                               "shipped")
        state.check_images([saved.file])
        plan.disks.append(_disk(state, known, (member.name, disk, saved.device),
                                os.path.realpath(saved.file), bundles, shipped))
    return plan


def _disk(state: State, known: Mapping[str, str | None], which: tuple[str, str, str], head: str,
          bundles: list[Bundle], shipped: list[Shipped]) -> DiskPlan:
    member, disk, device = which
    has = _stand_ins(member, disk, bundles, shipped)
    chain = layers.chain(known, head)
    if not chain:
        raise HotsnapError(f"disk layer {head} is missing: put the cluster's folder back where it "
                           "was")
    over = next((number for number, path in enumerate(chain) if path in has), len(chain))
    send = _with_sums(chain[:over], bundles)
    plan = DiskPlan(member, disk, device, head, send, chain)
    if over < len(chain):
        plan.below = has[chain[over]]
        return plan
    newest = [one.file for snapshot in reversed(shipped) for one in snapshot.disks
              if (one.member, one.disk) == (member, disk)]
    if newest:
        plan.below, plan.compared = newest[0], True
    elif (golden := known[chain[-1]]) is not None:
        plan.golden = state.images.get(chain[-1]) or GoldenImage.of(golden)
        plan.golden_format = qcow2.backing_format(chain[-1])
    return plan


def _stand_ins(member: str, disk: str, bundles: list[Bundle], shipped: list[Shipped]
               ) -> dict[str, str]:
    """Layer at the source to the file of the store that has the same content, with all below."""
    of_store = [(one.identity(), each.file) for one in shipped for each in one.disks
                if (each.member, each.disk) == (member, disk)]
    found: dict[str, str] = {}
    for one in bundles:
        identity = Identity.of(one)
        file = next((file for other, file in of_store if other == identity), None)
        for owner, saved in one.layers() if file else ():
            if file and (owner.name, id_of(saved.device)) == (member, disk):
                found[os.path.realpath(saved.file)] = file
    return found


def _with_sums(paths: list[str], bundles: list[Bundle]) -> list[Layer]:
    """A layer's checksums are in the snapshot that names it."""
    named = bundle.by_layer(reversed(bundles))
    found = []
    for path in paths:
        one, saved = named.get(path, (None, None))
        found.append(Layer(path, sums.read(one.file(saved.sums), saved.sums_xxh3)
                           if one and saved else None))
    return found


def send(plan: DiskPlan, target: Target, tell: Tell) -> tuple[ShippedDisk, int]:
    """Sends what is planned; returns the disk as the store has it, and the bytes written."""
    stem = f"{plan.member}-{plan.disk}"
    sent = 0
    below = plan.below
    if plan.compared:
        assert below
        for layer in plan.send:
            check(layer)
            tell(allocated(layer.path))
        done = target.send_difference(plan.head, stem, below)
        return ShippedDisk(plan.member, plan.disk, plan.device, done.file,
                           qcow2.virtual_size(plan.head)), done.bytes
    if plan.golden:
        done = target.send_golden(plan.golden, plan.golden_format)
        below, sent = done.file, done.bytes
    for layer in reversed(plan.send):
        done = target.send_layer(layer, stem, below, tell)
        below = done.file
        sent += done.bytes
    assert below
    return ShippedDisk(plan.member, plan.disk, plan.device, below,
                       qcow2.virtual_size(plan.head)), sent
