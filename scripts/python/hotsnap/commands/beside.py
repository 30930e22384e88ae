# SPDX-License-Identifier: GPL-2.0-or-later
"""restore --as, and recovery: a recovery beside the cluster that it came from, which goes on
untouched, as people test a recovery.

A recovery is a cluster of its own, with a folder, a cluster file, a state and a network namespace
of its own (model/recoveries.py). Its disks are new layers over the frozen ones of a snapshot, which
stay where they are: they are read by both clusters, and written by none.

    recovery.json              from here on the snapshot, and all below its layers, is kept
    cluster.toml, state.json   the members, under their old names and MAC addresses
    layers, members            by the commands that restore any cluster
    recovery.json: complete    from here on other commands take it

The first step needs the lock of the cluster, the others only that of the recovery, so that
snapshots of the cluster go on meanwhile. Whatever fails, or is killed, leaves a recovery that is
not complete: nothing but its removal is done with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field, replace
from typing import Any

from ..disks import relocate, survey
from ..errors import HotsnapError, UsageError
from ..formats import qcow2
from ..host.atomic import sync_folder, write_bytes
from ..host.space import allocated_below
from ..model import bundle, cluster, cluster_text, recoveries, sharing
from ..model.cluster import Cluster
from ..model.recoveries import Recovery
from ..model.state import State
from ..qemu.fleet import Fleet
from ..record import Malformed
from ..ui.output import human_size, print_json, table
from . import group, lifecycle, listing, recovery, restorable, snapshot


@dataclass
class Recovered:
    name: str
    tag: str
    file: str  # the cluster file
    members: list[str] = field(default_factory=list)
    memory: str | None = None  # how it is loaded; None of disks
    remarks: list[str] = field(default_factory=list)  # how the recovery differs from its original


def restore(state: State, fleet: Fleet, path: str, name: str, every_checksum: bool = True,
            quiet: bool = False, **of_memory: Any) -> Recovered:
    """Starts the snapshot in folder `path` as a cluster `name` of its own. The caller holds no
    lock. `of_memory`: as snapshot.restore has them."""
    recoveries.check_name(name)
    with contextlib.ExitStack() as locks:
        with state.locked():
            own, saved, made = _begin(state, fleet, path, name)
            locks.enter_context(own.locked())
        try:
            own.make_folders()
            own.save()  # before the first layer: layers without a state mean that it was lost
            if saved.only_disks:
                lifecycle.other_disks(own, saved)
                made.members = group.restore(own, Fleet(own, fleet.snapshots), saved, False,
                                             every_checksum, quiet)
            else:
                made.members = [member.name for member in own.cluster.members]
                made.memory = snapshot.restore(own, Fleet(own, fleet.snapshots), saved, False,
                                               every_checksum=every_checksum, quiet=quiet,
                                               **of_memory)
            record = recoveries.read(own.directory)
            assert record
            record.complete = True
            recoveries.write(own.directory, record)
        except BaseException:
            _discard(own.directory)
            raise
    return made


def _begin(state: State, fleet: Fleet, path: str, name: str
           ) -> tuple[State, bundle.Bundle, Recovered]:
    """Everything up to recovery.json and the cluster file; nothing is left of it after a failure."""
    if recoveries.read(state.directory):
        raise HotsnapError("this is a recovery itself, and none is made beside it: a snapshot of "
                           "it is restored without --as")
    folder = recoveries.folder(state.directory, name)
    if os.path.lexists(folder):
        raise HotsnapError(f"a recovery {name!r} exists: choose another name, or run 'hotsnap "
                           f"recovery rm {name}'")
    recovery.recover(state, fleet, tell=False)
    if state.restoring or os.path.exists(state.journal):
        raise survey.Busy("a merge of disk layers waits to be finished: 'hotsnap ls' tells which "
                          "snapshot is damaged; 'hotsnap rm' removes it")
    saved = bundle.read(path)
    if os.path.realpath(os.path.dirname(saved.path)) != os.path.realpath(state.bundles):
        raise HotsnapError(f"{saved.path} is not in {state.bundles}: a recovery is made beside the "
                           "cluster whose snapshot it is, so that its disk layers are kept")
    made = Recovered(name, saved.tag, recoveries.cluster_file(state.directory, name))
    described = _described(state, saved, made)
    layers = _layers(state, saved)
    if not saved.only_disks:  # a restore looks again, at the recovery's own cluster file
        snapshot.same_hardware(state, fleet, saved)
    os.makedirs(folder, mode=0o700)
    try:
        recoveries.write(folder, Recovery(recoveries.VERSION, saved.tag,
                                          [member.name for member in described.members], layers))
        sync_folder(os.path.dirname(folder))
        write_bytes(made.file, cluster_text.text(
            described, f"Made by 'hotsnap restore {saved.tag} --as {name}': the machines of then.")
            .encode())
        own = State(cluster.load(made.file))
    except BaseException:
        _delete(folder)
        raise
    own.images = {layer: image for layer, image in state.images.items()
                  if any(layer in qcow2.chain(file) for file in layers)}
    return own, saved, made


def _layers(state: State, saved: bundle.Bundle) -> list[str]:
    """The frozen layers of a snapshot, which are layers of this cluster, over golden images as they
    were, and of disks that the cluster file has."""
    known = survey.scan(state)
    found = [os.path.realpath(file) for member in saved.members if member.disks
             for file, _ in snapshot.frozen_layers(state, member).values()]
    for file in found:
        if file not in known:
            raise HotsnapError(f"snapshot {saved.tag!r} names the disk layer {file}, which is not "
                               f"among those in {state.directory}/members: nothing was started")
    return found


# What the recovery is

def _described(state: State, saved: bundle.Bundle, made: Recovered) -> Cluster:
    """The cluster file's machines, so far as the snapshot has them. Adds to `made.remarks`."""
    folder = os.path.dirname(made.file)
    members = restorable.machines(state, saved)
    names = {member.name for member in members}
    left = [member.name for member in state.cluster.members if member.name not in names]
    if left:
        made.remarks.append(f"{', '.join(left)} is not part of it: the snapshot has "
                            + ("no disk of it" if saved.only_disks else "nothing of it"))
    changed = []
    for member in members:
        args, moved = sharing.separated(member.name, member.args, os.path.join(folder, "run"))
        made.remarks += [f"{old} of member {member.name} is {new} here"
                         for old, new in moved.items()]
        if any("hostfwd" in argument for argument in args):
            made.remarks.append(f"forwarded ports of member {member.name} are in the recovery's own "
                                "network namespace, as those of the original are in its")
        if saved.only_disks and (new := restorable.missing(member, saved).disks):
            made.remarks.append(f"{', '.join(disk.id for disk in new)} of member {member.name} is "
                                "not in the snapshot: it begins as when the member was new")
        changed.append(replace(member, args=args))
    return replace(state.cluster, name=made.name, file=made.file, directory=folder,
                   members=tuple(changed))


# Its end

def remove(state: State, fleet: Fleet, name: str, quiet: bool = False) -> dict[str, Any]:
    """Removes a recovery that does not run, or was not completed; joins the disk layers that only
    it needed. The caller holds the lock."""
    folder = recoveries.folder(state.directory, name)
    if not os.path.isdir(folder) or name in ("", ".", "..") or "/" in name:
        raise HotsnapError(f"no recovery {name!r}: 'hotsnap recovery ls' lists them")
    try:
        record = recoveries.read(folder)
    except Malformed:  # its state tells what may run
        record = Recovery(recoveries.VERSION, "", sorted(_bare(folder).members), [])
    if record:
        own = _bare(folder)
        with own.locked():
            if record.complete and any(map(Fleet(own).running, record.members)):
                raise HotsnapError(f"recovery {name!r} runs: 'hotsnap down --as {name}' ends it "
                                   "first")
            relocate.check_own(own)
            record.complete = False
            recoveries.write(folder, record)
            _discard(folder)
    else:
        _delete(folder)
    done: dict[str, Any] = {"removed": name}
    try:
        recovery.recover(state, fleet, quiet, tell=False)
    except survey.Misplaced as error:  # the folder was moved, and another recovery stands there
        return {**done, "deleted": [], "merged": [], "kept_unneeded": [], "remark": str(error)}
    return {**done, **listing.join_layers(state, fleet, quiet)}


def _bare(folder: str) -> State:
    """A recovery's state, whatever became of its cluster file and of the images that it names."""
    return State(Cluster(os.path.basename(folder), os.path.join(folder, "cluster.toml"),
                         os.path.realpath(folder), "auto", None, ()))


def _discard(folder: str) -> None:
    """Ends what runs of a recovery, and deletes it. Can be repeated if it is cut short."""
    own = _bare(folder)
    record = recoveries.read(folder)
    fleet = Fleet(own)
    fleet.kill(record.members if record else [])
    fleet.remove_network()
    _delete(folder)


def _delete(folder: str) -> None:
    """Deletes a recovery's folder: recovery.json after everything that stands on something."""
    last = os.path.basename(recoveries.record_file(folder))
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != last:
            os.unlink(entry.path)
    sync_folder(folder)
    shutil.rmtree(folder)
    sync_folder(os.path.dirname(folder))


# The command

def run(state: State, fleet: Fleet, action: str, name: str | None, as_json: bool) -> None:
    if action == "ls":
        if name:
            raise UsageError("recovery ls takes no name: it lists all recoveries")
        _ls(state, as_json)
        return
    if not name:
        raise UsageError("recovery rm needs the name of a recovery")
    with state.locked():
        done = remove(state, fleet, name, as_json)
    if as_json:
        print_json(done)
    else:
        listing.tell_removed(name, done)


def rows(state: State) -> list[dict[str, Any]]:
    """The rows of `recovery ls`."""
    found = []
    for name, record in recoveries.load(state.directory).items():
        folder = recoveries.folder(state.directory, name)
        status = "incomplete"
        if record and record.complete:
            own = Fleet(_bare(folder))
            alive = [member for member in record.members if own.running(member)]
            status = "running" if alive else "down"
        found.append({"name": name, "tag": record.tag if record else None, "status": status,
                      "file": recoveries.cluster_file(state.directory, name),
                      "members": record.members if record else [], "bytes": allocated_below(folder)})
    return found


def _ls(state: State, as_json: bool) -> None:
    found = rows(state)
    if as_json:
        print_json({"recoveries": found})
        return
    print(table(("RECOVERY", "SNAPSHOT", "STATUS", "MEMBERS", "SIZE"),
                [(r["name"], r["tag"] or "-", r["status"], len(r["members"]),
                  human_size(r["bytes"])) for r in found], right="MEMBERS SIZE"))
