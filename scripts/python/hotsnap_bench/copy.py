# SPDX-License-Identifier: GPL-2.0-or-later
"""The rate at which the background copy writes non-zero memory, against fio on the same file
system."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from hotsnap.errors import HotsnapError
from hotsnap.model.bundle import Memory
from hotsnap.ui.output import Progress, say

from .guest import MIB, NAME, Guest
from .stats import Line, Series, ratio

MEMORY_GIB = 2
FILL_MIB = 1536            # of it, filled with numbers that do not repeat
FILL_ROUNDS = 3            # writes for each page: at random, all but a twentieth are hit
FILL_TIMEOUT = 600.0
QUIET_SECONDS = 1.0        # between the sync before a measurement and the measurement
# While both write the guest runs, and writes a little memory.
LOAD = "hs.role=writer hs.writer.mib=16 hs.writer.rate=500"
FILLER = "/run/bench-fill"
BLOCK, IN_FLIGHT = MIB, 32  # as the copy's own writes
STAGING = 64 * MIB          # the copy's buffer: what may be unwritten when the last page is saved


@dataclass
class Copies:
    """`copy` counts what had surely been written when the last page was saved."""

    copy: Series = field(default_factory=lambda: Series("MiB/s"))
    fio: Series = field(default_factory=lambda: Series("MiB/s"))
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        return ratio(self.copy.median, self.fio.median)

    def report(self) -> dict[str, Any]:
        return {"copy": self.copy.report(), "fio": self.fio.report(), "samples": self.samples,
                "fio_arguments": fio_arguments("FILE", 0)}


def fio_arguments(path: str, size: int) -> list[str]:
    """A new file each time, as an image is, set to its full size first, as an image is."""
    return ["fio", "--name=sequential", f"--filename={path}", "--rw=write", "--direct=1",
            f"--bs={BLOCK}", f"--iodepth={IN_FLIGHT}", "--ioengine=libaio", "--fallocate=none",
            f"--size={size}", "--output-format=json"]


def fio(path: str, size: int) -> float:
    """Bytes per second."""
    done = subprocess.run(fio_arguments(path, size), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HotsnapError(f"fio failed: {done.stderr.strip() or done.stdout.strip()}")
    os.unlink(path)
    return fio_rate(done.stdout, size)


def fio_rate(output: str, size: int) -> float:
    """Bytes per second, from fio's report, which may have remarks before it."""
    job = json.loads(output[output.index("{"):])["jobs"][0]
    if job["error"] or job["write"]["io_bytes"] != size:
        raise HotsnapError(f"fio wrote {job['write']['io_bytes']} of {size} bytes, error "
                           f"{job['error']}")
    return job["write"]["io_bytes"] / job["write"]["runtime"] * 1000


def copy_rate(memory: Memory) -> float:
    """Bytes per second, from the `memory` of a manifest."""
    if not memory.bytes_written or not memory.copy_us:
        raise HotsnapError("the snapshot does not say how much was written in what time")
    return max(0, memory.bytes_written - STAGING) / memory.copy_us * 1e6


def fill(guest: Guest) -> None:
    """Fill the guest's memory by a second writer, which is then stopped and keeps it."""
    pages = FILL_MIB * MIB // 4096
    guest.shell.run(f"hs-writer -n fill -m {FILL_MIB} -r 0 >{FILLER} 2>&1 & echo $! >{FILLER}.pid")
    deadline = time.monotonic() + FILL_TIMEOUT
    bar = Progress("fill the guest's memory")
    try:
        while True:
            last = guest.shell.run(f"tail -n 1 {FILLER}")
            match = re.search(r"pages=(\d+)", last)
            written = int(match[1]) if match else 0
            if written >= FILL_ROUNDS * pages:
                break
            if time.monotonic() > deadline:
                raise HotsnapError(f"the guest's memory is not filled after {FILL_TIMEOUT:g} s: "
                                   f"{last.strip()!r}")
            bar.update(written, FILL_ROUNDS * pages)
            time.sleep(1)
    finally:
        bar.clear()
    guest.shell.run(f"kill -STOP $(cat {FILLER}.pid)")


def measure(folder: str, files: str, qemu: str, repeat: int) -> Copies:
    result = Copies()
    say(f"  start a VM with {MEMORY_GIB} GiB and fill {FILL_MIB} MiB of it")
    with Guest(os.path.join(folder, "copy"), files, qemu, MEMORY_GIB, LOAD) as guest:
        guest.start()
        fill(guest)
        scratch = os.path.join(guest.state.bundles, "fio")
        size = 0
        for turn in range(repeat):
            # The two take turns in being first. fio writes as much as the copy did.
            for what in ("copy", "fio") if turn % 2 == 0 else ("fio", "copy"):
                os.sync()  # so that discards of removed files are over
                time.sleep(QUIET_SECONDS)
                sample: dict[str, Any] = {"what": what, "load_average": os.getloadavg()[0]}
                if what == "fio":
                    sample["bytes_per_s"] = fio(scratch, size)
                    result.fio.add(sample["bytes_per_s"] / MIB)
                else:
                    sample.update(_copy(guest, f"t{turn}"))
                    result.copy.add(sample["bytes_per_s"] / MIB)
                    size = sample["bytes_written"] // MIB * MIB
                result.samples.append(sample)
            say(f"  {turn + 1}/{repeat}: copy {result.copy.samples[-1]:.0f} MiB/s, fio "
                f"{result.fio.samples[-1]:.0f} MiB/s")
    return result


def _copy(guest: Guest, tag: str) -> dict[str, Any]:
    snapshot = guest.snapshot(tag)
    memory = snapshot.member.memory
    phases = {entry.phase: entry.us for entry in snapshot.saved.manifest.timeline}
    guest.discard(snapshot)
    if not memory.direct_io:
        say("  the file system refused O_DIRECT: the image was written through the page cache")
    return {"bytes_per_s": copy_rate(memory), "bytes_written": memory.bytes_written,
            "copy_us": memory.copy_us, "direct_io": memory.direct_io,
            "durable_us": phases["publish"] - phases["snapshot"],
            "pages": memory.pages.dump(), "member": NAME}


def lines(copies: Copies | None) -> list[Line]:
    if copies is None:
        return []
    return [Line("background copy", copies.copy), Line("fio, sequential", copies.fio),
            Line("background copy to fio", copies.ratio, "ratio", "at least 0.8")]
