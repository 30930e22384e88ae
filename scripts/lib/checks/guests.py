# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups with real guests: the VM tests, and the place of those of the patched KVM."""

from __future__ import annotations

import glob
import os
import re

from .context import CannotRun, Context, read_text

DEFAULT_TIMEOUT = 600.0
# A test that needs more says so in its head: "# timeout: 1200" (seconds).
TIMEOUT_LINE = re.compile(r"^# timeout: (\d+)$", re.MULTILINE)


def tests_in(folder: str) -> list[str]:
    """Executable NN-name.sh, NN-name.py and name.test, in order."""
    found = glob.glob(os.path.join(folder, "*.test"))
    found += [path for path in glob.glob(os.path.join(folder, "[0-9][0-9]-*"))
              if path.endswith((".sh", ".py"))]
    return sorted(path for path in found if os.access(path, os.X_OK))


def timeout_of(text: str) -> float:
    match = TIMEOUT_LINE.search(text[:4000])
    return float(match[1]) if match else DEFAULT_TIMEOUT


def vm(context: Context) -> None:
    tests = tests_in(context.path("tests", "vm"))
    if not tests:
        raise CannotRun("there are no tests in tests/vm")
    context.packages("operator")
    context.script("build", "qemu", "stock")
    context.script("guest-image", "--generic")
    for path in tests:
        context.run(os.path.basename(path), [path], timeout_of(read_text(path)),
                    env={"HOTSNAP_BUILD": context.build, "PYTHONDONTWRITEBYTECODE": "1"},
                    cwd=context.root)


def kvm(context: Context) -> None:
    context.skip("kvm", "all", "kvm-patches is not there yet")
