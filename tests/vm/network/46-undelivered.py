#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""More frames than QEMU's own queues take wait for a guest that cannot receive yet: recorded
frames, and frames that come while the other members run already. All arrive, in their order.
"""

import re
import struct
import subprocess
import sys
from typing import Callable

sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/tests")
from support.cluster import Cluster
from support.gate import Gate
from support.outcome import Report, check, wait_until
from support.workplace import Workplace
from support.shell import Shell

RECORDED, LIVE = 20_000, 20_000  # QEMU drops frames beyond 10,000 in a queue
PORT = 9999
# Counts all datagrams, and those whose number does not follow the last one's.
RECEIVER = (
    "(perl -MSocket -e 'socket(S,PF_INET,SOCK_DGRAM,17);setsockopt(S,SOL_SOCKET,33,pack(\"i\","
    f"1<<26));bind(S,sockaddr_in({PORT},INADDR_ANY));$n=$bad=$next=0;"
    "while(1){recv(S,$d,64,0);$s=unpack(\"N\",$d);$bad++ if $s!=$next;$next=$s+1;$n++;"
    "if($n%1000==0){open F,\">\",\"/run/received\";print F \"$n $bad\\n\";close F}}' "
    ">/dev/null 2>&1 &)")
# Runs inside the cluster's network. Arguments: headers in hex, first number, count.
INJECTOR = """
import socket, sys, time
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(("br0", 0))
head, first, count = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    link.send(head + number.to_bytes(4, "big"))
    if number % 500 == 0:
        time.sleep(0.02)
"""


def head(mac: str, ip: str) -> bytes:
    """The headers of a frame with a UDP datagram of 4 bytes, from a host that is no member."""
    address = bytes(int(part) for part in ip.split("."))
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 32, 0, 0, 64, 17, 0,
                         bytes((10, 77, 0, 77)), address)
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xffff) + (total >> 16)
    header = header[:10] + struct.pack(">H", ~total & 0xffff) + header[12:]
    return (bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000077") + b"\x08\x00"
            + header + struct.pack(">HHHH", PORT, PORT, 12, 0))


def record(cluster: Cluster, tag: str, frames: list[bytes]) -> None:
    """Puts frames into b's channel, in place of the recorded ones (docs/formats/channel.md)."""
    pcap, vnet = (cluster.bundles / tag / "b" / name for name in ("channel.pcap", "channel.vnet"))
    pcap.write_bytes(pcap.read_bytes()[:24] + b"".join(
        struct.pack("<IIII", 1, 0, len(frame), len(frame)) + frame for frame in frames))
    vnet.write_bytes(vnet.read_bytes()[:16] + struct.pack("<Q", len(frames))
                     + struct.pack("<II12x", 0, 12) * len(frames))


def run(report: Report) -> None:
    with Workplace() as place:
        cluster = Cluster(place, [("a", "idle", {}), ("b", "idle", {"shell": True})])
        a, b = cluster["a"], cluster["b"]
        cluster.up()
        shell = Shell(str(b.shell_socket))

        def start_receiver() -> None:
            shell.run("pkill perl; rm -f /run/received")
            shell.run(RECEIVER)
            wait_until(lambda: f":{PORT:04X} " in shell.run("cat /proc/net/udp"),
                       "the receiver does not start")

        def received() -> tuple[int, int]:
            match = re.search(r"(\d+) (\d+)", shell.run("cat /run/received"))
            return (int(match[1]), int(match[2])) if match else (0, 0)

        def inject(first: int, count: int) -> None:
            subprocess.run(cluster.network.inside(
                [sys.executable, "-c", INJECTOR, head(b.mac, b.ip).hex(), str(first),
                 str(count)]), check=True)

        def control() -> None:
            """The receiver sees each frame while nothing holds frames up."""
            start_receiver()
            inject(0, 1000)
            wait_until(lambda: received() == (1000, 0), lambda: f"it received {received()}",
                       timeout=30)

        def restore(meanwhile: Callable[[], None]) -> None:
            """Calls `meanwhile` when a runs already and b does not run yet."""
            cluster.kill()
            cluster.start_for_restore("t")
            with Gate(b.socket, place.path / "gate.sock", "START") as way:
                cluster.begin_restore("t", members=[
                    a.address, {"name": "b", "address": f"unix:{way.path}"}])
                wait_until(a.vm.running, "a was not started", interval=0.02)
                meanwhile()
                check(not b.vm.running(), "b runs already")
                way.open()
                error = a.vm.wait_job("restore-t")
                check(error is None, f"restore: {error}")

        def all_arrive() -> None:
            start_receiver()
            cluster.snapshot("t")
            record(cluster, "t", [head(b.mac, b.ip) + number.to_bytes(4, "big")
                                  for number in range(RECORDED)])
            restore(lambda: inject(RECORDED, LIVE))
            wanted = RECORDED + LIVE
            wait_until(lambda: received()[0] >= wanted, lambda: f"of {wanted} frames came "
                       f"{received()[0]}, of them {received()[1]} not in order", timeout=60)
            count, disorder = received()
            print(f"# {count} frames came, {disorder} not in order, {dropped()} were dropped")
            check(disorder == 0 and dropped() == 0, f"{disorder} not in order, "
                  f"{dropped()} dropped")

        def dropped() -> int:
            return b.vm.qmp.execute("query-hotsnap")["mediator"]["dropped"]

        def told() -> None:
            """Frames that the guest can never take are reported."""
            restore(lambda: b.vm.qmp.execute("set_link", {"name": "net0", "up": False}))
            print(f"# with its link down {dropped()} frames are dropped")
            check(dropped() >= RECORDED, f"{RECORDED} frames are lost, and {dropped()} are told "
                  "of")

        report.run("control-receiver", control)
        report.run("undelivered-frames-wait", all_arrive)
        report.run("dropped-frames-are-told", told)


main = Report()
run(main)
main.exit()
