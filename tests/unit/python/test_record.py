# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of JSON files: what is read is checked, and what is not known is kept."""

import unittest
from dataclasses import dataclass, field

from hotsnap.errors import HotsnapError
from hotsnap.record import Malformed, Record


@dataclass
class Inner(Record):
    number: int
    share: float | None


@dataclass
class Outer(Record):
    name: str
    inners: list[Inner]
    by_name: dict[str, Inner] = field(default_factory=dict)
    done: bool = False


WHOLE = {"later": {"x": [1]}, "name": "n", "inners": [{"share": 1, "number": 2, "new": "kept"}],
         "by_name": {"a": {"number": 3, "share": None}}}


class Records(unittest.TestCase):
    def test_values(self):
        found = Outer.parse(WHOLE, "f")
        self.assertEqual((found.name, found.done), ("n", False))
        self.assertEqual(found.inners, [Inner(2, 1)])
        self.assertEqual(found.by_name, {"a": Inner(3, None)})

    def test_what_is_not_known_is_written_back_in_its_place(self):
        found = Outer.parse(WHOLE, "f")
        self.assertEqual(found.dump(), WHOLE)
        self.assertEqual(list(found.dump()), list(WHOLE))
        found.inners[0].number, found.done = 5, True
        self.assertEqual(found.dump(), {
            **WHOLE, "inners": [{"share": 1, "number": 5, "new": "kept"}], "done": True})
        self.assertEqual(WHOLE["inners"][0]["number"], 2)

    def test_new_records(self):
        self.assertEqual(Outer("n", [Inner(1, None)]).dump(),
                         {"name": "n", "inners": [{"number": 1, "share": None}]})

    def test_malformed(self):
        for change, text in (
                ({"name": 1}, "f: name has the wrong type"),
                ({"done": 0}, "f: done has the wrong type"),
                ({"inners": {}}, "f: inners must be an array"),
                ({"inners": [{"number": 1}]}, "f: inners[0]: 'share' is missing"),
                ({"inners": [{"number": True, "share": 1}]}, "f: inners[0]: number has the wrong"),
                ({"inners": [{"number": 1.5, "share": 1}]}, "f: inners[0]: number has the wrong"),
                ({"inners": [3]}, "f: inners[0] must be an object"),
                ({"by_name": []}, "f: by_name must be an object"),
                ({"by_name": {"a": None}}, "f: by_name: a must be an object")):
            with self.subTest(text), self.assertRaises(Malformed) as caught:
                Outer.parse({**WHOLE, **change}, "f")
            self.assertIn(text, str(caught.exception))
        with self.assertRaises(HotsnapError):
            Outer.parse([], "f")


if __name__ == "__main__":
    unittest.main()
