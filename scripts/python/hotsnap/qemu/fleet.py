# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMUs of a cluster: starting, reaching and ending them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from ..errors import HotsnapError
from ..host import process
from ..model.state import State
from . import accel, binaries, lab, launch, machine
from .qmp import Qmp, QmpClosed, QmpFailure, QmpTimeout

# Seconds: for a QEMU that lives, on a machine that has more to do.
START_TIMEOUT = 120.0
QUIT_TIMEOUT = 120.0
CONNECT_TIMEOUT = 60.0
COMMAND_TIMEOUT = 60.0


def open_chain(inserted: dict[str, Any]) -> list[str]:
    """Files of an open disk, topmost first, from query-block's `inserted`; links are resolved."""
    files = []
    image = inserted["image"]
    while image:
        files.append(os.path.realpath(image["filename"]))
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
        """What became of members that ended by themselves, to be added to an error; or ''."""
        return "".join(
            f"; member {name} ended: {process.tail(self.log(name), 1) or 'it said nothing'} "
            f"(log: {self.log(name)})" for name in self.names()
            if name in self.state.members and self.state.members[name].process
            and not self.running(name))

    # Starting

    def start(self, disks: dict[str, dict[str, str]], machines: dict[str, str] | None = None,
              incoming: bool = False) -> None:
        """Start the members named by `disks`, each with disk id to the file it writes to; what
        the member does not have is kept only.

        Returns when each answers on QMP. When one does not come up, those that were started here
        are ended again, and a namespace made here is removed.
        """
        qemu = binaries.qemu(self.cluster.qemu)
        accelerator = accel.choose(qemu, self.cluster.accel)
        firmware = binaries.firmware_arguments()
        made = self.lab.ensure()
        taps = lab.taps(self.cluster)
        started: list[str] = []
        try:
            # What they write to is known before any of them runs, and each is as soon as it does.
            self.refuse_strays(disks)
            for name, files in disks.items():
                entry = self.state.member(name)
                entry.disks, entry.below = dict(files), {}
            self.state.save()
            for name, files in disks.items():
                paths = self.state.paths(name)
                for stale in (paths.qmp, paths.monitor, paths.listen, paths.pidfile):
                    if os.path.lexists(stale):
                        os.unlink(stale)
                argv = machine.command_line(
                    qemu, firmware, self.cluster.member(name), accelerator, paths, files,
                    taps[name], (machines or {}).get(name), incoming, self.snapshots)
                child = process.detach(launch.start(argv, self.log(name), self.lab))
                started.append(name)
                entry = self.state.member(name)
                entry.process, entry.argv = child, argv
                entry.accel, entry.since = accelerator, time.time()
                self.state.save()
            for name in started:
                self._await(name)
        except BaseException:
            self.kill(started)
            if made:
                self.remove_network()
            raise

    def _strays(self, name: str) -> list[process.Identity]:
        """A command that was killed at the wrong moment may have started what it did not note."""
        return process.find("-pidfile", self.state.paths(name).pidfile)

    def refuse_strays(self, names: Iterable[str]) -> None:
        """Members that nobody knows to run hold disks and taps, and may do so for good reason."""
        for name in names:
            if not self.running(name):
                for stray in self._strays(name):
                    raise HotsnapError(f"member {name} runs as process {stray.pid}, which no "
                                       "command has noted: 'hotsnap down --force' ends it")

    def log(self, name: str) -> str:
        return os.path.join(self.state.member_folder(name), "qemu.log")

    def _await(self, name: str) -> None:
        """Until a member answers; its sockets are for their owner alone."""
        paths = self.state.paths(name)
        try:
            with Qmp.connect(paths.qmp, START_TIMEOUT, lambda: self.running(name)) as qmp:
                for path in (paths.qmp, paths.monitor):
                    os.chmod(path, 0o600)
                if self.snapshots:
                    qmp.execute("query-hotsnap")
        except QmpFailure as error:
            said = process.tail(self.log(name))
            why = f"QEMU said: {said}" if said else str(error)
            raise HotsnapError(f"member {name} did not start: {why} (log: {self.log(name)})"
                               ) from error

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
        """Keep which file a running member writes to now, and those below it."""
        entry = self.state.members[name]
        # A disk that QEMU does not name, such as one that was unplugged, keeps its entry.
        for disk, info in self.block_info(qmp).items():
            entry.disks[disk], *entry.below[disk] = open_chain(info)

    def open_files(self) -> dict[str, str]:
        """Each file that a disk of a running member reads or writes, and whose it is."""
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
        """Whether a job moves the layers of a disk. An aborted snapshot's undo is a job that
        query-jobs does not show; what it puts over the disk meanwhile can be seen."""
        return any(node["drv"] in ("mirror_top", "commit_top")
                   for node in qmp.execute("query-named-block-nodes", {"flat": True}))

    @staticmethod
    def block_info(qmp: Qmp) -> dict[str, dict[str, Any]]:
        """Disk id to the `inserted` part of query-block, of the disks that are written to."""
        found = {}
        for device in qmp.execute("query-block"):
            for part in device.get("qdev", "").split("/"):
                if part.startswith("disk") and part.endswith("-dev"):
                    inserted = device.get("inserted")
                    if inserted and not inserted["ro"]:
                        found[part.removesuffix("-dev")] = inserted
        return found

    # Ending

    def quit(self, names: Iterable[str]) -> list[str]:
        """Ask QEMUs to quit, which writes out their disks; those that did not are returned."""
        asked = []
        for name in names:
            if not self.running(name):
                continue
            try:
                with self.monitor(name) as qmp:
                    qmp.execute("quit")
            except HotsnapError:
                pass  # the wait below tells
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
        """Remove the namespace; what else runs in it, such as a user's shell, keeps it alive
        only for as long as it runs."""
        self.lab.destroy()
