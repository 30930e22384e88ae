# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups with real guests: the VM tests, and those of the patched KVM."""

from __future__ import annotations

import glob
import os

from .context import ALL, CannotRun, Context, read_text
from .head import read_head


def tests_in(folder: str) -> list[str]:
    """Executable NN-name.sh, NN-name.py and name.test in a folder and those below it, in the order
    of their names; the folders do not count."""
    found = glob.glob(os.path.join(folder, "**", "*.test"), recursive=True)
    found += [path for path in glob.glob(os.path.join(folder, "**", "[0-9][0-9]-*"), recursive=True)
              if path.endswith((".sh", ".py"))]
    return sorted((path for path in found if os.access(path, os.X_OK)),
                  key=lambda path: (os.path.basename(path), path))


def vm(context: Context) -> None:
    context.packages("operator", "certificates")
    context.script("build", "qemu", "stock")
    context.script("guest-image", "--generic")
    run_folder(context, "vm")


def kvm(context: Context) -> None:
    context.packages("operator", "kvm", "dkms", "bochs")
    context.script("build", "qemu", "trap-test")
    context.script("guest-image", "--generic")
    context.script("build-kvm")  # once, and not by the first two tests at the same time
    context.run("series-on-newest", [context.path("scripts", "build-kvm"), "--newest"],
                600, read=None)
    run_folder(context, "kvm")


def run_folder(context: Context, name: str) -> None:
    folder = context.path("tests", name)
    tests = tests_in(folder)
    if not tests:
        raise CannotRun(f"there are no tests in tests/{name}")
    for path in tests:
        program = os.path.relpath(path, folder)
        head = read_head(read_text(path))
        if head.tier == ALL != context.tier:
            context.leave(program)
            continue
        context.run(program, [path], head.timeout, alone=head.alone, waits=head.waits,
                    env={"HOTSNAP_BUILD": context.build, "PYTHONDONTWRITEBYTECODE": "1"},
                    cwd=context.root)
