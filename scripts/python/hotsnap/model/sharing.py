# SPDX-License-Identifier: GPL-2.0-or-later
"""What `args` of a member take of the host, where a second machine with the same arguments would
get in the way of the first.

A member runs in its cluster's network namespace, so that ports, taps and abstract sockets of two
clusters never meet. Files do: a socket that QEMU listens on, and a file that it writes, get another
name; what can have no other name is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from ..errors import HotsnapError

Rename = Callable[[str], str]

_CHARACTERS = {"serial", "parallel", "monitor", "qmp", "qmp-pretty", "debugcon", "gdb"}
_DEVICES = {"serial", "tty", "parallel", "parport", "pipe"}  # kinds of -chardev
_NETWORKS = {"netdev", "nic", "net"}
_FILE_KEYS = {"trace": "file", "audiodev": "path", "tpmdev": "path"}


class Shared(HotsnapError):
    """Two machines with these arguments would get in each other's way."""


def separated(member: str, args: Sequence[str], folder: str
              ) -> tuple[tuple[str, ...], dict[str, str]]:
    """The arguments for a second machine, and the files that have another name in them, now in
    `folder`. Shared if that cannot be done."""
    moved: dict[str, str] = {}

    def rename(path: str) -> str:
        if path not in moved:
            # '+' is in no member's name, so this is no other file of the folder.
            new = os.path.join(folder, f"{member}+{os.path.basename(path)}")
            number = 2
            while new in moved.values():
                new = os.path.join(folder, f"{member}+{number}-{os.path.basename(path)}")
                number += 1
            moved[path] = new
        return moved[path]

    found = list(args)
    for number, argument in enumerate(args[:-1]):
        if argument.startswith("-"):
            try:
                found[number + 1] = _value(argument.lstrip("-"), args[number + 1], rename)
            except Shared as error:
                raise Shared(f"member {member}: {argument} {args[number + 1]} in 'args' {error}, so "
                             "that no second machine can have it while the first one may run: take "
                             "it out of the cluster file, or run 'hotsnap down' and 'hotsnap "
                             "restore' without --as") from error
    return tuple(found), moved


def _refuse(what: str) -> NoReturn:
    raise Shared(what)


def _value(option: str, value: str, rename: Rename) -> str:
    if option == "chardev":
        return _chardev(value, rename)
    if option in _CHARACTERS:
        return _character(option, value, rename)
    if option == "vnc" and value.startswith("unix:"):
        return _legacy_path(value, rename)
    if option == "D":
        return rename(value)
    keys = _keys(value)
    if option == "spice" and (keys.get("unix", "off") != "off" or "/" in keys.get("addr", "")):
        _refuse("listens on a socket in a file")
    if option in _NETWORKS and (any(key.rpartition(".")[2] in ("path", "sock", "fd", "fds", "vhostdev")
                                    for key in keys) or "unix:" in value):
        _refuse("is a connection to one other program")
    if _FILE_KEYS.get(option) in keys:
        _refuse("is a file or device of the host")
    if option in ("fsdev", "virtfs") and not _on(keys.get("readonly")):
        _refuse("is a folder that the guest writes to")
    if option == "mem-path" and not os.path.isdir(value):
        _refuse("is a file that the guest's memory is in")
    if option == "object":
        kind = keys.get("qom-type") or next(iter(keys), "")
        if kind == "memory-backend-file" and _on(keys.get("share")) \
                and not _on(keys.get("readonly")) and not os.path.isdir(keys.get("mem-path", "")):
            _refuse("is a file that the guest's memory is in")
        if kind == "filter-dump":
            _refuse("is a file that QEMU writes")
    return value


def _chardev(value: str, rename: Rename) -> str:
    fields = _split(value)
    kind = fields[0].removeprefix("backend=")
    keys = _keys(value)
    if kind in _DEVICES:
        _refuse("is a device or a pipe of the host")
    if kind == "socket" and "path" in keys and _on(keys.get("abstract")):
        return value  # of the network namespace
    if kind == "socket" and "path" in keys and not _on(keys.get("server")):
        _refuse("is a connection to one other program")
    written = {"path", "logfile"} if kind in ("socket", "file") else {"logfile"}
    return ",".join(_renamed(field, written, rename) for field in fields)


def _renamed(field: str, keys: set[str], rename: Rename) -> str:
    key, equals, path = field.partition("=")
    if not equals or key not in keys:
        return field
    return f"{key}={rename(path.replace(',,', ',')).replace(',', ',,')}"


def _character(option: str, value: str, rename: Rename) -> str:
    mixed, value = ("mon:" if value.startswith("mon:") else ""), value.removeprefix("mon:")
    if value.startswith(("/dev/", "pipe:")):
        _refuse("is a device or a pipe of the host")
    if value.startswith("unix:") and not _on(_keys(value).get("server")):
        _refuse("is a connection to one other program")
    if value.startswith(("unix:", "file:")):
        if option in ("parallel", "debugcon"):
            _refuse("is a file of the host")  # a restore takes it for the guest's hardware
        value = _legacy_path(value, rename)
    return mixed + value


def _legacy_path(value: str, rename: Rename) -> str:
    """unix:PATH or file:PATH, with options behind."""
    first, *others = _split(value)
    kind, _, path = first.partition(":")
    new = rename(path.replace(",,", ",")).replace(",", ",,")
    return ",".join([f"{kind}:{new}", *others])


def _split(value: str) -> list[str]:
    """The fields of a QEMU option string; a comma that is written twice is part of a field."""
    return [field.replace("\0", ",,") for field in value.replace(",,", "\0").split(",")]


def _keys(value: str) -> dict[str, str]:
    """The keys of an option string, or of its JSON form; a key alone is switched on."""
    if value.startswith("{"):
        try:
            return _flat(json.loads(value))
        except ValueError:
            return {}  # QEMU will refuse it
    return {key: text if equals else "on" for key, equals, text in
            (field.partition("=") for field in _split(value))}


def _flat(value: object, above: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {above: ("on" if value else "off") if isinstance(value, bool) else str(value)}
    found: dict[str, str] = {}
    for key, inner in value.items():
        found.update(_flat(inner, f"{above}.{key}" if above else key))
    return found


def _on(value: str | None) -> bool:
    return value in ("on", "yes", "true", "y")
