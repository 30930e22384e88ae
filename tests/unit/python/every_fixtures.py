# SPDX-License-Identifier: GPL-2.0-or-later
"""A series of snapshots without QEMU: a clock that the test moves, and snapshots that are folders.
Removal, locks and every.json are the real ones."""

import contextlib
import io
import json
import os
import tempfile
import unittest
from unittest import mock

import operator_fixtures
from hotsnap.commands import every, series_work
from hotsnap.errors import Interrupted
from hotsnap.model import bundle, cluster, series_state
from hotsnap.model.series import Keep
from hotsnap.model.state import State
from hotsnap.qemu.fleet import Fleet

NOON = 1795780800  # 2026-11-27T12:00:00Z
CLUSTER = '[cluster]\nname = "x"\ndirectory = "state"\n[[member]]\nname = "a"\n'


class Clock:
    """Ends the command, as SIGTERM does, when `until` seconds went by."""

    def __init__(self, wall=NOON, until=0.0):
        self.offset, self.now, self.until = wall, 0.0, until
        self.at = {}  # time that went by: what happens then

    def wall(self):
        return self.offset + self.now

    def steady(self):
        return self.now

    def sleep(self, seconds):
        assert 0 < seconds <= every.NAP, seconds
        self.pass_by(seconds)

    def pass_by(self, seconds):
        self.now += seconds
        for instant in [instant for instant in self.at if instant <= self.now]:
            self.at.pop(instant)()
        if self.now >= self.until:
            raise Interrupted("the test's time is over")


class SeriesOfFolders(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        with open(os.path.join(self.folder, "cluster.toml"), "w", encoding="utf-8") as stream:
            stream.write(CLUSTER)
        self.clock = Clock()
        self.takes = 1.0  # seconds
        self.faults = {}  # number of a snapshot: the exception that it ends with
        self.count = 0
        self.groups = []  # of each snapshot
        patch = mock.patch.object(series_work.snapshot, "snapshot", self.snapshot)
        patch.start()
        self.addCleanup(patch.stop)

    def open(self):
        state = State(cluster.load(os.path.join(self.folder, "cluster.toml")))
        return state, Fleet(state)

    def snapshot(self, state, _fleet, tag, _initiator=None, _timeout=None, _quiet=False,
                 group=None, **_options):
        self.count += 1
        self.groups.append(group)
        path = os.path.join(state.bundles, tag)
        os.makedirs(path + ".partial")
        self.step("begun")
        self.clock.pass_by(self.takes)
        if self.count in self.faults:
            os.rmdir(path + ".partial")
            raise self.faults[self.count]
        self.step("copied")
        os.rmdir(path + ".partial")
        self.make(tag, self.count)
        self.step("published")
        return bundle.read(path)

    def step(self, name):
        """For tests that kill the command here."""

    def make(self, tag, epoch=1):
        """A bundle, which is there as a whole or not at all."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            made = operator_fixtures.make_bundle(folder, tag, ("a",))
            file = os.path.join(made, "manifest.json")
            with open(file, encoding="utf-8") as stream:
                manifest = json.load(stream)
            with open(file, "w", encoding="utf-8") as stream:
                json.dump({**manifest, "epoch": epoch}, stream)
            os.makedirs(self.bundles, exist_ok=True)
            os.replace(made, os.path.join(self.bundles, tag))
        return os.path.join(self.bundles, tag)

    @property
    def bundles(self):
        return os.path.join(self.folder, "state", "bundles")

    def tags(self):
        return sorted(os.listdir(self.bundles)) if os.path.isdir(self.bundles) else []

    def record(self):
        return series_state.read(os.path.join(self.folder, "state", "every.json"))

    def run_it(self, seconds, period=60, keep=Keep(), max_failures=None, prefix="every", stop=None,
               group=None):
        """Runs the command for a time; returns its events, and what it said on standard error."""
        self.clock.until = self.clock.now + seconds
        plan = every.Plan(period, keep, series_work.Wanted(prefix, group=group), max_failures,
                          True)
        out, err = io.StringIO(), io.StringIO()
        self.code = None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), \
                contextlib.suppress(Interrupted):
            self.code = every.Every(plan, self.open, self.clock, stop).run()
        return [json.loads(line) for line in out.getvalue().splitlines()], err.getvalue()
