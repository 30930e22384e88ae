# SPDX-License-Identifier: GPL-2.0-or-later
"""Regular snapshots, the part without clocks, files and QEMU: slots, tags, and what is kept."""

import random
import unittest

from hotsnap.model import series
from hotsnap.model.series import DAY, HOUR, Keep, Reading, Schedule, doomed

NOON = 1795780800  # 2026-11-27T12:00:00Z


class Words(unittest.TestCase):
    def test_periods(self):
        for text, seconds in (("60s", 60), ("90", 90), ("5m", 300), ("2h", 7200), ("1d", 86400),
                              ("1w", 604800)):
            self.assertEqual(series.parse_period(text), seconds)
        for text in ("", "0", "0s", "-5s", "1.5m", "5 m", "fast", "5min", "9" * 20):
            with self.assertRaisesRegex(ValueError, "is not a period"):
                series.parse_period(text)

    def test_tags(self):
        there = set()
        for wanted in ("every-20261127T120000Z", "every-20261127T120000Z-2",
                       "every-20261127T120000Z-3"):
            tag = series.new_tag("every", NOON, there.__contains__)
            self.assertEqual(tag, wanted)
            self.assertTrue(series.is_tag("every", tag))
            there.add(tag)

    def test_tags_sort_by_time(self):
        random_ = random.Random(1)
        slots = sorted(random_.randrange(4 * 10**9) for _ in range(500))
        tags = [series.new_tag("x", slot, lambda _: False) for slot in slots]
        self.assertEqual(tags, sorted(tags))

    def test_tags_of_others(self):
        for tag in ("before-upgrade", "every", "every-", "every-today", "every-20261127T120000",
                    "everyday-20261127T120000Z", "every-day-20261127T120000Z",
                    "every-20261127T120000Z-x", "every-20261127T120000Z.partial"):
            self.assertFalse(series.is_tag("every", tag), tag)
        self.assertFalse(series.is_tag("e.ery", "every-20261127T120000Z"))


class Kept(unittest.TestCase):
    def kept(self, slots, keep):
        gone = set(doomed(slots, keep))
        return [slot for position, slot in enumerate(slots) if position not in gone]

    def test_examples(self):
        minutes = [NOON + 60 * n for n in range(-180, 31)]
        self.assertEqual(self.kept(minutes, Keep(newest=3)), minutes[-3:])
        self.assertEqual(self.kept(minutes, Keep(hourly=3)),
                         [NOON - HOUR - 60, NOON - 60, NOON + 30 * 60])
        self.assertEqual(self.kept(minutes, Keep(newest=2, hourly=2)),
                         [NOON - 60, NOON + 29 * 60, NOON + 30 * 60])
        self.assertEqual(self.kept(minutes, Keep(daily=5)), minutes[-1:])
        self.assertEqual(self.kept(minutes, Keep()), minutes)
        self.assertEqual(self.kept([], Keep(newest=1)), [])

    def test_hours_without_one_are_not_counted(self):
        slots = [NOON - 50 * HOUR, NOON - 20 * HOUR, NOON]
        self.assertEqual(self.kept(slots, Keep(hourly=3)), slots)

    def test_a_clock_that_was_wrong(self):
        """Snapshots named after the far future do not stay forever, nor make others go."""
        slots = [NOON + 4000 * DAY, NOON + 4000 * DAY + 60, NOON, NOON + 60]
        self.assertEqual(self.kept(slots, Keep(newest=2)), [NOON, NOON + 60])
        self.assertEqual(self.kept(slots, Keep(hourly=1)), [NOON + 60])

    def test_any_series(self):
        """One at a time, as the command does it: the newest is kept, so many at most, and the same
        as if all had been looked at at once."""
        for seed in range(60):
            random_ = random.Random(seed)
            keep = Keep(*(random_.choice((None, 1, 2, 5, 30)) for _ in range(3)))
            if keep.everything():
                continue
            most = max(1, keep.newest or 0) + (keep.hourly or 0) + (keep.daily or 0)
            slots, left, slot = [], [], NOON
            for _ in range(400):
                slot += random_.choice((60, 60, 600, HOUR, 5 * HOUR, 2 * DAY))
                slots.append(slot)
                left = self.kept([*left, slot], keep)
                self.assertEqual(left[-1], slot)
                self.assertLessEqual(len(left), most)
            self.assertEqual(left, self.kept(slots, keep), keep)
            self.assertEqual(self.reference(slots, keep), set(left), keep)

    @staticmethod
    def reference(slots, keep):
        """The definition, written another way."""
        found = {slots[-1], *slots[len(slots) - (keep.newest or 0):]}
        for length, count in ((HOUR, keep.hourly), (DAY, keep.daily)):
            newest = {slot // length: slot for slot in slots}
            found |= set(sorted(newest.values())[len(newest) - (count or 0):] if count else ())
        return found


class World:
    """A wall clock that can be set, and the time that goes by."""

    def __init__(self, wall):
        self.offset, self.steady = wall, 0.0

    def now(self):
        return Reading(self.offset + self.steady, self.steady)

    def run(self, schedule, until, snapshot=lambda slot: 0.0, at=None):
        """What the command does; returns the slots taken and the number of those missed. `at`:
        steady time to seconds by which the clock is set then."""
        taken, missed = [], 0
        at = dict(at or {})
        while True:
            turn = schedule.look(self.now())
            missed += turn.missed
            if self.steady >= until:
                return taken, missed
            if turn.wait > 0:
                self.pass_by(min(turn.wait, schedule.period / 6), at)
                continue
            taken.append(turn.due)
            self.pass_by(snapshot(turn.due), at)
            schedule.settle(turn.due)
            missed += schedule.overrun(self.now())

    def pass_by(self, seconds, at):
        self.steady += seconds
        for instant in [instant for instant in at if instant <= self.steady]:
            self.offset += at.pop(instant)


class Slots(unittest.TestCase):
    def test_the_first_is_due_at_once(self):
        world = World(NOON + 17)
        turn = Schedule(60, world.now()).look(world.now())
        self.assertEqual((turn.due, turn.missed), (NOON, 0))
        self.assertLessEqual(turn.wait, 0)

    def test_one_a_slot(self):
        taken, missed = (world := World(NOON + 17)).run(Schedule(60, world.now()), 600)
        self.assertEqual(taken, [NOON + 60 * n for n in range(11)])
        self.assertEqual(missed, 0)

    def test_a_long_snapshot_misses_slots(self):
        world = World(NOON)
        taken, missed = world.run(Schedule(10, world.now()), 95,
                                  lambda slot: 25 if slot == NOON + 20 else 1)
        self.assertEqual([slot - NOON for slot in taken], [0, 10, 20, 50, 60, 70, 80, 90])
        self.assertEqual(missed, 2)

    def test_work_between_makes_one_late_and_not_missed(self):
        world = World(NOON)
        schedule = Schedule(10, world.now())
        schedule.settle(schedule.look(world.now()).due)
        world.steady = 13.0
        turn = schedule.look(world.now())
        self.assertEqual((turn.due - NOON, turn.missed, turn.wait), (10, 0, -3))
        world.steady = 31.0
        turn = schedule.look(world.now())
        self.assertEqual((turn.due - NOON, turn.missed), (30, 2))

    def test_each_slot_is_taken_or_missed(self):
        """Whatever the snapshots take."""
        for seed in range(200):
            random_ = random.Random(seed)
            period = random_.choice((1, 5, 60, 3600))
            world = World(NOON + random_.random() * period)
            first = int(world.now().wall // period) * period
            taken, missed = world.run(
                Schedule(period, world.now()), 40 * period,
                lambda _, p=period, r=random_: r.choice((0, 0.2, 0.9, 1.1, 3.7)) * p * r.random())
            self.assertEqual(taken, sorted(set(taken)))
            self.assertTrue(all(slot % period == 0 for slot in taken))
            last = int(world.now().wall // period) * period
            begun = (last - first) // period + 1
            self.assertIn(begun - len(taken) - missed, (0, 1), seed)  # the last may be due

    def test_a_clock_that_is_set_neither_stops_nor_floods_it(self):
        for seed in range(300):
            random_ = random.Random(seed)
            period = random_.choice((5, 60, 3600))
            world = World(NOON + random_.random() * period)
            steps = {random_.random() * 40 * period:
                     random_.choice((-1, 1)) * random_.choice((0.4, 3, 90, DAY, 900 * DAY))
                     for _ in range(random_.randrange(4))}
            schedule = Schedule(period, world.now())
            waits = []
            begun = []

            def snapshot(_, world=world, begun=begun, random_=random_, period=period):
                begun.append(world.steady)
                return random_.random() * 0.5 * period

            taken, missed = world.run(schedule, 40 * period, snapshot, steps)
            waits = [after - before for before, after in zip(begun, begun[1:])]
            self.assertLessEqual(max(waits), 2.5 * period, (seed, steps))
            self.assertLess(abs(len(taken) + missed - 40), 2 + 2 * len(steps), (seed, steps))

    def test_a_clock_set_forward_is_no_miss(self):
        world = World(NOON)
        taken, missed = world.run(Schedule(60, world.now()), 300, at={130.0: 50 * HOUR})
        self.assertEqual(missed, 0)
        self.assertIn(len(taken), (5, 6))

    def test_small_corrections_repeat_no_slot(self):
        """A clock that is a little fast, and set right again and again."""
        world = World(NOON)
        taken, missed = world.run(Schedule(5, world.now()), 1000,
                                  at={0.5 + n: -0.1 if n % 2 else 0.1 for n in range(1000)})
        self.assertEqual(taken, sorted(set(taken)))
        self.assertEqual((len(taken), missed), (200, 0))

    def test_the_control_sees_a_slot_twice(self):
        class Forgetful(Schedule):
            def settle(self, slot):
                self.settled = slot - self.period * (self._anchor.steady % 40 < 5)

            def overrun(self, now):
                return 0

        world = World(NOON)
        taken, _ = world.run(Forgetful(5, world.now()), 200, lambda _: 1)
        self.assertNotEqual(taken, sorted(set(taken)))


class Restarts(unittest.TestCase):
    def start(self, wall, settled, before=60, period=60):
        world = World(wall)
        schedule = Schedule(period, world.now(), settled, before)
        turn = schedule.look(world.now())
        return schedule.down, turn.due - NOON, turn.wait

    def test_within_the_slot(self):
        self.assertEqual(self.start(NOON + 20, NOON), (0, 60, 40))

    def test_in_the_next_slot(self):
        self.assertEqual(self.start(NOON + 80, NOON), (0, 60, -20))

    def test_after_a_while(self):
        self.assertEqual(self.start(NOON + 200, NOON), (2, 180, -20))

    def test_the_clock_was_set_back_meanwhile(self):
        self.assertEqual(self.start(NOON - 0.5, NOON), (0, 60, 60.5))
        self.assertEqual(self.start(NOON - 3600, NOON), (0, -3540, 60))

    def test_another_period(self):
        self.assertEqual(self.start(NOON + 1800, NOON + 300, 60, 3600), (24, 3600, 1800))
        self.assertEqual(self.start(NOON + 1830, NOON, 3600, 60), (0, 1800, -30))

    def test_any_restart(self):
        """Slots that are taken, missed while it ran, and missed while it did not, are all there
        were."""
        for seed in range(200):
            random_ = random.Random(seed)
            world = World(NOON)
            taken, missed, settled = [], 0, None
            for _ in range(8):
                schedule = Schedule(60, world.now(), settled, 60)
                missed += schedule.down
                some, more = world.run(schedule, world.steady + random_.random() * 400,
                                       lambda _, r=random_: r.random() * 100)
                taken, missed, settled = taken + some, missed + more, schedule.settled
                world.steady += random_.random() * random_.choice((10, 100, 1000))
            self.assertEqual(taken, sorted(set(taken)))
            self.assertEqual(len(taken) + missed, (settled - NOON) // 60 + 1)


if __name__ == "__main__":
    unittest.main()
