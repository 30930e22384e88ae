# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench groups: what it makes of its samples, and of what programs in a guest print."""

import contextlib
import io
import json
import unittest

from hotsnap.errors import HotsnapError
from hotsnap_bench import group_database, group_holds, groups
from hotsnap_bench.group_figures import Groups
from hotsnap_bench.stats import show


def of_fio(write_ns, sync_ns, total=5):
    return "fio: this and that\n" + json.dumps({"jobs": [
        {"write": {"total_ios": total, "lat_ns": {"max": write_ns}},
         "sync": {"lat_ns": {"max": sync_ns}}},
        {"write": {"total_ios": 9, "lat_ns": {"max": 1000}}, "sync": {"lat_ns": {"max": 1000}}}]})


class Figures(unittest.TestCase):
    def test_report(self):
        found = Groups()
        found.holds[1].samples += [1.0, 2.0]
        found.holds[8].samples += [6.0]
        found.sizes["1 GiB"].samples += [1.0, 1.0]
        found.sizes["1 TiB"].samples += [1.5]
        found.causal[2].add(2.0)
        found.causal[16].add(3.0)
        found.barrier[4].samples += [4.0, 14.0]
        found.commits.add(95.0)
        found.commits_without.add(100.0)
        found.snapshots, found.one_by_one, found.violations_one_by_one = 10, 10, 9
        report = found.report()
        self.assertEqual([report[name] for name in (
            "hold_ms_median", "hold_ms_max", "barrier_ms_max", "size_ratio", "members_ratio",
            "commit_ratio", "violations", "violations_one_by_one")],
            [2, 6, 14, 1.5, 1.5, 0.95, 0, 9])
        self.assertIn("VM by VM, of 10", show(found.lines()))

    def test_nothing_measured(self):
        found = Groups()
        self.assertEqual(list(found.report()), ["series"])
        self.assertEqual(found.lines(), [])
        found.commits.add(95.0)  # without any to compare them to
        self.assertNotIn("commit_ratio", found.report())

    def test_fio(self):
        self.assertEqual(group_holds.longest_ms(of_fio(2_000_000, 3_500_000)), 3.5)
        self.assertEqual(group_holds.longest_ms(of_fio(4_000_000, 3_500_000)), 4)
        for wrong in (of_fio(1, 1, total=0), "fio: not found", "{}", "{"):
            with self.assertRaises(HotsnapError):
                group_holds.longest_ms(wrong)

    def test_pgbench(self):
        said = "number of failed transactions: 0 (0.000%)\ntps = 123.5 (without initial ...)\n"
        self.assertEqual(group_database.rate(said), 123.5)
        for wrong in ("", said.replace(": 0", ": 3"), said.replace("tps", "x")):
            with self.assertRaises(HotsnapError):
                group_database.rate(wrong)

    def test_arguments(self):
        self.assertEqual(groups.arguments(["--only", "chain", "--only", "disks"]).only,
                         ["chain", "disks"])
        for wrong in (["--repeat", "0"], ["--only", "core"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                groups.arguments(wrong)


if __name__ == "__main__":
    unittest.main()
