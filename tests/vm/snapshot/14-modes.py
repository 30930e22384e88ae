#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cut of a cluster in the modes stop-and-copy and precopy.

With stop-and-copy each member stands still from its cut until its own memory is copied. The cut,
the colors and the bundle are those of any snapshot: the channels are closed while the members
stand, the images equal dumps made in the pause, nothing is lost, and the cluster goes on. With
precopy memory is copied before any frame is colored; the cut is at one instant all the same.
(16-precopy looks at the images.)
"""

import json
import sys
import time

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster
from support.cutcheck import check_bundle
from support.cuts import must_be_whole, snapshot_late
from support.image import Image, compare
from support.outcome import Report, check, wait_until
from support.tier import left_to_all
from support.unharmed import no_trace
from support.workplace import Workplace
from hotsnap.qemu.qmp import QmpError

SLOW = 4 << 20  # bytes a second of each copy
STANDS = 1.5    # seconds that the members are watched while they stand


def status(vm) -> str:
    return vm.qmp.execute("query-status")["status"]


def let_go(cluster: Cluster) -> None:
    for member in cluster.members:
        member.vm.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})


def stands(cluster: Cluster) -> None:
    cluster.begin_snapshot("still", mode="stop-and-copy", bandwidth=SLOW, x_dump=True)
    for member in cluster.members:
        member.vm.reach("full")  # so all channels are closed already
        check(status(member.vm) == "save-vm", f"{member.name} is {status(member.vm)}")
    begin = {member.name: len(member.vm.text()) for member in cluster.members}
    time.sleep(STANDS)
    for member in cluster.members:
        printed = member.vm.lines_after(begin[member.name])
        check(not printed, f"{member.name} has run: {printed}")
        info = member.vm.qmp.execute("query-hotsnap")["snapshot"]
        check(info["mode"] == "stop-and-copy" and info["bytes-done"] < info["bytes-total"],
              f"{info}")
    let_go(cluster)
    error = cluster["a"].vm.wait_job("snap-still")
    check(error is None, f"snapshot: {error}")
    folder = cluster.bundles / "still"
    manifest = json.loads((folder / "manifest.json").read_text())
    check(manifest["mode"] == "stop-and-copy", f"the manifest says {manifest.get('mode')}")
    for saved in manifest["members"]:
        pause, memory = saved["pause"], saved["memory"]
        steps = {step["name"]: step["us"] for step in pause["steps"]}
        check(steps["copy"] >= STANDS * 1e6, f"{saved['name']}: {steps}")
        check(pause["end_ns"] >= memory["copied_ns"], f"{saved['name']} ran before its copy ended")
        check(memory["faults"] == 0, f"{saved['name']}: {memory['faults']} faults while it stood")
    with Image(folder / "a" / "state") as image, Image(folder / "a" / "state.dump") as dump:
        differing = len(compare(image, dump))
    check(differing == 0, f"a: {differing} pages differ from the dump")
    longest = max(m["pause"]["end_ns"] - m["pause"]["begin_ns"] for m in manifest["members"])
    check(manifest["cut"]["downtime_max_us"] == (longest + 500) // 1000,
          f"the longest pause is {longest} ns: {manifest['cut']['downtime_max_us']} us told")
    check(manifest["cut"]["unmarked"] == 0, f"{manifest['cut']}")
    must_be_whole(cluster, "still", manifest)
    for member in cluster.members:
        check(member.vm.running(), f"{member.name} does not run")
    Chatter.wait_flow(cluster)


def cancelled(cluster: Cluster) -> None:
    """A cancel while the members stand: they run again at once."""
    cluster.begin_snapshot("gone", mode="stop-and-copy", bandwidth=1 << 20)
    for member in cluster.members:
        member.vm.reach("full")
    cluster["a"].vm.qmp.execute("job-cancel", {"id": "snap-gone"})
    error = cluster["a"].vm.wait_job("snap-gone")
    check(error == "cancelled: by the user", f"the job's error: {error}")
    for member in cluster.members:
        wait_until(member.vm.running, lambda m=member: f"{m.name} is {status(m.vm)}")
    no_trace(cluster, "gone")
    Chatter.wait_flow(cluster)


def refused(cluster: Cluster) -> None:
    try:
        cluster.begin_snapshot("no", mode="stop-and-copy", duration=3)
    except QmpError as error:
        print(f"# {error}")
        check("'duration' is for 'mode' \"hot\"" in str(error), f"{error}")
    else:
        check(False, "a duration was taken")
    check(not list(cluster.bundles.glob("no*")), "something is left")


def late(cluster: Cluster) -> None:
    """A member that is told late is made to take its cut by a red frame, when it is armed."""
    manifest = snapshot_late(cluster, "pre", "c",
                             lambda: cluster["c"].vm.phase() == "transient-fin", mode="precopy")
    phases = [moment["phase"] for moment in manifest["timeline"]]
    check(phases[:3] == ["prepare", "precopy", "install"], f"the phases are {phases}")
    check(manifest["mode"] == "precopy", f"the manifest says {manifest.get('mode')}")
    for saved in manifest["members"]:
        memory, pause = saved["memory"], saved["pause"]
        check(memory["engine"] == "uffd" and memory["pages"]["precopy"] > 0, f"{memory}")
        print(f"# {saved['name']}: cut for a {saved['cause']}, pause "
              f"{(pause['end_ns'] - pause['begin_ns']) / 1e6:.1f} ms, {memory['precopy_rounds']} "
              f"rounds, {memory['pages']['precopy']} of {memory['pages']['total']} pages before it")
    check(any(saved["cause"] == "red-frame" for saved in manifest["members"]),
          "no red frame forced a cut")
    must_be_whole(cluster, "pre", manifest)


def control(cluster: Cluster, mode: str) -> None:
    """Without colors a member that is told late receives messages of those that run again."""
    def received() -> int:
        return Chatter.read(cluster).pairs["c", "b"]["udp_received"]

    before: list[int] = []  # from b's cut on
    tag = f"off-{mode}"
    snapshot_late(cluster, tag, "c",
                  lambda: before.append(received()) or received() > before[0] + 300,
                  coloring=False, mode=mode)
    orphans = check_bundle(cluster.bundles / tag).orphans
    print(f"# without coloring {orphans} orphans")
    check(orphans > 0, "without coloring nothing is wrong: the checker sees nothing")


def restored(cluster: Cluster, tag: str) -> None:
    cluster.kill()
    cluster.restore(tag)
    Chatter.wait_flow(cluster)
    Chatter.wait(cluster).must_be_unharmed()


def run(report: Report) -> None:
    load = {"append": "hs.chatter.rate=200"}
    with Workplace() as place:
        cluster = Cluster(place, [(name, "idle", load) for name in "abc"])
        cluster.up()
        Chatter.wait_flow(cluster)
        report.run("members-stand-until-copied", lambda: stands(cluster))
        report.run("cancel-while-they-stand", lambda: cancelled(cluster))
        report.run("duration-is-refused", lambda: refused(cluster))
        report.run("nothing-is-lost",
                   lambda: Chatter.wait(cluster).must_be_unharmed())
        report.run("precopy-red-frame-makes-the-cut", lambda: late(cluster))
        report.run("precopy-harms-nobody", lambda: Chatter.wait(cluster).must_be_unharmed())
        if not left_to_all("the cut without colors (50-coloring has it) in these modes"):
            for mode in ("stop-and-copy", "precopy"):
                report.run(f"control-without-coloring-{mode}", lambda mode=mode: control(cluster, mode))
        report.run("restore", lambda: restored(cluster, "still"))
        report.run("precopy-restore", lambda: restored(cluster, "pre"))


main = Report()
run(main)
main.exit()
