#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster of real servers is saved while it works, killed, and restored.

It runs memcached and PostgreSQL with a client of each, and numbered UDP and TCP messages on all
pairs. Two snapshots are taken in a row; the first is restored before the second, and then again.
The restored cluster is saved and restored, too. The initiator is another one each time.
"""

import itertools
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster
from support.cutcheck import check_bundle
from support.outcome import Report, check, wait_until
from support.tier import left_to_all
from support.paths import GUEST, QEMU_IMG
from support.vm import Vm
from support.workplace import Workplace, img_create

MEMBERS = [
    ("cache", "cache", {}),
    ("client", "client", {"append": "hs.cache=cache hs.db=db"}),
    ("db", "db", {"disktag": True}),
]


DISK_WRITES = r"disktag db issued=\d+ completed=(\d+)\s*\n"


def consistent(cluster: Cluster, tag: str) -> None:
    """The images alone show: no message was received that was not sent; disks and memory agree."""
    result = check_bundle(cluster.bundles / tag, str(QEMU_IMG))
    check(result.consistent, "; ".join(result.problems) or f"{result.orphans} orphans")
    check(any(disk["member"] == "db" for disk in result.disks), "no disk was compared")


def rows_are_there(cluster: Cluster, tag: str) -> None:
    """The snapshot's disk of the database holds every row that the client's memory records as
    committed: PostgreSQL is started on this disk, alone."""
    result = check_bundle(cluster.bundles / tag, str(QEMU_IMG))
    acknowledged = max(row["committed"] for row in result.rows)
    check(acknowledged > 0, "no row was committed before the cut")
    manifest = json.loads((cluster.bundles / tag / "manifest.json").read_text())
    disks = next(m for m in manifest["members"] if m["name"] == "db")["disks"]
    arguments = ["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256",
                 "-kernel", str(GUEST / "vmlinuz"), "-initrd", str(GUEST / "initrd.img"),
                 "-append", "console=ttyS0 quiet no_timer_check hs.name=check hs.role=pgcheck"]
    for disk in disks:
        overlay = img_create(cluster.place.path / f"check-{tag}-{disk['device']}.qcow2",
                             backing=Path(disk["file"]), backing_format=disk["format"])
        arguments += ["-drive", f"if=virtio,file={overlay},format=qcow2,cache=unsafe"]
    vm = Vm(cluster.place, f"check-{tag}", arguments)
    found = vm.wait_console(r"pgcheck: rows=(\d+) max=(\d+) contiguous=(yes|no)", timeout=300)
    vm.kill()
    print(f"# {tag}: {acknowledged} rows acknowledged, on disk {found.group(0)}")
    check(found.group(3) == "yes", f"rows are missing: {found.group(0)}")
    check(int(found.group(1)) >= acknowledged,
          f"the client had {acknowledged} rows acknowledged, the disk has {found.group(1)}")


def disk_writes(cluster: Cluster) -> int:
    """The number of completed writes of hs-disktag; waits for its first line."""
    console = cluster["db"].vm
    console.wait_console(DISK_WRITES)
    return int(re.findall(DISK_WRITES, console.text())[-1])


def backoff_of_all(manifest: dict) -> None:
    """The cut's figures are those of all members, the initiator's too."""
    pauses = {m["name"]: m["pause"] for m in manifest["members"]}
    expected = {}
    for a, b in itertools.combinations(pauses, 2):
        first = min(pauses[a]["begin_ns"], pauses[b]["begin_ns"])
        last = max(pauses[a]["end_ns"], pauses[b]["end_ns"])
        expected[a, b] = (last - first + 500) // 1000
    cut = manifest["cut"]
    check({(p["a"], p["b"]): p["us"] for p in cut["pairs"]} == expected
          and cut["backoff_max_us"] == max(expected.values()),
          f"pauses {pauses}, but the cut says {cut}")
    longest = max(p["end_ns"] - p["begin_ns"] for p in pauses.values())
    check(cut["downtime_max_us"] == (longest + 500) // 1000,
          f"the longest pause is {longest} ns, but the cut says {cut['downtime_max_us']} us")


def alive(cluster: Cluster, before: Chatter | None = None, seconds: float = 4) -> Chatter:
    """All pairs exchange messages, no message is missing, and no connection was made anew."""
    disk = disk_writes(cluster)
    last = Chatter.wait_flow(cluster, seconds)
    wait_until(lambda: disk_writes(cluster) > disk,
               "the database member's disk takes no more writes")
    last.must_be_unharmed(before)
    return last


# The phases of the HOTSNAP_PHASE events, in this order (docs/qmp-reference.md).
PHASES = ["prepare", "install", "arm", "snapshot", "transient-fin", "full", "publish", "committed"]


def told(cluster: Cluster, tag: str, initiator: int) -> None:
    """Each member has reported its phases in order; only the initiator publishes."""
    for index, member in enumerate(cluster.members):
        expected = [p for p in PHASES if p != "publish" or index == initiator]
        found = member.vm.phases(tag)
        check(found == expected, f"{member.name} told of {found}, not {expected}")


def progress_of(vm: Vm, job: str) -> tuple[int, int]:
    found = next(j for j in vm.qmp.execute("query-jobs") if j["id"] == job)
    return found["current-progress"], found["total-progress"]


def progressed(progress: list[tuple[int, int]], manifest: dict) -> None:
    """The job's progress grew step by step, up to all memory of all members."""
    total = 4096 * sum(m["memory"]["pages"]["total"] for m in manifest["members"])
    done = [now for now, _ in progress]
    check(done == sorted(done), f"the progress went back: {done}")
    check(progress[-1] == (total, total), f"progress ended at {progress[-1]}, not {total}")


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, MEMBERS)
        cluster.up()
        cluster["client"].vm.wait_console(r"pg client committed=[1-9]")
        alive(cluster)

        def take(tag: str, initiator: int) -> None:
            # Slow until some progress was reported.
            cluster.begin_snapshot(tag, initiator, bandwidth=4 << 20)
            vm, seen = cluster.members[initiator].vm, set()
            wait_until(lambda: seen.add(progress_of(vm, f"snap-{tag}")) or len(seen) > 4,
                       lambda: f"no progress is told: {seen}")
            for member in cluster.members:
                member.vm.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})
            error = vm.wait_job(f"snap-{tag}")
            check(error is None, f"snapshot {tag}: {error}")
            manifest = json.loads((cluster.bundles / tag / "manifest.json").read_text())
            check(manifest["initiator"] == MEMBERS[initiator][0], "wrong initiator")
            told(cluster, tag, initiator)
            progressed([*sorted(seen), *vm.progress], manifest)
            pauses = [m["pause"] for m in manifest["members"]]
            print(f"# {tag}: backoff_max_us={manifest['cut']['backoff_max_us']}, pauses "
                  f"{[(p['end_ns'] - p['begin_ns']) // 1000 for p in pauses]} us")
            backoff_of_all(manifest)
            for member in cluster.members:
                # The thread that answers faults ends, in other members, soon after the job.
                wait_until(lambda vm=member.vm: not vm.real_time_threads(),
                           lambda one=member: f"{one.name}: threads keep their priority: "
                                              f"{one.vm.real_time_threads()}")
            consistent(cluster, tag)
            alive(cluster)

        def bring_back(tag: str, initiator: int, memory: str = "full") -> None:
            cluster.kill()
            cluster.restore(tag, initiator, memory=memory)
            for member in cluster.members:
                found = member.vm.phases("")
                check(found == ["load", "start", "restored"], f"{member.name} told of {found}")
            alive(cluster)

        report.run("snapshot-first", lambda: take("one", 0))
        report.run("snapshot-second-other-initiator", lambda: take("two", 2))
        report.run("disk-and-memory-agree-on-rows", lambda: rows_are_there(cluster, "two"))
        report.run("restore-first-after-second", lambda: bring_back("one", 1))
        report.run("restore-second", lambda: bring_back("two", 0))
        if not left_to_all("the first snapshot again"):
            report.run("restore-first-again", lambda: bring_back("one", 2))
        report.run("snapshot-of-the-restored", lambda: take("three", 1))
        if not left_to_all("a snapshot of a restored cluster in full"):
            report.run("restore-snapshot-of-the-restored", lambda: bring_back("three", 0))
        report.run("restore-on-demand", lambda: bring_back("three", 1, "lazy"))
        report.run("snapshot-of-one-restored-on-demand", lambda: take("four", 2))
        report.run("restore-that-on-demand", lambda: bring_back("four", 0, "lazy"))


main = Report()
run(main)
main.exit()
