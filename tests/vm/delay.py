# SPDX-License-Identifier: GPL-2.0-or-later
"""A Unix socket in front of another one that passes on what it gets later."""

from __future__ import annotations

import select
import socket
import threading
import time
from pathlib import Path


class DelayedSocket:
    """Listens at `path`; each connection is passed on to `target`, every byte `delay` s later."""

    def __init__(self, target: Path, path: Path, delay: float):
        self.target, self.path, self.delay = target, path, delay
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> DelayedSocket:
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
        """Both directions; only what goes to the target waits, its end too."""
        waiting: list[tuple[float, bytes]] = []
        ends = [near, far]
        with near, far:
            while not self.stop.is_set():
                timeout = min(0.1, max(0, waiting[0][0] - time.monotonic())) if waiting else 0.1
                for ready in select.select(ends, [], [], timeout)[0]:
                    data = ready.recv(65536)
                    if ready is near:
                        waiting.append((time.monotonic() + self.delay, data))
                        if not data:
                            ends.remove(near)
                    elif not data:
                        return
                    elif near in ends:
                        near.sendall(data)
                while waiting and waiting[0][0] <= time.monotonic():
                    data = waiting.pop(0)[1]
                    if not data:
                        return
                    far.sendall(data)
