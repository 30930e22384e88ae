# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the unittest cases of the files named on the command line and prints them as TAP.

The cases find the packages of scripts/python, and tests/support.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import unittest
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))


class Tap(unittest.TestResult):
    """One TAP line a case; the traceback of a failure goes before it, as a comment."""

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.started = time.monotonic()

    def line(self, mark: str, test: unittest.TestCase, reason: str = "") -> None:
        name = ".".join(test.id().split(".")[-2:])
        tail = f" - {reason}" if reason else f" # {time.monotonic() - self.started:.2f} s"
        print(f"{mark} {name}{tail}", flush=True)

    def bad(self, test: unittest.TestCase, error: Any) -> None:
        text = self._exc_info_to_string(error, test)  # type: ignore[attr-defined]
        for row in text.splitlines():
            print(f"# {row}")
        self.line("not ok", test, text.strip().splitlines()[-1])

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.line("ok", test)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.bad(test, err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.bad(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.bad(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.line("skip", test, reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self.line("ok", test)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self.line("not ok", test, "expected to fail, and passed")


def load(path: str) -> unittest.TestSuite:
    sys.path.insert(0, os.path.dirname(path))
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return unittest.defaultTestLoader.loadTestsFromModule(module)


def main() -> int:
    sys.path[:0] = [os.path.join(ROOT, "scripts", "python"), os.path.join(ROOT, "tests")]
    result = Tap()
    for path in sys.argv[1:]:
        load(os.path.abspath(path)).run(result)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
