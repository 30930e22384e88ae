# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench mediator: bulk throughput of a guest's NIC without the packet mediator, through one
that has never seen a snapshot, and through one that has and is idle again.

One guest and the host talk over the guest's tap. The mediator is taken away, made anew, and made
to take part in a snapshot, in turns, while the same VM runs: nothing else differs. Each figure is
taken by the clock and by the processor time that QEMU used: other programs hardly disturb that."""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hotsnap.errors import EXIT_FAILED, HotsnapError, Interrupted
from hotsnap.host import atomic
from hotsnap.qemu import binaries
from hotsnap.ui.output import human_seconds, say

from . import core, guest as bench_guest
from .guest import GIB, NAME, Guest
from .stats import Line, Series, ratio, rounded, show

MEMORY_GIB = 1
HOST, GUEST, PORT = "10.78.0.254", "10.78.0.1", 5201
CONDITIONS = ("without", "before", "after")
WAYS = ("tcp out", "tcp in", "udp out")
BY = ("", ", of QEMU's time")
MBIT = 1e6 / 8
BLOCK = 65536
DATAGRAM = 1400
WARM_UP, WINDOW, PATIENCE = 0.5, 3.0, 30.0
CLONE_NEWNET = 0x40000000


def processor_seconds(pid: int) -> float:
    """Of all threads of a process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
        fields = stream.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(count: Callable[[], int], used: Callable[[], float],
         window: float = WINDOW) -> tuple[float, float]:
    """Bytes per second of what `count` counts in its calls, each of which waits for some; by the
    clock, and by `used`."""
    until = time.monotonic() + WARM_UP
    while time.monotonic() < until:
        count()
    began, used_before, total = time.monotonic(), used(), 0
    while (now := time.monotonic()) < began + window:
        total += count()
    return total / (now - began), total / max(used() - used_before, 0.01)


def socket_inside(path: str, kind: int) -> socket.socket:
    """A bound socket of the namespace whose file is `path`; only this needs to be inside."""
    made: list[socket.socket | BaseException] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with open(path, "rb") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise HotsnapError(f"cannot enter {path}: {os.strerror(number)}")
            end = socket.socket(socket.AF_INET, kind)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            end.bind((HOST, PORT))
            made.append(end)
        except BaseException as error:  # noqa: BLE001: raised again where it is waited for
            made.append(error)

    thread = threading.Thread(target=make)  # a namespace is a thread's own
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    made[0].settimeout(PATIENCE)
    return made[0]


class Host:
    """The host's end of the guest's network."""

    def __init__(self, guest: Guest):
        self.guest = guest
        self.lab = guest.fleet.lab
        self.pid = guest.state.members[NAME].process.pid
        subprocess.run(["ip", "-n", self.lab.name, "address", "add", f"{HOST}/24", "dev", "br0"],
                       check=True)

    @contextmanager
    def _background(self, command: str) -> Iterator[None]:
        self.guest.shell.run(f"({command}) >/dev/null 2>&1 & echo $! >/run/bench-flow")
        try:
            yield
        finally:
            self.guest.shell.run("pkill dd; true")

    def _used(self) -> float:
        return processor_seconds(self.pid)

    def _tcp(self, command: str,
             use: Callable[[socket.socket], Callable[[], int]]) -> tuple[float, float]:
        with socket_inside(self.lab.path, socket.SOCK_STREAM) as listener:
            listener.listen()
            with self._background(command):
                flow, _ = listener.accept()
                with flow:
                    flow.settimeout(PATIENCE)
                    return rate(use(flow), self._used)

    def measure(self, way: str) -> tuple[float, float]:
        """Bytes per second, and per second of QEMU's processor time."""
        tcp, udp = f"/dev/tcp/{HOST}/{PORT}", f"/dev/udp/{HOST}/{PORT}"
        if way == "tcp out":
            return self._tcp(f"bash -c 'dd if=/dev/zero bs={BLOCK} >{tcp}'",
                             lambda flow: lambda: self._received(flow))
        if way == "tcp in":
            data = bytes(BLOCK)
            return self._tcp(f"bash -c 'dd of=/dev/null bs={BLOCK} <{tcp}'",
                             lambda flow: lambda: flow.send(data))
        with socket_inside(self.lab.path, socket.SOCK_DGRAM) as end, \
                self._background(f"bash -c 'dd if=/dev/zero bs={DATAGRAM} >{udp}'"):
            return rate(lambda: self._received(end), self._used)

    @staticmethod
    def _received(end: socket.socket) -> int:
        size = len(end.recv(1 << 20))
        if not size:
            raise HotsnapError("the guest closed its connection")
        return size


@dataclass
class Throughput:
    series: dict[tuple[str, str], Series] = field(default_factory=lambda: {
        (way + by, condition): Series("Mbit/s")
        for way in WAYS for by in BY for condition in CONDITIONS})

    def ratio(self, way: str, condition: str) -> float | None:
        return ratio(self.series[way, condition].median, self.series[way, "without"].median)

    def report(self) -> dict[str, Any]:
        return {way: {**{c: self.series[way, c].report() for c in CONDITIONS},
                      **{f"{c}_ratio": rounded(self.ratio(way, c) or 0)
                         for c in CONDITIONS if c != "without"}}
                for way in dict.fromkeys(way for way, _ in self.series)}

    def lines(self) -> list[Line]:
        found = []
        for way in dict.fromkeys(way for way, _ in self.series):
            found += [Line(f"{way}, {condition}", self.series[way, condition])
                      for condition in CONDITIONS]
            found += [Line(f"{way}, {condition} to without", self.ratio(way, condition), "ratio",
                           "at least 0.97") for condition in CONDITIONS if condition != "without"]
        return found


class Conditions:
    """Brings the VM from one into the next, in their order."""

    def __init__(self, guest: Guest):
        self.guest = guest
        self.turns = 0
        with guest.qmp() as qmp:
            objects = qmp.execute("qom-list", {"path": "/objects"})
            self.member = self._named(objects, "hotsnap-member")
            self.filter = self._named(objects, "filter-hotsnap")
            self.netdev = qmp.execute("qom-get", {"path": f"/objects/{self.filter}",
                                                  "property": "netdev"})

    @staticmethod
    def _named(objects: list[dict[str, str]], kind: str) -> str:
        return next(entry["name"] for entry in objects if entry["type"] == f"child<{kind}>")

    def enter(self, condition: str) -> None:
        if condition == "after":
            self.turns += 1
            self.guest.discard(self.guest.snapshot(f"t{self.turns}"))
            return
        with self.guest.qmp() as qmp:
            if condition == "without":
                qmp.execute("object-del", {"id": self.filter})
            else:
                qmp.execute("object-add", {"qom-type": "filter-hotsnap", "id": self.filter,
                                           "netdev": self.netdev, "member": self.member})


def measure(folder: str, files: str, qemu: str, repeat: int) -> Throughput:
    found = Throughput()
    with Guest(os.path.join(folder, "mediator"), files, qemu, MEMORY_GIB,
               f"hs.ip={GUEST}/24") as guest:
        guest.start()
        host, conditions = Host(guest), Conditions(guest)
        for turn in range(repeat):
            for condition in CONDITIONS:
                conditions.enter(condition)
                for way in WAYS:
                    for by, value in zip(BY, host.measure(way)):
                        found.series[way + by, condition].add(value / MBIT)
            say(f"  {turn + 1}/{repeat}: " + "; ".join(
                f"{way} " + "/".join(f"{found.series[way, c].samples[-1]:.0f}"
                                     for c in CONDITIONS) for way in WAYS) + " Mbit/s")
    return found


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench mediator", description="see scripts/bench --help")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--repeat", metavar="N", type=core.count, default=5)
    parser.add_argument("--list-parts", action="store_true",
                        help="print what would be measured, and measure nothing")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if options.list_parts:
        print(*WAYS, sep=", ")
        return 0
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, core._interrupt)
    build = os.path.join(binaries.CHECKOUT, "build")
    folder, qemu = os.path.join(build, "bench"), binaries.qemu()
    began = time.monotonic()
    try:
        bench_guest.clean(folder)
        if core.available_memory() < MEMORY_GIB * GIB + core.SPARE_MEMORY:
            raise HotsnapError("there is not enough memory for a VM: end other programs")
        facts = core.facts(qemu, None, folder)
        facts["load_average_before"] = os.getloadavg()
        bench_guest.small_pages_only()
        os.makedirs(folder)
        try:
            found = measure(folder, os.path.join(build, "guest"), qemu, options.repeat)
        except Interrupted:
            bench_guest.clean(folder)
            raise
        shutil.rmtree(folder)
        facts["load_average_after"] = os.getloadavg()
        facts["seconds"] = round(time.monotonic() - began, 1)
        if options.json:
            atomic.write_json(options.json, {"mediator": found.report(),
                                             "details": {"facts": facts,
                                                         "repeat": options.repeat}})
    except core.EXPECTED as error:
        say(f"bench: error: {error}")
        return error.exit_code if isinstance(error, HotsnapError) else EXIT_FAILED
    print(show(found.lines()))
    print(f"\n{facts['qemu']}, Linux {facts['kernel']}, {facts['cpus']} CPUs, "
          f"{human_seconds(facts['seconds'])}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
