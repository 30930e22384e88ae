# SPDX-License-Identifier: GPL-2.0-or-later
"""Clusters as network labs have them: guests whose frames bear other addresses than their NICs',
or VLAN tags, or go to groups, and guests that forward the frames of others.

A lab has one member more than it needs for its subject, so that each cut has members on either side.
The first member takes the snapshots.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .chatter import Chatter
from .cluster import Cluster
from .outcome import check
from .shell import Shell
from .workplace import Workplace

LLDP = "01:80:c2:00:00:0e"  # the group of a link's nearest bridge; some bridges pass it on
VIRTUAL = "00:00:5e:00:01:07"  # VRRP's for a virtual router
JUMBO = 9000
MemberSpec = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True)
class Cut:
    """A cut of a lab: the member that is told late, one whose messages it gets too early without
    coloring, and what happens in the epoch before any member is cut."""

    late: str
    sender: str
    meanwhile: Callable[[Cluster], None] | None = None


@dataclass(frozen=True)
class Lab:
    """`prepare` is done once, when messages flow."""

    name: str
    members: list[MemberSpec]
    cuts: list[Cut]
    prepare: Callable[[Cluster], None] | None = None

    def start(self, place: Workplace) -> Cluster:
        cluster = Cluster(place, self.members)
        # Room for tags and long frames; and a bridge drops those to LLDP's group otherwise.
        for nic in (nic for member in cluster.members for nic in member.nics):
            for link, settings in ((nic.tap, []),
                                   (nic.bridge, ["type", "bridge", "group_fwd_mask", "0x4000"])):
                subprocess.run(["ip", "-n", cluster.network.name, "link", "set", "dev", link, "mtu",
                                str(JUMBO + 100), *settings], check=True)
        cluster.up()
        Chatter.wait_flow(cluster)
        if self.prepare:
            self.prepare(cluster)
        return cluster


def guest(name: str, role: str = "idle", bridges: list[str] | None = None, shell: bool = False,
          group: str | None = None, queues: int = 1, **settings: Any) -> MemberSpec:
    """`settings` are the guest's parameters, such as link="vlan:7" for hs.link=vlan:7."""
    told = {"chatter_rate": 100, **settings}
    return name, role, {
        "append": " ".join(f"hs.{key.replace('_', '.')}={value}" for key, value in told.items()),
        "bridges": bridges or ["br0"], "shell": shell, "group": group, "memory": 128,
        "queues": queues, "cpus": queues}


def in_guests(cluster: Cluster, commands: list[tuple[str, str]]) -> None:
    """Runs (member, command) in order, while no member sends messages."""
    shells = {member.name: Shell(str(member.shell_socket)) for member in cluster.members}
    everywhere = [(name, "p=$(pgrep hs-chatter); kill -STOP $p") for name in shells]
    for name, command in [*everywhere, *commands, *((name, "kill -CONT $p") for name in shells)]:
        output = shells[name].run(f"{{ {command}; }} || echo failed")
        check("failed" not in output, f"{name}: {command}: {output}")


# --- addresses that change or move -------------------------------------------------------------

def take_addresses(cluster: Cluster, macs: dict[str, str]) -> None:
    """Gives the guests these addresses; the others are told, for they could not ask: a request is
    a broadcast, and in an epoch it waits."""
    def entries(of: str) -> str:
        return "; ".join(f"ip neigh replace {member.ip} lladdr {macs[member.name]} dev eth0"
                         for member in cluster.members if member.name != of)

    # Its new owner tells the switches, as keepalived does.
    notify = "echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_notify"
    in_guests(cluster, [(name, f"{notify}; ip link set eth0 address {mac}; {entries(name)}")
                        for name, mac in macs.items()])


def own_addresses(cluster: Cluster) -> dict[str, str]:
    return {member.name: member.mac for member in cluster.members}


def master_a(cluster: Cluster) -> None:
    take_addresses(cluster, {**own_addresses(cluster), "a": VIRTUAL})


def master_b(cluster: Cluster) -> None:
    take_addresses(cluster, {**own_addresses(cluster), "b": VIRTUAL})


def both_were_master(cluster: Cluster) -> None:
    for master in (master_b, master_a):
        master(cluster)
        Chatter.wait_flow(cluster)


def new_address(cluster: Cluster) -> None:
    take_addresses(cluster, {**own_addresses(cluster), "a": "52:54:00:78:00:aa"})


# --- bonds -------------------------------------------------------------------------------------

def other_slave(cluster: Cluster) -> None:
    """The bond of a sends through its other NIC from now on. It takes no frame from the first one
    any more, and the switch learns of that only when a sends."""
    in_guests(cluster, [("a", "read -r now </sys/class/net/bond0/bonding/active_slave; "
                              "case $now in eth0) now=eth1 ;; *) now=eth0 ;; esac; "
                              "echo $now >/sys/class/net/bond0/bonding/active_slave")])


def both_slaves(cluster: Cluster) -> None:
    for _ in range(2):
        other_slave(cluster)
        Chatter.wait_flow(cluster)


# --- the labs ----------------------------------------------------------------------------------

def _three(**settings: Any) -> list[MemberSpec]:
    return [guest(name, **settings) for name in "abc"]


def _all() -> list[Lab]:
    tags = "qinq:100,vlan:7"
    everything = {"mtu": JUMBO, "chatter_size": 8000}
    return [
        # Many at once: a switch, tags, long frames, an address as containers have them.
        Lab("mixed",
            [guest("a", link=tags, **everything),
             guest("s", "switch", ["br0", "br1"], link=tags, **everything),
             guest("c", bridges=["br1"], link=f"{tags},macvlan", **everything)],
            [Cut("c", "a"), Cut("s", "a")]),
        Lab("takeover", _three(shell=True),
            [Cut("c", "b", master_b), Cut("c", "b", new_address)], both_were_master),
        Lab("forwarder",
            [guest("a"), guest("s", "switch", ["br0", "br1"]), guest("c", bridges=["br1"])],
            [Cut("s", "a"), Cut("c", "a")]),
        Lab("two-forwarders",
            [guest("a"), guest("s", "switch", ["br0", "br1"]),
             guest("t", "switch", ["br1", "br2"]), guest("c", bridges=["br2"])],
            [Cut("c", "a"), Cut("t", "a"), Cut("s", "c")]),
        Lab("changed-mac",
            [guest(name, mac=f"52:54:00:78:00:{number:02x}")
             for number, name in enumerate("abc", 1)], [Cut("c", "b")]),
        Lab("macvlan", _three(link="macvlan"), [Cut("c", "b")]),
        Lab("bond", [guest("a", bridges=["br0", "br0"], shell=True, link="bond"),
                     guest("b", shell=True), guest("c", shell=True)],
            [Cut("c", "a", other_slave), Cut("b", "a", other_slave)], both_slaves),
        Lab("tags", _three(link=tags), [Cut("c", "b")]),
        Lab("jumbo", _three(mtu=JUMBO, chatter_size=8000), [Cut("c", "b")]),
        Lab("fragments-and-offload", _three(chatter_size=20000), [Cut("c", "b")]),
        Lab("queues", _three(queues=2), [Cut("c", "b")]),
        Lab("link-local-group", _three(group=LLDP), [Cut("c", "b")]),
    ]


LABS = {lab.name: lab for lab in _all()}
DEFAULT = ("mixed", "takeover")  # with the others left to --all
