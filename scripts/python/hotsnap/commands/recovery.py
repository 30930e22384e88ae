# SPDX-License-Identifier: GPL-2.0-or-later
"""Mends what an earlier command left behind; each command that changes something does this first.

A restore keeps the disks that it replaces until it has succeeded. So that this holds when the
command or the host dies, state.json says under `restoring`, from before the first member is ended:

    tag      what is restored
    before   member to disk id to the file that it wrote to
    made     the same, of the new layers
    started  there once the new members are about to be started, and all old ones are ended
    undo     there once the restore is known to have failed

While `restoring` is there, no layer is deleted or merged. It is removed when the restore has
succeeded, or when everything is as before; a command that finds it brings about one or the other.
A merge that was cut short is finished by disks/merge.py.
"""

from __future__ import annotations

import contextlib
import os
import time

from ..disks import merge, relocate, survey
from ..errors import HotsnapError
from ..formats import qcow2
from ..model.state import Restoring, State
from ..qemu.fleet import Fleet
from ..ui.output import say

START_TIMEOUT = 60.0  # seconds; in half of that the members have started, or have given it up


def recover(state: State, fleet: Fleet, quiet: bool = False, tell: bool = True,
            golden: bool = True) -> None:
    """The caller holds the lock. With `tell` a merge that has to wait is mentioned; `golden` as in
    relocate()."""
    relocate.relocate(state, golden)
    if state.restoring:
        tag = state.restoring.tag
        if went_through(state, fleet):
            end_restore(state)
            say(f"the restore of {tag!r} that was cut short has succeeded since")
        else:
            began = state.restoring.started
            undo_restore(state, fleet)
            say(f"the restore of {tag!r} was cut short: it was undone, " +
                ("nothing runs, and the disks are as they were before it" if began else
                 "before it had started anything"))
    merge.recover(state, fleet, quiet, tell)


def begin_restore(state: State, fleet: Fleet, tag: str, disks: dict[str, list[str]]
                  ) -> dict[str, dict[str, str]]:
    """Notes what will be replaced; returns names for the new layers, which do not exist yet."""
    for name in disks:
        entry = state.member(name)
        if fleet.running(name):
            # If it does not answer, the layers over the file that was noted are found later.
            with contextlib.suppress(HotsnapError), fleet.monitor(name) as qmp:
                fleet.note_disks(name, qmp)
        else:
            entry.disks = survey.settle(entry, survey.scan(state, [name]))
    before = {name: dict(state.members[name].disks) for name in disks}
    made = {name: {disk: state.new_layer(name, disk) for disk in wanted}
            for name, wanted in disks.items()}
    state.restoring = Restoring(tag, before, made)
    state.save()
    return made


def starting(state: State) -> None:
    """The next save of the state, which comes before a new member runs, has this."""
    assert state.restoring
    state.restoring.started = True


def end_restore(state: State) -> None:
    """The restore has succeeded: the disks from before are not needed for it any more."""
    state.restoring = None
    state.save()


def undo_restore(state: State, fleet: Fleet) -> None:
    """Ends what was started and drops the new layers. Can be repeated if it is cut short."""
    assert state.restoring
    state.restoring.undo = True
    state.save()
    made, before = state.restoring.made, state.restoring.before
    began = state.restoring.started
    if began:  # else the members that run are those from before
        fleet.kill(made)
    for files in made.values():
        for path in files.values():
            if os.path.lexists(path):
                os.unlink(path)
    for name, disks in before.items() if began else ():
        entry = state.member(name)
        entry.disks, entry.below = disks, {}
    state.restoring = None
    state.save()


def went_through(state: State, fleet: Fleet) -> bool:
    """Whether a restore whose command was killed let the guests go on.

    Guests go on once all members have loaded, so that one guest that went on is proof for all. If
    no member is left to be asked, written disks are the proof; a guest that did not run has written
    nothing.
    """
    assert state.restoring
    if state.restoring.undo or not state.restoring.started:
        return False
    made = state.restoring.made
    running = [name for name in made if fleet.running(name)]
    if not running:
        files = [path for disks in made.values() for path in disks.values()]
        return all(map(os.path.exists, files)) and any(map(qcow2.written, files))
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        told = [_standing(state, fleet, name) for name in running]
        if any(status == "running" or phase == "restored" for status, phase in told):
            return True
        if all(phase != "start" for _, phase in told):
            return False
        if time.monotonic() > deadline:
            raise HotsnapError(f"the restore of {state.restoring.tag!r} goes on without its "
                               "command and starts the members: give the command again soon")
        time.sleep(0.05)


def _standing(state: State, fleet: Fleet, name: str) -> tuple[str, str]:
    """The status of a member's VM, and the phase of its restore."""
    try:
        with fleet.monitor(name) as qmp:
            return (qmp.execute("query-status")["status"],
                    qmp.execute("query-hotsnap")["phase"] if fleet.snapshots else "")
    except HotsnapError as error:
        assert state.restoring
        raise HotsnapError(
            f"the restore of {state.restoring.tag!r} was cut short, and member {name} does "
            f"not tell whether it goes on: {error}; nothing was deleted; give the command "
            "again, or run 'hotsnap down --force' first") from error
