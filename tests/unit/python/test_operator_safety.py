# SPDX-License-Identifier: GPL-2.0-or-later
"""No layer that anybody needs is ever deleted: what happens beside the command, and in its way."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import tempfile
import time
import unittest
from unittest import mock

from hotsnap.commands import lifecycle, listing
from hotsnap.disks import layers, merge, relocate
from hotsnap.errors import HotsnapError
from hotsnap.formats import qcow2
from hotsnap.model import bundle, cluster
from hotsnap.model.state import MemberState, State
from hotsnap.qemu import binaries
from hotsnap.qemu.fleet import Fleet
from hotsnap.qemu.qmp import QmpTimeout
from support.tier import steps
from test_operator_merge import ClusterOfOne, Crash


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
            deadline = time.monotonic() + 120
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
            deadline = time.monotonic() + 120
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


class Unfinished(ClusterOfOne):
    """A merge that cannot be finished now."""

    def damage(self, tag):
        with open(self.bundle(tag).file("manifest.json"), "w", encoding="utf-8") as stream:
            stream.write("{")

    def cut_short(self, tag, damaged=None):
        """rm of that tag dies when all is committed, and then a manifest is found damaged."""
        with mock.patch.object(merge._Merging, "_rewrite",  # pylint: disable=protected-access
                               side_effect=KeyboardInterrupt), \
                self.assertRaises(KeyboardInterrupt):
            self.rm(tag)
        if damaged:
            self.damage(damaged)
        self.state.load()

    def layers(self):
        return set(layers.scan(merge.folders(self.state)))

    def test_the_damaged_bundle_can_be_removed(self):
        for runs in (True, False):
            with self.subTest(runs=runs):
                self.three()
                if not runs:
                    self.down()
                self.cut_short("A", "C")
                before = self.layers()
                self.assertIn("merge of disk layers waits", self.rm_alone("B")["remark"])
                self.taken.pop("B")
                self.assertEqual(before, self.layers())
                done = self.rm_alone("C")
                self.taken.pop("C")
                self.assertIsNone(done["remark"])
                self.check(1)
                self.down()
                self.up_fresh()
                self.down()

    def test_life_goes_on_beside_it(self):
        self.three()
        self.cut_short("A", "C")
        frozen = {self.bundle("B").members[0].disks[0].file}
        self.taken.pop("C")
        before = self.layers()
        self.down()
        self.up()
        self.write(5, "E")
        self.down()
        self.assertLessEqual(before | frozen, self.layers())
        self.up()
        self.rm_alone("C")
        self.check(2)

    def test_what_the_topmost_was_merged_from_is_not_used_again(self):
        """The member goes on in the lower layer at once, whatever happens to the bundles."""
        self.three()
        self.damage_after_plan("C", "A")
        self.write(6, "F")
        self.write(10, "F")
        self.fleet.kill(["a"])
        self.state.load()
        self.state.members["a"].process = None
        self.taken.pop("A")
        self.up()
        self.assertEqual(self.view(self.active()), bytes(self.content))
        self.down()
        self.rm_alone("A")
        self.check(2)

    def damage_after_plan(self, tag, damaged):
        real = layers.plan

        def plan(*arguments):
            self.damage(damaged)
            return real(*arguments)
        with mock.patch.object(layers, "plan", plan):
            self.assertIn("damaged", self.rm(tag)["remark"])

    def test_sums_of_a_bundle_are_damaged(self):
        self.three()
        self.cut_short("A")
        os.unlink(self.bundle("C").file(self.bundle("C").members[0].disks[0].sums))
        os.unlink(self.bundle("B").file(self.bundle("B").members[0].disks[0].sums))
        self.down()
        self.up()
        for tag in "CB":
            self.rm(tag)
        self.check(1)

    def test_qemu_does_not_answer(self):
        """The journal stays as long as QEMU may work on the merge."""
        self.three()
        with mock.patch.object(merge.jobs, "_watch", side_effect=QmpTimeout("no answer")), \
                self.assertRaisesRegex(HotsnapError, "cut short.*no answer.*mends it"):
            self.rm("C")
        self.assertTrue(os.path.exists(self.state.journal))
        self.state.load()
        with self.state.locked():
            merge.recover(self.state, self.fleet, quiet=True)
            merge.tidy(self.state, self.fleet, quiet=True)
        self.write(9, "Z")
        self.check(3)

    def rm_alone(self, tag):
        with self.state.locked():
            return listing.rm(self.state, self.fleet, tag, quiet=True)


class Spelling(ClusterOfOne):
    """A cluster's folder has one name for this command, however it is spelled."""

    def through(self, folder):
        """The cluster as seen from another folder."""
        self.state = State(cluster.load(os.path.join(folder, "cluster.toml")))
        self.fleet = Fleet(self.state, snapshots=False)

    def link(self):
        link = self.folder + "-link"
        os.symlink(self.folder, link)
        self.addCleanup(os.unlink, link)
        return link

    def layers(self):
        return set(layers.scan(merge.folders(self.state)))

    def test_a_link_to_the_folder(self):
        self.three()
        link = self.link()
        self.through(link)
        self.assertEqual(len(self.rm("A")["merged"]), 1)
        self.check(3)
        self.down()
        self.through(self.folder)
        self.check(3)
        self.through(link)
        self.up()
        self.write(5, "E")
        self.check(3)

    def written_through_a_link(self):
        """In headers and manifests, as QEMU writes them, and in state.json."""
        self.three()
        self.down()
        self.respell(self.link())
        self.state.load()

    def remove_all(self):
        for tag, chain in (("A", 3), ("B", 2), ("C", 1)):
            self.assertEqual(len(self.rm(tag)["merged"]), 1)
            self.check(chain)

    def test_what_is_written_down_goes_through_a_link(self):
        self.written_through_a_link()
        self.remove_all()

    def test_two_at_once_through_a_link(self):
        self.written_through_a_link()
        self.taken.pop("A")
        bundle.remove(self.bundle("A").path)
        self.rm("B")
        self.check(2)

    def test_qemu_runs_through_a_link(self):
        self.written_through_a_link()
        with mock.patch.object(os.path, "realpath", os.path.abspath):  # as if there were no links
            self.state.load()
            self.state.cluster = dataclasses.replace(
                self.state.cluster, directory=self.folder + "-link/.hotsnap/merge")
            self.state.directory = self.state.cluster.directory
            with self.state.locked(), mock.patch.object(merge, "collect"):
                lifecycle.up(self.state, self.fleet)
        self.through(self.folder)
        self.remove_all()

    def respell(self, link):
        files = [self.state.file, *(self.bundle(tag).file("manifest.json") for tag in self.taken)]
        for path in files:
            with open(path, encoding="utf-8") as stream:
                text = stream.read()
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text.replace(self.folder + "/", link + "/"))
        for path in self.layers():
            lower = qcow2.backing_file(path)
            if lower.endswith(".qcow2"):
                subprocess.run([self.image_tool, "rebase", "-u", "-f", "qcow2", "-F", "qcow2",
                                "-b", lower.replace(self.folder, link), path], check=True)

    def move(self):
        original, moved = self.folder, self.folder + "-moved"

        def back():
            self.end()
            os.rename(moved, original)
            self.through(original)

        os.rename(original, moved)
        self.addCleanup(back)
        self.through(moved)
        self.folder = moved

    def test_a_folder_that_was_moved(self):
        self.three()
        self.down()
        before = self.layers()
        self.move()
        self.up()
        self.assertEqual(self.layers(), {p.replace(self.folder.removesuffix("-moved"), self.folder)
                                         for p in before})
        self.check(4)
        self.assertEqual(qcow2.chain(self.active())[-1].rpartition("/")[0],
                         os.path.realpath(self.state.member_folder("a")))
        self.write(5, "E")
        self.remove_all()

    def test_a_folder_that_was_copied_is_adapted_although_it_is_killed(self):
        self.three()
        self.down()
        original, folder = (self.state, self.fleet), self.folder
        for step in steps(1, 40):
            with tempfile.TemporaryDirectory(prefix="hs-") as place:
                self.folder = os.path.join(place, "copy")
                shutil.copytree(folder, self.folder)
                self.through(self.folder)
                crashed = self.adapt(step)
                self.state.load()
                self.adapt(0)
                self.check(4)
            if not crashed:
                self.assertGreater(step, 7)
                break
        self.folder = folder
        self.state, self.fleet = original

    def adapt(self, step):
        """Whether it ended before its n-th step."""
        left = step

        def dying(real):
            def wrapped(*arguments, **keywords):
                nonlocal left
                left -= 1
                if not left:
                    raise Crash()
                return real(*arguments, **keywords)
            return wrapped

        with mock.patch.object(binaries, "run_img", dying(binaries.run_img)), \
                mock.patch.object(bundle.Bundle, "save_manifest",
                                  dying(bundle.Bundle.save_manifest)), \
                mock.patch.object(os, "unlink", dying(os.unlink)), \
                mock.patch.object(State, "save", dying(State.save)), \
                contextlib.suppress(Crash), self.state.locked():
            relocate.relocate(self.state)
        return left == 0 and step > 0

    def test_a_folder_that_was_moved_while_it_runs(self):
        self.three()
        os.rename(self.folder, self.folder + "-moved")
        original = self.state, self.fleet
        try:
            self.through(self.folder + "-moved")
            with self.assertRaisesRegex(HotsnapError, "a runs on the disks in .*put the cluster's"):
                self.up()
        finally:
            os.rename(self.folder + "-moved", self.folder)
            self.state, self.fleet = original
        self.check(4)

    def test_a_copy_does_not_end_the_members_of_the_original(self):
        self.three()
        copy = self.folder + "-copy"
        shutil.copytree(self.folder, copy, ignore=lambda *_: ["run"])
        self.addCleanup(shutil.rmtree, copy)
        original, folder = (self.state, self.fleet), self.folder
        self.through(copy)
        for force in (False, True):
            with self.assertRaisesRegex(HotsnapError, f"a runs on the disks in {folder}/.*copy"):
                lifecycle.down(self.state, self.fleet, force)
        self.state, self.fleet = original
        self.assertTrue(self.fleet.running("a"))
        self.check(4)

    def test_a_golden_image_is_not_where_it_was(self):
        self.three()
        self.down()
        self.move()
        golden = self.path("golden.raw")
        kept = os.stat(golden)
        os.utime(golden)
        with self.assertRaisesRegex(HotsnapError, "golden image .*golden.raw.*'touch -d @"):
            self.up()
        os.utime(golden, ns=(kept.st_atime_ns, kept.st_mtime_ns))
        self.up()
        self.check(4)

    def test_a_golden_image_is_not_needed_to_start_over(self):
        self.three()
        self.down()
        self.move()
        os.utime(self.path("golden.raw"))
        self.up_fresh()
        self.assertEqual(self.view(self.active()), bytes(self.content))

    def test_a_folder_that_was_copied(self):
        """Both go on, and neither needs the other."""
        self.three()
        self.down()
        copy = self.folder + "-copy"
        shutil.copytree(self.folder, copy)
        self.addCleanup(shutil.rmtree, copy)
        original, folder, content = (self.state, self.fleet), self.folder, bytes(self.content)
        self.through(copy)
        self.folder = copy
        self.up()
        self.assertTrue(all(path.startswith(copy) for path in qcow2.chain(self.active())))
        self.write(6, "F")
        self.check(4)
        self.down()
        self.state, self.fleet = original
        self.folder, self.content[:] = folder, content
        self.up()
        self.check(4)

    def test_a_journal_of_another_folder(self):
        self.three()
        self.down()
        with mock.patch.object(merge._Merging, "_move_up",  # pylint: disable=protected-access
                               side_effect=KeyboardInterrupt), \
                self.assertRaises(KeyboardInterrupt):
            self.rm("A")
        copy = self.folder + "-copy"
        shutil.copytree(self.folder, copy)
        self.addCleanup(shutil.rmtree, copy)
        original = self.state, self.fleet
        self.through(copy)
        with self.assertRaisesRegex(HotsnapError, "put the cluster's folder back"):
            self.up()
        self.state, self.fleet = original
        self.up()
        self.check(3)

    def test_a_layer_that_a_snapshot_names_is_gone(self):
        self.three()
        os.unlink(self.bundle("B").members[0].disks[0].file)
        before = self.layers()
        self.assertIn("all disk layers were kept", self.rm_alone("A")["remark"])
        self.assertEqual(before, self.layers())

    def test_the_topmost_layer_is_gone(self):
        """What is below it belongs to a snapshot: nobody may write there."""
        self.three()
        self.down()
        os.unlink(self.state.members["a"].disks["disk0"])
        before = self.view(self.bundle("C").members[0].disks[0].file)
        with self.assertRaisesRegex(HotsnapError, "disk0 of member a is gone"):
            self.up()
        self.assertEqual(self.view(self.bundle("C").members[0].disks[0].file), before)

    def test_the_state_is_gone(self):
        self.three()
        self.down()
        os.unlink(self.state.file)
        self.state.members = {}
        before = self.layers()
        for command in (self.up, lambda: self.rm_alone("A")):
            with self.assertRaisesRegex(HotsnapError, "state.json is missing"):
                command()
        self.assertEqual(before, self.layers())
        self.up_fresh()
        self.check(1)

    def test_a_disk_that_the_cluster_file_does_not_name_for_a_while(self):
        self.three()
        self.down()
        with open(self.path("cluster.toml"), encoding="utf-8") as stream:
            text = stream.read()
        for left in (text.partition("  [[member.disk]]")[0], text):
            with open(self.path("cluster.toml"), "w", encoding="utf-8") as stream:
                stream.write(left)
            self.through(self.folder)
            self.up()
            self.rm("A" if left != text else "C")
            self.down()
        self.check(2)

    def test_a_member_of_the_past(self):
        """Its disks are kept for as long as they are there."""
        self.three()
        folder = self.path(".hotsnap/merge/members/old")
        os.mkdir(folder)
        layer = os.path.join(folder, "disk0-1.qcow2")
        binaries.create_empty(self.image_tool, layer, 1 << 20)
        self.state.members["old"] = MemberState(disks={"disk0": layer})
        self.state.save()
        self.rm("A")
        self.assertTrue(os.path.exists(layer))
        os.unlink(layer)
        self.rm("B")
        self.check(2)

    def test_a_disk_that_was_unplugged(self):
        self.three()
        self.rm("B")
        with mock.patch.object(Fleet, "block_info", lambda *_: {}), self.state.locked():
            merge.tidy(self.state, self.fleet, merge=False)
        self.check(3)

    def rm_alone(self, tag):
        with self.state.locked():
            return listing.rm(self.state, self.fleet, tag, quiet=True)


if __name__ == "__main__":
    unittest.main()
