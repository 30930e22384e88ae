# SPDX-License-Identifier: GPL-2.0-or-later
"""hotsnap ship, killed at each of its steps: the store holds whole snapshots only, and the last one
that was whole before; the next run goes on. The steps are those that change the store. And hotsnap
ship beside commands that take and remove snapshots all the time."""

import contextlib
import os
import shutil
import signal
import time
import unittest
from unittest import mock

from hotsnap.commands import listing, ship
from hotsnap.disks import journal
from hotsnap.formats import sums
from hotsnap.host import atomic
from hotsnap.model import reading
from hotsnap.model.state import Locked
from hotsnap.qemu import binaries
from hotsnap.store import ledger, transfer, unfinished
from hotsnap.store.folder import Folder
from ship_fixtures import Shipping
from support.tier import left_to_all, steps
from test_operator_restore import in_child, killer


class Killed(Shipping):
    """The source stays as it is, so that its snapshots are taken once."""

    def killed(self, step, keep):
        def work():
            self.die_at(step)
            self.ship(keep=keep)

        return os.WIFSIGNALED(in_child(work))

    @staticmethod
    def die_at(step):
        dying = killer(step)
        for owner, name in ((atomic, "sync_file"), (atomic, "sync_folder"), (atomic, "write_json"),
                            (ledger, "write_json"), (journal, "write_json"),
                            (unfinished, "write_json"), (os, "unlink"),
                            (os, "rename"), (os, "pwrite"), (sums, "write"), (sums, "refresh"),
                            (binaries, "run_img"), (transfer, "difference")):
            setattr(owner, name, dying(getattr(owner, name)))

    def test_at_each_step(self):
        self.begin()
        self.snapshots("t1")
        self.ship(keep=1)
        first = self.path("first")
        shutil.copytree(self.store, first)
        self.snapshots("t2", "t3")
        self.down()
        for step in steps(3, 400, one_in=14):
            with self.subTest(step=step):
                shutil.rmtree(self.store)
                shutil.copytree(first, self.store)
                died = self.killed(step, keep=1)
                there = self.in_store()
                self.assertIn(there, (["t1"], ["t1", "t2"], ["t1", "t2", "t3"], ["t2", "t3"],
                                      ["t3"]))
                self.assertEqual(self.wrong(), [])
                with self.state.locked():
                    self.assertEqual(reading.layers(self.state), set())
                self.ship(keep=1)
                self.assertEqual((self.in_store(), self.wrong()), (["t3"], []))
                self.assertEqual(self.files(), self.needed())
                self.assertEqual(len(self.files()), 2)
                self.assertEqual(sorted(os.listdir(self.store)),
                                 ["golden", "layers", "lock", "snapshots", "store.json"])
                self.assertEqual(os.listdir(os.path.join(self.store, "snapshots")), ["t3.json"])
                if not died:
                    print(f"# at most {step} steps")
                    self.assertGreater(step, 40)
                    return
        self.fail("the command has more steps than were tried")

    def test_it_goes_on(self):
        """What was sent as a whole is not sent again."""
        self.begin()
        self.snapshots("t1")
        child = os.fork()
        if not child:
            try:  # it dies when it has sent disk0 and its golden image, before disk1
                Folder.send_layer = killer(2)(Folder.send_layer)
                self.ship()
            finally:
                os._exit(0)
        self.assertTrue(os.WIFSIGNALED(os.waitpid(child, 0)[1]))
        self.assertEqual(self.in_store(), [])
        copied = []
        real = transfer.copy

        def count(layer, *arguments):
            copied.append(os.path.basename(layer.path))
            return real(layer, *arguments)

        with mock.patch.object(transfer, "copy", count), \
                mock.patch.object(binaries, "create_copy", side_effect=AssertionError):
            self.ship()
        self.assertEqual(copied, ["disk1-2.qcow2"])
        self.assertEqual((self.in_store(), self.wrong()), (["t1"], []))
        self.assertFalse(os.path.exists(os.path.join(self.store, "unfinished.json")))


class Meanwhile(Shipping):
    def test_snapshots_come_and_go(self):
        rounds = 4 if left_to_all("11 of 15 snapshots that come and go while others are sent") else 15
        self.begin()
        self.snapshots("t0")
        child = os.fork()
        if not child:
            try:
                self.follow()
            finally:
                os._exit(0)
        try:
            for number in range(1, rounds):
                self.when_free(self.snapshots, f"t{number}")
                if number >= 2:
                    self.when_free(self.remove, f"t{number - 2}")
            self.wait_for(f"t{rounds - 1}")
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
        print(f"# shipped {' '.join(self.in_store())}")
        self.assertEqual(self.wrong(), [])
        with self.state.locked():
            self.assertEqual(reading.layers(self.state), set())

    def follow(self):
        def end(*_):
            os._exit(0)  # as a killed command

        signal.signal(signal.SIGTERM, end)
        with open(os.devnull, "w", encoding="ascii") as nowhere, \
                contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            ship.LOOK = ship.POLL = 0.02
            ship.Ship("g", self.target(), self.open).follow()

    def remove(self, tag):
        with self.state.locked():
            listing.rm(self.state, self.fleet, tag, quiet=True)

    @staticmethod
    def when_free(work, *arguments):
        while True:
            try:
                return work(*arguments)
            except Locked:
                time.sleep(0.02)

    def wait_for(self, tag):
        deadline = time.monotonic() + 60
        while tag not in self.in_store():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.1)


if __name__ == "__main__":
    unittest.main()
