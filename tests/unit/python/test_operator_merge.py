# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk layers for real: qemu-img and a running QEMU merge them, also after a crash in the middle.

Snapshots are imitated with blockdev-snapshot-sync, so any QEMU will do: $HOTSNAP_QEMU, else the
checkout's builds. Needs root, for the cluster's network namespace.
"""

import contextlib
import os
import re
import subprocess
import tempfile
import unittest
from unittest import mock

import operator_fixtures
from hotsnap.commands import lifecycle, listing, verify
from hotsnap.disks import layers, merge
from hotsnap.errors import HotsnapError
from hotsnap.formats import qcow2, sums
from hotsnap.model import bundle, cluster
from hotsnap.model.state import State
from hotsnap.qemu import binaries
from hotsnap.qemu.fleet import Fleet
from support.tier import steps

CLUSTER = """
[cluster]
name = "merge"
accel = "tcg"
memory = "16M"
[[member]]
name = "a"
args = ["-S"]
  [[member.disk]]
  image = "golden.raw"
  format = "raw"
  interface = "{interface}"
  iothread = {iothread}
"""
DISK = 8 << 20
BLOCK = 1 << 16


def find_qemu():
    for path in (os.environ.get("HOTSNAP_QEMU"),
                 os.path.join(binaries.CHECKOUT, "build", "qemu", "qemu-system-x86_64"),
                 os.path.join(binaries.CHECKOUT, "build", "qemu-stock", "qemu-system-x86_64")):
        if path and os.access(path, os.X_OK):
            return path
    return None


class Crash(BaseException):
    """Stands for the end of the command's process: nothing tidies up after it."""


@unittest.skipUnless(find_qemu(), "no QEMU: set HOTSNAP_QEMU or run 'scripts/build qemu'")
@unittest.skipUnless(os.geteuid() == 0, "needs root, for a network namespace")
class ClusterOfOne(unittest.TestCase):
    """A member whose guest does not run: the tests write to its disk."""

    interface, iothread = "virtio-blk", "false"

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="hs-")
        self.addCleanup(folder.cleanup)
        environment = mock.patch.dict(os.environ, {"HOTSNAP_QEMU": find_qemu()})
        environment.start()
        self.addCleanup(environment.stop)
        self.folder = folder.name
        with open(self.path("golden.raw"), "wb") as stream:
            stream.write(b"golden".ljust(BLOCK, b"g"))
            stream.truncate(DISK)
        with open(self.path("cluster.toml"), "w", encoding="utf-8") as stream:
            stream.write(CLUSTER.format(interface=self.interface, iothread=self.iothread))
        self.state = State(cluster.load(self.path("cluster.toml")))
        self.fleet = Fleet(self.state, snapshots=False)
        self.addCleanup(self.end)
        self.image_tool = binaries.qemu_img()
        self.taken = {}  # tag: what the disk held
        self.content = bytearray(self.read_file(self.path("golden.raw")))

    def end(self):
        self.fleet.kill(self.fleet.names())
        self.fleet.remove_network()

    def path(self, name):
        return os.path.join(self.folder, name)

    @staticmethod
    def read_file(path):
        with open(path, "rb") as stream:
            return stream.read()

    # A cluster's life

    def up(self):
        with self.state.locked():
            lifecycle.up(self.state, self.fleet)

    def up_fresh(self):
        with self.state.locked():
            lifecycle.up(self.state, self.fleet, fresh=True)
        self.content[:] = self.read_file(self.path("golden.raw"))

    def down(self):
        with self.state.locked():
            lifecycle.down(self.state, self.fleet, force=False)

    def write(self, block, letter):
        """As the guest would, through the running QEMU's own disk."""
        with self.fleet.monitor("a") as qmp:
            device = next(d["qdev"] for d in qmp.execute("query-block")
                          if "disk0-dev" in d.get("qdev", ""))
            for command in (f"write -P {ord(letter)} {block * BLOCK} {BLOCK}", "flush"):
                self.assertEqual(qmp.hmp(f"qemu-io -d {device} \"{command}\""), "")
        self.content[block * BLOCK:(block + 1) * BLOCK] = letter.encode() * BLOCK

    def active(self):
        with self.fleet.monitor("a") as qmp:
            return self.fleet.block_info(qmp)["disk0"]["image"]["filename"]

    def take(self, tag):
        """What a snapshot leaves behind: a frozen layer, named by a bundle."""
        frozen = self.active()
        overlay = self.path(f".hotsnap/merge/members/a/a-{tag}.qcow2")
        with self.fleet.qmp("a") as qmp:
            qmp.execute("blockdev-snapshot-sync", {
                "node-name": self.fleet.block_info(qmp)["disk0"]["node-name"],
                "snapshot-file": overlay, "snapshot-node-name": f"o-{tag}"})
        operator_fixtures.make_bundle(self.state.bundles, tag, ("a",), {"a": [frozen]})
        manifest = self.bundle(tag)
        manifest.members[0].disks[0].overlay = overlay
        manifest.save_manifest()
        self.taken[tag] = bytes(self.content)

    def bundle(self, tag):
        return bundle.read(os.path.join(self.state.bundles, tag))

    def rm(self, tag):
        self.taken.pop(tag)
        with self.state.locked():
            return listing.rm(self.state, self.fleet, tag, quiet=True)

    # What must hold at all times

    def view(self, path):
        out = self.path("view.raw")
        subprocess.run([self.image_tool, "convert", "-U", "-f", "qcow2", "-O", "raw", path, out],
                       check=True)
        return self.read_file(out)

    def check(self, chain):
        """Bundles hold what they held and verify; the live disk is right; so long is the chain."""
        for tag, content in self.taken.items():
            found = self.bundle(tag)
            self.assertEqual(self.view(found.members[0].disks[0].file), content, tag)
            self.assertEqual([str(d) for d in verify.check(found).damage], [], tag)
        if self.fleet.running("a"):
            active = self.active()
        else:
            active = lifecycle.settle_disks(self.state, "a")["disk0"]
        self.assertEqual(self.view(active), bytes(self.content))
        self.assertEqual(len(qcow2.chain(active)), chain)
        known = layers.scan(merge.folders(self.state))
        for path in known:
            if path != active or not self.fleet.running("a"):
                subprocess.run([self.image_tool, "check", "-q", "-U", path], check=True)
        self.assertEqual(self.read_file(self.path("golden.raw"))[:6], b"golden")
        self.assertFalse(os.path.exists(self.state.journal))

    def three(self):
        """Snapshots 1, 2, 3 with a write before each and one after."""
        self.up()
        for number, letter in enumerate("ABC"):
            self.write(number, letter)
            self.write(10, letter)
            self.take(letter)
        self.write(3, "D")
        self.write(10, "D")


class Merging(ClusterOfOne):
    def test_live_oldest_first(self):
        self.three()
        self.check(4)
        for tag, chain in (("A", 3), ("B", 2), ("C", 1)):
            done = self.rm(tag)
            self.assertEqual(len(done["merged"]), 1)
            self.write(20, tag)
            self.check(chain)

    def test_live_newest_first(self):
        self.three()
        for tag, chain in (("C", 3), ("B", 2), ("A", 1)):
            self.rm(tag)
            self.write(20, tag)
            self.check(chain)

    def test_live_middle_then_down_and_up(self):
        self.three()
        self.rm("B")
        self.check(3)
        self.down()
        self.check(3)
        self.up()
        self.write(5, "E")
        self.check(3)

    def test_live_after_an_up(self):
        """QEMU's first node is then the topmost layer's, and is left over when that is merged."""
        for order in ("CBA", "BCA", "ABC"):
            with self.subTest(order):
                self.three()
                self.down()
                self.up()
                for tag, chain in zip(order, (3, 2, 1)):
                    self.assertEqual(len(self.rm(tag)["merged"]), 1)
                    self.write(20, tag)
                    self.check(chain)
                    with self.fleet.monitor("a") as qmp:
                        opened = [node for node in qmp.execute("query-named-block-nodes")
                                  if node["drv"] == "qcow2"]
                    self.assertEqual(len(opened), chain)
                self.down()
                self.up_fresh()
                self.down()

    def test_offline(self):
        self.three()
        self.down()
        for tag, chain in (("A", 3), ("C", 2), ("B", 1)):
            self.rm(tag)
            self.check(chain)
        self.up()
        self.write(5, "E")
        self.check(1)

    def test_layers_of_an_abandoned_branch(self):
        """After a restore of A the layers above it serve B and C alone; they go with them."""
        self.three()
        self.down()
        frozen = self.bundle("A").members[0].disks[0].file
        with self.state.locked():
            layer = self.state.new_layer("a", "disk0")
            binaries.create_overlay(self.image_tool, layer, frozen, "qcow2")
            entry = self.state.members["a"]
            entry.disks, entry.below = {"disk0": layer}, {}
            self.state.save()
        self.content[:] = self.taken["A"]
        self.up()
        self.write(7, "F")
        self.check(2)
        kept = self.rm("A")["kept_unneeded"]  # B's layer and the member's both lie over it
        self.assertEqual(kept, [frozen])
        self.check(2)
        self.rm("B")  # neither is in the running QEMU's chain: merged offline beside it
        self.check(2)
        self.assertEqual(self.rm("C")["kept_unneeded"], [])
        self.check(1)

    def test_changed_golden_image_is_refused(self):
        self.three()
        self.rm("A")
        self.down()
        golden = self.path("golden.raw")
        kept = os.stat(golden).st_mtime_ns
        os.utime(golden, ns=(kept, kept + 1))
        with self.assertRaisesRegex(HotsnapError, "golden.raw was changed since") as caught:
            self.up()
        self.assertFalse(self.fleet.running("a"))
        subprocess.run([*re.search("'(touch .*?)'", str(caught.exception))[1].split(), golden],
                       check=True)
        self.up()
        self.down()
        os.rename(golden, golden + ".away")
        with self.assertRaisesRegex(HotsnapError, "golden.raw is missing"):
            self.up()
        os.rename(golden + ".away", golden)

    def test_fresh_start_keeps_snapshots(self):
        self.three()
        self.down()
        with self.state.locked():
            lifecycle.up(self.state, self.fleet, fresh=True)
        self.content[:] = self.read_file(self.path("golden.raw"))
        self.check(1)

    def test_damaged_neighbor_keeps_all_layers(self):
        self.three()
        with open(self.bundle("B").file("manifest.json"), "w", encoding="utf-8") as stream:
            stream.write("{")
        before = set(layers.scan(merge.folders(self.state)))
        self.taken.pop("B")
        done = self.rm("A")
        self.assertIn("damaged", done["remark"])
        self.assertEqual(set(layers.scan(merge.folders(self.state))), before)


class MergingScsi(ClusterOfOne):
    interface, iothread = "virtio-scsi", "true"

    def test_live(self):
        self.three()
        for tag, chain in (("B", 3), ("C", 2), ("A", 1)):
            self.rm(tag)
            self.write(20, tag)
            self.check(chain)


class MergingIde(MergingScsi):
    interface, iothread = "ide", "false"


class Crashes(ClusterOfOne):
    def crash_at_each_step(self, first, prepare, tag, chain):
        """Let the command die at its n-th step, for every n; the next command mends it."""
        for number in steps(first, 60):
            with self.subTest(step=number):
                prepare()
                self.taken.pop(tag)
                bundle.remove(self.bundle(tag).path)
                crashed = self.tidy_until(number)
                self.state.load()
                self.up()
                with self.state.locked():
                    merge.recover(self.state, self.fleet, quiet=True)
                    merge.tidy(self.state, self.fleet, quiet=True)
                self.write(30, "Z")
                self.check(chain)
                self.fleet.kill(["a"])
                self.reset()
                if not crashed:
                    self.assertGreater(number, 6)
                    return
        self.fail("the merge has more steps than were tried")

    def tidy_until(self, step):
        """Whether tidy() came as far as its step of that number, and died there."""
        def dying(real):
            def wrapped(*arguments, **keywords):
                nonlocal step
                step -= 1
                if step == 0:
                    raise Crash
                return real(*arguments, **keywords)
            return wrapped

        places = ((merge.atomic, "write_json"), (os, "unlink"), (State, "save"),
                  (bundle.Bundle, "save_manifest"), (binaries, "run_img"), (sums, "write"),
                  (sums, "refresh"), (merge.atomic, "sync_folder"))
        with contextlib.ExitStack() as stack, self.state.locked():
            for owner, name in places:
                stack.enter_context(mock.patch.object(owner, name, dying(getattr(owner, name))))
            stack.enter_context(mock.patch.object(merge.jobs, "cancel", lambda *_: None))
            try:
                merge.tidy(self.state, self.fleet, quiet=True)
            except Crash:
                return True
        return False

    def reset(self):
        with self.state.locked():
            for tag in list(self.taken):
                bundle.remove(os.path.join(self.state.bundles, tag))
            for path in layers.scan(merge.folders(self.state)):
                os.unlink(path)
            self.state.members = {}
            self.state.save()
        self.taken = {}
        self.content = bytearray(self.read_file(self.path("golden.raw")))

    def test_crash_while_live_and_active(self):
        self.crash_at_each_step(1, self.three, "C", 3)

    def test_crash_while_live_and_frozen(self):
        self.crash_at_each_step(2, self.three, "A", 3)

    def test_crash_while_offline(self):
        def prepare():
            self.three()
            self.down()
        self.crash_at_each_step(1, prepare, "B", 3)

    def test_qemu_dies_too_in_the_middle_of_an_active_merge(self):
        """The journal tells which layer counts: the upper one before, the lower one after."""
        for stage in ("begun", "finalizing", "committed"):
            with self.subTest(stage):
                self.three()
                real = merge._Merging._note  # pylint: disable=protected-access

                def die(merging, noted, stage=stage, real=real):
                    real(merging, noted)
                    if noted == stage:
                        self.fleet.kill(["a"])
                        raise Crash

                with mock.patch.object(merge._Merging, "_note", die), \
                        mock.patch.object(merge.jobs, "cancel", lambda *_: None), \
                        self.assertRaises(BaseException):
                    self.rm("C")
                self.state.load()
                self.state.members["a"].process = None
                self.up()
                with self.state.locked():
                    merge.tidy(self.state, self.fleet, quiet=True)
                self.write(30, "Z")
                self.check(3)
                self.down()
                self.reset()


if __name__ == "__main__":
    unittest.main()
