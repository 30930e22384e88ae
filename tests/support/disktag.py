# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the numbered blocks that hs-disktag wrote to a raw disk (tests/guest/src/hs-disktag.c)."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hotsnap.errors import HotsnapError

BLOCK_SIZE = 4096
MAGIC = b"HSDISK01"
_HEADER = struct.Struct("<8sQQ32sQ")
_WORDS = struct.Struct(f"<{BLOCK_SIZE // 8}Q")
_CHECK_WORD = (_HEADER.size - 8) // 8
_MASK = (1 << 64) - 1


class DiskError(HotsnapError):
    """The disk cannot be read; the text says why."""


@dataclass
class Found:
    """The highest whole block of a region, and the faults below it, in words."""

    highest: int = 0
    problems: list[str] = field(default_factory=list)


def default_qemu_img() -> str:
    """$HOTSNAP_QEMU_IMG, else the project's own build, else the one in PATH."""
    build = Path(__file__).resolve().parents[2] / "build"
    choices = [os.environ.get("HOTSNAP_QEMU_IMG", ""), str(build / "qemu" / "qemu-img"),
               str(build / "qemu-stock" / "qemu-img"), shutil.which("qemu-img") or ""]
    for choice in choices:
        if choice and os.access(choice, os.X_OK):
            return choice
    raise DiskError("no qemu-img to read disks with: run scripts/build, or set HOTSNAP_QEMU_IMG")


def read_region(file: str | os.PathLike[str], form: str, blocks: int,
                qemu_img: str | None = None) -> bytes:
    """The first `blocks` blocks of a disk, which a running QEMU may have open."""
    with tempfile.TemporaryDirectory(prefix="hotsnap-disktag-") as folder:
        raw = os.path.join(folder, "region")
        done = subprocess.run(
            [qemu_img or default_qemu_img(), "dd", "-U", "-f", form, "-O", "raw",
             f"bs={BLOCK_SIZE}", f"count={blocks}", f"if={os.fspath(file)}", f"of={raw}"],
            capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DiskError(f"{file}: cannot be read: {done.stderr.strip()}")
        return Path(raw).read_bytes()


def _block(region: bytes, slot: int, nonce: int) -> int | None:
    """The number of the block in a slot; None when it holds no whole block of this incarnation."""
    block = region[slot * BLOCK_SIZE:(slot + 1) * BLOCK_SIZE]
    if len(block) < BLOCK_SIZE or block[:8] != MAGIC:
        return None
    _, number, found_nonce, _, check = _HEADER.unpack_from(block)
    return number if found_nonce == nonce and check == block_check(block) else None


def block_check(block: bytes) -> int:
    value = 0xCBF29CE484222325
    for index, word in enumerate(_WORDS.unpack(block)):
        if index != _CHECK_WORD:
            value = ((value ^ word) * 0x100000001B3) & _MASK
    return value


def make_block(number: int, nonce: int, name: str) -> bytes:
    """The block that hs-disktag writes, for tests of the checkers."""
    words = [(number * 0x9E3779B97F4A7C15 + index) & _MASK for index in range(BLOCK_SIZE // 8)]
    block = bytearray(_WORDS.pack(*words))
    _HEADER.pack_into(block, 0, MAGIC, number, nonce, name.encode(), 0)
    struct.pack_into("<Q", block, _HEADER.size - 8, block_check(bytes(block)))
    return bytes(block)


def holds_blocks(region: bytes, nonce: int) -> bool:
    """Whether the region holds any whole block of this incarnation."""
    return any(_block(region, slot, nonce) is not None for slot in range(len(region) // BLOCK_SIZE))


def scan(region: bytes, nonce: int, blocks: int) -> Found:
    """The highest block, and every block that is missing below it. Block n is in slot n % blocks,
    so at most the last `blocks` numbers are there."""
    numbers = {slot: _block(region, slot, nonce) for slot in range(blocks)}
    found = Found(max((number for number in numbers.values() if number is not None), default=0))
    for number in range(max(1, found.highest - blocks + 1), found.highest + 1):
        if numbers[number % blocks] != number:
            there = numbers[number % blocks]
            found.problems.append(f"block {number} is not on the disk below block {found.highest}; "
                                  f"its slot holds {'nothing whole' if there is None else there}")
    return found
