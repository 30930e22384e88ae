# SPDX-License-Identifier: GPL-2.0-or-later
"""Members whose memory is loaded on demand, and the image that it comes from."""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from .image import Image, Page
from .outcome import check, wait_until
from .vm import Vm

TRICKLE = 1  # byte a second: the background load ends with its first MiB
# Of a PC: below it lies the RAM that no device covers; a page there has the same offset in pc.ram.
LOW_RAM, HOLE_END = 0xA0000, 0x100000


def load_of(vm: Vm) -> dict[str, Any]:
    return vm.qmp.execute("query-hotsnap")["memory-load"]


def set_bandwidth(vm: Vm, bandwidth: int) -> None:
    vm.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": bandwidth})


def complete(vm: Vm, timeout: float = 120) -> dict[str, Any]:
    """Lets the load end, and checks its figures."""
    if load_of(vm)["state"] != "complete":
        set_bandwidth(vm, 0)
    wait_until(lambda: load_of(vm)["state"] == "complete",
               lambda: f"the load does not end: {load_of(vm)}", timeout)
    found = load_of(vm)
    pages = {key: found[key] for key in ("total", "untrapped", "background", "demand-guest",
                                         "demand-device", "remaining", "damaged")}
    check(found["remaining"] == found["damaged"] == 0
          and found["total"] == sum(pages.values()) - found["total"],
          f"not every page was installed once: {pages}")
    return found


def guest_pages(vm: Vm, folder: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """Reads all of pc.ram in QEMU's main loop, which loads it: (offset, page)."""
    path = folder / "pmem"
    for begin, end in ((0, LOW_RAM), (HOLE_END, size)):
        vm.qmp.execute("pmemsave", {"val": begin, "size": end - begin, "filename": str(path)})
        with open(path, "rb") as file:
            for offset in range(begin, end, 4096):
                yield offset, file.read(4096)
    path.unlink()


def differing(vm: Vm, image: Path, folder: Path, size: int) -> list[int]:
    """Offsets of the pages of pc.ram that are not as in the image."""
    with Image(image) as saved:
        return [offset for offset, page in guest_pages(vm, folder, size)
                if page != saved.page("pc.ram", offset)]


_WORDS = struct.Struct("<512Q")


def pattern_of(page: bytes | memoryview) -> bool | None:
    """Whether a page that hs-writer has begun to write is of one piece: words that count up by one.
    None for any other page: tables of characters count up, too, but from small numbers."""
    words = _WORDS.unpack(page)
    if words[0] < 1 << 40 or (words[1] - words[0], words[2] - words[1]) != (1, 1):
        return None
    return words == tuple(range(words[0], words[0] + len(words)))


def writers_pages(image: Image) -> tuple[int, int]:
    """How many pages of hs-writer are of one piece, and how many are not."""
    found = [pattern_of(data) for page, data in image.nonzero_pages() if page.block == "pc.ram"]
    return found.count(True), found.count(False)


def offset_in(image: Image, page: Page) -> int:
    """Where a page lies in its file."""
    return image.blocks[page.block].pages_offset + page.offset


@contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """One bit of the file is wrong meanwhile."""
    def flip() -> None:
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 4]))

    flip()
    try:
        yield
    finally:
        flip()


@contextmanager
def truncated(path: Path, size: int) -> Iterator[None]:
    """The file ends early meanwhile."""
    with open(path, "r+b") as file:
        file.seek(size)
        rest = file.read()
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
        try:
            yield
        finally:
            file.seek(size)
            file.write(rest)
