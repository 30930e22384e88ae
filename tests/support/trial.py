# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster of scripts/quickstart: three members with real servers, and the checks of them.

cache runs memcached; client drives it, and commits numbered rows on db, which runs PostgreSQL on
its own disk. All pairs exchange numbered messages over UDP and TCP.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from hotsnap.errors import HotsnapError
from hotsnap.model import cluster
from hotsnap.model.state import Paths, State
from hotsnap.qemu import binaries, launch, machine
from hotsnap.ui.output import Progress

from .console import Console, Counters

MEMBERS = {"cache": "10.77.0.1", "client": "10.77.0.2", "db": "10.77.0.3"}
KERNEL_LINE = "console=ttyS0 quiet mitigations=off no_timer_check"
BOOT_TIMEOUT, FLOW_TIMEOUT, ROWS_TIMEOUT = 300.0, 120.0, 180.0


def cluster_file(guest: str) -> str:
    """The TOML text; `guest` is the folder of scripts/guest-image."""
    text = ["""# Written by scripts/quickstart; 'scripts/hotsnap --file' of this file works too.
[cluster]
name = "quickstart"
directory = "cluster"
machine = "q35"
cpu = "max"
memory = "256M"

[[network]]
name = "lan"
"""]
    for name, address in MEMBERS.items():
        peers = ",".join(f"{n}:{a}" for n, a in MEMBERS.items() if n != name)
        role = {"client": "client hs.cache=cache hs.db=db"}.get(name, name)
        database = f"""
  [[member.disk]]
  image = "{guest}/pgdata.raw"
""" if name == "db" else ""
        text.append(f"""
[[member]]
name = "{name}"
kernel = "{guest}/vmlinuz"
initrd = "{guest}/initrd.img"
append = "{KERNEL_LINE} hs.name={name} hs.ip={address}/24 hs.peers={peers} hs.role={role}"
args = ["-device", "virtio-rng-pci"]

  [[member.disk]]
  image = "{guest}/rootfs.raw"
{database}
  [[member.disk]]
  size = "16M"
  serial = "hsdisktag"

  [[member.nic]]
  network = "lan"
""")
    return "".join(text)


@dataclass
class Check:
    """One condition, whether it holds, and the values that were found."""

    name: str
    good: bool
    found: str


class Guests:
    """The consoles of the three members, before and after the cut."""

    def __init__(self, state: State, alive: Callable[[str], bool]):
        self.consoles = {name: Console(state.paths(name).serial) for name in MEMBERS}
        self.alive = alive

    def read(self) -> None:
        for console in self.consoles.values():
            console.read()

    def wait(self, what: str, timeout: float, steps: Callable[[], tuple[int, int]]) -> None:
        """Waits until all steps are done; `steps` returns (done, total). HotsnapError if a guest
        fails."""
        bar = Progress(what)
        deadline = time.monotonic() + timeout
        try:
            while True:
                self.read()
                for name, console in self.consoles.items():
                    if console.failures:
                        raise HotsnapError(f"{name}: {console.failures[0]} (log: {console.path})")
                    if not self.alive(name):
                        raise HotsnapError(f"{what}: the QEMU of {name} ended")
                done, total = steps()
                if done >= total:
                    return
                if time.monotonic() > deadline:
                    raise HotsnapError(f"{what}: only {done} of {total} after {timeout:g} s; see "
                                       f"{os.path.dirname(self.consoles['db'].path)} and beside")
                bar.update(done, total, f"{done} of {total}")
                time.sleep(0.1)
        finally:
            bar.clear()

    def boot(self) -> None:
        self.wait("wait for the guests", BOOT_TIMEOUT, lambda: (
            sum(console.ready for console in self.consoles.values()), len(MEMBERS)))

    def flow(self, what: str, lines: int) -> None:
        """Waits until each kind of line was printed `lines` times and every counter of traffic
        moved."""
        self.wait(what, FLOW_TIMEOUT, lambda: (
            sum(self._moves(name, key, lines) for name, key in expected()), len(expected())))

    def go_on(self, since: dict[tuple[str, str, str], Counters]) -> None:
        """Waits until every guest has printed a line about every peer again."""
        pairs = [key for key in since if key[1] == "chatter"]

        def heard() -> tuple[int, int]:
            now = self.counters()
            return sum(now[key]["hb"] > since[key]["hb"] for key in pairs), len(pairs)

        self.wait("let the cluster go on", FLOW_TIMEOUT, heard)

    def _moves(self, name: str, key: tuple[str, str], lines: int) -> bool:
        console = self.consoles[name]
        if console.lines.get(key, 0) < lines:
            return False
        # memcaslap reports only every two seconds, so its first line is compared with zero.
        begin, now = console.first[key], console.latest[key]
        return all(now[c] > (begin[c] if lines > 1 else 0) for c in _MOVING[key[0]])

    def counters(self) -> dict[tuple[str, str, str], Counters]:
        """Maps (member, kind, peer) to the counters printed last."""
        return {(name, *key): dict(values) for name, console in self.consoles.items()
                for key, values in console.latest.items()}

    def separate(self, text: str) -> None:
        for console in self.consoles.values():
            console.separate(text)

    def failures(self) -> list[str]:
        return [f"{name}: {text}" for name, console in self.consoles.items()
                for text in console.failures]


_MOVING = {"chatter": ("hb", "udp_sent", "udp_received", "tcp_sent", "tcp_received"),
           "cache": ("ops",), "pg": ("committed",), "disktag": ("completed",)}


def expected() -> list[tuple[str, tuple[str, str]]]:
    """Each (member, kind of line) that a healthy cluster prints."""
    found: list[tuple[str, tuple[str, str]]] = []
    for name in MEMBERS:
        found += [(name, ("chatter", peer)) for peer in MEMBERS if peer != name]
        found.append((name, ("disktag", "")))
    return found + [("client", ("cache", "")), ("client", ("pg", ""))]


def lost_messages(before: dict[tuple[str, str, str], Counters],
                  after: dict[tuple[str, str, str], Counters]) -> int:
    """UDP messages that were sent across the cut and never arrived."""
    def missing(values: Counters) -> int:
        return values["udp_gaps"] - values["udp_late"]

    return sum(max(0, missing(after[key]) - missing(before[key]))
               for key in after if key[1] == "chatter")


def judge(before: dict[tuple[str, str, str], Counters],
          after: dict[tuple[str, str, str], Counters]) -> list[Check]:
    """Compares the lines of the restored guests with the last lines before the snapshot."""
    chatter = [(key, before[key], after[key]) for key in after if key[1] == "chatter"]
    errors = sum(now["tcp_errors"] for _, _, now in chatter)
    again = sum(now["tcp_reconnects"] - was["tcp_reconnects"] for _, was, now in chatter)
    moved = [key for key, was, now in chatter
             if any(now[c] <= was[c] for c in _MOVING["chatter"])]
    cache, row = after[("client", "cache", "")], after[("client", "pg", "")]
    ops_before = before[("client", "cache", "")]["ops"]
    rows_before = before[("client", "pg", "")]["committed"]
    return [
        Check("messages go on", not moved, f"{len(chatter) - len(moved)} of {len(chatter)} "
                                           "directions"),
        Check("TCP connections alive", not errors and not again,
              f"{errors} errors, {again} made anew"),
        Check("memcached client goes on", cache["ops"] > ops_before and not cache["errors"]
              and not cache["misses"] - before[("client", "cache", "")]["misses"],
              f"{ops_before} to {cache['ops']} operations, {cache['errors']} errors"),
        Check("PostgreSQL client goes on", row["committed"] > rows_before and not row["errors"],
              f"{rows_before} to {row['committed']} rows, {row['errors']} errors"),
    ]


class RowCheck:
    """Starts PostgreSQL on a copy-on-write view of a data disk, in a separate VM without a network,
    and counts its rows. The VM ends with the context."""

    def __init__(self, state: State, accelerator: str, layer: str, folder: str):
        os.makedirs(folder, exist_ok=True)
        image_tool = binaries.qemu_img(state.cluster.qemu)
        model = state.cluster.member("db")
        view, root = (os.path.join(folder, name) for name in ("pgdata.qcow2", "root.qcow2"))
        self.layer, self.log = layer, os.path.join(folder, "serial.log")
        for path in (view, root, self.log):
            if os.path.exists(path):
                os.unlink(path)
        binaries.create_overlay(image_tool, view, layer, "qcow2")
        binaries.create_overlay(image_tool, root, model.disks[0].image or "", "raw")
        checker = cluster.Member(
            "pgcheck", model.memory, 1, model.machine, model.cpu, model.kernel, model.initrd,
            f"{KERNEL_LINE} hs.name=pgcheck hs.role=pgcheck", model.args, model.disks[:2], ())
        run = os.path.join(folder, "pgcheck")
        argv = machine.command_line(
            binaries.qemu(state.cluster.qemu), binaries.firmware_arguments(), checker, accelerator,
            Paths(run + ".qmp", run + ".mon", run + ".hs", run + ".ga", self.log,
                  run + ".pid"),
            {"disk0": root, "disk1": view}, {}, snapshots=False)
        self.process = launch.start(argv, os.path.join(folder, "qemu.log"))

    def __enter__(self) -> RowCheck:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def rows(self) -> tuple[int, bool]:
        """The number of rows, and whether they are numbered without a gap; waits for the VM."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ROWS_TIMEOUT)
        with open(self.log, encoding="utf-8", errors="replace") as stream:
            match = re.search(r"^pgcheck: rows=(\d+) max=\d+ contiguous=(yes|no)\s*$",
                              stream.read(), re.M)
        if not match:
            raise HotsnapError(f"PostgreSQL did not start from {self.layer}; see {self.log}")
        return int(match[1]), match[2] == "yes"
