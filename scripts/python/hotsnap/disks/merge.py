# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries out a plan of layers.py, whether the cluster runs or not.

Layers that a command reads meanwhile without the lock (model/reading.py) are left for the next time.

Deleting is one step. A merge is many: commit, new checksums, manifests, the layers above, the
state, and at last the files. A journal is written first (journal.py), and `recover` finishes the
merge after a crash. Every step can be repeated, because a commit leaves the layer on top as it was,
and that layer hides what a commit that was cut short has written below it.

One step needs care: when the topmost layer is the one that a running member writes to, QEMU goes
on in the layer below, and from then on the layer on top is out of date. The job is therefore not
finalized by itself. While it is pending, both layers have the same content and the guest's writes
wait; the journal then says "finalizing", which means that the lower layer counts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

from ..errors import HotsnapError, Interrupted
from ..formats import qcow2
from ..host import atomic
from ..model import bundle, reading
from ..model.disk_table import NVRAM
from ..model.state import State
from ..qemu import binaries, jobs
from ..qemu.fleet import Fleet, open_chain
from ..qemu.qmp import Qmp, QmpClosed, QmpError, QmpTimeout
from ..ui.output import Progress, say
from . import journal, layer_sums, layers
from .survey import Busy, Misplaced, Moved, folders, needed

JOB = "hotsnap-merge"
ATTEMPTS = 5


def tidy(state: State, fleet: Fleet, merge: bool = True, quiet: bool = False) -> dict[str, Any]:
    """Deletes and, if `merge`, joins the layers that nothing needs; returns what was done.

    The caller holds the lock.
    """
    done: dict[str, Any] = {"deleted": [], "merged": []}
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            _carry_out(state, fleet, done, merge, quiet)
            break
        except Moved:  # by a job that began before this command and has ended now
            if not attempts_left:
                raise
    state.forget_images()
    state.save()
    left = layers.scan(folders(state))
    done["kept_unneeded"] = sorted(set(left) - needed(state, fleet, left))
    return done


def _carry_out(state: State, fleet: Fleet, done: dict[str, Any], merge: bool,
               quiet: bool) -> None:
    if state.restoring or os.path.exists(state.journal):
        raise Busy(f"a {'restore' if state.restoring else 'merge of disk layers'} waits to be "
                   "finished")
    known = layers.scan(folders(state))
    actions = layers.plan(known, needed(state, fleet, known))
    state.save()  # the journal of a merge refers to the files that members write to now
    read = reading.layers(state)
    unneeded = [action.path for action in actions
                if isinstance(action, layers.Delete) and action.path not in read]
    if unneeded:
        check_unused(fleet, unneeded)
    for path in unneeded:
        if os.path.exists(path):  # the undo of a snapshot may have removed it just now
            os.unlink(path)
            done["deleted"].append(path)
    for path in layers.unfinished(folders(state)):  # nobody makes one now: needed() has looked
        os.unlink(path)
    for action in actions:
        if merge and isinstance(action, layers.Merge) and not _waits(state, fleet, action, read):
            _Merging(state, fleet, action, quiet).run()
            done["merged"].append({"base": action.base, "removed": list(action.removed)})


def _waits(state: State, fleet: Fleet, action: layers.Merge, read: set[str]) -> bool:
    """Whether a merge has to wait: until another command has read the layers that it would change,
    or until a member is down.

    While the commit of a topmost layer is pending, the guest's writes wait. A write to a flash chip
    waits in a processor's thread that holds QEMU's lock, so that QEMU would never hear that the job
    is to be finalized.
    """
    if read.intersection((action.base, *action.removed, *action.above)):
        return True
    return any(entry.disks.get(NVRAM) == action.top and fleet.running(name)
               for name, entry in state.members.items())


def check_unused(fleet: Fleet, paths: Iterable[str]) -> None:
    """The last check before files are deleted: it asks what each QEMU has open now."""
    opened = fleet.open_files()
    for path in paths:
        if path in opened:
            raise Moved(f"disk layer {path} was about to be deleted, but member {opened[path]} uses it: "
                        "it was kept; the next 'hotsnap rm' looks again")


def collect(state: State, fleet: Fleet) -> None:
    """Deletes the layers that nothing needs, which is quick; keeps all if they are unknown now."""
    try:
        tidy(state, fleet, merge=False)
    except (bundle.BundleError, Busy):
        pass  # `ls` reports a damaged bundle; a later command deletes the layers
    except (Misplaced, Moved) as error:
        say(f"all disk layers were kept: {error}")


def recover(state: State, fleet: Fleet, quiet: bool = False, tell: bool = True) -> None:
    """Finishes a merge that a crash cut short. The caller holds the lock.

    Layers that a damaged bundle may name are kept, and so is the journal, until that bundle is
    removed. Commands work meanwhile; with `tell` they say that the merge waits.
    """
    entry = journal.read(state.journal)
    if entry is None:
        return
    action = entry.merge()
    if os.path.dirname(action.base) not in map(os.path.realpath, folders(state)):
        raise Misplaced(f"{state.journal} is of a merge into {action.base}, which is not in a "
                        "folder of this cluster: put the cluster's folder back where it was")
    try:
        _Merging(state, fleet, action, quiet).run(entry.stage, again=True)
    except (bundle.BundleError, Moved) as error:
        # Without a journal the merge had not begun, and the layers are arranged otherwise now.
        if tell and os.path.exists(state.journal):
            say(f"a merge of disk layers waits to be finished: {error}")


class _Merging:
    def __init__(self, state: State, fleet: Fleet, action: layers.Merge, quiet: bool):
        self.state, self.fleet, self.action = state, fleet, action
        self.image_tool = binaries.qemu_img(state.cluster.qemu)
        self.progress = Progress(f"merge into {os.path.basename(action.base)}", quiet)

    def run(self, stage: str = journal.BEGUN, again: bool = False) -> None:
        """`again`: an earlier run of the same merge was cut short, at this stage."""
        if stage != journal.COMMITTED:
            self._note(stage)
            try:
                self._commit(stage, again)
                check_unused(self.fleet, self.action.removed)
            except BaseException as error:
                if self._stage() == journal.BEGUN and not self._under_way():
                    os.unlink(self.state.journal)  # nothing visible was changed
                if isinstance(error, (QmpTimeout, QmpClosed)):
                    raise HotsnapError(
                        f"the merge into {self.action.base} was cut short: {error}; nothing is "
                        "lost, and the next command that changes something mends it") from error
                raise
            self._note(journal.COMMITTED)
        self._move_up()
        self._rewrite_bundles()
        self._drop_nodes()
        check_unused(self.fleet, self.action.removed)
        for path in self.action.removed:
            if os.path.exists(path):
                os.unlink(path)
        atomic.sync_folder(os.path.dirname(self.action.base))
        os.unlink(self.state.journal)
        self.progress.clear()

    def _note(self, stage: str) -> None:
        journal.write(self.state.journal, self.action, stage)

    def _stage(self) -> str | None:
        entry = journal.read(self.state.journal)
        return entry.stage if entry else None

    # The commit

    def _commit(self, stage: str, again: bool) -> None:
        run = [*self.action.removed, self.action.base]
        for name in self._running():
            with self.fleet.qmp(name) as qmp:
                self._clear_job(qmp, stage)
                for info in self.fleet.block_info(qmp).values():
                    files = open_chain(info)
                    used = [path for path in files if path in run]
                    if used == run:
                        self._commit_live(qmp, info, files)
                        return
                    if used == [self.action.base] and again:
                        return  # QEMU has finished the commit
                    if used:
                        raise Moved(f"member {name} does not use its disk layers as it did: "
                                    f"{', '.join(run)} were not merged; the next 'hotsnap rm' "
                                    "looks again")
        if stage == journal.FINALIZING:
            return  # the lower layer counts already
        with_base = ["-b", self.action.base] if len(self.action.removed) > 1 else []
        binaries.run_img(self.image_tool, "commit", "-q", "-d", "-f", "qcow2", *with_base,
                         self.action.top)
        atomic.sync_file(self.action.base)

    def _running(self) -> list[str]:
        """The members that run, those included that the cluster file no longer names."""
        return [name for name in sorted(self.state.members) if self.fleet.running(name)]

    def _under_way(self) -> bool:
        """Whether QEMU may still work on the merge, so that the journal must stay."""
        try:
            for name in self._running():
                with self.fleet.monitor(name) as qmp:
                    if jobs.find(qmp, JOB):
                        return True
        except HotsnapError:
            return True
        return False

    def _clear_job(self, qmp: Qmp, stage: str) -> None:
        """Ends the job that a killed command has left in QEMU."""
        entry = jobs.find(qmp, JOB)
        if entry is None:
            return
        if stage == journal.FINALIZING and entry["status"] == "pending":
            jobs.follow(qmp, JOB)
        else:
            jobs.cancel(qmp, JOB)

    def _commit_live(self, qmp: Qmp, info: dict[str, Any], files: list[str]) -> None:
        node_of = {os.path.realpath(node["file"]): node["node-name"]
                   for node in qmp.execute("query-named-block-nodes", {"flat": True})
                   if node["drv"] == "qcow2"}
        arguments = {"job-id": JOB, "device": info["node-name"], "auto-dismiss": False,
                     "base-node": node_of[self.action.base]}
        active = files[0] == self.action.top
        if active:
            arguments["auto-finalize"] = False
        else:
            arguments["top-node"] = node_of[self.action.top]
        self._note(journal.BEGUN)
        qmp.execute("block-commit", arguments)
        try:
            jobs.follow(qmp, JOB,
                        on_poll=lambda job, _: self.progress.update(job["current-progress"],
                                                                    job["total-progress"]),
                        on_pending=(lambda: self._note(journal.FINALIZING)) if active else None)
        except BaseException:
            if any(self.action.top in open_chain(i) for i in self.fleet.block_info(qmp).values()):
                self._note(journal.BEGUN)  # QEMU stayed where it was, so the upper layer counts
            raise

    def _drop_nodes(self) -> None:
        """Deletes the nodes that QEMU was started with and that no disk uses any more. Such a node
        keeps its file open, and keeps the layer below from being merged."""
        for name in self._running():
            with self.fleet.monitor(name) as qmp:
                for node in qmp.execute("query-named-block-nodes", {"flat": True}):
                    if (node["drv"] == "qcow2"
                            and os.path.realpath(node["file"]) in self.action.removed):
                        with contextlib.suppress(QmpError):  # QEMU deletes the other nodes itself
                            qmp.execute("blockdev-del", {"node-name": node["node-name"]})

    # References to the layers that were merged

    def _move_up(self) -> None:
        """Makes members and upper layers refer to the base; all of them can be used afterwards."""
        in_use = self.fleet.open_files()
        for path in self._above():
            # In a running member's chain QEMU has rewritten the name itself.
            if path not in in_use and qcow2.backing_file(path) != self.action.base:
                binaries.run_img(self.image_tool, "rebase", "-u", "-f", "qcow2", "-F", "qcow2",
                                 "-b", self.action.base, path)
                atomic.sync_file(path)
        for entry in self.state.members.values():
            for disk, path in entry.disks.items():
                if path in self.action.removed:
                    entry.disks[disk] = self.action.base
        self.state.save()

    def _above(self) -> list[str]:
        """The layers over the topmost; some may have been made while this merge waited."""
        known = layers.scan(folders(self.state))
        return sorted(path for path, lower in known.items()
                      if path in self.action.above or lower == self.action.top)

    def _rewrite_bundles(self) -> None:
        whole, damage = bundle.survey(self.state.bundles)
        for kept in whole:
            try:
                self._rewrite(kept)
            except Interrupted:
                raise
            except (OSError, HotsnapError) as error:
                damage.append(bundle.BundleError(f"{kept.path} cannot be brought up to date: "
                                                 f"{error}; 'hotsnap rm {kept.tag}' removes it"))
        if damage:
            raise damage[0]

    def _rewrite(self, kept: bundle.Bundle) -> None:
        """Brings a bundle's manifest up to date; the old sums are deleted once it names the new
        ones."""
        stale = []
        for _, disk in kept.layers():
            if os.path.realpath(disk.overlay) in self.action.removed:
                disk.overlay = self.action.base
            file = os.path.realpath(disk.file)
            if file in self.action.removed:
                disk.file = self.action.base
                stale.append(layer_sums.renew(kept, disk, progress=self.progress))
            elif file in self.action.above:
                stale.append(layer_sums.renew(kept, disk, qcow2.cluster_size(disk.file)))
        if stale:
            kept.save_manifest()
            for path in stale:
                os.unlink(path)
