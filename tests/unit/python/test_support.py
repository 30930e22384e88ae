# SPDX-License-Identifier: GPL-2.0-or-later
"""Each VM test finds what it shares with others, and is found by scripts/check."""

import ast
import glob
import os
import tempfile
import unittest

from checks import guests
from operator_fixtures import CHECKOUT

IDIOM = 'sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")'
OWN = ("support", "hotsnap")


def fault(text):
    """What is wrong with a test's imports, or None: support comes first and finds the others."""
    lines = text.split("\n")
    own = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))
           and (getattr(node, "module", None) or node.names[0].name).split(".")[0] in OWN]
    if not own:
        return "imports nothing of support"
    if IDIOM not in lines[:own[0].lineno]:
        return "does not say where support is"
    if not (own[0].module or "").startswith("support"):
        return "imports something else before support"
    return None


class Imports(unittest.TestCase):
    def test_all(self):
        tests = [path for folder in ("vm", "kvm") for path in glob.glob(
            os.path.join(CHECKOUT, "tests", folder, "**", "*.py"), recursive=True)]
        self.assertGreater(len(tests), 20)
        for path in tests:
            with open(path, encoding="utf-8") as stream:
                self.assertIsNone(fault(stream.read()), path)

    def test_faults_are_seen(self):
        first, second = "from support.vm import Vm\n", "from hotsnap.qemu.qmp import Qmp\n"
        self.assertIsNone(fault(f"import sys\n{IDIOM}\n{first}{second}"))
        for text in ("import sys\n", f"import sys\n{first}", f"import sys\n{IDIOM}\n{second}{first}",
                     f"import sys\n{first}{IDIOM}\n"):
            self.assertIsNotNone(fault(text), text)


class Found(unittest.TestCase):
    def test_in_folders_by_subject(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, mode in (("b/10-x.py", 0o755), ("a/20-y.sh", 0o755), ("a/b/15-z.py", 0o755),
                               ("30-top.py", 0o755), ("a/40-not-executable.py", 0o644),
                               ("a/helper.py", 0o755)):
                path = os.path.join(folder, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8"):
                    os.chmod(path, mode)
            found = [os.path.relpath(path, folder) for path in guests.tests_in(folder)]
        self.assertEqual(found, ["b/10-x.py", "a/b/15-z.py", "a/20-y.sh", "30-top.py"])


if __name__ == "__main__":
    unittest.main()
