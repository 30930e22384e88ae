#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Members connected by TCP, on loopback: a snapshot, and its restore led by the other member."""

import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster
from support.cutcheck import check_bundle
from support.outcome import Report, check
from support.workplace import Workplace


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, [("a", "idle", {"tcp": True}), ("b", "idle", {"tcp": True})])
        cluster.up()
        Chatter.wait(cluster)

        def taken() -> None:
            manifest = cluster.snapshot("t")
            addresses = [m["address"] for m in manifest["members"]]
            check(addresses == ["tcp:127.0.0.1:7000", "tcp:127.0.0.1:7001"], str(addresses))
            check(not list(place.path.glob("*.sock")), "a member listens on a Unix socket")
            result = check_bundle(cluster.bundles / "t")
            check(result.consistent, "; ".join(result.problems))

        def brought_back() -> None:
            cluster.kill()
            cluster.restore("t", initiator=1)
            Chatter.wait_flow(cluster, 3).must_be_unharmed()

        report.run("tcp-snapshot", taken)
        report.run("tcp-restore", brought_back)


main = Report()
run(main)
main.exit()
