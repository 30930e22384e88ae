# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the operator's command share: the path to the code, and a made-up bundle."""

import os

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))
from hotsnap.formats import sums
from hotsnap.host.atomic import write_json

PAGES = {"total": 1000, "zero": 300, "background": 900, "guest_write": 80, "dma_write": 20,
         "kvm_write": 0, "neighbors": 60}
STEPS = [{"name": "stop", "us": 300}, {"name": "drain", "us": 900}, {"name": "arm", "us": 400}]
UNIT = 65536


def member(folder, name, number, disks=()):
    """A member's files in `folder`, and its part of a manifest. `disks`: paths of layers."""
    os.makedirs(os.path.join(folder, name))

    def put(file, data):
        with open(os.path.join(folder, name, file), "wb") as stream:
            stream.write(data)

    # Data, a unit of zeros, a hole, and an end that fills no unit.
    put("state", bytes([number + 1]) * UNIT + bytes(UNIT))
    with open(os.path.join(folder, name, "state"), "r+b") as stream:
        stream.seek(UNIT * 5)
        stream.write(b"device state" * 100)
    put("channel.pcap", b"frames" * number)
    put("channel.vnet", b"headers" * number)
    state = os.path.join(folder, name, "state")

    def digest(file):
        return f"{sums.file_xxh3(os.path.join(folder, name, file)):016x}"

    entry = {
        "name": name, "address": f"unix:/run/{name}.hs", "qemu": "10.0.13",
        "machine": "pc-i440fx-10.0", "argv": ["qemu-system-x86_64"], "boot_id": "b",
        "nics": [{"nic": "net0", "mac": f"52:54:00:00:00:{number:02x}"}],
        "memory": {"file": f"{name}/state", "sums": f"{name}/state.sums",
                   "sums_xxh3": f"{sums.write(state, state + '.sums', UNIT):016x}",
                   "size": os.stat(state).st_size, "engine": "uffd", "pages": dict(PAGES),
                   "faults": 100},
        "disks": [],
        "channel": {"file": f"{name}/channel.pcap", "vnet": f"{name}/channel.vnet",
                    "frames": number, "lost": 0, "pcap_xxh3": digest("channel.pcap"),
                    "vnet_xxh3": digest("channel.vnet")},
        "pause": {"begin_ns": 10_000_000 + number * 700_000,
                  "end_ns": 12_000_000 + number * 900_000, "steps": [dict(s) for s in STEPS]},
        "cause": "red-frame" if number else "snapshot",
    }
    for index, layer in enumerate(disks):
        name_of_sums = f"{name}/disk-{index}.sums"
        value = sums.write(layer, os.path.join(folder, name_of_sums), UNIT)
        entry["disks"].append({"device": f"disk{index}-dev", "node": f"disk{index}",
                               "file": layer, "format": "qcow2", "overlay": layer + ".next",
                               "overlay_node": "o", "sums": name_of_sums,
                               "sums_xxh3": f"{value:016x}"})
    return entry


def make_bundle(directory, tag="t1", names=("a", "b", "c"), disks=None):
    """Write a whole bundle; `disks` maps a member to its frozen layers. Returns its path."""
    path = os.path.join(directory, tag)
    os.makedirs(path)
    members = [member(path, name, i, (disks or {}).get(name, ())) for i, name in enumerate(names)]
    pairs = [{"a": a, "b": b, "us": 3500} for i, a in enumerate(names) for b in names[i + 1:]]
    write_json(os.path.join(path, "manifest.json"), {
        "format": "hotsnap-bundle", "version": 1, "tag": tag, "epoch": 7,
        "initiator": names[0], "created": "2026-11-20T12:00:00Z", "members": members,
        "cut": {"backoff_max_us": 3500, "pairs": pairs, "comparable": True},
        "timeline": [{"phase": "prepare", "us": 100}, {"phase": "arm", "us": 5100},
                     {"phase": "snapshot", "us": 9100}, {"phase": "full", "us": 20000},
                     {"phase": "committed", "us": 900000}]})
    return path
