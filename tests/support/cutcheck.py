# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks whether a cluster snapshot is one consistent cut, from the images alone; no VM runs.

For every ordered pair of members, the receiver's image must not count more messages received than
the sender's image counts sent: a message beyond that is an *orphan*, received and yet never sent.
Frames recorded as channel state, by whichever member, must lie between the two counts. For every
member that writes numbered blocks to a disk, the layer frozen at the cut must hold all completed
blocks, and no block that was not begun.

    python3 -m support.cutcheck [--json] BUNDLE
    python3 -m support.cutcheck [--json] IMAGE IMAGE...

exits with 0 when the cut is consistent, 1 when it is not, 2 when it cannot be judged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hotsnap.errors import HotsnapError

from . import channel, disktag, tags
from .image import Image, ImageError


class CutError(HotsnapError):
    """The cut cannot be judged; the text names the missing information."""


@dataclass
class Member:
    """A member at its cut. `recorded` holds, for each sender, the numbers of the UDP messages to
    this member that are in any member's channel state; None when there is no record. `disks` are
    (file, format) pairs of the layers that were frozen."""

    name: str
    tags: dict[int, tags.Tag]
    recorded: dict[str, list[int]] | None = None
    disks: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Pair:
    """One ordered pair and protocol; counts of messages. `recorded` is None when unknown."""

    sender: str
    receiver: str
    protocol: str
    sent: int
    received: int
    recorded: int | None = None

    @property
    def orphans(self) -> int:
        return max(0, self.received - self.sent)

    @property
    def in_flight(self) -> int:
        """Messages sent and not received: in the channel state, and in queues inside the images."""
        return max(0, self.sent - self.received)


@dataclass
class CutReport:
    """The judgment. `problems` are violations, each in words."""

    pairs: list[Pair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    lost: int = 0  # UDP messages that had been lost before the cut, over all pairs
    rows: list[dict[str, Any]] = field(default_factory=list)  # database clients' counters
    disks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def orphans(self) -> int:
        return sum(pair.orphans for pair in self.pairs)

    @property
    def in_flight(self) -> int:
        return sum(pair.in_flight for pair in self.pairs)

    @property
    def consistent(self) -> bool:
        return not self.problems and self.orphans == 0

    def as_dict(self) -> dict[str, Any]:
        return {"consistent": self.consistent, "orphans": self.orphans,
                "in_flight": self.in_flight, "lost": self.lost, "problems": self.problems,
                "pairs": [{**asdict(pair), "orphans": pair.orphans, "in_flight": pair.in_flight}
                          for pair in self.pairs],
                "rows": self.rows, "disks": self.disks}


# --- reading ---------------------------------------------------------------------------------------

def read_member(path: str | os.PathLike[str], name: str | None = None) -> Member:
    """The tags of one image; `name` is the member's name when it is known from elsewhere."""
    found: dict[int, tags.Tag] = {}
    with Image(path) as image:
        for page, tag in image.tags():
            if tag.kind == tags.WRITER:
                continue  # writers tell nothing about the cut, and several may run
            other = found.setdefault(tag.kind, tag)
            if other is not tag:
                raise CutError(f"{path}: two {tags.KIND_NAMES[tag.kind]} pages, of {other.name} "
                               f"and {tag.name} ({page.block} {page.offset:#x}): which one counts "
                               "cannot be told")
    names = {tag.name for tag in found.values()}
    if name is not None:
        names.add(name)
    if not names:
        raise CutError(f"{path}: no tagged page: does its guest run hs-chatter?")
    if len(names) > 1:
        raise CutError(f"{path}: pages of several members: {', '.join(sorted(names))}")
    return Member(names.pop(), found)


def read_bundle(bundle: str | os.PathLike[str], addresses: Mapping[str, str] | None = None,
                switches: Collection[str] = ()) -> list[Member]:
    """The members of a bundle, with their channel state and their disks. `addresses` maps IP
    addresses to members; without it the frames' MAC addresses tell, which must then be those of
    the NICs. `switches` are the members that forward frames."""
    folder = Path(bundle)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        members = []
        for entry in manifest["members"]:
            member = read_member(folder / entry["memory"]["file"], entry["name"])
            if entry.get("channel", {}).get("file"):
                member.recorded = {}
            member.disks = [(disk["file"], disk["format"]) for disk in entry.get("disks", [])]
            members.append(member)
        _read_channels(folder, manifest["members"], members, addresses, switches)
        return members
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CutError(f"{folder}: not a readable bundle: {error!r}") from error


def _read_channels(folder: Path, entries: list[dict[str, Any]], members: list[Member],
                   addresses: Mapping[str, str] | None, switches: Collection[str]) -> None:
    """Gives each receiver the messages that would reach it at restore."""
    by_name = {member.name: member for member in members}
    by_mac = {nic["mac"].lower(): member
              for entry, member in zip(entries, members) for nic in entry["nics"]}
    for entry, holder in zip(entries, members):
        if holder.recorded is None:
            continue
        files = entry["channel"]
        vnet = folder / files["vnet"] if "vnet" in files else None
        for message in channel.messages(folder / files["file"], vnet):
            receiver = (by_mac.get(message.to) if addresses is None
                        else by_name.get(addresses.get(message.ip, "")))
            # A bridge may flood frames; a guest that is no switch ignores those to others.
            if receiver is None or receiver.recorded is None or not (
                    receiver is holder or message.direction == channel.FROM_GUEST
                    or holder.name in switches):
                continue
            receiver.recorded.setdefault(message.sender, []).append(message.number)


# --- judging ---------------------------------------------------------------------------------------

def check_members(members: Iterable[Member]) -> CutReport:
    """Judge the messages between the given members."""
    report = CutReport()
    by_name: dict[str, Member] = {}
    for member in members:
        if member.name in by_name:
            raise CutError(f"two images are of one member, {member.name}")
        by_name[member.name] = member
    for member in by_name.values():
        if tags.PG in member.tags:
            report.rows.append({"client": member.name, **asdict(member.tags[tags.PG].entries[0])})
        if len(by_name) > 1 and tags.CHATTER not in member.tags:
            report.problems.append(f"{member.name}: no chatter page in its image")
    for sender in by_name.values():
        for receiver in by_name.values():
            if (sender is not receiver and tags.CHATTER in sender.tags
                    and tags.CHATTER in receiver.tags):
                _check_pair(report, sender, receiver)
    return report


def _entry(member: Member, peer: str) -> tags.ChatterCount | None:
    for entry in member.tags[tags.CHATTER].entries:
        if entry.peer == peer:
            return entry
    return None


def _check_pair(report: CutReport, sender: Member, receiver: Member) -> None:
    out, into = _entry(sender, receiver.name), _entry(receiver, sender.name)
    where = f"{sender.name} to {receiver.name}"
    if out is None or into is None:
        report.problems.append(f"{where}: these two do not list each other as peers")
        return
    nonce = sender.tags[tags.CHATTER].nonce
    if into.peer_nonce not in (0, nonce):
        report.problems.append(f"{where}: {receiver.name} heard another incarnation of "
                               f"{sender.name} than the one in its image")
    recorded = None
    if receiver.recorded is not None:
        numbers = receiver.recorded.get(sender.name, [])
        recorded = len(numbers)
        _check_recorded(report, where, numbers, out, into)
    udp = Pair(sender.name, receiver.name, "udp", out.udp_sent, into.udp_received_max, recorded)
    tcp = Pair(sender.name, receiver.name, "tcp", out.tcp_sent, into.tcp_received)
    report.lost += max(0, into.udp_gaps - into.udp_late)
    for pair in (udp, tcp):
        report.pairs.append(pair)
        if pair.orphans:
            report.problems.append(f"{where}: {pair.orphans} {pair.protocol} messages were received "
                                   f"(up to {pair.received}) and not sent (up to {pair.sent})")


def _check_recorded(report: CutReport, where: str, numbers: list[int], out: tags.ChatterCount,
                    into: tags.ChatterCount) -> None:
    def wrong(found: list[int], how: str) -> None:
        if found:
            others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            report.problems.append(f"{where}: message {found[0]}{others} is in the channel state "
                                   f"and was {how}")

    wrong([number for number in numbers if number > out.udp_sent],
          f"not sent (up to {out.udp_sent})")
    if into.udp_gaps == into.udp_late:
        wrong([number for number in numbers if number <= min(into.udp_received_max, out.udp_sent)],
              f"received already (up to {into.udp_received_max})")
    if len(set(numbers)) != len(numbers):
        report.problems.append(f"{where}: a message is twice in the channel state")


def check_disk(report: CutReport, member: Member, qemu_img: str | None = None) -> None:
    """Judge a member's numbered blocks, if it writes any, against its frozen disks."""
    if tags.DISK not in member.tags:
        return
    tag = member.tags[tags.DISK]
    count: tags.DiskCount = tag.entries[0]
    regions = []
    for file, form in member.disks:
        region = disktag.read_region(file, form, count.blocks, qemu_img)
        if disktag.holds_blocks(region, tag.nonce):
            regions.append((file, region))
    if not regions and count.completed > 0:
        report.problems.append(f"{member.name}: none of its disks holds its numbered blocks, and "
                               f"{count.completed} were completed")
        return
    for file, region in regions:
        found = disktag.scan(region, tag.nonce, count.blocks)
        report.disks.append({"member": member.name, "file": file, "on_disk": found.highest,
                             "issued": count.issued, "completed": count.completed})
        report.problems += [f"{member.name}: {file}: {text}" for text in found.problems]
        if not count.completed <= found.highest <= count.issued:
            report.problems.append(f"{member.name}: {file}: block {found.highest} is the last on "
                                   f"the disk, {count.completed} the last completed and "
                                   f"{count.issued} the last begun in memory")


def check_images(paths: Iterable[str | os.PathLike[str]]) -> CutReport:
    """Judge images alone: messages, without channel state and disks."""
    return check_members([read_member(path) for path in paths])


def check_bundle(bundle: str | os.PathLike[str], qemu_img: str | None = None,
                 addresses: Mapping[str, str] | None = None,
                 switches: Collection[str] = ()) -> CutReport:
    """Judge a whole bundle. `qemu_img` is the program that reads disks, if not the default one;
    `addresses` and `switches` are those of read_bundle()."""
    members = read_bundle(bundle, addresses, switches)
    report = check_members(members)
    for member in members:
        check_disk(report, member, qemu_img)
    return report


# --- command line ----------------------------------------------------------------------------------

def _print(report: CutReport) -> None:
    for pair in report.pairs:
        recorded = "" if pair.recorded is None else f", {pair.recorded} recorded"
        print(f"{pair.sender} to {pair.receiver} {pair.protocol}: sent {pair.sent}, received "
              f"{pair.received}, {pair.in_flight} in flight{recorded}, {pair.orphans} orphans")
    for disk in report.disks:
        print(f"{disk['member']} disk: completed {disk['completed']}, on disk {disk['on_disk']}, "
              f"issued {disk['issued']}")
    for problem in report.problems:
        print(f"PROBLEM {problem}")
    print(f"{'consistent' if report.consistent else 'NOT CONSISTENT'}: orphans={report.orphans} "
          f"in_flight={report.in_flight} lost={report.lost}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="support.cutcheck",
                                     description="Check that a cluster snapshot is consistent.")
    parser.add_argument("path", nargs="+", help="a bundle, or the images of all members")
    parser.add_argument("--qemu-img", help="the qemu-img to read disks with")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        if len(options.path) == 1 and Path(options.path[0]).is_dir():
            report = check_bundle(options.path[0], options.qemu_img)
        else:
            report = check_images(options.path)
    except (CutError, ImageError, channel.ChannelError, disktag.DiskError, OSError) as error:
        print(f"support.cutcheck: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        _print(report)
    return 0 if report.consistent else 1


if __name__ == "__main__":
    sys.exit(main())
