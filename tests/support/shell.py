# SPDX-License-Identifier: GPL-2.0-or-later
"""A root shell in a test guest (its hs.shell=TTY), reached through a serial port on a Unix socket,
and the kernel's counters that are read with it."""

from __future__ import annotations

import re
import select
import socket
import time

from hotsnap.errors import HotsnapError

# The terminal echoes what is typed: the quotes keep the echo from being taken for the answer.
_TYPED = "echo '<<'beg; {command}; echo '<<'end\n"
_ANSWER = re.compile(r"^<<beg\n(.*?)^<<end$", re.S | re.M)
_CONTROL = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\r")  # what an interactive shell adds


def answer(output: str) -> str | None:
    """The output of a command; None until all of it is there."""
    match = _ANSWER.search(_CONTROL.sub("", output))
    return match[1] if match else None


class Shell:
    def __init__(self, path: str):
        self.path = path

    def run(self, command: str, timeout: float = 60.0) -> str:
        """Runs a command and returns its output. It must be one line that does not read the
        terminal."""
        deadline = time.monotonic() + timeout
        output = b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as port:
            try:
                port.connect(self.path)
                port.sendall(_TYPED.format(command=command).encode())
                while (text := answer(output.decode(errors="replace"))) is None:
                    left = deadline - time.monotonic()
                    if left <= 0 or not select.select([port], [], [], left)[0]:
                        raise HotsnapError(f"the guest's shell on {self.path} did not answer "
                                           f"{command!r} in {timeout:g} s: {output[-200:]!r}")
                    data = port.recv(65536)
                    if not data:
                        raise HotsnapError(f"QEMU closed the guest's terminal {self.path}")
                    output += data
            except OSError as error:
                raise HotsnapError(f"the guest's shell on {self.path} is not reached: {error}"
                                   ) from error
        return text


def serial_port(path: str) -> tuple[str, ...]:
    """QEMU's arguments for a further serial port: the next ttyS of the guest."""
    quoted = path.replace(",", ",,")
    return ("-chardev", f"socket,id=shell,path={quoted},server=on,wait=off",
            "-serial", "chardev:shell")


def parse_netstat(text: str, group: str = "TcpExt") -> dict[str, int]:
    """Counters of /proc/net/netstat: a line of names, then a line of numbers, for each group."""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith(group + ":")]
    if len(lines) != 2 or len(lines[0]) != len(lines[1]):
        raise HotsnapError(f"no counters of {group} in what the guest printed: {text[:200]!r}")
    return {name: int(number) for name, number in zip(*lines)}


def tcp_timeouts(shell: Shell) -> int:
    """Retransmissions that a guest's kernel made because a timer ran out."""
    return parse_netstat(shell.run("cat /proc/net/netstat"))["TCPTimeouts"]
