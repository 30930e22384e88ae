#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cut is consistent for frames with any source MAC, and not only for those with the NIC's own:
guests that have changed their address, and a guest that forwards the frames of others.

The SNAPSHOT message to one member is held up, as in 50-coloring.py; the frames of the others must
make it take its cut. The control is the same without coloring: the checker must find orphans. A
bundle of the forwarding cluster is restored: no message is missing, and none comes twice, as one
would that was sent after its sender's cut. The control is the restore of a bundle with orphans.
"""

import sys
from functools import partial

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster
from support.cutcheck import CutReport, check_bundle
from support.cuts import lost_after, snapshot_late
from support.outcome import Report, check, wait_until
from support.workplace import Workplace

RATE = 100  # messages a second
LOAD = {"append": f"hs.chatter.rate={RATE}"}
CHANGED = {name: f"52:54:00:78:00:{number:02x}" for number, name in enumerate("abc", 1)}
# All frames between a and c pass through s, whose guest is a switch between two bridges and talks to
# both as well; on one of them, its own frames have the address of its other NIC.
FORWARDING = [("a", "idle", LOAD), ("s", "switch", {**LOAD, "bridges": ["br0", "br1"]}),
              ("c", "idle", {**LOAD, "bridges": ["br1"]})]


def judge(cluster: Cluster, tag: str) -> CutReport:
    """The messages between all members, by the addresses and ways that their frames really have."""
    macs = {m.name: CHANGED[m.name] for m in cluster.members
            if "hs.mac=" in m.options["append"]}
    return check_bundle(cluster.bundles / tag, macs=macs,
                        switches=[m.name for m in cluster.members if m.role == "switch"])


def colored(cluster: Cluster, late: str) -> str:
    """A frame of the others makes `late` take its cut in time. Returns the bundle's tag."""
    tag = f"{late}-on"
    manifest = snapshot_late(cluster, tag, late,
                             lambda: cluster[late].vm.phase() == "transient-fin")
    cause = next(m["cause"] for m in manifest["members"] if m["name"] == late)
    channels = [m["channel"] for m in manifest["members"]]
    declared = sum(channel["lost"] + channel["unrecorded"] for channel in channels)
    result = judge(cluster, tag)
    print(f"# {late} took its cut for a {cause}; {result.orphans} orphans, "
          f"{sum(channel['frames'] for channel in channels)} frames recorded, {declared} declared "
          f"lost, {result.lost} messages lost before the cut")
    check(result.orphans == 0, f"{result.orphans} orphans")
    check(result.consistent, "; ".join(result.problems))
    check(cause == "red-frame", f"{late} took its cut for a {cause}")
    check(declared == 0, f"{declared} frames are declared lost")
    check(result.lost == 0, f"{result.lost} messages were lost before the cut")
    return tag


def control(cluster: Cluster, late: str, sender: str) -> str:
    """Without coloring `late` receives messages that `sender` sent after its cut. Returns the
    bundle's tag."""
    def received() -> int:
        return Chatter.read(cluster).pairs[late, sender]["udp_received"]

    tag, before = f"{late}-off", []  # from the others' cuts on
    snapshot_late(cluster, tag, late,
                  lambda: before.append(received()) or received() > before[0] + 1.5 * RATE,
                  coloring=False)
    orphans = sum(pair.orphans for pair in judge(cluster, tag).pairs
                  if (pair.sender, pair.receiver) == (sender, late))
    print(f"# without coloring {orphans} orphans from {sender} to {late}")
    check(orphans > 0, "without coloring nothing is wrong: the checker sees nothing")
    return tag


def twice(cluster: Cluster) -> int:
    """Messages that came although the receiver had them, or later ones, already."""
    return sum(pair["udp_late"] for pair in Chatter.read(cluster).pairs.values())


def restored(cluster: Cluster, tag: str) -> None:
    lost = lost_after(cluster, tag)
    print(f"# after the restore {lost} messages are lost, {twice(cluster)} came twice")
    check(lost == 0, f"{lost} messages are missing")
    check(twice(cluster) == 0, f"{twice(cluster)} messages came twice")
    Chatter.read(cluster).must_be_unharmed()


def control_restored(cluster: Cluster, tag: str) -> None:
    cluster.kill()
    cluster.restore(tag)
    wait_until(lambda: twice(cluster) > 0, "no message comes twice: the checker sees nothing")
    print(f"# after the restore of a cut with orphans {twice(cluster)} messages came twice")


def changed_mac(report: Report) -> None:
    members = [(name, "idle", {"append": f"{LOAD['append']} hs.mac={mac}"})
               for name, mac in CHANGED.items()]
    with Workplace() as place:
        cluster = Cluster(place, members)
        cluster.up()
        Chatter.wait_flow(cluster)
        report.run("changed-mac", partial(colored, cluster, "c"))
        report.run("changed-mac-control", partial(control, cluster, "c", "b"))
        report.run("changed-mac-unharmed", lambda: Chatter.wait(cluster).must_be_unharmed())


def forwarding_member(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, FORWARDING)
        cluster.up()
        Chatter.wait_flow(cluster)
        report.run("forwarder-cut-last", partial(colored, cluster, "s"))
        report.run("forwarder-cut-last-control", partial(control, cluster, "s", "a"))
        report.run("forwarder-cut-first", partial(colored, cluster, "c"))
        report.run("forwarder-cut-first-control", partial(control, cluster, "c", "a"))
        report.run("forwarding-unharmed", lambda: Chatter.wait(cluster).must_be_unharmed())
        report.run("forwarding-restored", partial(restored, cluster, "c-on"))
        report.run("forwarding-restored-control", partial(control_restored, cluster, "c-off"))


main = Report()
changed_mac(main)
forwarding_member(main)
main.exit()
