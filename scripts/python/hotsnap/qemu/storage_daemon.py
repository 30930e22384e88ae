# SPDX-License-Identifier: GPL-2.0-or-later
"""Serves disk images by NBD, on a Unix socket, read-only, by QEMU's storage daemon."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from ..errors import HotsnapError
from ..host import process

START_TIMEOUT = 60.0  # seconds, on a busy host
QUIT_TIMEOUT = 10.0
GRACE = 3.0  # for the end of a daemon whose command was killed
GREETING = b"NBDMAGICIHAVEOPT"


@dataclass(frozen=True)
class Image:
    name: str  # of the export
    file: str
    format: str


def uri(path: str, name: str) -> str:
    return (f"nbd+unix:///{urllib.parse.quote(name, safe=':')}?socket="
            f"{urllib.parse.quote(path, safe='/')}")


def command_line(program: str, path: str, images: Sequence[Image]) -> list[str]:
    def option(name: str, value: dict[str, Any]) -> tuple[str, str]:
        return f"--{name}", json.dumps(value)

    command = [program]
    for number, image in enumerate(images):
        # Shared with members, as in copies.py.
        command += option("blockdev", {
            "driver": image.format, "node-name": f"disk{number}", "read-only": True,
            "force-share": True, "file": {"driver": "file", "filename": image.file}})
    command += option("nbd-server", {"addr": {"type": "unix", "path": path}})
    for number, image in enumerate(images):
        command += option("export", {"type": "nbd", "id": f"export{number}", "name": image.name,
                                     "node-name": f"disk{number}", "writable": False})
    return command


@contextlib.contextmanager
def serving(program: str, path: str, images: Sequence[Image], keep: Sequence[int] = ()
            ) -> Iterator[subprocess.Popen[bytes]]:
    """Serves the images on the socket `path` until the block ends. Yields the daemon once it
    answers; it inherits the handles in `keep`."""
    _free(path)
    with tempfile.TemporaryFile() as said:
        daemon = process.companion(command_line(program, path, images), keep, said, said)
        try:
            _await(daemon, path, said)
            yield daemon
            if daemon.poll() is not None:
                raise HotsnapError(_end(daemon, said))
        finally:
            daemon.terminate()
            try:
                daemon.wait(QUIT_TIMEOUT)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _free(path: str) -> None:
    """HotsnapError if there is anything at `path` but a socket that nobody listens on, as a daemon
    leaves it that was killed."""
    deadline = time.monotonic() + GRACE
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise HotsnapError(f"{path} exists, and is no socket: choose another name")
        while True:
            with _connect(path):
                if time.monotonic() > deadline:
                    raise HotsnapError(f"another program listens on {path}: choose another name")
            time.sleep(0.02)
    except FileNotFoundError:
        pass
    except ConnectionRefusedError:
        os.unlink(path)


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(1)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _await(daemon: subprocess.Popen[bytes], path: str, said: IO[bytes]) -> None:
    """Waits for the greeting, which comes once all exports are there."""
    deadline = time.monotonic() + START_TIMEOUT
    while daemon.poll() is None:
        with contextlib.suppress(OSError), _connect(path) as connection:
            if connection.recv(len(GREETING), socket.MSG_WAITALL) == GREETING:
                return
        if time.monotonic() > deadline:
            raise HotsnapError(f"the storage daemon does not answer on {path}")
        time.sleep(0.02)
    raise HotsnapError(_end(daemon, said))


def _end(daemon: subprocess.Popen[bytes], said: IO[bytes]) -> str:
    said.seek(0)
    text = said.read().decode(errors="replace").strip()
    return f"the storage daemon ended: {text or f'code {daemon.returncode}'}"
