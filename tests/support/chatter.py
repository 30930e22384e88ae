# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the status lines of hs-chatter from the guests' consoles."""

from __future__ import annotations

import re
import time

from .cluster import Cluster
from .outcome import check, wait_until

LINE = re.compile(r"^chatter (\S+) hb=(\d+) peer=(\S+) ([a-z_]+=\d+(?: [a-z_]+=\d+)*)\r?\n", re.M)
FLOW = ("udp_sent", "udp_received", "tcp_sent", "tcp_received")
HARM = ("udp_gaps", "tcp_errors", "tcp_reconnects")


class Chatter:
    """The newest counters of every ordered pair."""

    def __init__(self, pairs: dict[tuple[str, str], dict[str, int]]):
        self.pairs = pairs

    @classmethod
    def read(cls, cluster: Cluster) -> Chatter:
        pairs = {}
        for member in cluster.members:
            for name, beat, peer, rest in LINE.findall(member.vm.text()):
                counters = {k: int(v) for k, v in (item.split("=") for item in rest.split())}
                pairs[name, peer] = {"hb": int(beat), **counters}
        return cls(pairs)

    @classmethod
    def wait(cls, cluster: Cluster) -> Chatter:
        """Waits until each member has printed a line about each other member."""
        wanted = len(cluster.members) * (len(cluster.members) - 1)
        wait_until(lambda: len(cls.read(cluster).pairs) == wanted,
                   lambda: f"only these pairs talk: {sorted(cls.read(cluster).pairs)}; "
                           f"{wanted} should")
        return cls.read(cluster)

    @classmethod
    def wait_flow(cls, cluster: Cluster, seconds: float = 0) -> Chatter:
        """Waits until every flow of every pair has moved; watches them for at least `seconds`."""
        first = cls.wait(cluster)
        time.sleep(seconds)
        wait_until(lambda: not cls.read(cluster).standing_since(first),
                   lambda: f"these stand still: {cls.read(cluster).standing_since(first)}")
        return cls.read(cluster)

    def standing_since(self, earlier: Chatter) -> list[str]:
        return [f"{pair[0]} {pair[1]} {counter}={now[counter]}"
                for pair, now in self.pairs.items() for counter in FLOW
                if now[counter] <= earlier.pairs[pair][counter]]

    def must_be_unharmed(self, earlier: Chatter | None = None) -> None:
        for pair, now in self.pairs.items():
            for counter in HARM:
                before = earlier.pairs[pair][counter] if earlier else 0
                check(now[counter] == before,
                      f"{pair[0]} from {pair[1]}: {counter} is {now[counter]}, was {before}")
