# SPDX-License-Identifier: GPL-2.0-or-later
"""snapshot and restore: driving QEMU's jobs, and keeping track of the disk layers around them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from ..disks import merge
from ..errors import HotsnapError, UsageError
from ..host import userfault
from ..model import bundle, groups, notes
from ..model.disk_table import id_of
from ..model.state import State
from ..qemu import binaries, jobs, machine
from ..qemu.fleet import Fleet
from ..qemu.qmp import QmpClosed, QmpError, QmpFailure, QmpTimeout
from ..ui.output import Progress, human_size, say
from . import quiesce as quiescing
from . import recovery, restorable, verify

SNAPSHOT_JOB = "hotsnap-snapshot"
RESTORE_JOB = "hotsnap-restore"
BAR_BYTES = 1 << 20


def member_addresses(state: State, names: list[str]) -> list[dict[str, str]]:
    return [{"name": name, "address": state.address(name)} for name in names]


# Phases that the initiator reaches when all members have cut.
_AFTER_CUT = ("full", "publish", "committed")


class _Watcher:
    """Shows a job: a line for each phase of the initiator, a bar for its progress."""

    def __init__(self, label: str, quiet: bool):
        self.progress = Progress(label, quiet)
        self.phase = ""
        self.after_cut: Callable[[], None] = lambda: None  # called once all members have cut

    def __call__(self, job: dict[str, Any], events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] == "HOTSNAP_PHASE":
                self.phase = event["data"]["phase"]
                if self.phase in _AFTER_CUT:
                    self.after_cut()
                reason = event["data"].get("reason")
                self.progress.line(f"  {self.phase}" + (f": {reason}" if reason else ""))
            elif event["event"] == "HOTSNAP_WARNING":
                self.progress.line(f"  warning: {event['data']['message']}")
        total = job["total-progress"]
        note = self.phase
        if total > BAR_BYTES:  # the job counts bytes of memory
            note = f"{human_size(job['current-progress'])} of {human_size(total)} {note}"
        self.progress.update(job["current-progress"], total, note)


def snapshot(state: State, fleet: Fleet, tag: str, initiator: str | None = None,
             timeout: float | None = None, quiet: bool = False, group: str | None = None,
             note: str | None = None, quiesce: float | None = None, **options: Any
             ) -> bundle.Bundle:
    """Takes a snapshot of the whole cluster, or of the disks of a group; the caller holds the lock.
    `options` are those of hotsnap-cluster, and `quiesce` the seconds that the guest agents of a
    group's members have to freeze their file systems, as snapshot_options.chosen() gives them."""
    bundle.check_tag(tag)
    wanted = groups.resolve(state, group) if group else None
    recovery.recover(state, fleet, quiet)
    names = fleet.names()
    stopped = [name for name in names if not fleet.running(name)]
    if wanted is not None:
        # The others that run take part as well: packets may take their way through them. To a
        # barrier their ways do not matter.
        names = [name for name in names if name not in stopped
                 and (name in wanted or options.get("cut") != "barrier")]
        stopped = [name for name in stopped if name in wanted]
        options.update(content="disks", disks=[
            {"member": name, "device": f"{disk.id}-dev"}
            for name, disks in wanted.items() for disk in disks])
    if stopped:
        whole = f"group {group!r} has disks of it" if group else "a snapshot is of the whole cluster"
        raise HotsnapError(f"{', '.join(stopped)} does not run: {whole}; run 'hotsnap up' first")
    initiator = initiator or names[0]
    state.cluster.member(initiator)
    path = os.path.join(state.bundles, tag)
    if os.path.lexists(path):
        raise HotsnapError(f"a snapshot {tag!r} exists: choose another tag, or run "
                           f"'hotsnap rm {tag}'")
    if os.path.lexists(path + bundle.PARTIAL):
        raise HotsnapError(f"{path}{bundle.PARTIAL} is left of a snapshot that did not complete: "
                           f"run 'hotsnap rm {tag}{bundle.PARTIAL}' first")
    media = {} if group else restorable.check(state, fleet)
    agents = quiescing.sockets(state, wanted) if wanted and quiesce else {}
    arguments = {"job-id": SNAPSHOT_JOB, "tag": tag, "directory": state.bundles,
                 "members": member_addresses(state, names), **options}
    watcher = _Watcher(f"snapshot {tag}", quiet)
    try:
        with (fleet.qmp(initiator) as qmp,
              quiescing.frozen(agents, quiesce or 0.0) as frozen):
            jobs.clear_leftover(qmp, SNAPSHOT_JOB)
            qmp.execute("hotsnap-cluster", arguments)
            watcher.after_cut = frozen.thaw
            jobs.follow(qmp, SNAPSHOT_JOB, timeout, watcher)
    except QmpTimeout as error:
        raise HotsnapError(f"member {initiator} does not answer ({error}): snapshot {tag!r} was "
                           "not cancelled and may still complete; 'hotsnap ls' tells") from error
    except (QmpFailure, jobs.JobFailed) as error:
        deaths = fleet.deaths()
        what = ("is complete, but" if os.path.isdir(path)
                else "failed:" if deaths or isinstance(error, QmpClosed)
                else "failed, the cluster runs on:")
        raise HotsnapError(f"snapshot {tag!r} {what} {_text(error)}{deaths}") from error
    except BaseException:
        if os.path.isdir(path):
            say(f"the cancel came too late: snapshot {tag!r} is complete")
        raise
    finally:
        watcher.progress.clear()
    made = bundle.read(path)
    known = notes.Notes(note=note, media=media, group=group)
    try:
        known.quiesced = frozen.proved(made)
    finally:
        notes.write(path, known)
        _note_disks(state, fleet)
    return made


def _text(error: Exception) -> str:
    return error.desc if isinstance(error, QmpError) else str(error)


def _note_disks(state: State, fleet: Fleet) -> None:
    """Notes the files that the members write to now."""
    for name in fleet.running_names():
        try:
            with fleet.monitor(name) as qmp:
                fleet.note_disks(name, qmp)
        except HotsnapError:
            pass  # survey.settle finds the files when the member has stopped
    state.save()


def restore(state: State, fleet: Fleet, saved: bundle.Bundle, replace: bool = False,
            timeout: float | None = None, every_checksum: bool = True,
            quiet: bool = False, memory: str | None = None,
            bandwidth: int | None = None, window: int | None = None) -> str:
    """Brings the cluster back from a bundle; the caller holds the lock. Returns how memory is
    loaded: `memory` ("lazy" or "full"), or if that is None, lazy where it is possible, else full.

    If the bundle is damaged, nothing is started and nothing is ended; without `every_checksum` only
    the size of a large file is checked. Memory that is loaded on demand is checked page by page, as
    it comes, and not before.
    The bundle is not changed: members go on in new layers over its own. Layers that no bundle names
    are dropped once the restore has succeeded, and not before.
    """
    state.make_folders()
    recovery.recover(state, fleet, quiet)
    saved = bundle.read(saved.path)  # `recover` may have changed it
    names = [member.name for member in saved.members]
    if set(names) != set(fleet.names()):
        raise HotsnapError(f"snapshot {saved.tag!r} is of {', '.join(sorted(names))}, but "
                           f"{state.cluster.file} names {', '.join(sorted(fleet.names()))}")
    running = fleet.running_names()
    if running and not replace:
        raise HotsnapError(f"the cluster runs ({', '.join(running)}): 'hotsnap down' ends it, or "
                           "'hotsnap restore --replace' does so and discards what its disks hold "
                           "since the last snapshot")
    how = memory or ("lazy" if userfault.permitted() else "full")
    _check_whole(saved, every_checksum, quiet, how == "full")
    frozen = {m.name: frozen_disks(state, m) for m in saved.members}
    machines = {m.name: m.machine for m in saved.members}
    same_hardware(state, fleet, saved)
    discs = restorable.discs(state, saved)
    initiator = saved.manifest.initiator
    watcher = _Watcher(f"restore {saved.tag}", quiet)
    image_tool = binaries.qemu_img(state.cluster.qemu)
    fleet.refuse_strays(names)
    made = recovery.begin_restore(state, fleet, saved.tag,
                                  {name: list(disks) for name, disks in frozen.items()})
    try:
        fleet.kill(running)
        for name, disks in frozen.items():
            for disk, (path, image_format) in disks.items():
                binaries.create_overlay(image_tool, made[name][disk], path, image_format)
        recovery.starting(state)
        fleet.start(made, machines, incoming=True, discs=discs)
        arguments = {"job-id": RESTORE_JOB, "bundle": saved.path,
                     "members": member_addresses(state, names)}
        with fleet.qmp(initiator) as qmp:
            try:
                qmp.execute("hotsnap-restore", {**arguments, **_memory(how, bandwidth, window)})
                jobs.follow(qmp, RESTORE_JOB, timeout, watcher)
            except jobs.JobFailed as error:
                if memory or how == "full" or not _ON_DEMAND_REFUSED.search(str(error)):
                    raise
                how = "full"  # nothing was changed: the same members can load it in full
                watcher.progress.line(f"  memory cannot be loaded on demand: {error}")
                _check_whole(saved, every_checksum, quiet)
                qmp.execute("hotsnap-restore", arguments)
                jobs.follow(qmp, RESTORE_JOB, timeout, watcher)
        _note_disks(state, fleet)
        if len(fleet.running_names()) < len(names):
            raise HotsnapError(f"restore of {saved.tag!r} failed{fleet.deaths()}")
    except BaseException as error:
        deaths = fleet.deaths()
        recovery.undo_restore(state, fleet)
        if isinstance(error, (QmpFailure, jobs.JobFailed)):
            raise HotsnapError(f"restore of {saved.tag!r} failed, nothing runs, the snapshot is "
                               f"whole: {_text(error)}{deaths}") from error
        raise
    finally:
        watcher.progress.clear()
    recovery.end_restore(state)
    merge.collect(state, fleet)
    return how


# The advice in QEMU's messages when memory of this kind cannot be absent.
_ON_DEMAND_REFUSED = re.compile(r"load (it )?in full")


def _memory(how: str, bandwidth: int | None, window: int | None) -> dict[str, Any]:
    if how == "full":
        return {}
    return {"memory": how, **({"bandwidth": bandwidth} if bandwidth else {}),
            **({"window": window} if window is not None else {})}


def _check_whole(saved: bundle.Bundle, every_checksum: bool, quiet: bool, memory: bool = True
                 ) -> None:
    damage = (verify.check_visibly(saved, quiet, memory).damage if every_checksum
              else verify.outline(saved))
    if damage:
        raise HotsnapError(f"snapshot {saved.tag!r} is damaged: {damage[0]}: nothing was started; "
                           f"'hotsnap verify {saved.tag}' lists all damage")


def frozen_layers(state: State, member: bundle.SavedMember) -> dict[str, tuple[str, str]]:
    """Disk id to the frozen layer and its format, of disks that the cluster file gives to the
    member. The manifest names the guest's device."""
    wanted = {d.id for d in state.cluster.member(member.name).disks if not d.read_only}
    found = {}
    for entry in member.disks:
        disk = id_of(entry.device)
        if not disk:
            raise HotsnapError(f"member {member.name}: the saved device {entry.device!r} is "
                               "not one that 'hotsnap up' has made: restore it by hand "
                               "(docs/user-guide.md)")
        state.check_images([entry.file])
        if disk not in wanted:
            raise HotsnapError(f"member {member.name} was saved with disk {disk}, which "
                               f"{state.cluster.file} does not give it: put the cluster file back")
        found[disk] = (entry.file, entry.format)
    return found


def frozen_disks(state: State, member: bundle.SavedMember) -> dict[str, tuple[str, str]]:
    """The same, and all of them."""
    found = frozen_layers(state, member)
    wanted = {d.id for d in state.cluster.member(member.name).disks if not d.read_only}
    if set(found) != wanted:
        raise HotsnapError(f"member {member.name} was saved with disks "
                           f"{', '.join(sorted(found)) or 'none'}; the cluster file gives it "
                           f"{', '.join(sorted(wanted)) or 'none'}: put the cluster file back")
    return found


def same_hardware(state: State, fleet: Fleet, saved: bundle.Bundle) -> None:
    """Refuses to load a state into another machine than it was saved from."""
    taps = {name: {nic.id: "tap" for nic in state.cluster.member(name).nics}
            for name in fleet.names()}
    for entry in saved.members:
        member = state.cluster.member(entry.name)
        files = {disk.id: "-" for disk in member.disks}
        now = machine.command_line("qemu", [], member, "tcg", state.paths(member.name), files,
                                   taps[member.name], entry.machine)
        difference = machine.hardware_difference(entry.argv, now)
        if difference:
            raise UsageError(f"member {member.name} is no longer described as it was saved: "
                             f"{difference}: put {state.cluster.file} back as it was")
