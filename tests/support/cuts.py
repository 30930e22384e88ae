# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the tests of the cut: a snapshot in which one member is told late, its judgment, and
what is missing after a restore."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from typing import Any, Callable

from . import channel as record
from .chatter import Chatter
from .cluster import Cluster, Member
from .cutcheck import CutReport, check_bundle
from .gate import Gate
from .outcome import Failed, check, wait_until

PROBE = b"\x88\xb5"  # its EtherType (docs/formats/protocol.md)
APART = 0.3  # seconds
HELD = 8  # seconds at most; the timeout of the cut is 10


def snapshot_late(cluster: Cluster, tag: str, late: str, enough: Callable[[], bool],
                  coloring: bool = True, meanwhile: Callable[[], object] | None = None,
                  members: list[Member] | None = None, **arguments: Any) -> dict[str, Any]:
    """SNAPSHOT reaches member `late` only when `enough` is true, after the others have taken their
    cuts: the first member, which takes the snapshot, and the peers. `meanwhile` is done when the
    late member colors its frames and no member has been cut. `members`: all, if not given.
    `arguments` are further ones of hotsnap-cluster. Returns the manifest."""
    members = members or cluster.members

    def address(member: Member, way: Gate) -> dict[str, str]:
        return ({**member.address, "address": f"unix:{way.path}"} if member.name == late
                else member.address)

    with Gate(cluster[late].socket, cluster.place.path / f"{tag}.sock", "SNAPSHOT") as way, \
            Gate(way.path, cluster.place.path / f"{tag}-armed.sock", held_back="ARMED") as armed:
        outer = armed if meanwhile else way
        cluster.begin_snapshot(tag, coloring=coloring, **arguments,
                               members=[address(member, outer) for member in members])
        if meanwhile:
            cluster[late].vm.reach("arm", "snapshot")
            meanwhile()
            armed.open()
        for member in members[1:]:
            if member.name != late:
                member.vm.reach("transient-fin")
        with suppress(Failed):
            wait_until(enough, "", timeout=HELD)
        way.open()
        error = members[0].vm.wait_job(f"snap-{tag}")
        check(error is None, f"snapshot {tag}: {error}")
    return json.loads((cluster.bundles / tag / "manifest.json").read_text())


def judge(cluster: Cluster, tag: str) -> CutReport:
    """The messages between all members, whatever addresses and ways their frames had."""
    return check_bundle(
        cluster.bundles / tag,
        addresses={ip: member.name for member in cluster.members
                   for ip in (member.ip, member.group_ip)},
        switches=[member.name for member in cluster.members if member.role == "switch"])


def announced(cluster: Cluster, tag: str) -> dict[tuple[str, str], set[str]]:
    """By bridge and MAC address: the NICs that say, after a restore, that frames to it go there."""
    found: dict[tuple[str, str], set[str]] = {}
    for member in cluster.members:
        folder = cluster.bundles / tag / member.name
        for frame, (number, _) in zip(record.frames(folder / "channel.pcap"),
                                      record.places(folder / "channel.vnet")):
            if frame[12:14] == PROBE:
                nic = member.nics[number]
                found.setdefault((nic.bridge, frame[6:12].hex(":")), set()).add(nic.tap)
    return found


def must_be_whole(cluster: Cluster, tag: str, manifest: dict[str, Any]) -> CutReport:
    """Nothing from the future, nothing declared lost or unknown, nothing lost before."""
    result, cut = judge(cluster, tag), manifest["cut"]
    channels = [member["channel"] for member in manifest["members"]]
    declared = cut["lost_between"] + sum(channel["lost"] + channel["unrecorded"]
                                         for channel in channels)
    unplaced = cut["unmarked"] + sum(channel["uncolored"] for channel in channels)
    check(result.orphans == 0, f"{result.orphans} orphans")
    check(result.consistent, "; ".join(result.problems))
    check(declared == 0, f"{declared} frames are declared lost")
    check(unplaced == 0, f"{unplaced} frames or marks are without a place")
    for place, nics in announced(cluster, tag).items():
        check(len(nics) == 1, f"{nics} all say that {place} is theirs")
    if cluster.keeps_order:  # else one that was overtaken counts until it comes
        check(result.lost == 0, f"{result.lost} messages were lost before the cut")
    return result


def colored(cluster: Cluster, late: str, tag: str,
            meanwhile: Callable[[], object] | None = None) -> None:
    """A frame of the others makes `late` take its cut in time."""
    manifest = snapshot_late(cluster, tag, late,
                             lambda: cluster[late].vm.phase() == "transient-fin",
                             meanwhile=meanwhile)
    cause = next(m["cause"] for m in manifest["members"] if m["name"] == late)
    result = must_be_whole(cluster, tag, manifest)
    channels = [member["channel"] for member in manifest["members"]]
    waited = {kind: sum(channel[f"waited_{kind}"] for channel in channels)
              for kind in ("group", "source", "destination")}
    print(f"# {late} took its cut for a {cause}; {result.orphans} orphans, "
          f"{sum(channel['frames'] for channel in channels)} frames recorded, waited: {waited}")
    check(cause == "red-frame", f"{late} took its cut for a {cause}")


def control(cluster: Cluster, late: str, sender: str, tag: str, messages: int = 150) -> None:
    """Without coloring `late` receives `messages` that `sender` sent after its cut, or more."""
    def received() -> int:
        return Chatter.read(cluster).pairs[late, sender]["udp_received"]

    before: list[int] = []  # from the others' cuts on
    snapshot_late(cluster, tag, late,
                  lambda: before.append(received()) or received() > before[0] + messages,
                  coloring=False)
    orphans = sum(pair.orphans for pair in judge(cluster, tag).pairs
                  if (pair.sender, pair.receiver) == (sender, late))
    print(f"# without coloring {orphans} orphans from {sender} to {late}")
    check(orphans > 0, "without coloring nothing is wrong: the checker sees nothing")


def lost(cluster: Cluster) -> int:
    """Messages that have not come, and later ones have."""
    return sum(max(0, pair["udp_gaps"] - pair["udp_late"])
               for pair in Chatter.read(cluster).pairs.values())


def switches_know(cluster: Cluster, tag: str, member: Member) -> None:
    """Each address that the bundle says is at one of the member's NICs is there."""
    shown = subprocess.run(["bridge", "-n", cluster.network.name, "-j", "fdb", "show"], check=True,
                           capture_output=True, text=True).stdout
    known = {(entry.get("master"), entry["mac"]): entry["ifname"] for entry in json.loads(shown)
             if entry.get("state") != "permanent"}
    for (bridge, address), nics in announced(cluster, tag).items():
        if nics <= {nic.tap for nic in member.nics}:
            check({known.get((bridge, address))} == nics,
                  f"{address} is at {nics}, the switch says {known.get((bridge, address))}")


def restore_late(cluster: Cluster, tag: str, late: str) -> None:
    """START reaches member `late` only when the others have run, and sent, for a while."""
    cluster.start_for_restore(tag)
    others = [member for member in cluster.members if member.name != late]
    with Gate(cluster[late].socket, cluster.place.path / f"{tag}-start.sock", "START") as way:
        members = [{**member.address, "address": f"unix:{way.path}"} if member.name == late
                   else member.address for member in cluster.members]
        cluster.begin_restore(tag, cluster.members.index(others[0]), members=members)
        wait_until(lambda: all(member.vm.running() for member in others), "the others do not run")
        switches_know(cluster, tag, cluster[late])
        time.sleep(APART)
        way.open()
        error = others[0].vm.wait_job(f"restore-{tag}")
        check(error is None, f"restore {tag}: {error}")


def lost_after(cluster: Cluster, tag: str, late: str | None = None) -> int:
    """Restores a bundle and lets traffic flow. Returns the number of messages that never came."""
    cluster.kill()
    if late:
        restore_late(cluster, tag, late)
    else:
        cluster.restore(tag)
    Chatter.wait_flow(cluster, 3)
    return lost(cluster)


def twice(cluster: Cluster) -> int:
    """Messages that came although the receiver had them already. Where messages keep their order,
    each that comes after a later one counts, too; else only those that fill no gap."""
    return sum(pair["udp_late"] if cluster.keeps_order
               else max(0, pair["udp_late"] - pair["udp_gaps"])
               for pair in Chatter.read(cluster).pairs.values())


def unharmed(cluster: Cluster) -> None:
    """No message has been lost, and no connection."""
    now = Chatter.wait(cluster)
    if cluster.keeps_order:
        now.must_be_unharmed()
        return
    wait_until(lambda: lost(cluster) == 0, lambda: f"{lost(cluster)} messages are missing",
               timeout=5)
    for pair, counts in now.pairs.items():
        check(counts["tcp_errors"] == counts["tcp_reconnects"] == 0, f"{pair}: {counts}")


def restored(cluster: Cluster, tag: str, late: str | None = None) -> None:
    missing = lost_after(cluster, tag, late)
    print(f"# after the restore {missing} messages are lost, {twice(cluster)} came twice")
    check(missing == 0 or not cluster.keeps_order, f"{missing} messages are missing")
    check(twice(cluster) == 0, f"{twice(cluster)} messages came twice")
    unharmed(cluster)


def control_restored(cluster: Cluster, tag: str) -> None:
    """Messages that were received before they were sent come twice."""
    cluster.kill()
    cluster.restore(tag)
    wait_until(lambda: twice(cluster) > 0, "no message comes twice: the checker sees nothing")
    print(f"# after the restore of a cut with orphans {twice(cluster)} messages came twice")
