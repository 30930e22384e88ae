# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot as one file: imported elsewhere it is the same cluster at the same instant, without
anything of the first folder; a damaged or hostile archive is refused, and leaves nothing.

Members are real ones of the fork: $HOTSNAP_QEMU, else the checkout's build.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import unittest
from unittest import mock

import test_operator_merge
from hotsnap import cli
from hotsnap.commands import archive, archive_checks, archive_import, group, lifecycle, snapshot, verify
from hotsnap.disks import survey
from hotsnap.errors import HotsnapError, UsageError
from hotsnap.formats import images, qcow2
from hotsnap.host import atomic, tarball
from hotsnap.model import bundle, cluster, groups, reading
from hotsnap.model.state import State
from hotsnap.qemu import binaries
from hotsnap.qemu.fleet import Fleet
from support.tier import steps
from test_operator_group import TWO_DISKS
from test_operator_restore import ForkOfOne, in_child, killer

DISC = '\n  [[member.disk]]\n  cdrom = "disc.iso"\n'


class Archives(ForkOfOne):
    """A cluster that runs, with what the tests need to pack its snapshots and to look at copies."""

    more = ""

    def setUp(self):
        with mock.patch.object(test_operator_merge, "CLUSTER",
                               test_operator_merge.CLUSTER + self.more):
            self.make_images()
            super().setUp()
        self.others = []

    def make_images(self):
        pass

    def end(self):
        for fleet in self.others:
            os.makedirs(fleet.state.directory, exist_ok=True)
            fleet.kill(fleet.names())
            fleet.remove_network()
        if os.path.exists(self.path("gone")):
            os.rename(self.path("gone/.hotsnap"), self.path(".hotsnap"))
        os.makedirs(self.state.directory, exist_ok=True)
        super().end()

    def save(self, tag="t1", name="out.tar.zst", **options):
        return archive.save(self.state, self.fleet, tag, self.path(name), quiet=True, **options)

    def load(self, name="out.tar.zst", folder="new", **options):
        return archive_import.load(self.path(name), self.path(folder), quiet=True, **options)

    def saved_and_loaded(self):
        """Packs a snapshot of the running cluster and unpacks it; what its first disk held."""
        self.up()
        self.write(0, "A")
        self.snapshot()
        expected = bytes(self.content)
        self.save()
        self.load()
        return expected

    def without_the_original(self):
        """Ends the cluster and takes its folder and images away."""
        self.down()
        os.makedirs(self.path("gone"))
        for name in (".hotsnap", "golden.raw", "cluster.toml"):
            os.rename(self.path(name), self.path(os.path.join("gone", name)))

    def opened(self, folder="new"):
        state = State(cluster.load(os.path.join(self.path(folder), "cluster.toml")))
        fleet = Fleet(state)
        self.others.append(fleet)
        return state, fleet

    def restored(self, folder="new", tag="t1"):
        """The file that the restored member's first disk writes to."""
        state, fleet = self.opened(folder)
        with state.locked():
            saved = bundle.read(os.path.join(state.bundles, tag))
            if saved.only_disks:
                group.restore(state, fleet, saved, False, True, True)
            else:
                snapshot.restore(state, fleet, saved, quiet=True)
        with fleet.monitor("a") as qmp:
            self.assertEqual(qmp.execute("query-status")["status"], "running")
            return {disk: info["image"]["filename"]
                    for disk, info in fleet.block_info(qmp).items()}

    def nothing_is_left(self, name="new"):
        self.assertFalse(os.path.lexists(self.path(name)))
        self.assertEqual([entry for entry in os.listdir(self.folder)
                          if entry.endswith(atomic.UNFINISHED)], [])


class Life(Archives):
    def test_a_chain_with_memory_without_anything_of_the_original(self):
        self.up()
        self.write(0, "A")
        self.take("older")  # a layer below, which no snapshot of the archive names
        self.write(1, "B")
        self.snapshot()
        expected = bytes(self.content)
        self.write(0, "C")
        made = self.save()
        self.assertEqual((made["left_out"], made["verified"], made["members"]), ([], True, ["a"]))
        self.assertEqual(os.stat(made["archive"]).st_mode & 0o777, 0o600)
        self.assertLess(made["bytes"], 4 << 20)  # of 16 MiB of memory and 8 MiB of disk
        memory = self.read_file(self.bundle("t1").file("a/state"))
        self.without_the_original()
        done = self.load()
        self.assertEqual((done["imported"], done["members"], done["left_out"]), ("t1", ["a"], []))
        state, _ = self.opened()
        saved = bundle.read(os.path.join(state.bundles, "t1"))
        self.assertEqual(verify.check(saved).damage, [])
        self.assertEqual(self.read_file(saved.file("a/state")), memory)
        files = self.restored()
        self.assertEqual(self.view(files["disk0"]), expected)
        for layer in qcow2.chain(files["disk0"]):
            self.assertTrue(layer.startswith(self.path("new") + "/members/"), layer)
        # It lives as any other cluster does: it is saved and restored again.
        state, fleet = self.opened()
        with state.locked():
            snapshot.snapshot(state, fleet, "t2", quiet=True)
            snapshot.restore(state, fleet, bundle.read(os.path.join(state.bundles, "t2")), True,
                             quiet=True)
            lifecycle.down(state, fleet, force=False)
            lifecycle.up(state, fleet)

    def test_twice_beside_the_original_which_goes_on(self):
        expected = self.saved_and_loaded()
        self.load(folder="newer")
        self.write(0, "B")
        self.assertEqual(self.view(self.restored()["disk0"]), expected)
        self.assertEqual(self.view(self.restored("newer")["disk0"]), expected)
        self.assertEqual(self.view(self.active()), bytes(self.content))

    def test_up_begins_anew_from_the_images_of_the_archive(self):
        self.up()
        self.write(0, "A")
        self.snapshot()
        self.save()
        self.without_the_original()
        self.load()
        state, fleet = self.opened()
        with state.locked():
            lifecycle.up(state, fleet)
        with fleet.monitor("a") as qmp:
            self.assertEqual(self.view(fleet.block_info(qmp)["disk0"]["image"]["filename"]),
                             self.read_file(self.path("gone/golden.raw")))

    def test_without_images(self):
        self.up()
        self.write(0, "A")
        self.snapshot()
        expected = bytes(self.content)
        golden = os.path.realpath(self.path("golden.raw"))
        self.assertEqual(self.save(with_images=False)["left_out"], [golden])
        self.down()
        shutil.rmtree(self.path(".hotsnap"))
        with self.assertRaisesRegex(HotsnapError, "would read these files.*golden.raw.*give --host-"
                                                  "images"):
            self.load()
        self.nothing_is_left()
        self.assertEqual(self.load(host_images=True)["left_out"], [golden])
        self.assertEqual(self.view(self.restored()["disk0"]), expected)
        found = os.stat(golden)
        os.utime(golden, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        with self.assertRaisesRegex(HotsnapError, "golden.raw is not as it was"):
            self.load(folder="newer", host_images=True)
        os.unlink(golden)
        with self.assertRaisesRegex(HotsnapError, "it is not on this host"):
            self.load(folder="newer", host_images=True)
        self.nothing_is_left("newer")

    def test_again_and_to_the_place_of_the_original(self):
        """Of what was imported, to the very folder that it is in."""
        expected = self.saved_and_loaded()
        state, fleet = self.opened()
        archive.save(state, fleet, "t1", self.path("second"), quiet=True)
        shutil.rmtree(self.path("new"))
        self.load("second")
        self.assertEqual(self.view(self.restored()["disk0"]), expected)

    def test_what_the_cluster_file_does_not_describe_any_more(self):
        self.up()
        self.snapshot()
        text = self.read_file(self.path("cluster.toml")).decode()
        with open(self.path("cluster.toml"), "w", encoding="utf-8") as stream:
            stream.write(text.replace('"16M"', '"32M"'))
        self.state = State(cluster.load(self.path("cluster.toml")))
        self.fleet = Fleet(self.state)
        with self.assertRaisesRegex(HotsnapError, "16M|machine|hardware"):
            self.save()
        self.nothing_is_left("out.tar.zst")

    def test_two_exports_to_one_file(self):
        self.up()
        self.snapshot()
        seen = []
        real = tarball.pack

        def pack(*arguments):
            with self.assertRaisesRegex(HotsnapError, "another export to .* is under way"), \
                    mock.patch.object(tarball, "pack", seen.append):
                self.save()
            real(*arguments)

        with mock.patch.object(tarball, "pack", pack):
            self.save()
        self.assertEqual(seen, [])
        self.load()

    def test_the_command(self):
        self.up()
        self.snapshot()
        said, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            for words in (["export", "t1", "--archive", self.path("x")],
                          ["import", self.path("x"), self.path("y")]):
                self.assertEqual(cli.main(["-f", self.path("cluster.toml"), *words]), 0)
            for words in (["export", "t1", "--archive", self.path("z"), self.path("f")],
                          ["export", "t1", "--archive", self.path("z"), "--nbd", "s"],
                          ["export", "t1", self.path("f"), "--no-images"],
                          ["export", "a/b", "--archive", self.path("z")]):
                self.assertEqual(cli.main(["-f", self.path("cluster.toml"), *words]), 2, words)
        self.assertRegex(said.getvalue(), "exported t1 to .*/x: .*\nimported t1 of a: 'hotsnap -f "
                                          ".*/y/cluster.toml restore t1' brings it back\n")


class OfGroup(Archives):
    more = TWO_DISKS + DISC

    def make_images(self):
        self.disc = b"disc" * 1024

    def up(self):
        with open(self.path("disc.iso"), "wb") as stream:
            stream.write(self.disc)
        self.state = State(cluster.load(self.path("cluster.toml")))
        self.fleet = Fleet(self.state)
        super().up()

    def setUp(self):
        real = cluster.load

        def load(path):  # the disc is made as soon as its folder is known
            with open(os.path.join(os.path.dirname(path), "disc.iso"), "wb") as stream:
                stream.write(self.disc)
            return real(path)

        with mock.patch.object(cluster, "load", load):
            super().setUp()

    def test_one_disk_of_two(self):
        self.up()
        groups.add(self.state, "g", ["a:disk0"])
        self.write(0, "A")
        self.snapshot(group="g")
        expected = bytes(self.content)
        self.save()
        self.without_the_original()
        os.rename(self.path("disc.iso"), self.path("gone/disc.iso"))
        self.load()
        files = self.restored()
        self.assertEqual(self.view(files["disk0"]), expected)
        self.assertEqual(self.view(files["disk1"]), bytes(8 << 20))  # as when it was new

    def test_one_disk_of_two_without_images(self):
        self.up()
        groups.add(self.state, "g", ["a:disk0"])
        self.snapshot(group="g")
        self.save(with_images=False)
        self.down()
        shutil.rmtree(self.path(".hotsnap"))
        self.load(host_images=True)
        self.assertEqual(self.view(self.restored()["disk1"]), bytes(8 << 20))

    def test_discs_in_drives(self):
        self.up()
        self.snapshot()
        self.save()
        self.without_the_original()
        os.rename(self.path("disc.iso"), self.path("gone/disc.iso"))
        self.load()
        self.restored()
        _, fleet = self.opened()
        with fleet.monitor("a") as qmp:
            file = next(device["inserted"]["file"] for device in qmp.execute("query-block")
                        if "disk2" in device.get("qdev", ""))
        self.assertEqual(self.read_file(file), self.disc)
        self.assertTrue(file.startswith(self.path("new")), file)


class Refusals(Archives):
    def begin(self):
        self.up()
        self.write(0, "A")
        self.take("older")
        self.write(1, "B")
        self.snapshot()

    def refused(self, pattern, error=HotsnapError, name="out.tar.zst", folder="new"):
        with self.assertRaisesRegex(error, pattern):
            self.load(name, folder)

    def test_what_cannot_be_packed(self):
        self.begin()
        with open(self.path("out.tar.zst"), "wb"):
            pass
        with self.assertRaisesRegex(HotsnapError, "exists: remove it"):
            self.save()
        os.unlink(self.path("out.tar.zst"))
        with self.assertRaisesRegex(HotsnapError, "no folder"):
            self.save(name="none/out")
        with self.assertRaisesRegex(HotsnapError, "no bundle at"):
            self.save("t9")
        layer = self.bundle("t1").members[0].disks[0].file
        with open(layer, "r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            last = stream.read(1)
            stream.seek(-1, os.SEEK_END)
            stream.write(bytes([last[0] ^ 1]))
        with self.assertRaisesRegex(HotsnapError, "is damaged.*nothing was exported"):
            self.save()
        self.nothing_is_left("out.tar.zst")

    def test_an_image_that_is_not_one_file(self):
        self.down_with_image("-b", self.path("golden.raw"), "-F", "raw")
        with self.assertRaisesRegex(HotsnapError, "is not one file, since it lies over"):
            self.save()
        self.nothing_is_left("out.tar.zst")
        self.save(with_images=False)

    def down_with_image(self, *options):
        """A snapshot of a cluster whose golden image is a qcow2 file made with these options."""
        binaries.run_img(self.image_tool, "create", "-f", "qcow2", *options,
                         self.path("golden.qcow2"), "8M")
        text = self.read_file(self.path("cluster.toml")).decode()
        with open(self.path("cluster.toml"), "w", encoding="utf-8") as stream:
            stream.write(text.replace("golden.raw", "golden.qcow2").replace('format = "raw"', ""))
        self.state = State(cluster.load(self.path("cluster.toml")))
        self.fleet = Fleet(self.state)
        self.up()
        self.snapshot()

    def test_damage_on_the_way(self):
        self.begin()
        self.save()
        whole = self.read_file(self.path("out.tar.zst"))
        for number, data in enumerate((whole[:len(whole) // 2], whole[:-1], b"", b"nothing" * 99,
                                       *(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:]
                                         for at in range(len(whole) // 9, len(whole),
                                                         len(whole) // 8)))):
            with self.subTest(number), open(self.path("cut"), "wb") as stream:
                stream.write(data)
                stream.flush()
                self.refused("cut (could not be unpacked|has no hotsnap-archive.json at)",
                             name="cut")
                self.nothing_is_left()

    def test_places_that_are_taken(self):
        self.begin()
        self.save()
        os.makedirs(self.path("new/x"))
        self.refused("is not empty")
        shutil.rmtree(self.path("new"))
        self.refused("no folder", folder="none/new")
        self.refused("no file", name="none")
        os.makedirs(self.path("new"))
        self.load()
        self.refused("not empty")
        with mock.patch.object(archive_import, "free", lambda _: 1000):
            self.refused("needs .*MiB.*nothing was imported", folder="newer")
        self.nothing_is_left("newer")

    # Hostile archives

    def hostile(self, change, head=None, add=()):
        """Unpacks the archive, changes it, and packs it again as a stranger would."""
        folder = self.path("hostile")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        subprocess.run(["tar", "--zstd", "-xf", self.path("out.tar.zst"), "-C", folder], check=True)
        change(folder)
        file = os.path.join(folder, "hotsnap-archive.json")
        with open(file, encoding="utf-8") as stream:
            told = json.load(stream)
        for entry in told["files"]:
            path = os.path.join(folder, entry["name"])
            entry["size"] = os.lstat(path).st_size if os.path.lexists(path) else entry["size"]
        if head:
            head(told)
        with open(file, "w", encoding="utf-8") as stream:
            json.dump(told, stream)
        names = [entry["name"] for entry in told["files"]
                 if os.path.lexists(os.path.join(folder, entry["name"]))]
        subprocess.run(["tar", "--format=posix", "--zstd", "-cPSf", self.path("bad"),
                        *(["--hard-dereference"] if add else []), "-C", folder,
                        "hotsnap-archive.json", *names, *add], check=True)

    def refused_hostile(self, pattern, change=lambda folder: None, head=None, error=HotsnapError,
                        add=()):
        self.hostile(change, head, add)
        with self.subTest(pattern):
            try:
                self.refused(pattern, error, name="bad")
                self.nothing_is_left()
            finally:
                shutil.rmtree(self.path("new"), ignore_errors=True)

    def edit(self, name, old, new):
        def change(folder):
            path = os.path.join(folder, name)
            text = self.read_file(path).decode()
            self.assertIn(old, text)
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text.replace(old, new))
        return change

    def test_hostile_files(self):
        self.begin()
        self.save()
        self.hostile(lambda folder: None)
        self.load("bad", "control")  # what is packed so, and not changed, is taken
        golden = "images/0-golden.raw"

        def link(folder):
            os.unlink(os.path.join(folder, golden))
            os.symlink("/etc/passwd", os.path.join(folder, golden))

        self.refused_hostile("no plain file|bytes instead of", link)
        def hard_link(folder):
            os.link(os.path.join(folder, "cluster.toml"), os.path.join(folder, "images", "1-x"))

        def device(folder):
            os.mknod(os.path.join(folder, "images", "1-x"), 0o020600, os.makedev(1, 3))

        def more(name):
            return lambda told: told["files"].append({"name": name, "size": 0, "allocated": 0})

        self.refused_hostile("(cluster.toml|images/1-x) is no plain file", hard_link, more("images/1-x"))
        self.refused_hostile("images/1-x is no plain file", device, more("images/1-x"))
        self.refused_hostile("could not be unpacked: .*File exists", add=["cluster.toml"])
        self.refused_hostile("names 'bundles/other/manifest.json'",
                             head=more("bundles/other/manifest.json"))
        self.refused_hostile("names 'members/z/x.qcow2'", head=more("members/z/x.qcow2"))
        # One that the head does not name is not unpacked.
        self.hostile(lambda folder: os.makedirs(os.path.join(folder, "other")), add=["other"])
        self.load("bad", "without")
        self.assertFalse(os.path.exists(self.path("without/other")))

        self.refused_hostile("names '../../x'",
                             head=lambda told: told["files"].append({"name": "../../x", "size": 1,
                                                                     "allocated": 1}))
        self.refused_hostile("names '/etc/x'",
                             head=lambda told: told["files"].append({"name": "/etc/x", "size": 1,
                                                                     "allocated": 1}))
        self.refused_hostile("bytes instead of|unpacked", head=lambda told: next(
            entry for entry in told["files"] if entry["name"] == golden).update(size=4096))
        self.refused_hostile("names a file twice",
                             head=lambda told: told["files"].append(told["files"][0]))
        self.refused_hostile("has version 9", head=lambda told: told.update(version=9))
        self.refused_hostile("is no archive", head=lambda told: told.update(format="x"))
        self.refused_hostile("'tag' is missing", head=lambda told: told.pop("tag"))

    def test_files_of_the_host_are_not_opened(self):
        self.begin()
        self.save()
        secret = self.path("secret")
        with open(secret, "wb") as stream:
            stream.write(b"secret".ljust(8 << 20))
        layers = [name for name in sorted(self.members_in_archive()) if name.endswith(".qcow2")]
        self.refused_hostile("names .*/secret, by image, which is not of the archive",
                             self.edit("cluster.toml", "images/0-golden.raw", secret))

        def over(*options):
            def change(folder):
                for name in layers:
                    path = os.path.join(folder, name)
                    below = qcow2.backing_file(path)
                    if below and "golden" in below:
                        binaries.run_img(self.image_tool, "rebase", "-u", "-f", "qcow2", *options,
                                         path)
            return change

        def over_secret(folder):
            over("-F", "raw", "-b", secret)(folder)
            state = os.path.join(folder, "state.json")
            kept = json.loads(self.read_file(state))
            atomic.write_json(state, {**kept, "images": {}})

        self.refused_hostile("lies over .*/secret, which the archive does not have", over_secret)

        def state_with(**changed):
            def change(folder):
                state = os.path.join(folder, "state.json")
                kept = json.loads(self.read_file(state))
                atomic.write_json(state, {**kept, **changed})
            return change

        kept = os.path.join(self.folder, "outside")
        os.makedirs(kept)
        binaries.run_img(self.image_tool, "create", "-q", "-f", "qcow2",
                         os.path.join(kept, "x.qcow2"), "8M")
        self.refused_hostile("state.json is none that an export makes", state_with(
            restoring={"tag": "t", "before": {}, "made": {"a": {"x": secret}}, "started": False,
                       "undo": True}))
        self.refused_hostile("state.json is none that an export makes", state_with(
            members={kept: {}, "a": {}}))
        self.assertTrue(os.path.exists(secret))
        self.assertEqual(os.listdir(kept), ["x.qcow2"])
        # As the state has the golden image, a header that names another one is put right.
        self.hostile(over("-F", "raw", "-b", secret))
        self.load("bad", "control")
        state, _ = self.opened("control")
        for layer, below in survey.scan(state).items():
            self.assertNotIn("secret", below, layer)
        self.refused_hostile("lies over", over("-F", "raw", "-b", f"file:{secret}"))
        self.refused_hostile("lies over", over(
            "-F", "raw", "-b", 'json:{"driver":"raw","file":{"driver":"file","filename":"%s"}}'
            % secret))
        self.refused_hostile("lies over", over("-F", "vmdk", "-b", self.path("golden.raw")))

        def external(folder):
            path = os.path.join(folder, layers[-1])
            with open(path, "r+b") as stream:
                stream.seek(72)
                stream.write((4).to_bytes(8, "big"))

        self.refused_hostile("its data are in another file", external)
        self.refused_hostile("names ../../../secret", self.edit(
            "bundles/t1/manifest.json", '"a/state"', '"../../../secret"'))
        self.refused_hostile("is of another cluster or folder", self.edit(
            "cluster.toml", 'directory = "."', f'directory = "{self.folder}"'))
        self.refused_hostile("names .*/secret, by qemu", self.edit(
            "cluster.toml", 'name = "merge"', f'name = "merge"\nqemu = "{secret}"'))
        self.refused_hostile("nonsense", self.edit(
            "cluster.toml", "[[member]]", "[[member]]\nnonsense = 1"), error=UsageError)
        for key, value in (("machine", f"pc,initrd={secret}"), ("machine", "pc,dumpdtb=x"),
                           ("cpu", "max,x=/y")):
            self.refused_hostile("in machine, cpu or model", self.edit(
                "cluster.toml", 'machine = "pc"',
                f'{key} = "{value}"' + ("" if key == "machine" else '\nmachine = "pc"')))
        self.refused_hostile("of machine 'pc,initrd=x'", self.edit(
            "bundles/t1/manifest.json", '"machine": "pc-i440fx', '"machine": "pc,initrd=x'
            '", "was": "pc-i440fx'))
        self.refused_hostile("would read these files", head=lambda told: told.update(
            left=["/dev/sda"]))

        def two_formats(folder):
            path = os.path.join(folder, layers[-1])
            with open(path, "r+b") as stream:
                stream.seek(100)
                at = int.from_bytes(stream.read(4), "big")
                stream.seek(at)
                head = stream.read(16)
                stream.seek(at)
                stream.write(head + head)

        def no_name(folder):
            path = os.path.join(folder, layers[-1])
            with open(path, "r+b") as stream:
                stream.seek(8)
                at = int.from_bytes(stream.read(8), "big")
                stream.seek(at + 3)
                stream.write(b"\0")

        self.refused_hostile("two formats", two_formats)
        self.refused_hostile("lies over", no_name)

        def note(folder):
            atomic.write_json(os.path.join(folder, "bundles/t1/notes.json"), {
                "version": 1, "media": {"a": {"disk9": {"image": secret, "size": 8 << 20,
                                                        "mtime_ns": os.stat(secret).st_mtime_ns}}}})

        self.refused_hostile("secret is not as it was", note, head=lambda told: told["files"].append(
            {"name": "bundles/t1/notes.json", "allocated": 0, "size": os.stat(
                os.path.join(self.path("hostile"), "bundles/t1/notes.json")).st_size}))

    def test_images_that_are_more_than_a_file(self):
        for name, data in (("qed", b"QED\0" + bytes(12) + b"\1" + bytes(500)),
                           ("vmdk", b"KDMV" + bytes(512)),
                           ("vmdk", b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/passwd\" 0\n"),
                           ("qcow", b"QFI\xfb\0\0\0\1" + bytes(512))):
            path = self.path("image")
            with open(path, "wb") as stream:
                stream.write(data)
            self.assertTrue(images.in_several_files(path), name)
        for image_format in images.FORMATS:
            binaries.run_img(self.image_tool, "create", "-q", "-f", image_format, self.path("image"),
                             "8M")
            self.assertEqual(images.in_several_files(self.path("image")), "", image_format)

    def test_words_of_strangers_do_nothing_to_a_terminal(self):
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            archive_import.tell({"left_out": ["/x\x1b[2J"], "args": {"a": ["-D", "\r\x07y"]}})
        self.assertNotRegex(told.getvalue(), "[\x00-\x09\x0b-\x1f]")
        self.assertIn("/x\\x1b[2J", told.getvalue())

    def members_in_archive(self):
        return subprocess.run(["tar", "--zstd", "-tf", self.path("out.tar.zst")], check=True,
                              capture_output=True, text=True).stdout.splitlines()

    def test_arguments_of_a_stranger_are_told(self):
        self.begin()
        self.save()
        self.hostile(self.edit("cluster.toml", "args = []", 'args = ["-name", "x"]'))
        done = self.load("bad")
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            archive_import.tell(done)
        self.assertIn("member a has QEMU arguments of the archive's maker", told.getvalue())
        self.assertIn("-name x", told.getvalue())


class Interrupted(Archives):
    def test_a_failure_leaves_nothing(self):
        self.up()
        self.snapshot()
        with mock.patch.object(tarball, "_pump", side_effect=KeyboardInterrupt), \
                self.assertRaises(KeyboardInterrupt):
            self.save()
        self.nothing_is_left("out.tar.zst")
        self.assertEqual(os.listdir(os.path.join(self.state.directory, "reading")), [])
        self.save()
        with mock.patch.object(archive_checks, "check_settled", side_effect=KeyboardInterrupt), \
                self.assertRaises(KeyboardInterrupt):
            self.load()
        self.nothing_is_left()

    def test_layers_stay_while_they_are_packed(self):
        self.up()
        self.write(0, "A")
        self.snapshot()

        def pump(*_):
            with self.state.locked(), self.assertRaises(reading.InUse):
                test_operator_merge.listing.rm(self.state, self.fleet, "t1", quiet=True)
            raise HotsnapError("enough")

        with mock.patch.object(tarball, "_pump", pump), self.assertRaisesRegex(HotsnapError,
                                                                              "enough"):
            self.save()

    def test_killed_at_each_step(self):
        self.up()
        self.write(0, "A")
        self.snapshot()
        expected = bytes(self.content)
        killed = 0
        for step in steps(1, 60, 9):
            for name in ("out.tar.zst", "new"):
                path = self.path(name)
                shutil.rmtree(path, ignore_errors=True)
                with contextlib.suppress(OSError):
                    os.unlink(path)

            def work(step=step):
                dying = killer(step)
                with contextlib.ExitStack() as stack:
                    for module, name in ((os, "rename"), (os, "unlink"), (os, "makedirs"),
                                         (atomic, "sync_folder"), (atomic, "write_bytes"),
                                         (tarball, "pack"), (tarball, "unpack")):
                        stack.enter_context(mock.patch.object(
                            module, name, dying(getattr(module, name))))
                    self.save()
                    self.load()

            if not in_child(work):
                break
            killed += 1
            # Whatever has a final name is whole; the rest is taken over.
            if not os.path.exists(self.path("out.tar.zst")):
                self.save()
            if not os.path.exists(self.path("new/cluster.toml")):
                self.load()
            state, _ = self.opened()
            saved = bundle.read(os.path.join(state.bundles, "t1"))
            self.assertEqual(verify.check(saved).damage, [])
            self.assertEqual(self.view(saved.members[0].disks[0].file), expected)
        self.assertGreater(killed, 3)


if __name__ == "__main__":
    unittest.main()
