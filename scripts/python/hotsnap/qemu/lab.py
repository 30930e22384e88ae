# SPDX-License-Identifier: GPL-2.0-or-later
"""The network namespace of a cluster with several networks: one bridge each, one tap for each NIC.

Extends netns.Network, which makes the first bridge.
"""

from __future__ import annotations

import hashlib
import subprocess

from ..host import netns
from ..model.cluster import Cluster


def namespace(cluster: Cluster) -> str:
    """Two clusters of one name in different folders have different networks."""
    digest = hashlib.sha256(cluster.directory.encode()).hexdigest()[:6]
    return f"hs-{cluster.name}-{digest}"


def bridge(index: int) -> str:
    return f"br{index}"


def taps(cluster: Cluster) -> dict[str, dict[str, str]]:
    """Member to NIC id to tap. By position, since names may be longer than an interface's. A tap
    made for one queue is of no use for several, nor the reverse, so it has another name."""
    return {member.name: {nic.id: f"{'tap' if nic.queues == 1 else 'mq'}{i}.{j}"
                          for j, nic in enumerate(member.nics)}
            for i, member in enumerate(cluster.members)}


class Lab(netns.Network):
    """The networks of a cluster. `ensure` makes only what is missing, so that members can be
    started beside others that run."""

    def __init__(self, cluster: Cluster):
        super().__init__(namespace(cluster), [])
        self.cluster = cluster

    def ensure(self) -> bool:
        """Returns whether the namespace had to be made."""
        made = not self.exists()
        if made:
            self.create()
        try:
            present = self._links()
            for index in range(1, len(self.cluster.networks)):
                if bridge(index) not in present:
                    self._ip("link", "add", bridge(index), "type", "bridge", "stp_state", "0",
                             "forward_delay", "0", "mcast_snooping", "0")
                    self._ip("link", "set", bridge(index), "addrgenmode", "none")
                    self._ip("link", "set", bridge(index), "up")
            tap_of = taps(self.cluster)
            for member in self.cluster.members:
                for nic in member.nics:
                    name = tap_of[member.name][nic.id]
                    if name not in present:
                        self.add_tap(name, queues=nic.queues)
                        self._ip("link", "set", name, "master",
                                 bridge(self.cluster.networks.index(nic.network)))
        except BaseException:
            if made:
                self.destroy()
            raise
        return made

    def _links(self) -> set[str]:
        return {line.split(":")[1].strip().split("@")[0]
                for line in self._ip("-o", "link", "show").splitlines()}

    def _ip(self, *arguments: str) -> str:
        command = ["ip", "-n", self.name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise netns.NetworkError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout
