#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of several members behind a barrier are those of one instant though the members hear of each
other by a way that no packet mediator sees: a client outside, on their serial ports. In causal order
they are not, which is the control. A barrier that fails leaves nothing held, and disks whole."""

# tier: all

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support import chain
from support.cluster import Cluster
from support.cuts import snapshot_late
from support.gate import Gate
from support.outcome import Report, check, wait_until
from support.unharmed import is_whole, no_trace, not_begun, settle
from support.workplace import Workplace

SNAPSHOTS = 10
PATIENT = {"content": "disks", "cut": "barrier", "hold_timeout": 9000}
WRITE = ("perl -e 'use Fcntl; sysopen(F, $ARGV[0], O_RDWR|O_SYNC) or die; "
         "syswrite(F, pack(q(Q<), $ARGV[1]) . qq(\\0) x 4088) == 4096 or die; print qq(done\\n)' "
         "$(find_disk {disk}) {number}")


class Client:
    """Writes number k to the disk of one member after the other, each when the one before has said
    that its own is durable, and goes on with k + 1."""

    def __init__(self, cluster: Cluster, names: str):
        self.members = [cluster[name] for name in names]
        self.done = dict.fromkeys(names, 0)  # the last number that each has answered
        self.longest = dict.fromkeys(names, 0.0)
        self.error = ""
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Client":
        self.thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(120)
        check(not self.error, self.error)

    def goes_on(self) -> None:
        last = self.members[-1].name
        now = self.done[last]
        wait_until(lambda: self.error or self.done[last] > now + 1, "the client waits for a disk",
                   timeout=60)
        check(not self.error, self.error)

    def _run(self) -> None:
        number = 0
        try:
            while not self.stop.is_set():
                number += 1
                for member in self.members:
                    began = time.monotonic()
                    said = chain.shell(member).run(chain.FIND + "; " + WRITE.format(
                        disk=member.options["more_disks"][0], number=number))
                    check("done" in said, f"{member.name}: {said}")
                    self.longest[member.name] = max(self.longest[member.name],
                                                    time.monotonic() - began)
                    self.done[member.name] = number
        except Exception as error:  # pylint: disable=broad-exception-caught
            self.error = f"the client: {error}"


def through(cluster: Cluster, name: str, way: Gate) -> list[dict[str, str]]:
    return [{**m.address, "address": f"unix:{way.path}"} if m.name == name else m.address
            for m in cluster.members]


def whole(cluster: Cluster, names: str) -> None:
    for name in names:
        disk = cluster[name].options["more_disks"][0]
        for path in (cluster.place.path / name).glob(f"{disk}*.qcow2"):
            is_whole(path, in_use=True)


def writes(cluster: Cluster, name: str) -> None:
    began = time.monotonic()
    chain.takes_writes(cluster[name])
    check(time.monotonic() - began < 10, f"{name}: a write took {time.monotonic() - began:.1f} s")


def writes_if_it_can(cluster: Cluster, name: str) -> None:
    with suppress(Exception):
        chain.shell(cluster[name]).run(f"{chain.FIND}; " + WRITE.format(
            disk=cluster[name].options["more_disks"][0], number=1), timeout=3)


def run(report: Report) -> None:
    iothread = ["-object", "iothread,id=io0"]
    scsi = ["-device", "virtio-scsi-pci,id=scsi0,iothread=io0"]
    with Workplace() as place:
        cluster = Cluster(place, [
            chain.member("a", ["a0"], before_disks=iothread,
                         devices={"a0": "virtio-blk-pci,iothread=io0,id=a0"}),
            chain.member("b", ["b0"], machine="pc", devices={"b0": "ide-hd,id=b0"}),
            chain.member("c", ["c0"], before_disks=iothread + scsi,
                         devices={"c0": "scsi-hd,bus=scsi0.0,id=c0"})])
        cluster.up()

        def many() -> None:
            holds = []
            with Client(cluster, "abc") as client:
                for number in range(SNAPSHOTS):
                    manifest = cluster.snapshot(f"s{number}", **PATIENT)
                    found = chain.numbers(cluster, manifest)
                    check(not chain.grows(found), f"snapshot {number}: {found}")
                    cut = manifest["cut"]
                    check((cut["order"], cut["hold_timeout_us"]) == ("barrier", 9_000_000), f"{cut}")
                    held = [m["hold"] for m in manifest["members"]]
                    check(max(hold["begin_ns"] for hold in held)
                          < min(hold["end_ns"] for hold in held), f"no instant is common: {held}")
                    check({m["cause"] for m in manifest["members"]} == {"barrier"}, "cause")
                    check(cut["hold_max_us"] > 0 and cut["downtime_max_us"] == 0, f"{cut}")
                    holds += [(hold["end_ns"] - hold["begin_ns"]) // 1000 for hold in held]
                client.goes_on()
            holds.sort()
            print(f"# hold median {holds[len(holds) // 2]} us, longest {holds[-1]} us")

        def told_late() -> None:
            """b hears of SWITCH late: its requests wait, and a, which has switched, writes on."""
            with Gate(cluster["b"].socket, place.path / "late.sock", "SWITCH") as way, \
                    Client(cluster, "ab") as client:
                cluster.begin_snapshot("late", members=through(cluster, "b", way), **PATIENT)
                cluster["c"].vm.reach("switch")
                time.sleep(1)
                stands = client.done["b"]
                time.sleep(1)
                check(client.done["b"] == stands, "b writes although its requests are held")
                way.open()
                error = cluster["a"].vm.wait_job("snap-late")
                check(error is None, f"{error}")
                client.goes_on()
            manifest = json.loads((cluster.bundles / "late" / "manifest.json").read_text())
            found = chain.numbers(cluster, manifest)[:2]
            check(found[0] in (stands, stands + 1) and found[1] == stands, f"{found}, {stands}")

        def control() -> None:
            """The same lateness in causal order, with coloring. No frame reaches b meanwhile: a red one
            would make its cut early, by chance."""
            b = cluster["b"].vm
            b.qmp.execute("set_link", {"name": "net0", "up": False})
            with Client(cluster, "ab") as client:
                before: list[int] = []
                manifest = snapshot_late(
                    cluster, "causal", "b",
                    lambda: before.append(client.done["b"]) or client.done["b"] > before[0] + 2,
                    content="disks")
            b.qmp.execute("set_link", {"name": "net0", "up": True})
            found = chain.numbers(cluster, manifest)[:2]
            print(f"# in causal order: {found}")
            check(chain.grows(found), f"in causal order nothing is wrong: {found}")

        def stopped() -> None:
            """b is stopped by SIGSTOP while it holds: the others are free by the hold-timeout."""
            b = cluster["b"].vm
            with Gate(cluster["b"].socket, place.path / "stop.sock", held_back="HELD") as way, \
                    Client(cluster, "ac") as client:
                client.longest = dict.fromkeys("ac", 0.0)
                cluster.begin_snapshot("stopped", members=through(cluster, "b", way),
                                       content="disks", cut="barrier", hold_timeout=1000)
                b.reach("hold")
                os.kill(b.process.pid, signal.SIGSTOP)
                try:
                    cluster["a"].vm.reach("aborting", "aborted")
                    client.goes_on()
                finally:
                    os.kill(b.process.pid, signal.SIGCONT)
                way.open()
                error = cluster["a"].vm.wait_job("snap-stopped")
            print(f"# {error}; longest write {max(client.longest.values()):.2f} s")
            check(error and "no answer from member 'b'" in error, f"{error}")
            settle(cluster)
            no_trace(cluster, "stopped")
            for name in "abc":
                writes(cluster, name)
            whole(cluster, "abc")
            manifest = cluster.snapshot("after", **PATIENT)
            check(len(manifest["members"]) == 3, "the next snapshot")

        def refused() -> None:
            not_begun(cluster, [
                ({"cut": "barrier"}, "need 'content'"),
                ({"content": "disks", "hold_timeout": 5}, "needs 'cut'"),
                ({**PATIENT, "hold_timeout": 0}, "between 1 and"),
                ({**PATIENT, "coloring": False}, "colors no frames")])

        def reset() -> None:
            """b is reset while a request of its guest is held: the snapshot fails, the guest boots."""
            b = cluster["b"].vm
            with Gate(cluster["b"].socket, place.path / "reset.sock", "SWITCH") as way:
                cluster.begin_snapshot("reset", members=through(cluster, "b", way), **PATIENT)
                cluster["c"].vm.reach("switch")
                offset = len(b.text())
                writer = threading.Thread(target=writes_if_it_can, args=(cluster, "b"), daemon=True)
                writer.start()
                time.sleep(1)
                b.qmp.execute("system_reset")
                error = cluster["a"].vm.wait_job("snap-reset")
                way.open()
            print(f"# {error}")
            check(error and "'b'" in error and "reset" in error, f"{error}")
            wait_until(lambda: "hotsnap-guest: ready b" in b.text()[offset:], "b does not boot",
                       timeout=180)
            settle(cluster)
            no_trace(cluster, "reset")
            writes(cluster, "b")
            whole(cluster, "abc")

        def initiator_killed() -> None:
            """While all hold: the others let go at once, not only at the hold-timeout."""
            with Gate(cluster["b"].socket, place.path / "killed.sock", held_back="HELD") as way:
                cluster.begin_snapshot("killed", members=through(cluster, "b", way), **PATIENT)
                for name in "bc":
                    cluster[name].vm.reach("hold")
                cluster["a"].vm.kill()
                began = time.monotonic()
                for name in "bc":
                    cluster[name].vm.reach("aborted")
                check(time.monotonic() - began < 5, "they waited for the hold-timeout")
                way.open()
            for name in "bc":
                check(cluster[name].vm.running(), f"{name} does not run")
                writes(cluster, name)
            whole(cluster, "bc")

        report.run("numbers-never-grow", many)
        report.run("told-late", told_late)
        report.run("control-in-causal-order", control)
        report.run("a-member-is-stopped", stopped)
        report.run("refusals", refused)
        report.run("a-guest-is-reset", reset)
        report.run("initiator-killed", initiator_killed)


main = Report()
run(main)
main.exit()
