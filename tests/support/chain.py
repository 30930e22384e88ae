# SPDX-License-Identifier: GPL-2.0-or-later
"""A chain of markers over the disks of several members: number k is written to the first disk of
the first member and synced, then to its next one, then the next member is told by a datagram, and
so on; the last member tells the first one, which goes on with k + 1.

In disks of one instant the numbers never grow along the chain: who holds k was told so by one that
had it on its disk.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

from .cluster import Cluster, Member
from .outcome import check, wait_until
from .paths import QEMU_IMG
from .shell import Shell

PORT = 7777
BLOCK = 4096
# The device of each disk, by its serial, as the guest's init finds it.
FIND = ("find_disk() { for d in /sys/block/[vs]d*; do s=; "
         "if [ -e $d/serial ]; then read -r s <$d/serial; "
         "elif [ -e $d/device/vpd_pg80 ]; then "
         "s=$(tail -c +5 $d/device/vpd_pg80 | tr -d ' \\0'); fi; "
         "[ \"$s\" = $1 ] && echo /dev/${d##*/}; done; }")
# Arguments: first or not, port, address of the next member, disks. A write to a disk that was
# opened with O_SYNC is durable when it returns. A datagram that is lost is made good by the first
# member, which goes on after a while.
_LINK = ("use Socket; use Fcntl; my ($first, $port, $next, @names) = @ARGV; my (@d, $k, $m); "
         "for (@names) { sysopen(my $f, $_, O_RDWR|O_SYNC) or die; push @d, $f } "
         "socket(my $s, PF_INET, SOCK_DGRAM, 0); bind($s, sockaddr_in($port, INADDR_ANY)) or die; "
         "my $to = sockaddr_in($port, inet_aton($next)); "
         "sub hand { for (@d) { sysseek($_, 0, 0); "
         "syswrite($_, pack(q(Q<), $k) . qq(\\0) x 4088) == 4096 or die } "
         "send($s, pack(q(Q<), $k), 0, $to) } "
         "while (1) { if ($first) { $k++; hand(); my $r = q(); vec($r, fileno($s), 1) = 1; "
         "select($r, undef, undef, 0.2) and recv($s, $m, 8, 0) } "
         "else { recv($s, $m, 8, 0); $k = unpack(q(Q<), $m); hand() } }")


def member(name: str, disks: list[str], **options: Any) -> tuple[str, str, dict[str, Any]]:
    """A member of a chain, with these disks of its own besides its root."""
    return name, "idle", {"append": "hs.chatter.rate=20", "shell": True, "memory": 160,
                          "more_disks": disks, **options}


def shell(one: Member) -> Shell:
    return Shell(str(one.shell_socket))


def begin(cluster: Cluster) -> None:
    """Starts the chain in the members' order; a member without more disks hands numbers on."""
    for index, one in reversed(list(enumerate(cluster.members))):
        following = cluster.members[(index + 1) % len(cluster.members)]
        names = " ".join(f"$(find_disk {serial})" for serial in one.options["more_disks"])
        said = shell(one).run(f"{FIND}; (perl -e '{_LINK}' {int(index == 0)} {PORT} "
                              f"{following.ip} {names} >/dev/console 2>&1 &); echo $?")
        check(said.strip().endswith("0"), f"{one.name}: {said}")
    wait_until(lambda: number_now(cluster.members[-1]) > 0, "no number reaches the end")


def number_now(one: Member) -> int:
    """The number that is on a guest's last disk."""
    disk = one.options["more_disks"][-1]
    return int(shell(one).run(f"{FIND}; od -A n -t u8 -N 8 $(find_disk {disk})").split()[0])


def takes_writes(one: Member) -> None:
    """A guest's first disk does, behind the numbers."""
    said = shell(one).run(f"{FIND}; dd if=/dev/zero of=$(find_disk {one.options['more_disks'][0]}) "
                          "seek=8 bs=4k count=4 oflag=direct,dsync 2>&1 | tail -n 1")
    check("copied" in said, f"{one.name}: its disk takes no writes: {said}")


def on_disk(entry: dict[str, Any]) -> int:
    """The number on a frozen disk, an entry of the manifest."""
    raw = Path(entry["overlay"] + ".marker")
    subprocess.run([str(QEMU_IMG), "dd", "-U", "-f", entry["format"], "-O", "raw",
                    f"bs={BLOCK}", "count=1", f"if={entry['file']}", f"of={raw}"],
                   check=True, capture_output=True)
    try:
        return struct.unpack("<Q", raw.read_bytes()[:8])[0]
    finally:
        raw.unlink()


def numbers(cluster: Cluster, manifest: dict[str, Any]) -> list[int]:
    """The numbers along the chain, of the disks that are in the snapshot."""
    saved = {one["name"]: {disk["device"]: disk for disk in one["disks"]}
             for one in manifest["members"]}
    return [on_disk(saved[one.name][serial]) for one in cluster.members
            for serial in one.options["more_disks"] if serial in saved[one.name]]


def grows(chain: list[int]) -> bool:
    """Whether a disk holds what the one before it lacks."""
    return any(later > earlier for earlier, later in zip(chain, chain[1:]))
