# SPDX-License-Identifier: GPL-2.0-or-later
"""A root shell in a guest (hs.shell in tests/guest/README.md), over a serial port of its own."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

from .outcome import Failed, check
from .paths import PATIENCE

SETTINGS = "hs.shell=ttyS1"  # on the kernel's command line


def serial_args(path: Path) -> list[str]:
    """QEMU's arguments for the port; it is the guest's second."""
    return ["-chardev", f"socket,id=shell,path={path},server=on,wait=off",
            "-serial", "chardev:shell"]


class Shell:
    """One connection to the shell. Its commands run one after the other, each to its end."""

    def __init__(self, path: Path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.count = 0

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def run(self, command: str, timeout: float = PATIENCE) -> str:
        """The output of `command`, which must succeed."""
        self.count += 1
        self.socket.sendall(f"{command}\necho done-{self.count}-$?.\n".encode())
        output, deadline = "", time.monotonic() + timeout
        # The terminal's echo of the line above has no number there.
        while not (done := re.search(rf"done-{self.count}-(\d+)\.", output)):
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                output += self.socket.recv(4096).decode(errors="replace")
            except TimeoutError as error:
                raise Failed(f"'{command}' does not end in {timeout:.0f} s: {output!r}") from error
        check(done[1] == "0", f"'{command}' ended with status {done[1]}: {output!r}")
        return output[:done.start()]
