#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A failure is reported once, clearly, and does no harm: every VM goes on running, its disks are
whole, and nothing is left under the snapshot's name.
"""

import json
import re
import signal
import stat
import subprocess
import sys
import time
from typing import Callable

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster
from support.gate import Gate
from support.outcome import Failed, Report, check, wait_until
from support.paths import PATIENCE
from support.unharmed import (WRITERS, finish, is_whole, refused, settle, start, unharmed,
                              writing_cluster)
from support.vm import Vm
from support.workplace import SmallFilesystem, Workplace
from hotsnap.qemu.qmp import QmpError


def existing_tag(cluster: Cluster) -> None:
    (cluster.bundles / "there").mkdir()
    try:
        cluster.try_snapshot("there")
        raise Failed("it was not refused")
    except QmpError as error:
        check("exists already" in error.desc, error.desc)
    (cluster.bundles / "there").rmdir()
    unharmed(cluster, "there")


def interrupted_tag(cluster: Cluster) -> None:
    (cluster.bundles / "x.partial").mkdir()
    try:
        cluster.try_snapshot("x")
        raise Failed("it was not refused")
    except QmpError as error:
        check("interrupted" in error.desc, error.desc)
    (cluster.bundles / "x.partial").rmdir()


def no_space_before(cluster: Cluster) -> None:
    with SmallFilesystem(cluster.place, 20) as folder:
        refused(cluster, r"(?i)space", directory=str(folder))
        check(not list(folder.iterdir()), "files are left on the full file system")


def no_space_during(cluster: Cluster) -> None:
    """Enough space is free at the beginning; then another program fills the file system."""
    with SmallFilesystem(cluster.place, 900) as folder:
        a = cluster["a"].vm
        tag = start(cluster, directory=str(folder))
        a.reach("full")
        subprocess.run(["dd", "if=/dev/zero", f"of={folder}/filler", "bs=1M", "status=none"],
                       stderr=subprocess.DEVNULL, check=False)
        try:
            a.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})
        except QmpError:
            pass  # the snapshot has failed already, as it should
        error = a.wait_job(f"snap-{tag}")
        check(error and re.search(r"(?i)space", error), f"error: {error}")
        print(f"# {error}")
        unharmed(cluster, tag)
        (folder / "filler").unlink()
        check(not list(folder.iterdir()), f"left: {list(folder.iterdir())}")


def cancelled(cluster: Cluster, phase: str) -> None:
    a = cluster["a"].vm
    tag = start(cluster)
    a.reach(phase)
    a.qmp.execute("job-cancel", {"id": f"snap-{tag}"})
    a.wait_job(f"snap-{tag}")
    unharmed(cluster, tag)


def cancelled_while_preparing(cluster: Cluster) -> None:
    """A peer stands still and keeps the others preparing; the cancel takes effect all the same."""
    a, b = cluster["a"].vm, cluster["b"].vm
    b.process.send_signal(signal.SIGSTOP)
    try:
        tag = start(cluster)
        time.sleep(1)
        a.qmp.execute("job-cancel", {"id": f"snap-{tag}"})
        time.sleep(0.5)
        check(a.running(), "a does not run")
    finally:
        b.process.send_signal(signal.SIGCONT)
    a.wait_job(f"snap-{tag}")
    unharmed(cluster, tag)


def priority(cluster: Cluster) -> None:
    """A member's loops have real-time priority only while it is armed and waits for its cut, the
    thread that answers write faults until the copy ends; vCPUs have none while the guest runs."""
    a, b = cluster["a"].vm, cluster["b"].vm
    with Gate(cluster["b"].socket, cluster.place.path / "gate.sock", held_back="ARMED") as way:
        tag = start(cluster, bandwidth=0, coloring=False,
                    members=[cluster["a"].address, {"name": "b", "address": f"unix:{way.path}"}])
        raised = wait_until(lambda: len(found := b.real_time_threads()) > 2 and found,
                            "armed, no loops have real-time priority")
        check("hs-faults" in raised and not any("CPU" in name for name in raised), f"{raised}")
        way.open()
        error = a.wait_job(f"snap-{tag}")
        check(error is None, f"error: {error}")
    print(f"# {raised}")
    for vm in (a, b):
        wait_until(lambda vm=vm: not vm.real_time_threads(),
                   lambda vm=vm: f"{vm.name}: {vm.real_time_threads()} keep it")


def second_snapshot(cluster: Cluster) -> None:
    a, b = cluster["a"].vm, cluster["b"].vm
    tag = start(cluster)
    a.reach("full")
    for vm, index in ((a, 0), (b, 1)):
        try:
            start(cluster, initiator=index)
            raise Failed(f"{vm.name} takes a second snapshot while one runs")
        except QmpError as error:
            check("during a cluster snapshot" in error.desc or "in progress" in error.desc,
                  error.desc)
    try:
        a.qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "late"})
        raise Failed("a device was plugged in while a snapshot runs")
    except QmpError as error:
        check("device_add is not allowed during" in error.desc, error.desc)
    try:
        a.qmp.execute("migrate", {"uri": f"file:{cluster.place.path}/nowhere"})
        raise Failed("a migration began while a snapshot runs")
    except QmpError as error:
        check("snapshot is in progress" in error.desc, error.desc)
    a.qmp.execute("job-cancel", {"id": f"snap-{tag}"})
    a.wait_job(f"snap-{tag}")
    unharmed(cluster, tag)


def migration_runs(cluster: Cluster) -> None:
    a = cluster["a"].vm
    a.qmp.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
    a.qmp.execute("migrate", {"uri": f"file:{cluster.place.path}/migration"})
    try:
        refused(cluster, "migration is in progress")
    finally:
        a.qmp.execute("migrate_cancel")
        wait_until(lambda: a.qmp.execute("query-migrate")["status"] in
                   ("cancelled", "failed", "completed"), "the migration does not end")
        if not a.running():
            a.qmp.execute("cont")


def unknown_member(cluster: Cluster) -> None:
    refused(cluster, "nobody", members=[cluster["a"].address,
                                        {"name": "nobody", "address": "unix:/nonexistent/sock"}])


def outside_address(cluster: Cluster) -> None:
    refused(cluster, "loopback", members=[{"name": "b", "address": "tcp:192.0.2.1:4000"}])


def wrong_name(cluster: Cluster) -> None:
    refused(cluster, "there is member 'b', not 'zebra'", members=[{"name": "zebra",
                                           "address": cluster["b"].address["address"]}])


def same_name_twice(cluster: Cluster) -> None:
    refused(cluster, "(?i)twice|same|duplicate",
            members=[cluster["b"].address, cluster["b"].address])


def silent_member(cluster: Cluster) -> None:
    """A peer stands still while the copies run: the initiator gives it up, and it undoes its part
    when it is back. The initiator has finished its own part by then."""
    a, b = cluster["a"].vm, cluster["b"].vm
    tag = start(cluster)
    a.reach("full")
    b.reach("full")
    b.process.send_signal(signal.SIGSTOP)
    try:
        a.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})
        error = a.wait_job(f"snap-{tag}")
        check(error and "'b' does not answer" in error, f"error: {error}")
        print(f"# {error}")
        check(a.running(), "a does not run")
    finally:
        b.process.send_signal(signal.SIGCONT)
    unharmed(cluster, tag)


def stopped_after_its_promise(cluster: Cluster) -> None:
    """b has done its part, and stands still while the bundle is published. When it is back, it
    sends before it reads, and the initiator has closed the link; yet it reads the last message."""
    a, b = cluster["a"].vm, cluster["b"].vm
    tag = start(cluster)
    a.reach("full")
    b.reach("full")
    finish(cluster["b"], tag)
    b.process.send_signal(signal.SIGSTOP)
    try:
        a.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})
        error = a.wait_job(f"snap-{tag}")
        check(error is None, f"error: {error}")
        time.sleep(1.5)
    finally:
        b.process.send_signal(signal.SIGCONT)
    told = b.phases(tag)
    check(told[-1] == "committed", f"b told of {told}")


def lost_initiator(cluster: Cluster) -> None:
    """The initiator's connections break: peers undo their part by themselves."""
    with Gate(cluster["b"].socket, cluster.place.path / "gate.sock") as way:
        tag = start(cluster, members=[cluster["a"].address,
                                      {"name": "b", "address": f"unix:{way.path}"}])
        cluster["b"].vm.reach("full")
    error = cluster["a"].vm.wait_job(f"snap-{tag}")
    check(error and "'b'" in error, f"error: {error}")
    print(f"# {error}")
    unharmed(cluster, tag)


def killed_peer(cluster: Cluster) -> None:
    """The last test of these: b does not come back."""
    a, b = cluster["a"].vm, cluster["b"].vm
    tag = start(cluster)
    a.reach("full")
    b.kill()
    error = a.wait_job(f"snap-{tag}")
    check(error and "b" in error, f"error: {error}")
    print(f"# {error}")
    check(a.running(), "a does not run")
    cluster.members.remove(cluster["b"])
    settle(cluster)
    check(not (cluster.bundles / tag).exists(), "the snapshot exists")


def disks_are_whole(cluster: Cluster) -> None:
    """After all these tests, each image is without an error."""
    a = cluster["a"]
    a.vm.qmp.execute("quit")
    a.vm.process.wait(PATIENCE)
    for _, path in a.disks:
        if path.suffix == ".qcow2":
            is_whole(path)


def one_cluster(report: Report) -> None:
    with Workplace() as place:
        cluster = writing_cluster(place, WRITERS)

        def case(function: Callable, *arguments) -> None:
            name = "-".join([function.__name__.replace("_", "-"), *map(str, arguments)])
            report.run(f"failure-{name}", lambda: function(cluster, *arguments))

        case(existing_tag)
        case(interrupted_tag)
        report.run("failure-no-such-folder",
                   lambda: refused(cluster, "Cannot create folder", directory="/proc/nowhere"))
        report.run("failure-bad-tag", lambda: refused(cluster, "no name", tag="../x"))
        case(no_space_before)
        case(no_space_during)
        case(unknown_member)
        case(outside_address)
        case(wrong_name)
        case(same_name_twice)
        case(priority)
        case(second_snapshot)
        case(migration_runs)
        case(cancelled_while_preparing)
        case(cancelled, "full")
        case(stopped_after_its_promise)
        case(lost_initiator)
        case(silent_member)
        report.run("failure-snapshot-afterwards", lambda: cluster.snapshot("good"))
        case(killed_peer)
        case(disks_are_whole)


def launch(listen: str) -> Vm:
    with Workplace() as place:
        vm = Vm(place, "x", ["-machine", "none", "-object",
                             f"hotsnap-member,id=hs0,name=x,listen={listen.format(place.path)}"])
        if listen.startswith("unix:"):
            mode = stat.S_IMODE((place.path / "x.sock").stat().st_mode)
            check(mode == 0o600, f"the socket's mode is {mode:o}")
        vm.qmp.execute("quit")
        vm.process.wait(30)
        return vm


def listens(address: str) -> None:
    launch(address)


def does_not_listen(address: str) -> None:
    try:
        launch(address)
    except Failed as error:
        check("loopback" in str(error), str(error))
    else:
        raise Failed(f"it listens at {address}")


def human_monitor() -> None:
    """hotsnap_cluster and info hotsnap in the human monitor."""
    with Workplace() as place:
        cluster = Cluster(place, [("solo", "idle", {})])
        cluster.up()
        solo = cluster["solo"].vm
        said = solo.qmp.hmp(f"hotsnap_cluster t {cluster.bundles}")
        check(not said.strip(), said)
        error = solo.wait_job("hotsnap-t")
        check(error is None, str(error))
        said = solo.qmp.hmp("info hotsnap")
        check("phase:   committed" in said and "tag:     t" in said, said)
        check("exists already" in solo.qmp.hmp(f"hotsnap_cluster t {cluster.bundles}"),
              "an existing tag is not refused")
        said = solo.qmp.hmp(f"hotsnap_cluster -s -d 4.5 paced {cluster.bundles}")
        check(not said.strip(), said)
        error = solo.wait_job("hotsnap-paced")
        check(error is None, str(error))
        manifest = json.loads((cluster.bundles / "paced" / "manifest.json").read_text())
        check(manifest["finish"]["duration_us"] == 4_500_000, f"it says {manifest['finish']}")
        said = solo.qmp.hmp(f"hotsnap_cluster -d soon x {cluster.bundles}")
        check("'soon' is no number of seconds" in said, said)
        said = solo.qmp.hmp(f"hotsnap_cluster -s x {cluster.bundles}")
        check("'strict' needs a 'duration'" in said, said)


def damaged_bundle(report: Report) -> None:
    """QEMU itself refuses a bundle that cannot be loaded, says so, and waits for another one."""
    with Workplace() as place:
        cluster = Cluster(place, [("a", "idle", {}), ("b", "idle", {})])
        cluster.up()
        cluster.snapshot("t")
        cluster.kill()
        state = cluster.bundles / "t" / "b" / "state"

        def restore_must_fail(pattern: str) -> None:
            try:
                cluster.restore("t")
            except Failed as error:
                print(f"# {error}")
                check(re.search(pattern, str(error)), str(error))
            else:
                raise Failed("it was restored")
            for member in cluster.members:
                check(not member.vm.running(), f"{member.name} runs")
            cluster.kill()

        def truncated() -> None:
            whole = state.read_bytes()
            with open(state, "r+b") as file:
                file.truncate(len(whole) // 2)
            restore_must_fail(r"'b'.*state")
            state.write_bytes(whole)

        def missing() -> None:
            state.rename(state.with_suffix(".away"))
            restore_must_fail(r"'b'.*No such file")
            state.with_suffix(".away").rename(state)

        report.run("failure-truncated-bundle", truncated)
        report.run("failure-bundle-without-a-member", missing)
        report.run("failure-restore-afterwards", lambda: cluster.restore("t"))


def refused_device(name: str, options: dict, pattern: str) -> None:
    with Workplace() as place:
        cluster = Cluster(place, [("solo", "writer", {"append": "hs.writer.disk=20", **options})])
        cluster.up()
        cluster["solo"].vm.wait_console(r"writer solo pages=[1-9]")
        refused(cluster, pattern)


main = Report()
one_cluster(main)
main.run("listens-at-a-private-socket", lambda: listens("unix:{}/x.sock"))
main.run("listens-at-loopback", lambda: listens("tcp:127.0.0.1:0"))
main.run("failure-listen-elsewhere", lambda: does_not_listen("tcp:0.0.0.0:0"))
main.run("human-monitor", human_monitor)
damaged_bundle(main)
main.run("failure-nic-without-mediator",
         lambda: refused_device("mediator", {"no_mediator": True}, "no packet mediator"))
main.run("failure-non-migratable-device",
         lambda: refused_device("nvme", {"args": ["-device", "nvme,serial=x"]}, "nvme"))
main.exit()
