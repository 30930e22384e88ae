# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster of one member of the fork, described by each test: its guest is a firmware that finds
nothing to boot."""

import os
import time

from hotsnap.commands import snapshot
from hotsnap.model import cluster
from hotsnap.model.state import State
from hotsnap.qemu.fleet import Fleet
from test_operator_restore import ForkOfOne

HEAD = """\
[cluster]
name = "lab"
accel = "tcg"
memory = "16M"
"""


class Lab(ForkOfOne):
    def describe(self, member, head=HEAD):
        """Writes the cluster file: `member` is what stands under [[member]] after its name."""
        with open(self.path("cluster.toml"), "w", encoding="utf-8") as stream:
            stream.write(f'{head}[[member]]\nname = "a"\n{member}')
        self.state = State(cluster.load(self.path("cluster.toml")))
        self.fleet = Fleet(self.state)

    def refused(self, member, *parts, head=HEAD, call=None):
        """The description is refused with one line that has these parts."""
        with self.assertRaises(Exception) as caught:
            self.describe(member, head)
            (call or self.up)()
        message = str(caught.exception)
        for part in parts:
            self.assertIn(part, message)
        self.assertNotIn("\n", message)
        self.assertFalse(self.fleet.running("a"))

    def end(self):
        if os.path.exists(self.state.directory):
            super().end()

    def take_snapshot(self, tag, **options):
        with self.state.locked():
            return snapshot.snapshot(self.state, self.fleet, tag, quiet=True, **options)

    def restore_from(self, tag):
        with self.state.locked():
            snapshot.restore(self.state, self.fleet, self.bundle(tag), replace=True, quiet=True)

    def monitor(self, command, **arguments):
        with self.fleet.monitor("a") as qmp:
            return qmp.execute(command, arguments)

    def device(self, name):
        """query-block's entry of a disk, as in disk0."""
        return next(each for each in self.monitor("query-block")
                    if f"{name}-dev" in each.get("qdev", "") + each["device"])

    def wait(self, condition, timeout=60):
        deadline = time.monotonic() + timeout
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
