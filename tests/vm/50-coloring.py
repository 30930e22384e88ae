#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cut is consistent because of coloring, and not by luck.

The SNAPSHOT message to one peer is held up for a while. With coloring, the first red frame makes
that peer take its cut in time: no orphan. Without, it receives messages that the others sent after
their cut: the checker must find orphans, or it would prove nothing.
"""

from chatter import Chatter
from delay import DelayedSocket
from harness import Cluster, Report, Workplace, check
from hotsnap.cutcheck import check_bundle

DELAY = 0.4  # seconds; longer than a frame's way, shorter than the time-out of the cut


def take(cluster: Cluster, tag: str, coloring: bool) -> dict:
    with DelayedSocket(cluster["c"].socket, cluster.place.path / f"{tag}.sock", DELAY) as slow:
        members = [cluster["a"].address, cluster["b"].address,
                   {"name": "c", "address": f"unix:{slow.path}"}]
        return cluster.snapshot(tag, members=members, coloring=coloring)


def run(report: Report) -> None:
    load = {"append": "hs.chatter.rate=200"}
    with Workplace() as place:
        cluster = Cluster(place, [("a", "idle", load), ("b", "idle", load), ("c", "idle", load)])
        cluster.up()
        Chatter.wait(cluster)

        def colored() -> None:
            manifest = take(cluster, "on", True)
            c = next(m for m in manifest["members"] if m["name"] == "c")
            print(f"# c took its cut for a {c['cause']}; {c['channel']['on_the_fly']} frames on "
                  f"the fly, {sum(m['channel']['frames'] for m in manifest['members'])} recorded")
            check(c["cause"] == "red-frame", f"c took its cut for a {c['cause']}")
            check(c["channel"]["on_the_fly"] > 0, "no frame was held")
            result = check_bundle(cluster.bundles / "on")
            check(result.orphans == 0, f"{result.orphans} orphans")

        def control() -> None:
            take(cluster, "off", False)
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
