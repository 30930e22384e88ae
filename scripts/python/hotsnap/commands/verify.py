# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks every checksum of a bundle, in parallel.

Damage is named by file and offset. A file is read in pieces of 64 MiB by one process for
each CPU, past holes.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import HotsnapError
from ..formats import qcow2, sums
from ..host import process
from ..model import bundle
from ..ui.output import Progress, human_size, print_json

PIECE = 64 << 20
MAX_REPORTED = 20


@dataclass(frozen=True)
class Damage:
    file: str
    offset: int | None  # of the first byte of the unit that differs; None: the file as a whole
    length: int | None
    text: str

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at offset {self.offset:#x}"
        return f"{self.file}{where}: {self.text}"


@dataclass
class Report:
    path: str
    files: int = 0
    bytes: int = 0
    damage: list[Damage] | None = None

    def as_json(self) -> dict[str, Any]:
        return {"bundle": self.path, "ok": not self.damage, "files": self.files,
                "bytes": self.bytes, "damage": [asdict(d) for d in self.damage or []]}


@dataclass(frozen=True)
class _Piece:
    path: str
    unit: int
    first: int
    expected: tuple[int, ...]
    size: int


def _check_piece(piece: _Piece) -> list[Damage]:
    found = []
    actual = sums.unit_sums(piece.path, piece.unit, piece.first, len(piece.expected))
    for number, (want, have) in enumerate(zip(piece.expected, actual), piece.first):
        if want != have:
            offset = number * piece.unit
            length = min(piece.unit, piece.size - offset)
            found.append(Damage(piece.path, offset, length,
                                f"checksum differs within {length} bytes"))
    return found


def check(checked: bundle.Bundle, progress: Callable[[int, int], None] | None = None,
          memory: bool = True) -> Report:
    """Compares every file that the manifest has a checksum of. Without `memory` the images of
    memory are not read; of them only what outline() finds is found."""
    report, pieces = _outline(checked)
    assert report.damage is not None
    if not memory:
        images = {checked.file(member.memory.file) for member in checked.members}
        pieces = [piece for piece in pieces if piece.path not in images]
    report.bytes = sum(min(len(p.expected) * p.unit, p.size - p.first * p.unit) for p in pieces)
    report.damage.extend(_compare(pieces, progress))
    return report


def check_files(files: Iterable[tuple[str, str, str]], contents: bool = True,
                progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """The damage of some large files: each with its sums file, and the XXH3-64 of that one. Without
    `contents` only a size that differs and an altered sums file are found."""
    damage: list[Damage] = []
    pieces: list[_Piece] = []
    for path, sums_path, expected in files:
        _attempt(damage, lambda: pieces.extend(_pieces(path, sums_path, expected)), path)
    return damage + (_compare(pieces, progress) if contents else [])


def _compare(pieces: list[_Piece], progress: Callable[[int, int], None] | None) -> list[Damage]:
    damage: list[Damage] = []
    total = sum(len(p.expected) * p.unit for p in pieces)
    done = 0
    for piece, result in _run(pieces):
        done += len(piece.expected) * piece.unit
        damage.extend(result)
        if progress is not None:
            progress(done, total)
    return damage


def outline(checked: bundle.Bundle) -> list[Damage]:
    """The damage that is found in an instant: files that are missing or have another size, small
    files with another checksum, and a manifest that contradicts itself."""
    return _outline(checked)[0].damage or []


def _outline(checked: bundle.Bundle) -> tuple[Report, list[_Piece]]:
    report = Report(checked.path, damage=[])
    assert report.damage is not None
    pieces: list[_Piece] = []
    attempt = functools.partial(_attempt, report.damage)
    for path, sums_path, expected in large_files(checked):
        report.files += 2
        attempt(lambda: pieces.extend(_pieces(path, sums_path, expected)), path)
    for path, expected in small_files(checked):
        report.files += 1
        attempt(lambda: _check_small(path, expected), path)
    for _, disk in checked.layers():
        # A raw disk, such as one before its first snapshot, lies over nothing.
        if disk.format == "qcow2" and os.path.exists(disk.file):
            attempt(lambda: qcow2.chain(disk.file), disk.file)
    report.damage.extend(_contradictions(checked))
    return report, pieces


def _attempt(damage: list[Damage], step: Callable[[], Any], path: str) -> None:
    """Does a step of the check of a file; its failure is damage of that file."""
    try:
        step()
    except sums.MissingPackage:
        raise
    except (HotsnapError, OSError) as error:
        text = str(error).removeprefix(path + ": ")
        if isinstance(error, OSError):
            text = error.strerror or str(error)
        damage.append(Damage(path, None, None, text))


def large_files(checked: bundle.Bundle) -> list[tuple[str, str, str]]:
    """(file, its sums file, the XXH3-64 of that one) of memory images and disk layers."""
    found = []
    for member in checked.members:
        if memory := member.memory:
            found.append((checked.file(memory.file), checked.file(memory.sums), memory.sums_xxh3))
        for disk in member.disks:
            found.append((disk.file, checked.file(disk.sums), disk.sums_xxh3))
    return found


def small_files(checked: bundle.Bundle) -> list[tuple[str, str]]:
    found = []
    for member in checked.members:
        channel = member.channel
        for file, digest in ((channel.file, channel.pcap_xxh3), (channel.vnet, channel.vnet_xxh3)):
            if file and digest:
                found.append((checked.file(file), digest))
    return found


def _pieces(path: str, sums_path: str, expected: str) -> list[_Piece]:
    known = sums.read(sums_path, expected)
    size = sums.file_size(path)
    if size != known.size:
        what = "truncated" if size < known.size else "longer than it was"
        raise HotsnapError(f"{path}: {what}: {size} bytes instead of {known.size}")
    step = max(1, PIECE // known.unit)
    return [_Piece(path, known.unit, first, known.sums[first:first + step], known.size)
            for first in range(0, len(known.sums), step)]


def _check_small(path: str, expected: str) -> None:
    if not sums.same(expected, sums.file_xxh3(path)):
        raise HotsnapError(f"{path}: its checksum is not the one in the manifest")


def _contradictions(checked: bundle.Bundle) -> list[Damage]:
    """Statements of the manifest that cannot be true together, or cannot be true of the files."""
    path = checked.file("manifest.json")
    found = []
    names = [member.name for member in checked.members]

    def wrong(text: str) -> None:
        found.append(Damage(path, None, None, text))

    if os.path.basename(checked.path) != checked.tag:
        wrong(f"it is of tag {checked.tag!r}, but the folder is {os.path.basename(checked.path)!r}")
    if len(set(names)) != len(names):
        wrong("a member is listed twice")
    if checked.manifest.initiator not in names:
        wrong(f"the initiator {checked.manifest.initiator!r} is not a member")
    for member in checked.members:
        name = member.name
        if member.cut.end_ns < member.cut.begin_ns:
            wrong(f"member {name}: its {'pause' if member.pause else 'hold'} ends before it begins")
        if not member.memory:
            continue
        memory, pages = member.memory, member.memory.pages
        saved = pages.background + pages.by_writes
        if saved != pages.total or pages.zero > pages.total:
            wrong(f"member {name}: {saved} pages were saved, of {pages.total}")
        image = checked.file(memory.file)
        if os.path.exists(image) and os.stat(image).st_size != memory.size:
            wrong(f"member {name}: memory size {memory.size}, but the file has "
                  f"{os.stat(image).st_size} bytes")
    return found


def _run(pieces: list[_Piece]):
    """Each (piece, damage), as they come."""
    workers = min(os.cpu_count() or 1, len(pieces))
    if workers <= 1:
        for piece in pieces:
            yield piece, _guarded(piece)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("fork"), _start_worker, (os.getpid(),))
    try:
        waiting = {pool.submit(_guarded, piece): piece for piece in pieces}
        for future in concurrent.futures.as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(command: int) -> None:
    """Ctrl-C interrupts the command alone, which then ends its workers. When it is killed they end too:
    they have its locks."""
    process.end_with(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _guarded(piece: _Piece) -> list[Damage]:
    try:
        return _check_piece(piece)
    except OSError as error:
        return [Damage(piece.path, piece.first * piece.unit, None,
                       f"cannot be read: {error.strerror}")]


def check_visibly(checked: bundle.Bundle, quiet: bool, memory: bool = True) -> Report:
    """check, with a progress bar."""
    bar = Progress(f"verify {checked.tag}", quiet)
    try:
        return check(checked, lambda done, total: bar.update(done, total, human_size(done)),
                     memory)
    finally:
        bar.clear()


def report(checked: bundle.Bundle, as_json: bool) -> bool:
    """Checks, and prints what was found; returns whether nothing is damaged."""
    result = check_visibly(checked, as_json)
    damage = result.damage or []
    if as_json:
        print_json(result.as_json())
        return not damage
    for line in damage[:MAX_REPORTED]:
        print(f"damaged: {line}")
    if len(damage) > MAX_REPORTED:
        print(f"damaged: {len(damage) - MAX_REPORTED} more places; --json lists them all")
    verdict = "DAMAGED" if damage else "whole"
    print(f"{checked.tag}: {verdict}; {result.files} files, {human_size(result.bytes)} checked")
    return not damage
