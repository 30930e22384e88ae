# SPDX-License-Identifier: GPL-2.0-or-later
"""ls, show and rm: lists, describes and removes bundles."""

from __future__ import annotations

import os
from typing import Any

from ..disks import ancestry, merge, survey
from ..errors import HotsnapError
from ..model import bundle, reading, recoveries, restore_line
from ..model.state import State
from ..qemu.fleet import Fleet
from ..ui.output import human_size, print_json, say, table
from . import recovery

MANNERS = (("precopy", "PRECOPY"), ("background", "BACKGROUND"), ("guest_write", "GUEST"), ("dma_write", "DMA"),
           ("kvm_write", "KVM"))
NOTE_WIDTH = 40
MOST_WORDS = 8  # members that another one speaks to, in a line of `show`


def summary(directory: str, name: str) -> dict[str, Any]:
    """One line of `ls`."""
    path = os.path.join(directory, name)
    row: dict[str, Any] = {"tag": name, "path": path, "status": "complete", "error": None}
    if name.endswith(bundle.PARTIAL):
        row.update(status="incomplete", error="left of a snapshot that did not complete: "
                                              f"'hotsnap rm {name}' removes it")
        return row
    try:
        found = bundle.read(path)
    except HotsnapError as error:
        row.update(status="damaged", error=str(error))
        return row
    backoff, hold = found.backoff_max_ms(), found.hold_max_ms()
    row.update(content=found.content, cut=found.manifest.cut.order,
               disks=[f"{member.name}:{disk.device}" for member, disk in found.layers()],
               hold_max_ms=None if hold is None else round(hold, 3), created=found.manifest.created, epoch=found.manifest.epoch,
               initiator=found.manifest.initiator,
               members=[member.name for member in found.members],
               downtime_max_ms=round(found.downtime_max_ms(), 3),
               backoff_max_ms=None if backoff is None else round(backoff, 3),
               frames=found.frames(), lost=found.lost(), bytes=found.disk_bytes(),
               note=_note(found))
    return row


def _or_dash(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f}ms"


def _note(found: bundle.Bundle) -> str | None:
    try:
        return found.notes().note
    except HotsnapError as error:
        return str(error)


def _with_parents(state: State, rows: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The rows as a tree: each with its depth, below the snapshot that it came from."""
    parent = ancestry.parents(bundle.survey(state.bundles)[0])
    for row in rows:
        row["parent"] = parent.get(row["tag"])
    of = {row["tag"]: row for row in rows}
    return [(depth, of[tag]) for depth, tag in ancestry.tree(of, parent)]


def ls(state: State, as_json: bool) -> None:
    rows = [summary(state.bundles, name) for name in bundle.folders(state.bundles)]
    branches = _with_parents(state, rows)
    if as_json:
        print_json({"directory": state.bundles, "bundles": rows})
        return
    print(table(("TAG", "STATUS", "CONTENT", "CREATED", "MEMBERS", "DOWNTIME", "BACKOFF", "FRAMES",
                 "SIZE", "NOTE"),
                [("  " * depth + r["tag"], r["status"], r["content"], r["created"],
                  len(r["members"]), f"{r['downtime_max_ms']:.1f}ms",
                  _or_dash(r["backoff_max_ms"]), r["frames"], human_size(r["bytes"]),
                  _brief(r["note"])) if r["status"] == "complete"
                 else (r["tag"], r["status"], *"--------") for depth, r in branches],
                right="MEMBERS DOWNTIME BACKOFF FRAMES SIZE"))
    for row in rows:
        if row["error"]:
            say(f"{row['tag']}: {row['error']}")


def _brief(note: str | None) -> str:
    """The first line of a note, if it is not too long."""
    line = (note or "-").split("\n")[0]
    return line if len(line) <= NOTE_WIDTH else line[:NOTE_WIDTH - 1] + "…"


def report(found: bundle.Bundle) -> str:
    """What `snapshot` and `show` print: pauses, backoff, pages by manner, channels, disks."""
    manifest = found.manifest
    if found.only_disks:
        return _disks_report(found)
    backoff = found.backoff_max_ms()
    lines = [f"{found.tag}: {len(found.members)} members, led by {manifest.initiator}, "
             f"{manifest.created}, epoch {manifest.epoch}",
             f"downtime {found.downtime_max_ms():.2f} ms at most, TCP backoff "
             f"{'unknown' if backoff is None else f'{backoff:.2f} ms at most'}, {found.frames()} "
             f"frames of channel state, {found.lost()} lost"]
    lines += [*_mode(found), *_finish(manifest.finish), ""]
    manners = MANNERS if manifest.mode == "precopy" else MANNERS[1:]
    lines.append(table(
        ("MEMBER", "PAUSE", "CAUSE", "PAGES", "ZERO", *(label for _, label in manners),
         "FAULTS", "FRAMES"),
        [(m.name, f"{m.pause.ms:.2f}ms", m.cause or "-", m.memory.pages.total,
          m.memory.pages.zero, *(getattr(m.memory.pages, key) for key, _ in manners),
          "-" if m.memory.faults is None else m.memory.faults, m.channel.frames)
         for m in found.members if m.pause and m.memory],
        right="PAUSE PAGES ZERO PRECOPY BACKGROUND GUEST DMA KVM FAULTS FRAMES"))
    lines += ["", f"PAGES are of 4 KiB: ZERO of them take no space; {manners[0][1]} to KVM tell in "
                  "which manner they were saved"]
    if doubts := found.doubts():
        lines += ["", *(f"warning: {doubt}" for doubt in doubts)]
    return "\n".join(lines)


def _mode(found: bundle.Bundle) -> list[str]:
    """Nothing for the ordinary mode."""
    if found.manifest.mode == "stop-and-copy":
        return ["each member stood still until its memory was copied"]
    if found.manifest.mode != "precopy":
        return []
    late = [f"{m.name} {(m.memory.precopy_written or 0) * 4096 / (1 << 20):.0f} MiB"
            for m in found.members if m.memory and m.memory.precopy_converged == 0]
    return ["memory was copied before the cut" + (
        f"; that did not converge, and left for after it: {', '.join(late)}" if late else "")]


def _disks_report(found: bundle.Bundle) -> str:
    manifest = found.manifest
    lines = [f"{found.tag}: {sum(1 for _ in found.layers())} disks, {len(found.members)} members "
             f"in the cut, led by {manifest.initiator}, {manifest.created}, epoch {manifest.epoch}",
             f"no pause; disk requests were held for {found.hold_max_ms():.2f} ms at most"
             + (", until all members held theirs" if manifest.cut.order == "barrier" else ""), ""]
    lines.append(table(("MEMBER", "HOLD", "DRAIN", "CAUSE", "DISKS"),
                       [(m.name, f"{m.cut.ms:.2f}ms", f"{m.drain_ms:.2f}ms", m.cause or "-",
                         len(m.disks)) for m in found.members], right="HOLD DRAIN DISKS"))
    lines += ["", "DRAIN is the part of HOLD in which requests in flight were waited for"]
    if doubts := found.doubts():
        lines += ["", *(f"warning: {doubt}" for doubt in doubts)]
    return "\n".join(lines)


def _finish(finish: bundle.Finish | None) -> list[str]:
    if finish is None:
        return []
    worst = finish.worst_us()
    asked = finish.duration_us / 1e6
    end = asked + finish.delay_us / 1e6
    return [f"all copies were to end {end:.3f} s after the cut"
            + (f" ({asked:.3f} s were asked for, and a member could not make it)"
               if finish.delay_us else "")
            + (f"; they did so within {abs(worst) / 1000:.1f} ms" if worst is not None else "")]


def details(found: bundle.Bundle) -> str:
    note = _note(found)
    lines = [*([note, ""] if note else []), report(found), ""]
    if not found.only_disks:
        lines.append(table(("PAIR", "BACKOFF"),
                           [(f"{pair.a} - {pair.b}", f"{pair.us / 1000:.2f}ms")
                            for pair in found.manifest.cut.pairs], right="BACKOFF"))
        lines.append("")
    steps = [step.name for step in found.members[0].cut.steps] if found.members else []
    lines.append(table((f"{'HOLD' if found.only_disks else 'PAUSE'} (us)", *(m.name for m in found.members)),
                       [(name, *(_step(m, name) for m in found.members)) for name in steps],
                       right=" ".join(m.name for m in found.members)))
    lines.append("")
    lines.append(table(("MEMBER", "DISK", "FROZEN LAYER"),
                       [(m.name, d.device, d.file) for m, d in found.layers()]))
    for name, quiesced in sorted(found.notes().quiesced.items()):
        lines += ["", f"{name}: {quiesced.filesystems} file systems were frozen at the cut, for "
                      f"{quiesced.frozen_ms:.0f} ms"]
    if plan := restore_line.plan(found):
        lines += ["", *_restore_line(found, plan)]
    return "\n".join(lines)


def _restore_line(found: bundle.Bundle, plan: restore_line.Plan) -> list[str]:
    """Who speaks to whom, and when each member could start."""
    names = [member.name for member in found.members]
    window = {m: group for group in plan.groups for m in group.members}
    words = [", ".join(f"{names[to]} {us / 1000:.1f}ms" for to, us in
                       sorted(speaker.contacts, key=lambda c: c[::-1])[:MOST_WORDS])
             + (", …" if len(speaker.contacts) > MOST_WORDS else "") for speaker in plan.speakers]
    rows = [(names[m], f"{window[m].start_us / 1000:.0f}ms",
             "any time" if window[m].latest_us is None else f"{window[m].latest_us / 1000:.0f}ms",
             human_size(plan.windows[m]), f"{plan.speakers[m].until_us / 1e6:.1f}s",
             words[m] or "-") for group in plan.groups for m in group.members]
    return [table(("MEMBER", "START", "LATEST", "WINDOW", "KNOWN", "SPEAKS FIRST TO"), rows,
                  right="START LATEST WINDOW KNOWN"), "",
            "START: when members could start with nobody speaking to one that does not run, if "
            f"{restore_line.BYTES_PER_SECOND / 1e9:.3g} GB are",
            "loaded in a second. LATEST: the same of one of them, the others as they are. KNOWN: for "
            "how long after",
            "the cut it was noted who speaks to whom. 'restore' does not use this yet: it starts all "
            "at one instant"]


def _step(member: bundle.SavedMember, name: str) -> str:
    return next((f"{step.us:.0f}" for step in member.cut.steps if step.name == name), "-")


def rm(state: State, fleet: Fleet, tag: str, quiet: bool = False) -> dict[str, Any]:
    """Removes a bundle and joins the disk layers that only it needed; the caller holds the lock."""
    if "/" in tag or tag in ("", ".", ".."):
        raise HotsnapError(f"{tag!r} is not a tag: 'hotsnap ls' lists them")
    path = os.path.join(state.bundles, tag)
    if not os.path.isdir(path):
        raise HotsnapError(f"no snapshot {tag!r}: 'hotsnap ls' lists those there are")
    reading.refuse(state, f"snapshot {tag!r} cannot be removed now", tag)
    # A merge may wait for the removal of this bundle, and need not be mentioned.
    recovery.recover(state, fleet, quiet, tell=False)
    for name in fleet.running_names():
        with fleet.monitor(name) as qmp:
            survey.check_rest(fleet, name, qmp)
            if fleet.snapshots and survey.loads_from(qmp, path):
                raise survey.Busy(f"member {name} still loads its memory from {tag!r}: wait until "
                                  "all of it is there, or run 'hotsnap down'")
    survey.check_state(state, fleet, survey.scan(state))
    for name in recoveries.standing_on(state.directory).get(tag, ()):
        raise HotsnapError(f"recovery {name!r} stands on the disks of {tag!r}: 'hotsnap recovery "
                           f"rm {name}' removes it first")
    bundle.remove(path)
    return {"removed": tag, **join_layers(state, fleet, quiet)}


def tell_removed(what: str, done: dict[str, Any]) -> None:
    """What was removed, and what became of the disk layers that only it needed."""
    merged = sum(len(m["removed"]) for m in done["merged"])
    print(f"removed {what}; disk layers: {len(done['deleted'])} deleted, {merged} merged")
    for path in done["kept_unneeded"]:
        print(f"kept {path}: several layers lie over it, or 'hotsnap export' or 'ship' reads it, or "
              "UEFI's variables are in it, whose last layers are joined when the member is down")
    if done["remark"]:
        say(done["remark"])


def join_layers(state: State, fleet: Fleet, quiet: bool = False) -> dict[str, Any]:
    """Joins the disk layers that no bundle needs any more, or remarks why they were kept; the
    caller holds the lock."""
    merge.recover(state, fleet, quiet)
    try:
        return {**merge.tidy(state, fleet, quiet=quiet), "remark": None}
    except (bundle.BundleError, survey.Busy) as error:
        return {"deleted": [], "merged": [], "kept_unneeded": [],
                "remark": f"all disk layers were kept: {error}"}
