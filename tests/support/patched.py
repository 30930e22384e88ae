# SPDX-License-Identifier: GPL-2.0-or-later
"""The modules of the patched KVM, for its tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .level1.machine import kernel_of
from .paths import ROOT

SUITE = "bookworm-backports"  # its kernel is Linux 6.12


def modules() -> Path:
    """The folder with kvm.ko and kvm-amd.ko for the level-1 machine's kernel, built if need be."""
    release = next((kernel_of(SUITE) / "root" / "lib" / "modules").iterdir()).name
    made = subprocess.run([str(ROOT / "scripts" / "build-kvm"), "--kernel", release],
                          stdout=subprocess.PIPE, text=True, check=True)
    return Path(made.stdout.strip().splitlines()[-1])
