# SPDX-License-Identifier: GPL-2.0-or-later
"""The pause of one VM under a memory-writing load: of the fork by size of memory, and of stock
QEMU's background-snapshot with the same machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hotsnap.errors import HotsnapError
from hotsnap.qemu.qmp import Qmp
from hotsnap.ui.output import Progress, say

from .guest import Guest, standstill_ms
from .stats import Line, Series, medians_by_name, ratio

LOAD = "hs.role=writer hs.writer.mib=512 hs.writer.rate=0"
SETTLE_SECONDS = 1.0       # of load between a snapshot and the next
MIGRATION_TIMEOUT = 900.0
STREAM = "stream"
EMPTY_PAUSE = ("stop", "drain", "undrain", "resume")  # the steps that any pause has
UNLIMITED = 1 << 40        # bytes per second; stock QEMU's default is a network's


@dataclass
class Pauses:
    """Pauses of a VM of one size, and what its first writes wait for. `pause` is QEMU's own report, `standstill` is the time from the
    event STOP to RESUME."""

    pause: Series = field(default_factory=lambda: Series("ms"))
    standstill: Series = field(default_factory=lambda: Series("ms"))
    samples: list[dict[str, Any]] = field(default_factory=list)
    idle: Series = field(default_factory=lambda: Series("ms"))   # the guest does not write
    floor: Series = field(default_factory=lambda: Series("ms"))  # stop and resume alone, idle
    stall_mean: Series = field(default_factory=lambda: Series("us"))  # of a first write
    stall_max: Series = field(default_factory=lambda: Series("us"))

    def report(self) -> dict[str, Any]:
        steps = medians_by_name(sample["steps_us"] for sample in self.samples)
        return {"pause": self.pause.report(), "idle": self.idle.report(),
                "floor": self.floor.report(), "stall_mean": self.stall_mean.report(),
                "stall_max": self.stall_max.report(), "stop_to_resume": self.standstill.report(),
                "steps_us_median": steps, "samples": self.samples}


@dataclass
class StockPauses:
    """`downtime` is what query-migrate says, in whole milliseconds."""

    standstill: Series = field(default_factory=lambda: Series("ms"))
    downtime: Series = field(default_factory=lambda: Series("ms"))
    total: Series = field(default_factory=lambda: Series("ms"))

    def report(self) -> dict[str, Any]:
        return {"stop_to_resume": self.standstill.report(), "downtime": self.downtime.report(),
                "total": self.total.report()}


def label(gib: int) -> str:
    return f"{gib}GiB"


def measure(folder: str, files: str, qemu: str, sizes: Sequence[int], repeat: int,
            facts: dict[str, Any]) -> dict[int, Pauses]:
    """All machines are there all the time, and only the one that is measured runs, so that other
    work of the host disturbs all sizes alike."""
    results = {size: Pauses() for size in sizes}
    with contextlib.ExitStack() as stack:
        guests: dict[int, Guest] = {}
        for size in sizes:
            say(f"  start a VM with {size} GiB")
            guests[size] = stack.enter_context(
                Guest(os.path.join(folder, f"pause-{size}"), files, qemu, size, LOAD))
            guests[size].start()
            guests[size].wait_writing()
            guests[size].command("stop")
            facts["accel"] = guests[size].accel
        for turn in range(repeat):
            # There and back, so that no size is always the one after the largest.
            for size in sizes if turn % 2 == 0 else reversed(sizes):
                sample = _one(guests[size], f"t{turn}", results[size])
                _idle(guests[size], f"i{turn}", results[size])
                say(f"  {turn + 1}/{repeat}: {size} GiB: pause {sample['pause_ms']:.2f} ms, STOP "
                    f"to RESUME {sample['stop_to_resume_ms']:.2f} ms; idle "
                    f"{results[size].idle.samples[-1]:.2f} ms")
    return results


def _one(guest: Guest, tag: str, into: Pauses) -> dict[str, Any]:
    guest.command("cont")
    time.sleep(SETTLE_SECONDS)
    guest.wait_writing()
    before = os.getloadavg()[0]
    snapshot = guest.snapshot(tag)
    guest.command("stop")
    member = snapshot.member
    memory = member.memory
    sample = {
        "pause_ms": member.pause.ms,
        "stop_to_resume_ms": standstill_ms(snapshot.events),
        "steps_us": {step.name: step.us for step in member.pause.steps},
        "cut_pages": memory.cut_pages, "arm_us": memory.arm_us, "pages": memory.pages.dump(),
        "faults": memory.faults, "fault_us_max": memory.fault_us_max, "copy_us": memory.copy_us,
        "load_average": before}
    guest.discard(snapshot)
    into.pause.add(sample["pause_ms"])
    into.standstill.add(sample["stop_to_resume_ms"])
    into.samples.append(sample)
    # All pages that were saved because of writes, the neighbors of a page too: each of them would
    # have been a first write that waits.
    written = memory.pages.by_writes
    if written and memory.fault_us_sum is not None:
        into.stall_mean.add(memory.fault_us_sum / written)
        into.stall_max.add(memory.fault_us_max or 0)
    return sample


def _idle(guest: Guest, tag: str, into: Pauses) -> None:
    guest.command("cont")
    guest.shell.run("kill -STOP $(pidof hs-writer)")
    try:
        time.sleep(SETTLE_SECONDS)
        snapshot = guest.snapshot(tag)
        steps = {step.name: step.us for step in snapshot.member.pause.steps}
        into.idle.add(snapshot.member.pause.ms)
        into.floor.add(sum(steps.get(name, 0) for name in EMPTY_PAUSE) / 1000)
        guest.discard(snapshot)
    finally:
        guest.shell.run("kill -CONT $(pidof hs-writer)")
        guest.command("stop")


def measure_stock(folder: str, files: str, stock: str, size: int, repeat: int) -> StockPauses:
    """Migration to a file with background-snapshot, as a plain stream: with mapped-ram stock QEMU
    10.0 writes an image that does not load."""
    result = StockPauses()
    say(f"  start stock QEMU with {size} GiB")
    with Guest(os.path.join(folder, "stock"), files, stock, size, LOAD, stock=True) as guest:
        guest.start()
        image = os.path.join(guest.folder, STREAM)
        for turn in range(repeat):
            time.sleep(SETTLE_SECONDS)
            guest.wait_writing()
            with guest.qmp() as qmp:
                said = _background_snapshot(qmp, image, result)
            os.unlink(image)
            say(f"  {turn + 1}/{repeat}: stock, {size} GiB: STOP to RESUME "
                f"{result.standstill.samples[-1]:.2f} ms; query-migrate says {said} ms")
    return result


def _background_snapshot(qmp: Qmp, image: str, into: StockPauses) -> int:
    qmp.execute("migrate-set-capabilities", {
        "capabilities": [{"capability": "background-snapshot", "state": True}]})
    qmp.execute("migrate-set-parameters", {"max-bandwidth": UNLIMITED})
    qmp.events()
    qmp.execute("migrate", {"uri": f"file:{image}"})
    bar = Progress("stock: snapshot")
    deadline = time.monotonic() + MIGRATION_TIMEOUT
    events = []
    try:
        while True:
            info = qmp.execute("query-migrate")
            events += qmp.events()
            if info["status"] == "completed":
                break
            if info["status"] in ("failed", "cancelled") or time.monotonic() > deadline:
                raise HotsnapError("stock QEMU's background-snapshot did not complete: "
                                   f"{info['status']} {info.get('error-desc', '')}")
            memory = info.get("ram", {})
            bar.update(memory.get("total", 0) - memory.get("remaining", 0), memory.get("total", 0))
            time.sleep(0.1)
    finally:
        bar.clear()
    into.standstill.add(standstill_ms(events))
    into.downtime.add(info["downtime"])
    into.total.add(info["total-time"])
    return info["downtime"]


def lines(pauses: dict[int, Pauses] | None, stock: StockPauses | None, stock_size: int
          ) -> list[Line]:
    found: list[Line] = []
    pauses = pauses or {}
    for size, result in pauses.items():
        found += [
            Line(f"pause, {size} GiB", result.pause, target="at most 1.5"),
            Line(f"pause, {size} GiB, idle", result.idle, target="at most 1"),
            Line(f"stop and resume alone, {size} GiB, idle", result.floor),
            Line(f"pause to stop and resume alone, {size} GiB, idle",
                 ratio(result.idle.median, result.floor.median), "ratio"),
            Line(f"stall of a first write, {size} GiB, mean", result.stall_mean,
                 target="at most 10"),
            Line(f"stall of a first write, {size} GiB, longest", result.stall_max,
                 target="at most 1000")]
    if len(pauses) > 1:
        low, high = min(pauses), max(pauses)
        found.append(Line(f"pause, {high} GiB to {low} GiB",
                          ratio(pauses[high].pause.median, pauses[low].pause.median), "ratio",
                          "at most 1.3" if (low, high) == (1, 8) else ""))
    if stock:
        found.append(Line(f"stock pause, {stock_size} GiB", stock.standstill))
        if stock_size in pauses:
            # The same clock for both: the events' timestamps.
            found.append(Line(f"pause to stock pause, {stock_size} GiB", ratio(
                pauses[stock_size].standstill.median, stock.standstill.median), "ratio",
                "at most 0.2" if stock_size == 8 else ""))
    return found
