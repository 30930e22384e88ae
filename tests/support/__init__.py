# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests share: guests under QEMU, clusters of them, checkers, and the lines a test prints.

A test finds it wherever the test lies below tests/, and then the packages of scripts/python:

    sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
    from support.cluster import Cluster
    from hotsnap.qemu.qmp import QmpError

A test is a program that prints `ok NAME`, `not ok NAME - reason` or `skip NAME - reason` for each
thing it checks, and exits. Everything it makes lies in a temporary directory and a network
namespace of its own; both are removed, and all QEMUs are ended, when the test ends, also when a
signal ends it.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "scripts" / "python"))
