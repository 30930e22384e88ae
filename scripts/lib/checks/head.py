# SPDX-License-Identifier: GPL-2.0-or-later
"""The head of a test program, the lines before its code, in which it describes itself:

    # timeout: 1200         the seconds it may take; 600 without that line
    # tier: all             it is left to `scripts/check --all`
    # alone: REASON         nothing else runs beside it
    # waits: REASON         it hardly uses a processor: two of them run in the place of one
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD = 4000  # characters
LINE = re.compile(r"^# (timeout|tier|alone|waits): *(.*?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Head:
    timeout: float = 600.0
    tier: str = "default"
    alone: bool = False
    waits: bool = False


def read_head(text: str) -> Head:
    """Raises ValueError where the head is wrong."""
    said = dict(LINE.findall(text[:HEAD]))
    timeout = said.get("timeout", "600")
    if not timeout.isdigit():
        raise ValueError(f"'# timeout: {timeout}' is no number of seconds")
    if said.get("tier", "all") != "all":
        raise ValueError(f"'# tier: {said['tier']}': the only tier to name is 'all'")
    for word in ("alone", "waits"):
        if said.get(word) == "":
            raise ValueError(f"'# {word}:' gives no reason")
    return Head(float(timeout), said.get("tier", "default"), "alone" in said, "waits" in said)
