#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The patched KVM's write traps from a tiny machine's view (trap/), in an emulated computer with
AMD's virtualization: guest writes, KVM's own writes, huge pages, changing slots, dirty logging, a
full ring, races, a killed process; with controls in which a trap is left open.
"""

import re

from patched import SUITE, modules  # first: it says where the rest is
from harness import BUILD, Report, Workplace, check
from level1.machine import Level1, Program

TRAP_TEST = BUILD / "host" / "tests" / "kvm" / "kvm-trap-test"
RESULT = re.compile(r"^(?:ok |not ok |skip |#).*$", re.MULTILINE)


def run(report: Report) -> None:
    with Workplace() as place:
        machine = Level1(place, "traps", SUITE, [Program("traps", TRAP_TEST)],
                         modules=modules(), memory_mib=3072)
        version = machine.wait("kvm .*")
        print(f"# {version}")
        check("npt=Y" in version, f"KVM has no nested paging: {version}")
        machine.vm.wait_console("level1: end traps", timeout=400)
        results = RESULT.findall(machine.output_of("traps"))
        print("\n".join(results), flush=True)
        report.failed += sum(line.startswith("not ok") for line in results)
        report.run("traps-all-ran", lambda: check(
            any("control-no-kvm-trap" in line for line in results), "the tests broke off"))
        report.run("traps-kernel-log-is-clean", machine.power_off)


main = Report()
run(main)
main.exit()
