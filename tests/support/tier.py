# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps that a test leaves to `scripts/check --all`; the runner sets the tier in HOTSNAP_TIER. A
test started by hand leaves nothing out."""

from __future__ import annotations

import os


def left_to_all(what: str) -> bool:
    """Whether this run leaves `what` out; prints a line that the runner lists at the end."""
    if os.environ.get("HOTSNAP_TIER", "all") == "all":
        return False
    print(f"# left to --all: {what}", flush=True)
    return True


def steps(first: int, end: int) -> range:
    """The steps, from 1 to before `end`, at which a test injects a failure. In the default tier,
    every other one from `first` on, so that two tests with different `first` take all steps."""
    return range(first, end, 2) if left_to_all("every other step") else range(1, end)
