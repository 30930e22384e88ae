#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cut is consistent because of coloring, and not by luck.

The SNAPSHOT message to one peer is held up for a while. With coloring, the first red frame makes
that peer take its cut in time: no orphan. Without coloring, the peer receives messages that the
others sent after their cut: the checker must find orphans, or it would prove nothing.
"""

import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster
from support.cutcheck import check_bundle
from support.cuts import snapshot_late
from support.outcome import Report, check
from support.workplace import Workplace

def run(report: Report) -> None:
    load = {"append": "hs.chatter.rate=200"}
    with Workplace() as place:
        cluster = Cluster(place, [("a", "idle", load), ("b", "idle", load), ("c", "idle", load)])
        cluster.up()
        Chatter.wait_flow(cluster)

        def colored() -> None:
            manifest = snapshot_late(cluster, "on", "c",
                                     lambda: cluster["c"].vm.phase() == "transient-fin")
            c = next(m for m in manifest["members"] if m["name"] == "c")
            print(f"# c took its cut for a {c['cause']}; {c['channel']['on_the_fly']} frames on "
                  f"the fly, {sum(m['channel']['frames'] for m in manifest['members'])} recorded")
            check(c["cause"] == "red-frame", f"c took its cut for a {c['cause']}")
            check(c["channel"]["on_the_fly"] > 0, "no frame was held")
            result = check_bundle(cluster.bundles / "on")
            check(result.orphans == 0, f"{result.orphans} orphans")

        def control() -> None:
            def received() -> int:
                return Chatter.read(cluster).pairs["c", "b"]["udp_received"]

            before: list[int] = []  # from b's cut on
            snapshot_late(cluster, "off", "c",
                          lambda: before.append(received()) or received() > before[0] + 300,
                          coloring=False)
            orphans = check_bundle(cluster.bundles / "off").orphans
            print(f"# without coloring {orphans} orphans")
            check(orphans > 0, "without coloring nothing is wrong: the checker sees nothing")

        report.run("red-frame-makes-the-cut", colored)
        report.run("control-without-coloring", control)

        def still_unharmed() -> None:
            Chatter.wait(cluster).must_be_unharmed()

        report.run("no-frame-was-dropped", still_unharmed)


main = Report()
run(main)
main.exit()
