# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster file: what is accepted, and that each mistake is named with its line and key."""

import os
import tempfile
import unittest

from hotsnap.errors import UsageError
from hotsnap.model import cluster, units
from hotsnap.model.tomlpos import Positions

GOOD = """\
[cluster]
name = "lab"
memory = "256M"

[[network]]
name = "lan"

[[member]]
name = "db"
cpus = 2

  [[member.disk]]
  image = "golden.qcow2"

  [[member.disk]]
  size = "1G"
  interface = "virtio-scsi"
  iothread = true
  serial = "data"

  [[member.nic]]
  network = "lan"

[[member]]
name = "web"
memory = "1G"

  [[member.nic]]
  network = "lan"
  mac = "52:54:00:AA:00:01"
  queues = 2
"""


class ClusterFile(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        with open(os.path.join(self.folder, "golden.qcow2"), "wb") as stream:
            stream.write(b"QFI\xfb\0\0\0\3")

    def load(self, text):
        path = os.path.join(self.folder, "cluster.toml")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return cluster.load(path)

    def refuse(self, text, line, *parts):
        with self.assertRaises(UsageError) as caught:
            self.load(text)
        message = str(caught.exception)
        if line:
            self.assertIn(f"cluster.toml:{line}: ", message)
        for part in parts:
            self.assertIn(part, message)

    def test_good_file(self):
        lab = self.load(GOOD)
        db, web = lab.members
        self.assertEqual(lab.directory, os.path.join(self.folder, ".hotsnap", "lab"))
        self.assertEqual((db.memory, db.cpus, web.memory), (256 << 20, 2, 1 << 30))
        self.assertEqual(db.disks[0].image, os.path.join(self.folder, "golden.qcow2"))
        self.assertEqual((db.disks[0].format, db.disks[0].interface), ("qcow2", "virtio-blk"))
        self.assertEqual((db.disks[1].size, db.disks[1].iothread, db.disks[1].serial),
                         (1 << 30, True, "data"))
        self.assertEqual(web.nics[0].mac, "52:54:00:aa:00:01")
        self.assertEqual((db.nics[0].queues, web.nics[0].queues), (1, 2))

    def test_links_to_the_folder_are_resolved(self):
        link = self.folder + "-link"
        os.symlink(self.folder, link)
        self.addCleanup(os.unlink, link)
        path = self.load(GOOD).file
        for file in (path, os.path.join(link, "cluster.toml")):
            self.assertEqual(cluster.load(file).directory,
                             os.path.join(os.path.realpath(self.folder), ".hotsnap", "lab"))

    def test_macs_are_stable_and_distinct(self):
        first, again = self.load(GOOD), self.load(GOOD)
        self.assertEqual(first.members[0].nics[0].mac, again.members[0].nics[0].mac)
        self.assertTrue(first.members[0].nics[0].mac.startswith("52:54:00:"))
        macs = {cluster.default_mac("lab", f"m{i}", j) for i in range(20) for j in range(4)}
        self.assertEqual(len(macs), 80)

    def test_mistakes_are_named(self):
        cases = (
            ('name = "lab"', 'name = "-lab"', 2, ("cluster.name",)),
            ('memory = "256M"', 'memory = "lots"', 3, ("cluster.memory", "not a size")),
            ('memory = "256M"', 'memory = true', 3, ("cluster.memory", "true or false")),
            ('memory = "256M"', 'accel = "xen"', 3, ("cluster.accel", "auto, kvm, tcg")),
            ('cpus = 2', 'cpu = 2', 10, ("member[0].cpu", "must be a string")),
            ('cpus = 2', 'cpus = 0', 10, ("member[0].cpus",)),
            ('cpus = 2', 'colour = "red"', 10, ("member[0].colour", "is not a key")),
            ('cpus = 2', 'initrd = "golden.qcow2"', 10, ("member[0].initrd", "kernel")),
            ('cpus = 2', 'args = ["-s", 3]', 10, ("member[0].args",)),
            ('image = "golden.qcow2"', 'image = "gone.img"', 13,
             ("member[0].disk[0].image", "does not exist")),
            ('image = "golden.qcow2"', '# nothing', 12, ("member[0].disk[0]", "image", "size")),
            ('size = "1G"', 'size = "1G"\n  format = "raw"', 17, ("member[0].disk[1].format",)),
            ('cpus = 2', 'firmware = "efi"', 10, ("member[0].firmware", "bios, uefi")),
            ('memory = "256M"', 'firmware = 1', 3, ("cluster.firmware", "must be a string")),
            ('size = "1G"', 'size = "1G"\n  image = "golden.qcow2"', 15, ("member[0].disk[1]",)),
            ('size = "1G"', 'size = 1000', 16, ("member[0].disk[1].size", "512")),
            ('interface = "virtio-scsi"', 'interface = "ide"', 18,
             ("member[0].disk[1].iothread", "ide")),
            ('network = "lan"\n\n', 'network = "wan"\n\n', 22, ("member[0].nic[0].network",)),
            ('AA:00:01', 'AA:00', 30, ("member[1].nic[0].mac",)),
            ('"52:54:00:AA:00:01"', '"53:54:00:AA:00:01"', 30, ("multicast",)),
            ('"52:54:00:AA:00:01"', '"00:00:00:00:00:00"', 30, ("member[1].nic[0].mac", "leave")),
            ('queues = 2', 'queues = 0', 31, ("member[1].nic[0].queues", "1 to 256")),
            ('queues = 2', 'queues = 257', 31, ("member[1].nic[0].queues", "1 to 256")),
            ('queues = 2', 'queues = 2\n  model = "e1000"', 31,
             ("member[1].nic[0].queues", "e1000 has one")),
            ('name = "web"', 'name = "db"', 25, ("member[1].name", "twice")),
        )
        for before, after, line, parts in cases:
            with self.subTest(after):
                self.assertIn(before, GOOD)
                self.refuse(GOOD.replace(before, after, 1), line, *parts)

    def test_same_mac_twice(self):
        mac = cluster.default_mac("lab", "db", 0)
        self.refuse(GOOD.replace("52:54:00:AA:00:01", mac), 30, mac, "'db'")

    def test_not_toml_and_no_file(self):
        self.refuse("[cluster\n", None, "not valid TOML")
        with self.assertRaisesRegex(UsageError, "cannot read"):
            cluster.load(os.path.join(self.folder, "none.toml"))

    def test_empty_cluster(self):
        self.refuse('[cluster]\nname = "x"\n', None, "at least one")
        self.refuse("", None, "'cluster' is missing")

    def test_positions_skip_multi_line_strings(self):
        where = Positions('a = """\nb = 1\n"""\nb = 2\n')
        self.assertEqual(where.line(("b",)), 4)

    def test_sizes(self):
        for text, value in (("0", 0), ("4096", 4096), ("2K", 2048), ("3GiB", 3 << 30)):
            self.assertEqual(units.parse_size(text), value)
        for text in ("", "-1", "1.5G", "G", "1P", "1 M"):
            with self.assertRaises(ValueError):
                units.parse_size(text)

    def test_durations(self):
        for text, value in (("20", 20), ("20s", 20), ("1.5m", 90), ("500ms", 0.5), ("2h", 7200)):
            self.assertAlmostEqual(units.parse_duration(text), value)
        for text in ("", "-1", "0", "0s", "1 s", "1d", "s", "inf", "nan", "1e3"):
            with self.assertRaises(ValueError):
                units.parse_duration(text)


if __name__ == "__main__":
    unittest.main()
