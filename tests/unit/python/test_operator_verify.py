# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums: a whole bundle passes; every kind of damage is found, with file and offset."""

import contextlib
import fcntl
import os
import signal
import struct
import tempfile
import time
import unittest
from unittest import mock

import operator_fixtures
from hotsnap.commands import verify
from hotsnap.formats import sums
from hotsnap.model import bundle
from operator_fixtures import UNIT

QCOW2 = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 20).ljust(UNIT * 3 + 17, b"d")


class Sums(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "file")

    def write(self, data):
        with open(self.path, "wb") as stream:
            stream.write(data)
        return sums.write(self.path, self.path + ".sums", 4096)

    def test_known_values(self):
        # XXH3-64 of 4096 bytes of 'x' and of "abc", from xxhsum(1) 0.8.1.
        value = self.write(b"x" * 4096 + bytes(4096) + b"abc")
        found = sums.read(self.path + ".sums", f"{value:x}")
        self.assertEqual(found, sums.Sums(4096, 8195, (KNOWN_X, 0, KNOWN_ABC)))

    def test_holes_are_zero_units(self):
        with open(self.path, "wb") as stream:
            stream.truncate(1 << 20)
            stream.seek(70000)
            stream.write(b"x")
        units = list(sums.unit_sums(self.path, 4096, 0, 256))
        self.assertEqual([i for i, value in enumerate(units) if value], [17])
        with open(self.path, "rb") as stream:
            dense = stream.read()
        os.unlink(self.path)
        self.write(dense)
        self.assertEqual(list(sums.unit_sums(self.path, 4096, 0, 256)), units)

    def test_empty_file(self):
        self.write(b"")
        self.assertEqual(sums.read(self.path + ".sums"), sums.Sums(4096, 0, ()))

    def test_every_truncation_and_byte_counts(self):
        value = self.write(b"x" * 9000)
        with open(self.path + ".sums", "rb") as stream:
            whole = stream.read()
        for length in range(len(whole)):
            self.refuse(whole[:length])
        self.refuse(whole + b"\0")
        for position in range(len(whole)):
            self.refuse(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1:],
                        f"{value:x}")

    def refuse(self, data, expected=None):
        with open(self.path + ".sums", "wb") as stream:
            stream.write(data)
        with self.assertRaises(sums.SumsError):
            sums.read(self.path + ".sums", expected)

    def test_refresh_keeps_what_it_does_not_read(self):
        self.write(b"x" * 4096 * 3)
        old = sums.read(self.path + ".sums")
        with open(self.path, "r+b") as stream:
            stream.write(b"y")
            stream.seek(4096 * 2)
            stream.write(b"damage")
        sums.refresh(self.path, old, self.path + ".new", 10)
        new = sums.read(self.path + ".new")
        self.assertNotEqual(new.sums[0], old.sums[0])
        self.assertEqual(new.sums[1:], old.sums[1:])


class Verify(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.layer = os.path.join(folder.name, "layer.qcow2")
        with open(self.layer, "wb") as stream:
            stream.write(QCOW2)
        self.path = operator_fixtures.make_bundle(folder.name, disks={"b": [self.layer]})

    def damage(self):
        return [(d.file, d.offset, d.text) for d in verify.check(bundle.read(self.path)).damage]

    def file(self, name):
        return os.path.join(self.path, name)

    def flip(self, path, offset):
        with open(path, "r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)
            stream.seek(offset)
            stream.write(bytes([byte[0] ^ 0x40]))

    def test_whole(self):
        result = verify.check(bundle.read(self.path))
        self.assertEqual(result.damage, [])
        self.assertEqual(result.bytes, 3 * (UNIT * 5 + 1200) + len(QCOW2))

    def test_raw_disk(self):
        """A raw disk that was saved is whole; as qcow2, the same file is damaged."""
        with tempfile.TemporaryDirectory() as folder:
            layer = os.path.join(folder, "disk.raw")
            with open(layer, "wb") as stream:
                stream.write(b"boot sector" * 1000)
            path = operator_fixtures.make_bundle(folder, disks={"b": [layer]})
            found = bundle.read(path)
            found.members[1].disks[0].format = "raw"
            self.assertEqual(verify.check(found).damage, [])
            found.members[1].disks[0].format = "qcow2"
            self.assertIn("not a qcow2", verify.check(found).damage[0].text)

    def test_one_bit_anywhere(self):
        for path, offset, unit in (
                (self.file("a/state"), 5, 0), (self.file("a/state"), UNIT - 1, 0),
                (self.file("b/state"), UNIT + 9, UNIT),           # a unit of zeros
                (self.file("c/state"), UNIT * 3, UNIT * 3),       # a hole
                (self.file("c/state"), UNIT * 5 + 1199, UNIT * 5),  # the last byte
                (self.layer, UNIT * 2 + 3, UNIT * 2)):
            with self.subTest(path=path, offset=offset):
                self.flip(path, offset)
                found = self.damage()
                self.assertEqual([(f, o) for f, o, _ in found], [(path, unit)])
                self.flip(path, offset)
        self.assertEqual(self.damage(), [])

    def test_memory_that_is_checked_later(self):
        self.flip(self.file("a/state"), 5)
        self.assertEqual(verify.check(bundle.read(self.path), memory=False).damage, [])
        self.flip(self.layer, UNIT * 2 + 3)
        found = verify.check(bundle.read(self.path), memory=False)
        self.assertEqual([(d.file, d.offset) for d in found.damage], [(self.layer, UNIT * 2)])
        os.truncate(self.file("a/state"), 100)
        self.assertEqual(len(verify.check(bundle.read(self.path), memory=False).damage), 3)

    def test_small_files_and_sums(self):
        for name in ("b/channel.pcap", "b/channel.vnet", "a/state.sums", "b/disk-0.sums"):
            with self.subTest(name):
                self.flip(self.file(name), 0)
                found = self.damage()
                self.assertEqual(len(found), 1, found)
                self.assertIn("checksum", found[0][2])
                self.flip(self.file(name), 0)

    def test_truncated_and_missing(self):
        os.truncate(self.file("a/state"), UNIT * 5)
        os.unlink(self.file("b/channel.pcap"))
        os.truncate(self.layer, 100000)
        found = {file: text for file, _, text in self.damage()}
        self.assertIn("truncated", found[self.file("a/state")])
        self.assertIn("No such file", found[self.file("b/channel.pcap")])
        self.assertIn("truncated", found[self.layer])
        self.assertNotIn(self.file("c/state"), found)

    def test_manifest_that_contradicts_itself(self):
        cases = ((lambda m: setattr(m, "tag", "other"), "other"),
                 (lambda m: setattr(m, "initiator", "zoe"), "zoe"),
                 (lambda m: setattr(m.members[0].memory.pages, "background", 1), "pages"),
                 (lambda m: setattr(m.members[0].memory, "size", 1), "memory size"),
                 (lambda m: setattr(m.members[0].pause, "end_ns", 1), "before it begins"))
        for change, pattern in cases:
            with self.subTest(pattern):
                found = bundle.read(self.path)
                change(found.manifest)
                texts = [d.text for d in verify.check(found).damage]
                self.assertEqual(len(texts), 1, texts)
                self.assertIn(pattern, texts[0])

    def test_workers_end_with_a_command_that_is_killed(self):
        """They inherit its locks, which would stay for ever."""
        def slow(_):
            with open(begun, "w", encoding="ascii"):
                time.sleep(60)

        begun = self.file("begun")
        with open(self.file("lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            child = os.fork()
            if not child:
                try:
                    with mock.patch.object(verify, "_check_piece", slow), \
                            mock.patch.object(os, "cpu_count", lambda: 2):
                        verify.check(bundle.read(self.path))
                finally:
                    os._exit(0)
        deadline = time.monotonic() + 60
        while not os.path.exists(begun):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        with open(self.file("lock"), "w", encoding="ascii") as lock:
            with self.assertRaises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)


KNOWN_X, KNOWN_ABC = 0x854C667088EFE093, 0x78AF5F94892F3950

if __name__ == "__main__":
    unittest.main()
