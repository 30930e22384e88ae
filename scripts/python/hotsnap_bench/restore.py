# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench restore: from the command to a VM that runs, and to the first reply of its guest, with
memory on demand (with the working set that one restore before has learned, and without prefetching),
with memory in full, and with stock QEMU; the image in the page cache, or not.

What is not measured has no figure: clients' rates, backoff, and many members."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hotsnap.errors import HotsnapError
from hotsnap.host import userfault
from hotsnap.model import bundle
from hotsnap.qemu import binaries, jobs
from hotsnap.qemu.fleet import Fleet
from hotsnap.qemu.qmp import Qmp
from hotsnap.ui.output import say

from . import core, program
from .guest import JOB, NAME, Guest, Snapshot
from .stats import Line, Series, ratio, rounded

SIZES = (1, 8)
LOAD = "hs.role=writer hs.writer.mib=64 hs.writer.rate=2000"
FILLED = 0.6            # of the guest's memory is data, which is not looked at again
FILL_TIMEOUT = 900.0
LOAD_TIMEOUT = 900.0
LAZY, BARE, FULL, STOCK = "lazy", "lazy without prefetching", "full", "stock"
ON_DEMAND = (LAZY, BARE)
TEMPERATURES = ("cold", "warm")


@dataclass
class Start:
    """`running`: from the command to the event RESUME. `reply`: to the answer of a command that was
    typed in the guest's shell as soon as it ran. `complete`: until all memory is there."""

    running: Series = field(default_factory=lambda: Series("ms"))
    reply: Series = field(default_factory=lambda: Series("ms"))
    complete: Series = field(default_factory=lambda: Series("s"))
    loads: list[dict[str, Any]] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        return {"running": self.running.report(), "reply": self.reply.report(),
                "complete": self.complete.report(), "loads": self.loads}


@dataclass
class Starts:
    """By size in GiB, manner and temperature."""

    sizes: Sequence[int]
    by: dict[tuple[int, str, str], Start] = field(default_factory=dict)

    def of(self, size: int, how: str, temperature: str) -> Start:
        return self.by.setdefault((size, how, temperature), Start())

    def median(self, size: int, how: str, temperature: str) -> float | None:
        found = self.by.get((size, how, temperature))
        return found.running.median if found else None

    def demand_fault_ratio(self) -> float | None:
        """How many of the waits for a page are left by prefetching, at the smallest size, cold."""
        def faults(how: str) -> float | None:
            found = self.by.get((self.sizes[0], how, "cold"))
            return (statistics.median(load["faults"] for load in found.loads)
                    if found and found.loads else None)

        return ratio(faults(LAZY), faults(BARE))

    def size_ratio(self) -> float | None:
        if len(self.sizes) < 2:
            return None
        return ratio(self.median(self.sizes[-1], LAZY, "cold"),
                     self.median(self.sizes[0], LAZY, "cold"))

    def lines(self) -> list[Line]:
        found = []
        for (size, how, temperature), start in sorted(self.by.items()):
            name = f"{size} GiB, {how}, {temperature}"
            found += [Line(f"running: {name}", start.running),
                      Line(f"first reply of the shell: {name}", start.reply)]
            if start.complete.samples:
                found.append(Line(f"all memory there: {name}", start.complete))
        found.append(Line("accesses that wait: with prefetching to without",
                          self.demand_fault_ratio(), target="at most 0.05"))
        return [*found, Line(f"running on demand, cold: {self.sizes[-1]} GiB to {self.sizes[0]} GiB",
                             self.size_ratio(), target="at most 1.3")]

    def report(self) -> dict[str, Any]:
        """The figures by the names of the goals are those of the smallest size. Full and stock are
        cold, as on-demand's first figure is."""
        small = self.sizes[0]
        running = {"cold": self.median(small, LAZY, "cold"),
                   "warm": self.median(small, LAZY, "warm"),
                   "full": self.median(small, FULL, "cold"),
                   "stock": self.median(small, STOCK, "cold")}
        found: dict[str, Any] = {"running_ms": {key: rounded(value) for key, value in
                                                running.items() if value is not None}}
        if (over := self.size_ratio()) is not None:
            found["size_ratio"] = rounded(over)
        if (left := self.demand_fault_ratio()) is not None:
            found["demand_fault_ratio"] = rounded(left)
        found["starts"] = {f"{size} GiB {how} {temperature}": start.report()
                           for (size, how, temperature), start in sorted(self.by.items())}
        return found


def forget(path: str) -> None:
    """Takes a file out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def remember(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 22):
            pass


def since(began: float, event: dict[str, Any]) -> float:
    """Milliseconds from an instant (seconds since 1970) to an event, by QEMU's timestamp."""
    return (datetime.timedelta(**event["timestamp"]).total_seconds() - began) * 1000


class Restored:
    """The saved machine, started anew to be loaded."""

    def __init__(self, guest: Guest, saved: bundle.Bundle, stock_qemu: str | None):
        self.guest, self.saved, self.member = guest, saved, saved.members[0]
        self.state = guest.state
        self.image = saved.file(self.member.memory.file)
        self.fleet = guest.fleet
        # As the members of an operator are: their memory need not be there before it is used.
        model = self.state.cluster.members[0]
        args = tuple(arg.replace("prealloc=on,prealloc-threads=2", "prealloc=off")
                     for arg in model.args)
        self.state.cluster = dataclasses.replace(
            self.state.cluster, qemu=stock_qemu or self.state.cluster.qemu,
            members=(dataclasses.replace(model, args=args),))
        self.fleet = Fleet(self.state, snapshots=stock_qemu is None)

    def __enter__(self) -> Restored:
        self.disks = {}
        for number, disk in enumerate(self.member.disks):
            path = self.state.new_layer(NAME, f"disk{number}")
            binaries.create_overlay(binaries.qemu_img(None), path, disk.file, disk.format)
            self.disks[f"disk{number}"] = path
        self.fleet.start({NAME: self.disks}, {NAME: self.member.machine}, incoming=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.kill([NAME])
        for path in self.disks.values():
            os.unlink(path)

    def measure(self, how: str, into: Start) -> None:
        with self.fleet.qmp(NAME) as qmp:
            began = time.time()
            if how == STOCK:
                self._load_stock(qmp)
            else:
                qmp.execute("hotsnap-restore", {
                    "job-id": JOB, "bundle": self.saved.path, "memory": "lazy" if how in ON_DEMAND else how,
                    "members": [{"name": NAME, "address": self.state.address(NAME)}]})
            running = since(began, qmp.wait_event("RESUME", LOAD_TIMEOUT))
            self.guest.shell.run("true", LOAD_TIMEOUT)
            into.reply.add((time.time() - began) * 1000)
            into.running.add(running)
            if how != STOCK:
                jobs.follow(qmp, JOB, LOAD_TIMEOUT)
            if how in ON_DEMAND:
                load = self._complete(qmp)
                into.complete.add(load["elapsed-us"] / 1e6)
                into.loads.append({key: load[key] for key in (
                    "total", "untrapped", "background", "demand-guest", "demand-device",
                    "neighbors", "planned", "prefetched", "faults", "fault-us-max", "fault-us-sum", "attach-us")})

    def _load_stock(self, qmp: Qmp) -> None:
        qmp.execute("migrate-set-capabilities", {
            "capabilities": [{"capability": "mapped-ram", "state": True}]})
        qmp.execute("migrate-incoming", {"uri": f"file:{self.image}"})
        deadline = time.monotonic() + LOAD_TIMEOUT
        while qmp.execute("query-migrate").get("status") != "completed":
            if time.monotonic() > deadline:
                raise HotsnapError(f"stock QEMU does not load {self.image}")
            time.sleep(0.002)
        qmp.execute("cont")

    @staticmethod
    def _complete(qmp: Qmp) -> dict[str, Any]:
        deadline = time.monotonic() + LOAD_TIMEOUT
        while (load := qmp.execute("query-hotsnap")["memory-load"])["state"] != "complete":
            if load["state"] == "failed" or time.monotonic() > deadline:
                raise HotsnapError(f"memory was not loaded: {load}")
            time.sleep(0.02)
        return load


@contextlib.contextmanager
def unknown(saved: bundle.Bundle) -> Iterator[None]:
    """The working set is not known meanwhile, and what is learned is forgotten."""
    path = os.path.join(os.path.dirname(saved.file(saved.members[0].memory.file)), "access")
    os.rename(path, f"{path}.aside")
    try:
        yield
    finally:
        os.rename(f"{path}.aside", path)


def saved_machine(guest: Guest, size: int) -> Snapshot:
    """Fills a part of the memory, and saves the machine; it is ended."""
    guest.start()
    guest.wait_writing()
    mib = int(size * 1024 * FILLED)
    say(f"  {size} GiB: fill {mib} MiB")
    # Words of 8 bytes that are no page of zeros, as fast as the guest can copy them.
    guest.shell.run("mkdir -p /run/fill && mount -t tmpfs -o size=95% none /run/fill && "
                    f"yes hotsnap | head -c {mib}M >/run/fill/data", FILL_TIMEOUT)
    snapshot = guest.snapshot("t")
    guest.fleet.kill([NAME])
    return snapshot


def measure_size(found: Starts, folder: str, files: str, qemu: str, stock: str | None, size: int,
                 repeat: int) -> None:
    say(f"  start a VM with {size} GiB")
    with Guest(os.path.join(folder, f"restore-{size}"), files, qemu, size, LOAD) as guest:
        saved = saved_machine(guest, size).saved
        manners = [LAZY, BARE, FULL] if userfault.permitted() else [FULL]
        if LAZY in manners:
            with Restored(guest, saved, None) as restored:
                restored.measure(LAZY, Start())  # it learns the working set
        manners += [STOCK] if stock else []
        for turn in range(repeat):
            for temperature in TEMPERATURES:
                for how in manners if turn % 2 == 0 else reversed(manners):
                    into = found.of(size, how, temperature)
                    memory = saved.members[0].memory
                    restored = Restored(guest, saved, stock if how == STOCK else None)
                    with restored:
                        for path in (memory.file, memory.sums):
                            (forget if temperature == "cold" else remember)(saved.file(path))
                        with unknown(saved) if how == BARE else contextlib.nullcontext():
                            restored.measure(how, into)
                    guest.state.cluster = dataclasses.replace(guest.state.cluster, qemu=qemu)
                    say(f"  {turn + 1}/{repeat}: {size} GiB, {how}, {temperature}: running after "
                        f"{into.running.samples[-1]:.0f} ms, reply after "
                        f"{into.reply.samples[-1]:.0f} ms")


def arguments(given: list[str] | None) -> argparse.Namespace:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--sizes", metavar="GIB,GIB...", type=core.parse_sizes,
                            default=list(SIZES))

    return program.arguments("restore", 8, given, add)


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    stock = os.environ.get("HOTSNAP_STOCK_QEMU") or os.path.join(
        binaries.CHECKOUT, "build", "qemu-stock", "qemu-system-x86_64")

    def measure(folder: str, files: str, qemu: str, repeat: int) -> Starts:
        os.environ.pop("HOTSNAP_QEMU", None)  # it would win over the machine's own
        found = Starts(options.sizes)
        for size in options.sizes:
            measure_size(found, folder, files, qemu, stock if os.access(stock, os.X_OK) else None,
                         size, repeat)
        return found

    parts = [*(f"{size} GiB" for size in options.sizes), STOCK]
    return program.main(options, parts, 2 * options.sizes[-1], measure)


if __name__ == "__main__":
    sys.exit(main())
