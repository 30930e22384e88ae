# SPDX-License-Identifier: GPL-2.0-or-later
"""What labs have beside disks and NICs: UEFI, CD-ROMs, disks and devices that the cluster file does
not describe. Each works, or is refused before a snapshot, never at its restore."""

import os
import subprocess
import unittest

from hotsnap.commands import listing, verify
from hotsnap.disks import ancestry
from hotsnap.errors import HotsnapError
from hotsnap.formats import qcow2
from hotsnap.model import disk_table, groups
from hotsnap.qemu import binaries, inventory, machine
from lab_fixtures import Lab
from support.tier import left_to_all
from test_operator_machine import line, member, values

DISK = '  [[member.disk]]\n  image = "golden.raw"\n'


class Arguments(unittest.TestCase):
    def test_disks_that_are_written(self):
        for args, part in ((["-hda", "x.img"], "-hda x.img is a disk"),
                           (["--hdb", "x.img"], "--hdb x.img"),
                           (["-drive", "file=x.img,if=virtio"], "[[member.disk]]"),
                           (["-drive", "file=x.img,readonly=off"], "readonly=on"),
                           (["-drive", "file.filename=x.img,format=raw"], "x.img"),
                           (["-drive", "if=pflash,unit=1,file=VARS.fd"], 'firmware = "uefi"'),
                           (["-pflash", "VARS.fd"], 'firmware = "uefi"'),
                           (["-S", "-snapshot"], "up --fresh")):
            with self.subTest(args):
                self.assertIn(part, disk_table.refuse_in_args(args) or "")

    def test_disks_that_are_not(self):
        for args in (["-cdrom", "x.iso"], ["-drive", "file=x.iso,media=cdrom"],
                     ["-drive", "if=pflash,unit=0,readonly=on,file=CODE.fd"],
                     ["-drive", "if=none,id=empty"], ["-drive", "file=a,,b,read-only=on"],
                     ["-append", "snapshot"], ["-S"]):
            with self.subTest(args):
                self.assertIsNone(disk_table.refuse_in_args(args))

    def test_names_of_devices(self):
        for device, disk in (("disk0-dev", "disk0"), ("nvram-dev", "nvram"), ("mydisk0-dev", None),
                             ("/machine/peripheral/disk12-dev/virtio-backend", "disk12"),
                             ("disk0", None), ("-machine-peripheral-disk1-dev", "disk1")):
            self.assertEqual(disk_table.id_of(device), disk)


class OwnDisks(Lab):
    """Disks in `args`."""

    def test_refused_with_line_and_key(self):
        self.refused('cpus = 1\nargs = ["-drive", "file=own.img,format=raw"]\n',
                     "cluster.toml:8: member[0].args: ", "own.img", "[[member.disk]]")

    def test_an_error_of_an_earlier_start_is_not_told_again(self):
        self.refused('args = ["-device", "wrong1"]\n', "member a did not start", "wrong1")
        with self.assertRaises(HotsnapError) as caught:
            self.describe('args = ["-device", "wrong2"]\n')
            self.up()
        self.assertIn("wrong2", str(caught.exception))
        self.assertNotIn("wrong1", str(caught.exception))

    def test_a_graph_of_nodes_is_refused_once_qemu_has_it(self):
        subprocess.run([self.image_tool, "create", "-q", self.path("own.img"), "1M"], check=True)
        graph = (f'args = ["-blockdev", "file,node-name=f,filename={self.path("own.img")}", '
                 '"-blockdev", "raw,node-name=d,file=f{}", "-device", "virtio-blk-pci,drive=d{}"]\n')
        self.refused(graph.format("", ""), "cluster.toml:7: member[0].args: ", "own.img",
                     "[[member.disk]]")
        self.assertFalse(os.path.exists(self.state.paths("a").pidfile))
        self.describe(graph.format(",read-only=on", ",id=ro"))
        self.up()
        self.take_snapshot("t1")
        self.restore_from("t1")


class Uefi(Lab):
    def setUp(self):
        super().setUp()
        try:
            binaries.uefi()
        except HotsnapError as error:
            self.skipTest(str(error))

    def variables(self):
        return self.device("nvram")["inserted"]["image"]["filename"]

    def flash(self, letter):
        """As the firmware writes a variable."""
        with self.fleet.monitor("a") as qmp:
            for command in (f"write -P {ord(letter)} 0x80000 512", "flush"):
                self.assertEqual(qmp.hmp(f'qemu-io nvram-dev "{command}"'), "")

    def test_while_the_firmware_runs(self):
        self.describe('firmware = "uefi"\nmemory = "64M"\n')
        self.up()
        self.take_snapshot("t1")
        self.restore_from("t1")
        self.assertEqual(self.monitor("query-status")["status"], "running")
        self.wait(self.chip_is_its_file)

    def chip_is_its_file(self):
        """The chip's memory, from the memory image, and its file, from the layer, are one instant.
        While the firmware writes to the chip, it answers with its status."""
        code, variables = (os.path.getsize(path) for path in binaries.uefi())
        self.monitor("cont")
        self.monitor("stop")
        self.monitor("pmemsave", val=(1 << 32) - code - variables, size=variables,
                     filename=self.path("chip"))
        return self.read_file(self.path("chip")) == self.view(self.variables())

    def test_the_variables_are_part_of_a_snapshot(self):
        # The firmware stands still: it writes variables by itself.
        self.describe('firmware = "uefi"\nmemory = "64M"\nargs = ["-S"]\n' + DISK)
        self.up()
        subprocess.run([self.image_tool, "compare", "-U", "-q", "-f", "qcow2", "-F", "raw",
                        self.variables(), binaries.uefi()[1]], check=True)
        made = self.take_snapshot("t1")
        frozen = {disk.device: disk.file for _, disk in made.layers()}
        self.assertEqual(sorted(frozen), ["disk0-dev", "nvram-dev"])
        self.take_snapshot("t2")
        self.assertEqual(ancestry.parents([made, self.bundle("t2")]), {"t2": "t1"})
        before = self.view(frozen["nvram-dev"])
        self.flash("V")
        self.assertNotEqual(self.view(self.variables()), before)
        self.restore_from("t1")
        self.assertEqual(self.view(self.variables()), before)
        self.take_snapshot("t3")
        with self.state.locked():
            for tag in ("t2", "t1"):
                listing.rm(self.state, self.fleet, tag, quiet=True)
            done = listing.rm(self.state, self.fleet, "t3", quiet=True)
        # The topmost layer is merged only once the member is down.
        self.assertEqual(len(qcow2.chain(self.active())), 1)
        self.assertEqual(len(qcow2.chain(self.variables())), 2)
        self.assertEqual(done["kept_unneeded"], qcow2.chain(self.variables())[1:])
        self.flash("W")
        after = self.view(self.variables())
        self.assertEqual(after[0x80000:0x80200], b"W" * 512)
        self.down()
        with self.state.locked():
            done = listing.join_layers(self.state, self.fleet, quiet=True)
        self.assertEqual((len(done["merged"]), done["kept_unneeded"]), (1, []))
        self.up()
        self.assertEqual(len(qcow2.chain(self.variables())), 1)
        self.assertEqual(self.view(self.variables()), after)

    def test_command_line(self):
        uefi = member(firmware="uefi", disks=(disk_table.nvram(),))
        drive, = values(line(uefi), "-drive")
        self.assertEqual(drive, "if=pflash,unit=1,id=nvram-dev,node-name=nvram,format=qcow2,"
                                "file=/m/nvram.qcow2")
        elsewhere = line(uefi, files={"nvram": "/other,one"})
        self.assertTrue(values(elsewhere, "-drive")[0].endswith("file=/other,,one"))
        code = ["qemu", *machine.uefi("/code.fd")]
        self.assertIsNone(machine.hardware_difference([*line(uefi), *code[1:]], elsewhere))
        self.assertIn("saved: UEFI", machine.hardware_difference(line(uefi), line(member())))


class Discs(Lab):
    DRIVE = '  [[member.disk]]\n  cdrom = "{}"\n'

    def setUp(self):
        super().setUp()
        for name, data in (("one.iso", b"one.iso"), ("two.iso", b"two.iso"),
                           ("packed.iso", b"\x1f\x8b\x08")):
            with open(self.path(name), "wb") as stream:
                stream.write(data * 4096)

    def disc(self):
        inserted = self.device("disk0").get("inserted")
        return inserted and os.path.basename(inserted["file"])

    def change(self, name):
        self.monitor("blockdev-change-medium", id="disk0-dev", filename=self.path(name))

    def test_the_disc_at_the_cut_comes_back(self):
        more = () if left_to_all("drives of ahci and virtio-scsi") else ("ahci", "virtio-scsi")
        for interface in ("ide", *more):
            with self.subTest(interface):
                self.describe(self.DRIVE.format("one.iso") + f'  interface = "{interface}"\n')
                self.up()
                self.assertEqual(self.disc(), "one.iso")
                self.take_snapshot("one")
                self.monitor("eject", id="disk0-dev", force=True)
                self.take_snapshot("none")
                self.change("two.iso")
                self.take_snapshot("two")
                for tag, disc in (("none", None), ("two", "two.iso"), ("one", "one.iso")):
                    self.restore_from(tag)
                    self.assertEqual(self.disc(), disc)
                    with self.state.locked():
                        listing.rm(self.state, self.fleet, tag, quiet=True)
                self.down()

    def test_a_disc_made_anew_is_noticed(self):
        self.describe(self.DRIVE.format("one.iso"))
        self.up()
        self.take_snapshot("t1")
        kept = os.stat(self.path("one.iso"))
        with open(self.path("one.iso"), "wb") as stream:
            stream.write(b"another")
        running = self.state.members["a"].process
        for call in (lambda: self.take_snapshot("t2"), lambda: self.restore_from("t1")):
            with self.assertRaisesRegex(HotsnapError, "member a: disk disk0 .*one.iso"):
                call()
            self.assertEqual(self.state.members["a"].process, running)  # nothing was ended
        self.assertEqual(os.listdir(self.state.bundles), ["t1"])
        with open(self.path("one.iso"), "wb") as stream:
            stream.write(b"one.iso" * 4096)
        with self.assertRaisesRegex(HotsnapError, "touch -d @"):
            self.restore_from("t1")
        os.utime(self.path("one.iso"), ns=(kept.st_atime_ns, kept.st_mtime_ns))
        self.restore_from("t1")
        self.take_snapshot("t2")

    def test_a_disc_in_args(self):
        self.describe(f'args = ["-cdrom", "{self.path("one.iso")}"]\n')
        self.up()
        self.take_snapshot("t1")
        self.restore_from("t1")
        self.monitor("eject", device="ide1-cd0", force=True)
        with self.assertRaisesRegex(HotsnapError, "member a: the disc in ide1-cd0 .*write cdrom"):
            self.take_snapshot("t2")
        os.utime(self.path("one.iso"))
        with self.assertRaisesRegex(HotsnapError, "disk ide1-cd0 read .*one.iso"):
            self.restore_from("t1")

    def test_one_disc_for_two_members_and_an_empty_drive(self):
        self.describe(self.DRIVE.format("one.iso")
                      + '[[member]]\nname = "b"\n' + self.DRIVE.format("one.iso")
                      + self.DRIVE.format(""))
        self.up()
        self.take_snapshot("t1")
        self.restore_from("t1")
        with self.fleet.monitor("b") as qmp:
            drives = {inventory.disk_of(d): d.get("inserted") for d in qmp.execute("query-block")}
        self.assertEqual(os.path.basename(drives["disk0"]["file"]), "one.iso")
        self.assertIsNone(drives["disk1"])

    def test_mistakes(self):
        ide = DISK + '  read_only = true\n  interface = "ide"\n'
        for text, *parts in ((ide, "cluster.toml:9: ", "disk[0].read_only", "write cdrom"),
                             (self.DRIVE.format("three.iso"), ":8: ", "does not exist"),
                             (self.DRIVE.format("packed.iso"), ":8: ", "disk[0].cdrom", "gzip"),
                             (self.DRIVE.format("one.iso") + '  size = "1M"\n', ":9: ", "cdrom"),
                             (self.DRIVE.format("one.iso") + '  interface = "virtio-blk"\n', ":9: ",
                              "has no CD-ROM drives")):
            with self.subTest(text):
                self.refused(text, *parts)


class Plugging(Lab):
    """Devices that come and go while a member runs."""

    MEMORY = 'args = ["-m", "16M,slots=2,maxmem=1G", "-smp", "1,maxcpus=2"]\n'
    SPARE = ('args = ["-device", "pcie-root-port,id=port0,chassis=1", '
             '"-device", "pcie-root-port,id=port1,chassis=2"]\n')

    def refuse(self, *parts):
        with self.assertRaises(HotsnapError) as caught:
            self.take_snapshot("t1")
        for part in ("member a ", *parts):
            self.assertIn(part, str(caught.exception))
        self.assertEqual(os.listdir(self.state.bundles), [])
        self.assertEqual(self.monitor("query-status")["status"], "running")

    def plug(self, driver, **properties):
        self.monitor("device_add", driver=driver, **properties)

    def test_memory_and_processor(self):
        self.describe(self.MEMORY)
        self.up()
        self.monitor("object-add", **{"qom-type": "memory-backend-ram", "id": "mem1",
                                      "size": 128 << 20})
        self.plug("pc-dimm", id="dimm1", memdev="mem1")
        self.refuse("dimm1 was plugged in")
        self.down()
        self.up()
        slot = next(s for s in self.monitor("query-hotpluggable-cpus") if "qom-path" not in s)
        self.plug(slot["type"], **slot["props"])
        self.refuse("-x86_64-cpu (device[", "was plugged in")

    def test_nic_and_disk(self):
        self.describe('machine = "q35"\n' + self.SPARE + DISK)
        self.up()
        self.monitor("netdev_add", type="user", id="n9")
        self.plug("virtio-net-pci", id="nic9", netdev="n9", bus="port0", romfile="")
        self.refuse("nic9 was plugged in")
        self.down()
        self.up()
        subprocess.run([self.image_tool, "create", "-q", self.path("own.img"), "1M"], check=True)
        self.monitor("blockdev-add", **{"driver": "raw", "node-name": "own", "file": {
            "driver": "file", "filename": self.path("own.img")}})
        self.plug("virtio-blk-pci", id="disk7-dev", drive="own", bus="port0")
        self.refuse("disk7-dev was plugged in")

    def test_a_disk_that_is_taken_away(self):
        self.describe('machine = "q35"\n' + self.SPARE + DISK)
        self.up()
        entry = self.state.member("a")
        entry.devices = sorted([*entry.devices, "disk8-dev"])  # a guest would have to agree
        self.state.save()
        self.refuse("disk8-dev was taken away")

    def test_the_same_devices_are_no_hindrance(self):
        self.describe(self.SPARE.replace("pcie-root-port,id=port0,chassis=1", "virtio-rng-pci")
                      .replace("pcie-root-port,id=port1,chassis=2", "usb-ehci,id=usb") + DISK)
        self.up()
        self.take_snapshot("t1")
        self.restore_from("t1")
        self.take_snapshot("t2")

    def test_a_group_needs_none_of_it(self):
        self.describe('machine = "q35"\n' + self.SPARE + DISK)
        self.up()
        self.plug("virtio-rng-pci", bus="port0")
        self.refuse("virtio-rng-pci (device[")
        with self.state.locked():
            groups.add(self.state, "g", ["a"])
        self.assertTrue(self.take_snapshot("t1", group="g").only_disks)


class InUse(Lab):
    """What the host does with a member's disk meanwhile."""

    def test_throttled_exported_and_with_a_bitmap(self):
        self.describe(DISK)
        self.up()
        self.monitor("block_set_io_throttle", id=self.device("disk0")["qdev"], bps=0, bps_rd=0,
                     bps_wr=0, iops=500, iops_rd=0, iops_wr=0)
        self.monitor("block-dirty-bitmap-add", node="disk0", name="backup", persistent=True)
        self.monitor("nbd-server-start", addr={"type": "unix", "data": {
            "path": self.path("nbd")}})
        self.monitor("block-export-add", **{"type": "nbd", "id": "x", "node-name": "disk0"})
        self.write(0, "A")
        made = self.take_snapshot("t1")
        expected = bytes(self.content)
        self.write(0, "B")
        self.assertEqual(self.view(made.members[0].disks[0].file), expected)
        # The export is of the disk that the guest writes to, also after the snapshot.
        done = subprocess.run([self.image_tool.replace("qemu-img", "qemu-io"), "-r", "-f", "raw",
                               "-c", "read -P 66 0 64k",
                               f"nbd+unix:///disk0?socket={self.path('nbd')}"],
                              check=True, capture_output=True, text=True)
        self.assertNotIn("verification failed", done.stdout)
        self.restore_from("t1")
        self.assertEqual(self.view(self.active()), expected)


class Moved(Lab):
    """The folder with the cluster file, its images and its snapshots gets another name."""

    def test_its_snapshots_are_restored(self):
        with open(self.path("one.iso"), "wb") as stream:
            stream.truncate(4096)
        text = DISK + Discs.DRIVE.format("one.iso")
        self.describe(text)
        self.up()
        self.write(0, "A")
        self.take_snapshot("t1", note="before")
        expected = bytes(self.content)
        self.write(0, "B")
        self.down()
        original = self.folder
        self.folder += "-moved"
        os.rename(original, self.folder)
        try:
            self.describe(text)
            self.restore_from("t1")
            self.assertEqual(self.view(self.active()), expected)
            self.assertEqual(self.device("disk1")["inserted"]["file"], self.path("one.iso"))
            self.assertEqual(str(verify.check(self.bundle("t1")).damage), "[]")
            self.take_snapshot("t2")
            self.down()
        finally:
            super().end()
            os.rename(self.folder, original)
            self.folder = original
            self.describe(text)


class Notes(Lab):
    def test_a_tree_with_notes(self):
        self.describe(DISK)
        self.up()
        self.take_snapshot("t1", note="a start\nof several lines")
        self.take_snapshot("t2")
        self.restore_from("t1")
        self.take_snapshot("t3", note="x" * 60)
        self.assertIn("a start\nof several lines\n\nt1: 1 members",
                      listing.details(self.bundle("t1")))
        parent = ancestry.parents(self.bundle(tag) for tag in ("t1", "t2", "t3"))
        self.assertEqual(parent, {"t2": "t1", "t3": "t1"})
        self.assertEqual(ancestry.tree(["t1", "t2", "t3"], parent), [(0, "t1"), (1, "t2"), (1, "t3")])
        with self.state.locked():
            listing.rm(self.state, self.fleet, "t1", quiet=True)
        self.assertEqual(ancestry.parents(self.bundle(tag) for tag in ("t2", "t3")), {})
        self.assertEqual(listing.summary(self.state.bundles, "t3")["note"], "x" * 60)
        self.assertIsNone(listing.summary(self.state.bundles, "t2")["note"])
        with open(self.path(".hotsnap/lab/bundles/t3/notes.json"), "w", encoding="ascii") as stream:
            stream.write("{")
        with self.assertRaisesRegex(HotsnapError, "notes.json is damaged"):
            self.restore_from("t3")


if __name__ == "__main__":
    unittest.main()
