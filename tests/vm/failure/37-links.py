#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever can connect to a member cannot harm it: it says no, or closes the connection."""

import json
import select
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.outcome import Failed, Report, check, wait_until
from support.paths import PATIENCE
from support.vm import Vm
from support.workplace import Workplace


class Link:
    """A connection to a member, by hand."""

    def __init__(self, path: Path, hello: bool = True):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        if hello:
            self.say(type="HELLO", protocol=1, name="y")
            check(self.hear()["type"] == "HELLO", "no HELLO came back")

    def say(self, **message: Any) -> None:
        # As it is: what json escapes, the other side's parser would judge otherwise.
        text = json.dumps(message, ensure_ascii=False).encode()
        self.socket.sendall(struct.pack(">I", len(text)) + text)

    def hear(self) -> dict[str, Any]:
        size = struct.unpack(">I", self.take(4))[0]
        return json.loads(self.take(size))

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            check(piece, "the member closed the connection")
            data += piece
        return data

    def closed(self, timeout: float = 0) -> bool:
        """Whether it is, having read what came before."""
        deadline = time.monotonic() + timeout
        while True:
            wait = max(0.0, deadline - time.monotonic())
            if not select.select([self.socket], [], [], wait)[0]:
                return False
            try:
                if not self.socket.recv(65536):
                    return True
            except ConnectionResetError:
                return True


def prepare(**fields: Any) -> dict[str, Any]:
    return {"type": "PREPARE", "run": "r", "tag": "t", "directory": "/nonexistent",
            "coloring": True, "drain_us": 0, "heartbeat_us": 1000000, "silence_us": 30000000,
            "options": {}, **fields}


def refuses(path: Path, words: str, message: dict[str, Any]) -> None:
    link = Link(path)
    link.say(**message)
    answer = link.hear()
    check(answer["type"] == "REFUSED" and words in answer["reason"], str(answer))
    link.socket.close()


def unreadable(path: Path) -> None:
    """JSON to the coordinator, but not to QEMU: U+FFFF is no character."""
    refuses(path, "QEMU cannot read", prepare(options={"engine": "\uffff"}))


def is_accepted(path: Path) -> bool:
    with suppress(Failed, ConnectionError):
        Link(path).socket.close()
        return True
    return False


def many_links(path: Path) -> None:
    links = [Link(path) for _ in range(32)]
    check(Link(path, hello=False).closed(5), "a 33rd connection is kept")
    check(not any(link.closed() for link in links), "one of the first 32 was closed")
    for link in links:
        link.socket.close()
    wait_until(lambda: is_accepted(path), "no more connections are taken")


def large_before_hello(path: Path) -> None:
    link = Link(path, hello=False)
    link.socket.sendall(struct.pack(">I", 70000))
    answer = link.hear()
    check(answer["type"] == "ERROR" and "malformed" in answer["reason"], str(answer))
    check(link.closed(PATIENCE), "the connection is kept")


def never_reads(path: Path) -> None:
    """Each message is answered, and no answer is read."""
    link = Link(path)
    text = json.dumps({"type": "NONSENSE"}).encode()
    block = (struct.pack(">I", len(text)) + text) * 2000
    try:
        for _ in range(1000):
            link.socket.sendall(block)
    except (BrokenPipeError, ConnectionResetError):
        return
    check(False, "the connection is kept")


def run(report: Report) -> None:
    with Workplace() as place:
        path = place.path / "x.sock"
        vm = Vm(place, "x", ["-machine", "none",
                             "-object", f"hotsnap-member,id=hs0,name=x,listen=unix:{path}"])

        def case(name: str, function, *arguments) -> None:
            def body() -> None:
                function(path, *arguments)
                vm.reach("idle", "aborted")
            report.run(name, body)

        case("links-bad-tag", refuses, "cannot be a tag", prepare(tag="../x"))
        case("links-relative-directory", refuses, "absolute path", prepare(directory="x"))
        case("links-relative-overlays", refuses, "absolute path",
             prepare(options={"overlay-directory": "x"}))
        case("links-unreadable-json", unreadable)
        case("links-many", many_links)
        case("links-large-before-hello", large_before_hello)
        case("links-answers-unread", never_reads)


main = Report()
run(main)
main.exit()
