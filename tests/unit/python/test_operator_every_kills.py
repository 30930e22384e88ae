# SPDX-License-Identifier: GPL-2.0-or-later
"""hotsnap every with a real member of the fork, killed at each of its steps: the next start goes on
with the same series, every bundle verifies, and no disk layer is lost or left over."""

import contextlib
import io
import os
import shutil
import time
import unittest

from every_fixtures import Clock
from hotsnap.commands import every, series_work, snapshot
from hotsnap.disks import journal, layers, merge
from hotsnap.errors import Interrupted
from hotsnap.formats import qcow2, sums
from hotsnap.model import bundle, cluster, series_state
from hotsnap.model.series import Keep
from hotsnap.model.state import State
from hotsnap.qemu import binaries
from hotsnap.qemu.fleet import Fleet
from hotsnap.qemu.qmp import Qmp
from support.tier import steps
from test_operator_restore import ForkOfOne, in_child, killer


class PatientClock(Clock):
    """While the command waits for QEMU, some time goes by for QEMU too."""

    def sleep(self, seconds):
        time.sleep(0.03)
        super().sleep(seconds)


class Killed(ForkOfOne):
    def every(self, slots):
        """Runs the command for so many slots; returns what it said."""
        clock = PatientClock(self.wall, 60 * slots - 10)
        plan = every.Plan(60, Keep(newest=1), series_work.Wanted("every"), as_json=True)
        with contextlib.redirect_stdout(io.StringIO()) as out, \
                contextlib.redirect_stderr(out), contextlib.suppress(Interrupted):
            every.Every(plan, self.open, clock).run()
        return out.getvalue()

    def open(self):
        state = State(cluster.load(self.path("cluster.toml")))
        return state, Fleet(state)

    def killed(self, step):
        """Whether the command came as far as its step of that number. It takes two snapshots, and
        removes one."""
        def work():
            self.die_at(step)
            self.every(2)

        return os.WIFSIGNALED(in_child(work))

    @staticmethod
    def die_at(step):
        dying = killer(step)
        real = Qmp.execute

        def execute(qmp, command, *arguments, **keywords):
            if command in ("hotsnap-cluster", "block-commit", "job-finalize"):
                return dying(real, after=True)(qmp, command, *arguments, **keywords)
            return real(qmp, command, *arguments, **keywords)

        Qmp.execute = execute
        for owner, name in ((series_state, "write"), (State, "save"), (snapshot.jobs, "follow"),
                            (shutil, "rmtree"), (journal, "write"), (merge, "tidy"),
                            (bundle.Bundle, "save_manifest"), (sums, "write"),
                            (sums, "refresh"), (binaries, "run_img")):
            setattr(owner, name, dying(getattr(owner, name)))

    def at_each_step(self, first, afterwards):
        for step in steps(first, 200, one_in=6):
            with self.subTest(step=step):
                self.wall = 1795780801.0  # 2026-11-27T12:00:01Z
                self.up()
                self.write(0, "A")
                died = self.killed(step)
                self.state.load()
                afterwards()
                self.up()
                self.wall += 60 * 5
                said = self.every(3)
                self.state.load()
                self.assert_whole(said)
                self.down()
                shutil.rmtree(self.state.bundles)
                os.unlink(self.state.series)
                self.up_fresh()
                self.down()
                if not died:
                    self.assertGreater(step, 20)
                    return
        self.fail("the command has more steps than were tried")

    def assert_whole(self, said):
        record = series_state.read(self.state.series)
        self.assertEqual((record.pending, record.removing), (None, None), said)
        self.assertEqual(os.listdir(self.state.bundles), [e.tag for e in record.made], said)
        self.assertEqual(len(record.made), 1, said)
        self.assertEqual(record.taken - record.pruned, 1, said)
        self.assertIn('"taken"', said)
        self.assertEqual(set(layers.scan(merge.folders(self.state))),
                         set(qcow2.chain(self.active())))
        self.taken = {record.made[0].tag: bytes(self.content)}
        self.write(9, "Z")
        self.check(2)  # verifies the bundle, and compares the guest's disk
        self.taken = {}

    def test_members_run_on(self):
        self.at_each_step(1, lambda: None)

    def test_the_host_fails_too(self):
        self.at_each_step(4, lambda: self.fleet.kill(["a"]))


if __name__ == "__main__":
    unittest.main()
