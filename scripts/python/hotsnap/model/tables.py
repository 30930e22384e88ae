# SPDX-License-Identifier: GPL-2.0-or-later
"""TOML tables that are being checked: every error names the file, the line and the key."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any, NoReturn

from ..errors import UsageError
from .tomlpos import Positions
from .units import parse_size

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


class Table:
    """One TOML table that is being checked: keys are taken out of it, and `done` complains of any
    that is left."""

    def __init__(self, source: Source, path: tuple[str | int, ...], values: Any):
        self.source, self.path = source, path
        if not isinstance(values, dict):
            source.fail(path, f"must be a table, not {_kind(values)}")
        self.left = dict(values)

    def fail(self, key: str, text: str) -> NoReturn:
        self.source.fail((*self.path, key), text)

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None,
             required: bool = False) -> Any:
        if key not in self.left:
            if required:
                self.source.fail(self.path, f"key {key!r} is missing")
            return default
        value = self.left.pop(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        # bool is an int to Python, but not to a reader of the file
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(_KINDS[k] for k in kinds)
            self.fail(key, f"must be {wanted}, not {_kind(value)}")
        return value

    def name(self, key: str) -> str:
        value = self.take(key, str, required=True)
        if not NAME.fullmatch(value):
            self.fail(key, f"{value!r} is not a name: use 1 to 32 letters, digits, '.', '_' or "
                           "'-', the first a letter or digit")
        return value

    def labels(self) -> dict[str, str]:
        """The table of labels, if there is one."""
        value = self.take("labels", dict, {})
        for label, text in value.items():
            if not (NAME.fullmatch(label) and isinstance(text, str) and NAME.fullmatch(text)):
                self.fail("labels", f"{label} = {text!r} is not a label: names and values are 1 to "
                                    "32 letters, digits, '.', '_' or '-', the first a letter or "
                                    "digit")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.take(key, str, default)
        if value not in choices:
            self.fail(key, f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    def size(self, key: str, default: int | None) -> int | None:
        value = self.take(key, (str, int), None)
        if value is None:
            return default
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(key, str(error))

    def file(self, key: str, required: bool = False) -> str | None:
        value = self.take(key, str, required=required)
        if value is None:
            return None
        path = os.path.normpath(os.path.join(self.source.folder, value))
        if not os.path.exists(path):
            self.fail(key, f"{path} does not exist")
        return path

    def tables(self, key: str) -> list[Table]:
        values = self.take(key, list, [])
        return [Table(self.source, (*self.path, key, i), v) for i, v in enumerate(values)]

    def done(self) -> None:
        for key in self.left:
            self.fail(key, "is not a key that this table has; see docs/user-guide.md")


_KINDS = {str: "a string", int: "a whole number", bool: "true or false", list: "an array",
          dict: "a table"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


class Source:
    def __init__(self, path: str):
        self.path = os.path.abspath(path)
        self.folder = os.path.dirname(self.path)
        try:
            with open(self.path, "rb") as stream:
                raw = stream.read()
        except OSError as error:
            raise UsageError(f"cannot read the cluster file {path}: {error.strerror}") from error
        try:
            text = raw.decode()
            self.values = tomllib.loads(text)
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path}: not valid TOML: {error}") from error
        self.positions = Positions(text)

    def place(self, path: tuple[str | int, ...]) -> str:
        """File, line and key, as an error begins."""
        line = self.positions.line(path)
        where = f"{self.path}:{line}" if line else self.path
        return f"{where}: {_dotted(path)}"

    def fail(self, path: tuple[str | int, ...], text: str) -> NoReturn:
        raise UsageError(f"{self.place(path)}: {text}")


def _dotted(path: tuple[str | int, ...]) -> str:
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else part)
    return out or "the file"
