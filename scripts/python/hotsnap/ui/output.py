# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands print: tables and JSON on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2), flush=True)


def human_size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def human_seconds(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.0f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: str = "") -> str:
    """Columns aligned; `right` names the headers of the columns that hold numbers."""
    cells = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numbers = set(right.split())
    lines = []
    for row in cells:
        line = "  ".join(cell.rjust(width) if name in numbers else cell.ljust(width)
                         for cell, width, name in zip(row, widths, header))
        lines.append(line.rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """Words of a stranger, with nothing in them that a terminal would carry out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def say(text: str) -> None:
    """Prints a remark, which is not part of the result."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal; elsewhere a line now and then, so that a log shows that the command
    works."""

    QUIET_INTERVAL = 5.0

    def __init__(self, label: str, quiet: bool = False):
        self.label, self.quiet = label, quiet
        self.terminal = sys.stderr.isatty()
        self.began = self.shown = time.monotonic()
        self.open = False

    def update(self, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        if self.quiet or now - self.shown < (0.1 if self.terminal else self.QUIET_INTERVAL):
            return
        self.shown = now
        part = min(1.0, done / total) if total else 0.0
        if not self.terminal:
            say(f"{self.label}: {part:4.0%} after {human_seconds(now - self.began)} {note}".rstrip())
            return
        width = 30
        filled = int(part * width)
        line = f"{self.label} [{'#' * filled}{'.' * (width - filled)}] {part:4.0%} {note}"
        sys.stderr.write("\r\x1b[K" + line[:shutil.get_terminal_size().columns - 1])
        sys.stderr.flush()
        self.open = True

    def adder(self, total: float) -> Callable[[int], None]:
        """For work that tells, again and again, how many more bytes are done."""
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            self.update(done, total, human_size(min(done, total)))

        return add

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        self.clear()
        if not self.quiet:
            say(text)

    def clear(self) -> None:
        if self.open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self.open = False
