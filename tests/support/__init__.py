# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the tests: guests under QEMU, clusters of them, checkers, and the lines a test prints.

Any test below tests/ finds this package, and then the packages of scripts/python, by:

    sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
    from support.cluster import Cluster
    from hotsnap.qemu.qmp import QmpError

A test is a program that prints `ok NAME`, `not ok NAME - reason` or `skip NAME - reason` for each
of its checks, and exits. All its files and networks lie in a temporary directory and a network
namespace of its own. When the test ends, even by a signal, both are removed and all QEMUs are
ended.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "scripts" / "python"))
