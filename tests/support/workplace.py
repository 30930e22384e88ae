# SPDX-License-Identifier: GPL-2.0-or-later
"""Folders, networks and mounts of a test, which end with it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Protocol

from hotsnap.host.netns import Network

from .outcome import Skipped
from .paths import BUILD, QEMU_IMG


class Endable(Protocol):
    """A process that must not outlive its test."""

    def kill(self) -> None: ...


class Workplace:
    """A temporary directory, and the VMs and networks that must end with the test."""

    def __init__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(130))
        self.path = Path(tempfile.mkdtemp(prefix="hotsnap-test-", dir=BUILD))
        self.vms: list[Endable] = []
        self.networks: list[Network] = []

    def __enter__(self) -> Workplace:
        return self

    def __exit__(self, *_: object) -> None:
        for vm in self.vms:
            vm.kill()
        for network in self.networks:
            network.destroy()
        if os.environ.get("HOTSNAP_KEEP"):
            print(f"# kept {self.path}", flush=True)
        else:
            shutil.rmtree(self.path, ignore_errors=True)

    def network(self, taps: list[str], others: dict[str, str] | None = None,
                queues: dict[str, int] | None = None) -> Network:
        """A network with `taps` on its bridge; `others` names taps and the bridges they are on;
        `queues` are those of taps that have several."""
        network = Network(f"hs-test-{os.getpid()}-{len(self.networks)}", taps, queues=queues)
        network.create()
        self.networks.append(network)
        others = others or {}
        for bridge in sorted(set(others.values())):
            network.add_bridge(bridge)
        for tap, bridge in others.items():
            network.add_tap(tap, bridge, network.queues.get(tap, 1))
        for tap in [*taps, *others]:  # no frame is lost while a guest stands still for seconds
            subprocess.run(["ip", "-n", network.name, "link", "set", tap, "txqueuelen", "20000"],
                           check=True)
        return network


class HugePages:
    """Reserves 2 MiB pages for the test alone, or skips it with the reason. Their number is a
    setting of the whole machine: one test at a time changes it, and restores it before the next."""

    SETTING = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")

    def __init__(self, count: int):
        self.count = count

    def __enter__(self) -> HugePages:
        try:
            self.lock = open(self.SETTING, encoding="utf-8")
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            self.before = int(self.SETTING.read_text())
            self.SETTING.write_text(str(self.before + self.count))
        except OSError as error:
            raise Skipped(f"huge pages cannot be reserved: {error}") from error
        if int(self.SETTING.read_text()) < self.before + self.count:
            self.__exit__()
            raise Skipped(f"the kernel has no {self.count} huge pages of 2 MiB free")
        return self

    def __exit__(self, *_: object) -> None:
        self.SETTING.write_text(str(self.before))
        self.lock.close()


class SmallFilesystem:
    """A tmpfs of a given size, mounted for the test alone; `options` are those of mount."""

    def __init__(self, place: Workplace, mib: int, options: str = "rw"):
        self.path = place.path / f"small-{mib}"
        self.path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,{options}", "none",
                        str(self.path)], check=True)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.path)], check=True)


def img_create(path: Path, size: str = "", backing: Path | None = None,
               backing_format: str = "raw", image_format: str = "qcow2") -> Path:
    command = [str(QEMU_IMG), "create", "-q", "-f", image_format]
    if backing:
        command += ["-F", backing_format, "-b", str(backing)]
    subprocess.run([*command, str(path), *([size] if size else [])], check=True)
    return path
