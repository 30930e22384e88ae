#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The uffd engine under KVM, also where the host's own KVM is of no use: in emulated machines with
hardware virtualization (see level1/).

In Linux 6.12: a guest with two vCPUs, and anonymous, shared and huge-page memory. Its image is the
one that a dump inside the same pause holds, while vCPUs write through the nested page tables and
disk DMA through QEMU's; without write traps the same comparison fails; the guest is restored and
goes on.

In Linux 6.1, whose userfaultfd does not protect memory that was never touched, so that the library
has to populate it first: a guest with one vCPU and anonymous memory.
"""

import json
import re
from collections import Counter

from harness import Report, Workplace, check
from hotsnap.image import Image, compare
from level1.machine import BUNDLES, Guest, Level1, Level2

# The guest's kernel turns to the node without vCPU when the others are full.
MIXED = Level2("mixed", cpus=2, memory_mib=160, args=[
    "-object", "memory-backend-ram,id=private,size=56M",
    "-object", "memory-backend-memfd,id=shared,size=56M,share=on",
    "-object", "memory-backend-memfd,id=huge,size=48M,share=on,hugetlb=on,hugetlbsize=2M",
    "-numa", "node,memdev=private,cpus=0", "-numa", "node,memdev=shared,cpus=1",
    "-numa", "node,memdev=huge"])
RESTORED = Level2("restored", cpus=2, memory_mib=160, args=MIXED.args, restore_of="mixed")
ANONYMOUS = Level2("anonymous")
# Slow enough that much is written to before it is copied; without traps there is less to wait for.
COPY_RATE = {"uffd": 16 << 20, "none": 48 << 20}


def pages_written(guest: Guest) -> dict[str, int]:
    """What each writer last said it had written."""
    return {cpu: int(count) for cpu, count in
            re.findall(r"writer (cpu\d) pages=(\d+)", guest.text())}


def wait_writers(guest: Guest) -> None:
    guest.wait_console(r"writer disk pages=\d+ disk=[1-9]")
    for cpu in range(guest.plan.cpus):
        guest.wait_console(rf"writer cpu{cpu + 1} pages=[1-9]")


def take_snapshots(machine: Level1, name: str) -> dict[str, int]:
    """Returns what the writers had written before the first."""
    with machine.guest(name) as guest:
        check(guest.qmp.execute("query-kvm") == {"enabled": True, "present": True}, "no KVM")
        wait_writers(guest)
        before = pages_written(guest)
        for engine, rate in COPY_RATE.items():
            guest.snapshot(f"{name}-{engine}", engine=engine, bandwidth=rate, **{"x-dump": True})
    return before


def restore(machine: Level1, before: dict[str, int] | None) -> None:
    with machine.guest("restored") as guest:
        check(before, "there is no snapshot to restore")
        guest.restore("mixed-uffd")
        wait_writers(guest)
        first = pages_written(guest)
        guest.wait_console(r"(?s)(cpu1 pages=.*){3}")
        later = pages_written(guest)
    check(first["cpu1"] >= before["cpu1"] and first["cpu2"] >= before["cpu2"],
          f"the writers start anew: {before} before the snapshot, {first} restored")
    check(later["cpu1"] > first["cpu1"], f"the restored guest does not go on: {first}, {later}")


def differing(machine: Level1, member: str, tag: str) -> tuple[Counter[str], dict]:
    """The pages in which image and dump differ, by memory block, and the counts by manner."""
    folder, bundle = machine.folder, f"{BUNDLES}/{tag}"
    manifest = json.loads(machine.take_out(f"{bundle}/manifest.json", folder / "manifest")
                          .read_text())
    files = [machine.take_out(f"{bundle}/{member}/{name}", folder / name)
             for name in ("state", "state.dump")]
    with Image(files[0]) as image, Image(files[1]) as dump:
        pages = compare(image, dump)
    for file in files:
        file.unlink()
    memory = manifest["members"][0]["memory"]
    check(memory["engine"] == tag.rpartition("-")[2], f"engine {memory['engine']}")
    return Counter(page.block for page in pages), memory["pages"]


def identity(machine: Level1, member: str) -> None:
    blocks, pages = differing(machine, member, f"{member}-uffd")
    print(f"# {member}: {json.dumps(pages)}")
    check(not blocks, f"pages differ: {dict(blocks)}")
    check(pages["guest_write"] > 0, "no page was saved for a guest write: nothing was proved")
    check(pages["dma_write"] > 0, "no page was saved for a DMA write: nothing was proved")


def control(machine: Level1, member: str, memory: set[str]) -> None:
    blocks, _ = differing(machine, member, f"{member}-none")
    print(f"# {member} without traps: {dict(blocks)} pages differ")
    check(memory <= blocks.keys(), "without write traps the images are identical in "
          f"{memory - blocks.keys()}: the checker sees nothing")


def linux_6_12(report: Report, place: Workplace) -> None:
    machine = report.run("kvm-machine-6.12", lambda: start(place, "linux-6.12",
                                                           "bookworm-backports",
                                                           [MIXED, RESTORED]))
    if machine:
        before = report.run("kvm-snapshots-6.12", lambda: take_snapshots(machine, "mixed"))
        report.run("kvm-restore-6.12", lambda: restore(machine, before))
        report.run("kvm-power-off-6.12", machine.power_off)
        report.run("kvm-identity-6.12", lambda: identity(machine, "mixed"))
        report.run("kvm-control-no-trap-6.12",
                   lambda: control(machine, "mixed", {"private", "shared", "huge"}))


def linux_6_1(report: Report, place: Workplace) -> None:
    machine = report.run("kvm-machine-6.1", lambda: start(place, "linux-6.1", "bookworm",
                                                          [ANONYMOUS]))
    if machine:
        report.run("kvm-snapshots-6.1", lambda: take_snapshots(machine, "anonymous"))
        report.run("kvm-power-off-6.1", machine.power_off)
        report.run("kvm-identity-6.1", lambda: identity(machine, "anonymous"))
        report.run("kvm-control-no-trap-6.1", lambda: control(machine, "anonymous", {"pc.ram"}))


def start(place: Workplace, name: str, suite: str, plan: list[Level2]) -> Level1:
    machine = Level1(place, name, suite, plan)
    version = machine.wait("kvm .*")
    print(f"# {version}")
    check(f"kvm {name.rpartition('-')[2]}." in version, f"not the kernel wanted: {version}")
    check("npt=Y" in version, f"KVM has no nested paging: {version}")
    return machine


main = Report()
for part in (linux_6_12, linux_6_1):
    with Workplace() as workplace:
        part(main, workplace)
main.exit()
