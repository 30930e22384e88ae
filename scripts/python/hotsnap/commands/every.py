# SPDX-License-Identifier: GPL-2.0-or-later
"""every: regular snapshots, one a slot (model/series.py), and the removal of old ones.

The command has a lock of its own for as long as it runs, so that there is one series for a cluster,
and takes the cluster's lock for each snapshot and each removal. If another command has that lock,
the snapshot waits; when its slot ends, it is missed. What fails is told, counted, and does not end
the series.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ..disks import survey
from ..errors import EXIT_FAILED, HotsnapError, Interrupted
from ..host import process
from ..host.clock import Clock
from ..host.notify import notify
from ..model import bundle, recoveries, series, series_state
from ..model.series import Keep, Reading, Schedule, utc
from ..model.series_state import Made, SeriesState, Told
from ..model.state import Locked, State
from ..qemu.fleet import Fleet
from ..ui.events import Events
from ..ui.output import human_seconds
from . import series_work
from .series_work import Removed, Wanted

NAP = 10.0           # seconds; after that the wall clock is looked at again
POLL = 0.3           # between two attempts to get the cluster's lock
LEAST_PATIENCE = 5.0  # for the lock, when old snapshots are removed

Result = TypeVar("Result")


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    period: int
    keep: Keep
    wanted: Wanted
    max_failures: int | None = None
    as_json: bool = False

    def kept(self) -> dict[str, int]:
        return {name: count for name, count in vars(self.keep).items() if count is not None}


class Stop:
    """SIGTERM and SIGHUP end the command as Ctrl-C does. They are remembered, since work that
    passes over errors may pass over the exception. A removal that has begun is finished first:
    until it is, the bundles beside it do not verify. A second signal breaks that off too."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.finishing = False

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: Any) -> None:
        again = self.reason is not None
        self.reason = f"ended by {signal.Signals(number).name}"
        if again or not self.finishing:
            self.check()

    def check(self) -> None:
        if self.reason:
            raise Interrupted(self.reason)

    @contextlib.contextmanager
    def after_this(self) -> Iterator[None]:
        """Work that the first signal does not break off."""
        self.check()
        self.finishing = True
        try:
            yield
        finally:
            self.finishing = False


class Every:
    """`open_cluster` reads the cluster file anew; so each snapshot is of what it says then."""

    def __init__(self, plan: Plan, open_cluster: Callable[[], tuple[State, Fleet]],
                 clock: Clock | None = None, stop: Stop | None = None):
        self.plan, self.open_cluster = plan, open_cluster
        self.clock, self.stop = clock or Clock(), stop or Stop()
        self.directory = open_cluster()[0].directory
        self.events = Events(plan.as_json, lambda: utc(self.clock.wall()))
        self.record = SeriesState(series_state.VERSION, plan.period, plan.wanted.prefix)
        self.schedule = Schedule(plan.period, self._now())
        self.unpruned = True  # whether old snapshots are to be looked for

    def run(self) -> int:
        """Returns after --max-failures only."""
        state = self.open_cluster()[0]
        with state.series_locked():
            self._begin(state)
            try:
                return self._go_on()
            except (Interrupted, KeyboardInterrupt):
                self._settle_cancelled()
                self._tell("ended", "ended; the next start goes on with the same series",
                           reason=self.stop.reason)
                raise
            finally:
                notify(STOPPING="1")
                self.record.process = None
                self._save()

    # The series

    def _now(self) -> Reading:
        return Reading(self.clock.wall(), self.clock.steady())

    def _begin(self, state: State) -> None:
        plan = self.plan
        before = series_state.read(state.series)
        if before:
            self.record = before
        record = self.record
        self.schedule = Schedule(plan.period, self._now(), record.settled, record.period)
        record.period, record.prefix, record.keep = plan.period, plan.wanted.prefix, plan.kept()
        record.group = plan.wanted.group
        record.process, record.failed_in_a_row = process.identity(os.getpid()), 0
        keeps = ", ".join(f"{count} {name}" for name, count in plan.kept().items())
        of_group = f" of group {record.group}" if record.group else ""
        self._tell("started", f"a snapshot{of_group} each {human_seconds(plan.period)}, kept: "
                   f"{keeps or 'every one, since no --keep is given'}", period_s=plan.period,
                   prefix=plan.wanted.prefix, group=record.group, keep=plan.kept(), next_due=utc(self.schedule.next))
        if self.schedule.down:
            if record.pending and record.pending.slot <= self.schedule.settled:
                record.pending.missed = True  # as one of those
            self._missed(self.schedule.down, "'hotsnap every' did not run")
        record.settled = self.schedule.settled
        self._save()
        notify(READY="1")

    def _go_on(self) -> int:
        while True:
            self.stop.check()
            turn = self.schedule.look(self._now())
            if turn.step:
                self._tell("clock", f"the clock was set by {turn.step:+.0f} s: the next snapshot "
                           f"is due at {utc(turn.due)}", step_s=round(turn.step, 3))
            if turn.missed:
                self._missed(turn.missed, "the work of the slot before lasted on")
            if turn.wait <= 0:
                self._slot(turn.due)
                if self.record.failed_in_a_row >= (self.plan.max_failures or sys.maxsize):
                    self._tell("ended", f"{self.plan.max_failures} snapshots failed in a row",
                               trouble=True, reason="max-failures")
                    return EXIT_FAILED
            elif not self.unpruned:
                self.clock.sleep(min(turn.wait, NAP))
            if self.unpruned:
                self.unpruned = False
                self._prune()

    def _slot(self, slot: int) -> None:
        """The snapshot of a slot, or its miss."""
        ends = self.schedule.begins(slot + self.plan.period)
        try:
            if self.record.pending:
                self._settle_pending(ends)
                if self.schedule.settled >= slot:
                    self.unpruned = True
                    return
            began = self.clock.steady()
            made = self._when_free(ends, lambda state, fleet: series_work.take(
                self.record, state, fleet, self.plan.wanted, slot))
        except Interrupted:
            raise
        except (HotsnapError, OSError) as error:
            self.schedule.settle(slot)
            self.record.failed_in_a_row += 1
            if self.record.pending and self.record.pending.slot == slot:
                self.record.pending.missed = True
            self._missed(1, _text(error))
        else:
            self.schedule.settle(slot)
            seconds = self.clock.steady() - began
            self._taken(made, seconds)
            late = self.schedule.overrun(self._now())
            if late:
                self._missed(late, f"due while {made.tag} was under way, which took "
                                   f"{human_seconds(seconds)}")
        self.record.settled = self.schedule.settled
        self.unpruned = True
        self._save()

    def _taken(self, made: Made, seconds: float) -> None:
        self.record.failed_in_a_row = 0
        text, fields = f"taken {made.tag} in {seconds:.1f} s", {}
        with contextlib.suppress(HotsnapError):
            found = bundle.read(os.path.join(self.directory, "bundles", made.tag))
            hold = found.hold_max_ms()
            text += (f", downtime {found.downtime_max_ms():.2f} ms at most" if hold is None
                     else f", disk requests held for {hold:.2f} ms at most")
            fields["downtime_max_ms"] = round(found.downtime_max_ms(), 3)
            if hold is not None:
                fields["hold_max_ms"] = round(hold, 3)
            for doubt in found.doubts():
                self._tell("warning", f"{made.tag}: {doubt}", trouble=True, tag=made.tag,
                           reason=doubt)
        self._tell("taken", text, tag=made.tag, due=utc(made.slot), seconds=round(seconds, 3),
                   **fields)

    def _missed(self, count: int, reason: str) -> None:
        self.record.missed += count
        self.record.last_error = Told(self.clock.wall(), reason)
        what = "1 snapshot" if count == 1 else f"{count} snapshots"
        self._tell("missed", f"missed {what}: {reason}", trouble=True, count=count,
                   in_all=self.record.missed, reason=reason)

    # Old snapshots

    def _prune(self) -> None:
        """Removes old snapshots, until the next one is due; at least one, so that they do not
        become more and more. What fails is told, and tried again after the next snapshot."""
        failed: list[HotsnapError | OSError] = []
        try:
            if self.record.pending:
                self._settle_pending(self._patience())
            if self.record.removing:
                self._remove(lambda state, fleet: series_work.settle_removal(
                    self.record, state, fleet))
        except Interrupted:
            raise
        except (HotsnapError, OSError) as error:
            failed.append(error)
        for entry in self._doomed(failed):
            if self._removed(entry, failed) and self._is_due():
                self.unpruned = True
                break
        if failed:
            self.record.last_error = Told(self.clock.wall(), _text(failed[0]))
            self._tell("prune-failed", "old snapshots were not removed, which is tried again: "
                       f"{_text(failed[0])}", trouble=True, reason=_text(failed[0]))
        self._save()

    def _settle_pending(self, until: float) -> None:
        """Ends the snapshot that another run began, or that may have gone on after its failure."""
        made = self._when_free(until, lambda state, fleet: series_work.settle_pending(
            self.record, state, fleet))
        if made:
            self._went_on(made)
        self._save()

    def _went_on(self, made: Made) -> None:
        self.schedule.settle(made.slot)
        self.record.settled = self.schedule.settled
        self._tell("taken", f"taken {made.tag}, which went on without its command",
                   tag=made.tag, due=utc(made.slot))

    def _settle_cancelled(self) -> None:
        """A snapshot that was cancelled may be complete: the cancel came too late, or between its
        end and its entry. That is noted now, if it can be soon; else the next start looks."""
        until = self.clock.steady() + LEAST_PATIENCE
        while self.record.pending and self.clock.steady() < until:
            try:
                with self._cluster() as (state, fleet):
                    made = series_work.settle_pending(self.record, state, fleet)
            except (Interrupted, KeyboardInterrupt):
                return  # a second signal
            except (HotsnapError, OSError):
                self.clock.sleep(POLL)
                continue
            if made:
                self._went_on(made)

    def _doomed(self, failed: list[HotsnapError | OSError]) -> list[Made]:
        record, prefix = self.record, self.plan.wanted.prefix
        there = set(bundle.folders(os.path.join(self.directory, "bundles")))
        record.forget(entry.tag for entry in record.made
                      if entry.tag not in there and entry.tag != record.removing)
        own = [entry for entry in record.made
               if series.is_tag(prefix, entry.tag) and entry.tag != record.removing]
        try:
            standing = recoveries.standing_on(self.directory)  # kept until no recovery needs it
        except HotsnapError as error:
            failed.append(error)
            return []
        return [own[position] for position in
                series.doomed([entry.slot for entry in own], self.plan.keep)
                if own[position].tag not in standing]

    def _removed(self, entry: Made, failed: list[HotsnapError | OSError]) -> bool:
        try:
            self._remove(lambda state, fleet: series_work.remove(
                self.record, state, fleet, entry))
            return True
        except Interrupted:
            raise
        except (HotsnapError, OSError) as error:
            failed.append(error)
            return self._is_due()

    def _remove(self, work: Callable[[State, Fleet], Removed | None]) -> None:
        def whole(state: State, fleet: Fleet) -> Removed | None:
            with self.stop.after_this():
                return work(state, fleet)

        done = self._when_free(self._patience(), whole)
        if done:
            self._tell("pruned", f"removed {done.tag}; disk layers: {done.deleted} deleted, "
                       f"{done.merged} merged", tag=done.tag, deleted=done.deleted,
                       merged=done.merged)

    def _is_due(self) -> bool:
        return self.clock.steady() >= self.schedule.begins(self.schedule.next)

    def _patience(self) -> float:
        return max(self.schedule.begins(self.schedule.next),
                   self.clock.steady() + LEAST_PATIENCE)

    # Common

    def _when_free(self, until: float, work: Callable[[State, Fleet], Result]) -> Result:
        """Does work under the cluster's lock; waits for that, and for the end of a snapshot or a
        job, until a time of the steady clock."""
        told = False
        while True:
            self.stop.check()
            try:
                with self._cluster() as (state, fleet):
                    return work(state, fleet)
            except (Locked, survey.Busy) as error:
                if self.clock.steady() >= until:
                    raise
                if not told:
                    told = True
                    self._tell("waiting", f"waiting: {_text(error)}", trouble=True,
                               reason=_text(error))
            self.clock.sleep(POLL)

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[tuple[State, Fleet]]:
        state, fleet = self.open_cluster()
        if state.directory != self.directory:
            raise HotsnapError(f"the cluster file now names the folder {state.directory}: start "
                               "'hotsnap every' again")
        with state.locked():
            yield state, fleet

    def _save(self) -> None:
        """What cannot be written now, as on a full disk, is written later."""
        try:
            series_state.write(os.path.join(self.directory, "every.json"), self.record)
        except OSError as error:
            self._tell("warning", f"every.json cannot be written: {error.strerror}", trouble=True,
                       reason=error.strerror)

    def _tell(self, event: str, text: str, trouble: bool = False, **fields: Any) -> None:
        self.events.tell(event, text, trouble, **fields)
        notify(STATUS=f"{self.record.taken} taken, {self.record.missed} missed; {text}")


def _text(error: Exception) -> str:
    """One line."""
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename or 'the system'}: {error.strerror}"
    return " ".join(text.split())
