#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian boots on the patched KVM, in an emulated computer: kernel, initial RAM disk, the userland
of the test guests with memcached. It boots once without a snapshot, and once with a snapshot that
begins meanwhile: the image is the memory of that pause, and the guest comes up all the same.
"""

# timeout: 900

import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.level1.checks import WRITES, Shot, identity
from support.level1.machine import DebianLevel2, Guest, Level1
from support.outcome import Report, check, wait_until
from support.patched import SUITE, modules
from support.workplace import Workplace

IDLE = DebianLevel2("idle", role="cache")
ARMED = DebianLevel2("armed", role="cache", memory_mib=192)
WHOLE = Shot("kvm", "kvm")
READY = "hotsnap-guest: ready {}"
BOOT_TIMEOUT = 240
# The guest has read that much of its disk when its init has begun: about a third of all it reads.
UNDER_WAY = 3 << 20


def bytes_read(guest: Guest) -> int:
    return sum(disk["stats"]["rd_bytes"] for disk in guest.qmp.execute("query-blockstats"))


def comes_up(guest: Guest) -> None:
    guest.wait_console(READY.format(guest.name), BOOT_TIMEOUT)
    print(f"# {guest.name}: {bytes_read(guest) >> 20} MiB read from the disk")
    check("hotsnap-guest: fail" not in guest.text(), f"it has failed: {guest.text()[-500:]!r}")
    check(guest.running(), f"{guest.name} does not run")


def boot_idle(machine: Level1) -> None:
    with machine.guest("idle") as guest:
        comes_up(guest)


def limit_reading(guest: Guest, rate: int) -> None:
    """Limits reads of the guest's disk, in bytes a second; 0: no limit."""
    guest.qmp.execute("block_set_io_throttle", {
        "device": "load", "bps": 0, "bps_rd": rate, "bps_wr": 0,
        "iops": 0, "iops_rd": 0, "iops_wr": 0})


def boot_armed(machine: Level1) -> None:
    with machine.guest("armed") as guest:
        wait_until(lambda: bytes_read(guest) >= UNDER_WAY,
                   lambda: f"it does not boot: {guest.text()[-500:]!r}", BOOT_TIMEOUT)
        limit_reading(guest, 4096)  # until its memory is trapped
        check(READY.format("armed") not in guest.text(), "it has booted already")

        def meanwhile() -> None:
            guest.reach("full")
            limit_reading(guest, 0)
            comes_up(guest)
            check(guest.phase() == "full", "the copy had ended before the guest was up")
            guest.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})

        guest.snapshot("armed-kvm", meanwhile, **{**WHOLE.arguments, "bandwidth": 1 << 17})


def run(report: Report) -> None:
    with Workplace() as place:
        machine = Level1(place, "debian", SUITE, [IDLE, ARMED], modules=modules())
        print(f"# {machine.wait('kvm .*')}")
        report.run("debian-boots-modules-idle", lambda: boot_idle(machine))
        report.run("debian-boots-while-armed", lambda: boot_armed(machine))
        report.run("debian-power-off", machine.power_off)
        report.run("debian-identity", lambda: identity(
            machine, "armed", WHOLE, ["background", *WRITES]))


main = Report()
run(main)
main.exit()
