# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs side by side: no more at once than there are slots, in a fixed order, each with its own
leftovers, and all of them ended by an interrupt."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

from checks import process, scheduler
from checks.context import Context
from checks.results import FAILED, PASSED, Report
from checks.scheduler import Program
from support import workplace

LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(process.__file__)))


def running(mark):
    """How many processes have `mark` in their command line."""
    count = 0
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as stream:
                count += mark.encode() in stream.read()
        except OSError:
            pass  # no process, or one that has ended
    return count


class Case(unittest.TestCase):
    def setUp(self):
        process.adopt_orphans()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def shell(self, name, script, timeout=60.0, alone=False, waits=False):
        return Program(name, ["sh", "-c", script], os.path.join(self.folder, f"{name}.log"),
                       timeout, alone, waits, cwd=self.folder)

    def run_all(self, programs, at_once):
        """The names in the order of their reports, and how each ended."""
        ends = {}
        chosen = scheduler.Scheduler(lambda i, end: ends.update({programs[i].name: end}))
        for program in programs:
            chosen.add(program)
        chosen.finish(at_once)
        return ends


class Order(Case):
    def test_what_may_take_longest_starts_first_and_lone_ones_last(self):
        programs = [self.shell("a", "", 60), self.shell("lone", "", 900, alone=True),
                    self.shell("b", "", 600), self.shell("c", "", 60)]
        self.assertEqual([programs[i].name for i in scheduler.schedule(programs)],
                         ["b", "a", "c", "lone"])

    def test_the_order_of_reports_is_that_of_the_starts(self):
        programs = [self.shell("slow", "sleep 0.6", 61), self.shell("quick", "true"),
                    self.shell("quicker", "true")]
        with mock.patch.object(scheduler.Heartbeat, "say") as said:
            ends = self.run_all(programs, 2)
        self.assertEqual(list(ends), ["slow", "quick", "quicker"])
        self.assertIn("quick has ended", said.call_args_list[0][0][0])


class Slots(Case):
    # Each program notes how many of them run while it does.
    COUNT = "touch run.$$; sleep 0.4; ls run.* | wc -l; sleep 0.4; rm run.$$"

    def counts(self, programs, at_once):
        ends = self.run_all(programs, at_once)
        self.assertTrue(all(end.status == 0 for end in ends.values()))
        found = []
        for program in programs:
            with open(program.log, encoding="utf-8") as stream:
                found.append(int(stream.read()))
        return found

    def test_two_at_once_and_no_more(self):
        programs = [self.shell(f"p{i}", self.COUNT) for i in range(5)]
        found = self.counts(programs, 2)
        self.assertLessEqual(max(found), 2)
        self.assertEqual(max(found), 2, "the control: nothing ran side by side")

    def test_one_at_a_time(self):
        programs = [self.shell(f"p{i}", self.COUNT) for i in range(3)]
        self.assertEqual(self.counts(programs, 1), [1, 1, 1])

    def test_nothing_runs_beside_one_that_is_alone(self):
        programs = [self.shell("lone1", self.COUNT, alone=True), self.shell("a", self.COUNT),
                    self.shell("b", self.COUNT), self.shell("lone2", self.COUNT, alone=True)]
        found = self.counts(programs, 2)
        self.assertEqual((found[0], found[3]), (1, 1))
        self.assertEqual(max(found), 2, "the control: nothing ran side by side")

    def test_two_that_wait_share_a_slot(self):
        found = self.counts([self.shell(f"p{i}", self.COUNT, waits=True) for i in range(4)], 1)
        self.assertEqual(max(found), 2)
        programs = [self.shell("busy1", ""), self.shell("busy2", ""), self.shell("busy3", ""),
                    self.shell("waits1", "", waits=True), self.shell("waits2", "", waits=True)]
        running_now = {3: None}
        self.assertEqual(scheduler.startable(programs, [0, 1, 2, 4], running_now, 2), [0, 4])
        self.assertEqual(scheduler.startable(programs, [0, 1, 2], {}, 2), [0, 1])

    def test_beside_another_child_nothing_starts_that_must_be_alone(self):
        programs = [self.shell("a", ""), self.shell("lone", "", alone=True)]
        self.assertEqual(scheduler.startable(programs, [1], {}, 2, alone=False), [])
        self.assertEqual(scheduler.startable(programs, [1], {}, 2), [1])
        self.assertEqual(scheduler.startable(programs, [0], {}, 0), [], "no slot is left")

    def test_a_number_of_slots_can_be_chosen(self):
        with mock.patch.dict(os.environ, {"HOTSNAP_CHECK_JOBS": "3"}):
            self.assertEqual(scheduler.slots(), 3)
        with mock.patch.dict(os.environ, clear=True):
            self.assertIn(scheduler.slots(), (1, 2))


class Ends(Case):
    def test_each_program_answers_for_its_own_leftovers(self):
        programs = [self.shell("untidy", "setsid sleep 1000 & sleep 0.3"),
                    self.shell("tidy", "sleep 0.8")]
        with mock.patch.object(process, "ORPHAN_GRACE", 0.2):
            ends = self.run_all(programs, 2)
        self.assertEqual((ends["untidy"].left, ends["tidy"].left), (["sleep"], []))
        self.assertEqual(ends["tidy"].status, 0, "it was ended with the other's leftovers")

    def test_seconds_are_those_of_the_clock_and_of_the_processors(self):
        ends = self.run_all([self.shell("waits", "sleep 0.7"),
                             self.shell("works", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")],
                            1)
        self.assertGreaterEqual(ends["waits"].seconds, 0.7)
        self.assertLess(ends["waits"].cpu_seconds, 0.5)
        self.assertGreater(ends["works"].cpu_seconds, 0.05)

    def test_a_program_that_cannot_start_has_failed(self):
        ends = self.run_all([Program("none", ["/nonexistent/program"],
                                     os.path.join(self.folder, "none.log"), 10)], 1)
        self.assertIn("status 1", ends["none"].lost)

    def test_without_its_keepers_account_a_programs_results_do_not_count(self):
        report = Report(io.StringIO())
        report.begin("group")
        context = Context(report, self.folder)
        # It has printed a pass; then the process above it is killed.
        mark = f"8{os.getpid()}"
        context.run("p", ["sh", "-c", f"echo ok a; kill -9 $PPID; sleep 1000.{mark}"], 60)
        context.run("q", ["sh", "-c", "sleep 1; echo ok b"], 60)
        context.finish()
        self.assertEqual([(r.program, r.name, r.outcome) for _, r in report.results],
                         [("p", "end", FAILED), ("q", "b", PASSED)])
        self.assertIn("signal 9", report.results[0][1].reason)
        self.assertEqual(running(f"1000.{mark}"), 0, "the program lives on")


class Besides(Case):
    """Programs that run while one of scripts/ prepares others."""

    def setUp(self):
        super().setUp()
        self.output = io.StringIO()
        self.report = Report(self.output)
        self.report.begin("first")
        self.context = Context(self.report, self.folder)

    def prepare(self, script):
        os.makedirs(os.path.join(self.folder, "scripts"), exist_ok=True)
        path = os.path.join(self.folder, "scripts", "prepare")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(f"#!/bin/sh\n{script}\n")
        os.chmod(path, 0o755)
        self.report.begin("second")
        self.context.script("prepare")

    def outcomes(self):
        return [(group, r.program, r.name, r.outcome) for group, r in self.report.results]

    def test_one_runs_and_is_reported_under_its_group(self):
        marker = os.path.join(self.folder, "ran")
        self.context.run("p", ["sh", "-c", f"echo ok a; touch {marker}"], 60)
        # Without p it ends after 20 s, and p has not run: status 1.
        with mock.patch.dict(os.environ, {"HOTSNAP_CHECK_JOBS": "2"}):
            self.prepare(f"for i in $(seq 200); do [ ! -e {marker} ] || exit 0; sleep 0.1; done; exit 1")
        self.assertEqual(self.report.group, "second")
        self.context.finish()
        self.assertEqual(self.outcomes(), [("first", "p", "a", PASSED)])

    def test_with_one_slot_none_runs(self):
        marker = os.path.join(self.folder, "ran")
        self.context.run("p", ["sh", "-c", f"echo ok a; touch {marker}"], 60)
        with mock.patch.dict(os.environ, {"HOTSNAP_CHECK_JOBS": "1"}):
            self.prepare(f"sleep 1; [ ! -e {marker} ]")
        self.context.finish()
        self.assertEqual(self.outcomes(), [("first", "p", "a", PASSED)])

    def test_a_script_outlives_a_program_whose_keeper_is_killed(self):
        self.context.run("p", ["sh", "-c", "kill -9 $PPID"], 60)
        with mock.patch.dict(os.environ, {"HOTSNAP_CHECK_JOBS": "2"}):
            self.prepare("sleep 2")
        self.assertEqual(self.outcomes(), [("first", "p", "end", FAILED)])

    def test_an_interrupt_ends_both(self):
        mark = f"6{os.getpid()}"
        self.context.run("p", ["sleep", f"1000.{mark}"], 60)
        self.context.run("q", ["true"], 60)

        def interrupt(*_):
            raise process.Interrupted(signal.SIGINT)

        before = signal.signal(signal.SIGALRM, interrupt)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        signal.alarm(2)
        with mock.patch.dict(os.environ, {"HOTSNAP_CHECK_JOBS": "2"}):
            with self.assertRaises(process.Interrupted) as raised:
                self.prepare(f"exec sleep 1001.{mark}")
        self.context.abandon(raised.exception)
        self.assertEqual(running(f"1000.{mark}") + running(f"1001.{mark}"), 0)
        self.assertEqual([(r.program, r.reason) for _, r in self.report.results],
                         [("p", "interrupted by SIGINT"), ("q", "it has not been run")])


RUN_THREE = """
import sys
from checks import process
from checks.context import Context
from checks.results import Report
report = Report()
report.begin("group")
context = Context(report, sys.argv[1])
process.install()
script = "echo ok one; setsid sleep 1000.%s & trap 'echo cleaned-up; exit 1' TERM; sleep 1000.%s & wait"
for number in (1, 2, 3):
    context.run(f"p{number}", ["sh", "-c", script.replace("%s", sys.argv[2])], 600)
try:
    context.finish()
except process.Interrupted as interrupt:
    context.abandon(interrupt)
    report.interrupt(str(interrupt))
report.write_json(sys.argv[1] + "/out.json")
print(report.summary())
"""


class Interrupts(Case):
    def begin(self):
        self.mark = f"7{os.getpid()}"
        runner = subprocess.Popen(
            [sys.executable, "-c", RUN_THREE, self.folder, self.mark], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": LIBRARY, "HOTSNAP_CHECK_JOBS": "2"})
        self.addCleanup(runner.stdout.close)
        deadline = time.monotonic() + 20
        while running(f"sleep\0001000.{self.mark}") < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(running(f"sleep\0001000.{self.mark}"), 4, "two programs do not run")
        return runner

    def nothing_is_left(self):
        deadline = time.monotonic() + 20
        while running(f"sleep\0001000.{self.mark}") and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(running(f"sleep\0001000.{self.mark}"), 0)

    def log(self, name):
        with open(os.path.join(self.folder, "build", "logs", "check", "group", f"{name}.log"),
                  encoding="utf-8") as stream:
            return stream.read()

    def test_an_interrupt_ends_both_and_counts_as_failures(self):
        runner = self.begin()
        runner.send_signal(signal.SIGINT)
        text, _ = runner.communicate(timeout=60)
        self.nothing_is_left()
        for name in ("p1", "p2"):
            self.assertIn("cleaned-up", self.log(name))
        # Two that ran, one that did not, and the run itself.
        self.assertEqual(text.splitlines()[-1], "0 passed, 4 failed, 0 skipped")
        self.assertEqual(
            [line for line in text.splitlines() if line.startswith("not ok")],
            ["not ok group/p1: end - interrupted by SIGINT",
             "not ok group/p2: end - interrupted by SIGINT",
             "not ok group/p3: end - it has not been run",
             "not ok group/check: end - interrupted by SIGINT"])
        with open(os.path.join(self.folder, "out.json"), encoding="utf-8") as stream:
            self.assertIn('"interrupted": "SIGINT"', stream.read())

    def test_one_from_the_terminal_reaches_all_of_its_processes(self):
        runner = self.begin()
        os.killpg(runner.pid, signal.SIGINT)
        text, _ = runner.communicate(timeout=60)
        self.nothing_is_left()
        self.assertEqual(text.splitlines()[-1], "0 passed, 4 failed, 0 skipped")

    def test_programs_end_with_a_runner_that_is_killed(self):
        runner = self.begin()
        runner.kill()
        runner.wait()
        self.nothing_is_left()
        self.assertIn("cleaned-up", self.log("p1"))


class Turns(Case):
    """What programs that run at once take turns with."""

    def clashes(self, lock):
        """How often one of two shells was where the other was, each having taken `lock`."""
        script = f"""
            for library in common apt-source; do source {LIBRARY}/$library.sh; done
            APT_DIR=$1
            visit() {{ mkdir "$1/busy" || echo clash; sleep 0.3; rmdir "$1/busy"; }}
            {lock} visit "$1" 2>/dev/null"""
        shells = [subprocess.Popen(["bash", "-c", script, "turns", self.folder],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                  for _ in range(2)]
        return sum(shell.communicate()[0].count("clash") for shell in shells)

    def test_package_indexes(self):
        self.assertEqual(self.clashes("apt_alone"), 0)
        self.assertGreater(self.clashes(""), 0, "the control: they never met")

    def test_a_holder_may_ask_again(self):
        self.assertEqual(self.clashes("apt_alone apt_alone"), 0)

    def test_huge_pages(self):
        setting = pathlib.Path(self.folder, "nr_hugepages")
        setting.write_text("1", encoding="utf-8")

        def second():
            with workplace.HugePages(2):
                during.append(setting.read_text(encoding="utf-8"))

        during = []
        with mock.patch.object(workplace.HugePages, "SETTING", setting):
            other = threading.Thread(target=second)
            with workplace.HugePages(4):
                other.start()
                time.sleep(0.5)
                self.assertEqual(setting.read_text(encoding="utf-8"), "5")
                self.assertEqual(during, [])
            other.join(20)
        self.assertEqual(during, ["3"])
        self.assertEqual(setting.read_text(encoding="utf-8"), "1")


if __name__ == "__main__":
    unittest.main()
