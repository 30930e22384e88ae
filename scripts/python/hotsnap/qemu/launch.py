# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place that starts a QEMU: members, probes, and the tests' machines."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from ..host import process
from ..host.netns import Network


def start(argv: Sequence[str], log: str, network: Network | None = None,
          umask: int = 0o077) -> subprocess.Popen[bytes]:
    """Starts a QEMU in a network's namespace, or in this process's own; what it says goes to `log`.
    A QEMU that is to outlive this process needs host.process.detach as well."""
    return process.start(network.inside(argv) if network else argv, log, umask)
