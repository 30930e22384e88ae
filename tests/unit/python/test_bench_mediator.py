# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench mediator: what it makes of its samples, and of a flow that ends."""

import contextlib
import io
import os
import socket
import time
import unittest

from hotsnap_bench import mediator as bench_mediator
from hotsnap_bench import flows
from hotsnap_bench.flows import IN_FLIGHT, Ends, Window, processor_seconds, rate
from hotsnap_bench.mediator import BY, CONDITIONS, WAYS, Conditions, Throughput
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

    def test_ratios_are_of_the_turns(self):
        found = self.filled()
        self.assertAlmostEqual(found.ratio("tcp out", "before"), 0.99)  # of 0.9, 0.99 and 1.33
        self.assertAlmostEqual(found.ratio("tcp in", "after"), 0.5)  # there was one turn
        self.assertIsNone(Throughput().ratio("tcp in", "after"))

    def test_report_and_table(self):
        report = self.filled().report()["mediator"]
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
            return 1000 if time.monotonic() < began + flows.WARM_UP else 100

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
                Ends._received(near)

    def test_the_objects_are_found_by_their_types(self):
        objects = [{"name": "x", "type": "child<iothread>"},
                   {"name": "f", "type": "child<filter-hotsnap>"}]
        self.assertEqual(Conditions._named(objects, "filter-hotsnap"), ["f"])

    def test_frames_that_are_lost_are_sent_again(self):
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with near, far:
            far.settimeout(0.01)
            window = Window(near, far, b"frame")
            sent = []
            window.near = type("Near", (), {"send": lambda _, data: sent.append(data)})()
            self.assertEqual(window.step(), 0)  # all are lost
            near.send(b"frame")
            self.assertEqual(window.step(), 5)
            self.assertEqual(len(sent), 2 * IN_FLIGHT)


if __name__ == "__main__":
    unittest.main()
