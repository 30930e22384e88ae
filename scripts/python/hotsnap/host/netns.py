# SPDX-License-Identifier: GPL-2.0-or-later
"""A network of a cluster's own: a network namespace with a bridge and one tap for each member.

QEMU runs inside the namespace, so that the taps need no privileges elsewhere and the machine's own
network stays as it is.  The namespace has a name, since a later command than the one that made it
restores or inspects the cluster.

    with Network("hs-lab", ["tap0", "tap1"], host_address="10.77.0.254/24") as net:
        subprocess.run(net.inside(["ping", "10.77.0.1"]))

Leaving the context destroys the namespace, also after an exception.  A program that should clean
up after SIGTERM must turn the signal into an exception itself.  Needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..errors import HotsnapError

BRIDGE = "br0"
RUN_DIRECTORY = "/run/netns"


class NetworkError(HotsnapError):
    """The kernel or ip(8) refused; the text says which command and why."""


def _ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NetworkError("ip(8) is missing: install the package iproute2") from error
    if done.returncode != 0:
        hint = "; run as root" if os.geteuid() != 0 else ""
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip()}{hint}")
    return done.stdout


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One cluster at a time makes or removes a namespace. `ip netns add` first mounts the folder
    over itself, then makes the namespace in it; an unmount in between would leave the namespace
    below the next mount, where nobody reaches it."""
    folder = os.open(os.path.dirname(RUN_DIRECTORY), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _unmount_if_last() -> None:
    """Removes a mount that `ip netns add` makes, over its own folder, and never removes. Without a
    namespace it is of no use, and the next `ip netns add` makes it again."""
    with contextlib.suppress(OSError):  # another program uses the folder, or removes it as well
        if not os.listdir(RUN_DIRECTORY):
            subprocess.run(["umount", RUN_DIRECTORY], capture_output=True, check=False)
            os.rmdir(RUN_DIRECTORY)


class Network:
    """One namespace `name` with the bridge br0 and the taps in `taps`.

    `host_address`, such as "10.77.0.254/24", is given to the bridge, so that programs run with
    `inside` can talk to the guests. `queues` are those of taps that have several.
    """

    def __init__(self, name: str, taps: Iterable[str], host_address: str | None = None,
                 queues: Mapping[str, int] | None = None):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise NetworkError(f"bad namespace name {name!r}: use letters, digits, '-', '_', '.'")
        self.name = name
        self.taps = list(taps)
        for tap in self.taps:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", tap) or tap in (BRIDGE, "lo"):
                raise NetworkError(f"bad interface name {tap!r}: at most 15 letters or digits")
        if len(set(self.taps)) != len(self.taps):
            raise NetworkError(f"an interface is named twice: {', '.join(self.taps)}")
        self.host_address = host_address
        self.queues = dict(queues or {})

    @property
    def path(self) -> str:
        """The namespace's file, as nsenter(1) and setns(2) want it."""
        return os.path.join(RUN_DIRECTORY, self.name)

    def exists(self) -> bool:
        return os.path.exists(self.path)

    def create(self) -> None:
        """Makes the namespace; after a failure nothing is left of it.

        A namespace that exists already is an error: it may be that of a running cluster.
        """
        if self.exists():
            raise NetworkError(f"network namespace {self.name} exists: is its cluster running? "
                               f"'ip netns pids {self.name}' tells, 'ip netns del {self.name}' "
                               "removes it")
        try:
            with _alone():
                _ip("netns", "add", self.name)
            inside = ("-n", self.name)
            _ip(*inside, "link", "set", "lo", "up")
            self.add_bridge(BRIDGE)
            if self.host_address is not None:
                _ip(*inside, "address", "add", self.host_address, "dev", BRIDGE)
            for tap in self.taps:
                self.add_tap(tap, queues=self.queues.get(tap, 1))
        except BaseException:
            self.destroy()
            raise

    def add_bridge(self, bridge: str) -> None:
        """Adds one more bridge, which nothing connects to the others."""
        inside = ("-n", self.name)
        # No STP, no forward delay, no snooping: a member that has just been restored must be heard
        # at once.
        _ip(*inside, "link", "add", bridge, "type", "bridge", "stp_state", "0",
            "forward_delay", "0", "mcast_snooping", "0")
        _ip(*inside, "link", "set", bridge, "addrgenmode", "none")
        _ip(*inside, "link", "set", bridge, "up")

    def add_tap(self, tap: str, bridge: str = BRIDGE, queues: int = 1) -> None:
        """Adds the tap of one more NIC to a bridge."""
        inside = ("-n", self.name)
        # A tap with several queues cannot be opened as one with a single queue, nor the reverse.
        _ip(*inside, "tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr",
            *(["multi_queue"] if queues > 1 else []))
        _ip(*inside, "link", "set", tap, "addrgenmode", "none")
        _ip(*inside, "link", "set", tap, "master", bridge, "up")

    def destroy(self) -> None:
        """Removes the namespace; does nothing if there is none.

        The kernel frees it with its taps when the last process inside has ended: end those
        processes first.
        """
        with _alone():
            if self.exists():
                _ip("netns", "del", self.name)
                _unmount_if_last()

    def pids(self) -> list[int]:
        """The processes that run inside."""
        return [int(pid) for pid in _ip("netns", "pids", self.name).split()]

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` inside.

        nsenter execs it, so that the process that is started is the command itself; and unlike
        `ip netns exec` nsenter leaves the mounts alone.
        """
        return ["nsenter", f"--net={self.path}", "--", *command]

    def __enter__(self) -> Network:
        self.create()
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()


def tap_netdev(identity: str, tap: str, queues: int = 1) -> str:
    """The -netdev argument for a tap made by Network; without vhost, since frames must pass
    through QEMU's own filters."""
    several = f",queues={queues}" if queues > 1 else ""
    return f"tap,id={identity},ifname={tap},script=no,downscript=no,vhost=off{several}"


def several_queues(queues: int) -> str:
    """What virtio-net-pci's -device argument needs for them: an interrupt for each queue in each
    direction, for the control queue, and for changes of the configuration."""
    return f",mq=on,vectors={2 * queues + 2}" if queues > 1 else ""
