#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A restore leaves QEMU as it was: a restored VM can be migrated, and a VM whose state did not load
has its settings back. Objects that the restore needs cannot be removed before it has ended.
"""

import copy
import re
import sys
from types import SimpleNamespace

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import LINE
from support.cluster import Cluster
from support.gate import Gate
from support.outcome import Failed, Report, check, wait_until
from support.vm import Vm
from support.workplace import Workplace
from hotsnap.qemu.qmp import QmpError


def mapped_ram(vm: Vm) -> bool:
    return next(c["state"] for c in vm.qmp.execute("query-migrate-capabilities")
                if c["capability"] == "mapped-ram")


def target_of(cluster: Cluster, name: str) -> Vm:
    """A QEMU like the member's, which waits for the member's migration; it is on another network,
    with a tap of the same name."""
    member = copy.copy(cluster[name])
    place = cluster.place
    member.cluster = SimpleNamespace(place=place, members=cluster.members,
                                     network=place.network([member.tap]))
    member.socket = place.path / f"{name}-target.sock"
    return member.start(cluster[name].restored_disks,
                        ["-incoming", f"unix:{place.path}/{name}.migration"])


def migrated(cluster: Cluster, name: str) -> None:
    vm = cluster[name].vm
    check(not mapped_ram(vm), "mapped-ram stays on")
    target = target_of(cluster, name)
    vm.qmp.execute("migrate", {"uri": f"unix:{cluster.place.path}/{name}.migration"})

    def state() -> str:
        info = vm.qmp.execute("query-migrate")
        check(info["status"] != "failed", f"the migration failed: {info}")
        return info["status"]

    wait_until(lambda: state() == "completed", lambda: f"the migration is {state()}")
    wait_until(target.running, "the VM does not run where it was migrated to")
    target.wait_console(LINE.pattern)  # its guest goes on


def failed(cluster: Cluster, tag: str) -> None:
    state = cluster.bundles / tag / "b" / "state"
    with open(state, "r+b") as file:
        begin = file.read(4)
        file.seek(0)
        file.write(b"none")
    try:
        cluster.start_for_restore(tag)
        cluster.begin_restore(tag)
        error = cluster["a"].vm.wait_job(f"restore-{tag}")
        check(error and "state" in error, str(error))
        for member in cluster.members:
            wait_until(lambda vm=member.vm: not mapped_ram(vm),
                       f"{member.name}: mapped-ram stays on")
            check(not member.vm.running(), f"{member.name} runs")
    finally:
        with open(state, "r+b") as file:
            file.write(begin)
        cluster.kill()


def nothing_is_removed(cluster: Cluster, tag: str) -> None:
    """b has started, but the restore is not over before the initiator knows that all have."""
    a, b = cluster["a"], cluster["b"]
    cluster.start_for_restore(tag)
    with Gate(b.socket, cluster.place.path / "gate.sock", held_back="STARTED") as way:
        cluster.begin_restore(tag, members=[
            a.address, {"name": "b", "address": f"unix:{way.path}"}])
        wait_until(b.vm.running, "b was not started", interval=0.02)
        for command, arguments in (
                ("object-del", {"id": "med0"}),
                ("object-del", {"id": "hs0"}),
                ("netdev_del", {"id": "net0"}),
                ("qom-set", {"path": "/objects/med0", "property": "status", "value": "off"})):
            try:
                b.vm.qmp.execute(command, arguments)
            except QmpError as error:
                print(f"# {error}")
                check(re.search("not allowed during|in use", error.desc), str(error))
            else:
                raise Failed(f"{command} was not refused")
        way.open()
        error = a.vm.wait_job(f"restore-{tag}")
        check(error is None, f"restore: {error}")


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, [("a", "idle", {}), ("b", "idle", {})])
        cluster.up()
        cluster.snapshot("t")
        cluster.kill()
        report.run("settings-after-a-failed-load", lambda: failed(cluster, "t"))
        report.run("nothing-is-removed-before-the-end", lambda: nothing_is_removed(cluster, "t"))
        report.run("migrated-after-a-restore", lambda: migrated(cluster, "b"))


main = Report()
run(main)
main.exit()
