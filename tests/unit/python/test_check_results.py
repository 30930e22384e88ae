# SPDX-License-Identifier: GPL-2.0-or-later
"""Counting: what test programs print is read rightly, and a crash never looks like a pass."""

import io
import json
import os
import tempfile
import unittest
from unittest import mock

from checks import formats, process
from checks.context import Context
from checks.fork import read_rebase
from checks.results import FAILED, PASSED, SKIPPED, Report, Result


def outcomes(results):
    return [(result.name, result.outcome) for result in results]


class Tap(unittest.TestCase):
    def test_lines_of_vm_tests_and_of_glib(self):
        results = formats.read_tap("p", "# a comment\nok first # 1.5 s\nnot ok second - 3 differ\n"
                                        "skip third - no hugepages\nok 4 /x86_64/hmp/pc\n"
                                        "ok 5 /x86_64/tls # SKIP no GnuTLS\nnot ok 6 /x86_64/a\n")
        self.assertEqual(outcomes(results), [
            ("first", PASSED), ("second", FAILED), ("third", SKIPPED), ("/x86_64/hmp/pc", PASSED),
            ("/x86_64/tls", SKIPPED), ("/x86_64/a", FAILED)])
        self.assertEqual(results[0].seconds, 1.5)
        self.assertEqual(results[1].reason, "3 differ")
        self.assertEqual(results[2].reason, "no hugepages")
        self.assertEqual(results[4].reason, "no GnuTLS")

    def test_other_output_is_no_result(self):
        self.assertEqual(formats.read_tap("p", "okay\nnothing\n  | ok\nnot okay\n1..x\n"), [])

    def test_fewer_results_than_planned(self):
        results = formats.read_tap("p", "1..3\nok 1 a\nok 2 b\n")
        self.assertEqual(outcomes(results)[-1], ("plan", FAILED))
        self.assertEqual(len(formats.read_tap("p", "1..2\nok 1 a\nok 2 b\n")), 2)

    def test_an_empty_plan_is_a_skip(self):
        self.assertEqual(outcomes(formats.read_tap("p", "1..0 # SKIP no KVM\n")),
                         [("all", SKIPPED)])


class GoogleTest(unittest.TestCase):
    def test_cases(self):
        case = {"status": "RUN", "result": "COMPLETED", "time": "0.25s"}
        text = json.dumps({"testsuites": [{"name": "Ledger", "testsuite": [
            {**case, "name": "Good"},
            {**case, "name": "Bad", "failures": [{"failure": "a.cc:1\nExpected: 1"}]},
            {**case, "name": "Skipped", "result": "SKIPPED",
             "skipped": [{"message": "no userfaultfd\n"}]},
            {**case, "name": "Disabled", "status": "NOTRUN", "result": "SUPPRESSED"}]}]})
        results = formats.read_gtest("p", text)
        self.assertEqual(outcomes(results), [("Ledger.Good", PASSED), ("Ledger.Bad", FAILED),
                                             ("Ledger.Skipped", SKIPPED)])
        self.assertEqual(results[1].reason, "a.cc:1; Expected: 1")
        self.assertEqual(results[2].reason, "no userfaultfd")


class Judge(unittest.TestCase):
    good = [Result("p", "a", PASSED)]

    def end(self, results, status=0, timeout=None):
        return outcomes(formats.judge("p", results, status, timeout, 1.0, "why"))

    def test_a_good_run_stays(self):
        self.assertEqual(self.end(self.good), [("a", PASSED)])

    def test_a_crash_after_passes_is_a_failure(self):
        self.assertIn(("end", FAILED), self.end(self.good, -11))
        self.assertIn(("end", FAILED), self.end(self.good, 1))

    def test_a_reported_failure_is_counted_once(self):
        bad = [Result("p", "b", FAILED)]
        self.assertEqual(self.end(bad, 1), [("b", FAILED)])

    def test_a_timeout_is_a_failure(self):
        self.assertIn(("end", FAILED), self.end(self.good, 0, 5.0))

    def test_no_result_is_a_failure(self):
        self.assertEqual(self.end([]), [("end", FAILED)])

    def test_status_77_is_a_skip_only_without_results(self):
        self.assertEqual(self.end([], 77), [("all", SKIPPED)])
        self.assertIn(("end", FAILED), self.end(self.good, 77))


class Rebase(unittest.TestCase):
    def test_lines(self):
        results = read_rebase("p", "series on qemu_10.0.2:\nok      0001-a.patch\n"
                                   "offset  0002-b.patch: 2 hunks\nFAILED  0003-c.patch\n  | why\n")
        self.assertEqual([result.outcome for result in results], [PASSED, PASSED, PASSED, FAILED])
        self.assertEqual(results[2].name, "0002-b.patch")


class Programs(unittest.TestCase):
    """Whole programs, run as the checks run them."""

    def setUp(self):
        process.adopt_orphans()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.report = Report(io.StringIO())
        self.report.begin("group", "for a test")
        self.context = Context(self.report, folder.name)

    def run_shell(self, script, timeout=20.0, read=formats.read_tap):
        self.context.run("program", ["sh", "-c", script], timeout, read)
        self.context.finish()
        return [(result.name, result.outcome) for _, result in self.report.results]

    def test_results_are_counted_and_written(self):
        self.run_shell("echo ok a; echo not ok b - no; echo skip c - why; exit 1")
        self.assertEqual(self.report.summary(), "1 passed, 1 failed, 1 skipped")
        path = os.path.join(self.context.root, "results.json")
        self.report.write_json(path)
        with open(path, encoding="utf-8") as stream:
            written = json.load(stream)
        self.assertEqual((written["passed"], written["failed"], written["skipped"]), (1, 1, 1))
        self.assertEqual(written["results"][1]["reason"], "no")

    def test_a_program_without_a_protocol(self):
        self.assertEqual(self.run_shell("true", read=None), [("main", PASSED)])
        self.assertIn(("end", FAILED), self.run_shell("false", read=None))

    def test_an_endless_program_is_ended(self):
        results = self.run_shell("echo ok a; sleep 1000", timeout=4)
        self.assertEqual(results, [("a", PASSED), ("end", FAILED)])

    def test_what_is_left_behind_is_ended_and_named(self):
        # In a session of its own, as QEMU's tests start QEMU.
        with mock.patch.object(process, "ORPHAN_GRACE", 1.0):
            results = self.run_shell("setsid sleep 1000 & echo ok a")
        self.assertEqual(results, [("a", PASSED), ("leaves no process", FAILED)])
        self.assertEqual(self.report.results[-1][1].reason, "sleep")


if __name__ == "__main__":
    unittest.main()
