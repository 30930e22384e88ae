#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two members with engine kvm, on the patched KVM. They are saved as one instant while they talk to
each other, then brought back; the same once more, with a snapshot by the other initiator.
"""

# timeout: 900

import sys
from types import SimpleNamespace

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cutcheck import check_bundle
from support.level1.checks import wait_writers
from support.level1.machine import BUNDLES, Guest, Level1, Level2
from support.outcome import Report, check
from support.patched import SUITE, modules
from support.paths import QEMU_IMG
from support.workplace import Workplace


def member(name: str, index: int, restore_of: str = "") -> Level2:
    own = restore_of or name
    peer = {"a": "b:10.77.0.2", "b": "a:10.77.0.1"}[own]
    wire = "server=on" if index == 0 else "server=off,reconnect-ms=200"
    return Level2(name, port=index, restore_of=restore_of, buffer_mib=16,
                  append=f"hs.name={own} hs.ip=10.77.0.{index + 1} hs.peer={peer}",
                  args=["-netdev", f"stream,id=net0,{wire},addr.type=unix,addr.path=/run/wire.sock",
                        "-device", "virtio-net-pci,netdev=net0,romfile=,"
                                   f"mac=52:54:00:77:00:0{index + 1}",
                        "-object", "filter-hotsnap,id=med0,netdev=net0,member=hs0"])


def pair(a: Guest, b: Guest) -> SimpleNamespace:
    return SimpleNamespace(members=[SimpleNamespace(name="a", vm=a),
                                    SimpleNamespace(name="b", vm=b)])


def talk_on(a: Guest, b: Guest, before: Chatter | None = None) -> Chatter:
    """Messages flow both ways, none is missing, no connection was made anew."""
    last = Chatter.wait_flow(pair(a, b))
    last.must_be_unharmed(before)
    return last


def save(machine: Level1) -> Chatter:
    with machine.guest("a") as a, machine.guest("b") as b:
        members = [a.plan.address, b.plan.address]
        for guest in (a, b):
            wait_writers(guest)
        talk_on(a, b)
        a.snapshot("pair", members=members, engine="kvm")
        b.reach("committed")
        b.snapshot("again", members=members, engine="kvm")
        check(b.running(), "b does not run")
        return talk_on(a, b)


def bring_back(machine: Level1, names: tuple[str, str], tag: str) -> None:
    with machine.guest(names[0]) as a, machine.guest(names[1]) as b:
        a.restore(tag, members=[a.plan.address, b.plan.address])
        check(b.running(), "b does not run")
        talk_on(a, b)


def consistent(machine: Level1, tag: str) -> None:
    bundle = machine.take_out_folder(f"{BUNDLES}/{tag}", machine.folder / "out")
    result = check_bundle(bundle, str(QEMU_IMG))
    print(f"# {tag}: orphans={result.orphans} in_flight={result.in_flight} lost={result.lost}")
    check(result.consistent, "; ".join(result.problems) or f"{result.orphans} orphans")
    check(len(result.pairs) == 4, f"{len(result.pairs)} pairs were compared, not 4")


def run(report: Report) -> None:
    with Workplace() as place:
        machine = Level1(place, "cluster", SUITE, modules=modules(), plan=[
            [member("a", 0), member("b", 1)],
            [member("a2", 0, "a"), member("b2", 1, "b")],
            [member("a3", 0, "a"), member("b3", 1, "b")]])
        report.run("engine-kvm-cluster-snapshots", lambda: save(machine))
        report.run("engine-kvm-cluster-restore", lambda: bring_back(machine, ("a2", "b2"), "pair"))
        report.run("engine-kvm-cluster-restore-other",
                   lambda: bring_back(machine, ("a3", "b3"), "again"))
        report.run("engine-kvm-cluster-power-off", machine.power_off)
        report.run("engine-kvm-cluster-consistent-cut", lambda: consistent(machine, "pair"))
        report.run("engine-kvm-cluster-consistent-cut-other",
                   lambda: consistent(machine, "again"))


main = Report()
run(main)
main.exit()
