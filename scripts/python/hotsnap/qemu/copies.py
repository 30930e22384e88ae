# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads disk images whole, while other processes have them open: sizes, and copies of their own.

Images are shared with all others that have them open (-U), as members have frozen layers, whatever
they do with them. That is safe for layers that nobody writes; see model/reading.py for who writes them.
QEMU's lock still keeps a commit into such a layer from beginning.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence

from ..errors import HotsnapError
from ..host import process
from . import binaries

_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")


def virtual_size(image_tool: str, path: str, image_format: str) -> int:
    """The size of the disk in bytes, as its guest sees it."""
    told = binaries.run_img(image_tool, "info", "-U", "--output=json", "-f", image_format, path)
    return json.loads(told)["virtual-size"]


def copy(image_tool: str, source: str, source_format: str, target: str, target_format: str,
         keep: Sequence[int] = (), progress: Callable[[float], None] | None = None) -> None:
    """Writes what a disk holds, layers below included, to a file that lies over nothing. Zeros make
    no blocks. The file is not durable yet, and may be there in part after a failure. The program
    inherits the handles in `keep`; `progress` is told the part that is done, from 0 to 1."""
    command = [image_tool, "convert", "-p", "-U", "-f", source_format, "-O", target_format, source,
               target]
    with tempfile.TemporaryFile() as said:
        child = process.companion(command, keep, stdout=subprocess.PIPE, stderr=said)
        assert child.stdout
        try:
            while text := child.stdout.read1(4096):
                if progress and (told := _PERCENT.findall(text)):
                    progress(float(told[-1]) / 100)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        if code:
            said.seek(0)
            raise HotsnapError("qemu-img convert: " + (said.read().decode(errors="replace").strip()
                                                       or f"ended with code {code}"))
