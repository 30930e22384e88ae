# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the tests of the cut: a snapshot in which one member is told late, and what is missing
after a restore."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Callable

from .chatter import Chatter
from .cluster import Cluster
from .cutcheck import check_bundle
from .gate import Gate
from .outcome import Failed, check, wait_until

HELD = 8  # seconds at most; the timeout of the cut is 10


def snapshot_late(cluster: Cluster, tag: str, late: str, enough: Callable[[], bool],
                  coloring: bool = True) -> dict[str, Any]:
    """SNAPSHOT reaches member `late` only when `enough` is true, after the others have taken their
    cuts: the first member, which takes the snapshot, and the peers. Returns the manifest."""
    with Gate(cluster[late].socket, cluster.place.path / f"{tag}.sock", "SNAPSHOT") as way:
        members = [{**member.address, "address": f"unix:{way.path}"} if member.name == late
                   else member.address for member in cluster.members]
        cluster.begin_snapshot(tag, members=members, coloring=coloring)
        for member in cluster.members[1:]:
            if member.name != late:
                member.vm.reach("transient-fin")
        with suppress(Failed):
            wait_until(enough, "", timeout=HELD)
        way.open()
        error = cluster.members[0].vm.wait_job(f"snap-{tag}")
        check(error is None, f"snapshot {tag}: {error}")
    return json.loads((cluster.bundles / tag / "manifest.json").read_text())


def lost_after(cluster: Cluster, tag: str) -> int:
    """Restores a bundle and lets traffic flow. Returns the number of messages that never came."""
    cluster.kill()
    cluster.restore(tag)
    Chatter.wait_flow(cluster, 3)
    cluster.snapshot(f"after-{tag}")
    return check_bundle(cluster.bundles / f"after-{tag}").lost
