#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot of disks that fails harms no one: no request stays held, the disks are whole, and the
next snapshot is one of a chain that goes on."""

import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support import chain
from support.cluster import Cluster
from support.gate import Gate
from support.outcome import Report, check, wait_until
from support.unharmed import is_whole, no_trace, settle
from support.workplace import SmallFilesystem, Workplace


def grows_on(cluster: Cluster) -> None:
    """Numbers go round, through all disks."""
    last = cluster.members[-1]
    now = chain.number_now(last)
    wait_until(lambda: chain.number_now(last) > now + 2, "no number comes to the last disk")


def whole(cluster: Cluster, tag: str) -> None:
    manifest = cluster.snapshot(tag, content="disks")
    found = chain.numbers(cluster, manifest)
    check(not chain.grows(found), f"{tag}: {found}")
    for path in {disk["file"] for m in manifest["members"] for disk in m["disks"]}:
        is_whole(path, in_use=True)


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, [chain.member(name, [f"{name}0"]) for name in "abc"])
        cluster.up()
        chain.begin(cluster)
        a, b = cluster["a"].vm, cluster["b"].vm

        def overlays_do_not_fit() -> None:
            with SmallFilesystem(place, 1) as folder:
                (folder / "taken").write_bytes(bytes(900 << 10))
                error = cluster.try_snapshot("full", content="disks", overlay_directory=str(folder))
            check(error and "No space left on device" in error, f"{error}")
            print(f"# {error}")
            settle(cluster)
            no_trace(cluster, "full")
            grows_on(cluster)

        def cancelled_after_a_cut() -> None:
            """b, which is told of the cut late, is not cut; c has cut, and goes back."""
            with Gate(cluster["b"].socket, place.path / "late.sock", "SNAPSHOT") as way:
                members = [m.address for m in cluster.members]
                members[1] = {"name": "b", "address": f"unix:{way.path}"}
                cluster.begin_snapshot("cancelled", content="disks", coloring=False,
                                       members=members)
                cluster["c"].vm.reach("transient-fin")
                a.qmp.execute("job-cancel", {"id": "snap-cancelled"})
                way.open()
                error = a.wait_job("snap-cancelled")
            check(error and "cancel" in error, f"{error}")
            settle(cluster)
            no_trace(cluster, "cancelled")
            grows_on(cluster)
            whole(cluster, "after-cancel")

        def initiator_killed() -> None:
            """After c's cut, before b's: both go back by themselves."""
            with Gate(cluster["b"].socket, place.path / "killed.sock", "SNAPSHOT") as way:
                members = [m.address for m in cluster.members]
                members[1] = {"name": "b", "address": f"unix:{way.path}"}
                cluster.begin_snapshot("killed", content="disks", coloring=False,
                                       members=members)
                cluster["c"].vm.reach("transient-fin")
                a.kill()
                way.open()
                for name in "bc":
                    cluster[name].vm.reach("aborted")
            for member in cluster.members[1:]:
                wait_until(lambda vm=member.vm: not vm.qmp.execute("query-block-jobs"),
                           f"{member.name}: a block job is left")
                check(member.vm.running(), f"{member.name} does not run")
                chain.takes_writes(member)
                for path in place.path.glob(f"{member.name}/{member.name}0*.qcow2"):
                    is_whole(path, in_use=True)
            check(b.phase() == "aborted", f"b: {b.phase()}")

        report.run("overlays-do-not-fit", overlays_do_not_fit)
        report.run("cancelled-after-a-cut", cancelled_after_a_cut)
        report.run("initiator-killed", initiator_killed)


main = Report()
run(main)
main.exit()
