# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of the guest agent (qemu-ga) in a member, over its socket on the host.

The agent answers one command after the other, and may not be there at all: so every answer has a
time. Another client's half-read answer may be in the way; guest-sync-delimited finds where ours
begins.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Self

from ..errors import HotsnapError

_MARK = b"\xff"  # in no JSON text
_LONGEST_LINE = 1 << 20


class AgentError(HotsnapError):
    """The agent refused a command, or did not answer in time."""


class AgentGone(AgentError):
    """Nobody listens for it: its QEMU has ended."""


class AgentSilent(AgentError):
    """It did not answer in time: it may carry out the command later."""


class Agent:
    """A connection, used by one thread."""

    def __init__(self, path: str, seconds: float):
        """Connects, and waits for the agent's answer. AgentError if there is none."""
        self.deadline = time.monotonic() + seconds
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.left = b""
        try:
            self._in_time(self.socket.connect, path)
            self._synchronize()
        except BaseException:
            self.socket.close()
            raise

    def execute(self, command: str, seconds: float) -> Any:
        self.deadline = time.monotonic() + seconds
        self._send({"execute": command})
        return self._answer(command)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _synchronize(self) -> None:
        number = int.from_bytes(os.urandom(4), "big") >> 1
        self._in_time(self.socket.sendall, _MARK)  # what was sent before, and not completed, is void
        self._send({"execute": "guest-sync-delimited", "arguments": {"id": number}})
        while True:
            self._read_until(_MARK)
            if self._answer("guest-sync-delimited") == number:
                return

    def _send(self, request: dict[str, Any]) -> None:
        self._in_time(self.socket.sendall, json.dumps(request).encode() + b"\n")

    def _answer(self, command: str) -> Any:
        try:
            said = json.loads(self._read_until(b"\n"))
        except ValueError as error:
            raise AgentError(f"the answer to {command} is no JSON") from error
        if isinstance(said, dict) and "return" in said:
            return said["return"]
        problem = said.get("error") if isinstance(said, dict) else None
        raise AgentError(f"{command}: " + (str(problem.get("desc")) if isinstance(problem, dict)
                                           else "an answer that is none"))

    def _read_until(self, end: bytes) -> bytes:
        while end not in self.left:
            if len(self.left) > _LONGEST_LINE:
                raise AgentError("its answer has no end")
            data = self._in_time(self.socket.recv, 65536)
            if not data:
                raise AgentError("QEMU closed the connection")
            self.left += data
        found, _, self.left = self.left.partition(end)
        return found

    def _in_time(self, call: Callable[[Any], Any], argument: Any) -> Any:
        """A call of the socket, no later than the deadline, its errors as those of the agent."""
        left = self.deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            return call(argument)
        except TimeoutError as error:
            raise AgentSilent("it does not answer in time") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise AgentGone(f"nobody listens: {error.strerror}") from error
        except OSError as error:
            raise AgentError(f"the connection has failed: {error.strerror}") from error
