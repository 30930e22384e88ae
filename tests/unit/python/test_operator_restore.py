# SPDX-License-Identifier: GPL-2.0-or-later
"""A restore keeps what it replaces until it has succeeded, also when it or the host dies; and what
a snapshot says that lost its initiator is true.

Members are real ones of the fork: $HOTSNAP_QEMU, else the checkout's build. Their guest is a BIOS
that finds nothing to boot, so what their disks hold was written by the tests.
"""

import os
import signal
import subprocess
import time
import unittest
from unittest import mock

import test_operator_merge
from hotsnap.commands import lifecycle, listing, recovery, snapshot
from hotsnap.disks import layers, merge
from hotsnap.errors import HotsnapError
from hotsnap.formats import qcow2
from hotsnap.host import process
from hotsnap.model import bundle
from hotsnap.model.state import State
from hotsnap.qemu import binaries, fleet, launch
from hotsnap.qemu.qmp import Qmp, QmpClosed, QmpTimeout
from support.tier import steps
from test_operator_merge import ClusterOfOne, find_qemu


def is_fork():
    qemu = find_qemu()
    return qemu and b"hotsnap-member" in subprocess.run(
        [qemu, "-object", "help"], capture_output=True, check=False).stdout


def killer(step):
    """Makes functions that count as steps: the process ends by SIGKILL at the step of that number,
    before it or `after` it."""
    def dying(real, after=False):
        def wrapped(*arguments, **keywords):
            nonlocal step
            step -= 1
            last = step == 0
            if last and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            value = real(*arguments, **keywords)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return value
        return wrapped

    return dying


def in_child(work):
    """Does work in a process of its own, and returns how that ended, as waitpid tells it."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@unittest.skipUnless(is_fork(), "no fork of QEMU: run 'scripts/build qemu'")
class ForkOfOne(ClusterOfOne):
    def setUp(self):
        running = test_operator_merge.CLUSTER.replace('args = ["-S"]', "")
        with mock.patch.object(test_operator_merge, "CLUSTER", running):
            super().setUp()
        self.fleet.snapshots = True

    def snapshot(self, **options):
        with self.state.locked():
            snapshot.snapshot(self.state, self.fleet, "t1", quiet=True, **options)

    def reach(self, phase):
        deadline = time.monotonic() + 120
        with self.fleet.monitor("a") as qmp:
            while qmp.execute("query-hotsnap")["phase"] != phase:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)


class Snapshots(ForkOfOne):
    def fail(self, error, pattern, real=None, **options):
        def watch(*arguments):
            if real:
                real(*arguments)
            raise error
        with mock.patch.object(snapshot.jobs, "_watch", watch), \
                self.assertRaisesRegex(HotsnapError, pattern):
            self.snapshot(**options)

    def test_the_initiator_does_not_answer(self):
        self.up()
        self.fail(QmpTimeout("query-jobs: no answer"),
                  "member a does not answer.*not cancelled and may still complete; 'hotsnap ls'")
        self.reach("committed")
        self.rm_it()
        self.snapshot()

    def test_the_initiator_ends_when_all_is_done(self):
        self.up()
        self.fail(QmpClosed("QEMU closed the QMP connection"),
                  "snapshot 't1' is complete, but QEMU",
                  snapshot.jobs._watch)  # pylint: disable=protected-access

    def test_the_initiator_ends(self):
        self.up()

        def kill(*_):
            self.power_loss()
        self.fail(QmpClosed("QEMU closed the QMP connection"),
                  "snapshot 't1' failed: QEMU closed.*member a ended", kill,
                  bandwidth=1)  # it is still copying

    def power_loss(self):
        process.end(self.state.members["a"].process)

    def rm_it(self):
        with self.state.locked():
            listing.rm(self.state, self.fleet, "t1", quiet=True)


class Restoring(ForkOfOne):
    def prepare(self):
        """A snapshot, and work since that is in none."""
        self.up()
        self.write(0, "A")
        self.snapshot()
        self.taken["t1"] = bytes(self.content)
        self.write(1, "B")
        self.write(0, "C")

    def restore(self):
        with self.state.locked():
            snapshot.restore(self.state, self.fleet, self.bundle("t1"), replace=True, quiet=True)

    def killed(self, step):
        """Restore in a process that is killed at its n-th step. Whether it came so far, and
        whether the members had been told to load."""
        told = self.path("told")

        def work():
            self.die_at(step, told)
            self.restore()

        status = in_child(work)
        self.state.load()
        came = os.path.exists(told)
        if came:
            os.unlink(told)
        return os.WIFSIGNALED(status), came

    @staticmethod
    def die_at(step, told):
        dying = killer(step)
        real = Qmp.execute

        def execute(qmp, command, *arguments, **keywords):
            if command == "hotsnap-restore":
                open(told, "w", encoding="ascii").close()
                return dying(real, after=True)(qmp, command, *arguments, **keywords)
            return real(qmp, command, *arguments, **keywords)

        Qmp.execute = execute
        for owner, name in ((State, "save"), (binaries, "run_img"), (launch, "start"),
                            (snapshot.jobs, "follow"), (os, "unlink"), (merge, "collect")):
            setattr(owner, name, dying(getattr(owner, name)))
        launch.start = dying(launch.start, after=True)  # a member that nobody has noted

    def strays(self):
        return process.find("-pidfile", self.state.paths("a").pidfile)

    def power_loss(self):
        for stray in self.strays():
            process.end(stray)

    def is_whole(self):
        """The snapshot is, members work, and there is no layer too many."""
        self.assertEqual(len(self.strays()), 1)
        self.assertIsNone(self.state.restoring)
        content = self.view(self.active())
        self.assertEqual(set(layers.scan(merge.folders(self.state))),
                         set(qcow2.chain(self.active())))
        self.content[:] = content
        self.write(20, "Z")
        self.check(2)
        return content

    def at_each_step(self, first, afterwards):
        for step in steps(first, 60):
            with self.subTest(step=step):
                self.prepare()
                expected = bytes(self.content)
                died, told = self.killed(step)
                afterwards()
                self.up()
                content = self.is_whole()
                if not told:
                    self.assertEqual(content, expected)
                else:
                    self.assertIn(content, (expected, self.taken["t1"]))
                self.down()
                self.reset()
                if not died:
                    self.assertGreater(step, 8)
                    return
        self.fail("a restore has more steps than were tried")

    def reset(self):
        bundle.remove(self.bundle("t1").path)
        self.taken = {}
        self.up_fresh()
        self.down()

    def test_killed_at_each_step(self):
        self.at_each_step(1, lambda: None)

    def test_host_dies_at_each_step(self):
        self.at_each_step(2, self.power_loss)

    def test_interrupted_twice(self):
        self.prepare()
        with mock.patch.object(snapshot.jobs, "follow", side_effect=KeyboardInterrupt), \
                mock.patch.object(recovery.os, "unlink", side_effect=KeyboardInterrupt), \
                mock.patch.object(fleet.Fleet, "_ended"), \
                mock.patch.object(fleet.Fleet, "start", side_effect=KeyboardInterrupt), \
                self.assertRaises(KeyboardInterrupt):
            self.restore()
        self.state.load()
        self.assertTrue(self.state.restoring)
        self.up()
        self.assertEqual(self.is_whole()[:2 << 16], b"C" * (1 << 16) + b"B" * (1 << 16))

    def test_it_succeeds_without_its_command(self):
        for died in (False, True):
            with self.subTest(died=died):
                self.prepare()
                self.succeed_alone()
                self.content[:] = self.taken["t1"]
                self.write(5, "Q")
                if died:
                    self.power_loss()
                self.up()
                self.is_whole()
                self.down()
                self.up()
                self.is_whole()
                self.down()
                self.reset()

    def succeed_alone(self):
        """The command dies once it has told the members to load."""
        for step in range(1, 60):
            _, told = self.killed(step)
            if told:
                break
            self.up()
        self.reach("restored")

    def test_down_comes_first(self):
        self.prepare()
        expected = bytes(self.content)
        self.killed_before_it_tells()
        self.down()
        self.assertIsNone(self.state.restoring)
        self.assertEqual(self.strays(), [])
        self.up()
        self.assertEqual(self.is_whole(), expected)
        self.restore()
        self.assertEqual(self.is_whole(), self.taken["t1"])

    def killed_before_it_tells(self):
        """As late as can be before that."""
        for step in range(1, 60):
            if self.strays() and self.state.restoring:
                return
            self.up()
            _, told = self.killed(step)
            self.assertFalse(told)

    def test_the_next_restore(self):
        self.prepare()
        self.killed_before_it_tells()
        self.restore()
        self.assertEqual(self.is_whole(), self.taken["t1"])

    def test_a_member_does_not_tell(self):
        self.prepare()
        self.succeed_alone()
        before = set(layers.scan(merge.folders(self.state)))
        with mock.patch.object(fleet.Fleet, "monitor", side_effect=HotsnapError("hangs")), \
                self.assertRaisesRegex(HotsnapError, "does not tell.*hangs"):
            self.up()
        self.assertEqual(before, set(layers.scan(merge.folders(self.state))))
        self.up()
        self.assertEqual(self.is_whole(), self.taken["t1"])

    def test_its_members_are_being_started(self):
        self.prepare()
        self.succeed_alone()
        told = [("inmigrate", "start"), ("paused", "start"), ("running", "restored")]
        with mock.patch.object(recovery, "_standing", side_effect=told) as asked:
            self.up()
        self.assertEqual(asked.call_count, 3)
        self.assertEqual(self.is_whole(), self.taken["t1"])

    def test_its_members_do_not_start(self):
        self.prepare()
        self.succeed_alone()
        with mock.patch.object(recovery, "_standing", return_value=("paused", "start")), \
                mock.patch.object(recovery, "START_TIMEOUT", 0.1), \
                self.assertRaisesRegex(HotsnapError, "give the command again soon"):
            self.up()
        self.up()
        self.assertEqual(self.is_whole(), self.taken["t1"])

    def test_nothing_was_ended_yet(self):
        self.prepare()
        before = self.strays()
        with self.state.locked():
            recovery.begin_restore(self.state, self.fleet, "t1", {"a": ["disk0"]})
        self.up()
        self.assertEqual(self.strays(), before)
        self.assertIsNone(self.state.restoring)
        self.check(2)

    def test_a_member_that_nobody_noted(self):
        self.prepare()
        self.killed_before_it_tells()
        self.assertFalse(self.fleet.running("a"))
        self.state.restoring = None
        self.state.save()
        for command in (self.up, self.restore):
            with self.assertRaisesRegex(HotsnapError, "no command has noted: 'hotsnap down"):
                command()
            self.assertEqual(len(self.strays()), 1)
        with self.state.locked():
            lifecycle.down(self.state, self.fleet, force=True)
        self.assertEqual(self.strays(), [])

    def test_written(self):
        self.prepare()
        self.restore()
        self.assertFalse(qcow2.written(self.active()))
        self.write(100, "X")
        self.assertTrue(qcow2.written(self.active()))


if __name__ == "__main__":
    unittest.main()
