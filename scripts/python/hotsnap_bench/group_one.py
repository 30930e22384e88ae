# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshot of one VM's disks by QMP's own commands, in a process of its own: a script that saves
several VMs runs such a command for each, as it would run virsh.

    python3 -m hotsnap_bench.group_one SOCKET TAG DEVICE...

Prints a JSON array with the files that are frozen now.
"""

from __future__ import annotations

import json
import sys

from hotsnap.qemu.fleet import Fleet
from hotsnap.qemu.qmp import Qmp


def save(socket: str, tag: str, devices: list[str]) -> list[str]:
    frozen, actions = [], []
    with Qmp.connect(socket) as qmp:
        info = Fleet.block_info(qmp)
        for device in devices:
            path = info[device]["image"]["filename"]
            frozen.append(path)
            actions.append({"type": "blockdev-snapshot-sync", "data": {
                "node-name": info[device]["node-name"],
                "snapshot-file": f"{path.removesuffix('.qcow2')}-{tag}.qcow2",
                "snapshot-node-name": f"{tag}-{device}", "format": "qcow2"}})
        qmp.execute("transaction", {"actions": actions})
    return frozen


if __name__ == "__main__":
    print(json.dumps(save(sys.argv[1], sys.argv[2], sys.argv[3:])))
