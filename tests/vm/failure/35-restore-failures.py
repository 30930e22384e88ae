#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A restore that fails leaves no member running, whether it fails before the start or after it."""

import json
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster, Member
from support.gate import Gate
from support.outcome import Report, check, wait_until
from support.workplace import Workplace, img_create


def start_incoming(cluster: Cluster, tag: str) -> None:
    """Every member waits for its state, with its own overlays on the bundle's disks."""
    manifest = json.loads((cluster.bundles / tag / "manifest.json").read_text())
    for member in cluster.members:
        report = next(m for m in manifest["members"] if m["name"] == member.name)
        disks = []
        for disk in report["disks"]:
            path = member.cluster.place.path / member.name / f"failed-{disk['device']}.qcow2"
            path.unlink(missing_ok=True)
            disks.append((disk["device"], img_create(path, backing=Path(disk["file"]),
                                                     backing_format=disk["format"])))
        member.start(disks, ["-incoming", "defer", "-S"])


def restore(cluster: Cluster, tag: str, members: list[dict[str, str]]) -> None:
    cluster.members[0].vm.qmp.execute(
        "hotsnap-restore", {"job-id": f"restore-{tag}", "bundle": str(cluster.bundles / tag),
                            "members": members})


def must_have_failed(cluster: Cluster, tag: str, pattern: str, running: list[Member]) -> None:
    error = cluster.members[0].vm.wait_job(f"restore-{tag}")
    print(f"# {error}")
    check(error and re.search(pattern, error), f"the error does not say {pattern!r}: {error}")
    time.sleep(1)
    for member in running:
        check(not member.vm.running(), f"{member.name} runs")


def damaged_channel(cluster: Cluster, tag: str) -> None:
    """One member's record cannot be read: this is found before any member starts."""
    channel = cluster.bundles / tag / "b" / "channel.pcap"
    whole = channel.read_bytes()
    channel.write_bytes(whole[:10])
    try:
        start_incoming(cluster, tag)
        restore(cluster, tag, [m.address for m in cluster.members])
        must_have_failed(cluster, tag, r"'b'.*channel\.pcap.*damaged", cluster.members)
        log = "".join(m.vm.text() for m in cluster.members)
        check(not log, f"a guest ran: {log[-200:]}")
    finally:
        channel.write_bytes(whole)
        cluster.kill()


def lost_after_start(cluster: Cluster, tag: str) -> None:
    """A member is lost while others run already: the others are stopped again."""
    a, b = cluster["a"], cluster["b"]
    start_incoming(cluster, tag)
    with Gate(b.socket, cluster.place.path / "gate.sock", "START") as way:
        restore(cluster, tag, [a.address, {"name": "b", "address": f"unix:{way.path}"}])
        wait_until(a.vm.running, "a was not started", interval=0.02)
        b.vm.kill()
        must_have_failed(cluster, tag, "'b'", [a])
    cluster.kill()


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, [("a", "idle", {}), ("b", "idle", {})])
        cluster.up()
        cluster.snapshot("t")
        cluster.kill()
        report.run("restore-damaged-channel", lambda: damaged_channel(cluster, "t"))
        report.run("restore-member-lost-after-start", lambda: lost_after_start(cluster, "t"))
        report.run("restore-afterwards", lambda: cluster.restore("t"))


main = Report()
run(main)
main.exit()
