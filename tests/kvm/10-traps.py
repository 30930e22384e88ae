#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The patched KVM's write traps as a tiny machine sees them (trap/), in an emulated computer with
AMD's virtualization: guest writes, KVM's own writes, huge pages, changing slots, dirty logging, a
full ring, races, a killed process; with controls in which a trap is left open.

All of it runs with nested paging, with shadow paging, and with nested paging without the TDP MMU.
"""

# timeout: 1800

import re
import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.level1.machine import Level1, Modules, Program
from support.outcome import Report, check
from support.patched import SUITE, modules
from support.paths import BUILD
from support.tier import left_to_all
from support.workplace import Workplace

TRAP_TEST = BUILD / "host" / "tests" / "kvm" / "kvm-trap-test"
RESULT = re.compile(r"^(?:ok |not ok |skip |#).*$", re.MULTILINE)
# Arming's cost is measured, not judged, and concerns only the TDP MMU.
PLAIN = ["--without", "trap-cost-of-arming"]


def plan() -> list[Program | Modules]:
    return [Program("traps", TRAP_TEST, PLAIN if left_to_all("cost of arming") else []),
            Modules("npt=0", kvm_amd="npt=0"), Program("shadow", TRAP_TEST, PLAIN),
            Modules("tdp_mmu=0", kvm="tdp_mmu=0"), Program("no-tdp-mmu", TRAP_TEST, PLAIN)]


def results_of(report: Report, machine: Level1, program: str, prefix: str) -> None:
    """`prefix` tells this run's results from those of the other runs."""
    machine.vm.wait_console(f"level1: end {program} ", timeout=600)
    results = [re.sub(r"^(ok|not ok|skip) ", rf"\1 {prefix}", line)
               for line in RESULT.findall(machine.output_of(program))]
    print("\n".join(results), flush=True)
    report.failed += sum(line.startswith("not ok") for line in results)
    report.run(f"{prefix}traps-all-ran", lambda: check(
        "# all cases ran" in results, "the tests broke off"))


def run(report: Report) -> None:
    with Workplace() as place:
        machine = Level1(place, "traps", SUITE, plan(), modules=modules(), memory_mib=3072)
        version = machine.wait("kvm .*")
        print(f"# {version}")
        check("npt=Y tdp_mmu=Y" in version, f"KVM has no nested paging: {version}")
        results_of(report, machine, "traps", "")
        for parameter, program in (("npt=0", "shadow"), ("tdp_mmu=0", "no-tdp-mmu")):
            version = machine.wait(f"modules {parameter} .*")
            print(f"# {version}")
            report.run(f"{program}-is-what-runs", lambda now=version, wanted=parameter: check(
                wanted.replace("0", "N") in now, f"the parameter has no effect: {now}"))
            results_of(report, machine, program, f"{program}-")
        report.run("traps-kernel-log-is-clean", machine.power_off)


main = Report()
run(main)
main.exit()
