#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
# waits: for guests
"""A bridge that knows which address belongs to which port.

With port security it drops frames with another source, and so those that bear a color: the snapshot
is refused before anything is cut, with one error that says what to do, and no frame is lost. With
entries that are merely static it lets them through: the snapshot succeeds, and the control shows
that the colored frames made the difference.
"""

import subprocess
import sys
from functools import partial

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster
from support.cuts import colored, control, must_be_whole, restored
from support.outcome import Report, check
from support.workplace import Workplace


def bridge(cluster: Cluster, *arguments: str) -> None:
    subprocess.run(["bridge", "-n", cluster.network.name, *arguments], check=True)


def with_static_entries(cluster: Cluster) -> None:
    """The bridge learns nothing any more, and knows the members' ports."""
    for member in cluster.members:
        bridge(cluster, "link", "set", "dev", member.tap, "learning", "off")
        bridge(cluster, "fdb", "replace", member.mac, "dev", member.tap, "master", "static")
    Chatter.wait_flow(cluster)


def guard(cluster: Cluster, name: str, locked: str) -> None:
    bridge(cluster, "link", "set", "dev", cluster[name].tap, "locked", locked)


def refused(cluster: Cluster) -> None:
    before = Chatter.wait(cluster)
    guard(cluster, "b", "on")
    Chatter.wait_flow(cluster)
    error = cluster.try_snapshot("refused")
    print(f"# {error}")
    check(error and "'net0'" in error and "'b'" in error and "port security" in error, str(error))
    check(not (cluster.bundles / "refused").exists(), "a bundle was made")
    check(all(member.vm.running() for member in cluster.members), "a member does not run")
    Chatter.wait_flow(cluster).must_be_unharmed(before)


def accepted(cluster: Cluster) -> None:
    guard(cluster, "b", "off")
    must_be_whole(cluster, "accepted", cluster.snapshot("accepted"))


def run(report: Report) -> None:
    load = {"append": "hs.chatter.rate=100"}
    with Workplace() as place:
        cluster = Cluster(place, [(name, "idle", load) for name in "abc"])
        cluster.up()
        with_static_entries(cluster)
        report.run("port-security-is-refused", partial(refused, cluster))
        report.run("port-security-control", partial(accepted, cluster))
        report.run("static-entries", partial(colored, cluster, "c", "on"))
        report.run("static-entries-control", partial(control, cluster, "c", "b", "off"))
        report.run("static-entries-unharmed", lambda: Chatter.wait(cluster).must_be_unharmed())
        report.run("static-entries-restored", partial(restored, cluster, "on"))


main = Report()
run(main)
main.exit()
