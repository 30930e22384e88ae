# SPDX-License-Identifier: GPL-2.0-or-later
"""A Unix socket in front of a member's socket. It holds up the protocol from the first message of
one type on, until the test opens the gate, so that a phase lasts as long as its test needs."""

from __future__ import annotations

import json
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path

PREFIX = 4  # bytes of a message's length, before its JSON text (docs/formats/protocol.md)


class Way:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, target: socket.socket, held: str | None):
        self.source, self.target, self.held = source, target, held
        self.waiting = b""  # received and not passed on yet
        self.ended = False

    def receive(self) -> None:
        data = self.source.recv(65536)
        self.waiting += data
        self.ended = not data

    def free(self, opened: bool) -> bytes:
        """Takes the data that may be passed on: all, or the whole messages before the held one."""
        end = len(self.waiting) if opened or not self.held else 0
        while end + PREFIX <= len(self.waiting):
            begin = end + PREFIX
            following = begin + int.from_bytes(self.waiting[end:begin], "big")
            if following > len(self.waiting) or \
                    json.loads(self.waiting[begin:following])["type"] == self.held:
                break
            end = following
        taken, self.waiting = self.waiting[:end], self.waiting[end:]
        return taken


class Gate:
    """Listens at `path` and passes data on to `target` and back. Until open(), messages to the
    target wait from the first one of type `held` on, messages from it from `held_back` on."""

    def __init__(self, target: Path, path: Path, held: str | None = None,
                 held_back: str | None = None):
        self.target, self.path, self.held, self.held_back = target, path, held, held_back
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.opened, self.stop = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []

    def open(self) -> None:
        self.opened.set()

    def __enter__(self) -> Gate:
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.listener.close()
        self.path.unlink()

    def _run(self, function, *arguments) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stop.is_set():
            if select.select([self.listener], [], [], 0.1)[0]:
                near, _ = self.listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self.target))
                self._run(self._relay, near, far)

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        """Passes data on until one end is closed and all data from it has been passed on."""
        ways = {near: Way(near, far, self.held), far: Way(far, near, self.held_back)}
        with near, far, suppress(ConnectionError):
            while not self.stop.is_set():
                listening = [end for end, way in ways.items() if not way.ended]
                for ready in select.select(listening, [], [], 0.01)[0]:
                    ways[ready].receive()
                for way in ways.values():
                    way.target.sendall(way.free(self.opened.is_set()))
                    if way.ended and not way.waiting:
                        return
