#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Actions of an operator or a guest while the copy of a snapshot runs: another limit, hot-plug of
memory, removal of a packet filter, a balloon. Each is refused, or does no harm.
"""

# waits: for copies that are slowed down

import re
import sys
import time
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster
from support.identity import must_be_identical
from support.image import Image, compare
from support.outcome import Failed, Report, check, wait_until
from support.unharmed import SLOW, refused, settle, start, unharmed
from support.workplace import Workplace
from hotsnap.qemu.qmp import QmpError

MIB = 1 << 20
SOLO = [("solo", "writer", {
    "memory": "256,slots=2,maxmem=1G", "disktag": True,
    "append": "hs.writer.mib=64 hs.writer.rate=500 hs.writer.disk=20 memhp_default_state=online"})]


def must_fail(cluster: Cluster, pattern: str, command: str, arguments: dict) -> None:
    try:
        cluster["solo"].vm.qmp.execute(command, arguments)
    except QmpError as error:
        print(f"# {error}")
        check(re.search(pattern, error.desc), f"the error does not say {pattern!r}: {error}")
    else:
        raise Failed(f"{command} was not refused")


def hurry(cluster: Cluster, tag: str) -> None:
    """Lifts the limit of a slow snapshot and waits for its end."""
    solo = cluster["solo"].vm
    solo.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})
    error = solo.wait_job(f"snap-{tag}")
    check(error is None, f"snapshot {tag}: {error}")


def bandwidth(cluster: Cluster) -> None:
    """A limit under which the copy would take a minute is lifted: the copy ends in seconds."""
    solo = cluster["solo"].vm
    must_fail(cluster, "No snapshot is in progress.*'bandwidth' of hotsnap-cluster",
              "hotsnap-set-bandwidth", {"bandwidth": 0})
    tag = start(cluster)
    solo.reach("full")

    def limit() -> int:
        return solo.qmp.execute("query-hotsnap")["snapshot"]["bandwidth"]

    check(limit() == SLOW["bandwidth"], f"the limit is {limit()}")
    time.sleep(2)
    info = solo.qmp.execute("query-hotsnap")["snapshot"]
    check(info["bytes-done"] < info["bytes-total"], f"the limit is not kept: {info}")
    began = time.monotonic()
    hurry(cluster, tag)
    check(limit() == 0, f"the limit is {limit()}")
    took, left = time.monotonic() - began, info["bytes-total"] - info["bytes-done"]
    print(f"# {left / MIB:.0f} MiB were left, and took {took:.1f} s without the limit")
    check(took < left / SLOW["bandwidth"] / 3, f"it took {took:.1f} s")
    manifest = cluster.snapshot("unlimited")
    check(manifest["members"][0]["memory"]["copy_us"] < 40e6, "the next one has the old limit")


def filter_stays(cluster: Cluster) -> None:
    """Without its filter the NIC's frames would have no color."""
    solo = cluster["solo"].vm
    status = {"path": "/objects/med0", "property": "status"}
    tag = start(cluster)
    solo.reach("full")
    must_fail(cluster, "in use", "object-del", {"id": "med0"})
    must_fail(cluster, "not allowed during a cluster snapshot", "qom-set",
              {**status, "value": "off"})
    check(solo.qmp.execute("qom-get", status) == "on", "it was turned off")
    solo.qmp.execute("job-cancel", {"id": f"snap-{tag}"})
    solo.wait_job(f"snap-{tag}")
    unharmed(cluster, tag)
    # Afterwards all of these are allowed, and snapshots are refused while they last.
    solo.qmp.execute("qom-set", {**status, "value": "off"})
    refused(cluster, "no packet mediator")
    solo.qmp.execute("qom-set", {**status, "value": "on"})
    cluster.snapshot("turned-on")
    solo.qmp.execute("object-del", {"id": "med0"})
    refused(cluster, "no packet mediator")
    solo.qmp.execute("object-add", {"qom-type": "filter-hotsnap", "id": "med0",
                                    "netdev": "net0", "member": "hs0"})
    cluster.snapshot("made-anew")


def memory_plugged(cluster: Cluster) -> None:
    """Hot-plug of memory is refused while a snapshot runs. Afterwards it is allowed, and the next
    snapshot holds the memory."""
    solo = cluster["solo"].vm
    dimm = {"driver": "pc-dimm", "id": "dimm1", "memdev": "more"}
    solo.qmp.execute("object-add", {"qom-type": "memory-backend-ram", "id": "more",
                                    "size": 128 * MIB})
    tag = start(cluster)
    solo.reach("full")
    must_fail(cluster, "device_add is not allowed during a cluster snapshot", "device_add", dimm)
    hurry(cluster, tag)
    with Image(cluster.bundles / tag / "solo" / "state") as image:
        check("more" not in image.blocks, f"it is in the image: {sorted(image.blocks)}")
    settle(cluster)
    solo.qmp.execute("device_add", dimm)
    time.sleep(5)  # the guest takes it into use
    folder = cluster.bundles / "plugged" / "solo"
    cluster.snapshot("plugged", x_dump=True, bandwidth=64 * MIB)
    with Image(folder / "state") as image, Image(folder / "state.dump") as dump:
        check("more" in image.blocks, f"it is not in the image: {sorted(image.blocks)}")
        more = image.blocks["more"]
        check(more.length == 128 * MIB, f"the image holds {more.length} bytes of it")
        print(f"# {more.present_count()} pages of it were in use")
        differing = compare(image, dump)
        check(not differing, f"{len(differing)} pages differ")


def resident(cluster: Cluster) -> int:
    """Bytes of QEMU's anonymous memory, most of which is the guest's."""
    status = Path(f"/proc/{cluster['solo'].vm.process.pid}/status").read_text()
    return 1024 * int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.M).group(1))


def inflate(cluster: Cluster, mib: int) -> None:
    """Inflates the balloon until the guest has `mib` of its memory left."""
    qmp = cluster["solo"].vm.qmp
    qmp.execute("balloon", {"value": mib * MIB})
    wait_until(lambda: qmp.execute("query-balloon")["actual"] <= mib * MIB,
               "the balloon is not inflated")


def balloon() -> None:
    """A page that the balloon takes must be in the image as it was at the cut. The control, before
    the snapshot: the balloon does take memory away from QEMU."""
    def before(cluster: Cluster) -> None:
        whole = resident(cluster)
        inflate(cluster, 448)
        taken = whole - resident(cluster)
        print(f"# before the snapshot the balloon took {taken / MIB:.0f} MiB")
        check(taken > 32 * MIB, f"the balloon took {taken / MIB:.0f} MiB of 64")

    def meanwhile(cluster: Cluster) -> None:
        solo = cluster["solo"].vm
        solo.reach("full")
        whole = resident(cluster)
        inflate(cluster, 320)
        taken = whole - resident(cluster)
        now = solo.qmp.execute("query-hotsnap")
        check(now["phase"] == "full", f"the copy had ended, phase {now['phase']}")
        left = now["snapshot"]["bytes-total"] - now["snapshot"]["bytes-done"]
        print(f"# while the copy ran it took {taken / MIB:.0f} MiB; {left / MIB:.0f} are to copy")
        check(taken < 32 * MIB, f"{taken / MIB:.0f} MiB were taken while the copy ran")

    # The limit keeps the copy going for more than a minute, in which the balloon is inflated.
    must_be_identical("balloon", {
        "memory": "512", "memory_args": ["-object", "memory-backend-ram,id=ram,size=512M,prealloc=on",
                                         "-machine", "memory-backend=ram"],
        "append": "hs.writer.mib=96 hs.writer.rate=500 hs.writer.disk=50",
        "args": ["-device", "virtio-balloon-pci"]},
        before=before, meanwhile=meanwhile)


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, SOLO)
        cluster.up()
        cluster["solo"].vm.wait_console(r"writer solo pages=[1-9]")
        report.run("bandwidth-changed-meanwhile", lambda: bandwidth(cluster))
        report.run("filter-stays-meanwhile", lambda: filter_stays(cluster))
        report.run("memory-not-plugged-meanwhile", lambda: memory_plugged(cluster))


main = Report()
run(main)
main.run("balloon-inflated-meanwhile", balloon)
main.exit()
