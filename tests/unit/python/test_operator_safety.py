# SPDX-License-Identifier: GPL-2.0-or-later
"""No layer that anybody needs is ever deleted: what happens beside the command, and in its way."""

import contextlib
import os
import time
import unittest
from unittest import mock

import operator_fixtures  # noqa: F401
from hotsnap import layers, lifecycle, listing, merge
from hotsnap.errors import HotsnapError
from test_operator_merge import ClusterOfOne


class BesideTheCommand(ClusterOfOne):
    """Layers that QEMU itself moves while a command plans: the undo of an aborted snapshot."""

    def cut(self):
        """An overlay that no bundle will name; returns its file."""
        overlay = self.path(".hotsnap/merge/members/a/a-aborted.qcow2")
        with self.fleet.qmp("a") as qmp:
            qmp.execute("blockdev-snapshot-sync", {
                "node-name": self.fleet.block_info(qmp)["disk0"]["node-name"],
                "snapshot-file": overlay, "snapshot-node-name": "o-aborted"})
        return overlay

    def undo(self, overlay):
        with self.fleet.monitor("a") as qmp:
            qmp.execute("block-commit", {"job-id": "undo", "device": "o-aborted",
                                         "base-node": "o-A"})
            deadline = time.monotonic() + 10
            while any(job["id"] == "undo" for job in qmp.execute("query-jobs")):
                self.assertLess(time.monotonic(), deadline)
                with contextlib.suppress(Exception):
                    qmp.execute("job-complete", {"id": "undo"})
                time.sleep(0.02)
        os.unlink(overlay)

    def prepare(self):
        self.up()
        self.write(0, "A")
        self.take("A")
        self.write(1, "B")
        overlay = self.cut()
        self.write(2, "C")
        return overlay

    def undo_after(self, owner, name, overlay):
        """The undo ends just after the first call of that function."""
        real = getattr(owner, name)
        left = [overlay]

        def wrapped(*arguments, **keywords):
            value = real(*arguments, **keywords)
            if left:
                self.undo(left.pop())
            return value
        return mock.patch.object(owner, name, wrapped)

    def test_undo_ends_between_plan_and_merge(self):
        overlay = self.prepare()
        with self.undo_after(layers, "plan", overlay):
            done = self.rm("A")
        self.assertEqual(len(done["merged"]), 1)  # as planned anew
        self.check(1)
        self.down()
        self.check(1)
        self.up()
        self.check(1)

    def test_undo_ends_between_scan_and_plan(self):
        overlay = self.prepare()
        with self.undo_after(layers, "scan", overlay):
            self.rm("A")
        self.check(1)

    def test_a_job_under_way_is_waited_for(self):
        overlay = self.prepare()
        with self.fleet.qmp("a") as qmp:
            qmp.execute("block-commit", {"job-id": "x", "device": "o-aborted",
                                         "base-node": "o-A", "speed": 1})
            with self.assertRaisesRegex(HotsnapError, "a job moves the disk layers of member a"), \
                    self.state.locked():
                listing.rm(self.state, self.fleet, "A", quiet=True)
            self.assertTrue(os.path.isdir(os.path.join(self.state.bundles, "A")))
            with self.state.locked():
                merge.collect(self.state, self.fleet)  # it can wait
            qmp.execute("block-job-cancel", {"device": "x"})
            deadline = time.monotonic() + 10
            while qmp.execute("query-jobs") and time.monotonic() < deadline:
                time.sleep(0.02)
        self.undo(overlay)
        self.rm("A")
        self.check(1)

    def test_an_open_file_is_never_deleted(self):
        """Whatever the plan says."""
        overlay = self.prepare()
        self.undo(overlay)
        wrong = [layers.Delete(self.active())]
        with mock.patch.object(layers, "plan", lambda *_: wrong), \
                self.assertRaisesRegex(HotsnapError, "member a uses it"), self.state.locked():
            merge.tidy(self.state, self.fleet, quiet=True)
        self.check(2)


if __name__ == "__main__":
    unittest.main()
