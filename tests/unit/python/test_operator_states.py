# SPDX-License-Identifier: GPL-2.0-or-later
"""Members that do not run when the snapshot is taken: each goes on, and comes back, in its own
state. Their guests are firmware; the monitor writes to the chipset in the guests' place."""

import struct
import subprocess
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

from lab_fixtures import HEAD, Lab
from support.gate import Gate

PM1_CONTROL = 0x604   # of q35, where its firmware puts it
SUSPEND = 0x2400      # S3
PANICKED = "o /b 0x505 1"  # to pvpanic

MEMBERS = '''
[[member]]
name = "paused"
[[member]]
name = "suspended"
[[member]]
name = "guest-panicked"
args = ["-device", "pvpanic", "-action", "panic=pause"]
[[member]]
name = "io-error"
args = ["-global", "virtio-blk-device.rerror=stop"]
  [[member.disk]]
  image = "broken.qcow2"
'''


class States(Lab):
    def setUp(self):
        super().setUp()
        self.describe(MEMBERS, HEAD.replace("16M", '32M"\nmachine = "q35'))

    def describe(self, member, head):
        self.break_an_image()
        super().describe(member, head)

    def break_an_image(self):
        """Its first cluster cannot be read: its place is not at a cluster's begin."""
        path = self.path("broken.qcow2")
        subprocess.run([self.image_tool, "create", "-q", "-f", "qcow2", path, "8M"], check=True)
        subprocess.run([self.image_tool.replace("qemu-img", "qemu-io"), "-c", "write 0 64k", path],
                       check=True, stdout=subprocess.DEVNULL)
        with open(path, "r+b") as stream:
            stream.seek(40)
            l1, = struct.unpack(">Q", stream.read(8))
            stream.seek(l1)
            l2, = struct.unpack(">Q", stream.read(8))
            l2 &= (1 << 56) - 512
            stream.seek(l2)
            stream.write(struct.pack(">Q", 1 << 63 | 0x50200))

    def ask(self, name, command, **arguments):
        with self.fleet.monitor(name) as qmp:
            return qmp.execute(command, arguments)

    def status(self, name):
        return self.ask(name, "query-status")["status"]

    def reach(self, name, status):
        deadline = time.monotonic() + 60
        while self.status(name) != status:
            self.assertLess(time.monotonic(), deadline, f"{name} is {self.status(name)}")
            time.sleep(0.02)

    def hmp(self, name, command):
        with self.fleet.monitor(name) as qmp:
            qmp.hmp(command)

    def started(self, name):
        """The firmware has set the chipset up."""
        with self.fleet.monitor(name) as qmp:
            deadline = time.monotonic() + 60
            while "acpi-cnt" not in qmp.hmp("info mtree -f"):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)

    def bring_about(self):
        self.up()
        self.ask("paused", "stop")
        self.started("suspended")
        self.hmp("suspended", f"o /h {PM1_CONTROL} {SUSPEND}")
        self.hmp("guest-panicked", PANICKED)
        self.each_is_what_its_name_says()

    def each_is_what_its_name_says(self):
        self.reach("a", "running")
        for name in ("paused", "suspended", "guest-panicked", "io-error"):
            self.reach(name, name)

    def test_each_comes_back_in_its_own_state(self):
        self.bring_about()
        self.take_snapshot("t1")
        self.each_is_what_its_name_says()
        self.snapshot_of_changes("t2")
        changed = {"a": "paused", "paused": "running", "suspended": "running",
                   "io-error": "io-error"}
        for name, status in changed.items():
            self.reach(name, status)
        self.restore_from("t1")
        self.each_is_what_its_name_says()
        self.ask("paused", "cont")
        self.ask("suspended", "system_wakeup")
        self.ask("io-error", "cont")
        for name in ("paused", "suspended"):
            self.reach(name, "running")
        self.reach("io-error", "io-error")  # it has tried again
        self.restore_from("t2")
        for name, status in changed.items():
            self.reach(name, status)

    def snapshot_of_changes(self, tag):
        """Members change their states while it is prepared: that of the cut counts."""
        own = self.state.address

        def address(name):
            return f"unix:{gate.path}" if name == "paused" else own(name)

        with Gate(self.state.paths("paused").listen, Path(self.path("gate")), "ARM") as gate, \
                mock.patch.object(self.state, "address", address):
            taking = threading.Thread(target=self.take_snapshot, args=(tag,))
            taking.start()
            while self.ask("a", "query-hotsnap")["phase"] != "arm":
                self.assertTrue(taking.is_alive())
                time.sleep(0.02)
            self.ask("a", "stop")
            self.ask("paused", "cont")
            self.ask("suspended", "system_wakeup")
            gate.open()
            taking.join()


if __name__ == "__main__":
    unittest.main()
