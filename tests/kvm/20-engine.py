#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots with engine kvm, by the fork on the patched KVM, in an emulated computer.

The image is the memory of the pause, while vCPUs write, disk and network write by DMA, and KVM
writes by itself. This holds with one vCPU and with two, with memory and with devices of several
kinds. It does not hold with any one of the three traps left open. A guest is restored.
"""

# timeout: 1200

import re
import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.level1.checks import WRITES, Shot, control, identity, restore, take_snapshots
from support.level1.machine import Level1, Level2
from support.outcome import Report, check
from support.patched import SUITE, modules
from support.tier import left_to_all
from support.workplace import Workplace

# A virtual network card, with an address to ping.
NIC = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile=",
       "-object", "filter-hotsnap,id=med0,netdev=net0,member=hs0"]
E1000 = [word.replace("virtio-net-pci", "e1000") for word in NIC]
PINGED = "hs.ip=10.0.2.15 hs.ping=10.0.2.2"
ONE = Level2("one", args=NIC, append=PINGED)
TWO = Level2("two", cpus=2, buffer_mib=24, append=PINGED, args=[
    *NIC, "-object", "memory-backend-ram,id=private,size=56M",
    "-object", "memory-backend-memfd,id=shared,size=56M,share=on",
    "-object", "memory-backend-memfd,id=huge,size=48M,share=on,hugetlb=on,hugetlbsize=2M",
    "-numa", "node,memdev=private,cpus=0", "-numa", "node,memdev=shared,cpus=1",
    "-numa", "node,memdev=huge"])
# Devices that know nothing of virtio: their rings, descriptors and data are all plain DMA.
IDE = Level2("ide", append=PINGED, disk_device="ide-hd,bus=ide.0", args=E1000,
             drivers=["ata_piix", "sd_mod", "e1000"])
AHCI = Level2("ahci", append=PINGED, disk_device="ide-hd,bus=ahci.0",
              args=[*E1000, "-device", "ich9-ahci,id=ahci"], drivers=["ahci", "sd_mod", "e1000"])
RESTORED = Level2("restored", args=NIC, append=PINGED, restore_of="one")

WHOLE = Shot("kvm", "kvm")
AUTO = Shot("auto", "auto")
OPEN = {trap: Shot(f"no-{trap}", "kvm", trap) for trap in ("guest", "kvm", "dma")}
MANNERS = ["background", *WRITES, "neighbors"]


def engine_of_auto(machine: Level1) -> None:
    manifest = machine.take_out("/bundles/one-auto/manifest.json", machine.folder / "auto")
    check(re.search(r'"engine": "kvm"', manifest.read_text()), "auto does not take engine kvm")


def run(report: Report) -> None:
    with Workplace() as place:
        others = [IDE] if left_to_all("ahci-e1000") else [IDE, AHCI]
        machine = Level1(place, "engine", SUITE, [ONE, RESTORED, TWO, *others],
                         modules=modules())
        version = machine.wait("kvm .*")
        print(f"# {version}")
        check("npt=Y" in version, f"KVM has no nested paging: {version}")
        before = report.run("engine-kvm-snapshots-1-vcpu", lambda: take_snapshots(
            machine, "one", [WHOLE, *OPEN.values(), AUTO]))
        report.run("engine-kvm-restore", lambda: restore(machine, "restored", "one-kvm", before))
        report.run("engine-kvm-snapshots-2-vcpus",
                   lambda: take_snapshots(machine, "two", [WHOLE]))
        for plan in others:
            report.run(f"engine-kvm-snapshot-{plan.name}-e1000",
                       lambda plan=plan: take_snapshots(machine, plan.name, [WHOLE]))
        report.run("engine-kvm-power-off", machine.power_off)
        report.run("engine-kvm-identity-1-vcpu",
                   lambda: identity(machine, "one", WHOLE, MANNERS))
        report.run("engine-kvm-identity-2-vcpus",
                   lambda: identity(machine, "two", WHOLE, MANNERS))
        for plan in others:
            report.run(f"engine-kvm-identity-{plan.name}-e1000",
                       lambda plan=plan: identity(machine, plan.name, WHOLE, MANNERS))
        for trap, shot in OPEN.items():
            report.run(f"engine-kvm-control-{trap}-trap-open",
                       lambda trap=trap, shot=shot: control(
                           machine, "one", shot, {"pc.ram"},
                           {"background", *WRITES} - {f"{trap}_write"}))
        report.run("engine-kvm-is-auto", lambda: engine_of_auto(machine))


main = Report()
run(main)
main.exit()
