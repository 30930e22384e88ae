# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench, once everything is built: measures, prints a table, writes JSON."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from hotsnap.errors import EXIT_FAILED, HotsnapError, Interrupted
from hotsnap.host import atomic
from hotsnap.qemu import binaries
from hotsnap.ui.output import human_seconds, say

from . import cluster, copy, crowd, guest, pause
from .guest import GIB
from .stats import Line, rounded, show

PARTS = ("pause", "stock", "copy", "cluster", "crowd")
SIZES = (1, 2, 8)
# Beyond the guests' memory: QEMU's own, page tables, staging buffers.
SPARE_MEMORY = 3 * GIB // 2
SPARE_DISK = 6 * GIB
EXPECTED = (HotsnapError, OSError)


def parse_sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers of GiB, as in 1,2,8")
    return sizes


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 on")
    return int(text)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="see scripts/bench --help")
    parser.add_argument("what", choices=("core",))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--repeat", metavar="N", type=count, default=5)
    parser.add_argument("--only", metavar="PART", choices=PARTS, action="append")
    parser.add_argument("--sizes", metavar="GIB,GIB...", type=parse_sizes, default=list(SIZES))
    parser.add_argument("--list-parts", action="store_true",
                        help="print what would be measured, and measure nothing")
    options = parser.parse_args(given)
    options.parts = [part for part in PARTS if part in (options.only or PARTS)]
    return options


class Bench:
    def __init__(self, options: argparse.Namespace):
        self.sizes: list[int] = options.sizes
        self.repeat: int = options.repeat
        self.parts: list[str] = options.parts
        build = os.path.join(binaries.CHECKOUT, "build")
        self.folder = os.path.join(build, "bench")
        self.files = os.path.join(build, "guest")
        self.qemu = binaries.qemu()
        self.stock = os.environ.get("HOTSNAP_STOCK_QEMU") or os.path.join(
            build, "qemu-stock", "qemu-system-x86_64")
        if "stock" in self.parts and not os.access(self.stock, os.X_OK):
            raise HotsnapError(f"no stock QEMU at {self.stock}: run 'scripts/build stock', or set "
                               "HOTSNAP_STOCK_QEMU")
        # Each machine's description names its QEMU, and this variable would win over it.
        os.environ.pop("HOTSNAP_QEMU", None)
        self.facts: dict[str, Any] = {}
        self.pauses: dict[int, pause.Pauses] | None = None
        self.stock_pauses: pause.StockPauses | None = None
        self.copies: copy.Copies | None = None
        self.clusters: cluster.Clusters | None = None
        self.crowds: crowd.Crowd | None = None

    def check_room(self) -> None:
        """The guests that are there at the same time need this much memory."""
        most = {"pause": sum(self.sizes), "stock": self.sizes[-1],
                "copy": copy.MEMORY_GIB, "cluster": 1,
                "crowd": crowd.COUNT * crowd.MIB / 1024}
        memory = max(most[part] for part in self.parts) * GIB + SPARE_MEMORY
        if available_memory() < memory:
            raise HotsnapError(f"{available_memory() / GIB:.1f} GiB of memory are available, "
                               f"{memory / GIB:.1f} GiB are needed: end other programs, or "
                               "measure less with --sizes or --only")
        free = shutil.disk_usage(os.path.dirname(self.folder)).free
        if free < SPARE_DISK:
            raise HotsnapError(f"{free / GIB:.1f} GiB are free in build/, {SPARE_DISK / GIB:.0f} "
                               "GiB are needed: free some space")

    def run(self) -> None:
        began = time.monotonic()
        self.facts = facts(self.qemu, self.stock if "stock" in self.parts else None, self.folder)
        self.facts["load_average_before"] = os.getloadavg()
        guest.small_pages_only()
        measures: dict[str, Callable[[], None]] = {
            "pause": self._pause, "stock": self._stock, "copy": self._copy,
            "cluster": self._cluster, "crowd": self._crowd}
        os.makedirs(self.folder)
        # A measurement that fails leaves its logs here until the next run.
        for number, part in enumerate(self.parts, 1):
            say(f"[{number}/{len(self.parts)}] {part}, after "
                f"{human_seconds(time.monotonic() - began)}")
            measures[part]()
        shutil.rmtree(self.folder)
        self.facts["load_average_after"] = os.getloadavg()
        self.facts["seconds"] = round(time.monotonic() - began, 1)

    def _pause(self) -> None:
        self.pauses = pause.measure(self.folder, self.files, self.qemu, self.sizes,
                                          self.repeat, self.facts)

    def _stock(self) -> None:
        self.stock_pauses = pause.measure_stock(self.folder, self.files, self.stock,
                                                      self.sizes[-1], self.repeat)

    def _copy(self) -> None:
        self.copies = copy.measure(self.folder, self.files, self.qemu, self.repeat)

    def _cluster(self) -> None:
        self.clusters = cluster.measure(self.folder, self.files, self.qemu, self.repeat)

    def _crowd(self) -> None:
        self.crowds = crowd.measure(self.folder, self.files, self.qemu, self.repeat)

    # What was found

    def lines(self) -> list[Line]:
        return [*pause.lines(self.pauses, self.stock_pauses, self.sizes[-1]),
                *copy.lines(self.copies), *cluster.lines(self.clusters),
                *crowd.lines(self.crowds)]

    def result(self) -> dict[str, Any]:
        """A part that was not measured has no figure."""
        result: dict[str, Any] = {}
        details: dict[str, Any] = {"facts": self.facts, "repeat": self.repeat}
        if self.pauses:
            result["pause_ms"] = {pause.label(size): rounded(found.pause.median or 0)
                                  for size, found in self.pauses.items()}
            result["pause_idle_ms"] = {pause.label(size): rounded(found.idle.median or 0)
                                       for size, found in self.pauses.items()}
            result["pause_floor_ms"] = {pause.label(size): rounded(found.floor.median or 0)
                                        for size, found in self.pauses.items()}
            result["stall_us_mean"] = {pause.label(size): rounded(found.stall_mean.median or 0)
                                       for size, found in self.pauses.items()}
            result["stall_us_max"] = {pause.label(size): rounded(found.stall_max.median or 0)
                                      for size, found in self.pauses.items()}
            details["pause"] = {pause.label(size): found.report()
                                for size, found in self.pauses.items()}
        if self.stock_pauses:
            size = pause.label(self.sizes[-1])
            result["stock_pause_ms"] = {size: rounded(self.stock_pauses.standstill.median or 0)}
            details["stock"] = {size: self.stock_pauses.report()}
        if self.copies:
            result["copy_vs_fio"] = rounded(self.copies.ratio or 0)
            details["copy"] = self.copies.report()
        if self.clusters:
            result["backoff_max_ms"] = rounded(self.clusters.backoff.median or 0)
            result["tcp_timeouts"] = self.clusters.timeouts
            details["cluster"] = self.clusters.report()
        if self.crowds:
            result["backoff16_ms"] = rounded(self.crowds.backoff.median or 0)
            details["crowd"] = self.crowds.report()
        return {**result, "details": details}


def available_memory() -> int:
    with open("/proc/meminfo", encoding="ascii") as stream:
        return next(int(line.split()[1]) * 1024 for line in stream
                    if line.startswith("MemAvailable:"))


def facts(qemu: str, stock: str | None, folder: str) -> dict[str, Any]:
    """The machine and the programs that the figures depend on."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernel": platform.release(), "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1),
        "qemu": version(qemu), "stock_qemu": version(stock) if stock else None,
        "file_system": subprocess.run(
            ["findmnt", "-n", "-o", "FSTYPE,OPTIONS", "--target", os.path.dirname(folder)],
            capture_output=True, text=True, check=False).stdout.strip()}


def version(qemu: str) -> str:
    done = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HotsnapError(f"{qemu} does not run: {done.stderr.strip()}: run 'scripts/build'")
    return done.stdout.splitlines()[0]


def interrupt(number: int, _: Any) -> None:
    # A second signal must not cut the cleaning up short.
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    raise Interrupted(f"interrupted by {signal.Signals(number).name}; everything that it had started has ended")


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if options.list_parts:
        print(*options.parts)
        return 0
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, interrupt)
    try:
        bench = Bench(options)
        guest.clean(bench.folder)
        bench.check_room()
        try:
            bench.run()
        except Interrupted:
            guest.clean(bench.folder)  # also if it came amid cleaning up
            raise
        if options.json:
            atomic.write_json(options.json, bench.result())
    except EXPECTED as error:
        say(f"bench: error: {error}")
        return error.exit_code if isinstance(error, HotsnapError) else EXIT_FAILED
    facts_ = bench.facts
    load = "/".join(f"{f[0]:.1f}" for f in (facts_["load_average_before"],
                                            facts_["load_average_after"]))
    print(show(bench.lines()))
    print(f"\n{facts_['qemu']}, Linux {facts_['kernel']}, {facts_['cpus']} CPUs, load {load}, "
          f"{human_seconds(facts_['seconds'])}", flush=True)
    return 0
