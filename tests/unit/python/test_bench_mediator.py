# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench mediator: what it makes of its samples, and of a flow that ends."""

import contextlib
import io
import os
import socket
import time
import unittest

from hotsnap_bench import mediator as bench_mediator
from hotsnap_bench.mediator import (BY, CONDITIONS, WAYS, Conditions, Host, Throughput,
                                    processor_seconds, rate)
from hotsnap_bench.stats import show
from hotsnap.errors import HotsnapError


class Figures(unittest.TestCase):
    def filled(self):
        found = Throughput()
        for way in (way + by for way in WAYS for by in BY):
            for condition, samples in zip(CONDITIONS, ([100, 200, 300], [90, 198, 400], [50])):
                for sample in samples:
                    found.series[way, condition].add(sample)
        return found

    def test_ratios_are_of_medians_to_none(self):
        found = self.filled()
        self.assertAlmostEqual(found.ratio("tcp out", "before"), 0.99)
        self.assertAlmostEqual(found.ratio("tcp in", "after"), 0.25)
        self.assertIsNone(Throughput().ratio("tcp in", "after"))

    def test_report_and_table(self):
        report = self.filled().report()
        self.assertEqual(list(report), [way + by for way in WAYS for by in BY])
        self.assertEqual(report["udp out"]["before_ratio"], 0.99)
        self.assertEqual(report["udp out"]["without"]["median"], 200)
        table = show(self.filled().lines())
        for way in WAYS:
            self.assertIn(f"{way}, after to without", table)

    def test_arguments(self):
        self.assertEqual(bench_mediator.arguments(["--repeat", "3"]).repeat, 3)
        for wrong in (["--repeat", "0"], ["core"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                bench_mediator.arguments(wrong)


class Flow(unittest.TestCase):
    def test_rate_leaves_out_the_warm_up(self):
        began = time.monotonic()

        def count():
            time.sleep(0.01)
            # Ten times as fast while it warms up.
            return 1000 if time.monotonic() < began + bench_mediator.WARM_UP else 100

        used = iter((1.0, 1.5))
        by_clock, by_use = rate(count, lambda: next(used), 0.3)
        self.assertLess(by_clock, 12_000)
        self.assertAlmostEqual(by_use / by_clock, 0.3 / 0.5, delta=0.2)

    def test_processor_time(self):
        before = processor_seconds(os.getpid())
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        self.assertAlmostEqual(processor_seconds(os.getpid()) - before, 0.2, delta=0.05)

    def test_a_closed_flow_is_an_error(self):
        near, far = socket.socketpair()
        with near:
            far.close()
            with self.assertRaises(HotsnapError):
                Host._received(near)

    def test_the_objects_are_found_by_their_types(self):
        objects = [{"name": "x", "type": "child<iothread>"},
                   {"name": "f", "type": "child<filter-hotsnap>"}]
        self.assertEqual(Conditions._named(objects, "filter-hotsnap"), "f")


if __name__ == "__main__":
    unittest.main()
