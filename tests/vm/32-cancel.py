#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A cancel in each phase that can be held up from outside, by a slow way to one member, and the
cancel of a restore: one clear error, no harm, and nothing left. (The long phases, prepare and full,
are those of 30-failures.)
"""

import time
from pathlib import Path

from delay import DelayedSocket
from harness import Cluster, Failed, Report, Workplace, check
from hotsnap import bundle, verify
from hotsnap.qmp import QmpError
from unharmed import WRITERS, settle, start, unharmed, works_on, writing_cluster

DELAY = 0.5  # seconds that each message to b takes
CANCELLED = "cancelled: by the user"


def slow_way(cluster: Cluster, delay: float = DELAY) -> DelayedSocket:
    return DelayedSocket(cluster["b"].socket, cluster.place.path / "slow.sock", delay)


def members(cluster: Cluster, relay: DelayedSocket) -> list[dict[str, str]]:
    return [cluster["a"].address, {"name": "b", "address": f"unix:{relay.path}"}]


def cancelled(cluster: Cluster, phase: str) -> None:
    a, b = cluster["a"].vm, cluster["b"].vm
    with slow_way(cluster) as relay:
        # Colored, a's first red frame would make b's cut before the message does.
        tag = start(cluster, coloring=phase != "snapshot", members=members(cluster, relay))
        a.reach(phase)
        a.qmp.execute("job-cancel", {"id": f"snap-{tag}"})
        error = a.wait_job(f"snap-{tag}")
    check(error == CANCELLED, f"the job's error: {error}")
    for vm in (a, b):
        told = vm.phases(tag)
        check(told[-2:] == ["aborting", "aborted"], f"{vm.name} told of {told}")
        said = vm.qmp.execute("query-hotsnap").get("error")
        check(said == CANCELLED, f"{vm.name} says {said}")
        if vm is a:
            check(told[-3] == phase, f"it was cancelled in {told[-3]}")
    unharmed(cluster, tag)


def content(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}


def whole(cluster: Cluster) -> None:
    damage = verify.check(bundle.read(str(cluster.bundles / "kept"))).damage
    check(not damage, f"the bundle is damaged: {damage}")


def restore_cancelled(cluster: Cluster) -> None:
    """While its members load: no VM has been started, none will be, and the bundle is as it was."""
    cluster.snapshot("kept")
    cluster.kill()
    before = content(cluster.bundles)
    cluster.start_for_restore("kept")
    a = cluster["a"].vm
    with slow_way(cluster, 2) as relay:
        cluster.begin_restore("kept", members=members(cluster, relay))
        a.reach("load")
        for command, arguments in (
                ("object-del", {"id": "med0"}),
                ("qom-set", {"path": "/objects/med0", "property": "status", "value": "off"})):
            try:
                a.qmp.execute(command, arguments)
                raise Failed(f"{command} of a filter-hotsnap was not refused during a restore")
            except QmpError as error:
                print(f"# {error}")
        time.sleep(0.5)
        a.qmp.execute("job-cancel", {"id": "restore-kept"})
        error = a.wait_job("restore-kept")
    check(error == CANCELLED, f"the job's error: {error}")
    told = a.phases("")
    check(told == ["load", "aborting", "aborted"], f"a told of {told}")
    time.sleep(2)  # what was loading has been loaded by now
    for member in cluster.members:
        status = member.vm.qmp.execute("query-status")
        print(f"# {member.name} is left {status['status']}")
        check(not status["running"], f"{member.name} runs")
        check(not member.vm.text(), f"{member.name} has run: {member.vm.text()[-200:]}")
    check(content(cluster.bundles) == before, "the bundle was changed")
    whole(cluster)


def restore_afterwards(cluster: Cluster) -> None:
    cluster.kill()
    cluster.restore("kept")
    for member in cluster.members:
        works_on(member.vm)


def restore_cancelled_too_late(cluster: Cluster) -> None:
    """a runs already when the cancel comes: the restore is finished, and is no failure."""
    cluster.kill()
    cluster.start_for_restore("kept")
    a = cluster["a"].vm
    with slow_way(cluster) as relay:
        cluster.begin_restore("kept", members=members(cluster, relay))
        a.reach("start")
        a.qmp.execute("job-cancel", {"id": "restore-kept"})
        error = a.wait_job("restore-kept")
        check(error is None, f"the job's error: {error}")
        for member in cluster.members:
            told = member.vm.phases("")
            check(told == ["load", "start", "restored"], f"{member.name} told of {told}")
    for member in cluster.members:
        works_on(member.vm)


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = writing_cluster(place, WRITERS)
        for phase in ("install", "arm", "snapshot", "transient-fin"):
            report.run(f"cancel-in-{phase}", lambda phase=phase: cancelled(cluster, phase))
        settle(cluster)
        report.run("cancel-restore", lambda: restore_cancelled(cluster))
        report.run("restore-after-cancel", lambda: restore_afterwards(cluster))
        report.run("cancel-restore-too-late", lambda: restore_cancelled_too_late(cluster))


main = Report()
run(main)
main.exit()
