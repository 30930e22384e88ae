# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups of disks: their file, their errors; bundles of disks only, and the restore of one.

Members are real ones of the fork: $HOTSNAP_QEMU, else the checkout's build.
"""

import contextlib
import io
import json
import os
import tempfile
import unittest
from unittest import mock

import operator_fixtures
import test_operator_merge
from hotsnap.commands import group, listing, snapshot, verify
from hotsnap.disks import layers, merge
from hotsnap.errors import HotsnapError, UsageError
from hotsnap.formats import qcow2
from hotsnap.model import bundle, cluster, groups
from hotsnap.model.state import State
from hotsnap.qemu import machine
from hotsnap.qemu.fleet import Fleet
from hotsnap.ui import timeline
from test_operator_restore import ForkOfOne

CLUSTER = """
[cluster]
name = "g"
[[member]]
name = "db"
  [[member.disk]]
  size = "16M"
  [[member.disk]]
  size = "16M"
  serial = "wal"
[[member]]
name = "web"
  [[member.disk]]
  size = "16M"
[[member]]
name = "router"
"""
TWO_DISKS = '\n  [[member.disk]]\n  size = "8M"\n  serial = "data"\n'


def of_disks(path):
    """Makes a whole bundle one of disks only."""
    file = os.path.join(path, "manifest.json")
    with open(file, encoding="utf-8") as stream:
        manifest = json.load(stream)
    manifest.update(version=2, content="disks")
    manifest["cut"] = {"downtime_max_us": 0, "hold_max_us": 2400, "backoff_max_us": None,
                       "pairs": [], "comparable": True}
    for member in manifest["members"]:
        del member["memory"]
        member["hold"] = member.pop("pause")
        for key in ("file", "vnet", "pcap_xxh3", "vnet_xxh3"):
            del member["channel"][key]
        for name in ("state", "state.sums", "channel.pcap", "channel.vnet"):
            os.unlink(os.path.join(path, member["name"], name))
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(manifest, stream)
    return file


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name


class Groups(Folder):
    def setUp(self):
        super().setUp()
        self.describe(CLUSTER)

    def describe(self, text):
        path = os.path.join(self.folder, "cluster.toml")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        self.state = State(cluster.load(path))
        os.makedirs(self.state.directory, exist_ok=True)

    def resolved(self, name):
        return {member: [disk.id for disk in disks]
                for member, disks in groups.resolve(self.state, name).items()}

    def test_add_rm_ls(self):
        self.assertEqual(groups.load(self.state), {})
        groups.add(self.state, "payments", ["db:wal", "web"])
        groups.add(self.state, "payments", ["db:disk1", "web"])
        groups.add(self.state, "all", ["db", "web:disk0"])
        self.assertEqual(groups.load(self.state), {"payments": ["db:wal", "web", "db:disk1"],
                                                   "all": ["db", "web:disk0"]})
        # Two names of one disk are one disk; a disk is in several groups.
        self.assertEqual(self.resolved("payments"), {"db": ["disk1"], "web": ["disk0"]})
        self.assertEqual(self.resolved("all"), {"db": ["disk0", "disk1"], "web": ["disk0"]})
        self.assertEqual(groups.remove(self.state, "payments", ["web"]), ["db:wal", "db:disk1"])
        self.assertEqual(groups.remove(self.state, "payments", ["db:wal", "db:disk1"]), [])
        groups.remove(self.state, "all", [])
        self.assertEqual(groups.load(self.state), {})

    def test_labels(self):
        self.describe(CLUSTER.replace('name = "db"', 'name = "db"\nlabels = {tier = "db", site = "a"}')
                      .replace('serial = "wal"', 'serial = "wal"\n  labels = {site = "b"}')
                      .replace('name = "web"', 'name = "web"\nlabels = {site = "b"}')
                      .replace('name = "router"', 'name = "router"\nlabels = {tier = "net"}'))
        for selector, found in (("tier=db", {"db": ["disk0", "disk1"]}),
                                ("site=b", {"db": ["disk1"], "web": ["disk0"]}),
                                ("site=b,tier=db", {"db": ["disk1"]}),
                                ("site=a", {"db": ["disk0"]})):
            self.assertEqual(self.resolved(selector), found, selector)
        for selector, pattern in (
                ("tier=net", "no disk has the labels tier=net: .* site=a, site=b, tier=db"),
                ("site=b,site=a", "no disk has the labels"), ("tier=", "selects no disks"),
                ("=db", "selects no disks"), ("tier=db,", "selects no disks"),
                ("tier=db:disk0", "selects no disks")):
            with self.assertRaisesRegex(UsageError, pattern):
                groups.resolve(self.state, selector)
        groups.add(self.state, "all-of-b", ["site=b", "db:wal", "web"])
        self.assertEqual(self.resolved("all-of-b"), {"db": ["disk1"], "web": ["disk0"]})
        with self.assertRaisesRegex(UsageError, "no disk has the labels x=y"):
            groups.add(self.state, "x", ["x=y"])
        self.describe(CLUSTER)
        with self.assertRaisesRegex(UsageError, "gives its disks no labels; 'hotsnap group rm "
                                                "all-of-b site=b' takes it out"):
            self.resolved("all-of-b")
        for labels in ('"db"', '{tier = 1}', '{tier = ""}', '{"a b" = "c"}', '{tier = "a,b"}'):
            with self.assertRaisesRegex(UsageError, "labels"):
                self.describe(CLUSTER.replace('name = "db"', f'name = "db"\nlabels = {labels}'))

    def test_a_serial_with_an_equals_sign(self):
        self.describe(CLUSTER.replace('"wal"', '"a=b"'))
        groups.add(self.state, "x", ["db:a=b"])
        self.assertEqual(self.resolved("x"), {"db": ["disk1"]})

    def test_what_is_not_there(self):
        for entries, pattern in ((["nobody"], "no member 'nobody'"),
                                 (["web:disk7"], "no disk 'disk7'.*it has disk0"),
                                 (["db:data"], r"it has disk0, disk1 \(wal\)"),
                                 (["router"], "no disk that it can write to"),
                                 ([], "name the disks")):
            with self.assertRaisesRegex(UsageError, pattern):
                groups.add(self.state, "x", entries)
        for name in ("", "a b", "../x", "a:b"):
            with self.assertRaisesRegex(UsageError, "cannot be a group"):
                groups.add(self.state, name, ["web"])
        with self.assertRaisesRegex(UsageError, "there is no group 'x': there is none; 'hotsnap "):
            groups.resolve(self.state, "x")
        self.assertEqual(groups.load(self.state), {})
        groups.add(self.state, "x", ["db:wal"])
        with self.assertRaisesRegex(UsageError, "group x has no 'web': it has db:wal"):
            groups.remove(self.state, "x", ["web"])
        self.describe(CLUSTER.replace('serial = "wal"', ""))  # the disk has another serial now
        with self.assertRaisesRegex(UsageError, "group x: member db has no disk 'wal'.*"
                                                "'hotsnap group rm x db:wal' takes it out"):
            groups.resolve(self.state, "x")

    def test_damaged_file(self):
        for text, pattern in (("{", "cannot read"), ("[]", "must be an object"),
                              ('{"version": 2}', "has version 2"),
                              ('{"version": 1, "groups": {"x": "db"}}', "must be an array")):
            with open(groups.path(self.state), "w", encoding="utf-8") as stream:
                stream.write(text)
            with self.assertRaisesRegex(HotsnapError, pattern) as caught:
                groups.load(self.state)
            self.assertIn(groups.path(self.state), str(caught.exception))

    def test_command(self):
        def said(*arguments):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                group.run(self.state, *arguments)
            return output.getvalue()

        self.assertEqual(said("add", "x", ["db", "web"], False), "group x: db, web\n")
        self.assertEqual(json.loads(said("ls", None, [], True)),
                         {"groups": [{"name": "x", "disks": ["db", "web"]}]})
        self.assertIn("db, web", said("ls", None, [], False))
        self.assertEqual(json.loads(said("rm", "x", ["web"], True)),
                         {"group": "x", "disks": ["db"]})
        self.assertEqual(said("rm", "x", [], False), "group x: removed\n")
        with self.assertRaisesRegex(UsageError, "needs the name"):
            said("rm", None, [], False)
        with self.assertRaisesRegex(UsageError, "takes no name"):
            said("ls", "x", [], False)


class Bundles(Folder):
    def setUp(self):
        super().setUp()
        self.layer = os.path.join(self.folder, "layer")
        with open(self.layer, "wb") as stream:
            stream.write(b"data" * 50000)
        self.path = operator_fixtures.make_bundle(self.folder, disks={"a": [self.layer]})
        self.file = of_disks(self.path)

    def test_read_and_shown(self):
        found = bundle.read(self.path)
        self.assertEqual((found.content, found.only_disks, found.downtime_max_ms(),
                          found.backoff_max_ms()), ("disks", True, 0.0, None))
        self.assertAlmostEqual(found.hold_max_ms(), 2.4)
        self.assertEqual(found.doubts(), [])
        row = listing.summary(self.folder, "t1")
        self.assertEqual((row["status"], row["content"], row["hold_max_ms"], row["disks"]),
                         ("complete", "disks", 2.4, ["a:disk0-dev"]))
        text = listing.details(found)
        for part in ("no pause; disk requests were held for 2.40 ms", "HOLD (us)", "0.90ms",
                     self.layer):
            self.assertIn(part, text)
        picture = os.path.join(self.folder, "t1.svg")
        timeline.draw(found, picture)
        with open(picture, encoding="utf-8") as stream:
            drawn = stream.read()
        self.assertIn("held its disk requests", drawn)
        self.assertNotIn("pages", drawn)

    def test_routers_only_are_doubted(self):
        found = bundle.read(self.path)
        found.members[0].channel.lost, found.members[0].channel.routed_sent = 5, 3
        (doubt,) = found.doubts()
        self.assertIn("3 frames between members took their way through a router", doubt)

    def test_verified(self):
        with mock.patch.object(verify.qcow2, "chain"):
            self.assertFalse(verify.check(bundle.read(self.path)).damage)
            with open(self.layer, "r+b") as stream:
                stream.seek(70000)
                stream.write(b"x")
            (damage,) = verify.check(bundle.read(self.path)).damage
        self.assertEqual((damage.file, damage.offset), (self.layer, 65536))

    def test_each_version_has_what_it_needs(self):
        with open(self.file, encoding="utf-8") as stream:
            manifest = json.load(stream)
        for change, pattern in ((lambda m: (m.update(version=1), m.pop("content")), r"\[0\]: 'memory' is missing"),
                                (lambda m: m["members"][1].pop("hold"),
                                 r"\[1\]: 'hold' is missing"),
                                (lambda m: m.update(version=3), "reads versions 1 and 2")):
            damaged = json.loads(json.dumps(manifest))
            change(damaged)
            with open(self.file, "w", encoding="utf-8") as stream:
                json.dump(damaged, stream)
            with self.assertRaisesRegex(bundle.BundleError, pattern):
                bundle.read(self.path)


class Restore(ForkOfOne):
    """A member with two disks; the group has the second one."""

    def setUp(self):
        with mock.patch.object(test_operator_merge, "CLUSTER",
                               test_operator_merge.CLUSTER + TWO_DISKS):
            super().setUp()

    def data(self, letter=None):
        """Writes to the second disk, or returns what it holds."""
        with self.fleet.monitor("a") as qmp:
            device = next(d for d in qmp.execute("query-block") if "disk1-dev" in d.get("qdev", ""))
            if letter:
                for command in (f"write -P {ord(letter)} 0 64k", "flush"):
                    self.assertEqual(qmp.hmp(f"qemu-io -d {device['qdev']} \"{command}\""), "")
        return self.view(device["inserted"]["image"]["filename"])[:1]

    def take_group(self):
        self.snapshot(group="g")

    def restore(self, **options):
        with self.state.locked():
            return group.restore(self.state, self.fleet, self.bundle("t1"), quiet=True, **options)

    def begin(self):
        self.up()
        groups.add(self.state, "g", ["a:data"])
        self.write(0, "A")
        self.data("A")
        self.take_group()
        self.write(0, "B")
        self.data("B")

    def test_whole_way(self):
        self.begin()
        found = self.bundle("t1")
        self.assertTrue(found.only_disks)
        self.assertEqual([disk.device for _, disk in found.layers()], ["disk1-dev"])
        with self.assertRaisesRegex(HotsnapError, "a runs, and would be started anew.*--replace"):
            self.restore()
        self.assertEqual(self.restore(replace=True), ["a"])
        # Its disk is as it was; the other one has gone on, and lost nothing.
        self.assertEqual(self.data(), b"A")
        self.assertEqual(self.view(self.active())[:4], b"BBBB")
        self.assertIsNone(self.state.restoring)
        self.data("C")
        self.restore(replace=True)
        self.assertEqual(self.data(), b"A")
        with self.state.locked():
            listing.rm(self.state, self.fleet, "t1", quiet=True)
        self.assertEqual(self.data(), b"A")
        with self.fleet.monitor("a") as qmp:
            files = {path for info in self.fleet.block_info(qmp).values()
                     for path in qcow2.chain(info["image"]["filename"])}
        self.assertEqual(set(layers.scan(merge.folders(self.state))), files - {
            self.path("golden.raw")})

    def test_by_label(self):
        with open(self.state.cluster.file, "r+", encoding="utf-8") as stream:
            text = stream.read().replace("[[member]]", '[[member]]\nlabels = {tier = "db", site = "a"}')
            stream.seek(0)
            stream.write(text.replace('serial = "data"', 'serial = "data"\n  labels = {site = "b"}'))
        self.state = State(cluster.load(self.state.cluster.file))
        self.fleet = Fleet(self.state)
        self.fleet.snapshots = True
        self.up()
        with self.fleet.monitor("a") as qmp:
            where = {"path": f"/objects/{machine.MEMBER_OBJECT}", "property": "labels"}
            self.assertEqual(qmp.execute("qom-get", where), "site=a,tier=db")
            qmp.execute("qom-set", {**where, "value": "site=c"})
            self.assertEqual(qmp.execute("qom-get", where), "site=c")
        self.snapshot(group="tier=db,site=b")
        self.assertEqual([disk.device for _, disk in self.bundle("t1").layers()], ["disk1-dev"])

    def test_refused(self):
        self.begin()
        with self.assertRaisesRegex(UsageError, "there is no group 'h': there is g"):
            self.snapshot(group="h")
        self.down()
        with self.assertRaisesRegex(HotsnapError, "a does not run: group 'g' has disks of it"):
            with self.state.locked():
                snapshot.snapshot(self.state, self.fleet, "t2", quiet=True, group="g")
        os.truncate(self.bundle("t1").members[0].disks[0].file, 1000)
        with self.assertRaisesRegex(HotsnapError, "is damaged.*nothing was started"):
            self.restore()
        self.assertFalse(self.fleet.running("a"))

    def test_failure_puts_the_disks_back(self):
        self.begin()
        with mock.patch.object(self.fleet, "start", side_effect=HotsnapError("no QEMU")), \
                self.assertRaisesRegex(HotsnapError, "the snapshot is whole: no QEMU"):
            self.restore(replace=True)
        self.assertIsNone(self.state.restoring)
        self.up()
        self.assertEqual(self.data(), b"B")
        self.assertEqual(self.view(self.active())[:4], b"BBBB")


if __name__ == "__main__":
    unittest.main()
