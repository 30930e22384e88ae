# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of 'hotsnap ship', and what it does with a store alone: for that no cluster file
is needed, since the cluster may be lost."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import time
from collections.abc import Callable
from typing import Any

from ..errors import EXIT_FAILED, EXIT_OK, HotsnapError, UsageError
from ..model import groups
from ..model.bundle import TAG
from ..model.series import utc
from ..model.state import State
from ..qemu import binaries
from ..qemu.fleet import Fleet
from ..store.folder import Folder
from ..store.ledger import Shipped
from ..store.target import Target
from ..ui.output import human_seconds, human_size, print_json, say, table
from . import ship, snapshot_options

_OTHER_HOST = re.compile(r"[a-z]+://|[^/]+:")


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="the store: a folder, local or mounted")
    parser.add_argument("tag", metavar="TAG", nargs="?", help="with --take, --verify: a snapshot")
    parser.add_argument("folder", metavar="FOLDER", nargs="?",
                        help="with --take: the folder to be made")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--group", metavar="NAME", help="the group whose snapshots are sent")
    either.add_argument("--select", metavar="LABEL=VALUE", dest="group",
                        type=snapshot_options.selector,
                        help="send the snapshots that were taken with this --select")
    parser.add_argument("--keep", metavar="N", type=snapshot_options.count,
                        help="keep the newest N snapshots in the store only (default: all)")
    parser.add_argument("--follow", action="store_true",
                        help="stay, and send each snapshot as soon as it is complete")
    parser.add_argument("--new", action="store_true",
                        help="begin anew in a folder that was a store of this cluster and is "
                             "empty now")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true",
                      help="list the snapshots in the store, and do nothing else")
    what.add_argument("--verify", action="store_true",
                      help="check every checksum in the store, or those of TAG's disks")
    what.add_argument("--take", action="store_true",
                      help="get the disks of TAG out of the store: a qcow2 file for each in "
                           "FOLDER, which needs no other file")


def choose(text: str, image_tool: str) -> Target:
    """The store that is meant, by its kind."""
    if _OTHER_HOST.match(text):
        raise UsageError(f"{text!r} is on another host, and a store is a folder: mount it here (NFS, "
                         "sshfs), and name the folder")
    return Folder(text, image_tool)


def _image_tool() -> str:
    """Any will do where only a store is left."""
    try:
        return binaries.qemu_img()
    except HotsnapError:
        return shutil.which("qemu-img") or "qemu-img"


def run(options: argparse.Namespace, open_cluster: Callable[[], tuple[State, Fleet]],
        quiet: bool) -> int:
    alone = options.list or options.verify or options.take
    if alone and (options.group or options.keep or options.follow or options.new):
        raise UsageError("--list, --verify and --take only read the store: leave out --group, "
                         "--keep, --follow and --new")
    if options.take != (options.folder is not None) or (options.tag and not (
            options.take or options.verify)):
        raise UsageError("--take needs TARGET TAG FOLDER, --verify TARGET and perhaps TAG; nothing "
                         "else has a TAG")
    if options.tag and not TAG.fullmatch(options.tag):
        raise UsageError(f"{options.tag!r} is not a tag")
    if not alone:
        return _ship(options, open_cluster, quiet)
    target = choose(options.target, _image_tool())
    if options.list:
        _list(target, options.json)
        return EXIT_OK
    with target.locked(shared=True):
        if options.verify:
            return _verify(target, options.tag, options.json)
        names = target.take(options.tag, os.path.abspath(options.folder))
    if options.json:
        print_json({"tag": options.tag, "folder": os.path.abspath(options.folder), "files": names})
    else:
        print(f"{options.folder}: {', '.join(names)}, as of {options.tag}")
    return EXIT_OK


def _ship(options: argparse.Namespace, open_cluster: Callable[[], tuple[State, Fleet]],
          quiet: bool) -> int:
    if not options.group:
        raise UsageError("name the group, as in 'hotsnap ship --group payments /mnt/store'")
    state, _ = open_cluster()
    target = choose(options.target, binaries.qemu_img(state.cluster.qemu))
    work = ship.Ship(options.group, target, open_cluster, options.keep, options.new, options.json,
                     quiet)
    if options.follow:
        work.follow()
    done = work.once()
    if done.newest is None and not done.failures:
        how = "--select" if groups.is_selector(options.group) else "--group"
        raise HotsnapError(f"{options.group!r} has no snapshot yet: 'hotsnap snapshot {how} "
                           f"{options.group} TAG' takes one")
    if not done.shipped and not done.failures:
        now = time.time()
        work.events.tell("nothing", f"nothing new to ship; {ship.recovery_point(done.newest, now)}",
                         **ship.point(done.newest, now))
    for text in done.failures:
        say(f"hotsnap: {text}")
    return EXIT_FAILED if done.failures else EXIT_OK


def _row(one: Shipped, now: float) -> dict[str, Any]:
    age = one.age(now)
    return {"tag": one.tag, "created": one.created, "epoch": one.epoch,
            "instant": None if one.instant is None else utc(one.instant),
            "age_s": None if age is None else round(age, 3), "shipped": utc(one.shipped),
            "sent": one.sent, "note": one.note,
            "disks": [{"member": disk.member, "disk": disk.disk, "size": disk.size,
                       "file": os.path.join("layers", disk.file)} for disk in one.disks]}


def _list(target: Target, as_json: bool) -> None:
    now = time.time()
    found, size = target.snapshots(), target.size()
    cluster, group = target.owner()
    newest = found[-1] if found else None
    if as_json:
        print_json({"store": target.where, "cluster": cluster, "group": group, "bytes": size,
                    **ship.point(newest, now), "snapshots": [_row(one, now) for one in found]})
        return
    print(table(("TAG", "INSTANT", "AGE", "DISKS", "SENT", "NOTE"),
                [(one.tag, "-" if one.instant is None else utc(one.instant),
                  "-" if one.instant is None else human_seconds(one.age(now) or 0.0),
                  len(one.disks), human_size(one.sent), (one.note or "-").split("\n")[0])
                 for one in found], right="AGE DISKS SENT"))
    print(f"\ngroup {group} of cluster {cluster}, {human_size(size)}; "
          f"{ship.recovery_point(newest, now)}")


def _verify(target: Target, tag: str | None, as_json: bool) -> int:
    found = target.damage(tag)
    if as_json:
        print_json({"store": target.where, "ok": not found, "damage": found})
    else:
        for text in found:
            print(f"damaged: {text}")
        print(f"{target.where}: {'DAMAGED' if found else 'whole'}")
    return EXIT_FAILED if found else EXIT_OK
