# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows of frames between the host and a guest, or through a guest that forwards: how fast they
are, by the clock and by the processor time that QEMU uses."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hotsnap.errors import HotsnapError

from .guest import NAME, Guest

HOST, GUEST, PORT = "10.78.0.254", "10.78.0.1", 5201
BLOCK = 65536
DATAGRAM, SMALL_DATAGRAM = 1400, 32
FORWARDED = {"forwarded": 1514, "forwarded, small": 60}  # bytes of a frame
IN_FLIGHT = 256  # frames at once through a guest that forwards
LOST = 0.2  # seconds after which they will not come any more
ETHER_TYPE = 0x88B6  # for local experiments (IEEE 802); no protocol of the host's takes it
WARM_UP, WINDOW, PATIENCE = 0.3, 1.5, 30.0
CLONE_NEWNET = 0x40000000


def processor_seconds(pid: int) -> float:
    """Of all threads of a process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
        fields = stream.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(count: Callable[[], int], used: Callable[[], float],
         window: float = WINDOW) -> tuple[float, float]:
    """Bytes per second of what `count` counts in its calls, each of which waits for some; by the
    clock, and by `used`."""
    until = time.monotonic() + WARM_UP
    while time.monotonic() < until:
        count()
    began, used_before, total = time.monotonic(), used(), 0
    while (now := time.monotonic()) < began + window:
        total += count()
    return total / (now - began), total / max(used() - used_before, 0.01)


def socket_inside(path: str, make: Callable[[], socket.socket]) -> socket.socket:
    """The socket that `make` makes inside the namespace whose file is `path`."""
    made: list[socket.socket | BaseException] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with open(path, "rb") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise HotsnapError(f"cannot enter {path}: {os.strerror(number)}")
            made.append(make())
        except BaseException as error:  # noqa: BLE001: raised again where it is waited for
            made.append(error)

    thread = threading.Thread(target=enter)  # a namespace is a thread's own
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


def bound(kind: int) -> Callable[[], socket.socket]:
    """Makes an Internet socket at the host's end."""
    def make() -> socket.socket:
        end = socket.socket(socket.AF_INET, kind)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end.bind((HOST, PORT))
        end.settimeout(PATIENCE)
        return end
    return make


class Host:
    """The host's ends of the guest's networks."""

    def __init__(self, guest: Guest):
        self.guest = guest
        self.lab = guest.fleet.lab
        self.pid = guest.state.members[NAME].process.pid

    def _used(self) -> float:
        return processor_seconds(self.pid)


class Ends(Host):
    """Flows between the guest and the host."""

    WAYS = ("tcp out", "tcp in", "udp out", "udp out, small")

    def __init__(self, guest: Guest):
        super().__init__(guest)
        subprocess.run(["ip", "-n", self.lab.name, "address", "add", f"{HOST}/24", "dev", "br0"],
                       check=True)

    @contextmanager
    def _background(self, command: str) -> Iterator[None]:
        self.guest.shell.run(f"({command}) >/dev/null 2>&1 & echo $! >/run/bench-flow")
        try:
            yield
        finally:
            self.guest.shell.run("pkill dd; true")

    def _tcp(self, command: str,
             use: Callable[[socket.socket], Callable[[], int]]) -> tuple[float, float]:
        with socket_inside(self.lab.path, bound(socket.SOCK_STREAM)) as listener:
            listener.listen()
            with self._background(command):
                flow, _ = listener.accept()
                with flow:
                    flow.settimeout(PATIENCE)
                    return rate(use(flow), self._used)

    def measure(self, way: str) -> tuple[float, float]:
        """Bytes per second, and per second of QEMU's processor time."""
        tcp, udp = f"/dev/tcp/{HOST}/{PORT}", f"/dev/udp/{HOST}/{PORT}"
        if way == "tcp out":
            return self._tcp(f"bash -c 'dd if=/dev/zero bs={BLOCK} >{tcp}'",
                             lambda flow: lambda: self._received(flow))
        if way == "tcp in":
            data = bytes(BLOCK)
            return self._tcp(f"bash -c 'dd of=/dev/null bs={BLOCK} <{tcp}'",
                             lambda flow: lambda: flow.send(data))
        size = DATAGRAM if way == "udp out" else SMALL_DATAGRAM
        with socket_inside(self.lab.path, bound(socket.SOCK_DGRAM)) as end, \
                self._background(f"bash -c 'dd if=/dev/zero bs={size} >{udp}'"):
            return rate(lambda: self._received(end), self._used)

    @staticmethod
    def _received(end: socket.socket) -> int:
        size = len(end.recv(1 << 20))
        if not size:
            raise HotsnapError("the guest closed its connection")
        return size


class Through(Host):
    """Frames from one of the host's bridges to the other, through a guest that is a switch."""

    WAYS = tuple(FORWARDED)

    def _mac(self, bridge: str) -> bytes:
        links: list[dict[str, Any]] = json.loads(subprocess.run(
            ["ip", "-n", self.lab.name, "-j", "link", "show", "dev", bridge], check=True,
            capture_output=True, text=True).stdout)
        return bytes.fromhex(links[0]["address"].replace(":", ""))

    def _socket(self, bridge: str) -> socket.socket:
        def make() -> socket.socket:
            end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHER_TYPE))
            end.bind((bridge, ETHER_TYPE))
            end.settimeout(LOST)
            return end
        return socket_inside(self.lab.path, make)

    def measure(self, way: str) -> tuple[float, float]:
        """As that of Ends."""
        near_mac, far_mac = self._mac("br0"), self._mac("br1")
        kind = ETHER_TYPE.to_bytes(2, "big")
        frame = (far_mac + near_mac + kind).ljust(FORWARDED[way], b"\0")
        with self._socket("br0") as near, self._socket("br1") as far:
            far.send((near_mac + far_mac + kind).ljust(60, b"\0"))  # the guest learns the way back
            flow = Window(near, far, frame)
            return rate(flow.step, self._used)


class Window:
    """Keeps a number of frames on the way, so that no queue overflows."""

    def __init__(self, near: socket.socket, far: socket.socket, frame: bytes):
        self.near, self.far, self.frame = near, far, frame
        self.on_the_way = 0
        self.idle = 0.0  # seconds since a frame came

    def step(self) -> int:
        """Bytes of the frames that have come."""
        while self.on_the_way < IN_FLIGHT:
            self.near.send(self.frame)
            self.on_the_way += 1
        try:
            size = len(self.far.recv(1 << 16))
        except TimeoutError:
            self.idle += LOST
            if self.idle > PATIENCE:
                raise HotsnapError("the guest forwards no frame") from None
            self.on_the_way = 0
            return 0
        self.idle = 0.0
        self.on_the_way -= 1
        return size
