# SPDX-License-Identifier: GPL-2.0-or-later
"""New checksums of a frozen layer that this program itself has changed."""

from __future__ import annotations

import os

from ..formats import sums
from ..model.bundle import Bundle, SavedDisk
from ..ui.output import Progress


def renew(kept: Bundle, disk: SavedDisk, head: int | None = None,
          progress: Progress | None = None) -> str:
    """Writes new sums, of the whole layer or of its first `head` bytes, and names them in `disk`.
    Returns the path of the old, to be deleted once the manifest is saved."""
    old = kept.file(disk.sums)
    stem = disk.sums.split(".m")[0].removesuffix(".sums")
    number = 1
    while os.path.exists(kept.file(f"{stem}.m{number}.sums")):
        number += 1
    name = f"{stem}.m{number}.sums"
    if head is None:
        done, total = 0, sums.file_size(disk.file)

        def tell(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress.update(done, total, "checksums")

        value = sums.write(disk.file, kept.file(name), progress=tell)
    else:
        value = sums.refresh(disk.file, sums.read(old, disk.sums_xxh3), kept.file(name), head)
    disk.sums, disk.sums_xxh3 = name, f"{value:016x}"
    return old
