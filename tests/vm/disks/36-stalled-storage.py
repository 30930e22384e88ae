#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Storage stands still. While a snapshot is prepared, no guest notices. While the copies run, a
member whose guest writes a lot waits, its main loop too. After a cancel it goes on, long before the
storage is back. When no cancel can reach it, it gives the snapshot up by itself."""

# waits: for storage that has stopped, until the product gives up

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster, Member
from support.outcome import Report, Skipped, check, wait_until
from support.unharmed import no_trace, settle
from support.workplace import Workplace

CANCELLED = "cancelled: by the user"
MEMBERS = [
    ("a", "idle", {}),
    ("b", "writer", {"append": "hs.writer.mib=160 hs.writer.rate=20000 hs.writer.disk=20"}),
]


class FreezableFilesystem:
    """An ext4 file system in a file. While it is frozen, every write to it waits."""

    def __init__(self, place: Workplace):
        self.place = place
        self.image, self.path = place.path / "ext4.img", place.path / "ext4"
        self.frozen = False

    def __enter__(self) -> "FreezableFilesystem":
        self.path.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(1 << 30)
        for command in (["mkfs.ext4", "-q", str(self.image)],
                        ["mount", "-o", "loop", str(self.image), str(self.path)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                self.path.rmdir()
                raise Skipped(f"no ext4 can be mounted: {done.stderr.strip()}")
        return self

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "-f", str(self.path)], check=True)
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            self.frozen = False
            subprocess.run(["fsfreeze", "-u", str(self.path)], check=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.thaw()
        for vm in self.place.vms:
            vm.kill()  # VMs hold files open there
        subprocess.run(["umount", str(self.path)], check=False)


def progress(member: Member, seconds: float) -> int:
    """The number of lines that the guest's writer prints in that time."""
    before = len(member.vm.text())
    time.sleep(seconds)
    return len(re.findall(r"^writer \S+ pages=", member.vm.lines_after(before), re.M))


def start(cluster: Cluster, initiator: Member, bundles: Path,
          storage: FreezableFilesystem) -> None:
    """A snapshot whose storage is frozen before b's guest writes: the guest has to wait."""
    b = cluster["b"].vm
    bundles.mkdir(exist_ok=True)
    b.qmp.execute("stop")
    initiator.vm.qmp.execute("hotsnap-cluster", {
        "job-id": "snap", "tag": "t", "directory": str(bundles), "bandwidth": 4 << 20,
        "members": [m.address for m in cluster.members]})
    initiator.vm.reach("full")
    b.reach("full")
    storage.freeze()
    b.qmp.execute("cont")
    wait_until(lambda: progress(cluster["b"], 5) == 0, "b's guest runs on without storage")


def undone(cluster: Cluster, initiator: Member, bundles: Path, reason: str) -> None:
    """The storage is back: the snapshot is undone, and nothing is left."""
    error = initiator.vm.wait_job("snap")
    print(f"# {error}")
    check(error and reason in error, f"the error does not say {reason!r}: {error}")
    settle(cluster)
    no_trace(cluster, "t")
    wait_until(lambda: not list(bundles.iterdir()), "files are left")


def cancelled(cluster: Cluster, storage: FreezableFilesystem) -> None:
    a, b = cluster["a"], cluster["b"]
    bundles = storage.path / "cancelled"
    start(cluster, a, bundles, storage)
    a.vm.qmp.execute("job-cancel", {"id": "snap"})
    wait_until(lambda: progress(b, 3) > 0, "b's guest still waits after the cancel")
    time.sleep(12)  # until after abort_timeout_us, which ends the wait for ABORTED
    for member in cluster.members:
        check(member.vm.running(), f"{member.name} does not run")
    wait_until(lambda: progress(b, 3) > 0, "b's guest stands still again")
    print(f"# frozen still: a {a.vm.phase()}, b {b.vm.phase()}")
    storage.thaw()
    undone(cluster, a, bundles, CANCELLED)
    error = b.vm.qmp.execute("query-hotsnap").get("error")
    check(error == CANCELLED, f"it was not the cancel that helped b: {error}")


def stalled_in_prepare(cluster: Cluster, storage: FreezableFilesystem) -> None:
    """Neither a folder nor an overlay can be made: a worker waits for them, and no guest waits."""
    a, b = cluster["a"], cluster["b"]
    bundles, overlays = cluster.bundles, storage.path / "overlays"
    overlays.mkdir()
    storage.freeze()
    a.vm.qmp.execute("hotsnap-cluster", {
        "job-id": "snap", "tag": "t", "directory": str(bundles),
        "overlay-directory": str(overlays), "members": [m.address for m in cluster.members]})
    b.vm.reach("prepare")
    for _ in range(5):  # a guest that stands still prints nothing in one of these intervals
        check(progress(b, 3) > 0, "b's guest stands still")
    check(b.vm.phase() == "prepare", f"b is not being prepared: {b.vm.phase()}")
    a.vm.qmp.execute("job-cancel", {"id": "snap"})
    check(progress(b, 3) > 0, "b's guest stands still after the cancel")
    storage.thaw()
    undone(cluster, a, overlays, CANCELLED)


def stalled_before_the_job(cluster: Cluster, storage: FreezableFilesystem) -> None:
    """The command itself makes a folder: the command waits for the storage, the guest does not."""
    b = cluster["b"]
    bundles = storage.path / "command"
    bundles.mkdir()
    storage.freeze()
    done: list[str | None] = []
    caller = threading.Thread(target=lambda: done.append(b.vm.job("hotsnap-cluster", {
        "job-id": "late", "tag": "late", "directory": str(bundles),
        "members": [m.address for m in cluster.members]})))
    caller.start()
    for _ in range(3):
        check(progress(b, 3) > 0, "b's guest stands still")
    check(not done, "the command did not wait for its folder: this shows nothing")
    storage.thaw()
    caller.join()
    check(done == [None], f"it failed once the storage was back: {done}")


def nobody_can_cancel(cluster: Cluster, storage: FreezableFilesystem) -> None:
    """The initiator itself stands still."""
    b = cluster["b"]
    bundles = storage.path / "alone"
    start(cluster, b, bundles, storage)
    wait_until(lambda: progress(b, 3) > 0, "b's guest waits for ever")
    check(b.vm.running(), "b does not run")
    storage.thaw()
    undone(cluster, b, bundles, "stood still")


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, MEMBERS)
        cluster.up()
        cluster["b"].vm.wait_console(r"writer b pages=[1-9]")
        wait_until(lambda: progress(cluster["b"], 3) > 0, "the writer prints nothing")
        try:
            with FreezableFilesystem(place) as storage:
                report.run("stalled-storage-cancelled", lambda: cancelled(cluster, storage))
                storage.thaw()
                report.run("stalled-storage-in-prepare",
                           lambda: stalled_in_prepare(cluster, storage))
                storage.thaw()
                report.run("stalled-storage-before-the-job",
                           lambda: stalled_before_the_job(cluster, storage))
                storage.thaw()
                report.run("stalled-storage-nobody-can-cancel",
                           lambda: nobody_can_cancel(cluster, storage))
                storage.thaw()
                report.run("stalled-storage-snapshot-afterwards",
                           lambda: cluster.snapshot("after"))
        except Skipped as reason:
            print(f"skip stalled-storage - {reason}", flush=True)


main = Report()
run(main)
main.exit()
