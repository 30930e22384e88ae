#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The copies of all members end at one instant, which the command gives: members of unequal memory
and load. Without it they end seconds apart. The instant is changed, missed, held, cancelled.
"""

# waits: for copies that are slowed down

import contextlib
import json
import re
import sys
import time
from typing import Iterator

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster
from support.image import Image, compare
from support.outcome import Failed, Report, check
from support.shell import Shell
from support.unharmed import new_tag, refused, settle, unharmed, writing_cluster
from support.workplace import Workplace
from hotsnap.qemu.qmp import QmpError

MIB = 1 << 20
MEMBERS = [
    ("idle", "writer", {"memory": 192,
                        "append": "hs.writer.mib=1 hs.writer.rate=1 hs.writer.disk=2"}),
    ("busy", "writer", {"memory": 384,
                        "append": "hs.writer.mib=96 hs.writer.rate=2000 hs.writer.disk=10"}),
    ("large", "writer", {"memory": 768, "shell": True,
                         "append": "hs.writer.mib=384 hs.writer.rate=0 hs.writer.disk=2"}),
]
LIMIT = {"bandwidth": 64 * MIB}
# A busy host delays any thread. Without pacing the copies of these members end seconds apart.
NEAR_US = 300_000
APART_US = 1_000_000


def ends_us(manifest: dict) -> list[float]:
    """When each member's copy ended, after the first pause began."""
    cut = min(m["pause"]["begin_ns"] for m in manifest["members"])
    return [(m["memory"]["copied_ns"] - cut) / 1000 for m in manifest["members"]]


def spread_us(manifest: dict) -> float:
    ends = ends_us(manifest)
    return max(ends) - min(ends)


def show(what: str, manifest: dict) -> None:
    finish = manifest.get("finish")
    print(f"# {what}: copies ended {', '.join(f'{end / 1e6:.4f}' for end in ends_us(manifest))} s "
          f"after the cut, durable {[m['memory']['durable_us'] for m in manifest['members']]} us; "
          f"{finish}")


def ends_at(manifest: dict, seconds: float) -> None:
    finish = manifest["finish"]
    check(abs(finish["duration_us"] - seconds * 1e6) < 1, f"it says {finish}")
    for member, end in zip(manifest["members"], ends_us(manifest)):
        off = end - seconds * 1e6 - finish["delay_us"]
        check(abs(off) < NEAR_US, f"{member['name']} ended {off / 1000:.1f} ms after the instant")
        told = next(m for m in finish["members"] if m["name"] == member["name"])
        check(abs(told["deviation_us"] - off) < 1000 and told["clock_error_us"] == 0,
              f"it ended {off:.0f} us after the instant, and the manifest says {told}")
        memory = member["memory"]
        check(memory["durable_us"] >= memory["copy_us"] > 0, f"it was durable before it was copied: "
                                                             f"{memory}")
    check(abs(finish["spread_us"] - spread_us(manifest)) < 1000, f"the manifest says {finish}")


def together(cluster: Cluster) -> None:
    """The images are the memory at the cut, and the ends are one instant."""
    manifest = cluster.snapshot("together", duration=6.5, x_dump=True)
    show("together", manifest)
    # The dump is made in the pauses, and these are long: the duration counts from the first.
    ends_at(manifest, 6.5)
    # A host whose storage is busy with other things may be too slow; then that was told.
    warnings = [event["data"] for event in cluster["idle"].vm.qmp.events()
                if event["event"] == "HOTSNAP_WARNING"]
    check(bool(warnings) == bool(manifest["finish"]["delay_us"]),
          f"it was moved: {manifest['finish']}, and told: {warnings}")
    for member in cluster.members:
        folder = cluster.bundles / "together" / member.name
        with Image(folder / "state") as image, Image(folder / "state.dump") as dump:
            differing = compare(image, dump)
        check(not differing, f"{member.name}: {len(differing)} pages differ")


@contextlib.contextmanager
def much_to_copy(cluster: Cluster) -> Iterator[None]:
    """What a guest overwrites at once is saved by its writes, not by the copy: the large one's
    writer stands still meanwhile."""
    shell = Shell(str(cluster["large"].shell_socket))
    shell.run("kill -STOP $(pidof hs-writer)")
    try:
        yield
    finally:
        shell.run("kill -CONT $(pidof hs-writer)")


def apart(cluster: Cluster) -> None:
    """Control: with a limit of the bandwidth alone, the members end apart."""
    with much_to_copy(cluster):
        manifest = cluster.snapshot("apart", **LIMIT)
    show("control, no duration", manifest)
    check("finish" not in manifest, "a common end is reported")
    check(spread_us(manifest) > APART_US, f"the ends are only {spread_us(manifest)} us apart")


def set_duration(cluster: Cluster, leader: str, seconds: float) -> None:
    cluster[leader].vm.qmp.execute("hotsnap-set-duration", {"duration": seconds})


def must_fail(pattern: str, command) -> None:
    try:
        command()
    except QmpError as error:
        print(f"# {error.desc}")
        check(re.search(pattern, error.desc), f"the error does not say {pattern!r}: {error}")
    else:
        raise Failed("it was not refused")


def changed(cluster: Cluster) -> None:
    """From a minute to seconds, while it runs; then to no time at all, while all is copied but the
    last page."""
    must_fail("leads no run", lambda: set_duration(cluster, "idle", 1))
    for tag, seconds in (("shorter", 5), ("at-once", 0)):
        began = time.monotonic()
        cluster.begin_snapshot(tag, duration=60)
        for member in cluster.members:
            member.vm.reach("full")
        time.sleep(2)
        must_fail("leads no run", lambda: set_duration(cluster, "busy", seconds))
        must_fail("between 0 and", lambda: set_duration(cluster, "idle", -1))
        set_duration(cluster, "idle", seconds)
        error = cluster["idle"].vm.wait_job(f"snap-{tag}")
        check(error is None, f"{tag}: {error}")
        took = time.monotonic() - began
        check(took < 30, f"{tag}: it took {took:.1f} s")
        manifest = json.loads((cluster.bundles / tag / "manifest.json").read_text())
        show(tag, manifest)
        if seconds:
            ends_at(manifest, seconds)


def missed(cluster: Cluster) -> None:
    """Under this limit the large member cannot make it: all end later, and together."""
    with much_to_copy(cluster):
        manifest = cluster.snapshot("missed", duration=2.5, **LIMIT)
    show("missed", manifest)
    delay = manifest["finish"]["delay_us"]
    check(delay > 0, "it was not moved")
    check(delay <= 7.5e6,  # four times the duration, at most
          f"it was moved by {delay} us")
    ends = ends_us(manifest)
    early = min(ends) - 2.5e6
    check(early > -NEAR_US, f"a member ended {-early} us before the instant")
    told_early(cluster, "missed")


def told_early(cluster: Cluster, tag: str) -> None:
    qmp = cluster["idle"].vm.qmp
    warning = qmp.wait_event("HOTSNAP_WARNING", 1, {"tag": tag})
    message = warning["data"]["message"]
    print(f"# {message}")
    check(re.search(r"'large' cannot end its copy 2\.5 s after the cut: it expects .*; all members "
                    r"were told to end", message), message)
    end = next(event for event in iter(lambda: qmp.wait_event("HOTSNAP_PHASE", 1, {"tag": tag}), None)
               if event["data"]["phase"] == "publish")
    seconds = [stamp["seconds"] + stamp["microseconds"] / 1e6
               for stamp in (warning["timestamp"], end["timestamp"])]
    check(seconds[1] - seconds[0] > 1, f"it was told {seconds[1] - seconds[0]:.2f} s before the end")


def strict(cluster: Cluster) -> None:
    refused(cluster, r"cannot end its copy 1\.0 s after the cut: it expects \d+\.\d s",
            duration=1, strict=True, **LIMIT)


def cancelled(cluster: Cluster) -> None:
    tag = new_tag()
    cluster.begin_snapshot(tag, duration=60)
    for member in cluster.members:
        member.vm.reach("full")
    time.sleep(1)
    info = cluster["busy"].vm.qmp.execute("query-hotsnap")["snapshot"]
    check(55e6 < info["deadline-us"] <= 60e6, f"the deadline is {info['deadline-us']} us")
    check(abs(info["expected-us"] - info["deadline-us"]) < 5e6, f"it expects {info['expected-us']}")
    began = time.monotonic()
    cluster["idle"].vm.qmp.execute("job-cancel", {"id": f"snap-{tag}"})
    cluster["idle"].vm.wait_job(f"snap-{tag}")
    check(time.monotonic() - began < 10, "the cancel waited for the copy")
    unharmed(cluster, tag)


def bad_input(cluster: Cluster) -> None:
    refused(cluster, "between 0 and 31536000 seconds", duration=-1)
    refused(cluster, "between 0 and 31536000 seconds", duration=1e12)
    refused(cluster, "'strict' needs a 'duration'", strict=True)


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = writing_cluster(place, MEMBERS)
        cluster["large"].vm.wait_console(r"writer large pages=\d{6}")  # most of them once
        for check_it in (together, apart, changed, missed, strict, cancelled, bad_input):
            report.run(f"duration-{check_it.__name__.replace('_', '-')}",
                       lambda check_it=check_it: check_it(cluster))
            settle(cluster)


main = Report()
run(main)
main.exit()
