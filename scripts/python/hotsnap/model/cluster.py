# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster file: TOML in, a checked Cluster out.

Every error names the file, the line and the key. Paths in the result are absolute; a relative path
begins at the folder of the cluster file; the path of the cluster's folder has no links in it.
Nothing here changes the system: the file is read, and the files that it names must exist.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from .tomlpos import Positions

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
SIZE = re.compile(r"(\d+)([KMGT]?)(iB)?")
INTERFACES = ("virtio-blk", "virtio-scsi", "ide", "ahci")
FORMATS = ("qcow2", "raw")
MIB = 1 << 20
MOST_QUEUES = 256  # of a tap, by the kernel


@dataclass(frozen=True)
class Disk:
    """A disk of a member. With an `image` the guest writes to an overlay of it, never to it; links
    are resolved, since an overlay belongs to the file that it was made over."""

    id: str
    image: str | None
    format: str
    size: int | None  # bytes, of a disk that starts empty
    interface: str
    serial: str | None
    iothread: bool
    read_only: bool


@dataclass(frozen=True)
class Nic:
    id: str
    network: str
    model: str
    mac: str
    queues: int = 1


@dataclass(frozen=True)
class Member:
    name: str
    memory: int  # bytes
    cpus: int
    machine: str
    cpu: str | None
    kernel: str | None
    initrd: str | None
    append: str | None
    args: tuple[str, ...]
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]


@dataclass(frozen=True)
class Cluster:
    name: str
    file: str
    directory: str
    accel: str
    qemu: str | None
    networks: tuple[str, ...]
    members: tuple[Member, ...] = field(default=())

    def member(self, name: str) -> Member:
        for member in self.members:
            if member.name == name:
                return member
        known = ", ".join(m.name for m in self.members)
        raise UsageError(f"no member {name!r} in {self.file}: it has {known}")


def parse_size(text: str) -> int:
    """"512M", "2GiB" or "4096" in bytes; ValueError says what is allowed."""
    match = SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a size: write bytes, or a number with K, M, G or T")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")


def parse_duration(text: str) -> float:
    """"20s", "1.5m", "500ms" or "20" in seconds; ValueError says what is allowed."""
    match = DURATION.fullmatch(text)
    seconds = (float(match[1]) * {None: 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]
               if match else 0.0)
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a time: write seconds, or a number with ms, s, m or h")
    return seconds


def default_mac(cluster: str, member: str, index: int) -> str:
    """The same address for the same names, so that a restored guest finds the NIC that it had."""
    digest = hashlib.sha256(f"{cluster}/{member}/{index}".encode()).digest()
    return "52:54:00:" + ":".join(f"{octet:02x}" for octet in digest[:3])


class _Table:
    """One TOML table that is being checked: keys are taken out of it, and `done` complains of any
    that is left."""

    def __init__(self, source: _Source, path: tuple[str | int, ...], values: Any):
        self.source, self.path = source, path
        if not isinstance(values, dict):
            source.fail(path, f"must be a table, not {_kind(values)}")
        self.left = dict(values)

    def fail(self, key: str, text: str) -> None:
        self.source.fail((*self.path, key), text)

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None,
             required: bool = False) -> Any:
        if key not in self.left:
            if required:
                self.source.fail(self.path, f"key {key!r} is missing")
            return default
        value = self.left.pop(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        # bool is an int to Python, but not to a reader of the file
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(_KINDS[k] for k in kinds)
            self.fail(key, f"must be {wanted}, not {_kind(value)}")
        return value

    def name(self, key: str) -> str:
        value = self.take(key, str, required=True)
        if not NAME.fullmatch(value):
            self.fail(key, f"{value!r} is not a name: use 1 to 32 letters, digits, '.', '_' or "
                           "'-', the first a letter or digit")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.take(key, str, default)
        if value not in choices:
            self.fail(key, f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    def size(self, key: str, default: int | None) -> int | None:
        value = self.take(key, (str, int), None)
        if value is None:
            return default
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(key, str(error))
        return None

    def file(self, key: str, required: bool = False) -> str | None:
        value = self.take(key, str, required=required)
        if value is None:
            return None
        path = os.path.normpath(os.path.join(self.source.folder, value))
        if not os.path.exists(path):
            self.fail(key, f"{path} does not exist")
        return path

    def tables(self, key: str) -> list[_Table]:
        values = self.take(key, list, [])
        return [_Table(self.source, (*self.path, key, i), v) for i, v in enumerate(values)]

    def done(self) -> None:
        for key in self.left:
            self.fail(key, "is not a key that this table has; see docs/user-guide.md")


_KINDS = {str: "a string", int: "a whole number", bool: "true or false", list: "an array",
          dict: "a table"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


class _Source:
    def __init__(self, path: str):
        self.path = os.path.abspath(path)
        self.folder = os.path.dirname(self.path)
        try:
            with open(self.path, "rb") as stream:
                raw = stream.read()
        except OSError as error:
            raise UsageError(f"cannot read the cluster file {path}: {error.strerror}") from error
        try:
            text = raw.decode()
            self.values = tomllib.loads(text)
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path}: not valid TOML: {error}") from error
        self.positions = Positions(text)

    def fail(self, path: tuple[str | int, ...], text: str) -> None:
        line = self.positions.line(path)
        where = f"{self.path}:{line}" if line else self.path
        raise UsageError(f"{where}: {_dotted(path)}: {text}")


def _dotted(path: tuple[str | int, ...]) -> str:
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else part)
    return out or "the file"


def load(path: str) -> Cluster:
    """Reads and checks a cluster file; UsageError at the first fault."""
    source = _Source(path)
    top = _Table(source, (), source.values)
    head = _Table(source, ("cluster",), top.take("cluster", dict, required=True))
    name = head.name("name")
    directory = head.take("directory", str, os.path.join(".hotsnap", name))
    qemu = head.file("qemu")
    accel = head.choice("accel", ("auto", "kvm", "tcg"), "auto")
    defaults = {"memory": head.size("memory", 512 * MIB), "cpus": head.take("cpus", int, 1),
                "machine": head.take("machine", str, "pc"), "cpu": head.take("cpu", str)}
    head.done()

    networks: list[str] = []
    for table in top.tables("network"):
        network = table.name("name")
        if network in networks:
            table.fail("name", f"network {network!r} is named twice")
        networks.append(network)
        table.done()

    members: list[Member] = []
    for table in top.tables("member"):
        members.append(_member(table, name, defaults, networks))
        if members[-1].name in [m.name for m in members[:-1]]:
            table.fail("name", f"member {members[-1].name!r} is named twice")
    if not members:
        source.fail(("member",), "a cluster needs at least one [[member]]")
    top.done()
    _check_macs(source, members)
    # One spelling, since layers are told apart by their paths.
    return Cluster(name, source.path, os.path.realpath(os.path.join(source.folder, directory)),
                   accel, qemu, tuple(networks), tuple(members))


def _check_macs(source: _Source, members: list[Member]) -> None:
    seen: dict[str, str] = {}
    for i, member in enumerate(members):
        for j, nic in enumerate(member.nics):
            where = f"NIC {j} of member {member.name!r}"
            if nic.mac in seen:
                source.fail(("member", i, "nic", j, "mac"),
                            f"{nic.mac} is also the address of {seen[nic.mac]}: give one of them "
                            "another mac")
            seen[nic.mac] = where


def _member(table: _Table, cluster: str, defaults: dict[str, Any],
            networks: list[str]) -> Member:
    name = table.name("name")
    memory = table.size("memory", defaults["memory"])
    if memory % MIB or not memory:
        table.fail("memory", "must be a whole number of MiB, at least 1")
    cpus = table.take("cpus", int, defaults["cpus"])
    if not 1 <= cpus <= 255:
        table.fail("cpus", f"must be 1 to 255, not {cpus}")
    kernel, initrd = table.file("kernel"), table.file("initrd")
    append = table.take("append", str)
    if kernel is None and (initrd or append):
        table.fail("initrd" if initrd else "append", "needs a kernel as well")
    args = table.take("args", list, [])
    if not all(isinstance(argument, str) for argument in args):
        table.fail("args", "must be an array of strings, one QEMU argument each")
    disks = tuple(_disk(t, i) for i, t in enumerate(table.tables("disk")))
    nics = tuple(_nic(t, cluster, name, i, networks) for i, t in enumerate(table.tables("nic")))
    member = Member(name, memory, cpus, table.take("machine", str, defaults["machine"]),
                    table.take("cpu", str, defaults["cpu"]), kernel, initrd, append, tuple(args),
                    disks, nics)
    table.done()
    return member


def _disk(table: _Table, index: int) -> Disk:
    image = table.file("image")
    image = os.path.realpath(image) if image else None
    size = table.size("size", None)
    read_only = table.take("read_only", bool, False)
    if (image is None) == (size is None):
        table.source.fail(table.path, "needs either image (a golden image) or size (an empty disk)")
    if size is not None and (size % 512 or not size):
        table.fail("size", "must be a multiple of 512 bytes")
    if read_only and image is None:
        table.fail("read_only", "an empty disk that cannot be written is of no use: name an image")
    guess = "raw" if image and not image.endswith(".qcow2") else "qcow2"
    disk = Disk(f"disk{index}", image, table.choice("format", FORMATS, guess), size,
                table.choice("interface", INTERFACES, "virtio-blk"), table.take("serial", str),
                table.take("iothread", bool, False), read_only)
    if disk.iothread and disk.interface not in ("virtio-blk", "virtio-scsi"):
        table.fail("iothread", f"{disk.interface} cannot use one; virtio-blk and virtio-scsi can")
    table.done()
    return disk


def _nic(table: _Table, cluster: str, member: str, index: int, networks: list[str]) -> Nic:
    network = table.take("network", str, required=True)
    if network not in networks:
        table.fail("network", f"no [[network]] is named {network!r}")
    mac = table.take("mac", str, default_mac(cluster, member, index))
    if not MAC.fullmatch(mac):
        table.fail("mac", f"{mac!r} is not a MAC address like 52:54:00:12:34:56")
    if int(mac[:2], 16) & 1:
        table.fail("mac", f"{mac} is a multicast address: its first octet must be even")
    model, queues = table.take("model", str, "virtio-net-pci"), table.take("queues", int, 1)
    if not 1 <= queues <= MOST_QUEUES:
        table.fail("queues", f"must be 1 to {MOST_QUEUES}, not {queues}")
    if queues > 1 and not model.startswith("virtio-net-pci"):
        table.fail("queues", f"{model} has one; virtio-net-pci can have several")
    nic = Nic(f"net{index}", network, model, mac.lower(), queues)
    table.done()
    return nic
