# SPDX-License-Identifier: GPL-2.0-or-later
"""Bundles: reading and checking manifest.json (docs/formats/bundle.md)."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..host.atomic import sync_folder, write_json
from ..errors import HotsnapError, UsageError

FORMAT = "hotsnap-bundle"
VERSION = 1
PARTIAL = ".partial"
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# What a reader relies on. A list holds the form of its elements; a tuple, the types allowed.
_NUMBER = (int, float)
_NUMBER_OR_NULL = (int, float, type(None))
_FORM: dict[str, Any] = {
    "tag": str, "epoch": int, "initiator": str, "created": str,
    "members": [{
        "name": str, "qemu": str, "machine": str, "argv": [str],
        "nics": [{"nic": str, "mac": str}],
        "memory": {"file": str, "sums": str, "sums_xxh3": str, "size": int, "pages": {
            "total": int, "zero": int, "background": int, "guest_write": int, "dma_write": int,
            "kvm_write": int, "neighbors": int}},
        "disks": [{"device": str, "file": str, "format": str, "overlay": str, "sums": str,
                   "sums_xxh3": str}],
        "channel": {"file": str, "vnet": str, "frames": int, "lost": int, "pcap_xxh3": str,
                    "vnet_xxh3": str},
        "pause": {"begin_ns": int, "end_ns": int, "steps": [{"name": str, "us": _NUMBER}]},
    }],
    # null: members were on different hosts, whose clocks cannot be compared
    "cut": {"backoff_max_us": _NUMBER_OR_NULL, "pairs": [{"a": str, "b": str, "us": _NUMBER}]},
}


class BundleError(HotsnapError):
    """A bundle that is missing, incomplete or altered; the text names the file."""


def check_tag(tag: str) -> None:
    if not TAG.fullmatch(tag) or tag.endswith(PARTIAL):
        raise UsageError(f"{tag!r} cannot be a tag: use 1 to 64 letters, digits, '.', '_' or '-', "
                         f"the first a letter or digit, and not {PARTIAL} at the end")


def _conform(value: Any, form: Any, where: str) -> None:
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise BundleError(f"{where} must be an object")
        for key, inner in form.items():
            if key not in value:
                raise BundleError(f"{where}: {key!r} is missing")
            _conform(value[key], inner, f"{where}: {key}")
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise BundleError(f"{where} must be an array")
        for index, element in enumerate(value):
            _conform(element, form[0], f"{where}[{index}]")
    elif not isinstance(value, form) or isinstance(value, bool):
        raise BundleError(f"{where} has the wrong type")


@dataclass
class Bundle:
    """A complete bundle; `manifest` is as in the file, checked for what readers rely on."""

    path: str
    manifest: dict[str, Any]

    @property
    def tag(self) -> str:
        return self.manifest["tag"]

    @property
    def members(self) -> list[dict[str, Any]]:
        return self.manifest["members"]

    def file(self, relative: str) -> str:
        return os.path.join(self.path, relative)

    def layers(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each (member, disk)."""
        for member in self.members:
            for disk in member["disks"]:
                yield member, disk

    def downtime_max_ms(self) -> float:
        return max((pause_ms(member) for member in self.members), default=0.0)

    def backoff_max_ms(self) -> float | None:
        """None when the members' clocks could not be compared."""
        longest = self.manifest["cut"]["backoff_max_us"]
        return None if longest is None else longest / 1000

    def frames(self) -> int:
        return sum(member["channel"]["frames"] for member in self.members)

    def lost(self) -> int:
        return sum(member["channel"]["lost"] for member in self.members)

    def disk_bytes(self) -> int:
        """Space that the folder takes; the disk layers are elsewhere."""
        return sum(os.lstat(os.path.join(folder, name)).st_blocks * 512
                   for folder, _, names in os.walk(self.path) for name in names)

    def save_manifest(self) -> None:
        write_json(self.file("manifest.json"), self.manifest)


def pause_ms(member: dict[str, Any]) -> float:
    return (member["pause"]["end_ns"] - member["pause"]["begin_ns"]) / 1e6


def read(path: str) -> Bundle:
    """Read a bundle's manifest and check its form; BundleError says what is wrong with it."""
    manifest_file = os.path.join(path, "manifest.json")
    if not os.path.isdir(path):
        raise BundleError(f"no bundle at {path}: 'hotsnap ls' lists those there are")
    try:
        with open(manifest_file, encoding="utf-8") as stream:
            manifest = json.load(stream)
    except FileNotFoundError as error:
        raise BundleError(f"{manifest_file} is missing: {path} is not a complete bundle") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{manifest_file} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{manifest_file} is damaged: it does not say \"format\": \"{FORMAT}\"")
    version = manifest.get("version")
    if version != VERSION:
        raise BundleError(f"{manifest_file} has version {version}; this program reads version "
                          f"{VERSION}: use the one that wrote it")
    _conform(manifest, _FORM, manifest_file)
    return Bundle(os.path.abspath(path), manifest)


def folders(directory: str) -> list[str]:
    """Names of all folders in a bundle directory, complete or not, oldest first."""
    if not os.path.isdir(directory):
        return []
    entries = [entry for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    return [entry.name for entry in sorted(entries, key=lambda e: (e.stat().st_mtime_ns, e.name))]


def survey(directory: str) -> tuple[list[Bundle], list[BundleError]]:
    """All bundles that are not leftovers: those that can be read, and what is wrong with others."""
    whole, damage = [], []
    for name in folders(directory):
        if not name.endswith(PARTIAL):
            try:
                whole.append(read(os.path.join(directory, name)))
            except BundleError as error:
                damage.append(error)
    return whole, damage


def complete(directory: str) -> list[Bundle]:
    """All bundles that are not leftovers; BundleError if one of them is damaged, since nobody
    may then say which disk layers are needed."""
    whole, damage = survey(directory)
    if damage:
        raise damage[0]
    return whole


def remove(path: str) -> None:
    """Remove a bundle's folder so that a crash leaves an incomplete one, never a bundle with
    parts missing under its own name."""
    if not path.endswith(PARTIAL):
        doomed = path + PARTIAL
        if os.path.exists(doomed):
            shutil.rmtree(doomed)
        os.rename(path, doomed)
        sync_folder(os.path.dirname(path))
        path = doomed
    shutil.rmtree(path)
    sync_folder(os.path.dirname(path))
