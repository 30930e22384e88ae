# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps of 'hotsnap every' that change something: one snapshot, one removal, and the end of
either after a command that was killed.

every.json says what is about to be done before it is done. What a killed command has left:

    pending, and the bundle is there      the snapshot went on without its command: it is taken over
    pending, and a member is in an epoch  it goes on still, and is waited for
    pending, else                         it was undone; what is left of TAG.partial is removed
    removing, and the bundle is there     nothing was done yet: the next choice of bundles decides
    removing, else                        the rest of TAG.partial goes, and layers are joined

The caller of each function holds the cluster's lock, and writes every.json afterwards.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any

from ..disks import survey
from ..errors import HotsnapError, Interrupted
from ..model import bundle, series, series_state
from ..model.series_state import Made, Pending, SeriesState
from ..model.state import State
from ..qemu import jobs
from ..qemu.fleet import Fleet
from ..ui.output import say
from . import listing, snapshot


@dataclass(frozen=True)
class Wanted:
    """How the snapshots of a series are taken: as 'hotsnap snapshot' takes them."""

    prefix: str
    initiator: str | None = None
    timeout: float | None = None
    quiet: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    group: str | None = None  # its disks only; None: the whole cluster


@dataclass(frozen=True)
class Removed:
    tag: str
    deleted: int = 0  # disk layers
    merged: int = 0


def check_rest(fleet: Fleet, initiator: str | None = None) -> None:
    """Raises survey.Busy if a snapshot is under way or is being undone; `initiator` is asked for
    its job as well, which lasts from before the epoch until after it."""
    for name in fleet.running_names():
        if name == initiator:
            with fleet.qmp(name) as qmp:
                job = jobs.find(qmp, snapshot.SNAPSHOT_JOB)
                if job is not None and job["status"] != "concluded":
                    raise survey.Busy("a snapshot whose command was killed is still under way")
        with fleet.monitor(name) as qmp:
            survey.check_rest(fleet, name, qmp)


def take(record: SeriesState, state: State, fleet: Fleet, wanted: Wanted, slot: int) -> Made:
    """Takes the snapshot of a slot; survey.Busy if that cannot be begun now. None is pending."""
    check_rest(fleet)

    def exists(tag: str) -> bool:
        path = os.path.join(state.bundles, tag)
        return os.path.lexists(path) or os.path.lexists(path + bundle.PARTIAL)

    initiator = wanted.initiator or fleet.names()[0]
    tag = series.new_tag(wanted.prefix, slot, exists)
    record.pending = Pending(tag, slot, initiator)
    series_state.write(state.series, record)
    try:
        snapshot.snapshot(state, fleet, tag, initiator, wanted.timeout, wanted.quiet,
                          wanted.group, **wanted.options)
    except BaseException as error:
        # The bundle may be there: the cancel came too late, or the initiator ended after it.
        with contextlib.suppress(HotsnapError, OSError):
            taken = settle_pending(record, state, fleet)
            if taken and isinstance(error, HotsnapError) and not isinstance(error, Interrupted):
                say(f"hotsnap: {error}")
                return taken
        raise
    taken = settle_pending(record, state, fleet)
    if taken is None:
        raise HotsnapError(f"snapshot {tag!r} was removed as soon as it was taken")
    return taken


def settle_pending(record: SeriesState, state: State, fleet: Fleet) -> Made | None:
    """Brings the snapshot that is noted as pending to its end; returns it if it is complete.
    survey.Busy if it is still under way. What is damaged is left as it is, and is not one of the
    series: it is no reason to take no more snapshots."""
    pending = record.pending
    if pending is None:
        return None
    path = os.path.join(state.bundles, pending.tag)
    made = None
    if not os.path.lexists(path):
        check_rest(fleet, pending.initiator)
    try:
        if os.path.lexists(path):  # perhaps since a moment ago
            found = bundle.read(path)
            manifest = found.manifest
            made = Made(pending.tag, pending.slot, manifest.created, manifest.epoch,
                        found.instant())
            record.made.append(made)
            record.last_success, record.settled = made, max(record.settled or 0, made.slot)
            record.taken += 1
            record.missed -= pending.missed
        elif os.path.lexists(path + bundle.PARTIAL):
            listing.rm(state, fleet, pending.tag + bundle.PARTIAL, quiet=True)
    except (Interrupted, survey.Busy):
        raise
    except HotsnapError as error:
        say(f"hotsnap: {pending.tag} is left as it is: {error}")
    record.pending = None
    return made


def settle_removal(record: SeriesState, state: State, fleet: Fleet) -> Removed | None:
    """Brings the removal that a killed command had begun to its end."""
    tag = record.removing
    if tag is None:
        return None
    path = os.path.join(state.bundles, tag)
    done = None
    if not os.path.lexists(path):
        if os.path.lexists(path + bundle.PARTIAL):
            done = listing.rm(state, fleet, tag + bundle.PARTIAL, quiet=True)
        else:
            done = listing.join_layers(state, fleet, quiet=True)
    return _removed(record, tag, done)


def remove(record: SeriesState, state: State, fleet: Fleet, entry: Made) -> Removed | None:
    """Removes a snapshot of the series, and joins the layers that only it needed. None if it is not
    there any more, or is another one: that is forgotten, and not touched."""
    path = os.path.join(state.bundles, entry.tag)
    if not os.path.lexists(path) or not entry.is_that(bundle.read(path)):
        record.forget([entry.tag])
        return None
    record.removing = entry.tag
    series_state.write(state.series, record)
    try:
        done = listing.rm(state, fleet, entry.tag, quiet=True)
    except BaseException:
        if os.path.lexists(path):  # nothing was done
            record.removing = None
        raise
    return _removed(record, entry.tag, done)


def _removed(record: SeriesState, tag: str, done: dict[str, Any] | None) -> Removed | None:
    """Notes that a removal has ended; `done` is None if it had not begun."""
    record.removing = None
    if done is None:
        return None
    record.forget([tag])
    record.pruned += 1
    if done["remark"]:
        say(f"hotsnap: {done['remark']}")
    return Removed(tag, len(done["deleted"]), sum(len(m["removed"]) for m in done["merged"]))
