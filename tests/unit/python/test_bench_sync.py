# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench sync: what it makes of its samples."""

import contextlib
import io
import tempfile
import unittest

import operator_fixtures
from hotsnap.model import bundle
from hotsnap_bench import sync
from hotsnap_bench.stats import show


class Figures(unittest.TestCase):
    def test_distances_have_no_sign(self):
        found = sync.Ends()
        found.deviation["idle", 3].samples += [-9.0, 1.0]
        found.deviation["writing", 10].samples += [2.0]
        found.spread.add(4.0)
        found.uncontrolled.add(4000.0)
        report = found.report()
        self.assertEqual((report["deviation_ms_median"], report["deviation_ms_max"]), (2, 9))
        self.assertEqual((report["spread_ms"], report["spread_uncontrolled_ms"]), (4, 4000))
        self.assertIn("spread of four members' ends", show(found.lines()))

    def test_ends_count_from_the_first_pause(self):
        with tempfile.TemporaryDirectory() as folder:
            saved = bundle.read(operator_fixtures.make_bundle(folder))
            first = min(m.pause.begin_ns for m in saved.members)
            for number, member in enumerate(saved.members):
                member.memory.copied_ns = first + (number + 1) * 5_000_000
            self.assertEqual(sync.ends_ms(saved), [5, 10, 15])

    def test_nothing_measured(self):
        report = sync.Ends().report()
        self.assertEqual((report["deviation_ms_max"], report["spread_ms"]), (0, 0))

    def test_arguments(self):
        self.assertEqual(sync.arguments(["--repeat", "3"]).repeat, 3)
        for wrong in (["--repeat", "0"], ["core"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                sync.arguments(wrong)


if __name__ == "__main__":
    unittest.main()
