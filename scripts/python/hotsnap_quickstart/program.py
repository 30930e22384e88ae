# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/quickstart, once everything is built: a cluster's life with a snapshot in it, checked.

Start three members, snapshot them live, let them go on, kill them, restore them, check the cut from
its files and the guests from what they print. The last line says it all; see `verdict`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

from hotsnap.commands import lifecycle, snapshot, verify
from hotsnap.errors import EXIT_FAILED, EXIT_INTERRUPTED, HotsnapError, Interrupted
from hotsnap.host import atomic
from hotsnap.model import bundle, cluster
from hotsnap.model.state import State
from hotsnap.qemu.binaries import CHECKOUT
from hotsnap.qemu.fleet import Fleet
from hotsnap.ui import timeline
from hotsnap.ui.output import human_size, say, table
from support import cutcheck, trial
from support.trial import Check

TAG = "quickstart"
# Failures that are no fault of this program.
EXPECTED = (HotsnapError, OSError)
LINES_AFTER = 4      # of each kind, that restored guests must print
NOTHING: dict[str, Any] = {
    "pass": False, "accel": None, "members": len(trial.MEMBERS), "downtime_max_ms": None,
    "backoff_max_ms": None, "orphans": None, "lost": None, "restored": 0, "reason": None}


class Quickstart:
    def __init__(self, folder: str, guest: str):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "cluster.toml")
        atomic.write_bytes(path, trial.cluster_file(guest).encode())
        self.began = time.monotonic()
        self.state = State(cluster.load(path))
        self.fleet = Fleet(self.state)
        self.guests = trial.Guests(self.state, self.fleet.running)
        self.checks: list[Check] = []
        self.saved: bundle.Bundle | None = None
        self.timings: dict[str, float] = {}
        self.result: dict[str, Any] = dict(NOTHING)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        say(f"[{began - self.began:5.1f}s] {name}")
        yield
        self.timings[name] = round(time.monotonic() - began, 2)

    def clean(self) -> None:
        """Ends the members and removes the network, those of an earlier run included."""
        with self.state.locked():
            self.fleet.kill(self.fleet.names())
            self.fleet.remove_network()

    def run(self, keep: bool) -> None:
        self.clean()
        shutil.rmtree(self.state.directory)
        self.state.members.clear()
        with self.state.locked():
            self._boot()
            before = self._snapshot()
            with self.step("kill all three QEMUs with SIGKILL"):
                self.fleet.kill(self.fleet.names())
                self.guests.read()
            self._check_files()
            self._restore()
            self._check_guests(before)
            self._check_rows()
            if keep and all(check.good for check in self.checks):
                with self.step("restore the cluster once more, to keep it"):
                    assert self.saved is not None
                    snapshot.restore(self.state, self.fleet, self.saved, replace=True)

    def _boot(self) -> None:
        with self.step("start three members"):
            lifecycle.up(self.state, self.fleet)
            self.result["accel"] = self.state.members["db"].accel or ""
            say(f"         {', '.join(trial.MEMBERS)} under {self.result['accel'].upper()}, in "
                f"network namespace {self.fleet.lab.name}")
        with self.step("wait until their servers answer"):
            self.guests.boot()
        with self.step("wait until traffic flows between all pairs"):
            self.guests.flow("wait for traffic", 3)

    def _snapshot(self) -> dict[tuple[str, str, str], dict[str, int]]:
        self.guests.read()
        before = self.guests.counters()
        with self.step("snapshot the running cluster"):
            self.saved = snapshot.snapshot(self.state, self.fleet, TAG, initiator="client")
        self.result.update(downtime_max_ms=round(self.saved.downtime_max_ms(), 3),
                           backoff_max_ms=round(self.saved.backoff_max_ms() or 0, 3),
                           frames=self.saved.frames(), qemu=self.saved.members[0].qemu,
                           bundle=self.saved.path, lost=self.saved.lost())
        picture = os.path.join(self.folder, "timeline.svg")
        timeline.draw(self.saved, picture)
        self.result["timeline"] = picture
        with self.step("let the cluster go on"):
            self.guests.read()
            self.guests.go_on(self.guests.counters())
            self._note("goes on after the snapshot", True, "all members")  # or it ended above
        return before

    def _note(self, name: str, good: bool, found: str) -> None:
        self.checks.append(Check(name, good, found))

    def _check_files(self) -> None:
        assert self.saved is not None
        with self.step("check the bundle: checksums, then the cut"):
            checked = verify.check_visibly(self.saved, quiet=False)
            damage = checked.damage or []
            self._note("every checksum", not damage,
                       str(damage[0]) if damage else f"{human_size(checked.bytes)} in "
                                                     f"{checked.files} files")
            report = cutcheck.check_bundle(self.saved.path, self._image_tool())
            self.result["orphans"] = report.orphans
            self._note("one consistent cut", report.consistent, (
                f"{len(report.pairs)} channels, {report.orphans} orphans, "
                f"{report.in_flight} messages in flight") if report.consistent
                       else "; ".join(report.problems[:3]))
            self._note("disks agree with memory", len(report.disks) == len(trial.MEMBERS)
                       and report.consistent, f"{len(report.disks)} of {len(trial.MEMBERS)} disks")
            self.cut_rows = report.rows[0]

    def _image_tool(self) -> str:
        return snapshot.binaries.qemu_img(self.state.cluster.qemu)

    def _restore(self) -> None:
        assert self.saved is not None
        with self.step("restore the cluster from the bundle"):
            self.guests.separate("restored from the snapshot")
            snapshot.restore(self.state, self.fleet, self.saved,
                             every_checksum=False)  # _check_files has just done that
            self.result["restored"] = len(self.fleet.running_names())
        with self.step("watch the guests go on"):
            self.guests.flow("watch the guests", LINES_AFTER)

    def _check_guests(self, before: dict[tuple[str, str, str], dict[str, int]]) -> None:
        self.guests.read()
        after = self.guests.counters()
        self.checks += trial.judge(before, after)
        missing = trial.lost_messages(before, after)
        self.result["lost"] += missing
        self._note("no frame lost across the cut", not self.result["lost"],
                   f"{missing} messages missing, {self.result['lost'] - missing} frames given up, "
                   f"{self.result['frames']} played back")
        failures = self.guests.failures()
        self._note("no guest complains", not failures, "; ".join(failures) or "none")

    def _check_rows(self) -> None:
        """The rows that the database had acknowledged are there: at the cut, and after the
        restore."""
        assert self.saved is not None
        with self.step("check PostgreSQL's rows: at the cut, and restored"):
            frozen = next(disk.file for member, disk in self.saved.layers()
                          if member.name == "db" and "disk1-dev" in disk.device)
            self.guests.read()
            acknowledged = self.guests.counters()["client", "pg", ""]["committed"]
            late = self.fleet.quit(trial.MEMBERS)
            if late:
                raise HotsnapError(f"{', '.join(late)} did not quit")
            final = self.state.members["db"].disks["disk1"]
            folder = os.path.join(self.folder, "rows")
            with contextlib.ExitStack() as both:
                checkers = [both.enter_context(trial.RowCheck(
                    self.state, self.result["accel"], layer, os.path.join(folder, name)))
                    for layer, name in ((frozen, "at-the-cut"), (final, "restored"))]
                (at_cut, whole), (restored, whole_too) = (c.rows() for c in checkers)
        low, high = self.cut_rows["committed"], self.cut_rows["issued"]
        self._note("rows at the cut", whole and low <= at_cut <= high,
                   f"{at_cut} on disk; client had {low} acknowledged, {high} sent")
        self._note("rows after the restore", whole_too and restored >= acknowledged,
                   f"{restored} on disk; client had {acknowledged} acknowledged")

    # Saying what happened

    def conclude(self, reason: str | None) -> None:
        bad = [check for check in self.checks if not check.good]
        if reason is None and bad:
            reason = f"{bad[0].name}: {bad[0].found}"
        self.result.update({
            "pass": reason is None, "reason": reason,
            "checks": [{"name": c.name, "good": c.good, "found": c.found} for c in self.checks],
            "seconds": round(time.monotonic() - self.began, 1), "steps": self.timings})

    def show(self) -> None:
        if self.saved is not None:
            print()
            print(table(("MEMBER", "PAUSE", "CUT BY", "MEMORY", "SAVED BY WRITES", "FRAMES"),
                        [(m.name, f"{m.pause.ms:.2f} ms", m.cause or "-",
                          human_size(m.memory.pages.total * 4096),
                          f"{m.memory.pages.by_writes} pages", m.channel.frames)
                         for m in self.saved.members],
                        right="PAUSE MEMORY FRAMES"))
        if self.checks:
            print()
            print(table(("CHECK", "", "FOUND"),
                        [(c.name, "ok" if c.good else "BAD", c.found) for c in self.checks]))
        if "timeline" in self.result:
            print(f"\ntimeline: {os.path.relpath(self.result['timeline'])}")


def verdict(result: dict[str, Any]) -> str:
    """The last line. A figure that is not known is '-'."""
    fields = " ".join(f"{key}={'-' if result.get(key) is None else result[key]}" for key in (
        "members", "downtime_max_ms", "backoff_max_ms", "orphans", "lost", "restored"))
    if result["pass"]:
        return f"quickstart: PASS {fields}"
    return f"quickstart: FAIL {fields} {' '.join(str(result['reason']).split())}"


def _interrupt(number: int, _: Any) -> None:
    # A second signal must not cut the cleaning up short.
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    raise Interrupted(f"interrupted by {signal.Signals(number).name}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="quickstart")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, _interrupt)
    code = EXIT_FAILED
    try:
        trial_run = Quickstart(os.path.join(CHECKOUT, "build", "quickstart"),
                               os.path.join(CHECKOUT, "build", "guest"))
    except EXPECTED as error:
        return conclude(dict(NOTHING, reason=str(error)), options.json)
    reason: str | None = None
    try:
        trial_run.run(options.keep)
    except Interrupted as error:
        reason, code = str(error), EXIT_INTERRUPTED
    except EXPECTED as error:
        reason = f"{error}{trial_run.fleet.deaths()}"
    finally:
        trial_run.conclude(reason)
        kept = options.keep and trial_run.result["pass"]
        if not kept:
            try:
                trial_run.clean()
            except EXPECTED as error:
                trial_run.conclude(reason or f"cannot clean up: {error}")
    trial_run.show()
    if kept:
        file = os.path.relpath(trial_run.state.cluster.file)
        print(f"kept: 'scripts/hotsnap -f {file} ps'; 'scripts/hotsnap -f {file} down' ends it")
    conclude(trial_run.result, options.json)
    return 0 if trial_run.result["pass"] else code


def conclude(result: dict[str, Any], json_file: str | None) -> int:
    if json_file:
        atomic.write_json(json_file, result)
    print(verdict(result), flush=True)
    return EXIT_FAILED
