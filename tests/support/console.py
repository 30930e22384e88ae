# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the serial consoles of the test guests as they grow (tests/guest/README.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_COUNTERS = re.compile(r"(chatter|cache|pg|disktag|writer) (\S+)((?: \w+=\S+)+)")
_READY = re.compile(r"hotsnap-guest: ready (\S+)")
_FAIL = re.compile(r"hotsnap-guest: fail (\S+) (.*)")

Counters = dict[str, int]


@dataclass
class Console:
    """The lines of one member from `offset` on. `latest` maps ("chatter", peer) or (kind, "") to
    the counters printed last, `lines` maps them to the number of lines of that kind."""

    path: str
    offset: int = 0
    ready: bool = False
    failures: list[str] = field(default_factory=list)
    latest: dict[tuple[str, str], Counters] = field(default_factory=dict)
    lines: dict[tuple[str, str], int] = field(default_factory=dict)
    first: dict[tuple[str, str], Counters] = field(default_factory=dict)

    def read(self) -> None:
        """Take in the whole lines that were written since the last call."""
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self.offset)
                data = stream.read()
        except FileNotFoundError:
            return
        end = data.rfind(b"\n") + 1
        self.offset += end
        for line in data[:end].decode(errors="replace").splitlines():
            self._take(line.strip())

    def _take(self, line: str) -> None:
        if _READY.fullmatch(line):
            self.ready = True
        elif match := _FAIL.fullmatch(line):
            self.failures.append(match[2])
        elif match := _COUNTERS.fullmatch(line):
            values = dict(part.split("=", 1) for part in match[3].split())
            key = (match[1], values.pop("peer", ""))
            try:
                counters = {name: int(value) for name, value in values.items()}
            except ValueError:
                return  # a line that was cut off when its VM was killed
            self.first.setdefault(key, counters)
            self.latest[key] = counters
            self.lines[key] = self.lines.get(key, 0) + 1

    def separate(self, text: str) -> None:
        """Mark a place in the log while nothing writes to it, and read only the lines after it."""
        with open(self.path, "ab") as stream:
            stream.write(f"\n--- {text} ---\n".encode())
            self.offset = stream.tell()
        self.ready = False
        for kept in (self.latest, self.lines, self.first, self.failures):
            kept.clear()
