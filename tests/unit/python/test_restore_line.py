# SPDX-License-Identifier: GPL-2.0-or-later
"""The restore line that `show` draws: the library's, and harmless whatever its hints say."""

import json
import os
import struct
import tempfile
import unittest
import xml.etree.ElementTree as ET

import operator_fixtures
from hotsnap.commands import listing
from hotsnap.formats import access
from hotsnap.model import bundle, restore_line
from hotsnap.ui import timeline

CASES = os.path.join(operator_fixtures.CHECKOUT, "tests/unit/coordinator/restore_lines.json")


def access_file(path, *buckets):
    """Each bucket is (end in ms, lengths of its runs)."""
    runs = [length for _, lengths in buckets for length in lengths]
    with open(path, "wb") as stream:
        stream.write(access.HEAD.pack(access.MAGIC, 1, len(buckets), len(runs), 0, 0, bytes(24)))
        for end, lengths in buckets:
            stream.write(access.ENTRY.pack(end, 0, len(lengths)))
        for number, length in enumerate(runs):
            stream.write(access.RUN.pack(1000 * number, length))


class Line(unittest.TestCase):
    def test_as_the_library(self):
        with open(CASES, encoding="utf-8") as stream:
            cases = json.load(stream)
        for case in cases:
            members = case["members"]
            speakers = restore_line.graph([m["name"] for m in members],
                                          [m.get("channel", {}).get("contacts") for m in members])
            groups = restore_line.line(speakers, case["windows"], case["bytes_per_second"])
            found = [{key: getattr(group, key) for key in case["groups"][0]} for group in groups]
            self.assertEqual(found, case["groups"], case["case"])

    def test_hostile_hints_say_nothing(self):
        for contacts in (None, [], {}, {"until_us": 5}, {"until_us": True, "first_us": {}},
                         {"until_us": -1, "first_us": {}}, {"until_us": 1e3, "first_us": {}},
                         {"until_us": 10 ** 30, "first_us": {}}, {"until_us": 5, "first_us": []},
                         {"until_us": 5, "first_us": {"b": 5}},
                         {"until_us": 5, "first_us": {"z": None}}):
            self.assertEqual(restore_line.graph(["a", "b"], [contacts, None]),
                             [restore_line.Speaker()] * 2, contacts)

    def test_many_members(self):
        count = 2000
        chain = [restore_line.Speaker(10 ** 9, [(m + 1, 0)] if m + 1 < count else [])
                 for m in range(count)]
        groups = restore_line.line(chain, [1000] * count, 1_000_000_000)
        self.assertEqual([g.members for g in groups], [[m] for m in reversed(range(count))])


class Window(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "access")

    def test_what_loading_must_be_ahead_of(self):
        access_file(self.path, (50, [10, 20]), (100, [100]), (400, [5]))
        self.assertEqual(access.buckets(self.path), [(0, 30), (0.05, 100), (0.2, 5)])
        self.assertEqual(access.window(self.path, 1e9), 30 * 4096)
        self.assertEqual(access.window(self.path, 1e3), 135 * 4096 - 200)

    def test_damage_is_no_working_set(self):
        self.assertIsNone(access.window(self.path, 1e9))
        access_file(self.path, (50, [10, 20]))
        with open(self.path, "rb") as stream:
            whole = stream.read()
        damaged = [whole[:size] for size in range(len(whole))] + [
            b"X" + whole[1:], whole + b"x", whole[:8] + struct.pack("<I", 2) + whole[12:],
            whole[:-8] + struct.pack("<Q", 1 << 40), whole[:72] + struct.pack("<Q", 3) + whole[80:]]
        for data in damaged:
            with open(self.path, "wb") as stream:
                stream.write(data)
            self.assertIsNone(access.window(self.path, 1e9))


class Show(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = operator_fixtures.make_bundle(folder.name)
        self.svg = os.path.join(folder.name, "t.svg")

    def show(self, contacts):
        file = os.path.join(self.path, "manifest.json")
        with open(file, encoding="utf-8") as stream:
            manifest = json.load(stream)
        for member in manifest["members"]:
            member["channel"].pop("contacts", None)
            if member["name"] in contacts:
                member["channel"]["contacts"] = contacts[member["name"]]
        with open(file, "w", encoding="utf-8") as stream:
            json.dump(manifest, stream)
        found = bundle.read(self.path)
        timeline.draw(found, self.svg)
        return listing.details(found), ET.parse(self.svg).getroot()

    def test_without_contacts_nothing_is_drawn(self):
        text, picture = self.show({})
        self.assertNotIn("SPEAKS FIRST TO", text)
        self.assertNotIn("Restore line", "".join(picture.itertext()))

    def test_graph_and_line(self):
        # c's working set is in its file; of a and b all 700 pages with data are to be loaded.
        access_file(os.path.join(self.path, "c", "access"), (50, [250]))
        text, picture = self.show({
            "a": {"until_us": 5000000, "first_us": {"b": 1500, "c": 4}},
            "b": {"until_us": 5000000, "first_us": {}}, "c": {"until_us": 4000000, "first_us": {}}})
        rows = [line.split() for line in text.splitlines()]
        at = rows.index("MEMBER START LATEST WINDOW KNOWN SPEAKS FIRST TO".split())
        self.assertEqual([row[0] for row in rows[at + 1:at + 4]], ["c", "b", "a"])
        self.assertEqual([row[1] for row in rows[at + 1:at + 4]], ["1ms", "4ms", "7ms"])
        self.assertEqual(" ".join(rows[at + 3][-4:]), "c 0.0ms, b 1.5ms")
        drawn = "".join(picture.itertext())
        self.assertIn("Restore line", drawn)
        self.assertIn("a starts at 6.8 ms", drawn)
        width, height = float(picture.get("width")), float(picture.get("height"))
        for shape in picture.iter():
            for keys, most in ((("x", "x1", "x2"), width), (("y", "y1", "y2"), height)):
                for key in keys:
                    self.assertTrue(0 <= float(shape.get(key, 0)) <= most, shape.attrib)

    def test_hostile_contacts_are_shown_as_unknown(self):
        for contacts in ({"until_us": "x"}, 7, {"until_us": 5, "first_us": {"b": 10 ** 40}}):
            text, _ = self.show({"a": contacts})
            self.assertIn("SPEAKS FIRST TO", text)
            self.assertIn("0.0s", text)


if __name__ == "__main__":
    unittest.main()
