# SPDX-License-Identifier: GPL-2.0-or-later
"""One spelling for each file, so that two names of a file are known to be one."""

from __future__ import annotations

import os
import stat


def is_device(path: str) -> bool:
    """Whether a path leads to a block device."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def resolved(path: str) -> str:
    """The absolute path with all links resolved, but for a device's own name.

    /dev/vg0/guest is a link to /dev/dm-3, which may be another volume after the next boot: only the
    link names the volume. So the folder's links are resolved, and the link to the device is kept.
    """
    if is_device(path):
        folder, name = os.path.split(os.path.abspath(path))
        return os.path.join(os.path.realpath(folder), name)
    return os.path.realpath(path)
