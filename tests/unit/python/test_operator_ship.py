# SPDX-License-Identifier: GPL-2.0-or-later
"""A second store has the snapshots of a group as they were, whatever the source merges meanwhile."""

import contextlib
import io
import json
import os
import subprocess
import time
import unittest
from unittest import mock

from hotsnap import cli
from hotsnap.commands import group, listing, ship, snapshot
from hotsnap.disks import merge
from hotsnap.errors import HotsnapError, Interrupted
from hotsnap.formats import qcow2
from hotsnap.host import atomic
from hotsnap.model import reading, source
from hotsnap.store import plan
from hotsnap.store.folder import Folder
from ship_fixtures import Shipping


class Clock:
    """Moved by the test; `over` ends the command as SIGTERM does."""

    def __init__(self):
        self.now = 0.0

    def steady(self):
        return self.now

    @staticmethod
    def wall():
        return time.time()

    def over(self):
        if self.now > 60:
            raise Interrupted("the test's time is over")


class Content(Shipping):
    def remove(self, tag):
        with self.state.locked():
            return listing.rm(self.state, self.fleet, tag, quiet=True)

    def test_whole_way(self):
        self.begin()
        self.snapshots("t1", "t2")
        done = self.ship()
        self.assertEqual([one.tag for one in done.shipped], ["t1", "t2"])
        self.assertRegex(self.said.getvalue(), "shipped t2: 2 disks, .*; recovery point: t2, .*s ago")
        self.assertEqual(self.wrong(), [])
        self.assertEqual(self.ship().shipped, [])
        # The source merges the layers of t1 into those of t2; the store's are not touched.
        self.assertTrue(self.remove("t1")["merged"])
        self.snapshots("t3")
        (third,) = self.ship().shipped
        self.assertLess(third.sent, 2 << 20)  # 128 KiB of data in each of two new layers
        self.assertEqual((self.in_store(), self.wrong()), (["t1", "t2", "t3"], []))
        self.assertNotIn("compared", self.said.getvalue())
        # A layer between two snapshots that are shipped, of one that was removed.
        self.snapshots("t4", "t5")
        self.remove("t4")
        self.ship()
        self.assertEqual((self.in_store()[-1], self.wrong()), ("t5", []))
        # All that the store has is gone at the source: its content is compared.
        before = self.sizes()
        self.snapshots("t6")
        for tag in ("t2", "t3", "t5"):
            self.remove(tag)
        self.ship()
        self.assertIn("compared with what the store has", self.said.getvalue())
        self.assertEqual((self.in_store()[-1], self.wrong()), ("t6", []))
        self.assertLess(sum(self.sizes()) - sum(before), 2 << 20)
        # Nothing in the store depends on the source.
        self.down()
        moved = self.path("elsewhere")
        for name, other in ((".hotsnap", "gone"), ("golden.raw", "gone.raw"), ("store", moved)):
            os.rename(self.path(name), self.path(other))
        self.assertEqual(self.wrong(moved), [])
        os.rename(self.path("gone"), self.path(".hotsnap"))

    def sizes(self):
        return [os.stat(os.path.join(self.store, "layers", name)).st_blocks * 512
                for name in self.files()]

    def test_a_wrong_base_is_seen(self):
        """The control: a file of the store stands for a layer that has been merged since."""
        self.begin()
        self.snapshots("t1")
        self.ship()
        self.snapshots("t2")
        old = {disk.disk: disk.file for disk in self.target().snapshots()[0].disks}
        self.remove("t1")  # its layer has the writes of t2 now, and is the layer of t2
        real = plan._stand_ins  # pylint: disable=protected-access

        def wrong(member, disk, bundles, shipped):
            merged = os.path.realpath(next(
                saved.file for one in bundles for _, saved in one.layers()
                if saved.device == f"{disk}-dev"))
            return {**real(member, disk, bundles, shipped), merged: old[disk]}

        with mock.patch.object(plan, "_stand_ins", wrong):
            self.ship()
        self.assertEqual(self.wrong(), ["t2: disk0 is not what it was", "t2: disk1 is not what it was"])

    def test_a_copy_of_the_cluster(self):
        """Its series may take a snapshot of the same name, in the same second, of the same epoch:
        that is another snapshot."""
        self.begin()
        self.snapshots("t1")
        self.ship()
        file = os.path.join(self.store, "snapshots", "t1.json")
        with open(file, encoding="utf-8") as stream:
            one = json.load(stream)
        one["cut_ns"] += 1
        atomic.write_json(file, one)
        self.snapshots("t2")
        (failure,) = self.ship().failures
        self.assertRegex(failure, "t1 was not shipped: the store has another snapshot of that tag")
        self.assertIn("compared with what the store has", self.said.getvalue())
        self.assertEqual((self.in_store(), self.wrong()), (["t1", "t2"], []))

    def test_selected_by_label(self):
        self.begin()
        self.both(1, "A")
        with self.state.locked():
            snapshot.snapshot(self.state, self.fleet, "s1", quiet=True, group="tier=db")
        self.assertIsNone(self.ship().newest)  # it is not the group's
        other = self.path("other")
        os.mkdir(other)
        with contextlib.redirect_stdout(io.StringIO()):
            (one,) = ship.Ship("tier=db", self.target(other), self.open).once().shipped
        self.assertEqual([(disk.member, disk.disk) for disk in one.disks], [("a", "disk1")])
        self.assertEqual(self.view(os.path.join(other, "layers", one.disks[0].file)),
                         bytes(self.data))
        # Its command was killed before it made notes: its disks tell.
        os.unlink(os.path.join(self.state.bundles, "s1", "notes.json"))
        third = self.path("third")
        os.mkdir(third)
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(ship.Ship("tier=db", self.target(third), self.open).once().newest.tag,
                             "s1")
        self.assertIsNone(self.ship().newest)

    def test_restored_in_between(self):
        """A restore makes a branch."""
        self.begin()
        self.snapshots("t1", "t2")
        self.ship()
        with self.state.locked():
            group.restore(self.state, self.fleet, self.bundle("t1"), replace=True, quiet=True)
        self.content[:], self.data[:] = self.held["t1"]["disk0"], self.held["t1"]["disk1"]
        self.snapshots("t3")
        self.ship()
        self.assertEqual((self.in_store(), self.wrong()), (["t1", "t2", "t3"], []))
        self.assertNotIn("compared", self.said.getvalue())

    def test_layers_that_are_sent_are_not_merged(self):
        self.begin()
        self.snapshots("t1", "t2", "t3")
        done, kept = [], []
        real = Folder.send_layer

        def meanwhile(store, layer, *arguments):
            if not done:
                done.append(self.remove("t2"))  # while t1 is sent, and t1 itself
                done.append(self.remove("t1"))
                kept.extend(qcow2.chain(layer.path))
            return real(store, layer, *arguments)

        with mock.patch.object(Folder, "send_layer", meanwhile):
            self.ship()
        self.assertEqual((self.in_store(), self.wrong()), (["t1", "t3"], []))
        for path in kept:
            self.assertNotIn(path, [path for one in done for path in one["deleted"]])
        self.assertEqual(reading.layers(self.state), set())
        with self.state.locked():
            merged = merge.tidy(self.state, self.fleet, quiet=True)["merged"]
        self.assertTrue(merged)  # the control: without the pins the same layers are merged
        self.assertEqual(len(qcow2.chain(self.active())), 2)
        self.snapshots("t4")
        self.ship()
        self.assertEqual(self.wrong(), [])

    def test_without_pins_it_goes_wrong(self):
        """The control of the test before."""
        self.begin()
        self.snapshots("t1", "t2", "t3")
        real = Folder.send_layer

        def meanwhile(store, layer, *arguments):
            if os.path.isdir(self.bundle_path("t1")):
                self.remove("t1")
            return real(store, layer, *arguments)

        with mock.patch.object(Folder, "send_layer", meanwhile), \
                mock.patch.object(reading, "readers", return_value=[]):
            done = self.ship()
        (failure,) = done.failures
        self.assertRegex(failure, "t1 was not shipped: disk layer .* is damaged")
        self.assertEqual((self.in_store(), self.wrong()), (["t2", "t3"], []))

    def bundle_path(self, tag):
        return os.path.join(self.state.bundles, tag)

    def test_keep(self):
        self.begin()
        self.snapshots("t0")
        for number in range(1, 7):
            self.snapshots(f"t{number}")
            self.ship(keep=2)
            self.assertEqual(self.in_store(), [f"t{number - 1}", f"t{number}"])
            self.assertEqual(self.wrong(), [])
            self.assertEqual(self.files(), self.needed())
            for disk in ("disk0", "disk1"):
                self.assertLessEqual(sum(disk in name for name in self.files()), 4)
        self.assertEqual(self.ship(keep=2).shipped, [])  # what was dropped does not come back
        self.remove("t0")
        self.ship(keep=2)
        with open(os.path.join(self.store, "store.json"), encoding="utf-8") as stream:
            self.assertEqual([one["tag"] for one in json.load(stream)["dropped"]],
                             [f"t{number}" for number in range(1, 5)])
        self.ship(keep=1)
        self.assertEqual((self.in_store(), self.wrong()), (["t6"], []))


class Following(Shipping):
    def test_follow(self):
        self.begin()
        self.snapshots("t1")
        away = self.path("away")
        moments = iter((lambda: self.snapshots("t2"), lambda: None,
                        lambda: (os.rename(self.store, away), self.snapshots("t3")), lambda: None,
                        lambda: os.rename(away, self.store)))
        clock = Clock()

        def sleep(_):
            clock.now += 4
            next(moments, clock.over)()

        clock.sleep = sleep
        out = io.StringIO()
        work = ship.Ship("g", self.target(), self.open, as_json=True, clock=clock)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()), \
                self.assertRaises(Interrupted):
            work.follow()
        told = [json.loads(line) for line in out.getvalue().splitlines()]
        self.assertEqual([(line["event"], line.get("tag")) for line in told],
                         [("shipped", "t1"), ("shipped", "t2"), ("failed", None),
                          ("shipped", "t3")])
        self.assertIn("there is no folder", told[2]["reason"])
        self.assertEqual((self.in_store(), self.wrong()), (["t1", "t2", "t3"], []))

    def test_its_first_look_has_to_reach_the_store(self):
        self.begin()
        work = ship.Ship("g", self.target(self.path("nowhere")), self.open)
        with self.assertRaisesRegex(HotsnapError, "there is no folder"):
            work.follow()


class Taking(Shipping):
    def test_command(self):
        self.begin()
        self.snapshots("t1", "t2")

        def run(*arguments, code=0):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    self.assertEqual(cli.main(["-f", self.path("cluster.toml"), "ship",
                                               *arguments]), code, err)
                except SystemExit as end:
                    self.assertEqual(end.code, code)
            return out.getvalue() or err.getvalue()

        shipped = [json.loads(line) for line in
                   run("--group", "g", "--json", self.store).splitlines()]
        self.assertEqual([(line["event"], line["tag"]) for line in shipped],
                         [("shipped", "t1"), ("shipped", "t2")])
        self.assertGreater(shipped[1]["age_s"], 0)
        self.assertIn("nothing new to ship; recovery point: t2", run("--group", "g", self.store))
        os.rename(self.path("cluster.toml"), self.path("lost.toml"))
        listed = json.loads(run("--list", self.store, "--json"))
        self.assertEqual((listed["group"], listed["newest"]), ("g", "t2"))
        self.assertEqual([one["tag"] for one in listed["snapshots"]], ["t1", "t2"])
        self.assertEqual(listed["snapshots"][0]["disks"][0]["size"], 8 << 20)
        self.assertIn("recovery point: t2", run("--list", self.store))
        self.assertIn("whole", run("--verify", self.store))
        taken = self.path("taken")
        self.assertIn("a-disk0.qcow2, a-disk1.qcow2", run("--take", self.store, "t1", taken))
        for disk in ("disk0", "disk1"):
            file = os.path.join(taken, f"a-{disk}.qcow2")
            self.assertIsNone(qcow2.backing_file(file))
            self.assertEqual(self.view(file), self.held["t1"][disk])
        with open(os.path.join(taken, "snapshot.json"), encoding="utf-8") as stream:
            self.assertEqual(json.load(stream)["manifest"]["tag"], "t1")
        self.assertIn("exists: name another", run("--take", self.store, "t1", taken, code=1))
        self.assertIn("no snapshot 't9'", run("--take", self.store, "t9", taken, code=1))
        self.assertIn("is no store", run("--list", self.folder_of("empty"), code=1))
        for arguments in (("--take", self.store, "t1"), (self.store,), ("--list", "--keep", "2",
                          self.store), ("--group", "g", "host:/store"), ("--group", "g", self.store,
                          "t1"), ("--verify", self.store, "../t1")):
            run(*arguments, code=2)
        # Damage in the store is found, and not taken.
        disk = listed["snapshots"][0]["disks"][0]["file"]
        with open(os.path.join(self.store, disk), "r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            byte = stream.read(1)
            stream.seek(-1, os.SEEK_END)
            stream.write(bytes([byte[0] ^ 1]))
        (told,) = json.loads(run("--verify", "--json", self.store, code=1))["damage"]
        self.assertIn(f"{disk} is damaged at offset", told)
        self.assertIn("nothing was taken",
                      run("--take", self.store, "t1", self.path("other"), code=1))
        self.assertFalse(os.path.exists(self.path("other")))

    def folder_of(self, name):
        os.makedirs(self.path(name), exist_ok=True)
        return self.path(name)


class Refused(Shipping):
    def test_damaged_source(self):
        self.begin()
        self.snapshots("t1")
        self.ship()
        self.snapshots("t2")
        file = self.bundle("t2").members[0].disks[1].file
        with open(file, "r+b") as stream:
            stream.seek(-100, os.SEEK_END)
            byte = stream.read(1)[0]
            stream.seek(-100, os.SEEK_END)
            stream.write(bytes([byte ^ 1]))
        (failure,) = self.ship().failures
        self.assertRegex(failure, f"t2 was not shipped: disk layer {file} is damaged at offset")
        self.assertEqual((self.in_store(), self.wrong()), (["t1"], []))
        with self.state.locked():
            listing.rm(self.state, self.fleet, "t1", quiet=True)
        os.truncate(self.bundle("t2").members[0].disks[0].file, 1000)
        (failure,) = self.ship().failures
        self.assertRegex(failure, "t2 was not shipped: .*damaged")
        self.assertEqual((self.in_store(), self.wrong()), (["t1"], []))

    def test_whose_store(self):
        self.begin()
        self.snapshots("t1")
        self.ship()
        for name, identity, pattern in (("g", "x", "store of group 'g' of cluster 'merge', in "
                                          "another folder, and not of group 'g'"),
                                         ("h", source.load(self.state).id, "group 'g' of cluster "
                                          "'merge' and not of group 'h'")):
            store = self.target()
            with store.locked(), self.assertRaisesRegex(HotsnapError, pattern):
                store.begin(identity, "merge", name, False)
        with self.assertRaisesRegex(HotsnapError, "there is no folder"):
            self.ship(self.path("nowhere"))
        full = self.path("full")
        os.mkdir(full)
        open(os.path.join(full, "letter.txt"), "w", encoding="ascii").close()
        with self.assertRaisesRegex(HotsnapError, "is no store, and not empty"):
            self.ship(full)
        self.assertEqual(os.listdir(full), ["letter.txt"])
        with self.target().locked(), \
                self.assertRaisesRegex(HotsnapError, "another 'hotsnap ship' works on"):
            self.ship()
        # What was a store is not mounted: nothing is written to the empty folder below.
        os.rename(self.store, self.path("away"))
        os.mkdir(self.store)
        with self.assertRaisesRegex(HotsnapError, "was a store.*mount it; or begin anew there with --new"):
            self.ship()
        self.ship(new=True)
        self.assertEqual((self.in_store(), self.wrong()), (["t1"], []))
        # The same tag again is another snapshot.
        with self.state.locked():
            listing.rm(self.state, self.fleet, "t1", quiet=True)
        with mock.patch.dict(self.held, dict(self.held)):
            self.take_group("t1")
            (failure,) = self.ship().failures
        self.assertRegex(failure, "another snapshot of that tag.*take it again by another tag")
        self.assertEqual(self.wrong(), [])

    def test_full_and_read_only(self):
        self.begin()
        self.snapshots("t1")
        small = self.path("small")
        os.mkdir(small)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "none", small], check=True)
        self.addCleanup(subprocess.run, ["umount", small], check=True)
        self.ship(small)
        for block in range(50, 110):
            self.both(block, "X")
        self.take_group("t2")
        with self.assertRaisesRegex(HotsnapError, "No space left on device"):
            self.ship(small)
        self.assertEqual((self.in_store(small), self.wrong(small)), (["t1"], []))
        subprocess.run(["mount", "-o", "remount,size=40m", small], check=True)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        with self.assertRaisesRegex(HotsnapError, "Read-only file system: the snapshots in"):
            self.ship(small)
        with self.target(small).locked(shared=True):  # it can be read
            self.target(small).take("t1", self.path("taken"))
        subprocess.run(["mount", "-o", "remount,rw", small], check=True)
        self.ship(small)
        self.assertEqual((self.in_store(small), self.wrong(small)), (["t1", "t2"], []))
        self.assertEqual(self.files(small), self.needed(small))

    def test_faulty_storage(self):
        """What is read back is not what was written."""
        self.begin()
        self.snapshots("t1")
        real = atomic.os.posix_fadvise

        def flip(handle, *arguments):
            real(handle, *arguments)
            os.pwrite(handle, b"x", 70000)

        with mock.patch.object(atomic.os, "posix_fadvise", flip), \
                self.assertRaisesRegex(HotsnapError, "reads otherwise at offset 0x10000: the storage"):
            self.ship()
        self.assertEqual(self.in_store(), [])


if __name__ == "__main__":
    unittest.main()
