# SPDX-License-Identifier: GPL-2.0-or-later
"""On which line of a TOML file a key stands; tomllib does not say.

Knows tables, arrays of tables and plain `key = value` lines. A key inside an inline table or a
dotted key is reported at the line of what holds it, which is close enough for an error message.
"""

from __future__ import annotations

import re

_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.\- ]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*[.=]")

Path = tuple[str | int, ...]


class Positions:
    def __init__(self, text: str):
        self._lines: dict[Path, int] = {}
        counts: dict[Path, int] = {}
        table: Path = ()
        inside: str | None = None  # the quotes that end the multi-line string we are in
        for number, line in enumerate(text.splitlines(), 1):
            if inside:
                if inside in line:
                    inside = None
                continue
            header, key = _HEADER.match(line), _KEY.match(line)
            if header:
                table = self._table(header[2].split("."), header[1] == "[[", counts)
                self._lines.setdefault(table, number)
            elif key:
                self._lines.setdefault((*table, key[1]), number)
            for quotes in ('"""', "'''"):
                if line.count(quotes) % 2:
                    inside = quotes

    @staticmethod
    def _table(parts: list[str], array: bool, counts: dict[Path, int]) -> Path:
        """The path of a table header, with the index of each array of tables on the way."""
        path: Path = ()
        for position, part in enumerate(p.strip() for p in parts):
            path = (*path, part)
            if array and position == len(parts) - 1:
                counts[path] = counts.get(path, -1) + 1
            if path in counts:
                path = (*path, counts[path])
        return path

    def line(self, path: Path) -> int | None:
        """The line of `path`, or of the nearest thing that holds it."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None
