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


def steps(first: int, end: int, one_in: int = 2) -> range:
    """The steps, from 1 to before `end`, at which a test injects a failure. In the default tier,
    one in so many from `first` on, so that tests with different `first` take different steps."""
    left = "every other step" if one_in == 2 else f"all but one in {one_in} steps"
    return range(first, end, one_in) if left_to_all(left) else range(1, end)
