#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of several members are saved at one instant while the VMs run, and by coloring, not by luck.

Three members write numbers to their disks in a chain: in each snapshot of disks the numbers never
grow along it. In the control one member is told late, and nothing is colored.
"""

import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support import chain
from support.cluster import Cluster, Member
from support.cuts import snapshot_late
from support.outcome import Report, check
from support.unharmed import is_whole, not_begun
from support.workplace import Workplace

SNAPSHOTS = 20


def standstills(member: Member) -> set[str]:
    """The events of a pause that the member told of since it was asked last."""
    return {event["event"] for event in member.vm.qmp.events()} & {"STOP", "RESUME"}


def run(report: Report) -> None:
    iothread = ["-object", "iothread,id=io0"]
    scsi = ["-device", "virtio-scsi-pci,id=scsi0,iothread=io0"]
    with Workplace() as place:
        cluster = Cluster(place, [
            chain.member("a", ["a0", "a1"], before_disks=iothread,
                         devices={"a0": "virtio-blk-pci,iothread=io0,id=a0",
                                  "a1": "virtio-blk-pci,id=a1"}),
            chain.member("b", ["b0"], machine="pc",
                         devices={"b0": "ide-hd,id=b0"}),
            chain.member("c", ["c0"], before_disks=iothread + scsi,
                         devices={"c0": "scsi-hd,bus=scsi0.0,id=c0"})])
        cluster.up()
        chain.begin(cluster)

        def many() -> None:
            before, holds = 0, []
            for member in cluster.members:
                member.vm.qmp.events()
            for number in range(SNAPSHOTS):
                manifest = cluster.snapshot(f"s{number}", content="disks")
                found = chain.numbers(cluster, manifest)
                check(not chain.grows(found), f"snapshot {number}: {found}")
                check(found[0] > before, f"snapshot {number} has nothing new: {found}")
                before = found[0]
                check(manifest["version"] == 2 and manifest["content"] == "disks", "its kind")
                check(not any("memory" in m or "pause" in m for m in manifest["members"]),
                      "a member has a memory or a pause")
                holds += [(hold["end_ns"] - hold["begin_ns"],
                           " ".join(f"{step['name']} {step['us']}" for step in hold["steps"]))
                          for hold in (m["hold"] for m in manifest["members"])]
            holds.sort()
            print(f"# numbers at the end {found}; hold median "
                  f"{holds[len(holds) // 2][0] // 1000} us, longest {holds[-1][0] // 1000} us: "
                  f"{holds[-1][1]}")
            for member in cluster.members:
                check(not standstills(member), f"{member.name} was stopped")
                info = member.vm.qmp.execute("query-hotsnap")["snapshot"]
                check(info["content"] == "disks" and "engine" not in info, f"{info}")
                check(info["pause-us"] == 0 and info["hold-us"] > 0, f"{info}")
                check(not {"stop", "resume"} & {s["name"] for s in info["pause-steps"]}, f"{info}")
            shown = cluster["a"].vm.qmp.hmp("info hotsnap")
            check("hold:" in shown and "pause:" not in shown and "engine" not in shown, shown)
            files = {disk["file"] for m in manifest["members"] for disk in m["disks"]}
            for path in files:
                is_whole(path, in_use=True)
            here = {path.name for path in (cluster.bundles / "s0" / "a").iterdir()}
            check(all(name.endswith(".sums") for name in here), f"{here}")

        def control_of_pause() -> None:
            """A snapshot with memory does tell of its pause."""
            cluster.snapshot("memory")
            for member in cluster.members:
                check(standstills(member), f"{member.name}: no event of a pause is seen")

        def named() -> None:
            """Only the named disks; a member without one takes part in the cut."""
            manifest = cluster.snapshot("named", content="disks", disks=[
                {"member": "a", "device": "a1"}, {"member": "c", "device": "c0"}])
            saved = {m["name"]: [d["device"] for d in m["disks"]] for m in manifest["members"]}
            check(saved == {"a": ["a1"], "b": [], "c": ["c0"]}, f"{saved}")
            found = chain.numbers(cluster, manifest)
            check(not chain.grows(found), f"{found}")

        def colored() -> None:
            manifest = snapshot_late(cluster, "on", "c",
                                     lambda: cluster["c"].vm.phase() == "transient-fin",
                                     content="disks")
            cause = next(m for m in manifest["members"] if m["name"] == "c")["cause"]
            check(cause == "red-frame", f"c took its cut for a {cause}")
            found = chain.numbers(cluster, manifest)
            check(not chain.grows(found), f"{found}")

        def control() -> None:
            def at_c() -> int:
                return chain.number_now(cluster["c"])

            before: list[int] = []
            manifest = snapshot_late(
                cluster, "off", "c",
                lambda: before.append(at_c()) or at_c() > before[0] + 3,
                coloring=False, content="disks")
            found = chain.numbers(cluster, manifest)
            print(f"# without coloring: {found}")
            check(chain.grows(found), f"without coloring nothing is wrong: {found}")

        def refused() -> None:
            not_begun(cluster, [
                ({"content": "disks", "engine": "uffd"}, "leave out"),
                ({"content": "disks", "duration": 3}, "leave out"),
                ({"disks": [{"member": "a", "device": "a1"}]}, "needs 'content'")])
            error = cluster.try_snapshot("wrong", content="disks",
                                         disks=[{"member": "b", "device": "b7"}])
            check(error and "There is no disk 'b7'" in error, f"{error}")
            check(not (cluster.bundles / "wrong.partial").exists(), "wrong.partial is left")

        report.run("numbers-never-grow", many)
        report.run("control-with-memory", control_of_pause)
        report.run("named-disks", named)
        report.run("red-frame-makes-the-cut", colored)
        report.run("control-without-coloring", control)
        report.run("refusals", refused)

        def restore_refused() -> None:
            cluster.kill()
            cluster.start_for_restore("s1")
            cluster.begin_restore("s1")
            error = cluster["a"].vm.wait_job("restore-s1")
            check(error and "is a snapshot of disks only" in error, f"{error}")

        report.run("restore-by-qmp-is-refused", restore_refused)


main = Report()
run(main)
main.exit()
