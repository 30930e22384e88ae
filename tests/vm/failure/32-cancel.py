#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A cancel in each phase that a slow link to one member can hold up, and the cancel of a restore:
one clear error, no harm, nothing left. (30-failures cancels in the long phases, prepare and full.)
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster
from support.gate import Gate
from support.outcome import Failed, Report, check, wait_until
from support.unharmed import WRITERS, settle, start, unharmed, works_on, writing_cluster
from support.workplace import Workplace
from hotsnap.commands import verify
from hotsnap.model import bundle
from hotsnap.qemu.qmp import QmpError

CANCELLED = "cancelled: by the user"
# The initiator stays in each of these phases until b has answered the message beside it.
BEGUN_BY = {"install": "INSTALL", "arm": "ARM", "snapshot": "SNAPSHOT",
            "transient-fin": "ALL_TRANSIENT_SNAP_FIN"}


def gate(cluster: Cluster, held: str) -> Gate:
    return Gate(cluster["b"].socket, cluster.place.path / "gate.sock", held)


def members(cluster: Cluster, way: Gate) -> list[dict[str, str]]:
    return [cluster["a"].address, {"name": "b", "address": f"unix:{way.path}"}]


def cancelled(cluster: Cluster, phase: str) -> None:
    a, b = cluster["a"].vm, cluster["b"].vm
    with gate(cluster, BEGUN_BY[phase]) as way:
        # With coloring, a's first red frame would force b's cut before SNAPSHOT comes. With a dump
        # the timeouts of cut and drain are long.
        tag = start(cluster, coloring=phase != "snapshot", members=members(cluster, way),
                    x_dump=phase in ("snapshot", "transient-fin"))
        a.reach(phase)
        a.qmp.execute("job-cancel", {"id": f"snap-{tag}"})
        way.open()
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
    """A cancel while members load: no VM was started, none will be, the bundle is unchanged."""
    cluster.snapshot("kept")
    cluster.kill()
    before = content(cluster.bundles)
    cluster.start_for_restore("kept")
    a = cluster["a"].vm
    with gate(cluster, "RESTORE") as way:
        cluster.begin_restore("kept", members=members(cluster, way))
        a.reach("load")
        for command, arguments in (
                ("object-del", {"id": "med0"}),
                ("qom-set", {"path": "/objects/med0", "property": "status", "value": "off"})):
            try:
                a.qmp.execute(command, arguments)
                raise Failed(f"{command} of a filter-hotsnap was not refused during a restore")
            except QmpError as error:
                print(f"# {error}")
        a.qmp.execute("job-cancel", {"id": "restore-kept"})
        way.open()
        error = a.wait_job("restore-kept")
    check(error == CANCELLED, f"the job's error: {error}")
    told = a.phases("")
    check(told == ["load", "aborting", "aborted"], f"a told of {told}")
    time.sleep(2)  # a load under way has ended by now
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
    """a runs already when the cancel comes: the restore goes on and succeeds."""
    cluster.kill()
    cluster.start_for_restore("kept")
    a = cluster["a"].vm
    with gate(cluster, "START") as way:
        cluster.begin_restore("kept", members=members(cluster, way))
        a.reach("start")
        wait_until(a.running, "a is not started")
        a.qmp.execute("job-cancel", {"id": "restore-kept"})
        way.open()
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
