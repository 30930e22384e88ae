#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU that was built without the series loads the memory image, and the guest goes on from the
instant of the cut: its counters go on from their values in the image."""

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster
from support.outcome import Report, Skipped, check, wait_until
from support.paths import QEMU, STOCK
from support.vm import Vm
from support.workplace import Workplace, img_create

DISK_TAG = r"disktag solo issued=(\d+) completed=\d+\s*\n"


def stock_arguments(arguments: list[str], overlays: dict[str, Path]) -> list[str]:
    """The member's command line without the options that stock QEMU does not know."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "-object":
            value = next(words)
            if not value.startswith(("hotsnap-member", "filter-hotsnap")):
                kept += [word, value]
        elif word in ("-qmp", "-serial", "-display", "-L", "-name"):
            next(words)
        elif word == "-nodefaults":
            pass
        elif word == "-drive":
            value = next(words)
            serial = re.search(r"id=([^,]+)", value).group(1)
            kept += [word, re.sub(r"file=[^,]+,format=[^,]+",
                                  f"file={overlays[serial]},format=qcow2", value)]
        else:
            kept.append(word)
    return kept


def loaded(vm: Vm) -> bool:
    status = vm.qmp.execute("query-migrate").get("status")
    check(status != "failed" and not vm.ended(),
          f"it does not load: {vm.messages.read_text()}")
    return status == "completed"


def load_in_stock() -> None:
    if not STOCK.exists():
        raise Skipped("there is no QEMU without the series; scripts/build stock makes it")
    objects = subprocess.run([str(STOCK), "-object", "help"], capture_output=True, text=True,
                             check=True).stdout
    check("hotsnap" not in objects, f"{STOCK} is not without the series")
    check("hotsnap" in subprocess.run([str(QEMU), "-object", "help"], capture_output=True,
                                      text=True, check=True).stdout, f"{QEMU} lacks the series")
    with Workplace() as place:
        cluster = Cluster(place, [("solo", "writer", {
            "append": "hs.writer.mib=64 hs.writer.rate=0 hs.writer.disk=20", "disktag": True})])
        cluster.up()
        solo = cluster["solo"].vm
        solo.wait_console(r"writer solo pages=[1-9]")
        solo.wait_console(DISK_TAG)
        manifest = cluster.snapshot("t")
        issued = [int(n) for n in re.findall(DISK_TAG, solo.text())]
        arguments = solo.args[1:]
        solo.kill()

        overlays = {disk["device"]: img_create(place.path / f"stock-{disk['device']}.qcow2",
                                               backing=Path(disk["file"]),
                                               backing_format=disk["format"])
                    for disk in manifest["members"][0]["disks"]}
        stock = Vm(place, "stock", stock_arguments(arguments, overlays) +
                   ["-incoming", "defer", "-S"], qemu=STOCK, network=cluster.network)
        stock.qmp.execute("migrate-set-capabilities", {
            "capabilities": [{"capability": "mapped-ram", "state": True}]})
        stock.qmp.execute("migrate-incoming", {"uri": f"file:{cluster.bundles}/t/solo/state"})
        wait_until(lambda: loaded(stock), "it does not load")
        check(not stock.messages.read_text().strip(), stock.messages.read_text())
        stock.qmp.execute("cont")
        wait_until(lambda: len(re.findall(DISK_TAG, stock.text())) > 1, "its disk takes no writes")
        after = [int(n) for n in re.findall(DISK_TAG, stock.text())]
        check(after[0] > issued[0] and after[-1] > after[0],
              f"counters do not go on: before {issued[-3:]}, after {after[:3]}")
        check("fail" not in stock.text(), stock.text())


main = Report()
main.run("stock-qemu-loads-the-image", load_in_stock)
main.exit()
