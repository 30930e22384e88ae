#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM with parts that cannot be in a snapshot is refused before anything begins, with one error
that says what to do, and runs on. The VMs of these tests have no guest but their firmware.

The controls at the end are the same VMs without those parts: their snapshots succeed.
"""

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.outcome import Report, Skipped, check, wait_until
from support.paths import BUILD
from support.vm import Vm
from support.workplace import SmallFilesystem, Workplace, img_create
from hotsnap.host.netns import Network, several_queues, tap_netdev
from hotsnap.qemu.qmp import QmpError

BACKEND = BUILD / "qemu" / "contrib" / "vhost-user-blk" / "vhost-user-blk"
SHARED = ["-object", "memory-backend-memfd,id=ram,size=64M,share=on",
          "-machine", "memory-backend=ram"]
MAC = "52:54:00:77:00:01"


def start(place: Workplace, name: str, args: list[str], network: Network | None = None) -> Vm:
    """A member that runs only its firmware."""
    return Vm(place, name, ["-machine", "q35", "-accel", "tcg", "-m", "64,slots=1,maxmem=256M",
                            "-object", "hotsnap-member,id=hs0,"
                            f"name={name},listen=unix:{place.path}/{name}.hs", *args], network=network)


def snapshot(place: Workplace, vms: list[Vm], directory: Path | None = None) -> str | None:
    """Takes a snapshot. Returns its error, or None."""
    folder = directory or place.path / "bundles"
    folder.mkdir(exist_ok=True)
    try:
        return vms[0].job("hotsnap-cluster", {
            "job-id": "snap", "tag": "t", "directory": str(folder),
            "members": [{"name": vm.name, "address": f"unix:{place.path}/{vm.name}.hs"}
                        for vm in vms]}, 60)
    except QmpError as error:
        return error.desc


def refused(place: Workplace, vms: list[Vm], pattern: str, directory: Path | None = None) -> None:
    error = snapshot(place, vms, directory)
    check(error is not None, "it was not refused")
    print(f"# {error}")
    check(re.search(pattern, error), f"the error does not say {pattern!r}: {error}")
    check("\n" not in error.strip(), "it is more than one error")
    for vm in vms:
        check(vm.running(), f"{vm.name} does not run")
        phase = vm.qmp.execute("query-hotsnap")["phase"]
        check(phase in ("idle", "aborted"), f"{vm.name} stays in phase {phase}")
    left = list((directory or place.path / "bundles").iterdir())
    check(not left, f"left behind: {left}")


def vhost_user() -> None:
    if not BACKEND.exists():
        raise Skipped(f"{BACKEND} is not there; scripts/build qemu makes it")
    with Workplace() as place:
        disk, socket = place.path / "disk.raw", place.path / "blk.sock"
        img_create(disk, "16M", image_format="raw")
        backend = subprocess.Popen([str(BACKEND), f"--socket-path={socket}", f"--blk-file={disk}"])
        try:
            wait_until(socket.exists, "the backend does not listen")
            vm = start(place, "x", [*SHARED, "-chardev", f"socket,id=blk,path={socket}",
                                    "-device", "vhost-user-blk-pci,chardev=blk"])
            refused(place, [vm], r"'vhost-user-blk.*use a device that QEMU emulates itself")
            check(backend.poll() is None, "the backend has ended")
        finally:
            backend.kill()
            backend.wait()


def two_queues(place: Workplace, more: list[str]) -> Vm:
    return start(place, "x", ["-netdev", tap_netdev("net0", "mq0", 2), "-device",
                              f"virtio-net-pci,netdev=net0,romfile={several_queues(2)}", *more],
                 place.network([]))


def queues_without_mediator() -> None:
    with Workplace() as place:
        refused(place, [two_queues(place, [])], "has no packet mediator")


def queues_are_not_refused() -> None:
    with Workplace() as place:
        error = snapshot(place, [two_queues(place, ["-object", "filter-hotsnap,id=med0,"
                                                    "netdev=net0,member=hs0"])])
        check(error is None, f"a NIC with a mediator is refused, too: {error}")


def vhost_net() -> None:
    if not Path("/dev/vhost-net").exists():
        raise Skipped("this host's kernel has no vhost-net: there is no /dev/vhost-net")
    with Workplace() as place:
        vm = start(place, "x", ["-netdev", tap_netdev("net0", "tap0").replace("=off", "=on"),
                                "-device", "virtio-net-pci,netdev=net0,romfile="],
                   place.network(["tap0"]))
        refused(place, [vm], "vhost.*vhost=off")


def vfio() -> None:
    bound = sorted(Path("/sys/bus/pci/drivers/vfio-pci").glob("*:*:*.*"))
    if not bound:
        iommus = list(Path("/sys/class/iommu").glob("*"))
        raise Skipped("no PCI device is bound to vfio-pci"
                      + ("" if iommus else ", and none can be: this host has no IOMMU"))
    with Workplace() as place:
        vm = start(place, "x", ["-device", f"vfio-pci,host={bound[0].name}"])
        refused(place, [vm], "(?i)vfio|migrat")


def virtio_mem() -> None:
    with Workplace() as place:
        vm = start(place, "x", ["-object", "memory-backend-ram,id=more,size=64M", "-device",
                                "virtio-mem-pci,id=mem0,memdev=more,requested-size=0"])
        refused(place, [vm], "discarding guest memory.*virtio-mem.*remove the device")
        refused(place, [vm], "virtio-mem")  # nothing is left of the first attempt


def two_nics(place: Workplace, first: str, second: str) -> list[Vm]:
    network = place.network(["tap0", "tap1"])
    return [start(place, name, ["-netdev", tap_netdev("net0", f"tap{index}"),
                                "-device", f"virtio-net-pci,netdev=net0,mac={mac},romfile=",
                                "-object", "filter-hotsnap,id=med0,netdev=net0,member=hs0"],
                  network)
            for index, (name, mac) in enumerate((("a", first), ("b", second)))]


def same_mac() -> None:
    with Workplace() as place:
        refused(place, two_nics(place, MAC, MAC),
                f"'a' and member 'b' both have the MAC {MAC}; give each NIC its own")


def read_only_folder() -> None:
    with Workplace() as place:
        vm = start(place, "x", [])
        with SmallFilesystem(place, 1, "ro") as folder:
            refused(place, [vm], "Cannot create folder .*Read-only file system; choose a directory "
                    "that exists and that QEMU can write to", folder)


def shared_memory_is_not_refused() -> None:
    with Workplace() as place:
        error = snapshot(place, [start(place, "x", SHARED)])
        check(error is None, f"a VM without the device is refused, too: {error}")


def other_mac_is_not_refused() -> None:
    with Workplace() as place:
        error = snapshot(place, two_nics(place, MAC, MAC[:-1] + "2"))
        check(error is None, f"NICs with MACs of their own are refused, too: {error}")


main = Report()
for function in (vhost_user, queues_without_mediator, vhost_net, vfio, virtio_mem, same_mac,
                 read_only_folder):
    main.run(f"refused-{function.__name__.replace('_', '-')}", function)
main.run("control-shared-memory", shared_memory_is_not_refused)
main.run("control-two-macs", other_mac_is_not_refused)
main.run("control-queues", queues_are_not_refused)
main.exit()
