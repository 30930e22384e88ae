# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of failures share: snapshots that must not come about, and what shows that they
harmed nothing."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from harness import Cluster, Member, Vm, Workplace, check
from hotsnap.qmp import QmpError

SLOW = {"bandwidth": 4 << 20}  # the background copy takes half a minute
# Two guests that write to their memory and disks all the time, and talk to each other.
WRITERS = [
    ("a", "writer", {"append": "hs.writer.mib=32 hs.writer.rate=500 hs.writer.disk=20",
                     "disktag": True}),
    ("b", "writer", {"append": "hs.writer.mib=32 hs.writer.rate=500 hs.writer.disk=20"}),
]


def settle(cluster: Cluster, timeout: float = 60) -> None:
    """Waits until no block job is left of an aborted snapshot, and every member is idle."""
    deadline = time.monotonic() + timeout
    for member in cluster.members:
        while True:
            jobs = member.vm.qmp.execute("query-block-jobs")
            phase = member.vm.qmp.execute("query-hotsnap")["phase"]
            if not jobs and phase in ("idle", "aborted", "committed"):
                break
            check(time.monotonic() < deadline, f"{member.name} stays in phase {phase}: {jobs}")
            time.sleep(0.1)


def works_on(member: Member, since: int = 0) -> None:
    """A writer goes on, its disk included; `since` is where to read its console from."""
    counts: list[str] = []
    deadline = time.monotonic() + 30
    while len(counts) < 2:
        counts = re.findall(r"^writer \S+ pages=\d+ disk=(\d+)", member.vm.lines_after(since), re.M)
        check(time.monotonic() < deadline, f"{member.name}: the guest stands still")
        time.sleep(0.2)
    check(int(counts[-1]) > int(counts[0]), f"{member.name}: its disk takes no more writes")
    check("fail" not in member.vm.lines_after(since),
          f"{member.name}: {member.vm.lines_after(since)}")


def unharmed(cluster: Cluster, tag: str) -> None:
    """Every guest works on, disks included, and nothing is left of the snapshot."""
    settle(cluster)
    before = {m.name: len(m.vm.text()) for m in cluster.members}
    for member in cluster.members:
        check(member.vm.running(), f"{member.name} does not run")
    deadline = time.monotonic() + 20
    while leftover := [p.name for p in cluster.bundles.glob(f"{tag}*")]:
        check(time.monotonic() < deadline, f"left behind: {leftover}")
        time.sleep(0.1)
    for member in cluster.members:
        works_on(member, before[member.name])
        deadline = time.monotonic() + 20
        while overlays := list((cluster.place.path / member.name).glob(f"*-{tag}*.qcow2")):
            check(time.monotonic() < deadline, f"{member.name}: overlays left: {overlays}")
            time.sleep(0.1)
    settle(cluster)
    for member in cluster.members:
        raised = member.vm.real_time_threads()
        check(not raised, f"{member.name}: threads kept their priority: {raised}")


def new_tag() -> str:
    """Tags name jobs too; a job that a failed check left behind must not fail the next one."""
    new_tag.count = getattr(new_tag, "count", 0) + 1
    return f"x{new_tag.count}"


def refused(cluster: Cluster, pattern: str, tag: str = "", **arguments) -> None:
    """The snapshot fails with a message that fits, and everything is as before."""
    tag = tag or new_tag()
    try:
        error = cluster.try_snapshot(tag, **arguments)
    except QmpError as refusal:
        error = refusal.desc
    check(error is not None, "it was not refused")
    print(f"# {error}")
    check(re.search(pattern, error), f"the error does not say {pattern!r}: {error}")
    unharmed(cluster, tag)


def start(cluster: Cluster, initiator: int = 0, **arguments) -> str:
    """Starts a snapshot that takes long; returns its tag."""
    tag = new_tag()
    cluster.begin_snapshot(tag, initiator, **{**SLOW, **arguments})
    return tag


def reach(vm: Vm, phase: str, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while (now := vm.qmp.execute("query-hotsnap")["phase"]) != phase:
        check(time.monotonic() < deadline, f"phase {phase} was not reached but {now}")
        time.sleep(0.01)


class SmallFilesystem:
    """A tmpfs of a given size, mounted for the test alone; `options` are mount's."""

    def __init__(self, place: Workplace, mib: int, options: str = "rw"):
        self.path = place.path / f"small-{mib}"
        self.path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,{options}", "none",
                        str(self.path)], check=True)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.path)], check=True)
