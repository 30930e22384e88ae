# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster of test guests on one network, to measure its snapshots."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hotsnap.commands import lifecycle
from hotsnap.errors import HotsnapError
from hotsnap.host import atomic
from hotsnap.model import bundle, cluster
from hotsnap.model.state import State
from hotsnap.qemu import jobs
from hotsnap.qemu.fleet import Fleet
from support.console import Console

from .guest import BOOT_TIMEOUT, JOB, KERNEL_LINE, SNAPSHOT_TIMEOUT, end, remove_files, with_shell

Members = Sequence[tuple[str, int, str]]  # name, MiB, parameters for the guest
Disks = Mapping[str, Sequence[str]]  # name of a member -> the keys of each of its further disks


def description(files: str, qemu: str, members: Members, disks: Disks) -> str:
    return f"""# Written by scripts/bench.
[cluster]
name = "bench-lab"
directory = "lab"
qemu = "{qemu}"

[[network]]
name = "lan"
""" + "".join(f"""
[[member]]
name = "{name}"
memory = "{mib}M"
machine = "q35"
cpu = "max"
kernel = "{files}/vmlinuz"
initrd = "{files}/initrd.img"
append = "{KERNEL_LINE} hs.name={name} {parameters}"
args = ["-device", "virtio-rng-pci"]

  [[member.disk]]
  image = "{files}/rootfs.raw"
{further_disks(disks.get(name, ()))}
  [[member.nic]]
  network = "lan"
""" for name, mib, parameters in members)


def further_disks(disks: Sequence[str]) -> str:
    return "".join(f"  [[member.disk]]\n  {keys}\n" for keys in disks)


class Lab:
    """The members, from their boot to their end."""

    def __init__(self, folder: str, files: str, qemu: str, members: Members,
                 disks: Disks | None = None):
        self.folder = folder
        self.names = [name for name, _, _ in members]
        os.makedirs(folder)
        path = os.path.join(folder, "cluster.toml")
        atomic.write_bytes(path, description(files, qemu, members, disks or {}).encode())
        self.state = State(cluster.load(path))
        self.shells = with_shell(self.state)
        self.fleet = Fleet(self.state)

    def __enter__(self) -> Lab:
        try:
            self._boot()
        except BaseException:
            end(self.state)
            raise
        return self

    def _boot(self) -> None:
        with self.state.locked():
            lifecycle.up(self.state, self.fleet)
        consoles = [Console(self.state.paths(name).serial) for name in self.names]
        deadline = time.monotonic() + BOOT_TIMEOUT
        while not all(console.ready for console in consoles):
            if time.monotonic() > deadline:
                raise HotsnapError(f"the guests did not boot in {BOOT_TIMEOUT:g} s: see "
                                   f"{self.folder}")
            time.sleep(0.2)
            for console in consoles:
                console.read()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        end(self.state)
        remove_files(self.folder, self.state, keep_logs=kind is not None)

    def snapshot(self, tag: str, names: Sequence[str] = (), **options: Any) -> bundle.Bundle:
        """With these arguments of hotsnap-cluster, of all members or the named ones. The bundle is
        removed; its manifest is returned."""
        with self.fleet.qmp(self.names[0]) as qmp:
            qmp.execute("hotsnap-cluster", {
                "job-id": JOB, "tag": tag, "directory": self.state.bundles,
                "members": [{"name": name, "address": self.state.address(name)}
                            for name in names or self.names], **options})
            jobs.follow(qmp, JOB, SNAPSHOT_TIMEOUT, lambda job, events: None)
        saved = bundle.read(os.path.join(self.state.bundles, tag))
        bundle.remove(saved.path)
        return saved
