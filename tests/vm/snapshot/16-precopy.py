#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Mode precopy: the image, most of which was copied before the cut while the guest wrote, equals
page for page a plain dump made inside the pause.

Also when the guest writes faster than the copy: then the job says so and does not wait. A cancel
in the middle of it leaves nothing. Without write traps the same comparison must fail.
"""

import json
import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster
from support.image import Image, compare
from support.outcome import Report, check, wait_until
from support.unharmed import unharmed
from support.workplace import Workplace
from hotsnap.qemu.qmp import QmpError

LOAD = "hs.writer.mib={mib} hs.writer.rate={rate} hs.writer.disk=50 init_on_alloc=0"
MEMFD = {"memory_args": ["-object", "memory-backend-memfd,id=ram,size=256M,share=on",
                         "-machine", "memory-backend=ram"]}
SLOW = 16 << 20  # bytes a second: the writer is faster
PHASES = ["prepare", "precopy", "install", "arm", "snapshot", "transient-fin", "full", "publish",
          "committed"]


def one(place: Workplace, mib: int, rate: int, options: dict) -> Cluster:
    cluster = Cluster(place, [("solo", "writer", {
        "append": LOAD.format(mib=mib, rate=rate), "disktag": True, **options})])
    cluster.up()
    cluster["solo"].vm.wait_console(r"writer solo pages=[1-9]")
    return cluster


def saved(cluster: Cluster, tag: str) -> tuple[int, dict]:
    """Pages that differ from the dump, and the member's part of the manifest."""
    folder = cluster.bundles / tag
    member = json.loads((folder / "manifest.json").read_text())["members"][0]
    with Image(folder / "solo" / "state") as image, Image(folder / "solo" / "state.dump") as dump:
        differing = len(compare(image, dump))
    memory = member["memory"]
    pauses = {step["name"]: step["us"] for step in member["pause"]["steps"]}
    rounds = {key: memory[f"precopy_{key}"] for key in ("rounds", "pages", "us", "written",
                                                        "converged")}
    print(f"# {tag}: {rounds}, pages {memory['pages']}, pause without the dump "
          f"{sum(us for name, us in pauses.items() if name != 'dump') / 1e3:.1f} ms")
    return differing, member


def identity(cluster: Cluster) -> None:
    vm = cluster["solo"].vm
    cluster.snapshot("whole", mode="precopy", x_dump=True)
    told = vm.phases("whole")
    check(told == PHASES, f"the phases are {told}")
    differing, member = saved(cluster, "whole")
    check(differing == 0, f"{differing} pages differ")
    pages = member["memory"]["pages"]
    check(pages["precopy"] > pages["total"] // 2, f"{pages}: hardly any was copied before the cut")
    check(pages["precopy"] < pages["total"], "the guest wrote nothing: nothing was proved")
    check(pages["total"] == sum(pages[key] for key in (
        "precopy", "background", "guest_write", "dma_write", "kvm_write")), f"{pages}")


def too_fast(cluster: Cluster) -> None:
    vm = cluster["solo"].vm
    cluster.begin_snapshot("fast", mode="precopy", x_dump=True, bandwidth=SLOW)
    warning = vm.qmp.wait_event("HOTSNAP_WARNING", 120, {"tag": "fast"})["data"]["message"]
    print(f"# {warning}")
    check("member 'solo' writes to its memory faster than it is copied" in warning, warning)
    vm.reach("full", "committed")
    try:
        vm.qmp.execute("hotsnap-set-bandwidth", {"bandwidth": 0})
    except QmpError as error:  # the snapshot has ended
        print(f"# {error}")
    error = vm.wait_job("snap-fast")
    check(error is None, f"snapshot: {error}")
    differing, member = saved(cluster, "fast")
    check(differing == 0, f"{differing} pages differ")
    check(member["memory"]["precopy_converged"] == 0, "it converged")
    check(member["memory"]["pages"]["precopy"] > 0, "nothing was copied before the cut")


def cancelled(cluster: Cluster) -> None:
    vm = cluster["solo"].vm
    cluster.begin_snapshot("gone", mode="precopy", bandwidth=1 << 20)
    vm.reach("precopy")
    wait_until(lambda: vm.qmp.execute("query-hotsnap")["snapshot"]["pages"]["precopy"] > 0,
               "nothing is copied")
    vm.qmp.execute("job-cancel", {"id": "snap-gone"})
    error = vm.wait_job("snap-gone")
    check(error == "cancelled: by the user", f"the job's error: {error}")
    unharmed(cluster, "gone")


def refused(cluster: Cluster) -> None:
    for arguments, said in (({"engine": "kvm"}, "cannot copy memory before the cut"),
                            ({"content": "disks"}, "copies no memory")):
        try:
            cluster.begin_snapshot("no", mode="precopy", **arguments)
        except QmpError as error:
            print(f"# {error}")
            check(said in str(error), f"{error}")
        else:
            check(False, f"{arguments} were taken")
    check(not list(cluster.bundles.glob("no*")), "something is left")


def control(cluster: Cluster) -> None:
    cluster.snapshot("torn", mode="precopy", engine="none", x_dump=True)
    differing, _ = saved(cluster, "torn")
    check(differing > 0, "without write traps the images are identical: the checker sees nothing")
    print(f"# without traps {differing} pages differ")


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = one(place, 96, 2000, {})
        report.run("identity", lambda: identity(cluster))
        report.run("refused", lambda: refused(cluster))
        report.run("control-no-trap", lambda: control(cluster))
    with Workplace() as place:
        cluster = one(place, 16, 0, MEMFD)
        report.run("does-not-converge", lambda: too_fast(cluster))
        report.run("cancel", lambda: cancelled(cluster))


main = Report()
run(main)
main.exit()
