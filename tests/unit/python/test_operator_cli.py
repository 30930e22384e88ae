# SPDX-License-Identifier: GPL-2.0-or-later
"""The command: exit codes, JSON, messages, and that its completion knows every option."""

import json
import os
import re
import subprocess
import tempfile
import unittest

import operator_fixtures
from hotsnap import cli
from hotsnap.commands import every_options, snapshot_options
from hotsnap.model import cluster, recoveries
from hotsnap.model.state import State
from operator_fixtures import CHECKOUT

COMMAND = os.path.join(CHECKOUT, "scripts", "hotsnap")
CLUSTER = '[cluster]\nname = "x"\ndirectory = "state"\n[[member]]\nname = "a"\n'


class Command(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        with open(os.path.join(self.folder, "cluster.toml"), "w", encoding="utf-8") as stream:
            stream.write(CLUSTER)
        self.bundles = os.path.join(self.folder, "state", "bundles")

    def run_it(self, *arguments, code=0):
        done = subprocess.run([COMMAND, *arguments], cwd=self.folder, capture_output=True,
                              text=True, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done

    def test_help_of_every_command(self):
        for command in ("", *commands()):
            done = self.run_it(*command.split(), "--help")
            self.assertIn("exit codes", done.stdout)

    def test_usage_errors(self):
        self.run_it(code=2)
        self.run_it("fly", code=2)
        self.run_it("snapshot", "t", "--bandwidth", "fast", code=2)
        self.assertIn("none.toml", self.run_it("-f", "none.toml", "ps", code=2).stderr)
        os.rename(os.path.join(self.folder, "cluster.toml"), os.path.join(self.folder, "other"))
        self.assertIn("HOTSNAP_CLUSTER", self.run_it("ps", code=2).stderr)
        self.run_it("ps", "-f", "other")
        self.run_it("-f", "other", "ps")

    def test_options_that_have_no_meaning_together(self):
        for command in (("snapshot", "t"), ("every", "60s")):
            for options, says in (
                    (("--cut", "barrier"), "--cut is for snapshots of disks: add --group"),
                    (("--hold-timeout", "1s"), "--hold-timeout is for snapshots of disks"),
                    (("--group", "g", "--hold-timeout", "1s"), "needs --cut barrier"),
                    (("--group", "g", "--cut", "causal", "--hold-timeout", "1s"),
                     "needs --cut barrier"),
                    (("--group", "g", "--cut", "barrier", "--engine", "uffd"),
                     "leave out --engine with --group"),
                    (("--group", "g", "--select", "tier=db"), "not allowed with argument"),
                    (("--select", "db"), "'db' is not LABEL=VALUE"),
                    (("--select", "tier=db"), "gives its disks no labels"),
                    (("--group", "g", "--cut", "barrier"), "there is no group 'g'")):
                self.assertIn(says, self.run_it(*command, *options, code=2).stderr)

    def test_a_series_by_label_has_a_prefix_of_its_own(self):
        file = os.path.join(self.folder, "cluster.toml")
        with open(file, "a", encoding="utf-8") as stream:
            stream.write('labels = {tier = "db", site = "a"}\n[[member.disk]]\nsize = "1M"\n')
        options = cli.build_parser().parse_args(["every", "60s", "--select", "tier=db,site=a"])
        wanted = every_options.plan(options, State(cluster.load(file)), quiet=True).wanted
        self.assertEqual((wanted.prefix, wanted.group),
                         ("every-tier-db-site-a", "tier=db,site=a"))

    def test_hold_timeout_is_in_milliseconds(self):
        for given, expected in (("500ms", 500), ("2s", 2000), ("0.2ms", 1)):
            options = cli.build_parser().parse_args(
                ["snapshot", "t", "--group", "g", "--cut", "barrier", "--hold-timeout", given])
            self.assertEqual(snapshot_options.chosen(options),
                             {"cut": "barrier", "hold-timeout": expected})

    def test_nothing_runs(self):
        self.assertEqual(json.loads(self.run_it("ps", "--json").stdout)["members"][0]["state"],
                         "down")
        self.assertIn("hotsnap up", self.run_it("snapshot", "t", code=1).stderr)
        self.assertIn("tag", self.run_it("snapshot", "a/b", code=2).stderr)
        self.assertIn("hotsnap ls", self.run_it("restore", "t", code=1).stderr)
        self.assertIn("hotsnap ls", self.run_it("rm", "t", code=1).stderr)
        self.run_it("rm", "../x", code=1)

    def test_bundles(self):
        operator_fixtures.make_bundle(self.bundles)
        os.mkdir(os.path.join(self.bundles, "t2.partial"))
        listed = json.loads(self.run_it("ls", "--json").stdout)["bundles"]
        self.assertEqual({b["tag"]: b["status"] for b in listed},
                         {"t1": "complete", "t2.partial": "incomplete"})
        self.assertEqual(json.loads(self.run_it("show", "t1", "--json").stdout)["tag"], "t1")
        self.run_it("show", "t1", "--svg", "t1.svg")
        self.assertTrue(os.path.exists(os.path.join(self.folder, "t1.svg")))
        self.run_it("verify", "t1")
        self.run_it("verify", os.path.join(self.bundles, "t1"))
        state = os.path.join(self.bundles, "t1", "b", "state")
        with open(state, "r+b") as stream:
            stream.seek(70000)
            stream.write(b"x")
        done = self.run_it("verify", "t1", code=1)
        self.assertIn(f"{state} at offset 0x10000", done.stdout)
        report = json.loads(self.run_it("verify", "t1", "--json", code=1).stdout)
        self.assertEqual((report["ok"], report["damage"][0]["offset"]), (False, 65536))
        self.run_it("rm", "t1")
        self.run_it("rm", "t2.partial")
        self.assertEqual(os.listdir(self.bundles), [])

    def test_export(self):
        operator_fixtures.make_bundle(self.bundles)
        for options, code, says in (
                ((), 2, "name the folder to write to"),
                (("--nbd", "s", "--format", "raw"), 2, "leave it out with --nbd"),
                (("--format", "raw", "out", "a:disk0"), 2, "no disk 'a:disk0': it has none"),
                (("out", "--format", "raw", "a:disk0"), 2, "no disk 'a:disk0': it has none"),
                (("--nbd", "s", "a:disk0"), 2, "no disk 'a:disk0': it has none"),
                (("out", "--formal", "x"), 2, "unrecognized arguments: --formal"),
                (("out",), 1, "is of no disk")):
            self.assertIn(says, self.run_it("export", "t1", *options, code=code).stderr)
        self.assertIn("no bundle at", self.run_it("export", "t2", "out", code=1).stderr)
        self.assertFalse(os.path.exists(os.path.join(self.folder, "out")))
        self.assertIn("unrecognized arguments: more",
                      self.run_it("ps", "--json", "more", code=2).stderr)

    def test_truncated_manifest(self):
        path = operator_fixtures.make_bundle(self.bundles)
        os.truncate(os.path.join(path, "manifest.json"), 100)
        for command in ("show", "verify", "restore"):
            message = self.run_it(command, "t1", code=1).stderr
            self.assertEqual(len(message.splitlines()), 1, message)
            self.assertIn("manifest.json is damaged", message)

    def test_restore_of_a_damaged_bundle_starts_nothing(self):
        path = operator_fixtures.make_bundle(self.bundles, names=("a",))
        for name, damage in (("state", lambda f: os.truncate(f, 70000)), ("state", self.flip),
                             ("state.sums", os.unlink),
                             ("channel.pcap", lambda f: os.truncate(f, 0) or self.append(f))):
            file = os.path.join(path, "a", name)
            with open(file, "rb") as stream:
                whole = stream.read()
            damage(file)
            message = self.run_it("restore", "--memory", "full", "t1", code=1).stderr
            self.assertEqual(len(message.splitlines()), 1, message)
            self.assertIn("damaged", message)
            self.assertIn(file, message)
            with open(file, "wb") as stream:
                stream.write(whole)
        self.assertFalse(os.listdir(os.path.join(self.folder, "state", "run")))

    @staticmethod
    def flip(file):
        with open(file, "r+b") as stream:
            stream.seek(70000)
            byte = stream.read(1)[0]
            stream.seek(70000)
            stream.write(bytes([byte ^ 1]))

    @staticmethod
    def append(file):
        with open(file, "ab") as stream:
            stream.write(b"x")

    def test_restore_of_another_cluster_or_machine(self):
        operator_fixtures.make_bundle(self.bundles, "t3")
        self.assertIn("is of a, b, c", self.run_it("restore", "t3", code=1).stderr)
        operator_fixtures.make_bundle(self.bundles, "t4", names=("a",))
        message = self.run_it("restore", "t4", code=2).stderr
        self.assertIn("no longer described", message)
        self.assertIn("-smp 1", message)

    def test_recoveries(self):
        for arguments, says in (
                (("restore", "t", "--as", "r", "--replace"), "--replace does not go with --as"),
                (("restore", "t", "--as", "a/b"), "cannot be the name of a recovery"),
                (("ps", "--as", "r"), "there is no recovery 'r': there is none; 'hotsnap restore"),
                (("--as", "r", "down"), "there is no recovery 'r'"),
                (("recovery", "ls", "x"), "takes no name"),
                (("recovery", "rm"), "needs the name")):
            with self.subTest(arguments):
                self.assertIn(says, self.run_it(*arguments, code=2).stderr)
        self.assertIn("no bundle at", self.run_it("restore", "t", "--as", "r", code=1).stderr)
        for name in ("r", ".."):
            self.assertIn("'hotsnap recovery ls' lists them",
                          self.run_it("recovery", "rm", name, code=1).stderr)
        self.assertEqual(json.loads(self.run_it("recovery", "ls", "--json").stdout),
                         {"recoveries": []})
        self.assertFalse(os.path.exists(os.path.join(self.folder, "state", "recoveries")))

    def test_a_recovery_that_is_not_complete_is_only_removed(self):
        path = recoveries.folder(os.path.join(self.folder, "state"), "r")
        os.makedirs(path)
        with open(os.path.join(path, "cluster.toml"), "w", encoding="utf-8") as stream:
            stream.write('[cluster]\nname = "r"\ndirectory = "."\n[[member]]\nname = "a"\n')
        recoveries.write(path, recoveries.Recovery(1, "t1", ["a"], []))
        for arguments in (("up", "--as", "r"), ("-f", os.path.join(path, "cluster.toml"), "down")):
            self.assertIn("'r' was not completed", self.run_it(*arguments, code=1).stderr)
        row, = json.loads(self.run_it("recovery", "ls", "--json").stdout)["recoveries"]
        self.assertEqual((row["name"], row["tag"], row["status"]), ("r", "t1", "incomplete"))
        self.assertIn("removed r", self.run_it("recovery", "rm", "r").stdout)
        self.assertFalse(os.path.exists(path))

    def test_completion_knows_every_option(self):
        script = os.path.join(CHECKOUT, "scripts", "python", "completion", "hotsnap.bash")
        for command in commands():
            with self.subTest(command):
                done = subprocess.run(
                    ["bash", "-c", 'source "$1"; COMP_WORDS=(hotsnap "$2" -); COMP_CWORD=2; '
                     '_hotsnap; printf "%s\\n" "${COMPREPLY[@]}"', "bash", script, command],
                    capture_output=True, text=True, check=True, cwd=self.folder)
                usage = self.run_it(command, "--help").stdout
                self.assertEqual(set(done.stdout.split()),
                                 set(re.findall(r"(?<![\w-])--[a-z-]+", usage)))


def commands():
    parser = cli.build_parser()
    return list(parser._subparsers._group_actions[0].choices)  # pylint: disable=protected-access


if __name__ == "__main__":
    unittest.main()
