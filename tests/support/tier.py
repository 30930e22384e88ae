# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test leaves to `scripts/check --all`, which the runner tells in HOTSNAP_TIER. A test that is
started by hand leaves nothing out."""

from __future__ import annotations

import os


def left_to_all(what: str) -> bool:
    """Whether this run leaves `what` out; the line is for the runner, which lists it at the end."""
    if os.environ.get("HOTSNAP_TIER", "all") == "all":
        return False
    print(f"# left to --all: {what}", flush=True)
    return True


def steps(first: int, end: int) -> range:
    """The steps 1 to `end` at which a test lets something fail; in the default tier every other one
    from `first` on, so that two tests with different `first` take them all."""
    return range(first, end, 2) if left_to_all("every other step") else range(1, end)
