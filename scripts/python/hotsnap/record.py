# SPDX-License-Identifier: GPL-2.0-or-later
"""Typed records of what JSON files hold: the one place where such files are checked.

A record is a dataclass that derives from Record. A field without a default must be in the file.
Keys that the class does not name are kept, and written back in their places, so that a file of a
newer program survives a change by this one.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, Self

from .errors import HotsnapError


class Malformed(HotsnapError):
    """JSON of another form than the record's; the text says where, and what is wrong."""


class Record:
    """Base class of records; the fields are those of the dataclass."""

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Checks `value`, which came from a JSON file; `where` begins the message of an error."""
        if not isinstance(value, dict):
            raise Malformed(f"{where} must be an object")
        found = {}
        for field, hint in _fields(cls):
            if field.name in value:
                found[field.name] = _parse(hint, value[field.name], f"{where}: {field.name}")
            elif _required(field):
                raise Malformed(f"{where}: {field.name!r} is missing")
        record = cls(**found)
        record.__dict__["_json"] = value
        return record

    def dump(self) -> dict[str, Any]:
        """The JSON object; a field that has its default and was not in the file is left out."""
        result = dict(self.__dict__.get("_json", {}))
        for field, _ in _fields(type(self)):
            value = getattr(self, field.name)
            if field.name in result or _required(field) or value != _default(field):
                result[field.name] = dump(value)
        return result


def dump(value: Any) -> Any:
    """A value with records in it as plain JSON."""
    if isinstance(value, Record):
        return value.dump()
    if isinstance(value, dict):
        return {key: dump(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(inner) for inner in value]
    return value


@functools.cache
def _fields(cls: type) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    hints = typing.get_type_hints(cls)
    return tuple((field, hints[field.name]) for field in dataclasses.fields(cls))


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _parse(hint: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return None
        hint, = (each for each in inner if each is not type(None))
        return _parse(hint, value, where)
    if origin is list:
        if not isinstance(value, list):
            raise Malformed(f"{where} must be an array")
        return [_parse(inner[0], each, f"{where}[{number}]") for number, each in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise Malformed(f"{where} must be an object")
        return {key: _parse(inner[1], each, f"{where}: {key}") for key, each in value.items()}
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.parse(value, where)
    allowed = (int, float) if hint is float else hint
    # bool is an int to Python, but not in JSON.
    if not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool):
        raise Malformed(f"{where} has the wrong type")
    return value
