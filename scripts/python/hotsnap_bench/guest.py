# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual machine to measure: the same for the fork and for stock QEMU.

Its memory is allocated before it starts, in 4 KiB pages (see `small_pages_only`), which is the
mapping that costs a write protection most.
"""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hotsnap.commands import lifecycle
from hotsnap.errors import HotsnapError
from hotsnap.host import atomic, process
from hotsnap.model import bundle, cluster
from hotsnap.model.bundle import Bundle, SavedMember
from hotsnap.model.state import State
from hotsnap.qemu import jobs
from hotsnap.qemu.fleet import Fleet
from hotsnap.qemu.qmp import Qmp
from hotsnap.ui.output import Progress
from support.console import Console
from support.shell import Shell, serial_port

GIB, MIB = 1 << 30, 1 << 20
NAME = "vm"
JOB = "bench"
BOOT_TIMEOUT, WRITE_TIMEOUT, SNAPSHOT_TIMEOUT = 300.0, 60.0, 900.0
KERNEL_LINE = "console=ttyS0 quiet mitigations=off no_timer_check"
_PR_SET_THP_DISABLE = 41


def small_pages_only() -> None:
    """This process and all that it starts get no huge pages (prctl(2): inherited by fork, kept by
    exec)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise HotsnapError(f"the kernel cannot turn huge pages off for a process: "
                           f"{os.strerror(number)}")


def huge_bytes(pid: int) -> int:
    """Anonymous memory of a process that is mapped with huge pages."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as stream:
        return sum(int(line.split()[1]) * 1024 for line in stream
                   if line.startswith(("AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:")))


@dataclass(frozen=True)
class Snapshot:
    saved: Bundle
    events: list[dict[str, Any]]

    @property
    def member(self) -> SavedMember:
        return self.saved.members[0]


def standstill_ms(events: list[dict[str, Any]]) -> float:
    """Milliseconds from STOP to RESUME, by the timestamps that QEMU gave these events."""
    found: dict[str, datetime.timedelta] = {}
    for event in events:
        if event["event"] in ("STOP", "RESUME"):
            if event["event"] in found:
                raise HotsnapError(f"the VM had more than one {event['event']} in a snapshot")
            found[event["event"]] = datetime.timedelta(**event["timestamp"])
    if len(found) != 2:
        raise HotsnapError("QEMU did not tell that the VM was stopped and resumed")
    return (found["RESUME"] - found["STOP"]) / datetime.timedelta(milliseconds=1)


def description(name: str, guest: str, qemu: str, memory_gib: int, parameters: str,
                networks: int = 1) -> str:
    """The cluster file of one machine, as quickstart's members are, with its memory allocated and
    a card in each of its networks."""
    lans = ["lan", *(f"lan{number}" for number in range(2, networks + 1))]
    named = "\n".join(f'[[network]]\nname = "{lan}"\n' for lan in lans)
    cards = "\n".join(f'  [[member.nic]]\n  network = "{lan}"\n' for lan in lans)
    return f"""# Written by scripts/bench.
[cluster]
name = "bench-{name}"
directory = "vm"
qemu = "{qemu}"

{named}
[[member]]
name = "{NAME}"
memory = "{memory_gib}G"
machine = "q35"
cpu = "max"
kernel = "{guest}/vmlinuz"
initrd = "{guest}/initrd.img"
append = "{KERNEL_LINE} hs.name={NAME} {parameters}"
args = ["-device", "virtio-rng-pci", "-machine", "memory-backend=ram",
        "-object", "memory-backend-ram,id=ram,size={memory_gib}G,prealloc=on,prealloc-threads=2"]

  [[member.disk]]
  image = "{guest}/rootfs.raw"

{cards}"""


def with_shell(state: State) -> dict[str, Shell]:
    """Gives each member a shell on ttyS1, and lets it boot on a busy host (tests/guest/README.md);
    to be called before they start."""
    shells: dict[str, Shell] = {}
    members = []
    for member in state.cluster.members:
        path = os.path.join(state.directory, "run", member.name + ".tty")
        shells[member.name] = Shell(path)
        members.append(dataclasses.replace(
            member, append=f"{member.append} hs.shell=ttyS1",
            args=member.args + serial_port(path)))
    state.cluster = dataclasses.replace(state.cluster, members=tuple(members))
    return shells


class Guest:
    """A machine in a folder of its own. `stock`: without the fork's objects."""

    def __init__(self, folder: str, guest_files: str, qemu: str, memory_gib: int, parameters: str,
                 stock: bool = False, networks: int = 1):
        self.folder = folder
        self.memory_gib = memory_gib
        os.makedirs(folder)
        path = os.path.join(folder, "cluster.toml")
        text = description(os.path.basename(folder), guest_files, qemu, memory_gib, parameters,
                           networks)
        atomic.write_bytes(path, text.encode())
        self.state = State(cluster.load(path))
        self.shell = with_shell(self.state)[NAME]
        self.fleet = Fleet(self.state, snapshots=not stock)
        self.console = Console(self.state.paths(NAME).serial)

    @property
    def accel(self) -> str:
        return self.state.members[NAME].accel or ""

    def start(self) -> None:
        """Returns when the guest's init says that it is ready."""
        with self.state.locked():
            lifecycle.up(self.state, self.fleet)
        self._wait("boot", BOOT_TIMEOUT, lambda: self.console.ready)
        running = self.state.members[NAME].process
        assert running
        huge = huge_bytes(running.pid)
        if huge:
            raise HotsnapError(f"{huge} bytes of the VM are mapped with huge pages: the figures "
                               "would not be of 4 KiB mappings")

    def _wait(self, what: str, timeout: float, done: Callable[[], bool]) -> None:
        bar = Progress(f"{os.path.basename(self.folder)}: {what}")
        deadline = began = time.monotonic()
        deadline += timeout
        try:
            while True:
                self.console.read()
                if self.console.failures:
                    raise HotsnapError(f"the guest failed: {self.console.failures[0]} (log: "
                                       f"{self.console.path})")
                if done():
                    return
                if not self.fleet.running(NAME):
                    said = process.tail(self.fleet.log(NAME))
                    raise HotsnapError(f"the VM's QEMU ended: {said or 'without a word'}")
                if time.monotonic() > deadline:
                    raise HotsnapError(f"{what}: not done in {timeout:g} s; see "
                                       f"{self.console.path}")
                bar.update(time.monotonic() - began, timeout, f"of at most {timeout:g}s")
                time.sleep(0.05)
        finally:
            bar.clear()

    def written(self) -> int:
        """Pages that the guest's writer has written, as it last said."""
        self.console.read()
        return self.console.latest.get(("writer", ""), {}).get("pages", 0)

    def wait_writing(self) -> None:
        """Returns when the guest has said twice that it goes on writing."""
        lines = self.console.lines.get(("writer", ""), 0)
        self._wait("wait for the load", WRITE_TIMEOUT,
                   lambda: self.console.lines.get(("writer", ""), 0) >= lines + 2)

    def command(self, name: str) -> None:
        with self.fleet.monitor(NAME) as qmp:
            qmp.execute(name)

    def qmp(self) -> Qmp:
        return self.fleet.qmp(NAME)

    def snapshot(self, tag: str, **options: Any) -> Snapshot:
        """Takes a snapshot, with these arguments of hotsnap-cluster. The disk goes on in its new layer; nothing else is kept of that."""
        events: list[dict[str, Any]] = []
        bar = Progress(f"{os.path.basename(self.folder)}: snapshot")

        def watch(job: dict[str, Any], new: list[dict[str, Any]]) -> None:
            events.extend(new)
            bar.update(job["current-progress"], job["total-progress"])

        try:
            with self.qmp() as qmp:
                qmp.execute("hotsnap-cluster", {
                    "job-id": JOB, "tag": tag, "directory": self.state.bundles,
                    "members": [{"name": NAME, "address": self.state.address(NAME)}],
                    **options})
                jobs.follow(qmp, JOB, SNAPSHOT_TIMEOUT, watch)
                events.extend(qmp.events())
        finally:
            bar.clear()
        return Snapshot(bundle.read(os.path.join(self.state.bundles, tag)), events)

    def discard(self, snapshot: Snapshot) -> None:
        bundle.remove(snapshot.saved.path)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        end(self.state)
        remove_files(self.folder, self.state, keep_logs=kind is not None)


def end(state: State) -> None:
    """End what runs of a cluster and remove its network."""
    with state.locked():
        fleet = Fleet(state)
        fleet.kill(fleet.names())
        fleet.remove_network()


def remove_files(folder: str, state: State, keep_logs: bool) -> None:
    """After a failure the logs stay, since the message refers to them; large files do not."""
    shutil.rmtree(state.bundles if keep_logs else folder, ignore_errors=keep_logs)


def clean(folder: str) -> None:
    """Ends and removes what is left of an earlier run that was killed."""
    if not os.path.isdir(folder):
        return
    for entry in sorted(os.listdir(folder)):
        path = os.path.join(folder, entry, "cluster.toml")
        if os.path.exists(path):
            try:
                state = State(cluster.load(path))
            except HotsnapError:
                continue  # its guest image or QEMU was deleted: nothing of it can run
            end(state)
    shutil.rmtree(folder)
