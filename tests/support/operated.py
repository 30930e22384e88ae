# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster of two guests that write to memory and disk, as an operator runs it: by
scripts/hotsnap."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from hotsnap.model import cluster
from hotsnap.model.state import State
from hotsnap.qemu.qmp import Qmp, QmpError

from .outcome import Failed, Report, check, wait_until
from .paths import GUEST, PATIENCE, QEMU, ROOT
from .workplace import Workplace

CLUSTER = """
[cluster]
name = "{name}"
directory = "state"
accel = "tcg"
machine = "q35,hpet=off"
cpu = "max"
memory = "256M"

[[network]]
name = "lan"
"""
MEMBER = """
[[member]]
name = "{name}"
kernel = "{guest}/vmlinuz"
initrd = "{guest}/initrd.img"
append = "console=ttyS0 quiet mitigations=off no_timer_check hs.name={name} hs.ip={ip}/24 hs.peers={peer} hs.role=writer hs.writer.mib=16 hs.writer.rate=200 hs.writer.disk=5{append}"
{more}
args = ["-device", "virtio-rng-pci"]

  [[member.disk]]
  image = "{guest}/rootfs.raw"

  [[member.disk]]
  size = "16M"
  serial = "hsdisktag"

  [[member.nic]]
  network = "lan"
"""

ENVIRONMENT = {**os.environ, "HOTSNAP_QEMU": str(QEMU)}


class Operator:
    """Members "a" and "b" of a cluster whose folder is in `place`."""

    def __init__(self, place: Workplace, name: str, more: str = "", append: str = ""):
        """`more`: keys of each member; `append`: what only the kernel of "b" is told."""
        self.file = place.path / "cluster.toml"
        self.state = place.path / "state"
        self.file.write_text(CLUSTER.format(name=name) + "".join(
            MEMBER.format(name=member, ip=ip, peer=peer, guest=GUEST, more=more, append=told)
            for member, ip, peer, told in [("a", "10.77.0.1", "b:10.77.0.2", ""),
                                           ("b", "10.77.0.2", "a:10.77.0.1", append)]))

    @property
    def bundles(self) -> Path:
        return self.state / "bundles"

    def command(self, *arguments: str) -> list[str]:
        return [str(ROOT / "scripts" / "hotsnap"), "--file", str(self.file), *arguments]

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True,
                              check=False, stdin=subprocess.DEVNULL, env=ENVIRONMENT)
        check(done.returncode == code, f"hotsnap {' '.join(arguments)}: exit code "
              f"{done.returncode}, not {code}: {done.stdout[-400:]} {done.stderr[-600:]}")
        return done.stdout + ("" if code == 0 else done.stderr)

    def data(self, *arguments: str):
        return json.loads(self.run(*arguments, "--json"))

    def lift(self) -> None:
        """Lifts the limit, so that the copies of a snapshot under way end."""
        state = State(cluster.load(str(self.file)))
        for name in "ab":
            with Qmp.connect(state.paths(name).monitor, PATIENCE) as qmp, suppress(QmpError):
                qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})

    def is_the_machine(self, name: str) -> None:
        """The machine has its properties of the cluster file, also after a restore."""
        state = State(cluster.load(str(self.file)))
        with Qmp.connect(state.paths(name).monitor, PATIENCE) as qmp:
            has_hpet = qmp.execute("qom-get", {"path": "/machine", "property": "hpet"})
        check(has_hpet is False, f"{name}: it has another machine than the one that was saved")

    def moves(self, name: str) -> None:
        """The guest goes on writing, to its disk too."""
        log = self.state / "members" / name / "serial.log"
        offset = log.stat().st_size

        def text() -> str:
            return log.read_text(errors="replace")[offset:]

        def counts() -> set[str]:
            return set(re.findall(rf"^writer {name} pages=\d+ disk=(\d+)", text(), re.M))

        wait_until(lambda: len(counts()) > 1, lambda: f"{name} stands still: {text()[-300:]}")

    def steps(self, report: Report, prefix: str, steps: Iterable[tuple[str, Callable[[], object]]]
              ) -> None:
        """Reports these steps one after the other, and ends the cluster whatever came of them."""
        try:
            for name, function in steps:
                report.run(f"{prefix}-{name}", function)
        finally:
            with suppress(Failed):
                self.run("down", "--force")

    def ready(self) -> None:
        for name in "ab":
            log = self.state / "members" / name / "serial.log"
            wait_until(lambda log=log, name=name:
                       f"writer {name} pages=" in log.read_text(errors="replace"),
                       f"{name} does not boot")
