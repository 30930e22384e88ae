#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 1800
# tier: all
"""A snapshot of a restored cluster is restored, twenty times in a row: on demand, and the snapshot is
taken while memory is still being loaded, so that it waits for that. Each is a consistent cut, and the
guests' messages go on with the numbers that follow.
"""

import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster
from support.cutcheck import check_bundle
from support.lazy import complete, load_of
from support.outcome import Report, check
from support.paths import QEMU_IMG
from support.workplace import Workplace

TIMES = 20
WRITER = "hs.writer.mib=32 hs.writer.rate=500"


def consistent(cluster: Cluster, tag: str) -> None:
    result = check_bundle(cluster.bundles / tag, str(QEMU_IMG))
    check(result.consistent, f"{tag}: " + ("; ".join(result.problems) or f"{result.orphans} orphans"))


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, [("a", "writer", {"append": WRITER}),
                                  ("b", "writer", {"append": WRITER})])
        cluster.up()
        last = Chatter.wait_flow(cluster)
        cluster.snapshot("g0")
        waited = 0

        def again(generation: int) -> None:
            nonlocal last, waited
            cluster.kill()
            cluster.restore(f"g{generation - 1}", generation % 2, memory="lazy", bandwidth=8 << 20)
            waited += any(load_of(member.vm)["state"] == "loading" for member in cluster.members)
            cluster.snapshot(f"g{generation}")
            consistent(cluster, f"g{generation}")
            now = Chatter.wait_flow(cluster)
            now.must_be_unharmed(last)
            last = now
            for member in cluster.members:
                complete(member.vm)

        for generation in range(1, TIMES + 1):
            report.run(f"again-{generation}", lambda: again(generation))
        report.run("snapshots-waited", lambda: check(
            waited > TIMES // 2, f"only {waited} were taken while memory was being loaded"))


main = Report()
run(main)
main.exit()
