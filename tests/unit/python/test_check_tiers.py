# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run leaves out, and what it says of its time."""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stdout
from unittest import mock

from checks import fork, guests, process, programs
from checks.__main__ import arguments
from checks.context import ALL, DEFAULT, Context
from checks.head import Head, read_head
from checks.results import FAILED, PASSED, SLOWEST, Report


CHECKS = os.path.dirname(os.path.dirname(os.path.abspath(process.__file__)))


class Heads(unittest.TestCase):
    def test_defaults(self):
        self.assertEqual(read_head("#!/bin/sh\ntrue\n"), Head(600.0, DEFAULT, False))

    def test_lines(self):
        self.assertEqual(read_head('"""x"""\n\n# timeout: 1200\n# tier: all\n# alone: it measures\n'
                                   "# waits: for storage\n"), Head(1200.0, ALL, True, True))

    def test_wrong_lines_are_told_of(self):
        for text in ("# timeout: soon\n", "# timeout:\n", "# tier: rest\n", "# alone:\n", "# waits:\n"):
            with self.assertRaises(ValueError, msg=text):
                read_head(text)

    def test_only_the_head_counts(self):
        self.assertEqual(read_head("x\n" * 4000 + "# tier: all\n").tier, DEFAULT)


class Runs(unittest.TestCase):
    def setUp(self):
        process.adopt_orphans()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name

    def program(self, name, head, body):
        path = os.path.join(self.root, "tests", "group", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(f"#!/bin/sh\n{head}\n{body}\n")
        os.chmod(path, 0o755)

    def run_tier(self, tier):
        output = io.StringIO()
        report = Report(output, tier)
        report.begin("group", "for a test")
        context = Context(report, self.root, tier)
        guests.run_folder(context, "group")
        context.finish()
        report.say(report.times())
        path = os.path.join(self.root, f"{tier}.json")
        report.write_json(path)
        with open(path, encoding="utf-8") as stream:
            return output.getvalue(), json.load(stream)

    def test_programs_of_tier_all_are_left_out_by_name(self):
        self.program("10-short.sh", "", "echo ok short; sleep 0.5")
        self.program("20-long.sh", "# tier: all", "echo ok long")
        text, data = self.run_tier(DEFAULT)
        self.assertEqual([row["name"] for row in data["results"]], ["short"])
        self.assertEqual(data["left_to_all"], ["group/20-long.sh"])
        self.assertIn("left to --all: group/20-long.sh", text)
        text, data = self.run_tier(ALL)
        self.assertEqual([row["name"] for row in data["results"]], ["short", "long"])
        self.assertEqual((data["left_to_all"], data["tier"]), ([], ALL))
        self.assertNotIn("left to --all", text)

    def test_what_a_program_leaves_out_is_told(self):
        self.program("10-part.sh", "", "echo ok short; echo '# left to --all: e1000, nvme'")
        text, data = self.run_tier(DEFAULT)
        self.assertEqual(data["left_to_all"], ["group/10-part.sh (e1000, nvme)"])
        self.assertIn("left to --all: group/10-part.sh (e1000, nvme)", text)

    def test_the_tests_own_word_of_the_tier(self):
        from support.tier import left_to_all  # pylint: disable=import-outside-toplevel
        for tier, expected in (({"HOTSNAP_TIER": DEFAULT}, True), ({"HOTSNAP_TIER": ALL}, False),
                               ({}, False)):
            said = io.StringIO()
            with mock.patch.dict(os.environ, tier, clear=True), redirect_stdout(said):
                self.assertEqual(left_to_all("x"), expected)
            self.assertEqual(said.getvalue(), "# left to --all: x\n" if expected else "")

    def test_programs_are_told_the_tier(self):
        self.program("10-tier.sh", "", "echo ok $HOTSNAP_TIER")
        for tier in (DEFAULT, ALL):
            self.assertEqual([row["name"] for row in self.run_tier(tier)[1]["results"]], [tier])

    def test_the_time_of_a_program_is_that_of_the_clock(self):
        """Not what its cases say: this one says nothing of its wait."""
        self.program("10-waits.sh", "", "sleep 0.6; echo 'ok a # 0.1 s'; sleep 0.6")
        text, data = self.run_tier(DEFAULT)
        [program] = data["programs"]
        self.assertGreaterEqual(program["seconds"], 1.2)
        self.assertLess(program["cpu_seconds"], program["seconds"])
        self.assertGreaterEqual(float(re.search(r"ok group/10-waits.sh: a \(([\d.]+) s\)", text)[1]),
                                1.2)

    def test_the_slowest_are_named_in_order(self):
        report = Report(io.StringIO())
        for number in range(15):
            report.spent("vm", f"p{number:02}", float(number))
        report.spent("vm", "p03", 100.0)  # a program in several parts
        lines = report.times().splitlines()
        found = [re.fullmatch(r" *([\d.]+) s  vm/(\S+)", line) for line in lines]
        found = [match.groups() for match in found if match]
        self.assertEqual(len(found), SLOWEST)
        self.assertEqual(found[:2], [("103.0", "p03"), ("14.0", "p14")])
        self.assertIn("in total", lines[-1])


class ChosenQtests(unittest.TestCase):
    def test_a_chosen_test_that_is_gone_is_a_failure(self):
        read = fork.chosen_reader(("/x86_64/a", "/x86_64/b"))
        self.assertEqual([(r.name, r.outcome) for r in read("p", "1..1\nok 1 /x86_64/a\n")],
                         [("/x86_64/a", PASSED), ("/x86_64/b", FAILED)])
        self.assertEqual([r.outcome for r in read("p", "ok 1 /x86_64/a\nok 2 /x86_64/b\n")],
                         [PASSED, PASSED])


WHOLE_RUN = """
import functools, sys
from checks import __main__ as check
from checks.context import CannotRun, Context
from checks.results import FAILED

def good(context):
    context.run("waits", ["sh", "-c", "sleep 0.3; echo ok a; echo skip b - no such device"], 60)

def cannot(context):
    raise CannotRun("it does not build")

def broken(context):
    context.run("runs", ["echo", "ok c"], 60)
    raise KeyError("a mistake in the group")

check.GROUPS = {"one": (good, "first"), "two": (cannot, "second"), "vm": (broken, "third"),
                "kvm": (good, "fourth")}
check.Context = functools.partial(Context, root=sys.argv[1])
sys.exit(check.main(sys.argv[2:]))
"""


class WholeRuns(unittest.TestCase):
    def check(self, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", WHOLE_RUN, folder, *arguments], text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder,
                env={**os.environ, "PYTHONPATH": CHECKS, "HOTSNAP_LOCK_HELD": "1"})
        return done.returncode, done.stdout.splitlines()

    def test_the_last_lines(self):
        status, lines = self.check("one")
        self.assertEqual(status, 0)
        self.assertEqual(lines[-1], "1 passed, 0 failed, 1 skipped")
        self.assertRegex(lines[-2], r"^ *[\d.]+ s  in total, tier default$")
        self.assertRegex(lines[-3], r"^ *[\d.]+ s  one/waits$")
        self.assertIn("skip one/waits: b - no such device", lines)

    def test_a_group_that_fails_stops_no_other(self):
        status, lines = self.check()
        self.assertEqual((status, lines[-1]), (1, "3 passed, 2 failed, 2 skipped"))
        self.assertIn("not ok two/two: group - it does not build", lines)
        self.assertTrue(any("not ok vm/vm: group - KeyError" in line for line in lines), lines)
        for passed in ("ok one/waits", "ok vm/runs", "ok kvm/waits"):
            self.assertTrue(any(line.startswith(passed) for line in lines), passed)


class Examples(unittest.TestCase):
    def test_fewer_by_default_and_said_once(self):
        report = Report(io.StringIO())
        report.begin("sanitize")
        for _ in range(2):
            self.assertIn("RC_PARAMS", programs.fewer_examples(Context(report)))
        self.assertEqual(len(report.left), 1)
        self.assertEqual(programs.fewer_examples(Context(report, tier=ALL)), {})


class Libraries(unittest.TestCase):
    """Without a sanitizer their tests run where no sanitizer sees them, and with --all."""

    def run_of(self, tier, groups):
        report = Report(io.StringIO())
        report.begin("unit")
        context = Context(report, tier=tier, groups=groups)
        with (mock.patch.object(Context, "script"), mock.patch.object(programs, "check_symbols"),
              mock.patch.object(programs, "run_meson_tests") as run):
            programs.unit(context)
        self.assertNotEqual(run.called, bool(report.left), "what is left out must be told")
        self.assertTrue(context.jobs, "the tests of the scripts are always there")
        return run.called

    def test_once_by_default(self):
        self.assertFalse(self.run_of(DEFAULT, ["unit", "sanitize", "vm"]))

    def test_where_nothing_else_runs_them(self):
        self.assertTrue(self.run_of(DEFAULT, ["unit"]))
        self.assertTrue(self.run_of(ALL, ["unit", "sanitize"]))


class CommandLine(unittest.TestCase):
    def test_all_is_a_tier_and_no_group(self):
        self.assertFalse(arguments([]).all)
        chosen = arguments(["--all", "vm"])
        self.assertEqual((chosen.all, chosen.groups), (True, ["vm"]))


if __name__ == "__main__":
    unittest.main()
