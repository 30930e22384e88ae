# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the tests of failures: snapshots that must fail, and the proof that they did no
harm."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hotsnap.qemu.qmp import QmpError

from .cluster import Cluster, Member
from .outcome import check, wait_until
from .paths import QEMU_IMG
from .vm import Vm
from .workplace import Workplace

SLOW = {"bandwidth": 1 << 20}  # the background copy takes more than a minute
# Two guests that write to their memory and disks all the time, and talk to each other.
WRITERS = [
    ("a", "writer", {"append": "hs.writer.mib=32 hs.writer.rate=500 hs.writer.disk=20",
                     "disktag": True}),
    ("b", "writer", {"append": "hs.writer.mib=32 hs.writer.rate=500 hs.writer.disk=20"}),
]


def writing_cluster(place: Workplace, members: list[tuple[str, str, dict]]) -> Cluster:
    """A cluster of writers, in which each member has begun to write."""
    cluster = Cluster(place, members)
    cluster.up()
    for member in cluster.members:
        member.vm.wait_console(rf"writer {member.name} pages=[1-9]")
    return cluster


def settle(cluster: Cluster) -> None:
    """Waits until no block job is left of an aborted snapshot, and every member is idle."""
    for member in cluster.members:
        wait_until(lambda vm=member.vm: not vm.qmp.execute("query-block-jobs"),
                   lambda vm=member.vm: f"{vm.name}: {vm.qmp.execute('query-block-jobs')}")
        member.vm.reach("idle", "aborted", "committed")


def works_on(vm: Vm, since: int | None = None) -> None:
    """A writer goes on, its disk included. Its console is read from offset `since`, or from now
    on."""
    offset = len(vm.text()) if since is None else since

    def counts() -> set[int]:
        found = re.findall(r"^writer \S+ pages=\d+ disk=(\d+)", vm.lines_after(offset), re.M)
        return set(map(int, found))

    wait_until(lambda: len(counts()) > 1,
               lambda: f"{vm.name}: its disk takes no more writes: {vm.lines_after(offset)[-300:]}")
    check("fail" not in vm.lines_after(offset), f"{vm.name}: {vm.lines_after(offset)}")


def no_trace(cluster: Cluster, tag: str) -> None:
    """Neither bundle nor overlay is left of a snapshot."""
    def left() -> list[str]:
        return [p.name for p in [*cluster.bundles.glob(f"{tag}*"),
                                 *cluster.place.path.glob(f"*/*-{tag}*.qcow2")]]

    wait_until(lambda: not left(), lambda: f"left behind: {left()}")


def finish(member: Member, tag: str) -> None:
    """Lets a slow snapshot end at one member; waits until it has done its part and reported it."""
    vm = member.vm
    vm.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})
    part = member.cluster.bundles / f"{tag}.partial" / member.name
    wait_until((part / "channel.vnet").exists, f"{vm.name} does not finish its part")
    working = {"hotsnap/settle", "hotsnap/channel"}
    wait_until(lambda: working.isdisjoint(name for _, name in vm.threads()),
               f"{vm.name} has something left to do")
    for _ in range(2):  # so that the main loop has finished the last thread's remaining work
        vm.phase()


def is_whole(image: Path | str, in_use: bool = False) -> None:
    """`in_use`: a QEMU may have it open."""
    done = subprocess.run([str(QEMU_IMG), "check", *(["-U"] if in_use else []), str(image)],
                          capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"{image}: {done.stdout}{done.stderr}")


def unharmed(cluster: Cluster, tag: str) -> None:
    """Every guest goes on working, disks included, and nothing is left of the snapshot."""
    settle(cluster)
    before = {m.name: len(m.vm.text()) for m in cluster.members}
    for member in cluster.members:
        check(member.vm.running(), f"{member.name} does not run")
    no_trace(cluster, tag)
    for member in cluster.members:
        works_on(member.vm, before[member.name])
    settle(cluster)
    for member in cluster.members:
        raised = member.vm.real_time_threads()
        check(not raised, f"{member.name}: threads kept their priority: {raised}")


def new_tag() -> str:
    """A tag that no check has used: jobs are named after it, and a failed check may leave a job."""
    new_tag.count = getattr(new_tag, "count", 0) + 1
    return f"x{new_tag.count}"


def refused(cluster: Cluster, pattern: str, tag: str = "", **arguments) -> None:
    """The snapshot fails with a message that matches `pattern`, and leaves everything as before."""
    tag = tag or new_tag()
    try:
        error = cluster.try_snapshot(tag, **arguments)
    except QmpError as refusal:
        error = refusal.desc
    check(error is not None, "it was not refused")
    print(f"# {error}")
    check(re.search(pattern, error), f"the error does not say {pattern!r}: {error}")
    unharmed(cluster, tag)


def not_begun(cluster: Cluster, cases: list[tuple[dict, str]]) -> None:
    """Each of these arguments is refused by the command itself, with that text, and makes nothing."""
    for wrong, pattern in cases:
        try:
            cluster.begin_snapshot("wrong", **wrong)
        except QmpError as error:
            check(pattern in error.desc, error.desc)
        else:
            check(False, f"{wrong} was not refused")
    check(not (cluster.bundles / "wrong.partial").exists(), "wrong.partial is left")


def start(cluster: Cluster, initiator: int = 0, **arguments) -> str:
    """Starts a slow snapshot; returns its tag."""
    tag = new_tag()
    cluster.begin_snapshot(tag, initiator, **{**SLOW, **arguments})
    return tag
