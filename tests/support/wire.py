# SPDX-License-Identifier: GPL-2.0-or-later
"""The framing of the protocol between members (docs/formats/protocol.md), for tests that play one."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from .outcome import check


class Wire:
    """Whole messages over a connection."""

    def __init__(self, end: socket.socket):
        self.socket = end

    def say(self, **message: Any) -> None:
        # Unescaped: the other side's parser would judge an escaped character otherwise.
        text = json.dumps(message, ensure_ascii=False).encode()
        self.socket.sendall(struct.pack(">I", len(text)) + text)

    def hello(self, name: str) -> None:
        self.say(type="HELLO", protocol=2, name=name)

    def hear(self) -> dict[str, Any]:
        size, = struct.unpack(">I", self.take(4))
        return json.loads(self.take(size))

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            check(piece, "the other side closed the connection")
            data += piece
        return data
