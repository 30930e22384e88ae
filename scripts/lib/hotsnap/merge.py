# SPDX-License-Identifier: GPL-2.0-or-later
"""Carrying out a plan of layers.py on a cluster that runs or does not.

Deleting is one step. A merge is many: commit, new checksums, manifests, the layers above, the
state, and at last the files. It is written down in merge.json first, and `recover` finishes it
after a crash. Every step can be repeated, because a commit leaves the layer on top as it was, and
that layer hides whatever a commit that was cut short has written below it.

One step needs care: when the topmost layer is the one that a running member writes to, QEMU goes
on in the layer below, and from then on the layer on top is out of date. The job is therefore not
finalized by itself. While it is pending, both layers have the same content and the guest's writes
wait; "finalizing" is written down then, and whoever reads it knows that the lower one counts.
"""

from __future__ import annotations

import json
import os
from typing import Any

from . import atomic, binaries, bundle, jobs, layers, sums
from .errors import HotsnapError
from .fleet import Fleet, open_chain
from .output import Progress
from .qmp import Qmp
from .state import State

JOB = "hotsnap-merge"
AT_REST = {"idle", "committed", "aborted", "in-doubt", "restored"}


def folders(state: State) -> list[str]:
    names = {member.name for member in state.cluster.members} | set(state.members)
    return [state.member_folder(name) for name in sorted(names)]


def settle(entry: dict[str, Any], known: dict[str, str | None]) -> dict[str, str]:
    """Disk id to the file that a member which does not run wrote to last.

    What was noted may be out of date: a snapshot that nobody noted puts a layer on top, and one
    that was aborted after its cut takes the layer away again once it is committed.
    """
    found = {}
    for disk, path in entry.get("disks", {}).items():
        candidates = [path, *entry.get("below", {}).get(disk, [])]
        there = next((c for c in candidates if c in known), path)
        found[disk] = layers.topmost(known, there)
    return found


def needed(state: State, fleet: Fleet, known: dict[str, str | None]) -> set[str]:
    """Layers that a bundle names or a member writes to. BundleError when a bundle is damaged."""
    keep = {disk["file"] for b in bundle.complete(state.bundles) for _, disk in b.layers()}
    for name, entry in state.members.items():
        if fleet.running(name):
            with fleet.monitor(name) as qmp:
                if fleet.snapshots and qmp.execute("query-hotsnap")["phase"] not in AT_REST:
                    raise HotsnapError(f"member {name} is in a snapshot: wait until it is over")
                fleet.note_disks(name, qmp)
        elif "disks" in entry:
            entry["disks"] = settle(entry, known)
        keep.update(entry.get("disks", {}).values())
    return keep


def tidy(state: State, fleet: Fleet, merge: bool = True, quiet: bool = False) -> dict[str, Any]:
    """Remove and, if `merge`, join the layers that nothing needs; returns what was done.

    The caller holds the lock.
    """
    known = layers.scan(folders(state))
    keep = needed(state, fleet, known)
    done: dict[str, Any] = {"deleted": [], "merged": []}
    for action in layers.plan(known, keep):
        if isinstance(action, layers.Delete):
            os.unlink(action.path)
            done["deleted"].append(action.path)
        elif merge:
            _Merging(state, fleet, action, quiet).run()
            done["merged"].append({"base": action.base, "removed": list(action.removed)})
    state.save()
    left = layers.scan(folders(state))
    done["kept_unneeded"] = sorted(set(left) - needed(state, fleet, left))
    return done


def collect(state: State, fleet: Fleet) -> None:
    """Delete what nothing needs, which is quick; keep it all when a bundle cannot be read."""
    try:
        tidy(state, fleet, merge=False)
    except bundle.BundleError:
        pass  # `ls` and `verify` report it


def recover(state: State, fleet: Fleet, quiet: bool = False) -> None:
    """Finish the merge that a crash cut short. The caller holds the lock."""
    if not os.path.exists(state.journal):
        return
    with open(state.journal, encoding="utf-8") as stream:
        entry = json.load(stream)
    action = layers.Merge(entry["base"], tuple(entry["removed"]), tuple(entry["above"]))
    _Merging(state, fleet, action, quiet).run(entry["stage"])


class _Merging:
    def __init__(self, state: State, fleet: Fleet, action: layers.Merge, quiet: bool):
        self.state, self.fleet, self.action = state, fleet, action
        self.image_tool = binaries.qemu_img(state.cluster.qemu)
        self.progress = Progress(f"merge into {os.path.basename(action.base)}", quiet)

    def run(self, stage: str = "begun") -> None:
        """`stage` is where an earlier run of the same merge is known to have been."""
        if stage != "committed":
            self._note(stage)
            try:
                self._commit(stage)
            except BaseException:
                if self._stage() == "begun":
                    os.unlink(self.state.journal)  # nothing that anybody sees was changed
                raise
            self._note("committed")
        self._follow_up()
        for path in self.action.removed:
            if os.path.exists(path):
                os.unlink(path)
        atomic.sync_folder(os.path.dirname(self.action.base))
        os.unlink(self.state.journal)
        self.progress.clear()

    def _note(self, stage: str) -> None:
        atomic.write_json(self.state.journal, {
            "base": self.action.base, "removed": self.action.removed,
            "above": self.action.above, "stage": stage})

    def _stage(self) -> str:
        with open(self.state.journal, encoding="utf-8") as stream:
            return json.load(stream)["stage"]

    # The commit

    def _commit(self, stage: str) -> None:
        for name in self.fleet.running_names():
            with self.fleet.qmp(name) as qmp:
                self._clear_job(qmp, stage)
                for info in self.fleet.block_info(qmp).values():
                    files = open_chain(info)
                    if self.action.base in files:
                        if self.action.top in files:
                            self._commit_live(qmp, info, files)
                        return
        if stage == "finalizing":
            return  # the lower layer counts, see above
        with_base = ["-b", self.action.base] if len(self.action.removed) > 1 else []
        binaries.run_img(self.image_tool, "commit", "-q", "-d", "-f", "qcow2", *with_base,
                         self.action.top)
        _sync(self.action.base)

    def _clear_job(self, qmp: Qmp, stage: str) -> None:
        """What a command that died has left in QEMU."""
        entry = jobs.find(qmp, JOB)
        if entry is None:
            return
        if stage == "finalizing" and entry["status"] == "pending":
            jobs.follow(qmp, JOB)
        else:
            jobs.cancel(qmp, JOB)

    def _commit_live(self, qmp: Qmp, info: dict[str, Any], files: list[str]) -> None:
        node_of = {node["file"]: node["node-name"]
                   for node in qmp.execute("query-named-block-nodes", {"flat": True})
                   if node["drv"] == "qcow2"}
        arguments = {"job-id": JOB, "device": info["node-name"], "auto-dismiss": False,
                     "base-node": node_of[self.action.base]}
        active = files[0] == self.action.top
        if active:
            arguments["auto-finalize"] = False
        else:
            arguments["top-node"] = node_of[self.action.top]
        self._note("begun")
        qmp.execute("block-commit", arguments)
        try:
            jobs.follow(qmp, JOB,
                        on_poll=lambda job, _: self.progress.update(job["current-progress"],
                                                                    job["total-progress"]),
                        on_pending=(lambda: self._note("finalizing")) if active else None)
        except BaseException:
            if any(self.action.top in open_chain(i) for i in self.fleet.block_info(qmp).values()):
                self._note("begun")  # QEMU stayed where it was, so the upper layer counts
            raise

    # What refers to the layers that are gone

    def _follow_up(self) -> None:
        in_use = set()
        for name in self.fleet.running_names():
            with self.fleet.monitor(name) as qmp:
                for info in self.fleet.block_info(qmp).values():
                    in_use.update(open_chain(info))
        for path in self.action.above:
            # In a running member's chain QEMU has rewritten the name itself.
            if path not in in_use and layers.backing_file(path) != self.action.base:
                binaries.run_img(self.image_tool, "rebase", "-u", "-f", "qcow2", "-F", "qcow2",
                                 "-b", self.action.base, path)
                _sync(path)
        for kept in bundle.complete(self.state.bundles):
            self._rewrite(kept)
        for entry in self.state.members.values():
            for disk, path in entry.get("disks", {}).items():
                if path in self.action.removed:
                    entry["disks"][disk] = self.action.base
        self.state.save()

    def _rewrite(self, kept: bundle.Bundle) -> None:
        """Bring a bundle's manifest up to date; its old sums go once it names the new ones."""
        stale = []
        for _, disk in kept.layers():
            if disk["overlay"] in self.action.removed:
                disk["overlay"] = self.action.base
            if disk["file"] in self.action.removed:
                disk["file"] = self.action.base
                stale.append(self._sum(kept, disk, None))
            elif disk["file"] in self.action.above:
                stale.append(self._sum(kept, disk, layers.cluster_size(disk["file"])))
        if stale:
            kept.save_manifest()
            for path in stale:
                os.unlink(path)

    def _sum(self, kept: bundle.Bundle, disk: dict[str, Any], head: int | None) -> str:
        """New sums, of all of a layer or of its first `head` bytes; returns the old sums' path."""
        old = kept.file(disk["sums"])
        stem = disk["sums"].split(".m")[0].removesuffix(".sums")
        number = 1
        while os.path.exists(kept.file(f"{stem}.m{number}.sums")):
            number += 1
        name = f"{stem}.m{number}.sums"
        if head is None:
            done = 0
            total = os.stat(disk["file"]).st_size

            def progress(count: int) -> None:
                nonlocal done
                done += count
                self.progress.update(done, total, "checksums")

            value = sums.write(disk["file"], kept.file(name), progress=progress)
        else:
            value = sums.refresh(disk["file"], sums.read(old, disk["sums_xxh3"]),
                                 kept.file(name), head)
        disk["sums"], disk["sums_xxh3"] = name, f"{value:016x}"
        return old


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
