# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of 'hotsnap snapshot' that QMP's hotsnap-cluster has, too: one table, of which the command
line, the request and the manual page are made."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..model import groups, units
from . import quiesce


def size(text: str) -> int:
    try:
        return units.parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _duration(text: str) -> float:
    try:
        return units.parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# Name on the command line; in QMP it is the same, unless IN_QMP has another -> how argparse reads it. What is not given is left to QMP's default.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "bandwidth": {
        "metavar": "SIZE", "type": size,
        "help": "limit of each member's background copy in bytes per second, as in 200M"},
    "mode": {
        "choices": ("hot", "precopy", "stop-and-copy"),
        "help": "hot (the default): memory is copied after the cut, while the members run; "
                "precopy: before it, and again where they write meanwhile, so that the cut is at "
                "the end; stop-and-copy: each member stands still until its own is copied"},
    "engine": {
        "choices": ("auto", "kvm", "uffd"),
        "help": "how writes are trapped (default: auto, which is kvm where the host's KVM has the "
                "patches, else uffd)"},
    "within": {
        "metavar": "TIME", "type": _duration,
        "help": "end the copies of all members at this time after the cut, as in 20s or 500ms: "
                "not later, and not sooner, so that they load the storage no more than they must"},
    "strict": {
        "action": "store_const", "const": True,
        "help": "with --within: fail when a member cannot end by then, instead of ending later"},
    "cut": {
        "choices": ("causal", "barrier"),
        "help": "with --group, how its members come to one instant: causal, where no member waits "
                "for another, right if all they hear of each other comes by the cluster's "
                "network; barrier, where the disk requests of all are held until all hold theirs, "
                "right also if they talk by way of clients or routers outside (default: causal)"},
    "hold-timeout": {
        "metavar": "TIME", "type": _duration,
        "help": "with --cut barrier: give up when requests were held for so long, as in 500ms "
                "(default: 200ms)"},
}
IN_QMP = {"within": "duration"}
OF_DISKS = ("cut", "hold-timeout")  # the others are about memory


def add_group_to(parser: argparse.ArgumentParser) -> None:
    """--group and --select, two ways to say whose disks."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--group", metavar="NAME",
                        help="save the disks of this group only, as it is then, without memory and "
                             "without a pause: all as of one instant, as after a power failure")
    either.add_argument("--select", metavar="LABEL=VALUE", dest="group", type=selector,
                        help="save the disks that have this label in the cluster file, or whose "
                             "member has it, likewise; all of several labels with commas between "
                             "them")
    parser.add_argument("--quiesce", action="store_true",
                        help="with --group: have the guest agents of its members freeze their file "
                             "systems around the cut, so that those on the disks are clean "
                             "('agent = true' in the cluster file)")
    parser.add_argument("--quiesce-timeout", metavar="TIME", type=_duration,
                        help="with --quiesce: fail when a guest needs longer, and thaw all when the "
                             f"cut comes later after that (default: {quiesce.SECONDS:.0f}s)")


def selector(text: str) -> str:
    if not groups.is_selector(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=VALUE")
    return text


def add_to(parser: argparse.ArgumentParser) -> None:
    for name, how in OPTIONS.items():
        parser.add_argument(f"--{name}", **how)


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of hotsnap-cluster that the command line gave, and snapshot's `quiesce`.
    UsageError if one has no meaning for a snapshot of that kind."""
    values = {name: getattr(options, name.replace("-", "_")) for name in OPTIONS}
    given = [name for name, value in values.items() if value is not None]
    of_memory = [f"--{name}" for name in given if name not in OF_DISKS]
    of_disks = [f"--{name}" for name in given if name in OF_DISKS]
    if options.group and of_memory:
        raise UsageError(f"a snapshot of disks copies no memory: leave out {', '.join(of_memory)} "
                         "with --group")
    if not options.group and of_disks:
        raise UsageError(f"{', '.join(of_disks)} is for snapshots of disks: add --group, or leave "
                         "it out")
    if values["hold-timeout"] is not None:
        if values["cut"] != "barrier":
            raise UsageError("--hold-timeout needs --cut barrier: else no member waits for another")
        values["hold-timeout"] = max(round(values["hold-timeout"] * 1000), 1)  # QMP's unit
    if options.quiesce_timeout is not None and not options.quiesce:
        raise UsageError("--quiesce-timeout goes with --quiesce: add that, or leave it out")
    if options.quiesce and not options.group:
        raise UsageError("--quiesce is for snapshots of disks: add --group; guests that are saved with "
                         "their memory go on at a restore, and need not be frozen")
    seconds = {"quiesce": options.quiesce_timeout or quiesce.SECONDS} if options.quiesce else {}
    return {**seconds, **{IN_QMP.get(name, name): value for name, value in values.items()
                          if value is not None}}
