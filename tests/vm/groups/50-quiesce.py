#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of disks whose guests freeze their file systems for them, by qemu-guest-agent: the file
system on the frozen disk is clean then, and without that it is not. A guest that cannot freeze is
told of in time, and the others are thawed."""

import struct
import subprocess
import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.operated import Operator
from support.outcome import Report, check, wait_until
from support.paths import QEMU_IMG
from support.workplace import Workplace
from hotsnap.model import bundle, cluster
from hotsnap.model.state import State
from hotsnap.qemu.agent import Agent
from hotsnap.errors import HotsnapError

MAGIC, NEEDS_RECOVERY = 0xEF53, 0x4  # of ext4's superblock


def needs_recovery(place: Workplace, file: str) -> bool:
    """Whether ext4's journal has to be replayed before the file system on a disk is whole."""
    part = place.path / "superblock"
    subprocess.run([str(QEMU_IMG), "dd", "-U", "-O", "raw", "bs=1024", "count=2", f"if={file}",
                    f"of={part}"], check=True, capture_output=True)
    block = part.read_bytes()[1024:]
    part.unlink()
    check(struct.unpack_from("<H", block, 0x38)[0] == MAGIC, "there is no ext4")
    return bool(struct.unpack_from("<I", block, 0x60)[0] & NEEDS_RECOVERY)


def scenario(report: Report) -> None:
    with Workplace() as place:
        operator = Operator(place, "quiesce-test", more="agent = true", append=" hs.agent=no")

        def agent(name: str) -> str:
            return State(cluster.load(str(operator.file))).paths(name).agent

        def root(tag: str, name: str = "a") -> str:
            found = bundle.read(str(operator.bundles / tag))
            return next(disk.file for member, disk in found.layers()
                        if member.name == name and "disk0" in disk.device)

        def answers() -> bool:
            try:
                with Agent(agent("a"), 2):
                    return True
            except HotsnapError:
                return False

        def up() -> None:
            operator.run("up")
            operator.ready()
            operator.run("group", "add", "one", "a")
            operator.run("group", "add", "both", "a", "b")
            wait_until(answers, "the guest agent does not answer")

        def quiesced() -> None:
            operator.run("snapshot", "--group", "one", "--quiesce", "clean")
            operator.moves("a")
            told = operator.run("show", "clean")
            check("a: 1 file systems were frozen" in told, told)
            print("#", next(line for line in told.splitlines() if "were frozen" in line))
            check(not needs_recovery(place, root("clean")), "the file system is not clean")
            with Agent(agent("a"), 5) as connection:
                status = connection.execute("guest-fsfreeze-status", 5)
            check(status == "thawed", f"the guest is {status}")

        def control() -> None:
            operator.run("snapshot", "--group", "one", "dirty")
            check(needs_recovery(place, root("dirty")), "it is clean without being frozen")
            check("frozen at the cut" not in operator.run("show", "dirty"), "show")

        def no_agent() -> None:
            text = operator.run("snapshot", "--group", "both", "--quiesce", "--quiesce-timeout",
                                "2s", "never", code=1)
            check("member b: its guest agent does not answer in time" in text, text)
            check(not list(operator.bundles.glob("never*")), "something is left of it")
            for name in "ab":
                operator.moves(name)

            def thawed() -> bool:
                with Agent(agent("a"), 5) as connection:
                    return connection.execute("guest-fsfreeze-status", 5) == "thawed"

            wait_until(thawed, "a stays frozen")
            check("--group" in operator.run("snapshot", "--quiesce", "never", code=2), "memory")

        def restored() -> None:
            """It boots from a clean file system, and saves itself so again."""
            operator.run("restore", "clean", "--replace")
            wait_until(answers, "the guest agent does not answer after the restore")
            operator.moves("a")
            operator.run("snapshot", "--group", "one", "--quiesce", "again")
            check(not needs_recovery(place, root("again")), "the file system is not clean")

        operator.steps(report, "quiesce", (
            ("up", up), ("file-system-is-clean", quiesced), ("control-not-quiesced", control),
            ("guest-that-cannot", no_agent), ("restored", restored)))


main = Report()
scenario(main)
main.exit()
