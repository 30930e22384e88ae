# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of memory on demand, and its benchmark, make of what they find."""

import os
import struct
import tempfile
import unittest

from hotsnap.host import userfault
from hotsnap_bench import restore
from hotsnap_bench.stats import show
from support import lazy


def page(first, step=1, count=512):
    return struct.pack("<512Q", *(first + step * i for i in range(count)))


class Pattern(unittest.TestCase):
    def test_pages_of_the_writer(self):
        whole = page(0x9e3779b97f4a7c15)
        self.assertIs(lazy.pattern_of(whole), True)
        self.assertIsNone(lazy.pattern_of(bytes(4096)))
        self.assertIsNone(lazy.pattern_of(os.urandom(4096)))
        self.assertIsNone(lazy.pattern_of(page(0xfe02)))
        for at in (24, 2048, 4095):  # one half is older, one byte is wrong
            self.assertIs(lazy.pattern_of(whole[:at] + page(1 << 50)[at:]), False)
            self.assertIs(lazy.pattern_of(whole[:at] + b"\x55" + whole[at + 1:]), False)


class Damage(unittest.TestCase):
    def test_is_undone(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "state")
            with open(path, "wb") as file:
                file.write(bytes(range(256)) * 20)
            with open(path, "rb") as file:
                whole = file.read()
            with lazy.flipped(path, 3000):
                with open(path, "rb") as file:
                    self.assertEqual(sum(a != b for a, b in zip(file.read(), whole)), 1)
            with lazy.truncated(path, 1000):
                self.assertEqual(os.path.getsize(path), 1000)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), whole)


class Bench(unittest.TestCase):
    def test_only_what_was_measured_has_a_figure(self):
        found = restore.Starts([1, 8])
        self.assertEqual(found.report(), {"running_ms": {}, "starts": {}})
        found.of(1, "lazy", "cold").running.samples += [100, 120, 500]
        found.of(1, "full", "cold").running.add(1000)
        found.of(1, "full", "warm").running.add(900)
        report = found.report()
        self.assertEqual(report["running_ms"], {"cold": 120, "full": 1000})
        self.assertNotIn("size_ratio", report)
        found.of(8, "lazy", "cold").running.add(150)
        self.assertEqual(found.report()["size_ratio"], 1.25)
        for absent in ("useful_ms", "backoff_ms", "tcp_timeouts", "members16_ms"):
            self.assertNotIn(absent, found.report())
        self.assertIn("8 GiB to 1 GiB", show(found.lines()))

    def test_since(self):
        event = {"timestamp": {"seconds": 10, "microseconds": 250000}}
        self.assertEqual(restore.since(10.0, event), 250)

    def test_arguments(self):
        self.assertEqual(restore.arguments(["--sizes", "2,1"]).sizes, [1, 2])


class Probe(unittest.TestCase):
    def test_answers(self):
        self.assertIn(userfault.permitted(), (True, False))


if __name__ == "__main__":
    unittest.main()
