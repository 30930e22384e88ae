# SPDX-License-Identifier: GPL-2.0-or-later
"""up, ps and down."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Container
from typing import Any

from ..disks import merge, relocate, survey
from ..errors import HotsnapError
from ..formats import images, qcow2
from ..model import bundle
from ..model.cluster import Member
from ..model.state import MemberState, State
from ..qemu import binaries
from ..qemu.fleet import Fleet
from ..ui.output import human_seconds, print_json, say, table
from . import recovery, restorable


def settle_disks(state: State, name: str, needs: Container[str] | None = None) -> dict[str, str]:
    """Disk id to the file that a stopped member wrote to last. HotsnapError if the file of a disk
    in `needs`, or of any disk, is missing, or if a snapshot has frozen it: the layer over it is
    lost."""
    known = survey.scan(state, [name])
    frozen = {os.path.realpath(disk.file) for kept in bundle.survey(state.bundles)[0]
              for _, disk in kept.layers()}
    entry = state.members.get(name, MemberState())
    disks = survey.settle(entry, known)
    for disk, path in disks.items():
        if needs is not None and disk not in needs:
            continue
        if path in frozen:
            path = entry.disks[disk]
            raise HotsnapError(f"disk {disk} of member {name} is gone: {path}, or the layer over "
                               "it, is missing: 'hotsnap restore' starts over from a snapshot, "
                               "'hotsnap up --fresh' from the golden images")
        if path not in known:
            raise HotsnapError(f"disk {disk} of member {name} is gone: {path} is not a file in "
                               f"{state.member_folder(name)}: put the cluster's folder back if it "
                               "was moved; else 'hotsnap up --fresh' starts over from the golden "
                               "images, 'hotsnap restore' from a snapshot")
    return disks


def fresh_disks(state: State, member: Member, image_tool: str) -> dict[str, str]:
    """Makes new layers over the golden images: all of them, or none after a failure."""
    made: dict[str, str] = {}
    try:
        for disk in member.disks:
            if disk.read_only:
                continue
            path = state.new_layer(member.name, disk.id)
            made[disk.id] = path
            if disk.image and disk.format in images.COPIED:
                binaries.create_copy(image_tool, path, disk.image, disk.format)
            elif disk.image:
                binaries.create_overlay(image_tool, path, disk.image, disk.format)
                state.note_image(path, disk.image)
            elif disk.interface == "pflash":
                binaries.create_copy(image_tool, path, binaries.uefi()[1], "raw")
            else:
                binaries.create_empty(image_tool, path, disk.size or 0)
    except BaseException:
        remove_files(made.values())
        raise
    return made


def other_disks(state: State, saved: bundle.Bundle) -> None:
    """Makes the disks that a snapshot of disks has not, as they were when the members were new: for
    a cluster that is made of the snapshot."""
    image_tool = binaries.qemu_img(state.cluster.qemu)
    for member in state.cluster.members:
        missing = restorable.missing(member, saved)
        if missing.disks:
            state.member(member.name).disks = fresh_disks(state, missing, image_tool)
            state.save()


def remove_files(paths: Any) -> None:
    for path in paths:
        if os.path.lexists(path):
            os.unlink(path)


def up(state: State, fleet: Fleet, fresh: bool = False) -> list[str]:
    """Starts the members that do not run; returns their names."""
    state.make_folders()
    image_tool = binaries.qemu_img(state.cluster.qemu)
    recovery.recover(state, fleet, golden=not fresh)
    if not os.path.exists(state.file):
        if not fresh:
            survey.check_state(state, fleet, survey.scan(state))
        state.save()  # before the first layer: layers without a state mean that it was lost
    wanted = [m for m in state.cluster.members if not fleet.running(m.name)]
    if fresh and len(wanted) < len(state.cluster.members):
        raise HotsnapError("--fresh needs the whole cluster down: run 'hotsnap down' first")
    disks: dict[str, dict[str, str]] = {}
    made: list[str] = []
    before = copy.deepcopy(state.members)
    try:
        for member in wanted:
            needs = {disk.id for disk in member.disks if not disk.read_only}
            have = {} if fresh else settle_disks(state, member.name, needs)
            state.check_images(have[disk] for disk in needs & set(have))
            if needs - set(have):
                new = fresh_disks(state, member, image_tool)
                made += [path for disk, path in new.items() if disk not in have]
                remove_files(path for disk, path in new.items() if disk in have)
                have = {**new, **have}
            # A disk that the cluster file no longer names keeps its content.
            disks[member.name] = {disk: have[disk] for disk in sorted(have)}
        if disks:
            fleet.start(disks)
    except BaseException:
        remove_files(made)
        for name in disks:  # as before, except that no file name is used twice
            number = state.member(name).layers
            entry = state.members[name] = before.get(name, MemberState())
            entry.layers, entry.process = number, None
        state.save()
        raise
    merge.collect(state, fleet)
    return list(disks)


def status(state: State, fleet: Fleet) -> list[dict[str, Any]]:
    """The rows of `ps`. The members answer also while another command is under way."""
    rows = []
    for member in state.cluster.members:
        kept = state.members.get(member.name, MemberState())
        row: dict[str, Any] = {"member": member.name, "pid": None, "state": "down",
                               "phase": None, "uptime_s": None, "accel": None,
                               "layers": None, "serial": state.paths(member.name).serial,
                               "qmp": state.paths(member.name).qmp, "error": None}
        disks = kept.disks
        if kept.process and fleet.running(member.name):
            row.update(pid=kept.process.pid, uptime_s=round(time.time() - (kept.since or 0), 1),
                       accel=kept.accel)
            try:
                with fleet.monitor(member.name) as qmp:
                    row["state"] = qmp.execute("query-status")["status"]
                    disks = {disk: info["image"]["filename"]
                             for disk, info in fleet.block_info(qmp).items()}
                    if fleet.snapshots:
                        info = qmp.execute("query-hotsnap")
                        row["phase"], row["error"] = info["phase"], info.get("error")
            except HotsnapError as error:
                row["state"], row["error"] = "unreachable", str(error)
        elif kept.process:
            row["state"] = "died"
        try:
            row["layers"] = {disk: len(qcow2.chain(path)) for disk, path in disks.items()}
        except (HotsnapError, OSError) as error:
            row["error"] = row["error"] or str(error)
        rows.append(row)
    return rows


def ps(state: State, fleet: Fleet, as_json: bool) -> None:
    rows = status(state, fleet)
    if as_json:
        print_json({"cluster": state.cluster.name, "directory": state.directory,
                    "namespace": fleet.lab.name if fleet.lab.exists() else None,
                    "members": rows})
        return
    print(table(("MEMBER", "PID", "STATE", "PHASE", "UPTIME", "ACCEL", "LAYERS"),
                [(r["member"], r["pid"] or "-", r["state"], r["phase"] or "-",
                  human_seconds(r["uptime_s"]) if r["uptime_s"] is not None else "-",
                  r["accel"] or "-",
                  ",".join(str(n) for n in (r["layers"] or {}).values()) or "-")
                 for r in rows], right="PID UPTIME LAYERS"))
    for row in rows:
        if row["error"]:
            say(f"{row['member']}: {row['error']}")


def down(state: State, fleet: Fleet, force: bool) -> list[str]:
    """Ends all members and removes their network; returns the names of those that ran."""
    relocate.check_own(state)
    ran = fleet.running_names()
    for name in ran:
        try:
            with fleet.monitor(name) as qmp:
                fleet.note_disks(name, qmp)
        except HotsnapError:
            pass  # survey.settle finds the file at the next start
    undo = False
    if state.restoring:
        with contextlib.suppress(HotsnapError):  # the next command looks again
            undo = not recovery.went_through(state, fleet)
            if not undo:
                recovery.end_restore(state)
    late = [] if force else fleet.quit(ran)
    if late:
        raise HotsnapError(f"{', '.join(late)} did not quit: 'hotsnap down --force' kills them, "
                           "as a power failure would")
    fleet.kill(fleet.names())
    if undo:
        recovery.undo_restore(state, fleet)
    fleet.remove_network()
    return ran
