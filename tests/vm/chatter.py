# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the status lines of hs-chatter from the guests' consoles."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from harness import check

if TYPE_CHECKING:
    from harness import Cluster

LINE = re.compile(r"^chatter (\S+) hb=(\d+) peer=(\S+) ([a-z_]+=\d+(?: [a-z_]+=\d+)*)\s*$", re.M)
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
    def wait(cls, cluster: Cluster, timeout: float = 60) -> Chatter:
        """Waits until every pair has been heard of since the VMs were started."""
        wanted = len(cluster.members) * (len(cluster.members) - 1)
        deadline = time.monotonic() + timeout
        while True:
            found = cls.read(cluster)
            if len(found.pairs) == wanted:
                return found
            check(time.monotonic() < deadline,
                  f"only these pairs talk: {sorted(found.pairs)}; {wanted} should")
            time.sleep(0.2)

    def must_have_moved_on(self, earlier: Chatter) -> None:
        for pair, now in self.pairs.items():
            for counter in ("udp_sent", "udp_received", "tcp_sent", "tcp_received"):
                check(now[counter] > earlier.pairs[pair][counter],
                      f"{pair[0]} to {pair[1]}: {counter} stands still at {now[counter]}")

    def must_be_unharmed(self, earlier: Chatter | None = None) -> None:
        for pair, now in self.pairs.items():
            for counter in HARM:
                before = earlier.pairs[pair][counter] if earlier else 0
                check(now[counter] == before,
                      f"{pair[0]} from {pair[1]}: {counter} is {now[counter]}, was {before}")
