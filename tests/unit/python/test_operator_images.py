# SPDX-License-Identifier: GPL-2.0-or-later
"""Golden images of all formats, however they are called, and on devices of the host."""

import os
import struct
import subprocess
import tempfile
import unittest

from hotsnap.errors import HotsnapError
from hotsnap.formats import images, qcow2
from hotsnap.host import paths
from hotsnap.model.golden import GoldenImage
from lab_fixtures import Lab

SIZE = 8 << 20
DISK = '  [[member.disk]]\n  image = "{}"\n'


class Probing(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = os.path.join(folder.name, "image")

    def put(self, data, size=4096):
        with open(self.file, "wb") as stream:
            stream.write(data)
            stream.truncate(max(size, len(data)))

    def test_what_no_image_is(self):
        for data, found in ((b"\x1f\x8b\x08\0", "packed with gzip"), (b"\xfd7zXZ\0", "packed with xz"),
                            (b"\x28\xb5\x2f\xfd", "packed with zstd"),
                            (b"PK\x03\x04", "packed with zip"),
                            (b"LUKS\xba\xbe\0\1", "encrypted with LUKS")):
            self.put(data)
            with self.assertRaisesRegex(HotsnapError, f"image is {found}.*format = \"raw\""):
                images.choose(self.file, None)
            self.assertEqual(images.choose(self.file, "raw"), "raw")  # the guest's own matter

    def test_what_qemu_cannot_read_here(self):
        encrypted = struct.pack(">4sIQIIQI", b"QFI\xfb", 3, 0, 0, 16, SIZE, 2)
        for data, found in ((b"QFI\xfb\0\0\0\1", "qcow"), (encrypted, "encrypted qcow2"),
                            (b"WithoutFreeSpace", "parallels")):
            self.put(data)
            for given in (None, "qcow2"):
                with self.assertRaisesRegex(HotsnapError, f"is {found}, .*qemu-img convert"):
                    images.choose(self.file, given)

    def test_a_format_that_is_not_so(self):
        self.put(b"QFI\xfb\0\0\0\3")
        with self.assertRaisesRegex(HotsnapError, 'is qcow2, not raw: write format = "qcow2"'):
            images.choose(self.file, "raw")
        self.put(b"no mark")
        with self.assertRaisesRegex(HotsnapError, "is raw, not vmdk"):
            images.choose(self.file, "vmdk")
        self.put(b"", 0)
        self.assertEqual(images.probe(self.file), "raw")
        with self.assertRaisesRegex(HotsnapError, "cannot be read: Is a directory"):
            images.probe(os.path.dirname(self.file))


class Formats(Lab):
    """Each is a golden image under a name that says something else."""

    def make(self, name, image_format, *options):
        subprocess.run([self.image_tool, "convert", "-f", "raw", "-O", image_format, *options,
                        self.path("golden.raw"), self.path(name)], check=True)

    def test_the_guest_reads_the_content(self):
        cases = {"x.QCOW2": ("qcow2",), "y.img": ("vmdk",),
                 "z.qcow2": ("raw",), "v": ("vdi",), "w.raw": ("vhdx",), "p.raw": ("vpc",),
                 "fixed.raw": ("vpc", "-o", "subformat=fixed,force_size=on"), "q.vmdk": ("qed",)}
        for name, (image_format, *options) in cases.items():
            self.make(name, image_format, *options)
        self.describe("".join(DISK.format(name) for name in cases))
        self.assertEqual([disk.format for disk in self.state.cluster.members[0].disks],
                         [case[0] for case in cases.values()])
        self.up()
        self.assertEqual(self.view(self.active())[:SIZE], bytes(self.content))
        for number in range(len(cases)):
            top = self.device(f"disk{number}")["inserted"]["image"]["filename"]
            self.assertEqual(self.view(top)[:SIZE], bytes(self.content))
        self.write(0, "A")
        self.take_snapshot("t1")
        expected = bytes(self.content)
        self.write(0, "B")
        self.restore_from("t1")
        self.assertEqual(self.view(self.active())[:SIZE], expected)

    def test_refused_with_line_and_key(self):
        self.make("x.img", "qcow2")
        self.refused(DISK.format("x.img") + '  format = "raw"\n', "cluster.toml:9: ",
                     "member[0].disk[0].format", "x.img is qcow2")
        self.make("x.vmdk", "vmdk")
        self.refused(DISK.format("x.vmdk") + "  read_only = true\n", "cluster.toml:8: ",
                     "x.vmdk is vmdk", "qemu-img convert")
        with open(self.path("x.img"), "wb") as stream:
            stream.write(b"\xfd7zXZ\0")
        self.refused(DISK.format("x.img"), "cluster.toml:8: ", "member[0].disk[0].image",
                     "unpack it")


class Devices(Lab):
    """A golden image on a device of the host, behind a link as in a volume group."""

    def setUp(self):
        super().setUp()
        done = subprocess.run(["losetup", "--find", "--show", self.path("golden.raw")],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            self.skipTest(f"no loop device: {done.stderr.strip()}")
        self.name = done.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "--detach", self.name], check=True)
        self.link = self.path("volume")
        os.symlink(self.name, self.link)

    def test_the_link_is_kept(self):
        os.symlink(self.folder, self.folder + "-link")
        self.addCleanup(os.unlink, self.folder + "-link")
        real = os.path.join(os.path.realpath(self.folder), "volume")
        self.assertEqual(paths.resolved(os.path.join(self.folder + "-link", "volume")), real)
        os.symlink("golden.raw", self.path("file"))
        self.assertEqual(paths.resolved(self.path("file")),
                         os.path.realpath(self.path("golden.raw")))
        self.describe(DISK.format("volume") + DISK.format("volume") + "  read_only = true\n")
        self.up()
        self.assertEqual(self.device("disk1")["inserted"]["file"], real)
        self.assertEqual(qcow2.backing_file(self.active()), real)
        self.assertEqual(self.view(self.active()), bytes(self.content))
        self.write(0, "A")
        self.take_snapshot("t1")
        self.restore_from("t1")
        self.down()
        # As after the next boot of the host: the device has another time.
        os.utime(self.name)
        self.up()
        self.assertEqual(self.view(self.active()), bytes(self.content))

    def test_a_change_is_noticed(self):
        self.describe(DISK.format("volume"))
        self.up()
        self.down()
        before = GoldenImage.of(self.link)
        with open(self.name, "r+b") as stream:
            stream.write(b"mkfs")
        self.assertFalse(before.same(GoldenImage.of(self.link)))
        with self.assertRaisesRegex(HotsnapError, "golden image .*volume was changed since"):
            self.up()


if __name__ == "__main__":
    unittest.main()
