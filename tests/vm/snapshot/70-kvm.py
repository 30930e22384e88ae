#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The uffd engine under KVM, even if the host's own KVM cannot be used: in emulated machines with
hardware virtualization (see tests/support/level1/).

In Linux 6.12: a guest with two vCPUs, and anonymous, shared and huge-page memory. Its image equals
a dump made inside the same pause, while vCPUs write through the nested page tables and disk DMA
through QEMU's. Without write traps the same comparison fails. The guest is restored and goes on.

In Linux 6.1: a guest with one vCPU and anonymous memory. The userfaultfd of this kernel does not
protect memory that was never touched, so the library has to populate it first.
"""

import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.level1.checks import Shot, control, identity, restore, take_snapshots
from support.level1.machine import Level1, Level2
from support.outcome import Report, check
from support.tier import left_to_all
from support.workplace import Workplace

# The guest's kernel uses the node without a vCPU when the others are full.
MIXED = Level2("mixed", cpus=2, memory_mib=160, args=[
    "-object", "memory-backend-ram,id=private,size=56M",
    "-object", "memory-backend-memfd,id=shared,size=56M,share=on",
    "-object", "memory-backend-memfd,id=huge,size=48M,share=on,hugetlb=on,hugetlbsize=2M",
    "-numa", "node,memdev=private,cpus=0", "-numa", "node,memdev=shared,cpus=1",
    "-numa", "node,memdev=huge"])
RESTORED = Level2("restored", cpus=2, memory_mib=160, args=MIXED.args, restore_of="mixed")
ANONYMOUS = Level2("anonymous")
UFFD = Shot("uffd", "uffd")
NONE = Shot("none", "none")
MANNERS = ["background", "guest_write", "dma_write"]


def linux_6_12(report: Report, place: Workplace) -> None:
    machine = report.run("kvm-machine-6.12", lambda: start(place, "linux-6.12",
                                                           "bookworm-backports",
                                                           [MIXED, RESTORED]))
    if machine:
        before = report.run("kvm-snapshots-6.12",
                            lambda: take_snapshots(machine, "mixed", [UFFD, NONE]))
        report.run("kvm-restore-6.12", lambda: restore(machine, "restored", "mixed-uffd", before))
        report.run("kvm-power-off-6.12", machine.power_off)
        report.run("kvm-identity-6.12", lambda: identity(machine, "mixed", UFFD, MANNERS))
        report.run("kvm-control-no-trap-6.12",
                   lambda: control(machine, "mixed", NONE, {"private", "shared", "huge"}))


def linux_6_1(report: Report, place: Workplace) -> None:
    machine = report.run("kvm-machine-6.1", lambda: start(place, "linux-6.1", "bookworm",
                                                          [ANONYMOUS]))
    if machine:
        report.run("kvm-snapshots-6.1",
                   lambda: take_snapshots(machine, "anonymous", [UFFD, NONE]))
        report.run("kvm-power-off-6.1", machine.power_off)
        report.run("kvm-identity-6.1", lambda: identity(machine, "anonymous", UFFD, MANNERS))
        report.run("kvm-control-no-trap-6.1", lambda: control(machine, "anonymous", NONE, {"pc.ram"}))


def start(place: Workplace, name: str, suite: str, plan: list[Level2]) -> Level1:
    machine = Level1(place, name, suite, plan)
    version = machine.wait("kvm .*")
    print(f"# {version}")
    check(f"kvm {name.rpartition('-')[2]}." in version, f"not the kernel wanted: {version}")
    check("npt=Y" in version, f"KVM has no nested paging: {version}")
    return machine


main = Report()
with Workplace() as workplace:
    linux_6_12(main, workplace)
if not left_to_all("Linux 6.1"):
    with Workplace() as workplace:
        linux_6_1(main, workplace)
main.exit()
