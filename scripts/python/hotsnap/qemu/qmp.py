# SPDX-License-Identifier: GPL-2.0-or-later
"""A small synchronous QMP client over a Unix socket.

One thread uses a connection. Events that arrive while a reply is awaited are kept, in order, until
the caller asks for them. Nothing reconnects: a closed connection means that QEMU has ended, which
the caller must learn (QmpClosed).

    with Qmp.connect("/run/vm.qmp", timeout=10) as vm:
        vm.execute("migrate", {"uri": "file:/tmp/image"})
        vm.wait_event("MIGRATION", timeout=60, where={"status": "completed"})

Times are in seconds.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import HotsnapError


class QmpFailure(HotsnapError):
    """A question to QEMU without a good answer."""


class QmpError(QmpFailure):
    """QEMU refused a command; `cls` is the error's class, `desc` is its text."""

    def __init__(self, command: str, error: dict[str, Any]):
        self.command = command
        self.cls = error.get("class", "GenericError")
        self.desc = error.get("desc", "")
        super().__init__(f"{command}: {self.desc}")


class QmpClosed(QmpFailure):
    """The connection ended, or could not be made: QEMU has ended, or never listened."""


class QmpTimeout(QmpFailure):
    """QEMU did not answer, or an event did not come, in the given time."""


class Qmp:
    """A connected QMP session; capabilities are already negotiated."""

    def __init__(self, sock: socket.socket, timeout: float = 30.0):
        self._sock = sock
        self._buffer = b""
        self._events: deque[dict[str, Any]] = deque()
        self._next_id = 0
        self.timeout = timeout
        try:
            message = self._read(time.monotonic() + timeout)
            while "event" in message:
                # QEMU greets in a thread of its own. Until then it sends this client the events
                # that the client before it would have had.
                message = self._read(time.monotonic() + timeout)
            if "QMP" not in message:
                raise QmpClosed(f"not a QMP server: its first message was {message}")
            self.greeting = message["QMP"]
            self.execute("qmp_capabilities")
        except BaseException:
            sock.close()
            raise

    @classmethod
    def connect(cls, path: str | os.PathLike[str], timeout: float = 30.0,
                alive: Callable[[], bool] | None = None) -> Qmp:
        """Connect to `path`, waiting up to `timeout` for QEMU to listen there.

        `alive`, if given, is asked between attempts: once it says that QEMU has ended, QmpClosed
        is raised.
        """
        deadline = time.monotonic() + timeout
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(os.fspath(path))
                return cls(sock, max(0.1, deadline - time.monotonic()))._with_timeout(timeout)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                sock.close()
                if alive is not None and not alive():
                    raise QmpClosed(f"QEMU ended before it listened on {path}") from error
                if time.monotonic() >= deadline:
                    raise QmpClosed(f"no QMP server on {path} after {timeout:g} s") from error
                time.sleep(0.02)
            except OSError:
                sock.close()
                raise

    def _with_timeout(self, timeout: float) -> Qmp:
        self.timeout = timeout
        return self

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For select(); an event may also be waiting already: see `events`."""
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def _read(self, deadline: float) -> dict[str, Any]:
        """The next message of any kind."""
        while b"\n" not in self._buffer:
            # What has arrived is read even after the deadline.
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                raise QmpTimeout("QEMU did not answer in time")
            try:
                data = self._sock.recv(65536)
            except ConnectionError as error:
                raise QmpClosed(f"QMP connection lost: {error}") from error
            if not data:
                raise QmpClosed("QEMU closed the QMP connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def execute(self, command: str, arguments: dict[str, Any] | None = None,
                timeout: float | None = None) -> Any:
        """Runs a command and returns its `return` value; QmpError if QEMU refuses it."""
        self._next_id += 1
        request: dict[str, Any] = {"execute": command, "id": self._next_id}
        if arguments:
            request["arguments"] = arguments
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        try:
            self._sock.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpClosed(f"{command}: QMP connection lost: {error}") from error
        while True:
            try:
                message = self._read(deadline)
            except QmpTimeout:
                raise QmpTimeout(f"{command}: no answer from QEMU in time") from None
            if "event" in message:
                self._events.append(message)
            elif message.get("id") != self._next_id:
                continue  # the late answer to a command that timed out
            elif "error" in message:
                raise QmpError(command, message["error"])
            else:
                return message["return"]

    def hmp(self, line: str) -> str:
        """Runs a line of the human monitor and returns what it printed."""
        return self.execute("human-monitor-command", {"command-line": line})

    def events(self) -> list[dict[str, Any]]:
        """Takes every event that has arrived so far, without waiting."""
        try:
            while True:
                message = self._read(time.monotonic())
                if "event" in message:
                    self._events.append(message)
        except QmpTimeout:
            pass
        except QmpClosed:
            if not self._events:
                raise
        taken = list(self._events)
        self._events.clear()
        return taken

    def wait_event(self, names: str | Iterable[str], timeout: float | None = None,
                   where: dict[str, Any] | Callable[[dict[str, Any]], bool] | None = None,
                   ) -> dict[str, Any]:
        """Waits for the first event of one of these names, and takes it; other events are kept.

        `where` narrows the choice: values that the event's `data` must hold, or a predicate of
        that `data`.
        """
        wanted = {names} if isinstance(names, str) else set(names)
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)

        def matches(event: dict[str, Any]) -> bool:
            if event["event"] not in wanted:
                return False
            data = event.get("data", {})
            if where is None:
                return True
            if callable(where):
                return where(data)
            return all(data.get(key) == value for key, value in where.items())

        for index, event in enumerate(self._events):
            if matches(event):
                del self._events[index]
                return event
        while True:
            try:
                message = self._read(deadline)
            except QmpTimeout:
                raise QmpTimeout(f"event {' or '.join(sorted(wanted))} did not come") from None
            if "event" not in message:
                continue
            if matches(message):
                return message
            self._events.append(message)
