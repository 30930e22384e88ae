# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture: well-formed, inside its canvas, and with the manifest's figures in it."""

import os
import tempfile
import unittest
import xml.etree.ElementTree as ET

import operator_fixtures
from hotsnap.model import bundle
from hotsnap.ui import drawing, timeline

SVG = "{http://www.w3.org/2000/svg}"


class Picture(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.found = bundle.read(operator_fixtures.make_bundle(folder.name))
        self.file = os.path.join(folder.name, "t.svg")

    def draw(self):
        timeline.draw(self.found, self.file)
        return ET.parse(self.file).getroot()

    def texts(self, root):
        return ["".join(e.itertext()) for e in root.iter(SVG + "text")]

    def test_figures(self):
        texts = self.texts(self.draw())
        for part in ("t1", "2.40 ms", "3.50 ms", "a", "b", "c", "drain", "guest write"):
            self.assertTrue(any(part in text for text in texts), part)

    def test_bars_are_where_the_pauses_were(self):
        root = self.draw()
        bars = {}
        for rect in root.iter(SVG + "rect"):
            tip = rect.find(SVG + "title")
            if tip is not None and tip.text.endswith(" ms") and " to " in tip.text:
                name = tip.text.split(":")[0]
                bars.setdefault(name, (float(rect.get("x")), float(rect.get("width"))))
        # Pauses begin 0.7 ms apart and last 2.0, 2.2 and 2.4 ms.
        scale = bars["a"][1] / 2.0
        self.assertAlmostEqual(bars["c"][1] / scale, 2.4, places=2)
        self.assertAlmostEqual((bars["b"][0] - bars["a"][0]) / scale, 0.7, places=2)

    def test_everything_is_inside(self):
        for members in (1, 3):
            self.found.manifest.members = self.found.members[:members]
            root = self.draw()
            width, height = float(root.get("width")), float(root.get("height"))
            for rect in root.iter(SVG + "rect"):
                x, y, w, h = (float(rect.get(k, 0)) for k in ("x", "y", "width", "height"))
                self.assertTrue(0 <= x <= x + w <= width and 0 <= y <= y + h <= height,
                                ET.tostring(rect))

    def test_names_are_escaped(self):
        self.found.manifest.tag = "a<b>&\"c"
        self.assertIn("a<b>&\"c", self.texts(self.draw()))

    def test_without_timeline_steps_or_common_clock(self):
        self.found.manifest.timeline = []
        self.found.manifest.cut.comparable = False
        for entry in self.found.members:
            entry.pause.steps = []
        self.assertTrue(any("different hosts" in text for text in self.texts(self.draw())))

    def test_ticks_are_round(self):
        self.assertEqual([round(t, 6) for t in drawing.ticks(0, 10, 5)], [0, 2, 4, 6, 8, 10])
        self.assertEqual([round(t, 6) for t in drawing.ticks(0, 0.3, 3)], [0, 0.1, 0.2, 0.3])
        self.assertLessEqual(len(list(drawing.ticks(0, 123456.7))), 8)


if __name__ == "__main__":
    unittest.main()
