# SPDX-License-Identifier: GPL-2.0-or-later
"""Which layers to delete and to merge: scenarios, and random trees against a model of contents."""

import os
import random
import struct
import tempfile
import unittest

from hotsnap.disks import layers
from hotsnap.disks.layers import Delete, Merge
from hotsnap.errors import HotsnapError
from hotsnap.formats import qcow2


class Plan(unittest.TestCase):
    def test_nothing_to_do(self):
        chain = {"L0": "golden", "L1": "L0", "L2": "L1"}
        self.assertEqual(layers.plan(chain, {"L0", "L1", "L2"}), [])

    def test_oldest_snapshot_goes(self):
        # Bundle 1 froze L0, bundle 2 froze L1, the member writes to L2.
        chain = {"L0": "golden", "L1": "L0", "L2": "L1"}
        self.assertEqual(layers.plan(chain, {"L1", "L2"}), [Merge("L0", ("L1",), ("L2",))])

    def test_newest_snapshot_goes(self):
        chain = {"L0": "golden", "L1": "L0", "L2": "L1"}
        self.assertEqual(layers.plan(chain, {"L0", "L2"}), [Merge("L1", ("L2",), ())])

    def test_all_snapshots_go(self):
        chain = {"L0": "golden", "L1": "L0", "L2": "L1", "L3": "L2"}
        self.assertEqual(layers.plan(chain, {"L3"}), [Merge("L0", ("L3", "L2", "L1"), ())])

    def test_abandoned_branch_is_deleted(self):
        # Restored from bundle 1 (L0) into L9; what was written after bundle 2 (L1) is L2.
        tree = {"L0": "golden", "L1": "L0", "L2": "L1", "L9": "L0"}
        self.assertEqual(layers.plan(tree, {"L0", "L1", "L9"}), [Delete("L2")])

    def test_branch_under_an_unneeded_layer_is_kept(self):
        # L0 is no snapshot any more, but both L1 (bundle 2) and L9 (the member) lie over it.
        tree = {"L0": "golden", "L1": "L0", "L9": "L0"}
        self.assertEqual(layers.plan(tree, {"L1", "L9"}), [])

    def test_deleting_makes_a_merge_possible(self):
        tree = {"L0": "golden", "L1": "L0", "L9": "L0"}
        self.assertEqual(layers.plan(tree, {"L9"}), [Delete("L1"), Merge("L0", ("L9",), ())])

    def test_golden_images_are_never_touched(self):
        for needed in (set(), {"L0"}):
            for action in layers.plan({"L0": "golden"}, needed):
                self.assertNotIn("golden", (getattr(action, "path", ""),
                                            getattr(action, "base", "")))

    def test_random_trees(self):
        for seed in range(3000):
            with self.subTest(seed=seed):
                self.check(random.Random(seed))

    def check(self, rng):
        count = rng.randrange(1, 14)
        tree = {f"L{i:02}": f"L{rng.randrange(i):02}" if i and rng.random() < 0.9 else "golden"
                for i in range(count)}
        needed = {name for name in tree if rng.random() < 0.4}
        # What each layer holds itself: a few of ten blocks.
        own = {name: {rng.randrange(10): name for _ in range(rng.randrange(5))} for name in tree}
        before = {name: self.view(name, tree, own) for name in needed}
        after, renamed = self.execute(tree, own, layers.plan(tree, needed))
        for name in needed:
            self.assertEqual(self.view(renamed.get(name, name), after, own), before[name])
        self.assertLessEqual(len(after), max(0, 2 * len(needed) - 1))
        self.assertEqual(layers.plan(after, {renamed.get(n, n) for n in needed}), [])

    @staticmethod
    def view(name, tree, own):
        seen = {}
        while name in tree:
            seen = {**own[name], **seen}
            name = tree[name]
        return seen

    def execute(self, tree, own, actions):
        after, renamed = dict(tree), {}
        for action in actions:
            if isinstance(action, Delete):
                self.assertNotIn(action.path, after.values(), "others lie over it")
                del after[action.path]
                continue
            below = action.base
            for name in reversed(action.removed):
                self.assertEqual(after[name], below, "not a run of layers")
                own[action.base].update(own[name])
                below = name
            above = {n for n, b in after.items() if b == action.top}
            self.assertEqual(above, set(action.above))
            for name in action.removed:
                del after[name]
                renamed[name] = action.base
            for name in above:
                after[name] = action.base
        return after, renamed


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def layer(self, name, backing=None):
        path = os.path.join(self.folder, name)
        encoded = (backing or "").encode()
        head = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 512 if backing else 0, len(encoded), 16, 0)
        with open(path, "wb") as stream:
            stream.write(head.ljust(512, b"\0") + encoded)
        return path

    def test_backing_names(self):
        base = self.layer("base.qcow2")
        for name in (base, "base.qcow2", "file:" + base,
                     'json:{"driver":"qcow2","file":{"driver":"file","filename":"%s"}}' % base):
            self.assertEqual(qcow2.backing_file(self.layer("top.qcow2", name)), base)
        self.assertIsNone(qcow2.backing_file(base))

    def test_written_when_a_power_failure_left_little(self):
        path = self.layer("new.qcow2")
        for size in (512, 40, 36, 4, 0):
            os.truncate(path, size)
            self.assertFalse(qcow2.written(path))

    def test_chain_ends_at_a_raw_image(self):
        raw = os.path.join(self.folder, "golden.raw")
        with open(raw, "wb") as stream:
            stream.truncate(1 << 20)
        low = self.layer("low.qcow2", raw)
        top = self.layer("top.qcow2", low)
        self.assertEqual(qcow2.chain(top), [top, low])

    def test_missing_and_damaged(self):
        top = self.layer("top.qcow2", "gone.qcow2")
        with self.assertRaisesRegex(HotsnapError, "gone.qcow2 is missing"):
            qcow2.chain(top)
        with open(top, "wb") as stream:
            stream.write(b"QFI")
        with self.assertRaisesRegex(HotsnapError, "not a qcow2"):
            qcow2.chain(top)

    def test_topmost_follows_what_nobody_noted(self):
        low = self.layer("low.qcow2")
        top = self.layer("top.qcow2", low)
        known = layers.scan([self.folder])
        self.assertEqual(layers.topmost(known, low), top)
        self.assertEqual(layers.topmost(known, top), top)


if __name__ == "__main__":
    unittest.main()
