# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of a snapshot's disks: they are bit by bit what the guest's disk was at the cut, whatever
layers hold it and whatever becomes of these afterwards; a damaged, failed or killed export leaves
nothing that could be taken for one.

Members are real ones: $HOTSNAP_QEMU, else the checkout's build. Their guest writes nothing; what
their disks hold was written by the tests.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
import unittest
from unittest import mock

import test_operator_merge
from hotsnap.commands import export, listing, snapshot
from hotsnap.errors import HotsnapError, UsageError
from hotsnap.host import delivery
from hotsnap.host.delivery import Delivery
from hotsnap.model import groups, reading
from hotsnap.model.state import Locked
from hotsnap.qemu import binaries, copies, storage_daemon
from hotsnap.qemu.qmp import QmpError
from operator_fixtures import CHECKOUT
from support.tier import steps
from test_operator_group import TWO_DISKS
from test_operator_merge import BLOCK, DISK, ClusterOfOne
from test_operator_restore import ForkOfOne, in_child, killer

COMMAND = os.path.join(CHECKOUT, "scripts", "hotsnap")


class Exporting(ClusterOfOne):
    """What the tests of this file share."""

    def export(self, tag, folder="out", *entries, **options):
        return export.to_folder(self.state, self.fleet, tag, self.path(folder), entries,
                                quiet=True, **options)

    def held(self, path):
        """What a file holds that was exported: read without any file but this one."""
        out = self.path("held.raw")
        alone = self.path("alone")
        os.makedirs(alone, exist_ok=True)
        moved = os.path.join(alone, os.path.basename(path))
        os.rename(path, moved)
        try:
            self.assertEqual(json.loads(binaries.run_img(
                self.image_tool, "info", "--output=json", moved)).get("backing-filename"), None)
            if path.endswith(".qcow2"):
                binaries.run_img(self.image_tool, "check", "-q", "-f", "qcow2", moved)
            binaries.run_img(self.image_tool, "convert", "-O", "raw", "-f",
                             path.rpartition(".")[2], moved, out)
        finally:
            os.rename(moved, path)
        return self.read_file(out)

    def left(self, folder="out"):
        path = self.path(folder)
        return sorted(os.listdir(path)) if os.path.exists(path) else []

    @contextlib.contextmanager
    def nbd(self, tag, *entries):
        """The command as it serves; yields its process and what it said."""
        with subprocess.Popen([COMMAND, "export", tag, "--json", "--nbd", self.path("nbd"),
                               *entries], cwd=self.folder, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as command:
            try:
                said = ""
                while line := command.stdout.readline():
                    said += line
                    if line == "}\n":
                        break
                self.assertTrue(said, command.poll() is not None and command.stderr.read())
                yield command, json.loads(said)
            finally:
                command.kill()

    def read_nbd(self, uri):
        out = self.path("nbd.raw")
        binaries.run_img(self.image_tool, "convert", "-f", "raw", "-O", "raw", uri, out)
        return self.read_file(out)


class Identity(Exporting):
    def test_of_each_snapshot_of_a_chain_while_the_member_runs(self):
        self.three()
        self.write(11, "E")  # since the last snapshot
        for tag, content in self.taken.items():
            for image_format in export.FORMATS:
                made = self.export(tag, f"{tag}.{image_format}", image_format=image_format)
                (row,) = made["disks"]
                self.assertEqual((row["member"], row["disk"], os.path.basename(row["file"])),
                                 ("a", "disk0", f"a-disk0.{image_format}"))
                self.assertEqual(self.held(row["file"]), content, tag)
                self.assertEqual(os.stat(row["file"]).st_mode & 0o777, 0o600)
                self.assertLess(row["bytes"], 16 * BLOCK)  # of 8 MiB
                self.assertEqual((made["verified"], made["without_checksum"]), (True, []))
                self.assertEqual(self.left(f"{tag}.{image_format}"), [f"a-disk0.{image_format}"])
        self.check(4)  # nothing was changed by it

    def test_the_comparison_sees_a_difference(self):
        self.up()
        self.write(5, "A")
        self.take("t")
        file = self.export("t", image_format="raw")["disks"][0]["file"]
        with open(file, "r+b") as stream:
            stream.seek(5 * BLOCK + 77)
            stream.write(b"B")
        self.assertNotEqual(self.held(file), self.taken["t"])
        # An overlay over a golden image is no file of its own, and `held` would say so.
        overlay = self.path("overlay.qcow2")
        binaries.create_overlay(self.image_tool, overlay, self.path("golden.raw"), "raw")
        with self.assertRaises((AssertionError, HotsnapError)):
            self.held(overlay)

    def test_after_layers_were_merged(self):
        self.three()
        self.rm("A")
        self.rm("B")  # its layer and A's are in C's now
        self.assertEqual(self.held(self.export("C")["disks"][0]["file"]), self.taken["C"])
        self.down()
        self.assertEqual(self.held(self.export("C", "down")["disks"][0]["file"]),
                         self.taken["C"])

    def test_memory_of_uefi_s_variables(self):
        """It is a disk like others, of a size that is no multiple of a block of file systems."""
        self.up()
        self.take("t")
        variables = os.path.join(self.state.member_folder("a"), "nvram-1.qcow2")
        content = os.urandom(528 << 10)
        with open(self.path("variables"), "wb") as stream:
            stream.write(content)
        binaries.create_copy(self.image_tool, variables, self.path("variables"), "raw")
        with self.fleet.monitor("a") as qmp:
            frozen = self.fleet.block_info(qmp)["disk0"]["image"]["backing-filename"]
        listing.bundle.remove(self.bundle("t").path)
        test_operator_merge.operator_fixtures.make_bundle(
            self.state.bundles, "t", ("a",), {"a": [frozen, variables]})
        kept = self.bundle("t")
        kept.members[0].disks[1].device = "/machine/system.flash1/nvram-dev"
        kept.save_manifest()
        made = self.export("t", image_format="raw")
        self.assertEqual([row["disk"] for row in made["disks"]], ["disk0", "nvram"])
        self.assertEqual(self.held(made["disks"][1]["file"]), content)


class OfGroup(ForkOfOne, Exporting):
    def setUp(self):
        with mock.patch.object(test_operator_merge, "CLUSTER",
                               test_operator_merge.CLUSTER + TWO_DISKS):
            super().setUp()

    def test_by_the_fork_s_own_snapshots(self):
        self.up()
        groups.add(self.state, "g", ["a"])
        self.write(0, "A")
        self.snapshot(group="g")
        before = bytes(self.content)
        self.write(0, "B")
        made = self.export("t1")
        self.assertEqual(self.left(), ["a-disk0.qcow2", "a-disk1.qcow2"])
        self.assertEqual(self.held(made["disks"][0]["file"]), before)
        self.assertEqual(self.held(made["disks"][1]["file"]), bytes(8 << 20))
        # By number and by serial.
        made = self.export("t1", "one", "a:disk0", image_format="raw")
        self.assertEqual(self.held(made["disks"][0]["file"]), before)
        self.export("t1", "one", "a:data", image_format="raw")
        self.assertEqual(self.left("one"), ["a-disk0.raw", "a-disk1.raw"])
        with self.nbd("t1", "a:data", "a:disk0") as (_, said):
            first, second = (self.read_nbd(row["uri"]) for row in said["disks"])
        self.assertEqual((first, second), (bytes(8 << 20), before))
        # One with memory, over the layers of the other.
        after = bytes(self.content)
        with self.state.locked():
            snapshot.snapshot(self.state, self.fleet, "t2", quiet=True)
        self.write(0, "C")
        made = self.export("t2", "t2", "a:disk0")
        self.assertEqual(self.held(made["disks"][0]["file"]), after)


class Nbd(Exporting):
    def test_served_beside_the_running_member(self):
        self.three()
        with self.nbd("B") as (command, said):
            socket = os.path.realpath(self.path("nbd"))
            (row,) = said["disks"]
            self.assertEqual((row["uri"], row["size"], said["verified"]),
                             (f"nbd+unix:///a:disk0?socket={self.path('nbd')}", DISK, True))
            self.assertEqual(os.stat(socket).st_mode & 0o077, 0)
            self.assertEqual(self.read_nbd(row["uri"]), self.taken["B"])
            done = subprocess.run([self.image_tool.replace("qemu-img", "qemu-io"), "-f", "raw",
                                   "-c", "write 0 64k", row["uri"]], capture_output=True,
                                  text=True, check=False)
            self.assertRegex(done.stdout + done.stderr, "ermission denied|read-only")
            # The member goes on meanwhile, and is saved.
            self.write(12, "F")
            self.take("D")
            self.assertEqual(self.read_nbd(row["uri"]), self.taken["B"])
            with mock.patch.object(storage_daemon, "GRACE", 0.1), \
                    self.assertRaisesRegex(HotsnapError, "another program listens on"):
                export.serve(self.state, self.fleet, "B", socket)
            command.terminate()
            self.assertEqual(command.wait(60), 0)
        self.assertFalse(os.path.exists(socket))
        self.assertEqual(os.listdir(os.path.join(self.state.directory, "reading")), [])
        self.check(5)

    def test_killed_and_begun_again(self):
        self.three()
        with self.nbd("A") as (command, _):
            command.kill()
            command.wait()
        self.assertTrue(os.path.exists(self.path("nbd")))
        with self.nbd("A") as (command, said):
            self.assertEqual(self.read_nbd(said["disks"][0]["uri"]), self.taken["A"])
            command.send_signal(signal.SIGINT)
            self.assertEqual(command.wait(60), 0)
        self.assertFalse(os.path.exists(self.path("nbd")))
        with self.state.locked():  # the first daemon has ended with its command
            self.assertEqual(reading.readers(self.state), [])

    def test_a_place_that_is_taken(self):
        self.up()
        self.take("t")
        with open(self.path("file"), "w", encoding="ascii") as stream:
            stream.write("mine")
        with self.assertRaisesRegex(HotsnapError, "exists, and is no socket"):
            export.serve(self.state, self.fleet, "t", self.path("file"), as_json=True)
        self.assertEqual(self.read_file(self.path("file")), b"mine")
        with self.assertRaisesRegex(UsageError, "too long for a socket"):
            export.serve(self.state, self.fleet, "t", self.path("x" * 100))
        with self.assertRaisesRegex(HotsnapError, "the storage daemon ended: .*No such file"):
            export.serve(self.state, self.fleet, "t", self.path("nowhere/socket"), as_json=True)


class Protected(Exporting):
    def test_neither_removed_nor_merged_meanwhile(self):
        self.three()
        files = {tag: self.bundle(tag).members[0].disks[0].file for tag in "ABC"}
        with self.nbd("B") as (command, said):
            uri = said["disks"][0]["uri"]
            with self.assertRaisesRegex(
                    reading.InUse, f"'B' cannot be removed now: 'hotsnap export' of snapshot 'B' is "
                                   f"under way, process {command.pid}"):
                with self.state.locked():
                    listing.rm(self.state, self.fleet, "B", quiet=True)
            self.assertTrue(os.path.exists(self.bundle("B").path))
            # A's layer would take in B's, which lies over it: both wait.
            before = [self.read_file(files[tag]) for tag in "AB"]
            done = self.rm("A")
            self.assertEqual((done["deleted"], done["merged"], done["kept_unneeded"]),
                             ([], [], [files["A"]]))
            self.assertEqual([self.read_file(files[tag]) for tag in "AB"], before)
            self.assertEqual(self.read_nbd(uri), self.taken["B"])
            # C's layer and the member's are none of it.
            done = self.rm("C")
            self.assertEqual([merged["base"] for merged in done["merged"]], [files["C"]])
            self.assertEqual(self.read_nbd(uri), self.taken["B"])
            command.terminate()
            command.wait(60)
        with self.state.locked():
            done = listing.join_layers(self.state, self.fleet, quiet=True)
        self.assertEqual([merged["base"] for merged in done["merged"]], [files["A"]])
        self.check(2)
        self.rm("B")
        self.check(1)

    def test_without_the_entry_a_merge_begins(self):
        """Then QEMU's lock is the last that keeps a layer from being rewritten under the export."""
        self.three()
        with self.nbd("B"), mock.patch.object(reading, "readers", lambda _: []), \
                self.assertRaisesRegex(QmpError, "block-commit: .*lock"):
            self.rm("A")
        with self.state.locked():
            listing.join_layers(self.state, self.fleet, quiet=True)
        self.check(3)

    def test_an_entry_lasts_as_long_as_its_programs(self):
        """A command that is killed leaves the programs that read for a moment."""
        self.up()
        with self.state.locked(), reading.Reading(self.state, "export", "t") as held:
            held.set(["/x", "/y"])
            child = subprocess.Popen(["sleep", "60"], pass_fds=(held.handle,))
            self.addCleanup(child.wait)
            self.addCleanup(child.kill)
            (path,) = [entry.path for entry in os.scandir(
                os.path.join(self.state.directory, "reading"))]
            os.link(path, path + "1")  # as if the command had not tidied up
        (found,) = reading.readers(self.state)
        self.assertEqual((found.tag, found.layers), ("t", ["/x", "/y"]))
        self.assertEqual(reading.layers(self.state), {"/x", "/y"})
        reading.refuse(self.state, "no", "other")
        child.kill()
        child.wait()
        self.assertEqual(reading.readers(self.state), [])
        self.assertFalse(os.path.exists(path + "1"))


class Refused(Exporting):
    def prepared(self):
        self.three()
        self.down()

    def test_damage(self):
        self.prepared()
        for owner in "CA":  # its own layer, and one that lies below
            file = self.bundle(owner).members[0].disks[0].file
            with open(file, "r+b") as stream:
                offset = stream.read().index(owner.encode() * BLOCK) + 77
                stream.seek(offset)
                stream.write(b"?")
            with self.subTest(owner):
                with self.assertRaisesRegex(HotsnapError, f"'C' is damaged: {file} at offset 0x"):
                    self.export("C")
                self.assertEqual(self.left(), [])
                self.assertFalse(os.path.exists(self.path("out")))
                with self.assertRaisesRegex(HotsnapError, "is damaged"):
                    export.serve(self.state, self.fleet, "C", self.path("nbd"), as_json=True)
                made = self.export("C", f"anyway-{owner}", every_checksum=False)
                self.assertFalse(made["verified"])
                self.assertNotEqual(self.held(made["disks"][0]["file"]), self.taken["C"])
            with open(file, "r+b") as stream:
                stream.seek(offset)
                stream.write(owner.encode())
        os.truncate(file, os.path.getsize(file) - 1)
        with self.assertRaisesRegex(HotsnapError, "truncated"):
            self.export("C", every_checksum=False)
        os.unlink(file)
        with self.assertRaisesRegex(HotsnapError, "is missing"):
            self.export("C")

    def test_a_layer_without_checksums_is_told(self):
        self.prepared()
        with self.state.locked():  # a second layer over A's, so that it is kept
            frozen = self.bundle("A").members[0].disks[0].file
            layer = self.state.new_layer("a", "disk0")
            binaries.create_overlay(self.image_tool, layer, frozen, "qcow2")
            self.state.members["a"].disks, self.state.members["a"].below = {"disk0": layer}, {}
            self.state.save()
        self.assertEqual(self.rm("A")["kept_unneeded"], [frozen])
        with mock.patch.object(export, "say") as say:
            made = self.export("C")
        self.assertEqual(made["without_checksum"], [frozen])
        self.assertIn(f"not verified: {frozen}", say.call_args[0][0])
        self.assertEqual(self.held(made["disks"][0]["file"]), self.taken["C"])

    def test_changed_golden_image(self):
        self.prepared()
        os.utime(self.path("golden.raw"))
        with self.assertRaisesRegex(HotsnapError, "golden.raw was changed since"):
            self.export("C")

    def test_what_is_asked_for(self):
        self.prepared()
        for entries, pattern in ((["b"], "has no disk 'b': it has a:disk0; discs"),
                                 (["a:disk1"], "has no disk 'a:disk1'"), (["a:"], "no disk 'a:'")):
            with self.assertRaisesRegex(UsageError, pattern):
                self.export("C", "out", *entries)
        with self.assertRaisesRegex(HotsnapError, "no bundle at"):
            self.export("D")
        for tag in ("bundles/C", "../C"):
            with self.assertRaisesRegex(UsageError, "is not a tag"):
                self.export(tag)
        for folder in (self.state.directory, self.state.member_folder("a"),
                       os.path.join(self.state.bundles, "C", "new")):
            with self.assertRaisesRegex(UsageError, "in the cluster's own folder"):
                self.export("C", folder)
        kept = self.bundle("C")
        kept.members[0].disks.clear()
        kept.save_manifest()
        with self.assertRaisesRegex(HotsnapError, "is of no disk"):
            self.export("C")
        self.assertEqual(self.left(), [])

    def test_while_another_command_works(self):
        self.prepared()
        with self.state.locked(), self.assertRaises(Locked):
            self.export("C")

    def test_nothing_is_overwritten(self):
        self.prepared()
        os.mkdir(self.path("out"))
        with open(self.path("out/a-disk0.raw"), "w", encoding="ascii") as stream:
            stream.write("mine")
        with self.assertRaisesRegex(HotsnapError, "out/a-disk0.raw exists: remove it"):
            self.export("C", image_format="raw")
        self.assertEqual((self.left(), self.read_file(self.path("out/a-disk0.raw"))),
                         (["a-disk0.raw"], b"mine"))
        real = copies.copy

        def slow(*arguments, **keywords):  # and a file that comes meanwhile
            real(*arguments, **keywords)
            with open(self.path("out/a-disk0.qcow2"), "w", encoding="ascii") as stream:
                stream.write("mine too")

        with mock.patch.object(copies, "copy", slow), \
                self.assertRaisesRegex(HotsnapError, "a-disk0.qcow2 exists"):
            self.export("C")
        self.assertEqual(self.left(), ["a-disk0.qcow2", "a-disk0.raw"])
        self.assertEqual(self.read_file(self.path("out/a-disk0.qcow2")), b"mine too")

    def test_two_at_once(self):
        self.prepared()
        os.mkdir(self.path("out"))
        with delivery.delivery(self.path("out"), "x", ["y"]), \
                mock.patch.object(delivery, "GRACE", 0.1):
            with self.assertRaisesRegex(HotsnapError, "another process exports to"):
                self.export("C")
        self.export("C")

    def test_no_space(self):
        self.prepared()
        os.mkdir(self.path("out"))
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none",
                               self.path("out")], capture_output=True, text=True, check=False)
        if done.returncode:
            self.skipTest(f"nothing can be mounted here: {done.stderr.strip()}")
        try:
            with self.assertRaisesRegex(HotsnapError, "No space left on device"):
                self.export("C")
            self.assertEqual(self.left(), [])
            with contextlib.suppress(OSError), open(self.path("out/full"), "wb") as stream:
                while True:
                    stream.write(bytes(4096))
            with self.assertRaisesRegex(OSError, "No space left on device"):  # for the journal
                self.export("C")
            self.assertEqual(self.left(), ["full"])
        finally:
            subprocess.run(["umount", self.path("out")], check=True)
        self.assertEqual(self.held(self.export("C")["disks"][0]["file"]), self.taken["C"])


class Killed(Exporting):
    """SIGKILL at each step; a second run makes what the first one did not."""

    def setUp(self):
        with mock.patch.object(test_operator_merge, "CLUSTER",
                               test_operator_merge.CLUSTER + TWO_DISKS):
            super().setUp()

    def prepared(self):
        self.up()
        self.write(3, "A")
        with self.fleet.monitor("a") as qmp:
            second = self.fleet.block_info(qmp)["disk1"]["image"]["filename"]
        self.take("t")
        path = self.bundle("t").path
        frozen = self.bundle("t").members[0].disks[0].file
        listing.bundle.remove(path)
        test_operator_merge.operator_fixtures.make_bundle(
            self.state.bundles, "t", ("a",), {"a": [frozen, second]})
        self.down()

    def killed(self, step):
        def work():
            dying = killer(step)
            for owner, name in ((copies, "copy"), (Delivery, "_write"), (os, "rename"),
                                (delivery, "sync_file"), (delivery, "sync_folder"),
                                (os, "unlink")):
                setattr(owner, name, dying(getattr(owner, name)))
            self.export("t")

        return os.WIFSIGNALED(in_child(work))

    def whole(self, file):
        wanted = self.taken["t"] if "disk0" in file else bytes(8 << 20)
        self.assertEqual(self.held(self.path(f"out/{file}")), wanted, file)

    def test_at_each_step(self):
        self.prepared()
        seen = set()
        names = ["a-disk0.qcow2", "a-disk1.qcow2"]
        for step in steps(1, 40, 3):
            with self.subTest(step=step):
                died = self.killed(step)
                there = [name for name in self.left() if name in names]
                for name in there:
                    self.whole(name)
                if delivery.JOURNAL in self.left() or not there:
                    seen.add(len(there))
                    made = self.export("t")
                    self.assertEqual([os.path.basename(row["file"]) for row in made["disks"]],
                                     names)
                self.assertEqual(self.left(), names)
                for name in names:
                    self.whole(name)
                    os.unlink(self.path(f"out/{name}"))
                with self.state.locked():
                    self.assertEqual(reading.readers(self.state), [])
                if not died:
                    self.assertGreater(step, 8)
                    self.assertIn(0, seen)
                    return
        self.fail("the export has more steps than were tried")

    def test_killed_while_a_disk_is_copied(self):
        self.prepared()
        slow = self.path("slow-img")
        with open(slow, "w", encoding="ascii") as stream:
            stream.write(f'''#!/bin/sh
[ "$1" = convert ] || exec {self.image_tool} "$@"
for target; do :; done
echo in part >"$target"
exec sleep 60
''')
        os.chmod(slow, 0o755)
        child = os.fork()
        if not child:
            try:
                with mock.patch.object(binaries, "qemu_img", lambda *_: slow):
                    self.export("t")
            finally:
                os._exit(0)
        deadline = time.monotonic() + 60
        while "a-disk0.qcow2.new" not in self.left():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.assertEqual(self.left(), [delivery.JOURNAL, "a-disk0.qcow2.new"])
        made = self.export("t")
        self.assertEqual(self.left(), ["a-disk0.qcow2", "a-disk1.qcow2"])
        self.assertEqual(self.held(made["disks"][0]["file"]), self.taken["t"])

    def test_whole_files_of_another_snapshot_are_not_taken_for_this_one_s(self):
        self.prepared()
        os.mkdir(self.path("out"))
        with mock.patch.object(Delivery, "rename", side_effect=KeyboardInterrupt), \
                self.assertRaises(KeyboardInterrupt):
            with delivery.delivery(self.path("out"), "other", ["a-disk0.qcow2"]) as other:
                with open(other.unfinished("a-disk0.qcow2"), "w", encoding="ascii") as stream:
                    stream.write("other")
                other.publish()
        with self.assertRaisesRegex(HotsnapError, "a-disk0.qcow2 exists"):
            self.export("t", "out", "a:disk0")
        self.assertEqual(self.read_file(self.path("out/a-disk0.qcow2")), b"other")
        self.assertEqual(self.left(), ["a-disk0.qcow2"])


if __name__ == "__main__":
    unittest.main()
