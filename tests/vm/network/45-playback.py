#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames that were on the way at the cut are in the bundle, and a restored guest receives them: no
message is missing. The control is the same bundle without these frames: messages are lost.

One of QEMU's own filters, in front of the packet mediator, holds up all frames to b for a while, so
that some are on the way.
"""

import json
import os
import re
import shutil
import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster
from support.cutcheck import CutReport, check_bundle
from support.cuts import lost_after
from support.outcome import Report, check
from support.workplace import Workplace
from hotsnap.commands import verify
from hotsnap.formats.sums import file_xxh3
from hotsnap.model import bundle

HOLD_UP_US = 200_000
LOAD = {"append": "hs.chatter.rate=200"}
LATE = {**LOAD, "args": [
    "-object", f"filter-buffer,id=late,netdev=net0,queue=tx,interval={HOLD_UP_US},position=head",
    "-trace", "hotsnap_played"]}
ENOUGH = 5  # UDP messages on the way, so that the checker cannot overlook their loss
HEADER = 24  # of both files of a channel


def recorded(result: CutReport) -> int:
    """UDP messages from a that are in b's channel state."""
    return sum(pair.recorded or 0 for pair in result.pairs
               if (pair.sender, pair.receiver, pair.protocol) == ("a", "b", "udp"))


def with_frames_on_the_way(cluster: Cluster) -> str:
    """Takes snapshots until one has frames on the way, since the filter may just have let all pass.
    Returns its tag.

    It is never the first snapshot of these VMs: frames are recorded with their NIC's number, which
    once differed from snapshot to snapshot."""
    cluster.snapshot("first")
    for attempt in range(6):
        tag = f"t{attempt}"
        cluster.snapshot(tag)
        result = check_bundle(cluster.bundles / tag)
        check(result.consistent, "; ".join(result.problems))
        check(result.lost == 0, f"{result.lost} messages were lost before the cut")
        if recorded(result) >= ENOUGH:
            return tag
    raise AssertionError("no snapshot has messages on the way")


def played_back(cluster: Cluster, tag: str) -> None:
    manifest = json.loads((cluster.bundles / tag / "manifest.json").read_text())
    b = next(m for m in manifest["members"] if m["name"] == "b")
    channel = b["channel"]
    check(channel["frames"] > 0 and channel["lost"] == 0 and channel["unrecorded"] == 0,
          str(channel))
    check(manifest["cut"]["recorded"] == sum(m["channel"]["frames"] for m in manifest["members"]),
          str(manifest["cut"]))
    lost = lost_after(cluster, tag)
    played = re.findall(r"hotsnap_played (\d+) frames", cluster["b"].vm.messages.read_text())
    print(f"# {channel['frames']} frames were recorded for b, {played} played back, {lost} lost")
    check(played == [str(channel["frames"])], f"not all frames were played back: {played}")
    check(lost == 0, f"{lost} messages are missing")
    Chatter.read(cluster).must_be_unharmed()


def emptied(cluster: Cluster, tag: str) -> str:
    """Makes the same bundle, whole in itself, with empty channels. Returns its tag."""
    source, target = cluster.bundles / tag, cluster.bundles / "emptied"
    shutil.copytree(source, target, copy_function=os.link)
    manifest = json.loads((source / "manifest.json").read_text())
    for member in manifest["members"]:
        channel = member["channel"]
        for key, sums, zeros in (("file", "pcap_xxh3", 0), ("vnet", "vnet_xxh3", 8)):
            path = target / channel[key]
            header = path.read_bytes()[:HEADER]
            path.unlink()  # it is a link to the other bundle's file
            path.write_bytes(header[:HEADER - zeros] + bytes(zeros))
            channel[sums] = f"{file_xxh3(str(path)):016x}"
        channel["frames"] = channel["bytes"] = 0
    manifest["tag"] = "emptied"
    (target / "manifest.json").unlink()
    (target / "manifest.json").write_text(json.dumps(manifest))
    damage = verify.outline(bundle.read(str(target)))
    check(not damage, f"it is not whole: {damage}")
    return "emptied"


def of_another_nic(cluster: Cluster, tag: str) -> None:
    """A frame for a NIC that b lacks is reported before anything is started, not dropped."""
    target = cluster.bundles / "other-nic"
    shutil.copytree(cluster.bundles / tag, target, copy_function=os.link)
    path = target / "b" / "channel.vnet"
    data = bytearray(path.read_bytes())
    data[HEADER:HEADER + 4] = (7).to_bytes(4, "little")
    path.unlink()
    path.write_bytes(data)
    cluster.kill()
    cluster.start_for_restore("other-nic")
    cluster.begin_restore("other-nic")
    error = cluster["a"].vm.wait_job("restore-other-nic")
    print(f"# {error}")
    check(error and re.search(r"'b'.*NIC number 7.*start QEMU with the NICs", error), str(error))
    for member in cluster.members:
        check(not member.vm.running() and not member.vm.text(), f"{member.name} was started")


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, [("a", "idle", LOAD), ("b", "idle", LATE)])
        cluster.up()
        Chatter.wait(cluster)
        tag = report.run("frames-on-the-way-are-recorded", lambda: with_frames_on_the_way(cluster))
        if tag is None:
            return

        def control() -> None:
            lost = lost_after(cluster, emptied(cluster, tag))
            print(f"# without the recorded frames {lost} messages are lost")
            check(lost >= ENOUGH, f"{lost} messages are lost: the checker sees nothing")

        report.run("frames-are-played-back", lambda: played_back(cluster, tag))
        report.run("control-emptied-channel", control)
        report.run("frame-of-another-nic", lambda: of_another_nic(cluster, tag))


main = Report()
run(main)
main.exit()
