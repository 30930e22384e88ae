#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster of real servers is saved while it works, killed, and brought back.

memcached, its client, PostgreSQL and its client, and numbered UDP and TCP messages on all pairs.
Two snapshots in a row, the first restored after the second, twice from one bundle, and a snapshot
of the restored cluster, with another initiator each time.
"""

import time

from chatter import Chatter
from harness import Cluster, Report, Workplace, check
from hotsnap.cutcheck import check_bundle

MEMBERS = [
    ("cache", "cache", {}),
    ("client", "client", {"append": "hs.cache=cache hs.db=db"}),
    ("db", "db", {"disktag": True}),
]


def consistent(cluster: Cluster, tag: str) -> None:
    result = check_bundle(cluster.bundles / tag)
    check(result.orphans == 0, f"{result.orphans} messages were received that nobody had sent")


def alive(cluster: Cluster, before: Chatter | None = None, seconds: float = 4) -> Chatter:
    """All pairs exchange messages, none is missing, no connection was made anew."""
    first = Chatter.wait(cluster)
    time.sleep(seconds)
    last = Chatter.wait(cluster)
    last.must_have_moved_on(first)
    last.must_be_unharmed(before)
    return last


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, MEMBERS)
        cluster.up()
        alive(cluster)

        def take(tag: str, initiator: int) -> None:
            manifest = cluster.snapshot(tag, initiator)
            check(manifest["initiator"] == MEMBERS[initiator][0], "wrong initiator")
            pauses = [m["pause"] for m in manifest["members"]]
            print(f"# {tag}: backoff_max_us={manifest['cut']['backoff_max_us']}, pauses "
                  f"{[(p['end_ns'] - p['begin_ns']) // 1000 for p in pauses]} us")
            consistent(cluster, tag)
            alive(cluster)

        def bring_back(tag: str, initiator: int) -> None:
            cluster.kill()
            cluster.restore(tag, initiator)
            alive(cluster)

        report.run("snapshot-first", lambda: take("one", 0))
        report.run("snapshot-second-other-initiator", lambda: take("two", 2))
        report.run("restore-first-after-second", lambda: bring_back("one", 1))
        report.run("restore-second", lambda: bring_back("two", 0))
        report.run("restore-first-again", lambda: bring_back("one", 2))
        report.run("snapshot-of-the-restored", lambda: take("three", 1))
        report.run("restore-snapshot-of-the-restored", lambda: bring_back("three", 0))


main = Report()
run(main)
main.exit()
