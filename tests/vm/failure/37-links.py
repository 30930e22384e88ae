#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that can connect to a member cannot harm it: the member refuses, or closes the
connection. Nor can the process that a member connects to. Other users cannot connect."""

import json
import select
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.outcome import Failed, Report, check, wait_until
from support.paths import PATIENCE
from support.vm import Vm
from support.wire import Wire
from support.workplace import Workplace


class Link(Wire):
    """A connection to a member; the test plays the other member."""

    def __init__(self, path: Path, hello: bool = True, who: str = "y",
                 patience: float = PATIENCE):
        super().__init__(socket.socket(socket.AF_UNIX))
        self.socket.settimeout(patience)
        self.socket.connect(str(path))
        if hello:
            self.hello(who)
            check(self.hear()["type"] == "HELLO", "no HELLO came back")

    def closed(self, timeout: float = 0) -> bool:
        """Reads all that comes. Returns whether the connection is closed."""
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
    """JSON that the coordinator accepts, but not QEMU: U+FFFF is no character."""
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


@contextmanager
def nobody_accepts(listener: socket.socket) -> Iterator[list[socket.socket]]:
    """Fills the listener's backlog, so that a connect() to it waits from now on."""
    listener.listen(0)
    waiting: list[socket.socket] = []
    with listener:
        while len(waiting) < 10:
            caller = socket.socket(listener.family)
            caller.setblocking(False)
            waiting.append(caller)
            with suppress(BlockingIOError):
                caller.connect(listener.getsockname())
        yield waiting
        for caller in waiting:
            caller.close()


def full_backlog(place: Workplace, vm: Vm, own: Path, name: str, listener: socket.socket,
                 address: str) -> None:
    """A member that waits for its peer's socket still serves all other links; and when the peer
    accepts at last, the connection is made."""
    def begin(job: str) -> None:
        bundles = place.path / "bundles"
        bundles.mkdir(exist_ok=True)
        vm.qmp.execute("hotsnap-cluster", {
            "job-id": job, "tag": job, "directory": str(bundles),
            "members": [{"name": "y", "address": address}]})
        vm.reach("prepare")
        time.sleep(0.5)  # the member tries to connect

    with nobody_accepts(listener) as waiting:
        begin(f"{name}-cancelled")
        started = time.monotonic()
        Link(own, who="z", patience=10).socket.close()
        heard = time.monotonic() - started
        vm.qmp.execute("job-cancel", {"id": f"{name}-cancelled"})
        error = vm.wait_job(f"{name}-cancelled", 60)
        ended = time.monotonic() - started
        print(f"# a HELLO was answered in {heard:.2f} s, the job had ended after {ended:.2f} s")
        check(heard < 2, f"a HELLO was answered after {heard:.1f} s only")
        check(ended < 5 and error and "cancelled" in error, f"after {ended:.1f} s: {error}")
        begin(f"{name}-accepted")
        for caller in waiting:
            caller.close()
        listener.settimeout(PATIENCE)
        listener.listen(16)
        while True:  # the callers that were closed are accepted first
            link = Link.__new__(Link)
            link.socket, _ = listener.accept()
            link.socket.settimeout(PATIENCE)
            with suppress(Failed, ConnectionError):
                check(link.hear() == {"type": "HELLO", "protocol": 2, "name": "x"}, "no HELLO")
                break
        link.socket.close()
        error = vm.wait_job(f"{name}-accepted", 60)
        check(error and "'y'" in error, str(error))


def socket_mode(place: Workplace) -> None:
    """Only its owner can use the socket's file from the moment it exists, and files that other
    threads create meanwhile get the mode that the process wants."""
    path = place.path / "mode.sock"
    vm = Vm(place, "m", ["-machine", "none"])
    modes: set[int] = set()
    umasks: set[str] = set()
    done = threading.Event()

    def watch_mode() -> None:
        while not done.is_set():
            with suppress(FileNotFoundError):
                modes.add(stat.S_IMODE(path.stat().st_mode))

    def watch_umask() -> None:
        with open(f"/proc/{vm.process.pid}/status", encoding="ascii") as status:
            while not done.is_set():
                status.seek(0)
                umasks.update(line for line in status.read().splitlines()
                              if line.startswith("Umask:"))

    threads = [threading.Thread(target=watch) for watch in (watch_mode, watch_umask)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            vm.qmp.execute("object-add", {"qom-type": "hotsnap-member", "id": "hs0", "name": "m",
                                          "listen": f"unix:{path}"})
            vm.qmp.execute("object-del", {"id": "hs0"})
            check(not path.exists(), "the socket's file is left behind")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    print(f"# modes {[oct(mode) for mode in modes]}, {umasks}")
    check(modes == {0o600}, f"the socket had modes {[oct(mode) for mode in modes]}")
    check(len(umasks) == 1, f"the process's umask changed: {umasks}")


def run_as_caller(report: Report) -> None:
    with Workplace() as place:
        own = place.path / "x.sock"
        vm = Vm(place, "x", ["-machine", "q35", "-accel", "tcg", "-m", "64",
                             "-object", f"hotsnap-member,id=hs0,name=x,listen=unix:{own}"])
        report.run("links-socket-mode", lambda: socket_mode(place))
        path = place.path / "full.sock"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(path))
        report.run("links-full-backlog-unix",
                   lambda: full_backlog(place, vm, own, "unix", unix, f"unix:{path}"))
        tcp = socket.socket(socket.AF_INET)
        tcp.bind(("127.0.0.1", 0))
        report.run("links-full-backlog-tcp",
                   lambda: full_backlog(place, vm, own, "tcp", tcp,
                                        f"tcp:localhost:{tcp.getsockname()[1]}"))


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
run_as_caller(main)
main.exit()
