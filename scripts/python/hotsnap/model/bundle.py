# SPDX-License-Identifier: GPL-2.0-or-later
"""Bundles: reading and checking manifest.json (docs/formats/bundle.md)."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from ..errors import HotsnapError, UsageError
from ..host.atomic import sync_folder, write_json
from ..host.space import allocated_below
from ..record import Malformed, Record
from . import notes

FORMAT = "hotsnap-bundle"
CONTENTS = {1: "all", 2: "disks"}  # by version
CUTS = ("snapshot", "switch")  # the phases in which the members cut
PARTIAL = ".partial"
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class BundleError(HotsnapError):
    """A bundle that is missing, incomplete or altered; the text names the file."""


# --- the manifest --------------------------------------------------------------------------------
#
# The records name the keys that this package reads; the file has more.

@dataclass
class Pages(Record):
    """Pages of 4 KiB: in all, those that are zero, and by the manner in which they were saved."""

    total: int
    zero: int
    background: int
    guest_write: int
    dma_write: int
    kvm_write: int
    neighbors: int
    precopy: int = 0  # before the cut; older bundles lack it

    @property
    def by_writes(self) -> int:
        return self.guest_write + self.dma_write + self.kvm_write


@dataclass
class Memory(Record):
    """A member's memory image; file names are relative to the bundle's folder."""

    file: str
    sums: str
    sums_xxh3: str
    size: int
    pages: Pages
    faults: int | None = None
    fault_us_max: float | None = None
    fault_us_sum: float | None = None
    cut_pages: int | None = None
    arm_us: float | None = None
    copy_us: float | None = None
    copied_ns: int | None = None
    durable_us: float | None = None
    bytes_written: int | None = None
    precopy_rounds: int | None = None
    precopy_pages: int | None = None
    precopy_written: int | None = None
    precopy_converged: int | None = None
    direct_io: bool | None = None


@dataclass
class SavedDisk(Record):
    """A frozen layer: `file` is absolute, and lies outside the bundle."""

    device: str
    file: str
    format: str
    overlay: str
    sums: str
    sums_xxh3: str


@dataclass
class SavedNic(Record):
    nic: str
    mac: str


@dataclass
class Channel(Record):
    """A member's recorded packets; file names are relative to the bundle's folder. A bundle of disks
    has the counts only."""

    frames: int
    lost: int
    file: str | None = None
    vnet: str | None = None
    pcap_xxh3: str | None = None
    vnet_xxh3: str | None = None
    held: int | None = None
    uncolored: int | None = None
    routed_sent: int | None = None
    routed_received: int | None = None


@dataclass
class Step(Record):
    name: str
    us: float


@dataclass
class Pause(Record):
    begin_ns: int
    end_ns: int
    steps: list[Step]

    @property
    def ms(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e6


@dataclass
class SavedMember(Record):
    name: str
    qemu: str
    machine: str
    argv: list[str]
    nics: list[SavedNic]
    disks: list[SavedDisk]
    channel: Channel
    memory: Memory | None = None  # both are there unless the bundle is of disks
    pause: Pause | None = None
    hold: Pause | None = None     # in place of the pause: the time without disk requests
    cause: str | None = None  # of its cut: the message, or a red frame

    @property
    def cut(self) -> Pause:
        found = self.pause or self.hold
        assert found  # read() has seen to it
        return found

    @property
    def drain_ms(self) -> float:
        """Of the cut, the wait for disk requests in flight."""
        return sum(step.us for step in self.cut.steps if step.name == "drain") / 1e3


@dataclass
class Pair(Record):
    """The time from the first suspend to the last resume of two members."""

    a: str
    b: str
    us: float


@dataclass
class Cut(Record):
    """`backoff_max_us` is null when the members' clocks cannot be compared. Older bundles lack the
    last four."""

    backoff_max_us: float | None
    pairs: list[Pair]
    comparable: bool = True
    lost_between: int = 0
    unmarked: int = 0
    order: str | None = None  # of disks: "causal" or "barrier"
    hold_timeout_us: float | None = None


@dataclass
class Finished(Record):
    """How far from the common end a member's copy ended; null when it cannot be told."""

    name: str
    deviation_us: float | None
    clock_error_us: float


@dataclass
class Finish(Record):
    """The end of the copies of all members, when the command gave a time for it."""

    duration_us: float
    delay_us: float  # by which the end was moved, since a member could not make it
    spread_us: float | None
    members: list[Finished]

    def worst_us(self) -> float | None:
        known = [m.deviation_us for m in self.members if m.deviation_us is not None]
        return max(known, key=abs, default=None)


@dataclass
class Instant(Record):
    """When the initiator reached a phase."""

    phase: str
    us: float


@dataclass
class Manifest(Record):
    tag: str
    epoch: int
    initiator: str
    created: str
    members: list[SavedMember]
    cut: Cut
    timeline: list[Instant] = field(default_factory=list)
    finish: Finish | None = None
    version: int = 1
    content: str = "all"  # as the version says; a bundle of version 1 does not name it
    mode: str | None = None  # when memory was copied; older bundles lack it


# --- the bundle ----------------------------------------------------------------------------------

@dataclass
class Bundle:
    """A complete bundle, its manifest checked for what readers rely on."""

    path: str
    manifest: Manifest

    @property
    def tag(self) -> str:
        return self.manifest.tag

    @property
    def members(self) -> list[SavedMember]:
        return self.manifest.members

    def notes(self) -> notes.Notes:
        return notes.read(self.path)

    def file(self, relative: str) -> str:
        return os.path.join(self.path, relative)

    def layers(self) -> Iterator[tuple[SavedMember, SavedDisk]]:
        """Each (member, disk)."""
        for member in self.members:
            for disk in member.disks:
                yield member, disk

    def named_files(self) -> Iterator[str]:
        """The files in its folder that the manifest names, relative to that."""
        for member in self.members:
            if member.memory:
                yield from (member.memory.file, member.memory.sums)
            yield from (disk.sums for disk in member.disks)
            yield from filter(None, (member.channel.file, member.channel.vnet))

    @property
    def content(self) -> str:
        return CONTENTS[self.manifest.version]

    @property
    def only_disks(self) -> bool:
        return self.content == "disks"

    def instant(self) -> float | None:
        """When the initiator began the cut, in seconds since 1970; None if the timeline does not
        tell. The manifest is dated when it is written, which is the timeline's end."""
        timeline = self.manifest.timeline
        cut = next((moment.us for moment in timeline if moment.phase in CUTS), None)
        try:
            created = datetime.fromisoformat(self.manifest.created).timestamp()
        except ValueError:
            return None
        return None if cut is None else created - (timeline[-1].us - cut) / 1e6

    def downtime_max_ms(self) -> float:
        return max((member.pause.ms for member in self.members if member.pause), default=0.0)

    def hold_max_ms(self) -> float | None:
        """The longest time for which disk requests were held; None if the members were paused."""
        return max((member.cut.ms for member in self.members), default=0.0) if self.only_disks \
            else None

    def backoff_max_ms(self) -> float | None:
        """None when the members' clocks could not be compared."""
        longest = self.manifest.cut.backoff_max_us
        return None if longest is None else longest / 1000

    def frames(self) -> int:
        return sum(member.channel.frames for member in self.members)

    def lost(self) -> int:
        return (sum(member.channel.lost for member in self.members)
                + self.manifest.cut.lost_between)

    def doubts(self) -> list[str]:
        """What may keep the restored members from going on as if nothing had happened."""
        uncolored = sum(member.channel.uncolored or 0 for member in self.members)
        unmarked = self.manifest.cut.unmarked
        channels = [member.channel for member in self.members]
        # A frame may be in both sums: sent to the router, and received from it.
        routed = max(sum(channel.routed_sent or 0 for channel in channels),
                     sum(channel.routed_received or 0 for channel in channels))
        if self.only_disks:  # lost packets mean nothing to guests that boot
            return [f"{routed} frames between members took their way through a router that is no "
                    "member, or a non-member has a member's IP address: a disk may hold the effect "
                    "of such a frame, and another one lack its cause"] if routed else []
        counted = (
            (self.lost(), "frames on their way at the cut are in no record: the network lost them, "
             "or they came too late or had no room; restored guests miss them"),
            (unmarked, "paths between NICs were not seen to be empty in time: frames sent before "
             "the snapshot began may be missing"),
            (uncolored, "recorded frames came without a color: they were sent before the snapshot "
             "began, or by a non-member with a member's address"),
            (routed, "frames between members took their way through a router that is no member, or "
             "a non-member has a member's IP address; frames inside that router are not part of "
             "the instant: TCP sends them again after a restore, UDP loses them. Make the router a "
             "member, or connect the members without it"))
        return [f"{count} {what}" for count, what in counted if count]

    def disk_bytes(self) -> int:
        """Space that the folder takes; the disk layers are elsewhere."""
        return allocated_below(self.path)

    def save_manifest(self) -> None:
        write_json(self.file("manifest.json"), self.manifest.dump())


def check_tag(tag: str) -> None:
    if not TAG.fullmatch(tag) or tag.endswith(PARTIAL):
        raise UsageError(f"{tag!r} cannot be a tag: use 1 to 64 letters, digits, '.', '_' or '-', "
                         f"the first a letter or digit, and not {PARTIAL} at the end")


def read(path: str) -> Bundle:
    """Reads a bundle's manifest and checks its form; BundleError says what is wrong with it."""
    manifest_file = os.path.join(path, "manifest.json")
    if not os.path.isdir(path):
        raise BundleError(f"no bundle at {path}: 'hotsnap ls' lists all bundles")
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
    if not isinstance(version, int) or version not in CONTENTS:
        raise BundleError(f"{manifest_file} has version {version}; this program reads versions "
                          f"{' and '.join(map(str, CONTENTS))}: use the one that wrote it")
    try:
        found = Bundle(os.path.abspath(path), Manifest.parse(manifest, manifest_file))
        _check_content(found, manifest_file)
        return found
    except Malformed as error:
        raise BundleError(str(error)) from error


def _check_content(found: Bundle, where: str) -> None:
    """A bundle of each version has what its content needs."""
    if found.manifest.content != found.content:
        raise Malformed(f"{where}: version {found.manifest.version} is of {found.content}, but "
                        f"content is {found.manifest.content!r}")
    for number, member in enumerate(found.members):
        needed = {"hold": member.hold} if found.only_disks else {
            "memory": member.memory, "pause": member.pause,
            **{f"channel: {key}": getattr(member.channel, key)
               for key in ("file", "vnet", "pcap_xxh3", "vnet_xxh3")}}
        for key, value in needed.items():
            if value is None:
                *above, key = key.split(": ")
                raise Malformed(": ".join([where, f"members[{number}]", *above,
                                           f"{key!r} is missing"]))


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
    """All bundles that are not leftovers. BundleError if one of them is damaged, since the disk
    layers that it needs are then unknown."""
    whole, damage = survey(directory)
    if damage:
        raise damage[0]
    return whole


def by_layer(bundles: Iterable[Bundle]) -> dict[str, tuple[Bundle, SavedDisk]]:
    """Disk layers, by their paths with links resolved, to the bundle that names them and has their
    checksums: the first of several."""
    found: dict[str, tuple[Bundle, SavedDisk]] = {}
    for one in bundles:
        for _, disk in one.layers():
            found.setdefault(os.path.realpath(disk.file), (one, disk))
    return found


def remove(path: str) -> None:
    """Removes a bundle's folder. A crash leaves an incomplete one, and never a bundle with parts
    missing under its own name."""
    if not path.endswith(PARTIAL):
        doomed = path + PARTIAL
        if os.path.exists(doomed):
            shutil.rmtree(doomed)
        os.rename(path, doomed)
        sync_folder(os.path.dirname(path))
        path = doomed
    shutil.rmtree(path)
    sync_folder(os.path.dirname(path))
