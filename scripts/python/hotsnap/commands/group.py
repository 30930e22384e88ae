# SPDX-License-Identifier: GPL-2.0-or-later
"""group: names sets of disks; and the restore of a snapshot of disks, which boots its members."""

from __future__ import annotations

from ..disks import merge
from ..errors import HotsnapError, UsageError
from ..model import bundle, groups
from ..model.state import State
from ..qemu import binaries
from ..qemu.fleet import Fleet
from ..ui.output import print_json, table
from . import recovery, snapshot, verify


def run(state: State, action: str, name: str | None, entries: list[str], as_json: bool) -> None:
    if action == "ls":
        if name:
            raise UsageError("group ls takes no name: it lists all groups")
        _ls(state, as_json)
        return
    if not name:
        raise UsageError(f"group {action} needs the name of a group")
    with state.locked():
        left = (groups.add if action == "add" else groups.remove)(state, name, entries)
    if as_json:
        print_json({"group": name, "disks": left})
    else:
        print(f"group {name}: {', '.join(left) or 'removed'}")


def _ls(state: State, as_json: bool) -> None:
    found = groups.load(state)
    if as_json:
        print_json({"groups": [{"name": name, "disks": entries}
                               for name, entries in sorted(found.items())]})
    else:
        print(table(("GROUP", "DISKS"), [(name, ", ".join(entries))
                                         for name, entries in sorted(found.items())]))


def restore(state: State, fleet: Fleet, saved: bundle.Bundle, replace: bool = False,
            every_checksum: bool = True, quiet: bool = False) -> list[str]:
    """Boots the members of a snapshot of disks from its layers, as after a power failure; returns
    their names. The caller holds the lock.

    A member's disks that are not in the snapshot stay as they are; so do the other members. The
    bundle is not changed: the guests write to new layers over its own.
    """
    state.make_folders()
    recovery.recover(state, fleet, quiet)
    saved = bundle.read(saved.path)  # `recover` may have changed it
    frozen = {m.name: snapshot.frozen_layers(state, m) for m in saved.members if m.disks}
    if not frozen:
        raise HotsnapError(f"snapshot {saved.tag!r} is of no disk: there is nothing to restore")
    running = [name for name in frozen if fleet.running(name)]
    if running and not replace:
        raise HotsnapError(f"{', '.join(running)} runs, and would be started anew: 'hotsnap "
                           "restore --replace' ends it first, and discards what these disks hold "
                           "since the last snapshot")
    damage = (verify.check_visibly(saved, quiet).damage if every_checksum
              else verify.outline(saved))
    if damage:
        raise HotsnapError(f"snapshot {saved.tag!r} is damaged: {damage[0]}: nothing was started; "
                           f"'hotsnap verify {saved.tag}' lists all damage")
    image_tool = binaries.qemu_img(state.cluster.qemu)
    fleet.refuse_strays(frozen)
    made = recovery.begin_restore(state, fleet, saved.tag,
                                  {name: list(disks) for name, disks in frozen.items()})
    try:
        files = {name: {**state.member(name).disks, **layers} for name, layers in made.items()}
        _check_others(state, files, made)
        fleet.kill(fleet.quit(running))  # the disks that stay are written out
        for name, disks in frozen.items():
            for disk, (path, image_format) in disks.items():
                binaries.create_overlay(image_tool, made[name][disk], path, image_format)
        recovery.starting(state)
        fleet.start(files)
    except BaseException as error:
        deaths = fleet.deaths()
        recovery.undo_restore(state, fleet)
        if isinstance(error, HotsnapError):
            raise HotsnapError(f"restore of {saved.tag!r} failed, the snapshot is whole: {error}"
                               f"{deaths}") from error
        raise
    recovery.end_restore(state)
    merge.collect(state, fleet)
    return list(frozen)


def _check_others(state: State, files: dict[str, dict[str, str]],
                  made: dict[str, dict[str, str]]) -> None:
    """Each disk of the members has a file: one that will be made, or the one that it had."""
    for name, have in files.items():
        for disk in state.cluster.member(name).disks:
            if not disk.read_only and disk.id not in have:
                raise HotsnapError(f"disk {disk.id} of member {name} is not in the snapshot, and "
                                   "was never made: run 'hotsnap up' first")
        state.check_images(path for disk, path in have.items() if disk not in made[name])
