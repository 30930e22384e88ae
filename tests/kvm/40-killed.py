#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU that is killed with its traps armed leaves nothing in KVM: the next VM runs, is not
trapped, and its snapshot is right; the kernel's log is clean.
"""

# timeout: 600


import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.level1.checks import Shot, identity, take_snapshots, wait_writers
from support.level1.machine import BUNDLES, Level1, Level2
from support.outcome import Report
from support.patched import SUITE, modules
from support.workplace import Workplace

WHOLE = Shot("kvm", "kvm")


def kill_while_armed(machine: Level1) -> None:
    with machine.guest("victim") as guest:
        wait_writers(guest)
        guest.qmp.execute("hotsnap-cluster", {
            "job-id": "never", "tag": "never", "directory": BUNDLES, "engine": "kvm",
            "members": [guest.plan.address], "bandwidth": 1})
        guest.reach("full")
        guest.kill_hard()


def run(report: Report) -> None:
    with Workplace() as place:
        machine = Level1(place, "killed", SUITE, modules=modules(),
                         plan=[Level2("victim", cpus=2, killed=True), Level2("next", cpus=2)])
        report.run("engine-kvm-killed-while-armed", lambda: kill_while_armed(machine))
        report.run("engine-kvm-next-vm-runs", lambda: take_snapshots(machine, "next", [WHOLE]))
        report.run("engine-kvm-log-is-clean-after-a-kill", machine.power_off)
        report.run("engine-kvm-next-vm-identity",
                   lambda: identity(machine, "next", WHOLE, ["background", "guest_write", "dma_write"]))


main = Report()
run(main)
main.exit()
