#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The working set of a snapshot: written with it, learned by a restore, loaded first by the next, of
which the guest then hardly ever waits for a page. It is a hint: whatever is in its file, the guest
gets the memory that it had.
"""

import json
import os
import sys
import time

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.image import Image
from support.lazy import complete, load_of, writers_pages
from support.outcome import Report, check, wait_until
from support.solo import Solo
from support.workplace import Workplace

SLOW = 64 << 10  # bytes a second: the background load is of no help


def settled(solo: Solo) -> dict:
    """After three lines of the guest, from its start."""
    solo.goes_on()
    found = load_of(solo.vm)
    print(f"# {json.dumps(found)}")
    return found


def ends(solo: Solo) -> None:
    complete(solo.vm)
    solo.goes_on(1)


def written_with_the_snapshot(solo: Solo) -> None:
    """The guest wrote while the copy ran."""
    check(solo.accesses("live").stat().st_size > 64, "the snapshot lists no page")
    solo.restore("live", prefetch=True, bandwidth=SLOW)
    found = settled(solo)
    check(found["planned"] > 0 and found["prefetched"] == found["planned"],
          "the listed pages were not loaded first")
    ends(solo)


def learned(solo: Solo) -> None:
    """Faults of the same guest over the same lines, without the file (the control) and with what that
    restore has learned."""
    solo.restore("live", bandwidth=SLOW)
    without = settled(solo)
    check(without["planned"] == 0 and without["faults"] > 500, "there was nothing to wait for")
    ends(solo)
    solo.restore("live", prefetch=True, bandwidth=SLOW)
    having = settled(solo)
    print(f"# {having['faults']} accesses waited, {without['faults']} without prefetching")
    check(having["faults"] * 4 < without["faults"], "prefetching hardly spares the guest a wait")
    ends(solo)
    solo.cluster.snapshot("after")
    with Image(solo.image("after")) as image:
        whole, torn = writers_pages(image)
    check(whole > 4000 and torn <= 1, f"{torn} of the writer's pages are torn")


def window(solo: Solo) -> None:
    """By hand: all of it must be there, or none need be."""
    solo.restore("live", prefetch=True, bandwidth=SLOW, window=1 << 40)
    found = load_of(solo.vm)
    check(found["prefetched"] == found["planned"] > 0, f"the VM started early: {found}")
    ends(solo)
    solo.restore("live", prefetch=True, bandwidth=SLOW, window=0)
    ends(solo)


def hostile(solo: Solo) -> None:
    path = solo.accesses("live")
    good = path.read_bytes()
    for name, content in (("garbage", os.urandom(5000)), ("cut", good[:-1]), ("empty", b""),
                          ("other", good[:24] + bytes(8) + good[32:])):
        path.write_bytes(content)
        solo.restore("live", prefetch=True, bandwidth=SLOW)
        found = load_of(solo.vm)
        check(found["planned"] == 0, f"{name}: it was believed: {found}")
        ends(solo)
    path.unlink()
    path.mkdir()
    try:
        solo.restore("live", prefetch=True)
        ends(solo)
    finally:
        path.rmdir()


def nothing_is_left(solo: Solo) -> None:
    """Of a snapshot that is given up when the list is about to be written, or has been."""
    solo.restore("live")
    ends(solo)
    for pause in (0.0, 0.2, 0.5, 1.0):
        solo.cluster.begin_snapshot("gone", bandwidth=64 << 20)
        time.sleep(pause)
        solo.vm.qmp.execute("job-cancel", {"id": "snap-gone"})
        error = solo.vm.wait_job("snap-gone")
        left = sorted(path.name for path in solo.cluster.bundles.iterdir())
        check((error is None) == ("gone" in left), f"{error}: {left}")
        if error is None:
            break
        wait_until(lambda: not (solo.cluster.bundles / "gone.partial").exists(),
                   f"something is left: {left}")


def run(report: Report) -> None:
    with Workplace() as place:
        solo = Solo(place)
        report.run("written-with-the-snapshot", lambda: written_with_the_snapshot(solo))
        report.run("learned-and-prefetched", lambda: learned(solo))
        report.run("window-by-hand", lambda: window(solo))
        report.run("hostile-files-change-nothing", lambda: hostile(solo))
        report.run("nothing-is-left-of-a-cancelled-one", lambda: nothing_is_left(solo))


main = Report()
run(main)
main.exit()
