#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is loaded on demand: it is the image's, byte by byte; the guest runs meanwhile; what
would harm the load waits or is refused; damage stops the VM, is never seen, and can be mended.
"""

import json
import re
import sys
import time

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.image import Image, compare
from support.lazy import (TRICKLE, complete, differing, flipped, load_of, offset_in, set_bandwidth,
                          truncated, writers_pages)
from support.outcome import Failed, Report, check, wait_until
from support.solo import MIB, SIZE, Solo
from support.tier import left_to_all
from support.workplace import HugePages, Workplace
from hotsnap.qemu.qmp import QmpError, QmpTimeout

def identical(solo: Solo) -> None:
    """Every page by a fault of QEMU's main loop, and then again in the image of a new snapshot."""
    solo.restore("still", bandwidth=TRICKLE)
    found = load_of(solo.vm)
    check(found["state"] == "loading" and found["remaining"] > SIZE // 4096 // 4,
          f"there is nothing left to load: {found}")
    wrong = differing(solo.vm, solo.image("still"), solo.folder, SIZE)
    check(not wrong, f"{len(wrong)} pages differ, the first at {wrong[:3]}")
    found = complete(solo.vm)
    print(f"# {json.dumps(found)}")
    check(found["demand-device"] > found["background"], "the pages did not come by faults")
    solo.cluster.snapshot("again")
    with Image(solo.image("still")) as one, Image(solo.image("again")) as two:
        pages = compare(one, two)
    check(not pages, f"{len(pages)} pages differ after a snapshot: {pages[:3]}")


def in_the_background(solo: Solo) -> None:
    """The same without a fault, but those of loading the devices."""
    solo.restore("still")
    found = complete(solo.vm)
    check(found["background"] > found["demand-device"], f"not in the background: {found}")
    wrong = differing(solo.vm, solo.image("still"), solo.folder, SIZE)
    check(not wrong, f"{len(wrong)} pages differ, the first at {wrong[:3]}")


def control(solo: Solo) -> None:
    """A guest that ran for a moment has other memory: the comparison sees that."""
    solo.vm.qmp.execute("cont")
    time.sleep(1)
    solo.vm.qmp.execute("stop")
    check(differing(solo.vm, solo.image("still"), solo.folder, SIZE),
          "the memory of a guest that ran is that of its image")


def runs_meanwhile(solo: Solo) -> None:
    """The guest works on memory and disk while most of its memory is absent."""
    begin = time.monotonic()
    solo.restore("live", bandwidth=1 << 20)
    print(f"# started and restored in {time.monotonic() - begin:.2f} s")
    solo.goes_on()
    found = load_of(solo.vm)
    print(f"# after three lines: {json.dumps(found)}")
    check(found["state"] == "loading" and found["remaining"] > 1000, f"all is loaded: {found}")
    check(found["demand-guest"] > 0 and found["faults"] > 0, f"no fault of a vCPU: {found}")
    complete(solo.vm)
    solo.goes_on()
    event = solo.vm.qmp.wait_event("HOTSNAP_MEMORY_LOAD", 10)
    check(event["data"] == {"state": "complete"}, f"told {event}")
    solo.cluster.snapshot("after")
    with Image(solo.image("after")) as image:
        whole, torn = writers_pages(image)
    print(f"# {whole} pages of the writer are whole, {torn} are not")
    check(whole > 4000 and torn <= 1, "the writer's pages are torn")  # it may be writing to one


def meanwhile(solo: Solo) -> None:
    """Migration, hot-plug and another restore are refused; a dump loads what it reads; a snapshot
    waits for the end of the load, and hurries it."""
    solo.restore("still", bandwidth=TRICKLE)
    refused = "not allowed while the memory|being loaded"
    for command, arguments, pattern in (
            ("migrate", {"uri": f"unix:{solo.folder}/nobody"}, refused),
            ("device_add", {"driver": "virtio-rng-pci", "id": "late"}, refused),
            ("netdev_del", {"id": "net0"}, refused),
            ("hotsnap-restore", {"job-id": "r2", "bundle": str(solo.cluster.bundles / "still"),
                                 "members": []}, refused)):
        try:
            solo.vm.qmp.execute(command, arguments)
        except QmpError as error:
            check(re.search(pattern, error.desc), f"{command}: {error.desc}")
        else:
            raise Failed(f"{command} was not refused")
    before = load_of(solo.vm)["remaining"]
    dump = solo.folder / "dump"
    solo.vm.qmp.execute("dump-guest-memory", {"paging": False, "protocol": f"file:{dump}",
                                              "begin": 64 << 20, "length": 8 << 20})
    check(load_of(solo.vm)["remaining"] < before, "the dump has loaded nothing")
    with Image(solo.image("still")) as saved:
        expected = b"".join(saved.page("pc.ram", offset)
                            for offset in range(64 << 20, 72 << 20, 4096))
    check(expected in dump.read_bytes(), "the dump is not what the image has")
    dump.unlink()
    check(load_of(solo.vm)["state"] == "loading", "all is loaded already")
    solo.cluster.snapshot("waited")
    with Image(solo.image("still")) as one, Image(solo.image("waited")) as two:
        check(not compare(one, two), "a snapshot right after a restore has other memory")
    check(load_of(solo.vm)["state"] == "complete", "the snapshot did not wait")


def balloon(solo: Solo) -> None:
    """The guest gives memory away; nothing of it is discarded before all is loaded, or its content
    from the image would come back. (36-meanwhile shows that a balloon does discard.)"""
    solo.restore("live", bandwidth=1 << 20)
    solo.vm.qmp.execute("balloon", {"value": 130 << 20})
    wait_until(lambda: solo.vm.qmp.execute("query-balloon")["actual"] <= 130 << 20,
               lambda: f"the balloon is not inflated: {solo.vm.qmp.execute('query-balloon')}")
    check(load_of(solo.vm)["state"] == "loading", "all is loaded already")
    complete(solo.vm)
    solo.vm.qmp.execute("balloon", {"value": SIZE})
    solo.goes_on()


def migrates_afterwards(solo: Solo) -> None:
    """Nothing of the ban is left."""
    solo.restore("live")
    complete(solo.vm)
    wait_until(lambda: not solo.vm.qmp.execute("query-migrate").get("blocked-reasons"),
               "migration stays forbidden", 10)


def late_page(solo: Solo, tag: str = "still") -> tuple[int, int]:
    """Offsets in pc.ram and in the file of a page of the writer, which it will touch, and which the
    background load does not reach soon."""
    with Image(solo.image(tag)) as image:
        pages = [page for page, _ in image.tags() if page.block == "pc.ram"]
        page = max(pages, key=lambda each: each.offset)
        return page.offset, offset_in(image, page)


def damaged(solo: Solo) -> None:
    solo.restore("still", bandwidth=TRICKLE)
    page, offset = late_page(solo)
    with flipped(solo.image("still"), offset + 1234):
        solo.vm.qmp.execute("cont")
        event = solo.vm.qmp.wait_event("HOTSNAP_MEMORY_LOAD", 60)
        failure = event["data"]["failure"]
        print(f"# {failure['message']}")
        check(event["data"]["state"] == "failed" and failure["block"] == "pc.ram"
              and failure["block-offset"] == page and failure["file-offset"] == offset,
              f"another page is named: {event}, expected {page} at {offset}")
        wait_until(lambda: solo.vm.qmp.execute("query-status")["status"] == "io-error",
                   lambda: f"the VM is {solo.vm.qmp.execute('query-status')}", 20)
        check(load_of(solo.vm)["failure"] == failure, "query-hotsnap tells another page")
        error = solo.cluster.try_snapshot("no")
        check(error and "cannot load the page" in error, f"a snapshot of it: {error}")
        solo.vm.qmp.execute("cont")  # in vain
        event = solo.vm.qmp.wait_event("HOTSNAP_MEMORY_LOAD", 60)
        check(event["data"]["state"] == "failed", f"told {event}")
        wait_until(lambda: solo.vm.qmp.execute("query-status")["status"] == "io-error",
                   "the VM is not stopped again", 20)
        lines = len(solo.lines())
        time.sleep(2)
        check(len(solo.lines()) == lines, "the guest runs")
    solo.vm.qmp.execute("cont")
    solo.goes_on()
    complete(solo.vm)
    check(solo.vm.running(), "the VM does not run")


def quit_while_damaged(solo: Solo) -> None:
    solo.restore("still", bandwidth=TRICKLE)
    _, offset = late_page(solo)
    with flipped(solo.image("still"), offset):
        solo.vm.qmp.execute("cont")
        solo.vm.qmp.wait_event("HOTSNAP_MEMORY_LOAD", 60)
        quits(solo)


def quits(solo: Solo) -> None:
    solo.vm.qmp.execute("quit")
    wait_until(solo.vm.ended, "QEMU does not end", 20)


def quit_while_loading(solo: Solo) -> None:
    solo.restore("live", bandwidth=TRICKLE)
    solo.goes_on(1)
    check(load_of(solo.vm)["state"] == "loading", "all is loaded")
    quits(solo)


def cut_off(solo: Solo) -> None:
    """The image becomes shorter after the start."""
    solo.restore("live", bandwidth=1 << 20)
    _, offset = late_page(solo, "live")
    with truncated(solo.image("live"), offset - (8 << 20)):
        try:
            set_bandwidth(solo.vm, 0)
            wait_until(lambda: solo.vm.qmp.execute("query-status")["status"] == "io-error",
                       lambda: f"the VM is not stopped: {load_of(solo.vm)}", 60)
            message = load_of(solo.vm)["failure"]["message"]
            check("the file ends there" in message, message)
        except QmpTimeout:
            # docs/internals/lazy-restore.md: nothing else can happen until the file is mended.
            print("# a thread with the BQL waits for a page that is cut off")
    wait_until(lambda: solo.vm.qmp.execute("query-status")["status"] == "io-error"
               or load_of(solo.vm)["state"] == "complete",
               lambda: f"the load does not go on: {load_of(solo.vm)}", 60)
    solo.vm.qmp.execute("cont")
    complete(solo.vm)
    solo.goes_on()


def killed(solo: Solo) -> None:
    """The bundle is as it was: a QEMU that dies while it loads has read it only."""
    before = solo.image("live").stat().st_mtime_ns
    for _ in range(3):
        solo.restore("live", bandwidth=2 << 20)
        solo.goes_on(1)
        solo.vm.kill()
    check(solo.image("live").stat().st_mtime_ns == before, "the image was written to")
    solo.restore("live")
    solo.goes_on()
    complete(solo.vm)


def damaged_devices(solo: Solo) -> None:
    """All but the pages is checked before anything is loaded; then it can be loaded in full."""
    size = solo.image("live").stat().st_size
    solo.cluster.kill()
    solo.cluster.start_for_restore("live")
    with flipped(solo.image("live"), size - 4000):
        solo.cluster.begin_restore("live", memory="lazy")
        error = solo.vm.wait_job("restore-live")
        check(error and "damaged at offset" in error, f"not refused: {error}")
    check("memory-load" not in solo.vm.qmp.execute("query-hotsnap"), "a load has begun")
    full_instead(solo, "live")


def full_instead(solo: Solo, tag: str) -> None:
    """Nothing was changed: the same QEMU can load the same bundle in full."""
    solo.cluster.begin_restore(tag, memory="full")
    error = solo.vm.wait_job(f"restore-{tag}")
    check(error is None, f"restore in full after a refusal: {error}")
    solo.goes_on()


def refused(solo: Solo, pattern: str) -> None:
    solo.cluster.kill()
    solo.cluster.start_for_restore("live")
    solo.cluster.begin_restore("live", memory="lazy")
    error = solo.vm.wait_job("restore-live")
    print(f"# {error}")
    check(error and re.search(pattern, error), f"not refused for {pattern}: {error}")
    full_instead(solo, "live")


def run(report: Report) -> None:
    with Workplace() as place:
        solo = Solo(place, args=["-device", "virtio-balloon-pci"])
        report.run("identical-by-faults", lambda: identical(solo))
        report.run("identical-in-the-background", lambda: in_the_background(solo))
        report.run("control-a-guest-that-ran-differs", lambda: control(solo))
        report.run("guest-runs-meanwhile", lambda: runs_meanwhile(solo))
        report.run("refused-or-waiting-meanwhile", lambda: meanwhile(solo))
        report.run("balloon-meanwhile", lambda: balloon(solo))
        report.run("migration-allowed-afterwards", lambda: migrates_afterwards(solo))
        report.run("damaged-page-stops-and-is-mended", lambda: damaged(solo))
        report.run("quit-while-a-page-is-damaged", lambda: quit_while_damaged(solo))
        report.run("quit-while-loading", lambda: quit_while_loading(solo))
        report.run("image-cut-off", lambda: cut_off(solo))
        report.run("killed-while-loading", lambda: killed(solo))
        report.run("damaged-devices-refused", lambda: damaged_devices(solo))
    with Workplace() as place:
        memory = f"memory-backend-memfd,id=ram,size={MIB}M,share=on"
        solo = Solo(place, machine="q35,memory-backend=ram", memory_args=["-object", memory])
        # The machine's RAM has the backend's name then.
        report.run("shared-memory", lambda: shared(solo))
        solo.cluster.members[0].options["memory_args"] = ["-object", f"{memory},prealloc=on"]
        report.run("prealloc-refused", lambda: refused(solo, "prealloc=on"))
        solo.cluster.members[0].options["memory_args"] = ["-object", memory, "-overcommit",
                                                          "mem-lock=on"]
        report.run("locked-memory-refused", lambda: refused(solo, "mem-lock"))


def shared(solo: Solo) -> None:
    solo.restore("live", bandwidth=4 << 20)
    solo.goes_on()
    complete(solo.vm)
    solo.restore("still")
    complete(solo.vm)
    solo.cluster.snapshot("again")
    with Image(solo.image("still")) as one, Image(solo.image("again")) as two:
        pages = compare(one, two)
    check(not pages, f"{len(pages)} pages differ: {pages[:3]}")


def huge() -> None:
    """Pages of 2 MiB, private and shared, each by the guest's faults and then in the background."""
    with HugePages(MIB // 2 + 8):
        for share in ("on",) if left_to_all("huge pages in private memory") else ("on", "off"):
            with Workplace() as place:
                shared(Solo(place, machine="q35,memory-backend=ram", memory_args=[
                    "-object", f"memory-backend-memfd,id=ram,size={MIB}M,hugetlb=on,"
                               f"hugetlbsize=2M,share={share}"]))


main = Report()
run(main)
main.run("huge-pages", huge)
main.exit()
