# SPDX-License-Identifier: GPL-2.0-or-later
"""ship: sends the snapshots of a group to a second store, each as one.

The cluster's lock is held only while the next snapshot is chosen and its layers are pinned
(model/reading.py), so that other commands go on while these are sent. The store's lock is held until
nothing is left to be sent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..disks import survey
from ..errors import HotsnapError, Interrupted
from ..host.clock import Clock
from ..model import bundle, groups, reading, source
from ..model.bundle import Bundle
from ..model.series import utc
from ..model.state import Locked, State
from ..qemu.fleet import Fleet
from ..store import ledger, plan, target
from ..store.ledger import Identity, Shipped
from ..store.plan import Plan
from ..store.target import Target
from ..ui.events import Events
from ..ui.output import Progress, human_seconds, human_size
from . import recovery

POLL = 0.5    # seconds between two attempts to get a lock
LOOK = 1.0    # with --follow: between two looks for new snapshots
AGAIN = 10.0  # the same, after a failure

Open = Callable[[], tuple[State, Fleet]]
Result = TypeVar("Result")


@dataclass
class Round:
    """What one look for new snapshots has brought."""

    shipped: list[Shipped] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # one text for each snapshot
    newest: Shipped | None = None  # in the store


class Ship:
    def __init__(self, group: str, where: Target, open_cluster: Open, keep: int | None = None,
                 new: bool = False, as_json: bool = False, quiet: bool = True,
                 clock: Clock | None = None):
        self.group, self.target, self.open_cluster = group, where, open_cluster
        self.keep, self.new, self.quiet = keep, new, quiet
        self.clock = clock or Clock()
        self.events = Events(as_json, lambda: utc(self.clock.wall()))

    # Once, and again and again

    def once(self) -> Round:
        """Ships what there is. HotsnapError if the store cannot be used or written; it holds what
        it held before, and what was shipped since."""
        done = Round()
        try:
            with self.target.locked():
                self._begin()
                self._ship_all(done)
                if self.keep:
                    for tag in self.target.keep(self.keep):
                        self.events.tell("dropped", f"dropped {tag} from the store", tag=tag)
                done.newest = self._newest()
        except OSError as error:
            raise HotsnapError(
                f"{error.filename or self.target.where}: {error.strerror}: the snapshots in the "
                f"store {self.target.where} are as they were; the next 'hotsnap ship' goes on"
            ) from error
        return done

    def follow(self) -> None:
        """Ships each new snapshot, until a signal ends it. What fails is told, and tried again; but
        the first round has to reach the store."""
        now = self._bundles_of_now()
        failed = self._told(self.once())
        due = self.clock.steady() + AGAIN
        while True:
            self.clock.sleep(LOOK)
            seen, now = now, self._bundles_of_now()
            if now != seen or (failed and self.clock.steady() >= due):
                try:
                    failed = self._told(self.once())
                except Interrupted:
                    raise
                except HotsnapError as error:
                    failed = True
                    self.events.tell("failed", str(error), trouble=True, reason=str(error))
                due = self.clock.steady() + AGAIN

    def _told(self, done: Round) -> bool:
        """Whether a snapshot could not be shipped."""
        for text in done.failures:
            self.events.tell("failed", text, trouble=True, reason=text)
        return bool(done.failures)

    def _bundles_of_now(self) -> object:
        with contextlib.suppress(OSError, HotsnapError):
            return os.stat(self.open_cluster()[0].bundles).st_mtime_ns
        return None

    # One round

    def _begin(self) -> None:
        def begin(state: State, _: Fleet) -> None:
            if not groups.is_selector(self.group):
                groups.find(groups.load(state), self.group)
            known = source.load(state)
            new = self.new or self.target.where not in known.stores
            self.target.begin(known.id, state.cluster.name, self.group, new)
            source.note_store(state, known, self.target.where)

        self._when_free(begin)
        self.new = False

    def _ship_all(self, done: Round) -> None:
        failed: set[str] = set()
        while True:
            with contextlib.ExitStack() as stack:
                state, _ = self.open_cluster()
                held = stack.enter_context(reading.Reading(state, "ship"))
                chosen = self._when_free(
                    lambda state, fleet: self._choose(state, fleet, held, failed, done))
                if chosen is None:
                    return
                try:
                    self._send(chosen, done)
                except target.SourceDamaged as error:
                    failed.add(chosen.found.tag)
                    done.failures.append(f"{chosen.found.tag} was not shipped: {error}")

    def _choose(self, state: State, fleet: Fleet, held: reading.Reading, failed: set[str],
                done: Round) -> Plan | None:
        """The oldest snapshot that is to be sent; its layers are pinned. The caller holds the
        cluster's lock."""
        recovery.recover(state, fleet, quiet=True, tell=False)
        if state.restoring or os.path.exists(state.journal):
            raise HotsnapError("a merge of disk layers waits to be finished: 'hotsnap ls' shows "
                               "the snapshot that is damaged; nothing is shipped before")
        whole, damage = bundle.survey(state.bundles)
        done.failures += [str(error) for error in damage if str(error) not in done.failures]
        shipped, dropped = self.target.snapshots(), self.target.dropped()
        there = [Identity.of(one) for one in whole]
        self.target.forget(there)
        have = {one.tag: one.identity() for one in shipped}
        for found in sorted(whole, key=_order):
            identity = Identity.of(found)
            if (found.tag in failed or identity in dropped or have.get(found.tag) == identity
                    or not self._is_ours(state, found)):
                continue
            try:
                if found.tag in have:
                    raise HotsnapError(
                        f"the store has another snapshot of that tag, of "
                        f"{have[found.tag].created}: take it again by another tag")
                made = plan.make(state, survey.scan(state), found, whole, shipped, _note(found))
            except Interrupted:
                raise
            except (HotsnapError, OSError) as error:
                failed.add(found.tag)
                done.failures.append(f"{found.tag} was not shipped: {error}")
                continue
            held.set(made.layers())
            return made
        return None

    def _is_ours(self, state: State, found: Bundle) -> bool:
        """By its notes; a snapshot whose command was killed has none, and is the group's if it is
        of the same disks."""
        if not found.only_disks:
            return False
        with contextlib.suppress(HotsnapError):
            group = found.notes().group
            if group is not None:
                return group == self.group
        try:
            wanted = {(member, f"{disk.id}-dev") for member, disks
                      in groups.resolve(state, self.group).items() for disk in disks}
        except HotsnapError:
            return False
        return {(member.name, disk.device) for member, disk in found.layers()} == wanted

    def _send(self, chosen: Plan, done: Round) -> None:
        found = chosen.found
        began = self.clock.steady()
        progress = Progress(f"ship {found.tag}", self.quiet)
        tell, sent = progress.adder(chosen.bytes()), 0
        disks = []
        try:
            for disk in chosen.disks:
                shipped, count = plan.send(disk, self.target, tell)
                disks.append(shipped)
                sent += count
        finally:
            progress.clear()
        one = Shipped(ledger.SNAPSHOT, ledger.VERSION, **vars(Identity.of(found)), disks=disks,
                      shipped=self.clock.wall(), sent=sent, instant=found.instant(),
                      note=chosen.note)
        self.target.publish(one, found.manifest.dump())
        done.shipped.append(one)
        seconds = self.clock.steady() - began
        compared = any(disk.compared for disk in chosen.disks)
        self.events.tell(
            "shipped", f"shipped {one.tag}: {len(disks)} disks, {human_size(sent)} in "
            f"{seconds:.1f} s{', compared with what the store has' if compared else ''}; "
            f"{recovery_point(self._newest(), self.clock.wall())}", tag=one.tag, sent=sent,
            seconds=round(seconds, 3), compared=compared,
            **point(self._newest(), self.clock.wall()))

    def _newest(self) -> Shipped | None:
        found = self.target.snapshots()
        return found[-1] if found else None

    def _when_free(self, work: Callable[[State, Fleet], Result]) -> Result:
        """Does work under the cluster's lock, and waits for that as long as it takes."""
        told = False
        while True:
            state, fleet = self.open_cluster()
            try:
                with state.locked():
                    return work(state, fleet)
            except (Locked, survey.Busy) as error:
                if not told:
                    told = True
                    self.events.tell("waiting", f"waiting: {error}", trouble=True,
                                     reason=str(error))
            self.clock.sleep(POLL)


def _order(found: Bundle) -> tuple[float, str, int]:
    return found.instant() or 0.0, found.manifest.created, found.manifest.epoch


def _note(found: Bundle) -> str | None:
    with contextlib.suppress(HotsnapError):
        return found.notes().note
    return None


def point(newest: Shipped | None, now: float) -> dict[str, Any]:
    age = newest.age(now) if newest else None
    return {"newest": newest.tag if newest else None,
            "age_s": None if age is None else round(age, 3)}


def recovery_point(newest: Shipped | None, now: float) -> str:
    """In words: what a loss of the source would cost."""
    age = newest.age(now) if newest else None
    if newest is None:
        return "the store has no snapshot"
    return (f"recovery point: {newest.tag}" + ("" if age is None else
            f", {human_seconds(age)} ago"))
