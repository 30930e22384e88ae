# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of 'hotsnap ship' share: a member of the fork with two disks in one group, whose
content is known at each snapshot, and a store."""

import contextlib
import io
import os
import subprocess
from unittest import mock

import test_operator_merge
from hotsnap.commands import ship, snapshot
from hotsnap.model import cluster, groups
from hotsnap.model.state import State
from hotsnap.qemu import binaries
from hotsnap.qemu.fleet import Fleet
from hotsnap.store.folder import Folder
from test_operator_restore import ForkOfOne

EMPTY_DISK = '\n  [[member.disk]]\n  size = "8M"\n  serial = "data"\n  labels.tier = "db"\n'
EMPTY_SIZE = 8 << 20


class Shipping(ForkOfOne):
    """disk0 lies over a golden image, disk1 over nothing. `held` is tag to what the two held."""

    def setUp(self):
        with mock.patch.object(test_operator_merge, "CLUSTER",
                               test_operator_merge.CLUSTER + EMPTY_DISK):
            super().setUp()
        self.store = self.path("store")
        os.mkdir(self.store)
        self.held = {}
        self.data = bytearray(EMPTY_SIZE)

    def begin(self):
        self.up()
        groups.add(self.state, "g", ["a"])

    def both(self, block, letter):
        """Writes to both disks as the guest would."""
        self.write(block, letter)
        with self.fleet.monitor("a") as qmp:
            device = next(d["qdev"] for d in qmp.execute("query-block")
                          if "disk1-dev" in d.get("qdev", ""))
            at, size = block * test_operator_merge.BLOCK, test_operator_merge.BLOCK
            for command in (f"write -P {ord(letter.lower())} {at} {size}", "flush"):
                self.assertEqual(qmp.hmp(f"qemu-io -d {device} \"{command}\""), "")
        self.data[at:at + size] = letter.lower().encode() * size

    def take_group(self, tag):
        with self.state.locked():
            snapshot.snapshot(self.state, self.fleet, tag, quiet=True, group="g")
        self.held[tag] = {"disk0": bytes(self.content), "disk1": bytes(self.data)}

    def snapshots(self, *tags):
        """One for each tag, with writes before it that overwrite some of those before."""
        for number, tag in enumerate(tags, len(self.held)):
            self.both(number % 30, "ABCDEFGHIJKLMNOPQRST"[number % 20])
            self.both(40, "ABCDEFGHIJKLMNOPQRST"[number % 20])
            self.take_group(tag)

    def open(self):
        state = State(cluster.load(self.path("cluster.toml")))
        return state, Fleet(state)

    def target(self, where=None):
        return Folder(where or self.store, binaries.qemu_img())

    def ship(self, where=None, keep=None, **options):
        """Returns the round, and what was said."""
        self.said = io.StringIO()
        work = ship.Ship("g", self.target(where), self.open, keep, **options)
        with contextlib.redirect_stdout(self.said), contextlib.redirect_stderr(self.said):
            return work.once()

    # What must hold at all times

    def in_store(self, where=None):
        return [one.tag for one in self.target(where).snapshots()]

    def wrong(self, where=None):
        """What is not as it was at the cut, of all snapshots in the store."""
        found = list(self.target(where).damage(None))
        for one in self.target(where).snapshots():
            for disk in one.disks:
                file = os.path.join(where or self.store, "layers", disk.file)
                subprocess.run([self.image_tool, "check", "-q", file], check=True)
                if self.view(file) != self.held[one.tag][disk.disk]:
                    found.append(f"{one.tag}: {disk.disk} is not what it was")
            if len(one.disks) != 2:
                found.append(f"{one.tag} is not whole")
        return found

    def files(self, where=None):
        folder = os.path.join(where or self.store, "layers")
        return sorted(name for name in os.listdir(folder) if name.endswith(".qcow2"))

    def needed(self, where=None):
        """The files in layers/ that some snapshot needs."""
        store = self.target(where)
        return sorted({os.path.basename(path) for one in store.snapshots() for disk in one.disks
                       for path in store._chain(disk.file)  # pylint: disable=protected-access
                       if os.path.basename(os.path.dirname(path)) == "layers"})
