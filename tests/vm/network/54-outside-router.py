#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A router between members that is no member: its frames are not part of the instant, and the
snapshot says so, in the manifest and in what `hotsnap snapshot` and `hotsnap show` print.

a and b are on one bridge, c on another; the router is the network namespace of the bridges. The
SNAPSHOT message to c is held up: what a sends after its cut comes to c before c's, by way of the
router. The controls, in the same cluster: a snapshot of a and b alone, for which the router is a
gateway to the outside, and one of all when member b is the router.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Callable

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster, Member
from support.cutcheck import check_bundle
from support.cuts import snapshot_late
from support.outcome import Report, check
from support.shell import Shell
from support.workplace import Workplace
from hotsnap.commands import listing
from hotsnap.model import bundle

WARNING = "through a router that is no member"
HEARD = 10  # seconds, from which on the mediators are sure that the router is no member
ROUTER = {"br0": "10.77.0.254", "br1": "10.78.0.254"}


class Guests:
    """The cluster, and a root shell in each of its guests."""

    def __init__(self, place: Workplace):
        self.cluster = Cluster(place, [
            (name, "idle", {"bridges": bridges, "shell": True})
            for name, bridges in (("a", ["br0"]), ("b", ["br0", "br1"]), ("c", ["br1"]))])
        self.cluster["c"].ip = "10.78.0.3"
        for bridge, address in ROUTER.items():
            subprocess.run(["ip", "-n", self.cluster.network.name, "address", "add",
                            f"{address}/24", "dev", bridge], check=True)
        subprocess.run(self.cluster.network.inside(
            ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]), check=True)
        self.cluster.up()
        self.shells = {member.name: Shell(str(member.shell_socket))
                       for member in self.cluster.members}

    def route(self, name: str, *arguments: str) -> None:
        self.shells[name].run(f"ip route replace {' '.join(arguments)}")

    def through_outside(self) -> None:
        self.route("a", "10.78.0.0/24", "via", ROUTER["br0"])
        self.route("b", "10.78.0.0/24", "via", ROUTER["br0"])
        self.route("c", "10.77.0.0/24", "via", ROUTER["br1"])

    def through_b(self) -> None:
        self.shells["b"].run("ip address add 10.78.0.2/24 dev eth1; ip link set eth1 up; "
                             "echo 1 >/proc/sys/net/ipv4/ip_forward")
        self.route("b", "10.78.0.0/24", "dev", "eth1", "src", "10.77.0.2")
        self.route("a", "10.78.0.0/24", "via", "10.77.0.2")
        self.route("c", "10.77.0.0/24", "via", "10.78.0.2")


def routed(found: bundle.Bundle) -> dict[str, tuple[int, int]]:
    """Frames sent to the router, and received from it, by member."""
    manifest = json.loads(Path(found.file("manifest.json")).read_text())
    return {member["name"]: (member["channel"]["routed_sent"], member["channel"]["routed_received"])
            for member in manifest["members"]}


def snapshot_of(cluster: Cluster, tag: str, members: list[Member], late: Member,
                enough: Callable[[], bool]) -> bundle.Bundle:
    """SNAPSHOT reaches member `late` only when `enough` is true, as it must become."""
    came: list[bool] = []
    snapshot_late(cluster, tag, late.name, lambda: enough() and (came.append(True) or True),
                  members=members)
    found = bundle.read(str(cluster.bundles / tag))
    check(came, f"{tag}: too few frames came before the last cut: {routed(found)}")
    print(f"# {tag}: frames sent to the router and received from it: {routed(found)}")
    return found


def outside_router(guests: Guests) -> None:
    cluster = guests.cluster
    a, c = cluster["a"], cluster["c"]
    before: list[int] = []  # the others' cuts

    def received() -> int:
        return c.vm.qmp.execute("query-hotsnap")["mediator"]["routed-received"]

    found = snapshot_of(cluster, "outside", cluster.members, c,
                        lambda: before.append(received()) or received() > before[0] + 50)
    counts = routed(found)
    check(counts["a"][0] > 0, "a has sent nothing to the router")
    check(counts["c"][1] > 50, "c has received nothing from the router")
    text = listing.report(found)
    check(WARNING in text, f"no warning: {text}")
    orphans = sum(pair.orphans for pair in check_bundle(found.path).pairs
                  if (pair.sender, pair.receiver) == (a.name, c.name))
    print(f"# {orphans} orphans from a to c: the warning has its reason")
    check(orphans > 0, "the cut is consistent all the same: nothing crossed it by the router")


def must_be_silent(found: bundle.Bundle) -> None:
    check(set(routed(found).values()) == {(0, 0)}, f"frames of a router: {routed(found)}")
    check(WARNING not in listing.report(found), f"warnings: {found.doubts()}")


def gateway_to_outside(guests: Guests) -> None:
    """c is no member now, and talks to a and b by the router all the time."""
    cluster = guests.cluster
    before: list[int] = []

    def received() -> int:
        return Chatter.read(cluster).pairs["a", "c"]["udp_received"]

    must_be_silent(snapshot_of(cluster, "gateway", cluster.members[:2], cluster["b"],
                               lambda: before.append(received()) or received() > before[0] + 50))


def member_router(guests: Guests) -> None:
    """What b forwards is red after its cut, and makes c take its own."""
    cluster = guests.cluster
    guests.through_b()
    Chatter.wait_flow(cluster, 1)
    found = snapshot_of(cluster, "member", cluster.members, cluster["c"],
                        lambda: cluster["c"].vm.phase() == "transient-fin")
    must_be_silent(found)
    result = check_bundle(found.path, switches=["b"])
    check(result.orphans == 0, f"{result.orphans} orphans")


def run(report: Report) -> None:
    with Workplace() as place:
        guests = Guests(place)
        guests.through_outside()
        Chatter.wait_flow(guests.cluster)  # each member has heard the router by now
        Chatter.wait_flow(guests.cluster, HEARD)
        report.run("outside-router", lambda: outside_router(guests))
        report.run("gateway-control", lambda: gateway_to_outside(guests))
        report.run("member-router-control", lambda: member_router(guests))


main = Report()
run(main)
main.exit()
