# SPDX-License-Identifier: GPL-2.0-or-later
"""The reader of mapped-ram images: contents, comparison, tags, and damage that must be refused."""

import contextlib
import io
import json
import os
import struct
import tempfile
import unittest

import image_fixtures as fixtures
from support import image, tags
from support.image import Image, ImageError, Page, compare

PAGE = fixtures.PAGE


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def put(self, data, name="image"):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def open(self, data, name="image"):
        opened = Image(self.put(data, name))
        self.addCleanup(opened.close)
        return opened


class Reading(Files):
    BLOCKS = {"pc.ram": (130, {0: b"first", 64: b"word", 129: b"last", 5: b""}),
              "rom@x/y": (1, {0: b"rom"})}

    def test_pages(self):
        read = self.open(fixtures.image(self.BLOCKS))
        self.assertEqual(read.machine, "pc-test1")
        self.assertEqual(read.page("pc.ram", 0)[:6], b"first\0")
        self.assertEqual(read.page("pc.ram", 129 * PAGE + 17)[:4], b"last")
        self.assertEqual(read.page("pc.ram", PAGE), bytes(PAGE))
        self.assertEqual(read.page("rom@x/y", 0)[:3], b"rom")
        self.assertEqual([page for page, _ in read.nonzero_pages()],
                         [Page("pc.ram", 0), Page("pc.ram", 64 * PAGE), Page("pc.ram", 129 * PAGE),
                          Page("rom@x/y", 0)])

    def test_absent_means_zero_whatever_the_file_holds(self):
        data = bytearray(fixtures.image({"pc.ram": (64, {3: None})}))
        at = fixtures.MIB + 3 * PAGE
        data[at:at + 4] = b"junk"
        self.assertEqual(self.open(bytes(data)).page("pc.ram", 3 * PAGE), bytes(PAGE))

    def test_out_of_range(self):
        read = self.open(fixtures.image(self.BLOCKS))
        for offset in (-1, 130 * PAGE):
            with self.assertRaises(IndexError):
                read.page("pc.ram", offset)

    def test_devices(self):
        self.assertEqual(self.open(fixtures.image(self.BLOCKS)).devices[0]["name"], "cpu")

    def test_description_that_looks_like_a_description_inside(self):
        text = b'{"devices":[],"x":"' + b"\\u0000\\u0006" + b'"}'
        self.assertEqual(self.open(fixtures.image(self.BLOCKS, description=text)).devices, [])


class Damage(Files):
    def refused(self, data, what):
        with self.assertRaisesRegex(ImageError, what):
            Image(self.put(data))

    def test_other_files(self):
        whole = fixtures.image({"pc.ram": (4, {0: b"x"})})
        self.refused(b"", "empty")
        self.refused(b"QFI\xfb" + whole[4:], "magic")
        self.refused(fixtures.image({"pc.ram": (4, {})}, version=2), "version")
        self.refused(fixtures.image({"pc.ram": (4, {})}, capabilities=()), "mapped-ram")

    def test_every_truncation(self):
        whole = fixtures.image({"pc.ram": (4, {0: b"x"})})
        header = whole.index(b"pc.ram") + 60
        for size in [*range(1, header), fixtures.MIB, fixtures.MIB + PAGE, *range(
                fixtures.MIB + 4 * PAGE, len(whole))]:
            with self.subTest(size=size):
                self.refused(whole[:size], "image")

    def test_header_fields(self):
        whole = fixtures.image({"pc.ram": (4, {0: b"x"})})
        header = whole.index(b"pc.ram") + 6 + 8
        for at, size, value, what in ((0, 4, 2, "version"), (4, 8, 4097, "pages of"),
                                      (12, 8, 1, "bitmap"), (20, 8, 1, "pages at"),
                                      (20, 8, 1 << 40, "truncated"), (28, 8, 1 << 63, "bits beyond")):
            with self.subTest(what=what):
                data = bytearray(whole)
                data[header + at:header + at + size] = value.to_bytes(size, "big")
                if what == "bits beyond":
                    data[header + at:header + at + size] = struct.pack("<Q", 1 << 4)
                self.refused(bytes(data), what)


class Comparing(Files):
    def differing(self, a, b):
        return compare(self.open(fixtures.image({"r": (200, a)}), "a"),
                       self.open(fixtures.image({"r": (200, b)}), "b"))

    def test_identical(self):
        full = {index: b"p%d" % index for index in range(200)}
        self.assertEqual(self.differing(full, dict(full)), [])

    def test_zero_page_equals_absent_page(self):
        self.assertEqual(self.differing({1: b"", 2: b"x"}, {1: None, 2: b"x"}), [])

    def test_every_single_difference_is_found(self):
        full = {index: b"p%d" % index for index in range(200)}
        for index in (0, 1, 63, 64, 127, 128, 199):
            for other in (b"q", b"", None):
                with self.subTest(index=index, other=other):
                    self.assertEqual(self.differing(full, {**full, index: other}),
                                     [Page("r", index * PAGE)])

    def test_last_byte(self):
        self.assertEqual(self.differing({7: bytes(PAGE - 1) + b"x"}, {7: bytes(PAGE - 1) + b"y"}),
                         [Page("r", 7 * PAGE)])

    def test_other_guest(self):
        with self.assertRaisesRegex(ImageError, "different guests"):
            compare(self.open(fixtures.image({"r": (2, {})}), "a"),
                    self.open(fixtures.image({"r": (3, {})}), "b"))


class Tags(Files):
    def test_found_among_others(self):
        tag = fixtures.chatter("a", {"b": {"udp_sent": 7, "tcp_reconnects": 1 << 60}})
        (page, found), = self.open(fixtures.member_image(tag)).tags()
        self.assertEqual(page, Page("pc.ram", 64 * PAGE))
        self.assertEqual(found, tag)

    def test_all_kinds_survive_the_round_trip(self):
        for kind, entry in ((tags.PG, tags.PgCount("db", 3, 2, 1)),
                            (tags.DISK, tags.DiskCount("/dev/vdb", 9, 8, 4096, 4096)),
                            (tags.WRITER, tags.WriterCount("", 1, 2, 3))):
            tag = tags.Tag(kind, "member", 5, 6, [entry])
            self.assertEqual(tags.parse(tags.build(tag)), tag)

    def test_not_tags(self):
        good = tags.build(fixtures.chatter("a", {"b": {}}))
        for at, value in ((0, b"X"), (16, b"\x09"), (20, b"\x63"), (72, b"\0"), (72, b"\x20"),
                          (76, b"\x40"), (24, b"\xff")):
            with self.subTest(at=at):
                self.assertIsNone(tags.parse(good[:at] + value + good[at + len(value):]))
        self.assertIsNone(tags.parse(good[:-1]))


class CommandLine(Files):
    def run_main(self, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            return image.main(list(arguments)), out.getvalue()

    def test_compare(self):
        a = self.put(fixtures.image({"r": (2, {0: b"a"})}), "a")
        b = self.put(fixtures.image({"r": (2, {0: b"b"})}), "b")
        self.assertEqual(self.run_main("compare", a, a)[0], 0)
        status, out = self.run_main("compare", "--json", a, b)
        self.assertEqual(status, 1)
        self.assertEqual(json.loads(out)["differing"], [{"block": "r", "offset": 0}])
        self.assertEqual(self.run_main("compare", a, self.put(b"no", "c"))[0], 2)

    def test_info(self):
        a = self.put(fixtures.image({"r": (2, {0: b"a"})}), "a")
        status, out = self.run_main("info", "--json", a)
        self.assertEqual(status, 0)
        self.assertEqual(json.loads(out)[0]["blocks"][0]["present"], 1)


if __name__ == "__main__":
    unittest.main()
