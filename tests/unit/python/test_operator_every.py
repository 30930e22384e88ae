# SPDX-License-Identifier: GPL-2.0-or-later
"""hotsnap every: what it takes, keeps, misses and tells, over a clock of the test's; and after a
SIGKILL at each of its steps."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import tempfile
import unittest
from unittest import mock

from every_fixtures import NOON, SeriesOfFolders
from hotsnap.commands import every, every_options, listing, series_work
from hotsnap.disks import merge, survey
from hotsnap.errors import HotsnapError, Interrupted
from hotsnap.host import process
from hotsnap.model import bundle, series_state
from hotsnap.model.series import Keep, utc
from hotsnap.model.state import Locked
from support.tier import steps


def named(events, name):
    return [event for event in events if event["event"] == name]


def tag_of(seconds, prefix="every"):
    return f"{prefix}-{utc(NOON + seconds, '%Y%m%dT%H%M%SZ')}"


class Taking(SeriesOfFolders):
    def test_one_each_period(self):
        events, _ = self.run_it(290)
        self.assertEqual(self.tags(), [tag_of(60 * n) for n in range(5)])
        self.assertEqual([event["tag"] for event in named(events, "taken")], self.tags())
        record = self.record()
        self.assertEqual((record.taken, record.missed, record.pruned), (5, 0, 0))
        self.assertIsNone(record.process)
        self.assertEqual([event["event"] for event in events],
                         ["started", *["taken"] * 5, "ended"])

    def test_a_restart_goes_on_with_the_same_slots(self):
        self.run_it(90)
        self.clock.pass_by = lambda seconds, real=self.clock.pass_by: real(seconds)
        self.clock.now += 20
        self.run_it(100)
        self.assertEqual(self.tags(), [tag_of(0), tag_of(60), tag_of(120), tag_of(180)])
        self.assertEqual((self.record().taken, self.record().missed), (4, 0))

    def test_what_is_missed_while_it_does_not_run(self):
        self.run_it(90)
        self.clock.now += 300
        events, told = self.run_it(60)
        self.assertEqual(named(events, "missed")[0]["count"], 4)
        self.assertIn("missed 4 snapshots: 'hotsnap every' did not run", told)
        self.assertEqual((self.record().taken, self.record().missed), (4, 4))

    def test_a_tag_that_is_there_already(self):
        self.make(tag_of(60))
        os.mkdir(os.path.join(self.bundles, tag_of(120) + ".partial"))
        self.run_it(170, keep=Keep(newest=1))
        self.assertEqual(self.tags(), [tag_of(60), tag_of(120) + "-2", tag_of(120) + ".partial"])

    def test_a_long_snapshot(self):
        self.takes = 150
        events, told = self.run_it(400)
        self.assertEqual([event["tag"] for event in named(events, "taken")],
                         [tag_of(0), tag_of(180)])
        self.assertEqual([event["count"] for event in named(events, "missed")], [2, 2])
        self.assertIn(f"missed 2 snapshots: due while {tag_of(0)} was under way, "
                      "which took 2m30s", told)

    def test_of_a_group(self):
        events, _ = self.run_it(90, group="payments", prefix="every-payments")
        self.assertEqual(self.groups, ["payments", "payments"])
        self.assertEqual(named(events, "started")[0]["group"], "payments")
        self.assertEqual(self.record().group, "payments")
        events, _ = self.run_it(60)
        self.assertEqual(self.groups[-1], None)
        self.assertIsNone(self.record().group)

    def test_groups_do_not_remove_the_snapshots_of_others(self):
        self.run_it(90)
        self.run_it(90, group="g", prefix="every-g", keep=Keep(newest=1))
        self.assertEqual(self.tags(), [tag_of(0), tag_of(60), self.tags()[-1]])
        self.assertTrue(self.tags()[-1].startswith("every-g-"))

    def test_a_failure_is_a_miss_and_no_end(self):
        self.faults = {2: HotsnapError("a does not run"), 3: OSError(28, "No space left", "disk")}
        events, told = self.run_it(230)
        self.assertEqual(self.tags(), [tag_of(0), tag_of(180)])
        self.assertEqual([event["reason"] for event in named(events, "missed")],
                         ["a does not run", "disk: No space left"])
        self.assertEqual(told.splitlines()[0], "hotsnap: missed 1 snapshot: a does not run")
        record = self.record()
        self.assertEqual((record.taken, record.missed, record.failed_in_a_row), (2, 2, 0))
        self.assertEqual(record.last_error.text, "disk: No space left")
        self.assertIsNone(record.pending)

    def test_max_failures(self):
        self.faults = {number: HotsnapError("no") for number in (2, 4, 5, 6)}
        events, _ = self.run_it(1000, max_failures=3)
        self.assertEqual(self.code, 1)
        self.assertEqual(named(events, "ended")[0]["reason"], "max-failures")
        self.assertEqual(self.record().failed_in_a_row, 3)
        self.faults = {}
        self.run_it(70, max_failures=3)
        self.assertEqual(self.record().failed_in_a_row, 0)

    def test_a_full_disk(self):
        """every.json cannot be written: no snapshot is begun that it does not name."""
        self.run_it(30)
        real = series_state.write
        full = True

        def write(*arguments):
            if full:
                raise OSError(28, "No space left on device", "every.json")
            real(*arguments)

        def free():
            nonlocal full
            full = False

        self.clock.at[150] = free
        with mock.patch.object(series_state, "write", write):
            events, told = self.run_it(200)
        self.assertIn("every.json cannot be written", told)
        self.assertEqual(self.tags(), [tag_of(0), tag_of(180)])
        self.assertEqual(sum(event["count"] for event in named(events, "missed")), 2)
        self.assertEqual((self.record().taken, self.record().missed), (2, 2))

    def test_the_clock_is_set(self):
        def set_to(seconds):
            self.clock.offset += seconds
        self.clock.at = {150: lambda: set_to(7200), 330: lambda: set_to(-7200)}
        events, _ = self.run_it(600)
        self.assertEqual([event["step_s"] for event in named(events, "clock")], [7200, -7200])
        self.assertEqual(named(events, "missed"), [])
        tags = [event["tag"] for event in named(events, "taken")]
        self.assertEqual(len(tags), len(set(tags)))
        self.assertIn(len(tags), (9, 10, 11))

    def test_the_cluster_file_is_read_anew(self):
        self.run_it(30)
        file = os.path.join(self.folder, "cluster.toml")
        with open(file, encoding="utf-8") as stream:
            text = stream.read()

        def change(to):
            with open(file, "w", encoding="utf-8") as stream:
                stream.write(to)

        self.clock.at = {50: lambda: change("nonsense"),
                         100: lambda: change(text.replace("state", "other")),
                         150: lambda: change(text)}
        events, _ = self.run_it(200)
        reasons = [event["reason"] for event in named(events, "missed")]
        self.assertEqual(len(reasons), 2)
        self.assertIn("not valid TOML", reasons[0])
        self.assertIn("names the folder", reasons[1])
        self.assertEqual(self.tags(), [tag_of(0), tag_of(180)])

    def test_interrupted(self):
        """The slot stays open: the next start takes its snapshot."""
        self.takes = 20
        self.run_it(70)
        self.assertEqual(self.tags(), [tag_of(0)])
        self.assertIsNone(self.record().pending)
        self.run_it(30)
        self.assertEqual(self.tags(), [tag_of(0), tag_of(60)])
        self.assertEqual(self.record().missed, 0)

    def test_interrupted_when_it_is_complete(self):
        """The signal comes between the end of a snapshot and its entry in the record; also when a
        member is not at rest at first. The snapshot is one of the series."""
        for busy in (0, 3):
            with self.subTest(busy=busy):
                shutil.rmtree(os.path.join(self.folder, "state"), ignore_errors=True)
                self.clock.offset, self.clock.now = NOON, 0.0
                stop, real, calls = every.Stop(), series_work.settle_pending, []

                def settle(*arguments, busy=busy, stop=stop, real=real, calls=calls):
                    calls.append(1)
                    if len(calls) == 1:
                        stop._handle(signal.SIGTERM, None)  # pylint: disable=protected-access
                    if len(calls) <= 2 + busy:
                        raise survey.Busy("member a is in a snapshot")
                    return real(*arguments)

                with mock.patch.object(series_work, "settle_pending", settle):
                    events, _ = self.run_it(50, stop=stop)
                self.assertEqual(self.tags(), [tag_of(0)])
                self.assertEqual([event["tag"] for event in named(events, "taken")], self.tags())
                record = self.record()
                self.assertIsNone(record.pending)
                self.assertEqual((record.taken, record.missed), (1, 0))

    def test_a_signal_that_other_code_passes_over(self):
        stop = every.Stop()
        with self.assertRaises(Interrupted):
            stop._handle(signal.SIGTERM, None)  # pylint: disable=protected-access
        with self.assertRaisesRegex(Interrupted, "ended by SIGTERM"):
            stop.check()

    def test_a_signal_in_a_removal(self):
        """That removal is finished, and none after it is begun; a second signal breaks it off."""
        for signals, left in ((1, 4), (2, 5)):
            with self.subTest(signals=signals):
                shutil.rmtree(os.path.join(self.folder, "state"), ignore_errors=True)
                self.clock.offset, self.clock.now = NOON, 0.0
                self.run_it(290)
                stop, real = every.Stop(), bundle.remove

                def remove(path, stop=stop, real=real, signals=signals):
                    for _ in range(signals):
                        stop._handle(signal.SIGTERM, None)  # pylint: disable=protected-access
                    real(path)
                with mock.patch.object(bundle, "remove", remove):
                    self.run_it(9, keep=Keep(newest=1), stop=stop)
                self.assertEqual(len(self.tags()), left)
                self.assertIsNone(self.record().removing)


class Together(SeriesOfFolders):
    """With other commands."""

    def test_two_at_once(self):
        self.open()[0].make_folders()
        with self.open()[0].series_locked():
            with self.assertRaisesRegex(Locked, "runs already for cluster 'x'.*--status"):
                self.run_it(10)
        self.run_it(10)
        self.assertEqual(len(self.tags()), 1)

    def test_the_snapshot_waits_for_another_command(self):
        self.run_it(30)
        locked = self.open()[0].locked()
        self.clock.at = {40: locked.__enter__, 75: lambda: locked.__exit__(None, None, None)}
        events, told = self.run_it(70)
        self.assertEqual(self.tags(), [tag_of(0), tag_of(60)])
        self.assertIn("another command works", named(events, "waiting")[0]["reason"])
        self.assertEqual(told.count("waiting"), 1)
        self.assertEqual(self.record().missed, 0)

    def test_another_command_lasts_longer_than_the_slot(self):
        self.run_it(30)
        locked = self.open()[0].locked()
        self.clock.at = {40: locked.__enter__, 190: lambda: locked.__exit__(None, None, None)}
        events, _ = self.run_it(200)
        self.assertEqual(self.tags(), [tag_of(0), tag_of(180)])
        self.assertEqual(len(named(events, "missed")), 2)
        self.assertIn("another command works", self.record().last_error.text)

    def test_a_snapshot_by_hand_is_under_way(self):
        busy = True

        def over():
            nonlocal busy
            busy = False

        def check_rest(*_):
            if busy:
                raise survey.Busy("member a is in a snapshot")
        self.clock.at = {20: over}
        with mock.patch.object(series_work, "check_rest", check_rest):
            events, _ = self.run_it(50)
        self.assertEqual(self.tags(), [tag_of(0)])
        self.assertEqual(named(events, "waiting")[0]["reason"], "member a is in a snapshot")


class Keeping(SeriesOfFolders):
    def test_the_newest(self):
        events, _ = self.run_it(290, keep=Keep(newest=2))
        self.assertEqual(self.tags(), [tag_of(180), tag_of(240)])
        self.assertEqual([event["tag"] for event in named(events, "pruned")],
                         [tag_of(0), tag_of(60), tag_of(120)])
        self.assertEqual((self.record().taken, self.record().pruned), (5, 3))

    def test_hours(self):
        self.run_it(9000, period=600, keep=Keep(newest=2, hourly=3))
        self.assertEqual(self.tags(), [tag_of(3000), tag_of(6600), tag_of(7800), tag_of(8400)])

    def test_what_is_not_its_own(self):
        """By hand, of another series, or with its prefix: not touched."""
        others = [self.make(tag) for tag in ("before-upgrade", "every", tag_of(-60),
                                             tag_of(-120, "other"))]
        self.run_it(290, keep=Keep(newest=1))
        for path in others:
            self.assertTrue(os.path.isdir(path))
        self.assertEqual(len(self.tags()), 5)

    def test_another_prefix(self):
        self.run_it(130, keep=Keep(newest=2))
        self.run_it(130, keep=Keep(newest=1), prefix="day")
        self.run_it(130, keep=Keep(newest=1), prefix="day")
        self.assertEqual(len([tag for tag in self.tags() if tag.startswith("every")]), 2)
        self.assertEqual(len([tag for tag in self.tags() if tag.startswith("day")]), 1)

    def test_one_that_took_the_place_of_its_own(self):
        self.run_it(70, keep=Keep(newest=9))
        shutil.rmtree(os.path.join(self.bundles, tag_of(0)))
        self.make(tag_of(0), epoch=1000)
        self.run_it(130, keep=Keep(newest=1))
        self.assertIn(tag_of(0), self.tags())
        self.assertEqual(len(self.tags()), 2)
        self.assertEqual(len(self.record().made), 1)

    def test_one_that_was_removed_by_hand(self):
        self.run_it(130, keep=Keep(newest=3))
        shutil.rmtree(os.path.join(self.bundles, tag_of(60)))
        self.run_it(60, keep=Keep(newest=3))
        self.assertEqual(self.tags(), [tag_of(0), tag_of(120), tag_of(180)])
        self.assertEqual(self.record().pruned, 0)

    def test_a_damaged_one_is_told_and_kept(self):
        self.run_it(70, keep=Keep(newest=2))
        with open(os.path.join(self.bundles, tag_of(0), "manifest.json"), "w",
                  encoding="utf-8") as stream:
            stream.write("{")
        events, told = self.run_it(130, keep=Keep(newest=2))
        self.assertEqual(self.tags(), [tag_of(0), tag_of(120), tag_of(180)])
        self.assertIn("manifest.json is damaged", named(events, "prune-failed")[-1]["reason"])
        self.assertIn("damaged", told)

    def test_a_failed_removal_is_tried_again(self):
        real = listing.rm
        faults = [HotsnapError("member a does not answer")] * 2

        def rm(*arguments, **keywords):
            if faults:
                raise faults.pop()
            return real(*arguments, **keywords)
        with mock.patch.object(listing, "rm", rm):
            events, told = self.run_it(290, keep=Keep(newest=1))
        self.assertEqual(len(named(events, "prune-failed")), 2)
        self.assertIn("tried again: member a does not answer", told)
        self.assertEqual(self.tags(), [tag_of(240)])
        self.assertEqual(len(named(events, "taken")), 5)

    def test_many_at_once_do_not_keep_snapshots_waiting(self):
        self.run_it(1190)
        self.assertEqual(len(self.tags()), 20)
        real = listing.rm

        def slow(*arguments, **keywords):
            self.clock.pass_by(25)
            return real(*arguments, **keywords)
        with mock.patch.object(listing, "rm", slow):
            events, _ = self.run_it(900, keep=Keep(newest=2))
        self.assertEqual(named(events, "missed"), [])
        self.assertEqual(len(self.tags()), 2)
        # The last of a slot may make the next snapshot late, by less than a slot.
        self.assertEqual(len(named(events, "taken")), 15)

    def test_removals_that_take_longer_than_the_period(self):
        """There is one for each snapshot: they do not become more and more."""
        real = listing.rm

        def slow(*arguments, **keywords):
            self.clock.pass_by(70)
            return real(*arguments, **keywords)
        with mock.patch.object(listing, "rm", slow):
            events, _ = self.run_it(3000, keep=Keep(newest=2))
        self.assertLessEqual(len(self.tags()), 3)
        self.assertGreater(len(named(events, "taken")), 20)
        record = self.record()
        self.assertIn((record.settled - NOON) // 60 + 1 - record.taken - record.missed, (0,))


class Kills(SeriesOfFolders):
    """SIGKILL at each step. Afterwards the series goes on; each bundle is one that was asked for,
    and no bundle is forgotten."""

    KEEP = Keep(newest=2)

    def setUp(self):
        super().setUp()
        self.left = None  # steps until the kill

    def step(self, name):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def killed(self, number):
        """Whether the command came so far in four periods."""
        child = os.fork()
        if not child:
            try:
                self.left = number
                for owner, name in ((series_state, "write"), (os, "rename"), (shutil, "rmtree"),
                                    (merge, "tidy"), (bundle, "sync_folder"), (merge, "recover")):
                    setattr(owner, name, self.dying(getattr(owner, name)))
                self.run_it(230, keep=self.KEEP)
            finally:
                os._exit(0)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])

    def dying(self, real):
        def wrapped(*arguments, **keywords):
            self.step("before")
            value = real(*arguments, **keywords)
            self.step("after")
            return value
        return wrapped

    def at_each_step(self, first, later):
        for number in steps(first, 400, one_in=4):
            with self.subTest(step=number):
                shutil.rmtree(os.path.join(self.folder, "state"), ignore_errors=True)
                self.clock.offset, self.clock.now, self.count = NOON, 0.0, 0
                by_hand = self.make("by-hand")
                died = self.killed(number)
                before = self.record()
                self.count = 50  # epochs of the next run
                if before:
                    last = before.pending.slot if before.pending else before.settled
                    self.clock.offset = last + 1
                self.clock.offset += later
                first = NOON if before else int(self.clock.wall()) // 60 * 60
                self.assert_whole(self.run_it(250, keep=self.KEEP)[0], first)
                self.assertTrue(os.path.isdir(by_hand))
                if not died:
                    self.assertGreater(number, 40)
                    return
        self.fail("the command has more steps than were tried")

    def assert_whole(self, events, first):
        record = self.record()
        self.assertIsNone(record.pending)
        self.assertIsNone(record.removing)
        self.assertEqual([tag for tag in self.tags() if tag != "by-hand"],
                         [entry.tag for entry in record.made])
        self.assertEqual(len(record.made), 2)
        for entry in record.made:
            self.assertTrue(entry.is_that(bundle.read(os.path.join(self.bundles, entry.tag))))
        self.assertEqual(record.taken - record.pruned, 2)
        self.assertEqual(record.taken + record.missed, (record.settled - first) // 60 + 1)
        self.assertGreaterEqual(len(named(events, "taken")), 3)

    def test_started_again_at_once(self):
        self.at_each_step(1, 0)

    def test_started_again_much_later(self):
        self.at_each_step(3, 1000)

    def test_the_check_sees_a_bundle_that_is_forgotten(self):
        self.run_it(200, keep=self.KEEP)
        self.make(tag_of(600))
        with self.assertRaises(AssertionError):
            self.assert_whole([{"event": "taken"}] * 3, NOON)


class Status(SeriesOfFolders):
    def test_never_started(self):
        with self.assertRaisesRegex(HotsnapError, "no series"):
            every_options.status(self.open()[0], False)

    def test_of_a_series(self):
        self.faults = {2: HotsnapError("a does not run")}
        self.run_it(170, keep=Keep(newest=1))
        told = self.record().status(NOON)
        self.assertEqual((told["running"], told["taken"], told["missed"], told["pruned"]),
                         (False, 2, 1, 1))
        self.assertEqual(told["last_success"]["tag"], tag_of(120))
        self.assertEqual(told["last_error"], {"time": "2026-11-27T12:01:01Z",
                                              "text": "a does not run"})
        self.assertEqual(told["snapshots"], [tag_of(120)])
        for as_json in (False, True):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                every_options.status(self.open()[0], as_json)
            self.assertIn("a does not run", out.getvalue())

    def test_the_age_of_the_newest(self):
        """Counts from its cut, not from the end of its work, and only of one that is there."""
        self.run_it(170)
        record = self.record()
        cut = bundle.read(os.path.join(self.bundles, tag_of(120))).instant()
        self.assertAlmostEqual(record.newest().instant, cut)
        told = record.status(cut + 12.5)
        self.assertEqual((told["newest"], told["age_s"]), (tag_of(120), 12.5))
        self.assertEqual(record.status(cut - 5)["age_s"], 0, "the clock was set back")
        record.removing = tag_of(120)
        self.assertEqual(record.status(cut)["newest"], tag_of(60))
        record.forget(self.tags())
        self.assertEqual((record.status(cut)["newest"], record.status(cut)["age_s"]), (None, None))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            every_options.status(self.open()[0], False)
        self.assertRegex(out.getvalue(), r"age of the newest +\d+h\d\dm")

    def test_of_a_file_of_before(self):
        """It does not know when the members cut."""
        self.run_it(30)
        record = self.record()
        record.made[0].instant = None
        self.assertIsNone(record.status(NOON)["age_s"])

    def test_a_snapshot_whose_end_it_did_not_see(self):
        self.run_it(30)
        record = self.record()
        record.pending = series_state.Pending("every-x", 0, "a")
        told = record.status(NOON)
        self.assertEqual((told["under_way"], told["left_behind"]), (None, "every-x"))
        record.process = process.identity(os.getpid())
        told = record.status(NOON)
        self.assertEqual((told["under_way"], told["left_behind"]), ("every-x", None))

    def test_while_it_runs(self):
        told = []
        self.clock.at = {30: lambda: told.append(self.record().status(NOON))}
        self.run_it(50)
        self.assertEqual((told[0]["running"], told[0]["pid"]), (True, os.getpid()))
        self.assertEqual(told[0]["next_due"], "2026-11-27T12:01:00Z")

    def test_a_damaged_file(self):
        self.run_it(30)
        with open(os.path.join(self.folder, "state", "every.json"), "w",
                  encoding="utf-8") as stream:
            stream.write("{")
        with self.assertRaisesRegex(HotsnapError, "every.json.*move it away"):
            self.run_it(30)

    def test_systemd_is_told(self):
        with tempfile.TemporaryDirectory() as folder, \
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            address = os.path.join(folder, "notify")
            manager.bind(address)
            manager.settimeout(10)
            with mock.patch.dict(os.environ, NOTIFY_SOCKET=address):
                self.run_it(30)
            told = []
            while "STOPPING=1" not in told:
                told.append(manager.recv(4096).decode())
        self.assertIn("READY=1", told)
        self.assertTrue(any(text.startswith("STATUS=1 taken, 0 missed") for text in told), told)


class Lines(SeriesOfFolders):
    def test_text(self):
        """Without --json: a line for each event, and what is wrong on standard error alone."""
        self.faults = {2: HotsnapError("a does not\nrun")}
        self.clock.until = 100
        out, err = io.StringIO(), io.StringIO()
        plan = every.Plan(60, Keep(newest=3), series_work.Wanted("every"))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), \
                self.assertRaises(Interrupted):
            every.Every(plan, self.open, self.clock).run()
        lines = out.getvalue().splitlines()
        self.assertRegex(lines[0], "^2026-11-27T12:00:00Z a snapshot each 1m00s, kept: 3 newest$")
        self.assertRegex(lines[1], f"^2026-11-27T12:00:01Z taken {tag_of(0)} in 1.0 s, downtime ")
        self.assertEqual(err.getvalue(), "hotsnap: missed 1 snapshot: a does not run\n")

    def test_json_is_one_object_a_line(self):
        events, _ = self.run_it(30)
        self.assertEqual(json.loads(json.dumps(events)), events)
        self.assertTrue(all({"event", "time"} <= event.keys() for event in events))


if __name__ == "__main__":
    unittest.main()
