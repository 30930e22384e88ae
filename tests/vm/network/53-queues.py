#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cut is consistent where NICs have several queues, which keep no common order: no orphan, no
loss, and a restore with nothing missing. Each guest spreads its flows over its queues by their
hash, as its host's tap does.

The SNAPSHOT message to one member is held up, as in 50-coloring.py; the frames of the others, in
whatever queue, must make it take its cut. The control is the same without coloring: the checker
must find orphans. The device counts the frames in each of its queues.
"""

import re
import struct
import sys
import time
from functools import partial

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.chatter import Chatter
from support.cluster import Cluster, Member
from support.cutcheck import check_bundle
from support.cuts import control, control_restored, lost_after, snapshot_late, twice
from support.outcome import Failed, Report, check, wait_until
from support.shell import Shell
from support.vm import Vm
from support.workplace import Workplace
from hotsnap.host.netns import several_queues, tap_netdev
from hotsnap.qemu.qmp import QmpError

RATE = 100  # messages a second
QUEUES = 2
VIRTQUEUES = [f"{way}{queue}" for queue in range(QUEUES) for way in ("rx", "tx")]
# Without a mask of processors for each, the kernel chooses the queue by the flow.
BY_FLOW = ("for f in /sys/class/net/eth0/queues/tx-*/xps_cpus; do echo 0 >$f; done; "
           "echo spread $(cat /sys/class/net/eth0/queues/tx-*/xps_cpus)")
# As "ethtool -L eth0 combined 1" does, which the guest does not have.
ONE_QUEUE = ("perl -MSocket -e 'socket(S,PF_INET,SOCK_DGRAM,0);$c=pack(\"L9\",0x3d,(0)x7,1);"
             "ioctl(S,0x8946,pack(\"a16Px16\",\"eth0\",$c)) or die $!;print \"one queue\\n\"'")
RECORDED = 3000  # frames that a test puts into a channel
DRAIN = 60  # seconds
OPTIONS = {"queues": QUEUES, "cpus": QUEUES, "shell": True,
           # hs-writer: more flows than hs-chatter alone has
           "append": f"hs.chatter.rate={RATE} hs.writer.net=50 hs.writer.mib=1 hs.writer.rate=1",
           "args": ["-trace", "hotsnap_hold"]}


def counted(member: Member) -> dict[str, int]:
    """The buffers that each queue of the NIC has used, modulo 65536."""
    device = next(d["path"] for d in member.vm.qmp.execute("x-query-virtio")
                  if d["name"] == "virtio-net")
    return {name: member.vm.qmp.execute("x-query-virtio-queue-status",
                                        {"path": device, "queue": index})["used-idx"]
            for index, name in enumerate(VIRTQUEUES)}


def idle(member: Member, before: dict[str, int]) -> list[str]:
    now = counted(member)
    return [name for name in VIRTQUEUES if now[name] == before[name]]


def all_used(cluster: Cluster) -> None:
    for member in cluster.members:
        before = counted(member)
        wait_until(lambda: not idle(member, before), lambda: f"{member.name} does not use "
                   f"{idle(member, before)}", timeout=20)


def held(member: Member) -> dict[tuple[int, int], int]:
    """Frames that the mediator took off the way, marks too, by queue and direction: 1 to the
    guest."""
    kept: dict[tuple[int, int], int] = {}
    for queue, direction in re.findall(r"hotsnap_hold nic 0 queue (\d+) direction (\d)",
                                       member.vm.messages.read_text()):
        at = int(queue), int(direction)
        kept[at] = kept.get(at, 0) + 1
    return kept


def unmarked(manifest: dict) -> int:
    return sum(member["channel"]["unmarked"] for member in manifest["members"])


def marked(cluster: Cluster) -> None:
    """The marks of all queues come, and close the channels: nothing waits for the drain time."""
    begin = time.monotonic()
    manifest = cluster.snapshot("marked", drain_ms=DRAIN * 1000)
    taken = time.monotonic() - begin
    print(f"# {unmarked(manifest)} unmarked; the snapshot took {taken:.1f} s")
    check(unmarked(manifest) == 0, f"{unmarked(manifest)} marks did not come")
    check(taken < DRAIN, f"the channels were not closed by the marks in {DRAIN} s")


def colored(cluster: Cluster) -> None:
    """A frame of the others makes c take its cut in time."""
    before = held(cluster["c"])
    manifest = snapshot_late(cluster, "on", "c",
                             lambda: cluster["c"].vm.phase() == "transient-fin")
    cause = next(m["cause"] for m in manifest["members"] if m["name"] == "c")
    channels = [m["channel"] for m in manifest["members"]]
    declared = sum(c["lost"] + c["unrecorded"] + c["dropped"] for c in channels)
    result = check_bundle(cluster.bundles / "on")
    kept = {at: count - before.get(at, 0) for at, count in held(cluster["c"]).items()}
    print(f"# c took its cut for a {cause}; {result.orphans} orphans, "
          f"{sum(c['frames'] for c in channels)} frames recorded, {declared} declared lost or "
          f"dropped, {unmarked(manifest)} unmarked, {result.lost} messages lost before the cut; "
          f"kept at c by queue and direction: {kept}")
    check(result.orphans == 0, f"{result.orphans} orphans")
    check(result.consistent, "; ".join(result.problems))
    check(cause == "red-frame", f"c took its cut for a {cause}")
    check(declared == 0, f"{declared} frames are declared lost")
    check(result.lost == 0, f"{result.lost} messages were lost before the cut")


def restored(cluster: Cluster) -> None:
    lost = lost_after(cluster, "on")
    print(f"# after the restore {lost} messages are lost, {twice(cluster)} came twice")
    check(lost == 0, f"{lost} messages are missing")
    check(twice(cluster) == 0, f"{twice(cluster)} messages came twice")
    all_used(cluster)


def record(cluster: Cluster, tag: str, member: Member, queue: int) -> None:
    """Puts frames of that queue into a member's channel, in place of the recorded ones
    (docs/formats/channel.md)."""
    frame = bytes.fromhex(member.mac.replace(":", "") + "020000000077" + "88b6") + bytes(46)
    pcap, vnet = (cluster.bundles / tag / member.name / name
                  for name in ("channel.pcap", "channel.vnet"))
    pcap.write_bytes(pcap.read_bytes()[:24] + (
        struct.pack("<IIII", 1, 0, len(frame), len(frame)) + frame) * RECORDED)
    vnet.write_bytes(vnet.read_bytes()[:16] + struct.pack("<Q", RECORDED)
                     + struct.pack("<IBBH12x", 0, 12, 0, queue) * RECORDED)


def played(cluster: Cluster) -> None:
    """Recorded frames come by their queue; by queue 0 where the guest has turned that one off."""
    a, b, c = cluster.members
    print("#", Shell(str(b.shell_socket)).run(ONE_QUEUE).strip())
    before = {member.name: counted(member) for member in cluster.members}
    cluster.snapshot("played")
    for member, queue in ((a, 1), (b, 1), (c, 0)):
        record(cluster, "played", member, queue)
    cluster.kill()
    cluster.restore("played")

    def came(member: Member) -> list[str]:
        now = counted(member)
        return [name for name in ("rx0", "rx1")
                if (now[name] - before[member.name][name]) % 65536 >= RECORDED]

    for member, way in ((a, "rx1"), (b, "rx0"), (c, "rx0")):
        wait_until(lambda: came(member), f"the frames do not come to {member.name}")
        check(came(member) == [way], f"{member.name} gets them by {came(member)}, not by {way}")


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, [(name, "writer", OPTIONS) for name in "abc"])
        cluster.up()
        for member in cluster.members:
            print("#", Shell(str(member.shell_socket)).run(BY_FLOW).strip())
        before = Chatter.wait_flow(cluster)  # a flow that was moved to another queue has settled
        report.run("queues-used", partial(all_used, cluster))
        report.run("queues-marked", partial(marked, cluster))
        report.run("queues-cut", partial(colored, cluster))
        report.run("queues-cut-control", partial(control, cluster, "c", "b", "off"))
        report.run("queues-unharmed", lambda: Chatter.wait(cluster).must_be_unharmed(before))
        report.run("queues-restored", partial(restored, cluster))
        report.run("queues-played", partial(played, cluster))
        report.run("queues-restored-control", partial(control_restored, cluster, "off"))


def plugging() -> None:
    """A mediator is in the chain of each queue while it is there; other filters still refuse such a
    backend."""
    with Workplace() as place:
        mediator = {"id": "med0", "netdev": "net0", "member": "hs0"}
        vm = Vm(place, "x", ["-machine", "q35", "-accel", "tcg", "-m", "64", "-object",
                             f"hotsnap-member,id=hs0,name=x,listen=unix:{place.path}/x.hs",
                             "-netdev", tap_netdev("net0", "mq0", 3), "-device",
                             f"virtio-net-pci,netdev=net0,romfile={several_queues(3)}"],
                network=place.network(["mq0"], queues={"mq0": 3}))

        def filters() -> list[str]:
            return re.findall(r"- (\w+): type=filter", vm.qmp.execute(
                "human-monitor-command", {"command-line": "info network"}))

        def add(kind: str, **properties: str) -> None:
            vm.qmp.execute("object-add", {"qom-type": kind, **properties})

        try:
            add("filter-dump", id="dump", netdev="net0", file=f"{place.path}/dump")
            raise Failed("filter-dump takes a backend with several queues")
        except QmpError as error:
            check("multiqueue is not supported" in error.desc, f"it is refused so: {error.desc}")
        for _ in range(2):
            check(filters() == [], f"there are filters: {filters()}")
            add("filter-hotsnap", **mediator)
            check(filters() == ["med0", "queue1", "queue2"], f"the filters are {filters()}")
            vm.qmp.execute("object-del", {"id": "med0"})
        add("filter-hotsnap", **mediator)
        vm.qmp.execute("netdev_del", {"id": "net0"})
        check(filters() == [], f"filters outlive their backend: {filters()}")
        vm.qmp.execute("qom-list-properties", {"typename": "filter-hotsnap-queue"})
        check(vm.running(), "the VM does not run")


main = Report()
main.run("queues-plugging", plugging)
run(main)
main.exit()
