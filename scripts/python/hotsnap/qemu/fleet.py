# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMUs of a cluster: starting, reaching and ending them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from ..errors import HotsnapError, UsageError
from ..host import process
from ..host.paths import resolved
from ..model.golden import GoldenImage
from ..model.state import State
from . import accel, binaries, inventory, lab, launch, machine
from .qmp import Qmp, QmpClosed, QmpFailure, QmpTimeout

# Seconds that a QEMU may need on a busy host.
START_TIMEOUT = 120.0
QUIT_TIMEOUT = 120.0
CONNECT_TIMEOUT = 60.0
COMMAND_TIMEOUT = 60.0


def open_chain(inserted: dict[str, Any]) -> list[str]:
    """Files of an open disk, topmost first, from query-block's `inserted`; links are resolved."""
    files = []
    image = inserted["image"]
    while image:
        files.append(resolved(image["filename"]))
        image = image.get("backing-image")
    return files


class Fleet:
    """`snapshots` False starts members without the fork's objects: for tests with a stock QEMU."""

    def __init__(self, state: State, snapshots: bool = True):
        self.state = state
        self.cluster = state.cluster
        self.snapshots = snapshots
        self.lab = lab.Lab(self.cluster)

    def names(self) -> list[str]:
        return [member.name for member in self.cluster.members]

    def running(self, name: str) -> bool:
        return name in self.state.members and process.alive(self.state.members[name].process)

    def running_names(self) -> list[str]:
        return [name for name in self.names() if self.running(name)]

    def deaths(self) -> str:
        """A text about members that ended by themselves, to be added to an error; it may be
        empty."""
        return "".join(
            f"; member {name} ended: {process.tail(self.log(name), 1) or 'it said nothing'} "
            f"(log: {self.log(name)})" for name in self.names()
            if name in self.state.members and self.state.members[name].process
            and not self.running(name))

    # Starting

    def start(self, disks: dict[str, dict[str, str]], machines: dict[str, str] | None = None,
              incoming: bool = False,
              discs: dict[str, dict[str, str | None]] | None = None) -> None:
        """Starts the members that `disks` maps to their disks' ids and the files to write to. A
        disk that the cluster file does not give to the member is noted only. `discs`: member to
        drive to the disc in it, where it is not the one of the cluster file.

        Returns when each member answers on QMP. If one does not, the members that were started here
        are ended, and a namespace that was made here is removed.
        """
        qemu = binaries.qemu(self.cluster.qemu)
        accelerator = accel.choose(qemu, self.cluster.accel)
        firmware = binaries.firmware_arguments()
        made = self.lab.ensure()
        taps = lab.taps(self.cluster)
        started: list[str] = []
        begins: dict[str, int] = {}  # of what each QEMU says, in its log
        try:
            # state.json names the files before any member writes to them, and each member as soon
            # as it runs.
            self.refuse_strays(disks)
            for name, files in disks.items():
                entry = self.state.member(name)
                entry.disks, entry.below = dict(files), {}
            self.state.save()
            for name, files in disks.items():
                paths = self.state.paths(name)
                for stale in (paths.qmp, paths.monitor, paths.listen, paths.agent, paths.pidfile):
                    if os.path.lexists(stale):
                        os.unlink(stale)
                member = self.cluster.member(name)
                uefi = machine.uefi(binaries.uefi()[0]) if member.firmware == "uefi" else []
                argv = machine.command_line(
                    qemu, [*firmware, *uefi], member, accelerator, paths, files, taps[name],
                    (machines or {}).get(name), incoming, self.snapshots, (discs or {}).get(name))
                log = self.log(name)
                begins[name] = os.path.getsize(log) if os.path.exists(log) else 0
                child = process.detach(launch.start(argv, log, self.lab))
                started.append(name)
                entry = self.state.member(name)
                entry.process, entry.argv = child, argv
                entry.accel, entry.since = accelerator, time.time()
                self.state.save()
            for name in started:
                self._await(name, begins[name])
        except BaseException:
            self.kill(started)
            if made:
                self.remove_network()
            raise

    def _strays(self, name: str) -> list[process.Identity]:
        """The member's QEMUs, also one whose command was killed before it noted that QEMU."""
        return process.find("-pidfile", self.state.paths(name).pidfile)

    def refuse_strays(self, names: Iterable[str]) -> None:
        """Refuses to go on if a member runs that is not noted: it holds disks and taps."""
        for name in names:
            if not self.running(name):
                for stray in self._strays(name):
                    raise HotsnapError(f"member {name} runs as process {stray.pid}, which no "
                                       "command has noted: 'hotsnap down --force' ends it")

    def log(self, name: str) -> str:
        return os.path.join(self.state.member_folder(name), "qemu.log")

    def _await(self, name: str, begin: int) -> None:
        """Waits until a member answers, and makes its sockets private. What it says begins at byte
        `begin` of its log."""
        paths = self.state.paths(name)
        try:
            with Qmp.connect(paths.qmp, START_TIMEOUT, lambda: self.running(name)) as qmp:
                agent = [paths.agent] if self.cluster.member(name).agent else []
                for path in (paths.qmp, paths.monitor, *agent):
                    os.chmod(path, 0o600)
                if self.snapshots:
                    qmp.execute("query-hotsnap")
                self._note_machine(name, qmp)
        except QmpFailure as error:
            said = process.tail(self.log(name), begin=begin)
            why = f"QEMU said: {said}" if said else str(error)
            raise HotsnapError(f"member {name} did not start: {why} (log: {self.log(name)})"
                               ) from error

    def _note_machine(self, name: str, qmp: Qmp) -> None:
        """Notes what the member was started with; refuses disks of `args` that it writes to."""
        for disk in inventory.foreign(qmp):
            raise UsageError(
                f"{self.cluster.member(name).args_place}: bring along the disk {disk}, which the "
                "guest writes to and a restore could not bring back: make it a [[member.disk]], "
                "or make it read-only")
        entry = self.state.member(name)
        entry.devices = inventory.devices(qmp)
        entry.media = {disk: GoldenImage.of(file) for disk, file in inventory.media(qmp).items()
                       if file}
        self.state.save()

    # Reaching

    def qmp(self, name: str) -> Qmp:
        """The connection for commands and jobs; one client at a time."""
        return self._connect(name, self.state.paths(name).qmp)

    def monitor(self, name: str) -> Qmp:
        """The connection for questions, also while a job's client holds the other one."""
        return self._connect(name, self.state.paths(name).monitor)

    def _connect(self, name: str, path: str) -> Qmp:
        if not self.running(name):
            raise HotsnapError(f"member {name} does not run: start it with 'hotsnap up'")
        try:
            qmp = Qmp.connect(path, CONNECT_TIMEOUT, lambda: self.running(name))
            qmp.timeout = COMMAND_TIMEOUT
            return qmp
        except (QmpClosed, QmpTimeout) as error:
            raise HotsnapError(f"member {name} does not answer on {path}: is another client "
                               f"connected? ({error})") from error

    def note_disks(self, name: str, qmp: Qmp) -> None:
        """Notes which file each disk of a running member writes to, and the files below it."""
        entry = self.state.members[name]
        # A disk that QEMU does not name, such as one that was unplugged, keeps its entry.
        for disk, info in self.block_info(qmp).items():
            entry.disks[disk], *entry.below[disk] = open_chain(info)

    def open_files(self) -> dict[str, str]:
        """Each file that a disk of a running member reads or writes, with the member's name."""
        found = {}
        for name in sorted(self.state.members):
            if self.running(name):
                with self.monitor(name) as qmp:
                    for device in qmp.execute("query-block"):
                        if device.get("inserted"):
                            found.update(dict.fromkeys(open_chain(device["inserted"]), name))
        return found

    @staticmethod
    def rearranging(qmp: Qmp) -> bool:
        """Whether a job moves the layers of a disk. query-jobs does not show the job that undoes an
        aborted snapshot; the block node that it puts over the disk is shown."""
        return any(node["drv"] in ("mirror_top", "commit_top")
                   for node in qmp.execute("query-named-block-nodes", {"flat": True}))

    @staticmethod
    def block_info(qmp: Qmp) -> dict[str, dict[str, Any]]:
        """Disk id to the `inserted` part of query-block, of the disks that are written to."""
        return inventory.written(qmp)

    # Ending

    def quit(self, names: Iterable[str]) -> list[str]:
        """Asks QEMUs to quit, which writes out their disks; returns the names of those that did
        not."""
        asked = []
        for name in names:
            if not self.running(name):
                continue
            try:
                with self.monitor(name) as qmp:
                    qmp.execute("quit")
            except HotsnapError:
                pass  # the wait below shows whether it quits
            asked.append(name)
        late = [name for name in asked
                if not process.end(self.state.members[name].process, 0, QUIT_TIMEOUT)]
        self._ended(name for name in asked if name not in late)
        return late

    def kill(self, names: Iterable[str]) -> None:
        names = list(names)
        for name in names:
            if name in self.state.members:
                process.end(self.state.members[name].process)
            for stray in self._strays(name):
                process.end(stray)
        self._ended(names)

    def _ended(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self.state.members:
                self.state.members[name].process = None
            for path in self.state.paths(name).all():
                if path.startswith(os.path.join(self.state.directory, "run", "")) \
                        and os.path.lexists(path):
                    os.unlink(path)
        self.state.save()

    def remove_network(self) -> None:
        """Removes the namespace. Another program in it, such as a user's shell, keeps it alive
        until that program ends."""
        self.lab.destroy()
